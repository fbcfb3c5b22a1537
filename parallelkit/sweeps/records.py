"""What is known of a finished point, and where such records are kept in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

__all__ = ["Kept", "Names", "Record", "Rows", "Summary", "named_results", "result_columns"]


class Record(NamedTuple):
    """A finished point."""

    position: int
    repeat: int
    params: dict[str, Any]
    seed: int | None
    status: str  # "ok", "failed" or "pruned"
    value: Any  # of a pruned point the last one that it reported, or what it returned
    error: str | None  # "ValueError: what it said"
    traceback: str | None
    seconds: float | None
    started: float | None  # seconds since 1970
    worker: int | None
    attempt: int
    curve: list[tuple[int | float, float]] = []  # noqa: RUF012 - steps, and what it reported at each; nobody changes it
    code: str | None = None  # digest of what it was computed with, where there is a store
    function: str = ""
    version: str | None = None
    file: str | None = None  # where a table is read from several
    frozen: Mapping[str, str | None] | None = None  # digests of the frozen values, as far as known
    runs: int = 1  # of which it is the mean


class Names(NamedTuple):
    """Names of parameters and results, in the order in which they first came up."""

    params: list[str]
    results: list[str]
    repeats: bool  # whether any point was run more than once on purpose
    origin: tuple[str, ...] = ()  # of "file", "function", "version", "code": those there are
    reported: bool = False  # whether any has a curve
    lost: tuple[str, ...] = ()  # of means: the columns that count runs which did not end well


class Summary(NamedTuple):
    """How many records there are, how many of them failed or were pruned, and their seconds.

    Of a store also how many were there before this run, and how many were computed with other code
    than that of this run, or of the last one.
    """

    points: int
    failed: int
    pruned: int
    seconds: float
    stored: int = 0
    older: int = 0


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

    def files_differ(self) -> bool:
        """Whether there are files whose points are not the same points."""
        ...

    def notes(self) -> dict[str, str]:
        """Texts by name that were given with it."""
        ...

    def provenance(self) -> list[dict[str, Any]]:
        """Where the records come from, run by run."""
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
        failed = sum(record.status == "failed" for record in self._records)
        pruned = sum(record.status == "pruned" for record in self._records)
        seconds = sum(record.seconds or 0.0 for record in self._records)
        return Summary(len(self._records), failed, pruned, seconds)

    def names(self) -> Names:
        """What the columns are called."""
        params: dict[str, None] = {}
        results: dict[str, None] = {}
        for record in self._records:
            params.update(dict.fromkeys(record.params))
            results.update(dict.fromkeys(named_results(record)))
        repeats = any(record.repeat for record in self._records)
        reported = any(record.curve for record in self._records)
        return Names(list(params), list(results), repeats, reported=reported)

    def files_differ(self) -> bool:
        """Whether there are files whose points are not the same points."""
        return False

    def notes(self) -> dict[str, str]:
        """Texts by name: a store keeps them, memory has none."""
        return {}

    def provenance(self) -> list[dict[str, Any]]:
        """Where the records come from: who looks has made them."""
        return []


def named_results(record: Record) -> Iterable[str]:
    """Names of the results that a record has.

    The last value that a pruned point reported has none of its own: it is shown in the column
    ``value``, where other points have one.
    """
    if record.status == "ok" or (record.status == "pruned" and isinstance(record.value, dict)):
        return result_columns(record.value)
    return ()


def result_columns(value: Any) -> dict[str, Any]:
    """A result by columns: its keys, where it is a dict by name, else ``value``."""
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return value
    return {"value": value}
