"""The life of a worker process: take messages, run chunks, answer; `protocol` has the messages.

::

    parent ── messages ──► Connection.receive ─► queue ─► Runtime.run ─► Connection.send ──► parent
                 Abort, Grant, NestedReply ─► at once, in whichever thread receives

A worker that finds the channel closed ends. What it writes into its control block tells the
parent, after its death, which chunk it had begun.

It is long because these messages share one state: what is queued, what runs, what was given up.
"""

from __future__ import annotations

import _thread
import contextlib
import contextvars
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..place import malloc, nesting, recording, system
from ..transport import anonymous, pickling
from ..transport.channel import Channel, Closed, Message
from ..transport.own import Told, WithOwn
from ..transport.segments import Missing, Outbox, opened_block
from ..values import seeds
from ..values.outcome import Reply
from ..values.source import Chunk
from . import environment, hooks, output, printing, randomness
from .connection import Connection
from .context import is_refused
from .environment import StandardFinder, Surroundings
from .parentage import Parentage
from .protocol import (
    BORROWED_CORES,
    CHUNK_BEGUN,
    CONTROL_BYTES,
    ITEM_BEGUN,
    ITEM_OFFSET,
    LAST_BEGUN,
    NOBODY,
    SPARE_CORES,
    TAKEN_BACK,
    VERSION,
    WANTED_BACK,
    Abort,
    Failed,
    Forget,
    Grant,
    Hello,
    NestedReply,
    Ready,
    Replied,
    Retired,
    Returned,
    Run,
    Said,
    Skipped,
    TimedOut,
    Unreadable,
    bit,
)
from .runtime import Runtime, pickled_error
from .task import Interrupted, Progress, Task
from .watchdog import Watch

if TYPE_CHECKING:
    from .helpers import Link

__all__ = ["link", "serve"]

LATER = 0.001  # seconds until an item is interrupted again
LOOK = 1.0  # seconds between looks for messages that another thread has read
MOST_ABORTED = 1024  # calls given up that are remembered, for chunks that were on their way


def serve(channel: Channel, end: int | None = None) -> None:
    """Run until the parent hangs up; `end` is the pipe by whose closing it sees this one's end."""
    global _this
    _this = Worker(channel, end)
    try:
        _this.run()
    except Closed:
        pass
    finally:
        _this.finalize()
        _flush()


_this: Worker | None = None


def _after_fork() -> None:
    """In a child that an item has forked: the parent is to see the worker's end, not this one's."""
    if _this is not None:
        _this.connection.channel.close()
        _this.connection.channel = _Nobody()
        _this.finalizer = None
        if _this.end is not None:
            os.close(_this.end)
            _this.end = None
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Nobody(Channel):
    """The channel of a process that is no worker any more."""

    def __init__(self) -> None:
        pass

    def send(self, body: tuple[Any, ...], fds: Any = ()) -> None:
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


_linking = threading.RLock()


def link() -> Link:
    """Return the link of this worker process to idle ones."""
    assert _this is not None
    if _this.link is None:
        from .helpers import Link

        with _linking:
            if _this.link is None:  # another thread of the item may have been first
                _this.link = Link(_this)
    return _this.link


