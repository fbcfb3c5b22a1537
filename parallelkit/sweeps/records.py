"""What is known of a finished point, and where such records are kept in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

__all__ = ["Kept", "Names", "Record", "Rows", "Summary", "result_columns"]


class Record(NamedTuple):
    """A finished point."""

    position: int
    repeat: int
    params: dict[str, Any]
    seed: int | None
    status: str  # "ok" or "failed"
    value: Any
    error: str | None  # "ValueError: what it said"
    traceback: str | None
    seconds: float | None
    started: float | None  # seconds since 1970
    worker: int | None
    attempt: int


class Names(NamedTuple):
    """Names of parameters and results, in the order in which they first came up."""

    params: list[str]
    results: list[str]
    repeats: bool  # whether any point was run more than once on purpose


class Summary(NamedTuple):
    """How many records there are, how many of them failed, and the seconds that they took."""

    points: int
    failed: int
    seconds: float


class Rows(Protocol):
    """Where a table reads from: memory, or a store."""

    title: str

    def __len__(self) -> int:
        """Count the records."""
        ...

    def __iter__(self) -> Iterator[Record]:
        """Go through the records, by the order of the points."""
        ...

    def ends(self, n: int) -> list[Record]:
        """Return the first `n` records, then the last `n`."""
        ...

    def summary(self) -> Summary:
        """Count and add up."""
        ...

    def names(self) -> Names:
        """What the columns are called."""
        ...


class Kept:
    """Records in memory."""

    def __init__(self, title: str, records: Iterable[Record]) -> None:
        self.title = title
        self._records = sorted(records, key=lambda r: (r.position, r.repeat))

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def ends(self, n: int) -> list[Record]:
        """Return the first `n` records, then the last `n`."""
        return [*self._records[:n], *self._records[-n:]] if n else []

    def summary(self) -> Summary:
        """Count and add up."""
        failed = sum(record.status != "ok" for record in self._records)
        seconds = sum(record.seconds or 0.0 for record in self._records)
        return Summary(len(self._records), failed, seconds)

    def names(self) -> Names:
        """What the columns are called."""
        params: dict[str, None] = {}
        results: dict[str, None] = {}
        for record in self._records:
            params.update(dict.fromkeys(record.params))
            if record.status == "ok":
                results.update(dict.fromkeys(result_columns(record.value)))
        return Names(list(params), list(results), any(r.repeat for r in self._records))


def result_columns(value: Any) -> dict[str, Any]:
    """A result by columns: its keys, where it is a dict by name, else ``value``."""
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return value
    return {"value": value}
