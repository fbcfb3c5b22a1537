"""Threads: helpers hosted by pathos, one set for each nesting level, and the caller itself.

::

    call A ─┐                  ┌─ helper 1 ─┐
    call B ─┼─► level's queue ─┤            ├─► take a chunk, run it, hand it in ─► the call
            │                  └─ helper 2 ─┘
            └── the caller takes chunks as well while it has nothing else to do

A call of n threads engages n - 1 helpers and works along; it never waits for work that nobody
does, so calls nested to any depth cannot lock each other out, and n threads are busy, not n + 1.
At the top level a lazy call engages n helpers and only collects: it has a consumer to serve. So
does an endless one, whose helpers are its own, since its items may wait for those of another.

A call in an item whose number of threads nobody asked for has as many as there are cores for it at
each moment (`place.nesting.room`): between items the caller sees that there are more and engages
further helpers, and a helper sees that its core is somebody else's now, and leaves. Where threads
wait for the interpreter lock, which `locked` finds out, and ``nested="auto"`` allows it, what is
left of the items is handed to idle workers of the outer pool (`helpers`).

A thread cannot be stopped: what runs when a call is given up, as by Ctrl-C or by the error of an
earlier item, goes on until it ends by itself or makes a call, which begins no item any more. Nobody
hears of it. The end of the process waits for it a moment alone.

It is long because calls, helpers and what they hand each other go by one lock.
"""

from __future__ import annotations

import contextvars
import itertools
import os
import queue
import sys
import threading
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Generator
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

from ..options import Options
from ..place import blas
from ..place.importing import whole
from ..place.nesting import GivenUp, add_threads, fellows, process_cores, room
from ..place.sigint import Shield
from ..values.outcome import Reply
from ..values.source import Chunk, Source
from . import locked
from .base import Done, Pool, Setup, Task

__all__ = ["ThreadPool", "helped_by", "pool_for", "prepare", "shutdown"]

GRACE = 0.5  # seconds for which the end waits for items of calls that were left early