def _flush() -> None:
    """Let what was printed out, as far as there is somewhere to print to."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass


class Worker:
    """What this process has been told, what it runs, and whether it may be interrupted.

    Parameters
    ----------
    channel : Channel
    end : int or None
        Descriptor of the pipe by whose closing the parent sees the end of this process.
    """

    def __init__(self, channel: Channel, end: int | None) -> None:
        self.connection = Connection(channel)
        self.end = end
        self.runtime = Runtime(self._spare, environment.put_back)
        self.queue: deque[Run | Forget] = deque()
        self.aborted: dict[int, None] = {}
        self.running: int | None = None  # call whose item runs; what SIGINT looks at
        self.holding = self.interrupted = False
        self.watch: Watch | None = None
        self.number = 0  # of the chunk that is watched
        self.taking = threading.Lock()
        self.counting = threading.Lock()
        self.helping = 0  # threads that run items beside that of the outer item
        self.link: Link | None = None
        self.item_limit: float | None = None  # seconds that the item that runs may take
        self.last = 0  # call whose chunk was the last to begin
        self.outside = contextvars.copy_context()  # of any item
        self.finalizer: Callable[[], object] | None = None
        self.ready = False  # whether the initializer is done

    def run(self) -> None:
        """Do what is asked for, until the parent hangs up."""
        signal.signal(signal.SIGINT, self._on_interrupt)
        self.usual_hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        self._greet()
        queue = self.queue
        while True:
            fresh = False
            while not queue:
                channel = self.connection.channel  # another one in a process that an item forks
                if not channel.wait(malloc.IDLE):
                    malloc.trim()
                    # What the link's thread has read while it sent is not told of by the channel.
                    while not (queue or channel.wait(None if self.link is None else LOOK)):
                        pass
                self.take()
                fresh = True
            message = queue.popleft()
            if isinstance(message, Run):
                self._chunk(message, fresh)
            else:
                self.runtime.forget(message.tasks)
                self.connection.tell_released()
            environment.put_back()  # what items have set, while the parent has their results
            environment.step_out()
            if self.max_items and self.runtime.items >= self.max_items:
                self.connection.send(Retired())
                return

    def _greet(self) -> None:
        """Settle as the parent says in its first message."""
        connection = self.connection
        connection.channel.wait()
        while not (arrived := connection.receive()):
            connection.channel.wait()
        (hello, fds), *more = arrived
        assert type(hello) is Hello
        for other in more:
            self._arrived(other.message)
        control = fds[0]
        self.control = opened_block(control, CONTROL_BYTES)
        self.words = self.control.cast("Q")
        self.times = self.control.cast("d")
        anonymous.close(control)
        sys.argv, folder, standard, parentage = hello.origin
        _set_temporary(folder)
        sys.meta_path.insert(0, StandardFinder(standard, list(sys.path)))
        Parentage(*parentage).settle()
        settings = hello.settings
        environment.step_out()
        output.forward(self._tell, lambda: self.runtime.index)
        environment.settle(Surroundings(*hello.environment))
        self.max_items = settings["tasks_per_worker"]
        connection.outbox = Outbox(folder=settings["temp_folder"])
        self.runtime.max_nbytes = settings["max_nbytes"]
        if settings["memory_limit"]:
            _limit_memory(settings["memory_limit"])
        recording.forget()
        nesting.settle(nesting.Nesting(1, 1))
        nesting.join(settings["workers"])
        nesting.on_threads(self._count_threads, self._most_cores)
        randomness.settle()
        printing.attach(self._tell)
        printing.set_by_parent(Surroundings(*hello.environment).printing)
        try:
            self._initialize(hello, parentage[0])
        except BaseException as error:  # noqa: BLE001 - told to the parent, who raises it
            self._send_error(Failed, 0, error)
            connection.channel.wait()  # until the parent hangs up; an end would be a respawn loop
            raise Closed from None
        hooks.keep()
        self.ready = True
        environment.step_out()
        connection.send(Ready())

    def _initialize(self, hello: Hello, number: int) -> None:
        """Give the worker with this number its devices, and run the user's initializer."""
        settings, inbox = hello.settings, self.connection.inbox
        if hello.version != VERSION:
            raise RuntimeError(
                f"the parent speaks version {hello.version} of the protocol, this worker "
                f"{VERSION}: both must import the same version of parallelkit"
            )
        if settings["devices"]:
            for name, ones in settings["devices"]:
                os.environ[name] = ones[(number - 1) % len(ones)]
            environment.keep_own()
        if settings["users"]:
            environment.step_in()
        users = pickling.loads(*inbox.unpack(hello.initializer, copy=True))
        initializer, initargs, self.finalizer = users
        environment.keep_imported()
        if initializer is not None:
            initializer(*initargs)
            environment.keep_own()
            randomness.keep_own()
        self.runtime.mirror.own.note_all()

    def finalize(self) -> None:
        """Call the user's finalizer, at the end of a worker that has lived."""
        finalizer, self.finalizer = self.finalizer, None
        if finalizer is None or not self.ready:
            return
        printing.set_by_parent((False, False))
        try:
            finalizer()
        except Exception:  # noqa: BLE001 - the parent, who would log it, listens no more
            traceback.print_exc()

    # --- messages ----------------------------------------------------------------------------

    def take(self) -> None:
        """Receive what is there; what must not wait for its turn takes effect at once."""
        with self.taking:
            for arrived in self.connection.receive():
                self._arrived(arrived.message)

    def _arrived(self, message: Any) -> None:
        kind = type(message)
        if kind is Run or kind is Forget:
            self.queue.append(message)
        elif kind is Abort:
            self.aborted[message.call] = None
            if len(self.aborted) > MOST_ABORTED:
                del self.aborted[next(iter(self.aborted))]
        elif self.link is not None:
            if kind is Grant:
                self.link.granted(message.inner)
            elif kind is NestedReply:
                self.link.answered(message)

    def _chunk(  # noqa: C901, PLR0912 - the one way of a chunk
        self, order: Run, fresh: bool
    ) -> None:
        """Run a chunk and answer for it; `fresh` if it has come at this moment."""
        begin = time.perf_counter()
        lost = False
        opened = 0 if self.link is None else self.link.opened
        watch = self._watching(order)
        self.words[CHUNK_BEGUN] = order.number
        if order.number > self.words[LAST_BEGUN] and not order.nested:
            self.words[LAST_BEGUN] = order.number
        over = self._take_in(order, fresh)
        task = self.runtime.tasks.get(order.task)
        columns: list[tuple[Any, ...]] = []
        try:
            if task is None or over:
                self.connection.inbox.done(order.packet)
                self.connection.send(Skipped(order.number))
                return
            self.running = order.call
            try:
                columns.append(pickling.loads(*self.connection.unpack(order.packet)))
            except Interrupted:
                raise
            except BaseException as error:  # noqa: BLE001 - a user's __setstate__ may raise anything
                self.running = None
                self._send_error(Unreadable, order.number, error)
                if isinstance(error, Missing):  # the parent will name that segment again, to this
                    raise Closed from None  # worker: another one takes its place
                return
            self.runtime.stand(task, order.rank)
            environment.keep_imported()
            self._run(task, order, columns, watch, begin)
        except Interrupted:
            self.connection.send(Skipped(order.number))
        except Closed:
            lost = True  # as when an item closes what it has not opened
            raise
        except Exception as error:  # noqa: BLE001 - an error of ours: no reason to end the worker
            self.running = None
            self._send_error(Unreadable, order.number, error)
        finally:
            self.running = self.runtime.item = None
            if not lost:  # or the parent is to know what was
                self.words[CHUNK_BEGUN] = 0
            if watch is not None:
                watch.mark(NOBODY)
            columns.clear()  # what the arguments do at their end is watched as well
            if watch is not None:
                watch.end()
            if self.link is not None:  # calls that an item has made and left open
                self.link.end_since(opened)

    def _take_in(self, order: Run, fresh: bool) -> int:
        """Take in what comes with a chunk; tell whether the chunk is wanted no more."""
        environment.step_in()
        environment.change(order.environment)
        if order.call != self.last:
            self.last = order.call
            randomness.renew()
        if order.over:
            self.runtime.forget(order.over)
        if (order.news is None or self._learn_script(order)) and order.state is not None:
            self._learn(order)
            randomness.renew_torch()  # what was loaded with it
            fresh = False
        if not fresh:
            self.take()  # the call may have been given up since
        with self.taking:  # whoever holds a lock has written what it wrote before
            return order.call in self.aborted or self.words[TAKEN_BACK] & bit(order.number)

    def _learn_script(self, order: Run) -> bool:
        """Take in what the worker has not got of the script; whether it could."""
        assert order.news is not None
        try:
            self.runtime.learn_script(*self.connection.unpack_task(order.news))
        except BaseException as error:  # noqa: BLE001 - a user's __setstate__ may raise anything
            self.runtime.tasks.pop(order.task, None)
            self._send_error(Failed, order.task, error)
            return False
        return True

    def _learn(self, order: Run) -> None:
        """Make the task of a call whose first chunk has come."""
        assert order.state is not None
        try:
            self.runtime.learn(order.task, *self.connection.unpack_task(order.state))
            if order.nested:  # no process is ended, since other items may wait in it
                task = self.runtime.tasks[order.task]
                task.patience = task.timeout
        except BaseException as error:  # noqa: BLE001 - a user's __setstate__ may raise anything
            self._send_error(Failed, order.task, error)

    def _run(
        self,
        task: Task,
        order: Run,
        columns: list[tuple[Any, ...]],
        watch: Watch | None,
        begin: float,
    ) -> None:
        """Run the items of a chunk, and answer for them."""
        size, runtime = order.size, self.runtime
        own = task.own if order.nested else None
        if own is not None and isinstance(columns[0], WithOwn):
            columns[0], told = columns[0]
            own = Told(told)
        if self.max_items and size > self.max_items - runtime.items:
            size = self.max_items - runtime.items
            columns[0] = tuple([column[:size] for column in columns[0]])
        chunk = Chunk(order.start, size, columns[0])
        columns.clear()
        columns.append(chunk.columns)
        task.traced = order.traced
        in_segment = order.packet[1] > 0
        with runtime.mirror.own.standing_in(own, is_refused, self.undisturbed):
            for reply in runtime.run(task, chunk, order.rank, watch, begin):
                if in_segment and watch is None:  # so that the answer can tell: this is free again
                    columns.clear()
                    chunk.columns = ()
                self._answer(order.number, reply, leave=reply.final and not order.nested)
                if not reply.final:
                    self.running = order.call

    def _watching(self, order: Run) -> Watch | None:
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
            self._answer(self.number, Reply(values, progress.raised[:], 0.0, False))
        if what != NOBODY:
            self.connection.send(TimedOut(self.number, what))

    def run_meanwhile(self) -> bool:
        """Run a chunk of another worker's call, while an item here waits; false without one."""
        order = next((m for m in list(self.queue) if type(m) is Run and m.nested), None)
        if order is None:
            return False
        self.queue.remove(order)
        runtime = self.runtime
        before = self.running, runtime.item, self.words[CHUNK_BEGUN], runtime.standing
        limit = self.item_limit
        self.running = None
        environment.put_back()
        try:
            with seeds.kept():
                self.outside.copy().run(self._chunk, order, fresh=False)
        finally:
            environment.put_back()
            self.running, runtime.item, self.words[CHUNK_BEGUN], standing = before
            self.item_limit = limit
            if standing is not None:
                runtime.stand(*standing)
        self.leave_if_aborted()
        return True

    def leave_if_aborted(self) -> None:
        """Leave the item that runs if its call was given up meanwhile."""
        call = self.running
        if call in self.aborted:
            self.running = None
            raise Interrupted(call)

    def _unraisable(self, unraisable: Any) -> None:
        """Leave the item a little later, where a finalizer was interrupted: it raises nothing."""
        error = unraisable.exc_value
        if not isinstance(error, Interrupted) or not error.args:
            self.usual_hook(unraisable)
            return
        ready = threading.Lock()
        ready.acquire()
        _thread.start_new_thread(_interrupt_again, (ready,))
        self.running = error.args[0]
        ready.release()

    def _spare(self) -> int:
        return self.words[SPARE_CORES]

    def _count_threads(self, threads: int) -> None:
        """Note on how many others' cores threads run; tell when those are wanted back."""
        with self.counting:
            before = self.words[BORROWED_CORES]
            self.helping += threads
            now = self.words[BORROWED_CORES] = self.helping // _own_cores()
        if now < before and self.words[WANTED_BACK]:  # after the lock: see the protocol
            with contextlib.suppress(Closed):
                self.connection.send(Returned())

    def _most_cores(self) -> int | None:
        """How many cores threads here may have at the moment, whatever is theirs for good."""
        return _own_cores() if self.words[WANTED_BACK] else None

    # --- answers -----------------------------------------------------------------------------

    def _answer(self, number: int, reply: Reply, *, leave: bool = False) -> None:
        """Send what came of a chunk, or of a part of it; then nothing runs here, if we `leave`."""
        pickled = self.runtime.pickled(reply)
        if leave:
            environment.step_out()
        self.running = None
        if self.runtime.lap is not None:  # of a call that is traced
            self.runtime.lap.answered(pickled.nbytes)
            self.runtime.lap = None
        _flush()
        tail = reply.seconds, len(reply.values), reply.final
        self.connection.send_pickled(Replied, (number,), pickled, tail)

    def _send_error(self, kind: Any, number: int, error: BaseException) -> None:
        self.connection.send_pickled(kind, (number,), pickled_error(error))

    def _tell(self, kind: str, fields: tuple[Any, ...]) -> None:
        """Send what an item says."""
        with self.undisturbed():
            try:
                self.connection.send(Said(kind, fields))
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


def _interrupt_again(ready: threading.Lock) -> None:
    ready.acquire()
    time.sleep(LATER)
    _thread.interrupt_main()


def _own_cores() -> int:
    """Part of the cores of the pool that is a worker's."""
    return max(1, nesting.pool_cores() // max(1, nesting.fellows()))


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


def _set_temporary(folder: str | None) -> None:
    """Have temporary files in the folder that the caller has chosen for them, if any."""
    if folder is not None or "tempfile" in sys.modules:
        import tempfile

        tempfile.tempdir = folder


def _limit_memory(nbytes: int) -> None:
    if system.WINDOWS:
        from .jobs import limit_memory

        limit_memory(nbytes)
        return
    import resource

    kind = resource.RLIMIT_DATA if system.LINUX else resource.RLIMIT_AS
    _, hard = resource.getrlimit(kind)
    nbytes = min(nbytes, sys.maxsize)
    resource.setrlimit(kind, (nbytes if hard < 0 else min(nbytes, hard), hard))
