"""What an item of a sweep reports while it runs, and how it hears that it is to stop.

::

    the item's process                                        the sweep's process
    report ─► the curve, which goes back with the result
          └─► where there is a pruner:  (index, run, step, value) ─► Run.heard ─► the pruner
    report ◄─ a place in shared memory ◄────────────────────────── what it has given up

Items beyond this machine have the pruner with them, and what others had reported by then.
Items in threads ask the sweep itself, and know at once, also that it is over. In a worker `report`
does not wait for an answer, which is found by the next one. What an item leaves in shared memory is
the number of its run, which is another one at each attempt: an answer that comes late is nobody's.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from ..errors import Pruned
from ..worker import output

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Asking", "Curve", "Reporter", "report"]

Curve = list[tuple[int | float, float]]  # steps, and what was reported at each
PLACES = 8192  # more than items that run at a time; where two share one, one is not stopped

_current: ContextVar[Reporter | None] = ContextVar("parallelkit_report", default=None)


def report(value: float, step: float | None = None) -> None:
    """Tell how good a point of a sweep is so far; leave it if its sweep's pruner says so.

    Call it in the function of a sweep, once for each step of its work. Outside of a sweep it does
    nothing.

    Parameters
    ----------
    value : float
        What the pruner compares, such as the accuracy on held-out data.
    step : int or float, optional
        How far the work has come: an epoch, a number of trees, seconds. It must rise. By default
        it counts the reports, from 1 on.

    Raises
    ------
    Pruned
        If this point is not worth going on with. Let it pass.
    TypeError, ValueError
        If `value` or `step` is no number, or `step` does not rise.

    Examples
    --------
    >>> import parallelkit as pk
    >>> def train(rate):
    ...     for epoch in range(1, 5):
    ...         loss = 1 / (rate * epoch)
    ...         pk.report(loss, epoch)
    ...     return {"loss": loss}
    >>> table = pk.Sweep(backend="serial").run(train, pk.grid(rate=[0.5, 1.0]))
    >>> table.curves()[1]["values"]
    [1.0, 0.5, 0.3333333333333333, 0.25]
    """
    reporter = _current.get()
    if reporter is not None:
        reporter.report(value, step)


class Asking(NamedTuple):
    """Where items ask whether they go on: the number of the sweep, and what it has given up."""

    number: int
    given_up: NDArray[Any] | None  # where items run in other processes
    home: int = 0  # process id of the sweep, where they run in its threads


class Reporter:
    """Collects what one run of an item reports, and asks for it.

    Parameters
    ----------
    index : int
        Of the item in its sweep.
    asking : Asking, optional
        Without it there is nobody to ask.
    judge : callable, optional
        What says whether to go on, where it came along.
    """

    def __init__(
        self,
        index: int,
        asking: Asking | None,
        judge: Callable[[float, float], bool] | None = None,
    ) -> None:
        self.curve: Curve = []
        self.pruned = False
        self._index = index
        self._asking = asking
        self._judge = judge
        self._run = int.from_bytes(os.urandom(8), "little") | 1  # not 0, which is nobody's

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)

    def report(self, value: float, step: float | None) -> None:
        """Keep a step; raise if it was the last one."""
        step, value = self._checked(step, value)
        self.curve.append((step, value))
        if self._given_up(step, value):
            self.pruned = True
            raise Pruned(f"given up at step {step}, with {value}")

    def _given_up(self, step: float, value: float) -> bool:
        if self._judge is not None:
            return self._judge(step, value)
        asking = self._asking
        if asking is None:
            return False
        heard = output.listener(asking.number)
        if heard is not None:
            return bool(heard(self._index, self._run, step, value))
        if asking.home and asking.home == os.getpid():
            return True  # the sweep is over, and nobody waits for this thread
        output.say(asking.number, self._index, self._run, step, value)
        if asking.given_up is None:
            return False
        return bool(asking.given_up[self._index % PLACES] == self._run)

    def _checked(self, step: Any, value: Any) -> tuple[int | float, float]:
        if isinstance(value, bool) or not isinstance(_item(value), numbers.Real):
            raise TypeError(f"a report takes a number, not {value!r}")
        if step is None:
            step = self.curve[-1][0] + 1 if self.curve else 1
        number = _item(step)
        if isinstance(number, bool) or not isinstance(number, numbers.Real):
            raise TypeError(f"step must be a number, not {step!r}")
        step = float(number)
        if self.curve and not step > self.curve[-1][0]:
            raise ValueError(f"step must rise: it was {self.curve[-1][0]}, and is now {step!r}")
        if not math.isfinite(step):
            raise ValueError(f"step must be finite, not {step!r}")
        return (int(step) if step.is_integer() else step), float(_item(value))


def _item(value: Any) -> Any:
    """Python's number of what has no more than one: numpy's, a tensor's."""
    if type(value) in (int, float):
        return value
    item = getattr(value, "item", None)
    try:
        return value if item is None else item()
    except (TypeError, ValueError, RuntimeError):  # it has several
        return None
