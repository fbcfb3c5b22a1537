"""Calls that are not waited for: futures of single calls, and of whole ones.

::

    submit ─► SubmitQueues ─► Submissions of this nesting level ─► the engine, in a thread
                                    ▲                                        │
    Future ─────────────────────────┴───────────── result, exception ◄───────┘

On processes that thread has little to do: who submits sends what there is a worker for, and who
waits for a result takes in what comes, for others too. The thread does so where nobody waits.

It is long because a future and the calls that it waits with are settled by each other.
"""

from __future__ import annotations

import contextvars
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import closing, suppress
from functools import partial
from typing import Any, ClassVar

from ..backends import TABLE
from ..engine import run as engine
from ..engine.failures import Failures
from ..engine.plan import plan
from ..errors import ParallelError
from ..options import Options, Resolver
from ..place import recording
from ..place.foreign import in_event_loop
from ..place.nesting import GivenUp, for_itself, given_up, nesting, nesting_level, process_cores
from ..place.sigint import Shield
from ..values.call import Call, apply_parts
from ..values.outcome import Lost, Reply
from ..values.sizer import Sizer
from ..values.source import Chunk, Source
from ..worker.context import ours, within
from .runner import begin

__all__ = ["Submissions", "SubmitQueues", "Translate", "as_it_is", "in_thread"]

SHORT = 0.004  # seconds of a call that a worker may have in advance
Translate = Callable[[BaseException], BaseException]
_Parts = tuple[Any, ...]  # of a call, as `apply_parts` takes them
Asked = Callable[[], bool]  # whether the item that has submitted a call was given up


def as_it_is(error: BaseException) -> BaseException:
    """Translate nothing."""
    return error


class SubmitQueues:
    """Where a pool takes single calls: a queue for each nesting level.

    So no call that an item submits waits behind that very item. When they are no longer referred
    to, they end as soon as all that was submitted is done.

    Parameters
    ----------
    resolve : Resolver
        Gives the options of the pool as they are now.
    translate : callable, optional
        Turns an error into the one that futures get.
    opened : callable, optional
        Called with each queue that is begun.
    """

    def __init__(
        self,
        resolve: Resolver,
        translate: Translate = as_it_is,
        opened: Callable[[Submissions], object] | None = None,
    ) -> None:
        self._resolve = resolve
        self._translate = translate
        self._opened = opened
        self._forget()

    def _forget(self) -> None:
        """Begin anew, as in a forked child, which has none of the threads of its parent."""
        self._pid = os.getpid()
        self._lock = threading.RLock()
        # By level, and by the traces that are open: each has what was submitted meanwhile.
        self._by_level: dict[tuple[int, tuple[str, ...]], Submissions] = {}

    def here(self) -> Submissions:
        """Submissions for who calls from this nesting level; begun if there are none."""
        if self._pid != os.getpid():
            self._forget()
        level = nesting_level()
        with self._lock:
            key = level, recording.targets() if recording.on else ()
            queue = self._by_level.get(key)
            if queue is None or not queue.alive:
                queue = self._by_level[key] = Submissions(self._resolve.of_call(), self._translate)
                weakref.finalize(self, queue.close_soon)
                if self._opened is not None:
                    self._opened(queue)
            return queue

    def all(self) -> list[Submissions]:
        """All that this process has begun."""
        return list(self._by_level.values()) if self._pid == os.getpid() else []


def in_thread(func: Callable[[], Any], *, limited: bool) -> Future[Any]:
    """Run `func` in a thread of its own, in a copy of this context; a future of its result.

    If `limited`, such threads are as many as this process has cores, for each nesting level:
    a thousand calls that an item starts at a time wait for each other.
    """
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            result = context.run(func)
        except BaseException as error:  # noqa: BLE001 - belongs to who asks for the result
            future.set_exception(error)
        else:
            future.set_result(result)

    if limited:
        _Line.here().put(work)
    else:
        begin("amap", work)
    return future


