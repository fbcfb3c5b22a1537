"""Calls that are not waited for: futures, each set by a thread that runs the engine.

::

    submit ─► Desk ─► Submissions of this nesting level ─► the engine, in a thread of its own
                            ▲                                        │
    Future ─────────────────┴───────────── result, exception ◄───────┘
"""

from __future__ import annotations

import contextvars
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from ..engine.failures import Failures
from ..engine.plan import plan
from ..engine.run import run_source
from ..errors import ParallelError
from ..options import Options
from ..place import recording
from ..place.nesting import nesting, process_cores
from ..values.call import Call, Delayed, apply_call
from ..values.outcome import Failure, Lost, Reply
from ..values.source import Chunk, Sizer, Source

__all__ = ["Desk", "Submissions", "Translate", "as_it_is", "in_thread"]

Translate = Callable[[BaseException], BaseException]


def as_it_is(error: BaseException) -> BaseException:
    """Translate nothing."""
    return error


class Desk:
    """Where a pool takes single calls: one stream of submissions for each nesting level.

    So no call that an item submits waits behind that very item. When the desk is no longer
    referred to, its streams end as soon as all that was submitted is done.

    Parameters
    ----------
    resolve : callable
        Gives the options of the pool as they are now.
    translate : callable, optional
        Turns an error into the one that futures get.
    opened : callable, optional
        Called with each stream that is begun.
    """

    def __init__(
        self,
        resolve: Callable[[], Options],
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
        self._streams: dict[tuple[int, tuple[str, ...]], Submissions] = {}

    def here(self) -> Submissions:
        """Submissions for who calls from this nesting level; begun if there are none."""
        if self._pid != os.getpid():
            self._forget()
        options, level = self._resolve(), nesting().level
        with self._lock:
            key = level, recording.targets() if recording.on else ()
            stream = self._streams.get(key)
            if stream is None or not stream.alive:
                stream = self._streams[key] = Submissions(options, self._translate)
                weakref.finalize(self, stream.close_soon)
                if self._opened is not None:
                    self._opened(stream)
            return stream

    def streams(self) -> list[Submissions]:
        """All that this process has begun."""
        return list(self._streams.values()) if self._pid == os.getpid() else []


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
        _start(work)
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
                _start(self._serve)  # it looks when it has the lock
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


def _start(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="parallelkit-amap", daemon=True).start()


class _OneByOne(Sizer):
    """One call a chunk, and none in advance: it might wait behind one that waits for it."""

    @property
    def seconds(self) -> float:
        """Not known, whatever was seen: so no worker is sent a second chunk."""
        return 0.0


class Submissions(Source):
    """Single calls as they are submitted: one endless call, whose input is a queue.

    Parameters
    ----------
    options : Options
        Of the pool, except that failures are set as exceptions, whatever ``on_error`` says.
    translate : callable
        See :class:`Desk`.
    """

    endless = True

    def __init__(self, options: Options, translate: Translate = as_it_is) -> None:
        here = nesting()
        self._plan = plan(options, here)
        super().__init__(_OneByOne(self._plan.workers, 1), lazy=False)
        self._options = options
        self._translate = translate
        self._queue: deque[tuple[int, Delayed, Future[Any]]] = deque()
        self._count = 0  # what was submitted; cancelled calls count, so no number depends on time
        self._futures: dict[int, Future[Any]] = {}
        self._ended: BaseException | None = None
        self._ending = threading.Lock()
        self._changed = threading.Event()
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._serve,), name="parallelkit-submit", daemon=True
        )
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether calls can still be submitted."""
        return self._ended is None and not self._closed

    def put(self, call: Delayed) -> Future[Any]:
        """Submit a call."""
        future: Future[Any] = Future()
        with self._ending:
            if self.alive:
                self._queue.append((self._count, call, future))
                self._count += 1
            else:
                future.set_exception(self._ended or ParallelError("the pool is closed"))
        self._changed.set()
        # To pickle and send here saves a way, but an event loop has other things to do.
        push = self.wake if _in_event_loop() else self.push or self.wake
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
        """Cancel what no worker is free to begin."""
        futures = []
        with self._lock:
            free = max(0, self._plan.workers - len(self._futures))
            while len(self._queue) > free:
                futures.append(self._queue.pop()[2])
        for future in futures:
            future.cancel()
            future.set_running_or_notify_cancel()  # for those that wait for several futures

    def _draw(self, size: int) -> Chunk | None:  # noqa: ARG002 - one call at a time
        while self._queue:
            index, call, future = self._queue.popleft()
            if future.set_running_or_notify_cancel():
                self.drawn = index + 1
                self._futures[index] = future
                return Chunk(index, 1, ([call],))
        return None

    def take(self) -> Chunk | None:
        """Return the next chunk; what was submitted before closing is still run."""
        with self._lock:
            if self._again:
                return self._again.popleft()
            return None if self.aborted else self._draw(1)

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self._closed and not self._again and (bool(self.aborted) or not self._queue)

    def _serve(self) -> None:
        call = Call(apply_call, ((),), {})
        options = _returning(self._options)
        failures = Failures(options, self, call)
        self.deliver = partial(self._deliver, failures)
        error: BaseException = ParallelError("the pool was terminated")
        try:
            with closing(run_source(call, options, self._plan, self)) as outcomes:
                for outcome in outcomes:
                    if outcome is not None:
                        self._deliver(failures, *outcome)
                    del outcome  # while this waits, what is done belongs to the caller alone
        except BaseException as problem:  # noqa: BLE001 - told to every future that waits
            error = self._translate(problem)
        with self._ending:
            self._ended = error
        self._abandon()

    def _deliver(self, failures: Failures, chunk: Chunk, outcome: Reply | Lost) -> None:
        for part in failures.settle(chunk, outcome):
            future = self._futures.pop(part.start, None)
            if future is not None:  # else the end of the stream has settled it
                self._set(future, part.values[0])

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

    def _set(self, future: Future[Any], value: Any) -> None:
        if isinstance(value, Failure):
            future.set_exception(self._translate(value.exception))
        else:
            future.set_result(value)


def _in_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    running = getattr(asyncio, "_get_running_loop", None)  # another thread may be importing it
    return running is not None and running() is not None


def _returning(options: Options) -> Options:
    return replace(options, on_error="return", progress=False)
