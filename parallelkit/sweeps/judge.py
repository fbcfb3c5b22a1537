"""A pruner where points cannot ask their sweep: it goes along, and so does what others reported.

::

    the sweep's process                               a worker of another engine
    Ended: curves of points that have ended
    Judge: pruner, point, the last few curves ──────► Place: all curves of this sweep
                                                        more were missing? Behind: it has so many
    the same point, with all from there on    ──────►   pruner(report), at each step

Nobody knows beforehand which worker gets a point. So a worker keeps what it was told, and a curve
goes to each once, however many points there are. One that is new, or whose process is, has none.
"""

from __future__ import annotations

import bisect
import os
import threading
from array import array
from collections.abc import Mapping
from typing import Any

from ..worker.parcel import Behind, since
from .pruning import NO_SPAN, Pruner, Report, widened
from .report import Curve

__all__ = ["Ended", "Judge"]

FEW = 16  # curves that go with a point unasked; a worker that has had none for long asks for more
MOST_SWEEPS = 4  # of which a worker keeps curves


class Ended:
    """In the sweep's process: what points that have ended have reported, one after the other.

    Parameters
    ----------
    pruner : callable
    """

    def __init__(self, pruner: Pruner) -> None:
        self.number = int.from_bytes(os.urandom(8), "little")
        self.pruner = pruner
        self.curves: list[bytes] = []

    def add(self, curve: Curve) -> None:
        """Know one more."""
        if curve:
            steps, values = zip(*curve, strict=True)
            self.curves.append(array("d", steps + values).tobytes())


class Judge:
    """A pruner on its way to a point that cannot ask.

    Parameters
    ----------
    ended : Ended
    params : dict
    repeat : int
    """

    def __init__(self, ended: Ended, params: Mapping[str, Any], repeat: int) -> None:
        self._ended = ended
        self._point = params, repeat

    def __reduce__(self) -> tuple[Any, ...]:
        ended = self._ended
        count = len(ended.curves)
        first = since.get().get(ended.number, max(0, count - FEW))
        return _arrived, (
            *(ended.number, ended.pruner, first, ended.curves[first:count]),
            *self._point,
        )


# --- where the points run ------------------------------------------------------------------------


class Place:
    """In a worker: what it was told of one sweep."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._curves: list[tuple[array[float], array[float]]] = []
        self._at: dict[float, array[float]] = {}  # by step that was asked about

    def learn(self, number: int, first: int, curves: list[bytes]) -> None:
        """Take in curves, the first of which has a number; raise `Behind` if some are missing."""
        with self._lock:
            has = len(self._curves)
            if has < first:
                raise Behind(number, has)
            for data in curves[has - first :]:
                both = array("d")
                both.frombytes(data)
                curve = both[: len(both) // 2], both[len(both) // 2 :]
                self._curves.append(curve)
                for step, values in self._at.items():
                    _enter(values, curve, step)

    def reached(self, step: float) -> list[float]:
        """What each point reported when it first came as far as `step`."""
        with self._lock:
            if step not in self._at:
                values = array("d")
                for curve in self._curves:
                    _enter(values, curve, step)
                self._at[step] = values
            return self._at[step].tolist()


def _enter(values: array[float], curve: tuple[array[float], array[float]], step: float) -> None:
    at = bisect.bisect_left(curve[0], step)
    if at < len(curve[0]):
        bisect.insort(values, curve[1][at])  # so that who sorts them has nothing to do


class Arrived:
    """A judge that has arrived with its point.

    Parameters
    ----------
    pruner : callable
    place : Place
    params : dict
    repeat : int
    """

    def __init__(
        self, pruner: Pruner, place: Place, params: Mapping[str, Any], repeat: int
    ) -> None:
        self._pruner, self._place = pruner, place
        self._point = params, repeat
        self._curve: Curve = []
        self._span = NO_SPAN
        self.error: Exception | None = None  # of the pruner; raised by the sweep

    def __call__(self, step: float, value: float) -> bool:
        """Whether the point is to be given up."""
        self._curve.append((step, value))
        self._span = widened(self._span, value)
        told = Report(*self._point, step, value, self._curve, *self._span, self._place.reached)
        try:
            return bool(self._pruner(told))
        except Exception as error:  # noqa: BLE001 - a user's pruner
            self.error = error
            return True


_lock = threading.Lock()
_places: dict[int, Place] = {}  # by the number of the sweep; that which was used last is the last


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _places.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _arrived(number: int, pruner: Pruner, first: int, curves: list[bytes], *point: Any) -> Arrived:
    with _lock:
        place = _places[number] = _places.pop(number) if number in _places else Place()
        if len(_places) > MOST_SWEEPS:
            del _places[next(iter(_places))]
    place.learn(number, first, curves)
    return Arrived(pruner, place, *point)