class ThreadPool:
    """Runs chunks in threads of this process.

    Parameters
    ----------
    workers : int
    level : int
        Nesting level of the items; each level has helpers of its own.
    setup : Setup
        The user's initializer.
    wished : bool
        Whether somebody asked for that many. Within an item such a call has helpers to itself;
        otherwise calls of a level share them, so that a thousand calls at a time make no more
        threads than there are cores.
    helped : Pool, optional
        Where to go on when threads turn out to wait for the interpreter lock.
    """

    def __init__(
        self,
        workers: int,
        level: int,
        setup: Setup,
        wished: bool,
        helped: Pool | None = None,
    ) -> None:
        self._helped = helped
        self._workers = workers
        self._level = level
        self._setup = setup
        self._wished = wished

    def run(self, task: Task, source: Source) -> Generator[Done | None, None, None]:
        """Run all chunks of `source` in threads, this one included where that serves."""
        helped = None if source.endless else self._helped
        if helped is None:
            yield from self._run(task, source, None)
            return
        lock = locked.Lock(task.func)
        if not lock.known:
            yield from self._run(task, source, lock)
            if source.finished:
                return
        going = helped.run(task, source)
        begun = next(going)
        if lock.known:
            yield begun
        yield from going

    def _run(
        self, task: Task, source: Source, lock: locked.Lock | None
    ) -> Generator[Done | None, None, None]:
        helping = self._level > 1 or not (source.lazy or source.endless)
        follows = self._level > 1 and not self._wished
        cores = room() if follows else None
        workers = self._workers if cores is None else max(self._workers, cores())
        held = _held.get(self._key()) if _held else None
        helping = helping and held is None
        helpers = workers - helping
        if source.total is not None:
            helpers = min(helpers, source.total - helping)
        own = source.endless if self._level == 1 else self._wished
        engaged = workers - helping if self._wished or own else helpers
        staff = _Staff(self._level, self._wished, own, None if held is None else held.helpers)
        if helpers > 0 and held is None:
            try:
                staff.engage(engaged)
            except RuntimeError:  # Python is ending, and starts no thread any more (3.12)
                helping, helpers = True, 0
        least = min(range(self._workers), key=task.threads)
        here = helping and not source.endless
        lent = blas.lent(task.threads(least), task.place(least).cores, here=here)
        ranks = range(helping, helping + helpers)
        job = _Job(task, source, ranks, staff, self._setup, lent, cores, lock)
        try:
            # An endless call takes its share of BLAS threads only while it has something to run.
            with nullcontext() if source.endless else lent:
                yield from self._collect(job, source, helping)
        finally:
            job.close()
            staff.dismiss()

    def _collect(
        self, job: _Job, source: Source, helping: bool
    ) -> Generator[Done | None, None, None]:
        """Yield what the threads of a job hand in; run chunks here in between, if `helping`."""
        if helping:
            self._setup()
        job.engage()
        yield None
        while True:
            if source.aborted is not None:
                raise source.aborted
            if job.finished.empty():
                if helping and job.help_out():
                    continue
                if job.over():
                    return
            outcome = job.finished.get()
            if isinstance(outcome, BaseException):
                raise outcome
            if outcome is not None:
                yield outcome
                del outcome  # it belongs to the consumer alone from now on
                job.engage()

    def close(self) -> None:
        """Nothing to end: helpers are shared."""

    def _key(self) -> tuple[Any, ...]:
        return self._level, self._workers, self._setup.number

    def hold(self) -> None:
        """Have threads run the initializer now, and keep them for calls with the same one."""
        with _lock:
            held = _held.get(self._key())
            if held is None:
                held = _held[self._key()] = _Held(self._level, self._workers, self._setup)
            held.holders.add(self)

    def settle(self) -> None:
        """Wait until the initializer is done in all of these threads."""
        held = _held.get(self._key())
        if held is not None:
            held.settle()

    def let_go(self) -> None:
        """Keep them no longer; they end when what they run is over."""
        with _lock:
            held = _held.get(self._key())
            if held is None or self not in held.holders:
                return
            held.holders.discard(self)
            if held.holders:
                return
            del _held[self._key()]
        held.end()


