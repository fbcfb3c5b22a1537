"""Two columns against each other: what a pivot and a heatmap show."""

from __future__ import annotations

import math
from typing import Any

from .layout import as_float, is_number
from .row import Tabular, label, ordered

__all__ = ["Crossing"]


class Crossing:
    """Means of a column where values of two others meet.

    Parameters
    ----------
    table : Tabular
    index, columns, values : str
        Columns of the table: down, across, and what is averaged.

    Attributes
    ----------
    down, across : list
        Labels: see :func:`~parallelkit.sweeps.row.label`.
    means : list of list of float
        NaN where there is none.
    marks : dict
        By label down and across: how many points failed and were pruned there.
    """

    def __init__(self, table: Tabular, index: str, columns: str, values: str) -> None:
        self.index, self.columns, self.values = index, columns, values
        self.marks: dict[tuple[Any, Any], dict[str, int]] = {}
        found: dict[tuple[Any, Any], list[float]] = {}
        for row in table:
            if row.record.status == "ok" and is_number(row[values]):
                place = label(row[index]), label(row[columns])
                found.setdefault(place, []).append(as_float(row[values], values))
        self._found = found
        self._order()

    def _order(self) -> None:
        places = [*self._found, *self.marks]
        self.down = ordered(place[0] for place in places)
        self.across = ordered(place[1] for place in places)
        self.means = [
            [
                math.fsum(v) / len(v) if (v := self._found.get((d, a))) else math.nan
                for a in self.across
            ]
            for d in self.down
        ]

    def has(self, down: Any) -> bool:
        """Whether there is a mean for a label down."""
        return any(place[0] == down for place in self._found)

    def mark(self, table: Tabular) -> None:
        """Take in where points failed or were pruned."""
        for row in table:
            status = row.record.status
            if status != "ok":
                place = label(row[self.index]), label(row[self.columns])
                counts = self.marks.setdefault(place, {})
                counts[status] = counts.get(status, 0) + 1
        self._order()