class _Line:
    """Calls of one nesting level that wait for a thread."""

    _lines: ClassVar[dict[tuple[int, int], _Line]] = {}  # by process and level

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._threads = 0
        self._lock = threading.RLock()

    @classmethod
    def here(cls) -> _Line:
        """Line for the caller."""
        return cls._lines.setdefault((os.getpid(), nesting().level), cls())

    def put(self, work: Callable[[], None]) -> None:
        """Run `work` when there is a thread for it."""
        with self._lock:
            if self._threads < process_cores():
                begin("amap", self._serve)  # it looks when it has the lock
                self._threads += 1
            self._waiting.append(work)

    def _serve(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                work = self._waiting.popleft()
            work()
            del work


class SubmittedFuture(Future[Any]):
    """A future of a call that was submitted. Who waits for it does the work of waiting.

    What waits by other means (callbacks, `concurrent.futures.wait`, asyncio) has the thread of the
    submissions do it.
    """

    def __init__(self, stream: Submissions) -> None:
        super().__init__()
        self._stream = stream
        self._wakes: list[Callable[[], None]] = []  # of those who wait for it
        self._waiters = _Watched(self)  # `wait` and `as_completed` enter here

    def result(self, timeout: float | None = None) -> Any:
        """Return the result, or raise what the call has raised."""
        return super().result(timeout if super().done() else self._help(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call has raised."""
        return super().exception(timeout if super().done() else self._help(timeout))

    def _help(self, timeout: float | None) -> float | None:
        """Wait, and do the work of it, until this is done; return what is left of `timeout`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        left = timeout
        while not super().done():
            if deadline is not None:
                left = max(0.0, deadline - time.monotonic())
            if left == 0.0 or not self._stream.wait_for(self, self._wakes, left):
                break
        return left

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Have `fn` called when this is done."""
        super().add_done_callback(fn)
        self.done()

    def done(self) -> bool:
        """Whether the call is over."""
        done = super().done()
        if not done:  # nobody may wait for it who would do the work
            self._stream.attend(self)
        return done

    @property
    def told(self) -> bool:
        """Whether somebody is to be called when this is done."""
        return bool(self._done_callbacks)  # type: ignore[attr-defined]

    def cancel(self) -> bool:
        """Cancel the call if it has not begun."""
        cancelled = super().cancel()
        self._wake()
        return cancelled

    def set_result(self, result: Any) -> None:
        """Set the result, by the submissions."""
        super().set_result(result)
        self._wake()

    def set_exception(self, exception: BaseException | None) -> None:
        """Set the exception, by the submissions."""
        super().set_exception(exception)
        self._wake()

    def _wake(self) -> None:
        self._stream.settled(self)
        for wake in self._wakes[:]:
            wake()


class _Watched(list[Any]):
    """Who waits for a future by other means than to call it; tells when there is somebody."""

    def __init__(self, future: SubmittedFuture) -> None:
        super().__init__()
        self._future = weakref.ref(future)

    def append(self, waiter: Any) -> None:
        """Let somebody wait."""
        super().append(waiter)
        future = self._future()
        if future is not None:
            future.done()


class Submissions(Source):
    """Single calls as they are submitted: one endless call, whose input is a queue.

    Parameters
    ----------
    options : Options
        Of the pool, except that failures are set as exceptions, whatever ``on_error`` says.
    translate : callable
        See :class:`SubmitQueues`.
    """

    endless = True

    def __init__(self, options: Options, translate: Translate = as_it_is) -> None:
        here = nesting()
        self._plan = plan(options, here)
        super().__init__(Sizer(self._plan.workers, 1), lazy=False)
        self._options = options
        self._translate = translate
        self._queue: deque[tuple[int, _Parts, SubmittedFuture, Asked | None]] = deque()
        self._inline = TABLE[self._plan.backend].inline
        self._count = 0  # what was submitted; cancelled calls count, so no number depends on time
        self._futures: dict[int, SubmittedFuture] = {}
        self._attended: set[SubmittedFuture] = set()  # those that are not waited for by a call
        self._attends = False
        self._ended: BaseException | None = None
        self._ending = threading.Lock()
        self._changed = threading.Event()
        self._hurry = threading.Event()
        self._begun = False  # whether it is known how this is run
        self._beginning = threading.Lock()  # held until then
        self._beginning.acquire()
        engine.begin(options, None)
        self._thread = begin("submit", self._serve, ours())

    @property
    def alive(self) -> bool:
        """Whether calls can still be submitted."""
        return self._ended is None and not self._closed

    def put(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Future[Any]:
        """Submit a call."""
        future = SubmittedFuture(self)
        parts: _Parts = func, args, kwargs
        around = within(self._inline)
        if around is not None:
            parts = *parts, around
        with Shield():  # what is half sent would never be settled
            with self._ending:
                if self.alive:
                    self._queue.append((self._count, parts, future, given_up()))
                    self._count += 1
                else:
                    future.set_exception(self._ended or ParallelError("the pool is closed"))
            if not self._changed.is_set():
                self._changed.set()
            # To pickle and send here saves a way, but an event loop has other things to do.
            push = self.wake if in_event_loop() else self.push or self.wake
            if push is not None:
                push()
            if self._ended is not None:
                self._abandon()  # what the other thread left when it ended at this moment
        return future

    def wait(self) -> None:
        """Wait until a call is submitted."""
        if not self.finished:  # as it may be when what was left had been cancelled
            self._changed.wait()
        self._changed.clear()

    def wait_for(
        self, future: SubmittedFuture, wakes: list[Callable[[], None]], timeout: float | None
    ) -> bool:
        """Wait a while for a future, and settle others meanwhile; false where that cannot be."""
        if not self._begun:
            if not self._beginning.acquire(timeout=-1 if timeout is None else timeout):
                return False
            self._beginning.release()
        helping = self.help
        if helping is None:
            if self.meanwhile is not None and threading.current_thread() is self._thread:
                self.meanwhile(partial(Future.done, future))
            return False
        self._attends = False
        helping(partial(Future.done, future), wakes, timeout)
        return True

    @property
    def hurried(self) -> bool:
        """Whether the thread is to do the waiting, since others have other things to do."""
        return bool(self._attended) or self._attends or self._closed

    def attend(self, future: SubmittedFuture) -> None:
        """Have the thread do the waiting for a future, and go on to until somebody waits."""
        hurried = self.hurried
        self._attends = True
        self._attended.add(future)
        if Future.done(future):  # at this moment
            self._attended.discard(future)
        # Who calls this may hold the locks of many futures, so nothing here may wait for one; where
        # the pool's own threads do the waiting, there is nobody to wake.
        wake = self.wake
        if self.help is not None and wake is not None and not hurried:
            wake()

    def settled(self, future: SubmittedFuture) -> None:
        """Take note that a future needs nothing more."""
        self._attended.discard(future)

    def elsewhere(self, chunk: Chunk) -> bool:
        """Whether a future is to be settled by the thread: callbacks may do what they like there.

        In the thread of somebody who waits they could meet locks that he holds.
        """
        future = self._futures.get(chunk.start)
        return future is not None and future.told

    def close_soon(self) -> None:
        """Let the thread end when all that was submitted is done."""
        self.close()
        self._changed.set()
        wake = self.wake
        if wake is not None:
            wake()

    def join(self) -> None:
        """Take no more, and wait until all that was submitted is done."""
        self.close_soon()
        self._thread.join()

    def cancel_queued(self) -> None:
        """Cancel what no worker is free to begin; what waits for another attempt has it at once."""
        futures = []
        with self._lock:
            free = max(0, self._plan.workers - len(self._futures))
            while len(self._queue) > free:
                futures.append(self._queue.pop()[2])
        for future in futures:
            future.cancel()
            future.set_running_or_notify_cancel()  # for those that wait for several futures
        self.last_attempt = True
        self._hurry.set()
        for timer in list(self._later.values()):
            timer.hurry()

    def rest(self, seconds: float) -> None:
        """Let time pass, unless there is to be one attempt more at once."""
        self._hurry.wait(seconds)

    def _draw(self, size: int) -> Chunk | None:  # noqa: ARG002 - one call at a time
        while self._queue:
            index, parts, future, left = self._queue.popleft()
            if future.set_running_or_notify_cancel():
                if left is not None and left():  # its result is the error that its future gets
                    parts = GivenUp, (), {}
                self.drawn = index + 1
                self._futures[index] = future
                return Chunk(index, 1, tuple([part] for part in parts))
        return None

    def take(self) -> Chunk | None:
        """Return the next chunk; what was submitted before closing is still run."""
        with self._lock:
            if self._again:
                return self._again.popleft()
            return None if self.aborted else self._draw(1)

    def depth(self, workers: int, seconds: float) -> int:  # noqa: ARG002 - as for all sources
        """How many calls a worker may have: a few, where they are quick.

        One of them may wait for one behind it: what a worker does not begin is taken back.
        """
        cost = self.sizer.cost
        if not 0.0 < cost < SHORT or self._options.tasks_per_worker is not None:
            return 1
        return 4 if cost < SHORT / 4 else 2

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be taken."""
        return not (self._queue or self._again)

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        if self.aborted is not None:
            return self._closed and not self._again
        return self._closed and not (self._again or self._later or self._queue)

    def _serve(self) -> None:
        for_itself()  # it serves other items as well
        call = Call(apply_parts, ((),), {})
        options = _returning(self._options)
        failures = Failures(options, self, call)
        self.deliver = partial(self._deliver, failures)
        error: BaseException = ParallelError("the pool was terminated")
        try:
            with closing(engine.run_source(call, options, self._plan, self)) as outcomes:
                for outcome in outcomes:
                    if outcome is not None:
                        self._deliver(failures, *outcome)
                    else:
                        self._begin()
                    del outcome  # while this waits, what is done belongs to the caller alone
        except BaseException as problem:  # noqa: BLE001 - told to every future that waits
            error = self._translate(problem)
        self.end()
        with self._ending:
            self._ended = error
        self._begin()
        self._abandon()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._beginning.release()

    def _deliver(self, failures: Failures, chunk: Chunk, outcome: Reply | Lost) -> None:
        failed = isinstance(outcome, Lost) or bool(outcome.raised)  # it may return a Failure, too
        for part in failures.settle(chunk, outcome):
            future = self._futures.pop(part.start, None)
            if future is not None:  # else the end of the stream has settled it
                self._set(future, part.values[0], failed)

    def _abandon(self) -> None:
        """Give what nobody will run any more the error that ended this."""
        # One by one: what another thread takes at this moment, it answers for.
        with suppress(KeyError):
            while True:
                self._futures.popitem()[1].set_exception(self._ended)
        with suppress(IndexError):
            while True:
                future = self._queue.popleft()[2]
                if future.set_running_or_notify_cancel():
                    future.set_exception(self._ended)

    def _set(self, future: Future[Any], value: Any, failed: bool) -> None:
        if failed:
            future.set_exception(self._translate(value.exception))
        elif isinstance(value, GivenUp):
            future.set_exception(value)
        else:
            future.set_result(value)


def _returning(options: Options) -> Options:
    return options.but(on_error="return", progress=False)
