"""Which points of a sweep are not worth going on with.

A pruner is anything that can be called with a :class:`Report` and says whether the point that made
it is to be given up. It keeps nothing itself: what others have reported is in the report.
"""

from __future__ import annotations

import bisect
import math
import statistics
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .report import Curve

__all__ = ["NO_SPAN", "Halving", "History", "Median", "Pruner", "Report", "widened"]

NO_SPAN = math.nan, math.nan  # of no values


class Report(NamedTuple):
    """What a pruner is asked about.

    Attributes
    ----------
    params : dict
        Of the point.
    repeat : int
    step, value : float
        What it has just reported.
    curve : list of (step, value)
        What it has reported so far, this included. Not to be changed.
    lowest, highest : float
        The smallest and the largest of these values; NaN where none is a number.
    reached : callable
        ``report.reached(step)``: what each of the other points reported when it first came as far
        as `step`, as a list. They are those of this sweep that run or have ended, however, and
        those that are stored.
    """

    params: Mapping[str, Any]
    repeat: int
    step: int | float
    value: float
    curve: Curve
    lowest: float
    highest: float
    reached: Callable[[float], list[float]]


Pruner = Callable[[Report], object]


class Median:
    """Give up a point whose best value so far is worse than the median of the others' at this step.

    The median stopping rule of D. Golovin et al., *Google Vizier: A Service for Black-Box
    Optimization*, KDD 2017, section 3.2.2, https://doi.org/10.1145/3097983.3098043, with the
    others' values at the step instead of their running means.

    Parameters
    ----------
    warmup : int or float
        Up to this step no point is given up.
    startup : int
        How many other points must have come as far.
    mode : {"max", "min"}
        Whether large or small values are good.

    Examples
    --------
    >>> import parallelkit as pk
    >>> def train(skill):
    ...     for epoch in range(1, 11):
    ...         pk.report(skill * epoch, epoch)
    ...     return skill * epoch
    >>> sweep = pk.Sweep(pruner=pk.Median(startup=2, warmup=3), backend="serial")
    >>> [(row["value"], row["status"]) for row in sweep.run(train, pk.grid(skill=[2, 3, 1]))]
    [(20, 'ok'), (30, 'ok'), (4.0, 'pruned')]
    """

    def __init__(self, warmup: float = 0, startup: int = 5, mode: str = "max") -> None:
        self.warmup = _number("warmup", warmup, 0)
        self.startup = _whole("startup", startup, 1)
        self.mode, self._sign = mode, _sign(mode)

    def __call__(self, report: Report) -> bool:
        """Whether to give the point up."""
        if report.step <= self.warmup:
            return False
        others = report.reached(report.step)
        if len(others) < self.startup:
            return False
        best = report.highest if self._sign > 0 else report.lowest
        if any(map(math.isnan, others)):
            others = [_ranked(value, self._sign) * self._sign for value in others]
        return _ranked(best, self._sign) < self._sign * statistics.median(others)

    def __repr__(self) -> str:
        return f"Median(warmup={self.warmup}, startup={self.startup}, mode={self.mode!r})"


