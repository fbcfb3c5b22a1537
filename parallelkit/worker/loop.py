"""The life of a worker process: take messages, run chunks, answer.

::

    parent                               worker
    HELLO   initializer, surroundings ─►
                                       ◄─ READY, or FAILED with what the initializer raised
    CHUNK   columns of arguments, and ─►
            for the first of a call:
            function, frozen, place
                                       ◄─ REPLY values and exceptions (in parts, if it takes long)
    ABORT   a call is given up        ─►  (with SIGINT, to stop the item that runs)
                                       ◄─ SKIPPED for each of its chunks
    FORGET  calls are over            ─►
    GRANT, LENT                      ◄─► LENDING, SPARE: see `link`
                                       ◄─ TOLD log records, warnings, prints, at any time

A worker that finds the channel closed ends. What it writes into its control block tells the
parent, after its death, which chunk it had begun.
"""

from __future__ import annotations

import contextlib
import contextvars
import mmap
import os
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..place import blas, malloc
from ..place import nesting as levels
from ..transport import pickling
from ..transport.channel import Channel, Closed, Message
from ..transport.pickling import Pickled
from ..transport.segments import Inbox, Outbox, Packet, Segment, take_all
from ..transport.shared import let_go
from ..values import seeds
from ..values.outcome import Raised, Reply
from ..values.source import Chunk
from . import output as telling
from . import printing
from .environment import StandardFinder, Surroundings
from .parentage import Parentage
from .task import BUDGET, Interrupted, Progress, Task
from .watchdog import NOBODY, WHOLE, Watch

if TYPE_CHECKING:
    from .helpers import Link

__all__ = ["link", "serve"]

# Kinds of messages; the first field of each.
HELLO, CHUNK, ABORT, FORGET, GRANT, LENT = range(6)
READY, FAILED, REPLY, SKIPPED, UNREADABLE, TIMEOUT, RETIRED, RELEASED, TOLD = range(10, 19)
LENDING, SPARE = range(20, 22)

CONTROL_BYTES = 64
# Fields of the control block, eight bytes each.
CHUNK_BEGUN, ITEM_OFFSET, ITEM_BEGUN = range(3)
SPARE_CORES = 3  # written by the parent: cores for calls that an item makes, beyond its share


def serve(channel: Channel, end: int | None = None) -> None:
    """Run until the parent hangs up; `end` is the pipe by whose closing it sees this one's end."""
    global _this
    _this = _Worker(channel, end)
    try:
        _this.run()
    except Closed:
        pass
    finally:
        _flush()


_this: _Worker | None = None


def _after_fork() -> None:
    """In a child that an item has forked: the parent is to see the worker's end, not this one's."""
    if _this is not None:
        _this.channel.close()
        _this.channel = _Nobody()
        if _this.end is not None:
            os.close(_this.end)
            _this.end = None
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Nobody(Channel):
    """The channel of a process that is no worker any more."""

    def __init__(self) -> None:
        pass

    def send(self, body: tuple[Any, ...], fds: Sequence[int] = ()) -> None:
        """Say nothing."""

    def receive(self) -> list[Message]:
        """Nobody says anything either."""
        raise Closed

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002 - the base's
        """It is known at once."""
        return True

    def close(self) -> None:
        """Nothing is open."""


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def link() -> Link:
    """Return the link of this worker process to idle ones."""
    assert _this is not None
    if _this.link is None:
        from .helpers import Link

        _this.link = Link(_this)
    return _this.link


