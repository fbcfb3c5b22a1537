"""From records to rows: which column holds what."""

from __future__ import annotations

import datetime as dt
import numbers
from typing import Any

from .records import Names, Record, result_columns

__all__ = ["Layout", "as_float", "is_number"]

OWN = ("status", "error", "seconds", "started", "worker", "attempt", "seed")


class Layout:
    """Which column holds what: names given by the user come first where they clash."""

    def __init__(self, names: Names) -> None:
        taken = set(names.params)
        self.params = names.params
        self.results = {name: _free(name, "result.", taken) for name in names.results}
        reported = ("reported",) if names.reported else ()
        ours = ("repeat", *names.origin, *reported, *OWN)
        own = {name: _free(name, "sweep.", taken) for name in ours}
        repeat = own.pop("repeat")
        self.repeat = repeat if names.repeats else None
        self.own = own
        middle = [] if self.repeat is None else [self.repeat]
        self.columns = [*names.params, *middle, *self.results.values(), *own.values()]

    def row(self, record: Record) -> dict[str, Any]:
        """Make a row."""
        row = dict.fromkeys(self.columns)
        row.update(record.params)
        if self.repeat is not None:
            row[self.repeat] = record.repeat
        if record.status != "failed":
            for name, value in result_columns(record.value).items():
                # Not that of a pruned point, nor one that came while the table is read.
                if name in self.results:
                    row[self.results[name]] = value
        for name, column in self.own.items():
            row[column] = _own(record, name)
        return row


def _own(record: Record, name: str) -> Any:
    if name == "reported":
        return record.curve[-1][1] if record.curve else None
    value = getattr(record, name)
    if name == "started" and value is not None:
        return dt.datetime.fromtimestamp(value, dt.UTC)
    return value


def _free(name: str, prefix: str, taken: set[str]) -> str:
    """`name`, or with `prefix` where that is taken; it is taken then."""
    while name in taken:
        name = prefix + name
    taken.add(name)
    return name


def is_number(value: Any) -> bool:
    """Whether a value can be ranked and drawn."""
    return isinstance(value, numbers.Real) and value == value  # noqa: PLR0124 - NaN is not


def as_float(value: Any, column: str) -> float:
    """A number for means and pictures."""
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"a number in the column {column!r} is too large for a mean") from None
