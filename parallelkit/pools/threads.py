"""Threads: helpers hosted by pathos, one set for each nesting level, and the caller itself.

::

    call A ─┐                  ┌─ helper 1 ─┐
    call B ─┼─► level's queue ─┤            ├─► take a chunk, run it, hand it in ─► the call
            │                  └─ helper 2 ─┘
            └── the caller takes chunks as well while it has nothing else to do

A call of n threads engages n - 1 helpers and works along; it never waits for work that nobody
does, so calls nested to any depth cannot lock each other out, and n threads are busy, not n + 1.
A lazy call at the top level engages n helpers and only collects: it has a consumer to serve. So
does an endless one, whose helpers are its own, since its items may wait for those of another.
"""

from __future__ import annotations

import contextvars
import itertools
import os
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import ExitStack, nullcontext
from functools import partial

from .. import blas
from ..chunking import Chunk, Source
from .base import Done, Setup, Task

__all__ = ["ThreadPool", "shutdown"]


class ThreadPool:
    """Runs chunks in threads of this process.

    Parameters
    ----------
    workers : int
    level : int
        Nesting level of the items; each level has helpers of its own.
    setup : Setup
        The user's initializer.
    own : bool
        Whether each call has helpers to itself, as many as were asked for. Otherwise calls of
        the same level share them, so that many calls make no more threads than one.
    """

    def __init__(self, workers: int, level: int, setup: Setup, own: bool) -> None:
        self._workers = workers
        self._level = level
        self._setup = setup
        self._own = own

    def run(self, task: Task, source: Source) -> Generator[Done | None, None, None]:
        """Run all chunks of `source` in threads, this one included where that serves."""
        helping = not source.endless and (not source.lazy or self._level > 1)
        own = source.endless or self._own
        helpers = self._workers - helping
        if source.total is not None:
            helpers = min(helpers, source.total - helping)
        crew = _engage(self._level, self._workers - helping, own) if helpers > 0 else None
        hand_out = _nobody if crew is None else crew.put
        job = _Job(task, source, range(helping, helping + helpers), hand_out, self._setup)
        try:
            # An endless call takes its share of BLAS threads only while it has something to run.
            with nullcontext() if source.endless else blas.lent(task.threads(0)):
                yield from self._collect(job, source, helping)
        finally:
            job.close()
            if crew is not None and own:
                crew.dismiss()

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


class _Job:
    """One call: where its threads find chunks, and leave what came of them.

    A helper that finds no chunk leaves for other calls; it is engaged again when there may be
    one. So a call whose consumer has paused holds no thread that another call waits for.
    """

    def __init__(
        self,
        task: Task,
        source: Source,
        ranks: range,
        hand_out: Callable[[Callable[[], None]], None],
        setup: Setup,
    ) -> None:
        self._task = task
        self._source = source
        self._ranks = ranks
        self._idle_ranks = list(reversed(ranks))
        self._hand_out = hand_out
        self._setup = setup
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._running = 0
        self._lent = ExitStack()  # BLAS threads, from the first item that runs to the last
        self._stopped = False
        self.finished: queue.SimpleQueue[Done | BaseException | None] = queue.SimpleQueue()
        source.wake = self._nudge

    def engage(self) -> None:
        """Let all helpers look for chunks."""
        with self._lock:
            while self._idle_ranks and not self._stopped and not self._source.finished:
                self._hand_out(partial(self._help, self._idle_ranks.pop()))

    def help_out(self) -> bool:
        """Run one chunk in the thread of the caller, if there is one."""
        return self._context.run(self.step, 0)

    def _help(self, rank: int) -> None:
        self._context.copy().run(self._helping, rank)

    def _helping(self, rank: int) -> None:
        try:
            self._setup()
        except BaseException as error:  # noqa: BLE001 - an initializer's: the caller must know
            self.finished.put(error)
            return
        while self.step(rank):
            pass
        self._tell()

    def step(self, rank: int) -> bool:
        """Run one chunk, if there is one."""
        with self._lock:
            chunk = None if self._stopped else self._source.take()
            if chunk is None:
                if rank in self._ranks:
                    self._idle_ranks.append(rank)
                return False
            self._running += 1
            if self._source.endless and self._running == 1:
                self._lent.enter_context(blas.lent(self._task.threads(0)))
        try:
            blas.hold(self._task.threads(rank))  # also what has been loaded since
            done = self._run(chunk, rank)
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
            self.finished.put(error)
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._lent.close()
        return True

    def _run(self, chunk: Chunk, rank: int) -> Done:
        reply = self._task.run(chunk.columns, chunk.size, rank, stop=lambda: self._stopped)
        done = len(reply.values)
        if done < chunk.size and not (reply.raised and self._task.stop_at_error):
            self._source.put_back(chunk.part(done, chunk.size))
        self._source.sizer.observe(done, reply.seconds)
        return chunk if done == chunk.size else chunk.part(0, done), reply

    def over(self) -> bool:
        """Whether nothing runs and nothing will."""
        with self._lock:
            return self._source.finished and not self._running and self.finished.empty()

    def _nudge(self) -> None:
        self.engage()
        self._tell()

    def _tell(self) -> None:
        """Let the thread of the call look, unless all is delivered without it."""
        source = self._source
        if source.deliver is None or source.finished or source.aborted is not None:
            self.finished.put(None)

    def close(self) -> None:
        """Take no more chunks; an item that runs ends when it ends."""
        self._source.wake = None
        self._stopped = True


