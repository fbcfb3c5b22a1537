"""What runs where the points run: the user's function, with the time that it takes."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

from ..errors import Pruned
from ..place.nesting import in_worker_process
from ..values.seeds import Seed, kept, run
from ..worker.task import format_error
from .report import Asking, Curve, Reporter

__all__ = ["Item", "Measured", "Problem", "Ran", "called", "described"]


_FIXED = (int, float, str, bool, bytes, type(None))


class Problem(NamedTuple):
    """What a point raised, as text."""

    kind: str
    message: str
    traceback: str


class Ran(NamedTuple):
    """What came of a point."""

    value: Any
    problem: Problem | None
    seconds: float | None
    started: float | None  # seconds since 1970
    worker: int | None  # process id
    curve: Curve
    pruned: bool
    broken: Exception | None = None  # what the pruner raised, where it came along


class Item(NamedTuple):
    """A point as it is sent: its parameters, the seed of its random streams, its place."""

    params: dict[str, Any]
    seed: int | None
    place: int
    judge: Any = None  # where it cannot ask: a `Judge`, which arrives as an `Arrived`

    def __repr__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.params.items())


class Measured:
    """Calls a function with the parameters of a point, and tells what came of it.

    Parameters
    ----------
    func : callable
    passing : tuple of exception types
        What is not to be recorded here, but goes up: what is to be tried again.
    alone : bool
        Whether one point runs at a time, so that it may have `random` and `numpy.random`.
    together : bool
        Whether several points come in a message, so that they may share values.
    asking : Asking, optional
        Where points ask whether they go on.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        passing: tuple[type[BaseException], ...],
        alone: bool,
        together: bool,
        asking: Asking | None,
    ) -> None:
        self._func = func
        self._asking = asking
        self._passing = passing
        self._alone = alone
        self._together = together
        self._home = os.getpid()

    def __call__(self, item: Item, /, **frozen: Any) -> Ran:
        """Run a point."""
        if item.seed is not None:
            import numpy.random  # noqa: F401 - takes long, and is not the point's to pay for
        if self._together or os.getpid() == self._home:
            item = item._replace(params=_own(item.params))
        value, problem = None, None
        reporter = Reporter(item.place, self._asking, item.judge)
        started, begin = time.time(), time.perf_counter()
        try:
            with reporter:
                value = called(self._func, item.params, frozen, item.seed, self._alone)
        except Pruned:
            reporter.pruned = True  # also where the function raises it by itself
        except Exception as error:
            if isinstance(error, self._passing):
                raise
            problem = described(error, format_error(error))
        seconds, curve, pruned = time.perf_counter() - begin, reporter.curve, reporter.pruned
        if problem is not None:
            pruned = False
        elif pruned and value is None and curve:
            value = curve[-1][1]
        broken = None if item.judge is None else item.judge.error
        return Ran(value, problem, seconds, started, os.getpid(), curve, pruned, broken)


def called(
    func: Callable[..., Any],
    params: Mapping[str, Any],
    frozen: Mapping[str, Any],
    seed: int | None,
    alone: bool = True,
) -> Any:
    """Call a function with a point, in the point's own random streams if it has a seed."""
    arguments = {**params, **frozen}
    if seed is None:
        return func(**arguments)
    with kept() if alone and not in_worker_process() else nullcontext():
        return run(Seed(seed), func, (), arguments, alone=alone)


def _own(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters that a point may change: those of others, and of the table, stay as they are."""
    own = {}
    for name, value in params.items():
        try:
            own[name] = value if type(value) in _FIXED else copy.deepcopy(value)
        except Exception:  # noqa: BLE001 - what cannot be copied, such as a lock, is shared
            own[name] = value
    return own


def described(error: BaseException, traceback: str) -> Problem:
    """Text of an exception, which may refuse to be one."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        message = "(its message could not be made)"
    return Problem(type(error).__name__, message, traceback)
