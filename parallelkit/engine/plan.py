"""Which backend a call gets, with how many workers, and what stands below it.

Every downgrade rule lives here:

=====================================  ============================================================
where the call is made                 what it gets
=====================================  ============================================================
main process                           what was asked for (processes by default)
a process worker                       threads, with this worker's share of the cores
a worker of another library            threads, with the share that is known (see `foreign`)
the same, ``Pool(backend="process")``  processes, where such a worker may have children
a thread of ours                       threads at the next level with the share that is left
main process, ``workers=1``            in place, unless it `needs_process`
the same, where processes are denied   threads, or in place; said once
a share of one, no wish for workers    runs in place; goes on with threads when there are more cores
``workers=`` given                     honoured at every level
``backend="process"`` below a worker   threads all the same
the same, with ``nested="process"``    idle workers of the outer pool, and the caller itself
threads, a ``seed=``, no ``rng``       in place: `random` and `numpy.random` are all threads' own
Dask, Ray or an executor               as many workers as it has; below level 0 threads instead
=====================================  ============================================================
"""

from __future__ import annotations

import functools
import logging

from ..backends import TABLE, reach
from ..options import Options
from ..place import host
from ..place.foreign import may_have_children
from ..place.nesting import (
    Nesting,
    fellows,
    for_good,
    foreign_worker,
    nesting_level,
    pool_cores,
)

__all__ = ["Plan", "needs_process", "plan", "without_processes"]

log = logging.getLogger("parallelkit")
_ELSEWHERE = frozenset(name for name, backend in TABLE.items() if backend.elsewhere)
_denied = False  # whether processes have been refused to this one
_told: set[str] = set()  # warnings that this process has given


def _is_wanted(record: logging.LogRecord) -> bool:
    """Whether to tell what was decided: of calls in items, which may be many, if asked for it.

    Who debugs a program has all loggers tell; who debugs its calls sets the level of this one.
    """
    return record.levelno >= logging.WARNING or log.level != logging.NOTSET or not nesting_level()


log.addFilter(_is_wanted)


