"""Means over repeats, or over parameters: what is compared where one number is luck."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

from .layout import Layout, as_float, is_number
from .records import Names, Record
from .row import Row, key_of, same

__all__ = ["Means", "Picked", "means"]


class Picked:
    """Some records of a table, in an order of their own.

    Parameters
    ----------
    source : Rows
        Where they come from.
    records : iterable of Record
    """

    def __init__(self, source: Any, records: Iterable[Record]) -> None:
        self._source = source
        self._records = list(records)
        self.title: str = source.title

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Any:
        return iter(self._records)

    def ends(self, n: int) -> list[Record]:
        """Return the first `n` records, then the last `n`."""
        return [*self._records[:n], *self._records[-n:]] if n else []

    def summary(self) -> Any:
        """Count and add up."""
        statuses = [record.status for record in self._records]
        seconds = sum(record.seconds or 0.0 for record in self._records)
        whole = self._source.summary()
        return whole._replace(
            points=len(statuses),
            failed=statuses.count("failed"),
            pruned=statuses.count("pruned"),
            seconds=seconds,
            stored=0,
            older=0,
        )

    def names(self) -> Names:
        """What the columns are called: as in the whole table."""
        names: Names = self._source.names()
        return names

    def files_differ(self) -> bool:
        """Whether the whole table has files whose points are not the same points."""
        return bool(self._source.files_differ())

    def notes(self) -> dict[str, str]:
        """Texts by name: of the whole table."""
        notes: dict[str, str] = self._source.notes()
        return notes

    def provenance(self) -> list[dict[str, Any]]:
        """Where the whole table comes from."""
        runs: list[dict[str, Any]] = self._source.provenance()
        return runs


class Means(Picked):
    """Rows of means: their columns are the parameters that are left, and the results."""

    def __init__(self, source: Any, records: Iterable[Record], names: Names, title: str) -> None:
        super().__init__(source, records)
        self._names = names
        self.title = title

    def names(self) -> Names:
        """What the columns are called."""
        return self._names


def means(
    rows: Iterable[Row], layout: Layout, over: Sequence[str], files: bool
) -> tuple[list[Record], Names]:
    """Rows of means over some columns, as records.

    Each has the parameters that are not in `over`, and for each numeric result its mean under its
    own name, the standard deviation (of a sample) and the standard error of the mean; how many
    runs are in it, have failed, and were pruned. With `files` each file has means of its own;
    without it they are parts of one sweep, which may have a point's repeats in several of them.
    """
    kept = [name for name in layout.params if name not in over]
    if layout.repeat is not None and layout.repeat not in over:
        kept.append(layout.repeat)
    origin = ("file", "function", "version") if files else ("function", "version")
    kept += [layout.own[name] for name in origin if name in layout.own]
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(key_of(row[name]) for name in kept), []).append(row)
    results = list(layout.results.values())
    numeric = {
        name: any(is_number(row[name]) for group in groups.values() for row in group)
        for name in results
    }
    taken = {*kept, *results}
    counts = {name: _free(name, taken) for name in ("count", "failed", "pruned")}
    records = []
    for group in groups.values():
        value: dict[str, Any] = {}
        ok = [row for row in group if row.record.status == "ok"]
        for name in results:
            if numeric[name]:
                told = (row[name] for row in ok)
                value |= _of(name, [as_float(v, name) for v in told if isinstance(v, Real)])
            else:
                first = ok[0][name] if ok else None
                value[name] = first if all(same(row[name], first) for row in ok) else None
        statuses = [row.record.status for row in group]
        value[counts["count"]] = len(ok)
        for status in ("failed", "pruned"):
            if any(row.record.status == status for rows in groups.values() for row in rows):
                value[counts[status]] = statuses.count(status)
        params = {name: group[0][name] for name in kept}
        head = (group[0].record.position, 0, params, None)
        status = "ok" if ok else "failed" if "failed" in statuses else "pruned"
        seconds = sum(row.record.seconds or 0.0 for row in group)
        record = Record(*head, status, value, None, None, seconds, None, None, len(group))
        records.append(record._replace(frozen=group[0].record.frozen, runs=len(group)))
    columns = list(dict.fromkeys(name for record in records for name in record.value))
    lost = tuple(counts[status] for status in ("failed", "pruned") if counts[status] in columns)
    return records, Names(kept, columns, False, lost=lost)


def _of(name: str, values: list[float]) -> dict[str, float]:
    count = len(values)
    numbers = count > 1 and all(map(math.isfinite, values))
    spread = statistics.stdev(values) if numbers else math.nan
    return {
        name: math.fsum(values) / count if count else math.nan,
        f"{name}.std": spread,
        f"{name}.sem": spread / math.sqrt(count) if count else math.nan,
    }


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"sweep.{name}"
    return name
