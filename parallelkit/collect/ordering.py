"""Completion order to input order."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

__all__ = ["Part", "gathered", "in_order"]

Part = tuple[int, int, list[Any]]  # first index, items of the input, results of them


def in_order(parts: Iterable[Part]) -> Generator[Part, None, None]:
    """Yield parts by their index; what comes early waits.

    A part may have fewer results than items, where failures are skipped.
    """
    waiting: dict[int, Part] = {}
    due = 0
    for part in parts:
        waiting[part[0]] = part
        while due in waiting:
            part = waiting.pop(due)
            due += part[1]
            yield part


def gathered(parts: Iterable[Part]) -> list[Any]:
    """All results as one list, by index."""
    by_start = {start: values for start, _, values in parts}
    results: list[Any] = []
    for start in sorted(by_start):
        results += by_start[start]
    return results