def _flush() -> None:
    """Let what was printed out, as far as there is somewhere to print to."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass


class _Order(NamedTuple):
    """What a worker is to do: a chunk of a call, `size` items of its input from `start` on.

    ``lent`` tells that another worker made the call.
    """

    call: int
    number: int
    rank: int
    start: int
    size: int
    timeout: float | None
    lent: bool


class _Worker:
    def __init__(self, channel: Channel, end: int | None) -> None:
        self.channel = channel
        self.end = end
        self.queue: deque[Message] = deque()
        self.tasks: dict[int, Task] = {}
        self.aborted: set[int] = set()
        self.running: int | None = None  # call whose item runs; what SIGINT looks at
        self.task_inbox, self.inbox = Inbox(), Inbox()
        self.outbox = Outbox()
        self.sent = 0  # segments known to the parent, by the highest id
        self.items = 0
        self.threads = 0, 0  # of numerical libraries, and the cores of the share
        self.item: tuple[int, Progress] | None = None  # first index and progress of what runs
        self.holding = self.interrupted = False
        self.watch: Watch | None = None
        self.number = 0  # of the chunk that is watched
        self.taking, self.sending = threading.Lock(), threading.Lock()
        self.link: Link | None = None
        self.item_limit: float | None = None  # seconds that the item that runs may take
        self.standing: tuple[Task, int] | None = None  # whose share the libraries are held to
        self.outside = contextvars.copy_context()  # of any item

    def run(self) -> None:
        signal.signal(signal.SIGINT, self._on_interrupt)
        self._greet()
        while True:
            while not self.queue:
                if not self.channel.wait(malloc.IDLE):
                    malloc.trim()
                    self.channel.wait()
                self.take()
            message = self.queue.popleft()
            body = message.body
            if body[0] == CHUNK:
                self._chunk(_Order(*body[1:8]), *body[8:])
            elif body[0] == FORGET:
                self._forget(body[1])
                if self.task_inbox.released:
                    self.channel.send((RELEASED, *self._released()))
            if self.max_items and self.items >= self.max_items:
                self.channel.send((RETIRED,))
                return

    def _greet(self) -> None:
        while not self.queue:
            self.channel.wait()
            self.take()
        message = self.queue.popleft()
        _, packet, around, self.options, origin = message.body
        control = message.fds[0]
        self.control = memoryview(mmap.mmap(control, CONTROL_BYTES))
        self.words = self.control.cast("Q")
        self.times = self.control.cast("d")
        os.close(control)
        sys.argv, tempfile.tempdir, standard, parentage = origin
        sys.meta_path.insert(0, StandardFinder(standard, list(sys.path)))
        Parentage(*parentage).settle()
        Surroundings(*around).enter()
        self.max_items = self.options["tasks_per_worker"]
        self.outbox = Outbox(folder=self.options["temp_folder"])
        self.max_nbytes = self.options["max_nbytes"]
        if self.options["memory_limit"]:
            _limit_memory(self.options["memory_limit"])
        levels.settle(levels.Nesting(1, 1))
        levels.join(self.options["workers"])
        seeds.refresh()
        telling.forward(self._tell, self._index)
        printing.attach(self._tell)
        printing.set_by_parent(Surroundings(*around).printing)
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

    def take(self) -> None:
        """Receive what is there; what must not wait for its turn takes effect at once."""
        with self.taking:
            for message in self.channel.receive():
                body = message.body
                if body[0] == ABORT:
                    self.aborted.add(body[1])
                elif body[0] == GRANT:
                    if self.link is not None:
                        self.link.granted(body[1])
                elif body[0] == LENT:
                    self._adopt(body[6:], message.fds)
                    if self.link is not None:
                        self.link.answered(*body[1:7])
                else:
                    if body[0] == CHUNK:
                        *packed, _, task = body[8:]
                        rest = self._adopt(packed, message.fds)
                        if task is not None:
                            self.task_inbox.adopt(task[0], rest, private=True)
                    self.queue.append(message)

    def _adopt(self, packed: Sequence[Any], fds: list[int]) -> list[int]:
        """Take in what came with a packet; return the descriptors that belong to something else."""
        packet, fresh, released, forgotten = packed
        self.outbox.free(released)
        self.inbox.forget(forgotten)
        mine = int(fresh) + len(packet[4])  # shared memory goes with what names it
        self.inbox.adopt(packet, fds[:mine])
        return fds[mine:]

    def _forget(self, calls: list[int]) -> None:
        for call in calls:
            self.tasks.pop(call, None)
            self.aborted.discard(call)
        if calls:
            let_go()

    def _prepare(self, call: int, around: Any, task: tuple[Packet, list[int]] | None) -> None:
        """Enter the surroundings of a call, where they have changed, and make its task, if new."""
        if around is not None:
            Surroundings(*around).enter()
        if task is not None:
            self._load(call, *task)

    def _load(self, call: int, packet: Packet, over: list[int]) -> None:
        """Make the task of a call whose first chunk has come."""
        self._forget(over)
        try:
            data, buffers = self.task_inbox.unpack(packet, copy=False)
            self.tasks[call] = Task(*pickling.loads(data, buffers))
            if not buffers:
                self.task_inbox.done(packet)
        except BaseException as error:  # noqa: BLE001 - a user's __setstate__ may raise anything
            self._send_failure(FAILED, call, error)

    def _chunk(self, order: _Order, packet: Packet, *rest: Any) -> None:
        begin = time.perf_counter()
        lost = False
        inner = 0 if self.link is None else self.link.opened
        watch = self._watching(order)
        self.words[CHUNK_BEGUN] = order.number
        self._prepare(order.call, *rest[-2:])
        self.take()
        task = self.tasks.get(order.call)
        columns: list[tuple[Any, ...]] = []
        try:
            if order.call in self.aborted or task is None:
                self.inbox.done(packet)
                self.channel.send((SKIPPED, order.number))
                return
            self.running = order.call
            try:
                columns.append(self._columns(packet))
            except Interrupted:
                raise
            except BaseException as error:  # noqa: BLE001 - a user's __setstate__ may raise anything
                self.running = None
                self._send_failure(UNREADABLE, order.number, error)
                return
            self._share(task, order.rank)
            self._run(task, order, columns, watch, begin)
        except Interrupted:
            self.channel.send((SKIPPED, order.number))
        except Closed:
            lost = True  # as when an item closes what it has not opened
            raise
        except Exception as error:  # noqa: BLE001 - an error of ours: no reason to end the worker
            self.running = None
            self._send_failure(UNREADABLE, order.number, error)
        finally:
            self.running = self.item = self.standing = None
            if not lost:  # or the parent is to know what was
                self.words[CHUNK_BEGUN] = 0
            if watch is not None:
                watch.mark(NOBODY)
            columns.clear()  # what the arguments do at their end is watched as well
            if watch is not None:
                watch.end()
            self._end_inner(inner)

    def _end_inner(self, opened: int) -> None:
        """End calls that an item has made since and left open: nobody helps them any more."""
        if self.link is not None:
            self.link.end_since(opened)

    def _run(
        self,
        task: Task,
        order: _Order,
        columns: list[tuple[Any, ...]],
        watch: Watch | None,
        begin: float,
    ) -> None:
        """Run the items of a chunk, and answer for them: at once, or in parts with a time limit."""
        size = order.size
        if self.max_items:
            size = min(size, self.max_items - self.items)
        done, final = 0, False
        while not final:
            progress = Progress(None if watch is None else watch.item)
            self.item = order.start + done, progress
            if watch is not None:
                watch.items(progress, done)
            self.running = order.call
            rest = tuple(column[done:] for column in columns[0]) if done else columns[0]
            chunk = Chunk(order.start + done, size - done, rest)
            reply = task.run(chunk, order.rank, progress=progress, spare=self._spare)
            del rest, chunk
            if watch is not None:
                watch.mark(WHOLE)
            done += len(reply.values)
            self.items += len(reply.values)
            seconds = time.perf_counter() - begin
            failed = bool(reply.raised) and task.stop_at_error
            final = watch is None or done >= size or failed or seconds > BUDGET
            self.answer(order.number, reply._replace(seconds=seconds, final=final))

    def _watching(self, order: _Order) -> Watch | None:
        """Begin to watch a chunk whose call has a time limit."""
        self.item_limit = order.timeout
        if order.timeout is None:
            return None
        if self.watch is None:
            self.watch = Watch(self._mark, _main_imports, self._expire)
        self.number = order.number
        self.watch.begin(order.timeout)
        return self.watch

    def _mark(self, what: int, since: float) -> None:
        self.times[ITEM_BEGUN] = 0.0  # by this the parent sees that the offset is being changed
        self.words[ITEM_OFFSET] = what
        self.times[ITEM_BEGUN] = since

    def _expire(self, what: int, progress: Progress, done: int) -> None:
        """Answer for the items that were finished, and tell what was not."""
        if what < NOBODY and what > done:
            values = progress.values[: what - done]  # the item that runs may end at this moment
            self.answer(self.number, Reply(values, progress.raised[:], 0.0, False))
        if what != NOBODY:
            self.channel.send((TIMEOUT, self.number, what))

    def _share(self, task: Task, rank: int) -> None:
        """Take the place of the worker `rank`, with numerical libraries held to its share."""
        self.standing = task, rank
        levels.settle(task.place(rank), self._spare)
        threads = task.threads(rank), task.place(rank).cores
        if threads == self.threads:
            blas.hold(threads[0])
        else:
            blas.settle(*threads)
            self.threads = threads

    def run_meanwhile(self) -> bool:
        """Run a chunk that another worker has lent, while an item here waits; false without one."""
        message = next((m for m in list(self.queue) if m.body[0] == CHUNK and m.body[7]), None)
        if message is None:
            return False
        self.queue.remove(message)
        before = self.running, self.item, self.words[CHUNK_BEGUN], self.standing
        limit = self.item_limit
        self.running = None
        try:
            order = _Order(*message.body[1:8])
            with seeds.kept():
                self.outside.copy().run(self._chunk, order, *message.body[8:])
        finally:
            self.running, self.item, self.words[CHUNK_BEGUN], standing = before
            self.item_limit = limit
            if standing is not None:
                self._share(*standing)
        self.leave_if_aborted()
        return True

    def leave_if_aborted(self) -> None:
        """Leave the item that runs if its call was given up meanwhile."""
        if self.running in self.aborted:
            self.running = None
            raise Interrupted

    def _spare(self) -> int:
        return self.words[SPARE_CORES]

    def _columns(self, packet: Packet) -> tuple[Any, ...]:
        data, buffers = self.inbox.unpack(packet, copy=False)
        try:
            columns: tuple[Any, ...] = pickling.loads(data, buffers)
        finally:
            if not buffers:
                self.inbox.done(packet)
        return columns

    # --- answers -----------------------------------------------------------------------------

    def answer(self, number: int, reply: Reply) -> None:
        """Send what came of a chunk, or of a part of it."""
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
        _flush()
        self.send((REPLY, number), pickled, (reply.seconds, len(reply.values), reply.final))

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
                out_of_memory = isinstance(error, MemoryError)
                why = error if out_of_memory else pickling.refusal("result", value, error)
                raised.append(Raised(offset, why, f"{type(why).__name__}: {why}\n"))
        return raised

    def send(self, head: tuple[Any, ...], pickled: Pickled, tail: tuple[Any, ...]) -> None:
        """Send a message with a packet and the ids of segments that are free."""
        with self.sending:  # a segment's descriptor goes with the first message that names it
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
        from .task import format_error

        pickled = pickling.dumps((pickling.portable(error), format_error(error)))
        self.send((kind, number), pickled, ())

    def _tell(self, kind: str, fields: tuple[Any, ...]) -> None:
        """Send what an item says."""
        with self.undisturbed():
            try:
                self.channel.send((TOLD, kind, fields))
            except Closed:
                pass  # nobody listens any more

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Within this the item that runs is not torn apart by an interrupt."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are the main thread's
            return
        before, self.holding = self.holding, True
        try:
            yield
        finally:
            self.holding = before
        if self.interrupted and not before:
            self.interrupted = False
            self._on_interrupt(frame=sys._getframe(2))  # noqa: SLF001 - that of who left this

    def _index(self) -> int | None:
        """Index of the item that runs, in the input of its call."""
        return None if self.item is None else self.item[0] + len(self.item[1].values)

    def _on_interrupt(self, _: int = 0, frame: FrameType | None = None) -> None:
        """SIGINT: the parent gave a call up, or somebody pressed Ctrl-C, which is the parent's."""
        if self.running is None:
            return
        if self.holding:
            self.interrupted = True
            return
        if _importing(frame) or _entering(frame):  # would be torn apart; the parent will kill us
            return
        self.holding = True  # a second one must not find the first at work
        try:
            self.take()
        except Closed:
            raise Interrupted from None
        finally:
            self.holding = False
        self.leave_if_aborted()


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported somewhere below `frame`."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib."):
            return True
        frame = frame.f_back
    return False


def _entering(frame: FrameType | None) -> bool:
    """Whether a context is just being entered or left."""
    return frame is not None and frame.f_code.co_filename == contextlib.__file__


def _main_imports() -> bool:
    """Whether the main thread is importing a module."""
    main = threading.main_thread().ident
    frames = sys._current_frames()  # noqa: SLF001 - documented, for purposes like this
    return main is not None and _importing(frames.get(main))


def _limit_memory(nbytes: int) -> None:
    import resource

    kind = resource.RLIMIT_DATA if sys.platform.startswith("linux") else resource.RLIMIT_AS
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (nbytes if hard < 0 else min(nbytes, hard), hard))
