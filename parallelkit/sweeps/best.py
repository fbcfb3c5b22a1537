"""The best result so far, for the bar: by the mean over repeats, as in the table."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from .layout import is_number
from .records import Record, result_columns
from .row import key_of

__all__ = ["Best", "taken_off"]


class Best:
    """Keeps the best mean of a result, while records come.

    Parameters
    ----------
    column : str
        Name of the result.
    mode : {"max", "min"}
    repeats : int
        How often each point is run.
    """

    def __init__(self, column: str, mode: str, repeats: int) -> None:
        self._column, self._mode, self._repeats = column, mode, repeats
        self._begun: dict[Any, list[float]] = {}  # by point: values of the repeats that are there
        self._best: float | None = None
        self._looked = False

    def note(self, record: Record) -> None:
        """Look at one more record. A point counts when all its repeats are there.

        Raises
        ------
        ValueError
            If the first result has no such number.
        """
        if record.status != "ok":
            return
        results = result_columns(record.value)
        value: Any = results.get(self._column)
        if not self._looked:
            self._looked = True
            self._check(results)
        if not is_number(value):
            return
        values = [float(value)]
        if self._repeats > 1:
            values = self._begun.setdefault(key_of(record.params), [])
            values.append(float(value))
            if len(values) < self._repeats:
                return
            self._begun[key_of(record.params)] = []
        mean = math.fsum(values) / len(values)
        if self._best is None or (mean > self._best if self._mode == "max" else mean < self._best):
            self._best = mean

    def _check(self, results: Mapping[str, Any]) -> None:
        """Refuse a name that the first result does not have: there would never be a best."""
        if isinstance(results.get(self._column), Real):
            return
        numbers = [name for name, value in results.items() if isinstance(value, Real)]
        near = difflib.get_close_matches(self._column, numbers, 1)
        told = f"; did you mean {near[0]!r}?" if near else f": {', '.join(numbers) or 'none'}"
        raise ValueError(
            f"progress={{'best': {self._column!r}}}: the first result has no such number{told}"
        )

    def __str__(self) -> str:
        told = "?" if self._best is None else f"{self._best:.6g}"
        return f"best={told}"


def taken_off(progress: Any, repeats: int) -> tuple[Any, Best | None]:
    """Option ``progress`` without what is ours, ``best`` and ``mode``, and what these ask for."""
    if not isinstance(progress, Mapping):
        return progress, None
    if "best" not in progress:
        near = [name for name in progress if difflib.get_close_matches(str(name), ["best"])]
        if near and "tqdm_class" not in progress:
            raise TypeError(f"progress has no {near[0]!r}; did you mean 'best'?")
        return progress, None
    rest = dict(progress)
    column, mode = rest.pop("best"), rest.pop("mode", "max")
    if not isinstance(column, str):
        raise TypeError(f"progress={{'best': ...}} takes the name of a result, not {column!r}")
    if mode not in ("max", "min"):
        raise ValueError(f"mode must be 'max' or 'min', not {mode!r}")
    return rest, Best(column, mode, repeats)
