"""The life of a worker process: take messages, run chunks, answer.

::

    parent                               worker
    HELLO   initializer, surroundings ─►
                                       ◄─ READY, or FAILED with what the initializer raised
    TASK    function, frozen, place   ─►
    CHUNK   columns of arguments      ─►
                                       ◄─ REPLY values and exceptions (in parts, if it takes long)
    ABORT   a call is given up        ─►  (with SIGINT, to stop the item that runs)
                                       ◄─ SKIPPED for each of its chunks
    FORGET  a call is over            ─►

A worker that finds the channel closed ends. What it writes into its control block tells the
parent, after its death, which chunk it had begun.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
import threading
import time
from collections import deque
from typing import Any

from .. import blas, levels
from ..outcome import Raised, Reply
from . import pickling
from .channel import Channel, Closed, Message
from .payload import Interrupted, Progress, Task
from .pickling import Pickled
from .segments import Inbox, Outbox, Packet, Segment, take_all
from .shared import let_go
from .surroundings import Surroundings

__all__ = ["serve"]

# Kinds of messages; the first field of each.
HELLO, TASK, CHUNK, ABORT, FORGET = range(5)
READY, FAILED, REPLY, SKIPPED, UNREADABLE, TIMEOUT, RETIRED, RELEASED = range(10, 18)

CONTROL_BYTES = 64
# Fields of the control block, eight bytes each.
CHUNK_BEGUN, ITEM_OFFSET, ITEM_BEGUN = range(3)


def serve(channel: Channel) -> None:
    """Run until the parent hangs up."""
    try:
        _Worker(channel).run()
    except Closed:
        pass
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                pass


class _Worker:
    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.queue: deque[Message] = deque()
        self.tasks: dict[int, Task] = {}
        self.aborted: set[int] = set()
        self.running: int | None = None  # call whose item runs; what SIGINT looks at
        self.task_inbox, self.inbox = Inbox(), Inbox()
        self.outbox = Outbox()
        self.sent = 0  # segments known to the parent, by the highest id
        self.items = 0
        self.threads = 0  # of numerical libraries
        self.watch: _Watch | None = None

    def run(self) -> None:
        signal.signal(signal.SIGINT, self._on_interrupt)
        self._greet()
        while True:
            while not self.queue:
                self.channel.wait()
                self._take()
            message = self.queue.popleft()
            body = message.body
            if body[0] == CHUNK:
                self._chunk(*body[1:])
            elif body[0] == TASK:
                self._task(*body[1:])
            elif body[0] == FORGET:
                self.tasks.pop(body[1], None)
                self.aborted.discard(body[1])
                let_go()
                if self.task_inbox.released:
                    self.channel.send((RELEASED, *self._released()))
            if self.max_items and self.items >= self.max_items:
                self.channel.send((RETIRED,))
                return

    def _greet(self) -> None:
        while not self.queue:
            self.channel.wait()
            self._take()
        message = self.queue.popleft()
        _, packet, around, self.options = message.body
        control = message.fds[0]
        self.control = memoryview(mmap.mmap(control, CONTROL_BYTES))
        self.words = self.control.cast("Q")
        self.times = self.control.cast("d")
        os.close(control)
        Surroundings(*around).enter()
        self.max_items = self.options["tasks_per_worker"]
        self.outbox = Outbox(folder=self.options["temp_folder"])
        self.max_nbytes = self.options["max_nbytes"]
        if self.options["memory_limit"]:
            _limit_memory(self.options["memory_limit"])
        levels.settle(levels.Nesting(1, 1))
        try:
            self.inbox.adopt(packet, message.fds[1:])
            initializer, initargs = pickling.loads(*self.inbox.unpack(packet, copy=True))
            if initializer is not None:
                initializer(*initargs)
        except BaseException as error:  # noqa: BLE001 - told to the parent, who raises it
            self._send_failure(FAILED, 0, error)
            self.channel.wait()  # until the parent hangs up; ending now would be a respawn loop
            raise Closed from None
        self.channel.send((READY,))

    # --- messages ----------------------------------------------------------------------------

    def _take(self) -> None:
        """Receive what is there; what must not wait for its turn takes effect at once."""
        for message in self.channel.receive():
            body = message.body
            if body[0] == ABORT:
                self.aborted.add(body[1])
                continue
            if body[0] == CHUNK:
                packet, released, forgotten = body[5:8]
                self.outbox.free(released)
                self.inbox.forget(forgotten)
                self.inbox.adopt(packet, message.fds)
            elif body[0] == TASK:
                self.task_inbox.adopt(body[2], message.fds, private=True)
            self.queue.append(message)

    def _task(self, call: int, packet: Packet, around: Any) -> None:
        try:
            if around is not None:
                Surroundings(*around).enter()
            data, buffers = self.task_inbox.unpack(packet, copy=False)
            self.tasks[call] = pickling.loads(data, buffers)
            if not buffers:
                self.task_inbox.done(packet)
        except BaseException as error:  # noqa: BLE001
            self._send_failure(FAILED, call, error)

    def _chunk(
        self,
        call: int,
        number: int,
        rank: int,
        size: int,
        packet: Packet,
        released: object,
        forgotten: object,
    ) -> None:
        begin = time.perf_counter()
        self._take()
        task = self.tasks.get(call)
        if call in self.aborted or task is None:
            self.inbox.done(packet)
            self.channel.send((SKIPPED, number))
            return
        self.words[CHUNK_BEGUN] = number
        try:
            try:
                self.running = call
                columns = self._columns(packet)
            except Interrupted:
                raise
            except BaseException as error:  # noqa: BLE001 - a user's __setstate__ may raise anything
                self.running = None
                self._send_failure(UNREADABLE, number, error)
                return
            self._share(task, rank)
            self._run(task, call, number, rank, size, columns, begin)
        except Interrupted:
            self.channel.send((SKIPPED, number))
        finally:
            self.running = None
            self.words[CHUNK_BEGUN] = 0

    def _run(
        self, task: Task, call: int, number: int, rank: int, size: int, columns: Any, begin: float
    ) -> None:
        if self.max_items:
            size = min(size, self.max_items - self.items)
        mark = None
        if task.timeout is not None:
            self.watch = self.watch or _Watch(self)
            mark = self.watch.mark
        done = 0
        while True:
            progress = Progress(mark)
            if mark is not None and self.watch is not None:
                self.watch.begin(number, done, progress, task.timeout or 0.0)
            self.running = call
            reply = task.run(
                tuple(column[done:] for column in columns) if done else columns,
                size - done,
                rank,
                progress=progress,
            )
            if mark is not None and self.watch is not None:
                self.watch.end()
            done += len(reply.values)
            self.items += len(reply.values)
            now = time.perf_counter()
            final = (
                mark is None
                or done >= size
                or bool(reply.raised and task.stop_at_error)
                or now - begin > 0.05
            )
            reply = reply._replace(seconds=now - begin, final=final)
            if final:
                columns = ()
            self._reply(number, reply)
            if final:
                return

    def _share(self, task: Task, rank: int) -> None:
        """Take the place of the worker `rank`, with numerical libraries held to its share."""
        levels.settle(task.place(rank))
        threads = task.threads(rank)
        if threads != self.threads:
            blas.set_default(threads)
            self.threads = threads
        blas.hold(threads)

    def _columns(self, packet: Packet) -> tuple[Any, ...]:
        data, buffers = self.inbox.unpack(packet, copy=False)
        columns: tuple[Any, ...] = pickling.loads(data, buffers)
        if not buffers:
            self.inbox.done(packet)
        return columns

    # --- answers -----------------------------------------------------------------------------

    def _reply(self, number: int, reply: Reply) -> None:
        raised = [r._replace(exception=pickling.portable(r.exception)) for r in reply.raised]
        try:
            pickled = pickling.dumps((reply.values, raised), self.max_nbytes)
        except Interrupted:
            raise
        except BaseException:  # noqa: BLE001 - a user's __reduce__ may raise anything
            values = reply.values
            raised += self._unpicklable(values)
            raised.sort(key=lambda r: r.offset)
            pickled = pickling.dumps((values, raised), self.max_nbytes)
        self.running = None
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                pass
        self._send((REPLY, number), pickled, (reply.seconds, len(reply.values), reply.final))

    def _unpicklable(self, values: list[Any]) -> list[Raised]:
        """Take results that cannot be pickled out of `values`; tell why."""
        raised = []
        for offset, value in enumerate(values):
            try:
                pickling.dumps(value)
            except Interrupted:
                raise
            except BaseException as error:  # noqa: BLE001
                values[offset] = None
                why = pickling.refusal("result", value, error)
                raised.append(Raised(offset, why, f"{type(why).__name__}: {why}\n"))
        return raised

    def _send(self, head: tuple[Any, ...], pickled: Pickled, tail: tuple[Any, ...]) -> None:
        """Send a message with a packet and the ids of segments that are free."""
        packet, segment = self.outbox.pack(pickled)
        forgotten = take_all(self.outbox.forgotten)
        fds = [*self._fds_for(segment), *(memory.fd for memory in pickled.shared)]
        self.channel.send((*head, packet, *tail, *self._released(), forgotten), fds)

    def _released(self) -> tuple[list[int], list[int]]:
        """Ids of the parent's segments that nothing refers to any more: of chunks, of tasks."""
        return take_all(self.inbox.released), take_all(self.task_inbox.released)

    def _fds_for(self, segment: Segment | None) -> list[int]:
        if segment is None or segment.id <= self.sent:
            return []
        self.sent = segment.id
        return [segment.fd]

    def _send_failure(self, kind: int, number: int, error: BaseException) -> None:
        from .payload import format_error

        pickled = pickling.dumps((pickling.portable(error), format_error(error)))
        self._send((kind, number), pickled, ())

    def _on_interrupt(self, signum: int, frame: object) -> None:
        """SIGINT: the parent gave a call up, or somebody pressed Ctrl-C, which is the parent's."""
        if self.running is None:
            return
        try:
            self._take()
        except Closed:
            raise Interrupted from None
        if self.running in self.aborted:
            self.running = None
            raise Interrupted