class Halving:
    """Asynchronous successive halving: at each rung only the best go on.

    The rungs are at the steps `minimum`, `minimum` × `factor`, `minimum` × `factor`² and so on. A
    point that comes to a rung goes on if it is among the best 1/`factor` of those that have come
    there so far, and always if it is the best. Nobody waits for others, so the first that comes to
    a rung goes on: the function has to end by itself. L. Li et al., *A System for Massively
    Parallel Hyperparameter Tuning*, MLSys 2020, https://arxiv.org/abs/1810.05934, in the form that
    stops points instead of pausing them.

    Parameters
    ----------
    minimum : int or float
        The step of the first rung.
    factor : int or float
        More than 1.
    mode : {"max", "min"}
        Whether large or small values are good.

    Examples
    --------
    >>> import parallelkit as pk
    >>> def train(skill):
    ...     for epoch in range(1, 10):
    ...         pk.report(skill * epoch, epoch)
    ...     return skill * epoch
    >>> sweep = pk.Sweep(pruner=pk.Halving(minimum=1, factor=3), backend="serial")
    >>> table = sweep.run(train, pk.grid(skill=[5, 1, 2, 6]))
    >>> [(row["skill"], row["status"]) for row in table]
    [(5, 'ok'), (1, 'pruned'), (2, 'pruned'), (6, 'ok')]
    """

    def __init__(self, minimum: float = 1, factor: float = 3, mode: str = "max") -> None:
        self.minimum, self.factor = _number("minimum", minimum, 0), _number("factor", factor, 1)
        if self.minimum <= 0:
            raise ValueError(f"minimum must be more than 0, not {minimum!r}")
        if self.factor <= 1:
            raise ValueError(f"factor must be more than 1, not {factor!r}")
        self.mode, self._sign = mode, _sign(mode)

    def __call__(self, report: Report) -> bool:
        """Whether to give the point up."""
        rung = self._rung(report.step)
        before = report.curve[-2][0] if len(report.curve) > 1 else -math.inf
        if rung is None or rung <= before:
            return False
        others = [_ranked(value, self._sign) for value in report.reached(rung)]
        places = max(1, int((len(others) + 1) // self.factor))
        mine = _ranked(report.value, self._sign)
        return sum(value > mine for value in others) >= places

    def _rung(self, step: float) -> float | None:
        """The last rung that is not above a step."""
        if step < self.minimum:
            return None
        rung: float = self.minimum
        while rung * self.factor <= step:
            rung *= self.factor
        return rung

    def __repr__(self) -> str:
        return f"Halving(minimum={self.minimum}, factor={self.factor}, mode={self.mode!r})"


class History:
    """What all points of a sweep have reported, by step.

    Parameters
    ----------
    pruner : callable
        Called with one :class:`Report` at a time.
    """

    def __init__(self, pruner: Pruner) -> None:
        self.pruner = pruner
        self._lock = threading.RLock()
        self._curves: dict[Any, Curve] = {}
        self._span: dict[Any, tuple[float, float]] = {}  # the smallest and largest value of each
        self._steps: list[float] = []  # that were asked about, in order
        self._at: dict[float, dict[Any, float]] = {}  # by step: what each point had there

    def set(self, point: Any, curve: Curve) -> None:
        """Know all that a point has reported."""
        with self._lock:
            if self._curves.get(point) == curve:
                return
            self.drop(point)
            self._curves[point] = curve
            for step in self._steps:
                self._enter(point, curve, step)

    def curve(self, point: Any) -> Curve:
        """What a point has reported."""
        with self._lock:
            return list(self._curves.get(point, ()))

    def curves(self) -> list[Curve]:
        """What all points have reported."""
        with self._lock:
            return list(self._curves.values())

    def drop(self, point: Any) -> None:
        """Forget a point, which begins anew."""
        with self._lock:
            self._span.pop(point, None)
            if self._curves.pop(point, None) is not None:
                for values in self._at.values():
                    values.pop(point, None)

    def gives_up(
        self, point: Any, params: Mapping[str, Any], repeat: int, step: float, value: float
    ) -> bool:
        """Take in what a point reports; tell whether it is to be given up."""
        with self._lock:
            curve = self._curves.setdefault(point, [])
            before = curve[-1][0] if curve else -math.inf
            curve.append((step, value))
            for known in self._steps[bisect.bisect_right(self._steps, before) :]:
                if known > step:
                    break
                self._at[known][point] = value

            span = self._span[point] = widened(self._span.get(point, NO_SPAN), value)

            def reached(at: float) -> list[float]:
                values = self._values(at)
                if point not in values:
                    return list(values.values())
                return [v for other, v in values.items() if other != point]

            told = Report(params, repeat, step, value, curve, *span, reached)
            return bool(self.pruner(told))

    def _values(self, step: float) -> dict[Any, float]:
        """What each point reported when it first came as far as `step`."""
        with self._lock:
            if step not in self._at:
                self._at[step] = {}
                bisect.insort(self._steps, step)
                for point, curve in self._curves.items():
                    self._enter(point, curve, step)
            return self._at[step]

    def _enter(self, point: Any, curve: Curve, step: float) -> None:
        at = bisect.bisect_left(curve, step, key=lambda pair: pair[0])
        if at < len(curve):
            self._at[step][point] = curve[at][1]


def widened(span: tuple[float, float], value: float) -> tuple[float, float]:
    """The smallest and the largest of some values, one more included; NaN is none of them."""
    if math.isnan(value):  # Python's min and max keep the first where the other is NaN
        return span
    return min(value, span[0]), max(value, span[1])


def _ranked(value: float, sign: int) -> float:
    """A value so that more is better, and what is no number the worst."""
    return -math.inf if math.isnan(value) else sign * value


def _sign(mode: str) -> int:
    if mode not in ("max", "min"):
        raise ValueError(f"mode must be 'max' or 'min', not {mode!r}")
    return 1 if mode == "max" else -1


def _number(name: str, value: Any, least: float) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not value >= least or math.isinf(value):
        raise ValueError(f"{name} must be at least {least}, not {value!r}")
    return value


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value.__index__() < least:
        raise ValueError(f"{name} must be at least {least}, not {value!r}")
    return int(value.__index__())