# --- helpers ------------------------------------------------------------------------------------


class _Helpers:
    """Threads of one level, hosted by a pathos pool, that run what is put to them."""

    def __init__(self, key: tuple[int, int]) -> None:
        from pathos.threading import ThreadPool as PathosThreadPool

        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._key = key
        self._busy = 0  # put and not finished
        self._closed = False
        self._dismissed = False
        self._pool = PathosThreadPool(
            nodes=key[1],
            id=f"parallelkit-{os.getpid()}-{next(_ids)}",
            # The initializer is the helper's whole life: pathos owns the thread, its queue is idle.
            initializer=self._serve,
        )

    def put(self, work: Callable[[], None]) -> None:
        """Let one of the threads run `work`; one of their successors, after a shutdown."""
        with _lock:
            if not self._closed:
                self._busy += 1
                self._queue.put(work)
                return
        _engage(*self._key, own=False).put(work)

    def dismiss(self) -> None:
        """Be free for another call, when all that was put is finished."""
        with _lock:
            self._dismissed = True
            self._settle()

    def engage(self) -> None:
        """Belong to one call until it dismisses these threads."""
        self._dismissed = False

    def close(self) -> None:
        """End the threads; what they run is waited for."""
        with _lock:
            self._closed = True
        for _ in range(self._key[1]):
            self._queue.put(None)
        self._pool.close()
        self._pool.join()
        self._pool.clear()

    def _serve(self) -> None:
        while (work := self._queue.get()) is not None:
            work()
            del work
            with _lock:
                self._busy -= 1
                self._settle()

    def _settle(self) -> None:
        free = self._dismissed and not self._busy and not self._closed
        if free and self not in _idle[self._key]:
            _idle[self._key].append(self)


_ids = itertools.count()
_lock = threading.RLock()  # a call may be closed by the garbage collector, anywhere
_shared: dict[tuple[int, int], _Helpers] = {}  # by level and number of threads
_owned: list[_Helpers] = []
_idle: defaultdict[tuple[int, int], list[_Helpers]] = defaultdict(list)  # of the owned ones


def _engage(level: int, threads: int, own: bool) -> _Helpers:
    """Helpers of a level: those that its calls share, or some for one call alone."""
    key = level, threads
    with _lock:
        if not own:
            if key not in _shared:
                _shared[key] = _Helpers(key)
            return _shared[key]
        if _idle[key]:
            helpers = _idle[key].pop()
        else:
            helpers = _Helpers(key)
            _owned.append(helpers)
        helpers.engage()
        return helpers


def _nobody(work: Callable[[], None]) -> None:
    """Stand for helpers where none are needed: there are no ranks to give work to."""


def shutdown() -> None:
    """End all helpers; items that still run are waited for."""
    with _lock:
        helpers = [*_shared.values(), *_owned]
        _shared.clear()
        _owned.clear()
        _idle.clear()
    for helper in helpers:
        helper.close()


def _after_fork() -> None:
    """In a forked child the threads are gone: forget them."""
    global _lock
    _lock = threading.RLock()
    _shared.clear()
    _owned.clear()
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