class _Watch(threading.Thread):
    """Ends this process when an item has run longer than its time limit.

    Before that it answers for the items that were finished, so that none is run again.
    """

    def __init__(self, worker: _Worker) -> None:
        super().__init__(name="parallelkit-watch", daemon=True)
        self._worker = worker
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._state: tuple[int, int, Progress, float] | None = None
        self._offset = 0
        self.start()

    def begin(self, number: int, done: int, progress: Progress, timeout: float) -> None:
        self._state = number, done, progress, timeout

    def mark(self, offset: int) -> None:
        assert self._state is not None
        number, done, _, timeout = self._state
        now = time.monotonic()
        self._worker.words[ITEM_OFFSET] = done + offset
        self._worker.times[ITEM_BEGUN] = now
        with self._changed:
            self._offset = offset
            sleeping = self._deadline is None
            self._deadline = now + timeout
            if sleeping:
                self._changed.notify()

    def end(self) -> None:
        with self._changed:
            self._deadline = None
        self._worker.times[ITEM_BEGUN] = 0.0

    def run(self) -> None:
        with self._changed:
            while True:
                if self._deadline is None:
                    self._changed.wait()
                    continue
                left = self._deadline - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                assert self._state is not None
                number, done, progress, _ = self._state
                if len(progress.values) > self._offset:  # finished at the last moment
                    self._deadline = None
                    continue
                self._expire(number, done, progress)

    def _expire(self, number: int, done: int, progress: Progress) -> None:
        worker = self._worker
        try:
            if progress.values:
                worker._reply(number, Reply(progress.values, progress.raised, 0.0, False))
            worker.channel.send((TIMEOUT, number, done + len(progress.values)))
        finally:
            os.kill(os.getpid(), signal.SIGKILL)


def _limit_memory(nbytes: int) -> None:
    import resource

    kind = resource.RLIMIT_DATA if sys.platform.startswith("linux") else resource.RLIMIT_AS
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (nbytes if hard < 0 else min(nbytes, hard), hard))
