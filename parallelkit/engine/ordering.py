"""Completion order to input order."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

from ..place.records import NamedTuple

__all__ = ["Part", "gathered", "in_order"]


class Part(NamedTuple):
    """Results of `items` items of the input from `start` on.

    There are fewer values than items where failures are skipped. An `error` is to be raised when
    the values have been delivered. `attempts` is how often the items were tried.
    """

    start: int
    items: int
    values: list[Any]
    error: BaseException | None = None
    attempts: int = 1


def in_order(parts: Iterable[Part]) -> Generator[Part, None, None]:
    """Yield parts by their index; what comes early waits."""
    waiting: dict[int, Part] = {}
    due = 0
    for part in parts:
        waiting[part.start] = part
        while due in waiting:
            ready = waiting.pop(due)
            due += ready.items
            yield ready


def gathered(parts: list[Part]) -> list[Any]:
    """All results as one list, by index."""
    if len(parts) == 1:
        return parts[0].values
    results: list[Any] = []
    for part in sorted(parts, key=lambda part: part.start):
        results += part.values
    return results