class Plan:
    """What was decided for one call.

    Attributes
    ----------
    backend : str
        ``"process"``, ``"thread"``, ``"serial"`` or ``"outer"``: here, and in workers of the outer
        call's pool that have nothing to do.
    workers : int
        Size of the pool.
    level : int
        Nesting level of the call's items.
    cores : int
        What the call has for good, to share out among its workers.
    wished : bool
        Whether somebody asked for that number of workers, or it is just the share.
    pace : float
        How much more than to a process of ours a message costs.
    """

    __slots__ = ("backend", "cores", "level", "pace", "wished", "workers")

    def __init__(
        self,
        backend: str,
        workers: int,
        level: int,
        cores: int,
        wished: bool = False,
        pace: float = 1.0,
    ) -> None:
        self.backend = backend
        self.workers = workers
        self.level = level
        self.cores = cores
        self.wished = wished
        self.pace = pace

    def places(self, items: int | None) -> tuple[Nesting, ...]:
        """Place of each worker: its part of the cores, remainders to the first workers.

        Fewer items than workers leave more cores for each, but where the items run in workers of
        the outer pool: those are all there, and any of them may have items of another call. Then
        the last place is that of the caller, who may have less than a worker.
        """
        if self.backend == "outer":
            share = max(1, self.cores // max(1, fellows()))
            own = Nesting(self.level, min(share, for_good() or share))
            return (*_places(self.level, self.workers, share, 1), own)
        busy = self.workers if items is None or items > self.workers else items or 1
        return _places(self.level, self.workers, self.cores, busy)


@functools.lru_cache(64)  # most calls of a program are of one kind
def _places(level: int, workers: int, cores: int, busy: int) -> tuple[Nesting, ...]:
    base, extra = divmod(cores, busy)
    return tuple(Nesting(level, base + (rank % busy < extra) or 1) for rank in range(workers))


def plan(  # noqa: C901 - the rule table
    options: Options, here: Nesting, takes_rng: bool = False
) -> Plan:
    """Decide for a call with `options` made at `here`.

    `takes_rng` tells whether the function gets its random stream as an argument.
    """
    backend = options.backend if isinstance(options.backend, str) else "executor"
    if backend == "auto":
        backend = "process" if host.has_gil() else "thread"
    if options.fair and here.level == 0:
        from ..place import fair  # nobody else needs it

        here = Nesting(0, fair.share(here.cores))
    if backend in _ELSEWHERE:
        if here.level == 0 or (backend == "executor" and foreign_worker()):
            return _there(backend, options, here, takes_rng)
        log.debug("a call below level 0 runs on threads instead of %s", backend)
        backend = "thread"  # a worker that waits for another one of its engine may wait for ever
    if here.level > 0 and backend == "process" and not _given(options):
        if options.nested == "process" and fellows() > 1 and options.initializer is None:
            return _outer(options, here, fellows())
        log.debug("a call below level 0 runs on threads instead of processes")
        backend = "thread"
    if backend == "thread" and options.seed is not None and not takes_rng:
        log.debug("a call with a seed, whose function has no parameter rng, runs in place")
        backend = "serial"
    workers = _workers(options.workers, here.cores)
    cores = here.cores
    if backend == "process" and _denied and not needs_process(options):
        given = options.workers is not None
        plan_ = Plan(backend, workers, here.level + 1, cores, given)
        return without_processes(options, plan_, takes_rng)
    if backend == "process" and workers == 1 and options.workers and not needs_process(options):
        log.debug("a call with one worker, for which nothing asks for a process, runs in place")
        backend = "serial"
    if backend in ("serial", "thread"):
        if backend == "serial" or workers == 1:
            backend, workers = "serial", 1
        if not options.workers:  # what it has beyond that, it asks for while it runs
            cores = min(cores, for_good() or cores)
    return Plan(backend, workers, here.level + 1, cores, options.workers is not None)


def _there(backend: str, options: Options, here: Nesting, takes_rng: bool) -> Plan:
    """Plan a call for the workers of another engine."""
    slots, pace, threads = reach(backend, options)
    wish = options.workers
    workers = slots if wish is None else wish if wish > 0 else slots + 1 + wish
    workers, wished = max(1, workers), wish is not None
    if not threads:
        return Plan(backend, workers, here.level + 1, workers, wished, pace)
    if options.seed is not None and not takes_rng:
        log.debug("a call with a seed, whose function has no parameter rng, runs in place")
        return Plan("serial", 1, here.level + 1, here.cores)
    return Plan("executor-threads", workers, here.level + 1, here.cores, wished)


def _given(options: Options) -> bool:
    """Whether a call in a worker of another library gets processes: where it names them, and can.

    Such as the executor of a web server with several worker processes. Each has its share of the
    cores. Where the default steps down instead, it says so once.
    """
    if not (foreign_worker() and may_have_children()):
        return False
    if not options.named and options.nested != "process" and "siblings" not in _told:
        _told.add("siblings")
        log.warning(
            "this process is one of several children of multiprocessing: calls run on threads, "
            "with its share of the cores; give backend='process' to a pool for processes"
        )
    return options.named


def without_processes(options: Options, plan_: Plan, takes_rng: bool) -> Plan:
    """Plan a call anew whose processes the system does not allow, and which was not asked for any.

    All calls after it go that way at once.
    """
    global _denied
    if not _denied:
        _denied = True
        log.warning(
            "this system lets no processes be started: calls run on threads, or in place; give "
            "backend='process' to a pool for an error that says what is denied"
        )
    in_place = plan_.workers == 1 or (options.seed is not None and not takes_rng)
    plan_.backend = "serial" if in_place else "thread"
    if in_place:
        plan_.workers = 1
    return plan_


def needs_process(options: Options) -> bool:
    """Whether the items of a call must have processes of their own.

    They must where the pool names the backend or a start method, and for what only a process can
    have: a limit, an end after some items, what an initializer leaves behind, devices.
    """
    return bool(
        options.named
        or options.start_method is not None
        or options.timeout is not None
        or options.memory_limit is not None
        or options.tasks_per_worker is not None
        or options.initializer is not None
        or options.finalizer is not None
        or options.devices is not None
    )


def _outer(options: Options, here: Nesting, workers: int) -> Plan:
    """Plan a call whose items go to idle workers of the outer pool as well."""
    wish = workers if options.workers is None else _workers(options.workers, here.cores)
    backend = "outer" if wish > 1 else "serial"
    cores = pool_cores() if wish > 1 else min(here.cores, for_good() or here.cores)
    return Plan(backend, min(wish, workers), here.level + 1, cores)


def _workers(wish: int | None, cores: int) -> int:
    if wish is None:
        return cores
    return wish if wish > 0 else max(1, host.cpu_count() + 1 + wish)