class _Job:
    """One call: where its threads find chunks, and leave what came of them.

    A helper that finds no chunk leaves for other calls; it is engaged again when there may be
    one. So a call whose consumer has paused holds no thread that another call waits for. `lent` is
    its share of BLAS threads, which an endless one takes only while items of it run. `room` tells
    how many threads may work on it at the moment, where that changes.
    """

    def __init__(
        self,
        task: Task,
        source: Source,
        ranks: range,
        staff: _Staff,
        setup: Setup,
        lent: blas.lent,
        room: Callable[[], int] | None,
        lock: locked.Lock | None,
    ) -> None:
        self._interpreter = lock
        self._task = task
        self._source = source
        self._ranks = ranks
        self._idle_ranks = list(reversed(ranks))
        self._staff = staff
        self._room = room
        self._seen = ranks.stop  # how many might work when helpers were engaged
        self._setup = setup
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._lent = lent if source.endless else None
        self._share = lent
        self._borrowers = 0  # threads that run an item at this moment
        self._running: set[int] = set()  # ranks
        self._stopped = False
        self._failed = sys.maxsize  # the first item that has raised, where that ends the call
        self.finished: queue.SimpleQueue[Done | BaseException | None] = queue.SimpleQueue()
        source.wake = self._nudge

    def engage(self) -> None:
        """Let all helpers look for chunks."""
        cores = None if self._room is None else self._room()
        if cores is not None and cores != self._seen:
            self._follow(cores)
        with self._lock:
            waiting: list[int] = []
            stopped = self._stopped or self._to_be_handed_over()
            while self._idle_ranks and not stopped and not self._source.finished:
                rank = self._idle_ranks.pop()
                if cores is not None and rank >= cores:
                    waiting.append(rank)
                else:
                    self._staff.put(partial(self._help, rank))
            self._idle_ranks += waiting

    def _follow(self, cores: int) -> None:
        """Have as many threads as there are cores now, and give libraries what is left for each."""
        self._seen = cores
        total = self._source.total
        stop = cores if total is None else min(cores, total)
        with self._lock:
            more = range(self._ranks.stop, stop)
        if more:
            try:
                self._staff.engage(len(more), cores - 1)
            except RuntimeError:  # Python is ending, see above
                self._room = None
                return
            with self._lock:
                self._ranks = range(self._ranks.start, stop)
                self._idle_ranks[:0] = reversed(more)
        if self._task.blas_threads is None:
            each = max(1, cores // (stop or 1))
            self._share.change(each, each)

    def _to_stop(self, rank: int) -> bool:
        """Whether a thread is to hand in what it has, between two items."""
        if self._room is None or self._to_be_handed_over():
            return self._to_be_handed_over()
        cores = self._room()
        if rank > 0:
            return rank >= cores
        return cores > self._seen or len(self._running) > cores

    def help_out(self) -> bool:
        """Run one chunk in the thread of the caller, if there is one."""
        return self._context.run(self.step, 0)

    def _help(self, rank: int) -> None:
        self._context.copy().run(self._helping, rank)

    def _helping(self, rank: int) -> None:
        try:
            if self._source.endless and not self._running:
                self._setup.renew()
            self._setup()
            while self.step(rank):
                pass
        except BaseException as error:  # noqa: BLE001 - the caller must know of it
            self.finished.put(error)
        else:
            self._tell()

    def step(self, rank: int) -> bool:
        """Run one chunk, if there is one."""
        if self._room is None:
            return self._step(rank, None)
        cores = self._room()
        if rank == 0 or rank >= cores:  # the core is somebody else's at the moment
            return self._step(rank, cores)
        add_threads(1)  # before the look that decides
        try:
            return self._step(rank, self._room())
        finally:
            add_threads(-1)

    def _step(self, rank: int, cores: int | None) -> bool:
        """Run one chunk, if there is one and the rank is among those that have `cores`."""
        with self._lock:
            none = self._stopped or self._to_be_handed_over()
            if cores is not None:  # until all have seen that cores are wanted back, fewer begin
                none = none or max(rank, len(self._running)) >= cores
            chunk = None if none else self._source.take()
            if chunk is None:
                if rank in self._ranks:
                    self._idle_ranks.append(rank)
                return False
            self._running.add(rank)
        try:
            self._borrow()
            try:
                threads = self._task.threads(rank)
                if cores is not None and self._task.blas_threads is None:
                    threads = max(threads, self._spare(rank, cores))
                blas.hold(threads)  # also what has been loaded since
                done = self._run(chunk, rank)
            finally:
                self._give_back()  # who gets the result may set what libraries use, at once
            self._see(*done)
            if self._source.deliver is None:
                self.finished.put(done)
            else:
                self._source.deliver(*done)
            del done
        except KeyboardInterrupt as error:
            if threading.current_thread() is threading.main_thread():
                raise
            self.finished.put(error)
        except BaseException as error:  # noqa: BLE001 - an error of ours: the caller must know
            unheard = isinstance(error, GivenUp) and self._given_up(chunk)
            self.finished.put(None if unheard else error)
        finally:
            with self._lock:
                self._running.discard(rank)
        return True

    def _see(self, chunk: Chunk, reply: Reply) -> None:
        """Give up what comes after an item that has raised, where that ends the call."""
        if reply.raised and self._task.stop_at_error:
            with self._lock:
                self._failed = min(self._failed, chunk.start + reply.raised[0].offset)
            self._source.cut(self._failed)

    def _given_up(self, chunk: Chunk) -> bool:
        """Whether nobody waits any more for the items of a chunk."""
        return self._stopped or self._source.aborted is not None or chunk.start > self._failed

    def _borrow(self) -> None:
        with self._lock:
            if self._lent is not None and not self._borrowers:
                self._lent.__enter__()
            self._borrowers += 1

    def _give_back(self) -> None:
        with self._lock:
            self._borrowers -= 1
            if self._lent is not None and not self._borrowers:
                self._lent.__exit__(None, None, None)

    def _run(self, chunk: Chunk, rank: int) -> tuple[Chunk, Reply]:
        stop, spare = partial(self._to_stop, rank), partial(self._spare, rank)
        given_up = partial(self._given_up, chunk)
        if self._interpreter is None:
            reply = self._task.run(chunk, rank, stop=stop, spare=spare, given_up=given_up)
        else:
            with self._interpreter.measured(lambda: len(self._running)):
                reply = self._task.run(chunk, rank, stop=stop, spare=spare, given_up=given_up)
        if not self._source.lazy:
            return chunk, reply
        with self._lock:  # the consumer may pause, and other threads are to know by then
            self._source.sizer.weigh_results(len(reply.values), reply.nbytes)
        return chunk, reply._replace(nbytes=0)

    def _spare(self, rank: int, cores: int | None = None) -> int:
        """Cores of the thread `rank` when some of the others will get nothing to do any more."""
        if cores is None:
            cores = self._task.cores if self._room is None else self._room()
        with self._lock:
            if rank not in self._running:
                return 0
            total = self._source.total
            if self._source.finished:
                if len(self._running) == 1:
                    return cores
                base, extra = divmod(cores, len(self._running))
                return base + (sorted(self._running).index(rank) < extra)
            if self._room is None or not total:
                return 0
            base, extra = divmod(cores, min(cores, total))
            return base + (rank < extra)

    def over(self) -> bool:
        """Whether nothing runs and nothing will, here."""
        with self._lock:
            over = self._source.finished or self._to_be_handed_over()
            return over and not self._running and self.finished.empty()

    def _to_be_handed_over(self) -> bool:
        """Whether threads wait for the interpreter lock, and other processes are to go on."""
        return self._interpreter is not None and self._interpreter.found

    def _nudge(self) -> None:
        self.engage()
        self._tell()

    def _tell(self) -> None:
        """Let the thread of the call look, unless all is run and delivered without it."""
        source, alone = self._source, self._ranks.start == 0
        if source.deliver is None or not alone or source.finished or source.aborted is not None:
            self.finished.put(None)

    def close(self) -> None:
        """Take no more chunks; an item that runs ends when it ends."""
        self._source.wake = None
        self._stopped = True
        if self._running or not self._source.finished:
            self._staff.leave(self)

    @property
    def running(self) -> int:
        """How many threads run items of it."""
        return len(self._running)


# --- helpers ------------------------------------------------------------------------------------


class _Staff:
    """The helpers that one call has engaged.

    Parameters
    ----------
    level : int
    wished : bool
    own : bool
        See `_engage`.
    held : _Helpers, optional
        Those that are kept for such calls, and that are as many as it wants.
    """

    def __init__(self, level: int, wished: bool, own: bool, held: _Helpers | None) -> None:
        self._of = level, wished, own
        self._engaged = [] if held is None else [(held, 0)]

    def engage(self, threads: int, most: int = 0) -> None:
        """Have so many threads more; a level has `most` for all its calls, or its usual number."""
        level, wished, own = self._of
        self._engaged.append((_engage(level, threads, wished, own, most), threads))

    def put(self, work: Callable[[], None]) -> None:
        """Let one of them run `work`."""
        self._engaged[-1][0].put(work)

    def leave(self, job: _Job) -> None:
        """Let them know a job of which items may run when nobody waits for them any more."""
        for helpers, _ in self._engaged:
            helpers.left.add(job)

    def dismiss(self) -> None:
        """Be in need of them no more."""
        while self._engaged:
            helpers, threads = self._engaged.pop()
            helpers.dismiss(threads)


class _Helpers:
    """Threads hosted by pathos pools, that run what is put to them.

    They are as many as the calls that share them want together, but no more than `most`, or than
    one call alone wants: calls that are nested in a share of cores want what is left of that, so
    that together they never want more than the process has.

    Attributes
    ----------
    left : set of _Job
        Calls that were left early: nobody waits for their items any more.
    """

    def __init__(self, level: int, own: bool) -> None:
        self.left: weakref.WeakSet[_Job] = weakref.WeakSet()
        self._work: deque[Callable[[], None]] = deque()
        self._calls: queue.SimpleQueue[bool] = queue.SimpleQueue()  # one a work; at the end, False
        self._level = level
        self._own = own
        self._wanted = 0
        self._threads = 0
        self._busy = 0  # put and not finished
        self._closed = False
        self._pools: list[Any] = []

    def engage(self, threads: int, most: int) -> None:
        """Have threads for one call more."""
        wanted = self._wanted + threads
        more = max(threads, min(wanted, most)) - self._threads
        if more > 0:
            self._pools.append(_threads(more, self._serve))
            self._threads += more
        self._wanted = wanted

    def put(self, work: Callable[[], None]) -> None:
        """Let one of the threads run `work`; one of their successors, after a shutdown."""
        with _lock:
            if not self._closed:
                self._busy += 1
                self._work.append(work)
                self._calls.put(True)
                return
        _engage(self._level, self._threads, wished=False, own=False).put(work)

    def dismiss(self, threads: int) -> None:
        """Be wanted by a call no more; what one's own have not begun for it is not run."""
        with _lock:
            self._wanted -= threads
            if self._own and not (self._wanted or self._closed):
                self._drop()
            self._settle()

    def close(self, wait: bool = True) -> None:
        """End the threads; what they run is waited for, unless told not to.

        Not what was left early, which may never end: it gets a moment.
        """
        with _lock:
            self._closed = True
        for _ in range(self._threads):
            self._calls.put(False)
        wait = wait and self._over()
        for pool in self._pools:
            pool.close()
            if wait:
                pool.join()
                pool.clear()

    def _over(self) -> bool:
        """Wait for all that is waited for; tell whether that is all there is."""
        until = time.monotonic() + GRACE
        while given_up := self._given_up():
            if self._busy <= given_up and time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    def _given_up(self) -> int:
        """How many threads run items of calls that were left early."""
        while True:
            try:
                return sum(job.running for job in self.left)
            except RuntimeError:  # another thread has just left a call
                continue

    def _serve(self) -> None:
        while self._calls.get():
            try:
                work = self._work.popleft()
            except IndexError:  # it has been dropped
                continue
            work()
            del work
            with _lock:
                self._busy -= 1
                self._settle()

    def _drop(self) -> None:
        """Forget what was put and not begun, whose threads have not woken up yet.

        The next call would else find them busy, and have others started, call after call. Of a
        thread that waits for the interpreter the work is here, its call is not from Python 3.13 on.
        """
        with suppress(IndexError):
            while True:
                self._work.pop()
                self._busy -= 1
        with suppress(queue.Empty):
            while True:
                self._calls.get_nowait()

    def _settle(self) -> None:
        """Become free for another call, if these are one call's own, and it is over."""
        idle = _idle[self._threads]
        if self._own and not (self._wanted or self._busy or self._closed) and self not in idle:
            idle.append(self)


class _Held:
    """Threads that have run an initializer before any call, and are kept for calls that want it.

    It may be all that they are for, as where it serves a queue, and never return.

    Attributes
    ----------
    helpers : _Helpers
    holders : set of ThreadPool
        Who keeps them.
    """

    def __init__(self, level: int, threads: int, setup: Setup) -> None:
        self.helpers = _Helpers(level, own=False)
        self.holders: set[ThreadPool] = set()
        self._setup = setup
        self._together = threading.Barrier(threads)  # one for each, none for who is quick
        self._settled = [threading.Event() for _ in range(threads)]
        self.helpers.engage(threads, threads)
        context = contextvars.copy_context()
        for settled in self._settled:
            self.helpers.put(partial(context.copy().run, self._begin, settled))

    def _begin(self, settled: threading.Event) -> None:
        try:
            self._together.wait()
            self._setup()
        except BaseException:  # noqa: BLE001 - the first call meets it, and raises it
            pass
        finally:
            settled.set()

    def settle(self) -> None:
        """Wait until the initializer is done in all threads."""
        for settled in self._settled:
            settled.wait()

    def end(self) -> None:
        """End the threads; not those whose initializer goes on, which end with the process."""
        self.helpers.close(wait=all(settled.is_set() for settled in self._settled))


def _threads(number: int, serve: Callable[[], None]) -> Any:
    with Shield("pathos.threading" not in sys.modules):  # see `engine`
        hosting = whole("pathos.threading")

    complete: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def life() -> None:
        if not complete.get():
            raise SystemExit  # of this thread
        serve()

    # The initializer is a helper's whole life: pathos owns the thread, its queue is idle.
    name = f"parallelkit-{os.getpid()}-{next(_ids)}"
    started = False
    try:
        hosted = hosting.ThreadPool(nodes=number, id=name, initializer=life)
        started = True
    except AttributeError as error:  # what has begun of it cannot be terminated
        raise error.__context__ or error from None
    finally:
        for _ in range(number):
            complete.put(started)
    return hosted


_ids = itertools.count()
_lock = threading.RLock()  # a call may be closed by the garbage collector, anywhere
_shared: dict[tuple[int, int], _Helpers] = {}  # by level, and by their number if that is a wish
_owned: list[_Helpers] = []
_held: dict[tuple[Any, ...], _Held] = {}
_idle: defaultdict[int, list[_Helpers]] = defaultdict(list)  # of the owned ones, by their number


def _engage(level: int, threads: int, wished: bool, own: bool, most: int = 0) -> _Helpers:
    """Helpers of a level: those that its calls share, or some for one call alone."""
    with _lock:
        if own and _idle[threads]:
            helpers = _idle[threads].pop()
        elif own:
            helpers = _Helpers(level, own)
            _owned.append(helpers)
        else:
            key = level, threads if wished else 0
            helpers = _shared.get(key) or _shared.setdefault(key, _Helpers(level, own))
        helpers.engage(threads, threads if wished or own else max(most, process_cores() - 1))
        return helpers


def shutdown() -> None:
    """End all helpers; items that still run are waited for."""
    with _lock:
        helpers, held = [*_shared.values(), *_owned], list(_held.values())
        _shared.clear()
        _held.clear()
        _owned.clear()
        _idle.clear()
    for helper in helpers:
        helper.close()
    for each in held:
        each.end()


def _after_fork() -> None:
    """In a forked child the threads are gone: forget them."""
    global _lock
    _lock = threading.RLock()
    _shared.clear()
    _held.clear()
    _owned.clear()
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def pool_for(options: Options, workers: int, level: int, wished: bool) -> ThreadPool:
    """Pool for one call."""
    setup = Setup(options.initializer, options.initargs, options.giver)
    return ThreadPool(workers, level, setup, wished, None if wished else helped_by(options))


def helped_by(options: Options) -> Pool | None:
    """Idle workers of the outer pool, where ``nested="auto"`` says that they may help.

    Not where there is an initializer: they have had that of the outer pool.
    """
    if options.nested != "auto" or options.initializer is not None or (workers := fellows()) < 2:
        return None
    from .helpers import OuterPool  # what it imports is a worker's

    return OuterPool(workers)


def prepare(options: Options, _: object = None) -> None:
    """Nothing has to be there before the first call."""
