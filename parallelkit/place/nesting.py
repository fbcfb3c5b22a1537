"""Where in the nest a piece of code stands: its level and its share of the cores.

The main process stands at level 0 with all cores, a worker of another library at level 1. A
worker of ours enters the place that its task names: a thread by a context variable, a process for
good, so that threads which a user's function starts by itself find it too.

A place has its share of the cores for good, and at times more: when an outer call has no item
left for some of its workers, those that still run may use the cores of the idle ones, until
another call needs them. A call that is made there asks when it begins, and again between its items
(`room`). In the same way it asks whether anybody still waits for what runs there (`given_up`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial

from .foreign import granted
from .host import cpu_count
from .records import NamedTuple

__all__ = [
    "GivenUp",
    "Nesting",
    "add_threads",
    "be_guest",
    "enter",
    "fellows",
    "for_good",
    "for_itself",
    "foreign_worker",
    "given_up",
    "in_worker_process",
    "join",
    "nesting",
    "nesting_level",
    "on_threads",
    "pool_cores",
    "process_cores",
    "room",
    "settle",
]


class Nesting(NamedTuple):
    """Where the code that asks is being run.

    Attributes
    ----------
    level : int
        0 in the main process, 1 inside an item of a call made there, and so on. In a worker that
        another library started (a process of joblib, multiprocessing, ...; a Dask or Ray task) 1.
    cores : int
        How many cores the code may use, its own included.
    """

    level: int
    cores: int


Spare = Callable[[], int]  # cores that may be used at this moment; 0 where the share counts


Asked = Callable[[], bool]  # whether what runs here was given up
_Standing = tuple[Nesting, Spare | None, Asked | None]

_here: ContextVar[_Standing | None] = ContextVar("parallelkit_nesting", default=None)
_process: _Standing | None = None
_in_worker_process = False
_guest: ContextVar[bool] = ContextVar("parallelkit_guest", default=False)
_fellows = 0  # workers of the pool that this process is a worker of
_pool_cores = 1  # what those have together
_on_threads: Callable[[int], None] | None = None
_bound: Callable[[], int | None] | None = None  # most cores of this process at the moment


def nesting() -> Nesting:
    """Tell at which level of nested calls this code runs, and how many cores are its share.

    Returns
    -------
    Nesting
        Named tuple ``(level, cores)``.

    Examples
    --------
    >>> import parallelkit as pk
    >>> pk.nesting().level
    0
    >>> with pk.Pool(2, backend="thread") as pool:
    ...     pool.map(lambda x: pk.nesting().level, [1, 2])
    [1, 1]
    """
    standing = _here.get() or _process
    if standing is None:
        cores = granted()
        return Nesting(0, cpu_count()) if cores is None else Nesting(1, cores)
    place, spare, _ = standing
    more = 0 if spare is None else spare()
    return place if more <= place.cores else Nesting(place.level, more)


def nesting_level() -> int:
    """Level of nested calls at which this code runs; costs less than all of `nesting`."""
    standing = _here.get() or _process
    return int(granted() is not None) if standing is None else standing[0].level


def for_good() -> int | None:
    """Cores that nobody takes back from who stands here; None where that is not known."""
    standing = _here.get() or _process
    return None if standing is None else standing[0].cores


def room() -> Callable[[], int] | None:
    """What tells at any time how many cores are there for this place; None if always as many."""
    place, spare, _ = _here.get() or _process or (None, None, None)
    if place is None or spare is None:
        return None
    return partial(_most, place.cores, spare)


def _most(least: int, spare: Spare) -> int:
    if least > 1 and _bound is not None:
        least = min(least, _bound() or least)
    return max(least, spare())


def foreign_worker() -> bool:
    """Whether the code runs in a worker of another library, and in no item of ours there."""
    return (_here.get() or _process) is None and granted() is not None


def process_cores() -> int:
    """Cores of this process, however they are shared out within."""
    return (granted() or cpu_count()) if _process is None else _process[0].cores


def pool_cores() -> int:
    """Cores that the workers of the pool of which this process is one have together."""
    return _pool_cores


def in_worker_process() -> bool:
    """Whether this process is a worker of ours, or this code an item in that of another engine."""
    return _in_worker_process or _guest.get()


def be_guest() -> None:
    """Say that what runs in this context is an item in a process that is not ours."""
    _guest.set(True)


class GivenUp(BaseException):
    """Raised by a call that is made in an item, before its next item: nobody waits for them."""


def given_up() -> Asked | None:
    """What tells at any time whether the item that runs here was given up; None if it never is.

    An item in a thread cannot be ended from outside, so the calls that it makes end it. Where it
    has a process to itself, that is interrupted instead.
    """
    return (_here.get() or (None, None, None))[2]


def for_itself() -> None:
    """Have what runs in this context go on when the item that has begun it is given up."""
    standing = _here.get()
    if standing is not None:
        enter(*standing[:2])


def enter(place: Nesting, spare: Spare | None = None, given_up: Asked | None = None) -> None:
    """Stand at `place` in this context."""
    _here.set((place, spare, given_up))


def join(workers: int) -> None:
    """Say of how many workers, this process included, its pool consists."""
    global _fellows
    _fellows = workers


def fellows() -> int:
    """To how many workers, this process included, a call made here may hand its items; or 0."""
    return _fellows


def on_threads(tell: Callable[[int], None], bound: Callable[[], int | None]) -> None:
    """Have `tell` called by `add_threads`, and `room` never say more than `bound`, but for None."""
    global _on_threads, _bound
    _on_threads, _bound = tell, bound


def add_threads(threads: int) -> None:
    """Say that so many threads more, or fewer, run items beside that of the process's own item."""
    if _on_threads is not None:
        _on_threads(threads)


def settle(place: Nesting, spare: Spare | None = None, cores: int = 1) -> None:
    """Make `place` that of this whole process, a worker; all of its pool have `cores` together."""
    global _process, _in_worker_process, _pool_cores
    _process = place, spare, None
    _pool_cores = cores
    _in_worker_process = True


def _forget_threads() -> None:
    """After a fork: the child of a user's fork inside an item stands on its own again."""
    global _fellows, _on_threads, _bound
    _fellows, _on_threads, _bound = 0, None, None  # the parent's channel to them is not ours
    if not _in_worker_process:
        _here.set(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
