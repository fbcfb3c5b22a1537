"""Calls that are not waited for: futures, each set by a thread that runs the engine."""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from typing import Any

from .call import Call, Delayed, apply_call
from .chunking import Chunk, Sizer, Source
from .collect.failures import Failures
from .engine import run_source
from .errors import ParallelError
from .levels import nesting
from .options import Options
from .outcome import Failure
from .plan import plan

__all__ = ["Submissions", "in_thread"]


def in_thread(func: Callable[[], Any]) -> Future[Any]:
    """Run `func` in a thread of its own, in a copy of this context; a future of its result."""
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

    threading.Thread(target=work, name="parallelkit-amap", daemon=True).start()
    return future


class Submissions(Source):
    """Single calls as they are submitted: one endless call, whose input is a queue.

    They have nothing to do with each other: none is sent to a worker that is still busy with
    another one (which may take for ever, or wait for this one), and none keeps the thread busy that
    sets the futures.

    Parameters
    ----------
    options : Options
        Of the pool, except that failures are set as exceptions, whatever ``on_error`` says.
    """

    served = True

    def __init__(self, options: Options) -> None:
        here = nesting()
        self._plan = plan(options, here)
        super().__init__(_OneByOne(self._plan.workers, 1), lazy=False)
        self._options = options
        self._queue: deque[tuple[Delayed, Future[Any]]] = deque()
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
                self._queue.append((call, future))
            else:
                future.set_exception(self._ended or ParallelError("the pool is closed"))
        self._changed.set()
        push = self.push or self.wake
        if push is not None:
            push()
        if self._ended is not None:
            self._abandon()  # what the other thread left when it ended at this moment
        return future

    def wait(self) -> None:
        """Wait until a call is submitted."""
        self._changed.wait()
        self._changed.clear()

    def close_soon(self) -> None:
        """Let the thread end when all that was submitted is done."""
        self.close()
        self._changed.set()
        if self.wake is not None:
            self.wake()

    def join(self) -> None:
        """Take no more, and wait until all that was submitted is done."""
        self.close_soon()
        self._thread.join()

    def _draw(self, size: int) -> Chunk | None:  # noqa: ARG002 - one call at a time
        while self._queue:
            call, future = self._queue.popleft()
            if future.set_running_or_notify_cancel():
                begin, self.drawn = self.drawn, self.drawn + 1
                self._futures[begin] = future
                return Chunk(begin, 1, ([call],))
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
        error: BaseException = ParallelError("the pool was terminated")
        try:
            with closing(run_source(call, options, self._plan, self)) as outcomes:
                for outcome in outcomes:
                    if outcome is None:
                        continue
                    for part in failures.settle(*outcome):
                        _set(self._futures.pop(part.start), part.values[0])
        except BaseException as problem:  # noqa: BLE001 - told to every future that waits
            error = problem
        with self._ending:
            self._ended = error
        self._abandon()

    def _abandon(self) -> None:
        """Give what nobody will run any more the error that ended this."""
        error = self._ended
        with self._ending:
            begun, queued = list(self._futures.values()), [f for _, f in self._queue]
            self._futures.clear()
            self._queue.clear()
        begun += [future for future in queued if future.set_running_or_notify_cancel()]
        for future in begun:
            if not future.done():
                future.set_exception(error)


class _OneByOne(Sizer):
    """Learns nothing of how long items take, so that none is sent in advance."""

    def observe(self, items: int, seconds: float, nbytes: int = 0) -> None:
        """Take no notice."""


def _set(future: Future[Any], value: Any) -> None:
    if isinstance(value, Failure):
        future.set_exception(value.exception)
    else:
        future.set_result(value)


def _returning(options: Options) -> Options:
    from dataclasses import replace

    return replace(options, on_error="return", progress=False)
