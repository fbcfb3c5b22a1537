"""Worker processes: a call's way through a crew that is kept warm.

Crews are shared: a call gets the one with its settings, whoever started it. A few idle ones are
kept; they end with `shutdown`, with the process, or when too many others have been used since.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from typing import Any

from ...options import Options
from ...transport import pickling
from ...values.outcome import Lost, Reply
from ...values.source import Source
from ...worker.environment import current
from ..base import Done, Task
from . import forkserver as forking
from .handle import Answer, Call
from .scheduler import Crew

__all__ = ["ProcessPool", "shutdown"]

TIMEOUT_CHECK = 0.25  # seconds between looks at workers that hold on to the interpreter
MOST_WARM = 4  # crews that are kept while nobody uses them
PREFETCH_BELOW = 0.02  # seconds; a longer chunk makes the gap between two of no account


class ProcessPool:
    """Runs chunks in the processes of one crew."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def run(self, task: Task, source: Source) -> Generator[Done | None, None, None]:
        """Run all chunks of `source` in the workers."""
        crew = self._crew
        try:
            call = crew.open(self._pickled(task), task.timeout, task.cores)
        finally:
            with _lock:
                crew.handed_out -= 1
        source.wake = lambda: crew.poke(call)
        source.push = lambda: self._push(call, source)
        try:
            self._feed(call, source)
            if source.lazy:
                crew.sated(call)  # nobody waits before the first `next`: others shall have workers
            yield None
            while True:
                end = crew.abandoned or source.aborted
                if end is not None:
                    raise end
                self._feed(call, source)
                if call.inbox:
                    done = self._open(call.inbox.popleft(), source)
                    if done is not None:
                        crew.sated(call)  # the consumer may keep us waiting
                        yield done
                        done = None  # it belongs to the consumer alone from now on
                        if source.lazy:
                            crew.look(call)
                elif call.failed is not None:
                    raise call.failed
                elif source.finished and not call.tickets:
                    return
                else:
                    self._wait(call)
        finally:
            source.wake = source.push = None
            crew.close_call(call)
            if crew.broken is not None:
                crew.close()

    def _pickled(self, task: Task) -> pickling.Pickled:
        try:
            limit = self._crew.settings["max_nbytes"]
            return pickling.dumps(task.state(), limit, together=True)
        except Exception as error:
            raise task.refusal(error) from error

    def _push(self, call: Call, source: Source) -> None:
        """Send what has just been put into `source`, from the thread that put it there."""
        self._feed(call, source)
        if call.inbox:
            self._crew.poke(call)

    def _wait(self, call: Call) -> None:
        if call.timeout is None:
            self._crew.wait(call)
        else:
            self._crew.wait(call, TIMEOUT_CHECK)
            self._crew.router.end_overdue(call)

    def _feed(self, call: Call, source: Source) -> None:
        """Send chunks while there are both chunks and workers."""
        if not source.finished:
            with call.feeding:
                self._send_chunks(call, source)
        else:
            self._crew.sated(call)
        if source.finished is not call.exhausted:
            self._crew.exhausted(call, source.finished)

    def _send_chunks(self, call: Call, source: Source) -> None:
        crew = self._crew
        while not source.finished:
            sizer, left = source.sizer, source.remaining
            # A chunk in advance hides the way to the worker and back; near the end, and behind a
            # long one, it could come to wait while another worker has nothing to do.
            ahead = 0.0 < sizer.seconds < PREFETCH_BELOW and (left is None or left > 2 * crew.size)
            worker = crew.reserve(call, 2 if ahead else 1)
            if worker is None:
                return
            chunk = source.take()
            if chunk is None:
                crew.unreserve(call, worker)
                break
            try:
                pickled = pickling.dumps(chunk.columns, crew.settings["max_nbytes"])
            except BaseException as error:
                crew.unreserve(call, worker)
                if isinstance(error, KeyboardInterrupt):
                    source.put_back(chunk)
                    raise
                if chunk.size == 1:
                    columns = chunk.args(0)
                    told = columns[0] if len(columns) == 1 else columns
                    error = pickling.refusal(f"argument of item {chunk.start}", told, error)
                call.inbox.append(Answer(chunk, lost=Lost(error)))
                continue
            if source.endless:  # what was submitted just now finds what is around it now
                call.around = current()
            if not crew.send(call, worker, chunk, pickled):
                source.put_back(chunk)
        crew.sated(call)

    def _open(self, answer: Answer, source: Source) -> Done | None:
        """Unpickle an answer in the thread of its call."""
        chunk = answer.chunk
        if answer.packet is None or answer.worker is None:
            assert answer.lost is not None
            if not answer.lost.started:
                source.put_back(chunk)
                return None
            return chunk, answer.lost
        inbox = answer.worker.inbox
        try:
            values, raised = pickling.loads(*inbox.unpack(answer.packet, copy=True))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a user's __setstate__ may raise anything
            return chunk, Lost(error)
        finally:
            inbox.done(answer.packet)
        # Large results make small chunks too: what is copied out while it is still in the cache.
        nbytes = max(answer.nbytes, answer.packet[2])
        source.sizer.observe(chunk.size, answer.seconds, nbytes)
        return chunk, Reply(values, raised, answer.seconds, answer.final)

    def close(self) -> None:
        """End the workers."""
        self._crew.close()


# --- crews that are kept warm -------------------------------------------------------------------

_lock = threading.Lock()
_crews: dict[tuple[Any, ...], Crew] = {}  # the last used one last


def process_pool(options: Options, workers: int, start_method: str) -> ProcessPool:
    """Pool on the warm crew with these settings, started if there is none."""
    settings = {
        name: getattr(options, name)
        for name in ("tasks_per_worker", "memory_limit", "max_nbytes", "temp_folder")
    }
    key = (
        workers,
        start_method,
        id(options.initializer),
        tuple(map(id, options.initargs)),
        *settings.values(),
    )
    with _lock:
        crew = _crews.pop(key, None)
        if crew is not None and crew.broken is not None:
            crew.close()
            crew = None
        if crew is None:
            crew = Crew(workers, start_method, options.initializer, options.initargs, settings)
            # The key holds ids: keep what they are of alive.
            crew.origin = options.initializer, options.initargs
        _crews[key] = crew
        crew.handed_out += 1  # until it has the call that it is wanted for
        idle = [k for k, c in _crews.items() if not c.calls and not c.handed_out]
        for k in idle[: max(0, len(_crews) - MOST_WARM)]:
            _crews.pop(k).close()
    return ProcessPool(crew)


def shutdown() -> None:
    """End all crews; the fork server too, unless another thread has begun a call meanwhile."""
    with _lock:
        crews = list(_crews.values())
        _crews.clear()
    for crew in crews:
        crew.close()
    with _lock:
        if not _crews:
            forking.shutdown()


def _after_fork() -> None:
    """In a forked child: the crews are the parent's. Forget them without a word to them."""
    global _lock
    _lock = threading.Lock()
    for crew in _crews.values():
        crew.abandon()
    _crews.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
