"""From a worker to idle ones: the side of the worker whose item makes a call.

::

    thread of the call            link thread                              parent (`nested`)
    open ── Seek ─────────────────────────────────────────────────────────►
    runs chunks itself            reads the channel     ◄─ Grant, NestedReply ──
                                  takes a chunk ── NestedTask, NestedChunk ──►
    takes answers, or waits:
    meanwhile runs chunks of
    other workers' calls
    close ── Settled ─────────────────────────────────────────────────────►

The thread is there so that an item that runs long does not keep others waiting; it reads the
channel only while such a call is open, and hands it back before the item ends.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from ..place.recording import Traced
from ..transport import pickling
from ..transport.channel import Closed
from ..transport.own import Sent, State, WithOwn, sent
from ..transport.pickling import Pickled, dumps
from ..values.outcome import Lost, Reply
from ..values.source import Chunk, Source
from .connection import Connection
from .context import Variables, is_refused, variables_here
from .environment import altered, hurry, hurry_no_more
from .protocol import (
    CHUNK_BEGUN,
    NestedChunk,
    NestedReply,
    NestedTask,
    Quit,
    Seek,
    Settled,
    Waiting,
)
from .runtime import Runtime

__all__ = ["Inner", "Link"]

AHEAD_BELOW = 0.02  # seconds; where chunks are longer, none is sent in advance
SWITCH = 0.0002  # seconds after which an item lets the thread have the interpreter
LOOK = 0.05  # seconds between looks whether the thread is still to be waited for
PATIENCE = 0.002  # seconds of waiting before others' chunks are asked for


class Stateful(Protocol):
    """A task, as far as it is looked at here."""

    traced: Traced | None  # where to note how long its items take

    def state(self, variables: Variables, own: Sent) -> tuple[Any, ...]:
        """Return what a worker makes its copy from; `variables` are the context's."""
        ...


class Lender(Protocol):
    """The worker whose items make calls, as far as it is needed here."""

    connection: Connection
    runtime: Runtime
    words: memoryview[int]
    running: int | None  # call whose item runs
    item_limit: float | None  # seconds that the item that runs may take

    def undisturbed(self) -> AbstractContextManager[None]:
        """Nothing that gives an item up within the block."""
        ...

    def run_meanwhile(self) -> bool:
        """Run a chunk of another call, if one is queued."""
        ...

    def take(self) -> None:
        """Take in the messages that are there."""
        ...


class Inner:
    """A call that an item makes, and what of it has been handed out.

    Parameters
    ----------
    number : int
    task : Task
    source : Source
    helpers : int
        Workers that may run it besides this one.
    """

    def __init__(self, number: int, task: Stateful, source: Source, helpers: int) -> None:
        self.number = number
        self.task = task
        self.source = source
        self.helpers = helpers
        self.context = contextvars.copy_context()  # helpers find what is set where the call is made
        self.outer: int | None = None  # the call whose item makes this one
        self.main = threading.current_thread() is threading.main_thread()
        self.own: State = {}  # what items here have made of the script
        self.lock = threading.RLock()  # the garbage collector may close an iterator anywhere
        self.events: SimpleQueue[None] = SimpleQueue()  # something has come for who waits
        self.failed: BaseException | None = None
        self.out: dict[int, tuple[Chunk, int]] = {}  # by start: and how many items are unanswered
        self.answers: deque[NestedReply] = deque()
        self.grants: deque[None] = deque()  # one for each helper that is there for a chunk
        self.task_sent = False
        self.seeking = False
        self.worth_seeking = source.total is None or source.total > 1
        self.alone = False  # something cannot be pickled, or the call is not helped any more
        self.suspect: set[int] = set()  # items of which one may have ended a worker
        self.kept: deque[Chunk] = deque()  # those of them that came back: not for this worker

    def take(self) -> Chunk | None:
        """Return the next chunk to be run here."""
        with self.lock:
            while (chunk := self.source.take()) is not None:
                if self.alone or chunk.start not in self.suspect:
                    return chunk
                self.kept.append(chunk)
                self.worth_seeking = True
        return None

    def take_to_lend(self) -> Chunk | None:
        """Return the next chunk to be handed out; it counts as handed out from now on."""
        with self.lock:
            chunk = None
            if not self.alone:
                chunk = self.kept.popleft() if self.kept else self.source.take()
            if chunk is not None:
                self.out[chunk.start] = chunk, chunk.size
            return chunk

    def take_back(self, start: int) -> None:
        """Give a chunk that was not sent back to the source."""
        with self.lock:
            chunk, _ = self.out.pop(start)
            self.source.put_back(chunk)

    def answered(self, start: int, size: int) -> Chunk | None:
        """Return the part of a chunk that an answer is for; None if it is not out any more."""
        with self.lock:
            for begin, (chunk, left) in self.out.items():
                if begin <= start < begin + chunk.size:
                    if left <= size:
                        del self.out[begin]
                    else:
                        self.out[begin] = chunk, left - size
                    return chunk.part(start - begin, start - begin + size)
        return None

    def over(self) -> bool:
        """Whether no chunk is left and none is out."""
        with self.lock:
            return self.source.finished and not (self.out or self.kept or self.answers)

    def go_on_alone(self) -> None:
        """Take everything back; from now on all is run here."""
        with self.lock:
            self.alone = True
            self.source.put_back(*self.kept, *(chunk for chunk, _ in self.out.values()))
            self.out.clear()
            self.kept.clear()
            self.answers.clear()

    @property
    def ahead(self) -> bool:
        """Whether a helper should have a second chunk while it runs the first."""
        left = self.source.remaining
        short = 0.0 < self.source.sizer.seconds < AHEAD_BELOW
        return short and (left is None or left > 2 * (self.helpers + 1))


def _with_own(own: State, pickled: Callable[[Sent], Pickled]) -> Pickled:
    """Pickle something with what items have made of the script, as far as that can be sent."""
    try:
        return pickled(sent(own))
    except Exception:
        if not own:
            raise
    return pickled(sent(own, is_refused))


class Link:
    """What a worker process uses to have its items' calls helped by idle ones.

    Parameters
    ----------
    worker : Lender
    """

    def __init__(self, worker: Lender) -> None:
        self._worker = worker
        self._inners: dict[int, Inner] = {}
        self.opened = 0  # inner calls so far
        self._closed = False
        self._needed = threading.Event()
        self._listing = threading.RLock()  # several threads of an item may make calls
        self._reading = threading.Lock()
        self._watch = worker.connection.channel.watch()
        worker.runtime.mirror.own.watch(late=True)
        self._thread = threading.Thread(target=self._serve, name="parallelkit-link", daemon=True)
        self._thread.start()

    # --- the thread of the call -------------------------------------------------------------------

    def open(self, task: Stateful, source: Source, helpers: int) -> Inner:
        """Begin an inner call."""
        with self._worker.undisturbed(), self._listing:
            self.opened += 1
            inner = Inner(self.opened, task, source, helpers)
            inner.outer = self._worker.running
            # Helpers would not find what the item has set; and a thread that has outlived its item
            # must not be waiting for them when another item's call is given up.
            inner.alone = inner.outer is None or altered() or not self._look_at_own(inner)
            if not self._inners:  # the thread must not wait long for an item in pure Python
                hurry(SWITCH)
            self._inners[inner.number] = inner
            self._needed.set()
        return inner

    def _look_at_own(self, inner: Inner) -> bool:
        """See what helpers are to have as it is here; whether that can be seen now."""
        main = threading.current_thread() is threading.main_thread()
        own = self._worker.runtime.mirror.own.changed_by_items(here=main)
        if own is not None:
            inner.own = own
        return own is not None

    def seek(self, inner: Inner) -> None:
        """Ask for helpers, if there is something for them to do."""
        if inner.seeking or inner.alone or not inner.worth_seeking:
            return
        outer = inner.outer
        if outer is None or outer != self._worker.running:
            return
        with self._worker.undisturbed():
            inner.worth_seeking, inner.seeking = False, True
            self._worker.connection.send(Seek(inner.number, outer))

    def more(self, inner: Inner) -> None:
        """There may be more chunks, or something else to look at; called by any thread.

        Who runs the call may be in the middle of an item, and does not ask for helpers meanwhile.
        """
        inner.worth_seeking = True
        if inner.source.endless and not inner.alone:  # a call was submitted just now
            self._look_at_own(inner)
        self.seek(inner)
        self.nudge()

    def next(self, inner: Inner) -> tuple[Chunk, Reply | Lost] | None:
        """Return an answer that has come from a helper, if there is one."""
        while inner.answers:
            reply = inner.answers.popleft()
            start, size, is_lost, packet = reply.start, reply.size, reply.lost, reply.packet
            try:
                data, buffers = self._worker.connection.inbox.unpack(packet, copy=True)
                content: tuple[Any, ...] = pickling.loads(data, buffers)
            except Exception as error:  # noqa: BLE001 - a user's __setstate__ may raise anything
                content, is_lost = (error, True), True
            finally:
                self._worker.connection.inbox.done(packet)
            if not size:  # the task could not be unpickled there
                raise content[0]
            chunk = inner.answered(start, size)
            if chunk is None:
                continue
            if not is_lost:
                values, raised = content
                return chunk, Reply(values, raised, reply.seconds, True)
            lost = Lost(*content)
            inner.worth_seeking = True
            if lost.started:
                inner.suspect.update(range(start, start + size))
                return chunk, lost
            return chunk, lost
        return None

    def wait(self, inner: Inner) -> None:
        """Wait until something may have come for `inner`; run others' chunks meanwhile."""
        spare = False
        main = threading.current_thread() is threading.main_thread()
        main = main and not altered(filters=True)  # or others' chunks would undo that
        # Items in other threads here are to find the script as it is.
        main = main and all(other.main for other in list(self._inners.values()))
        try:
            while not (inner.answers or inner.failed or self._closed):
                self.seek(inner)
                if main and self._worker.run_meanwhile():
                    return
                try:
                    inner.events.get(timeout=None if spare else PATIENCE)
                    return
                except Empty:
                    pass
                spare = True
                if main:
                    self._say_spare(True)
        finally:
            if spare and main and not self._closed:
                self._say_spare(False)
        if self._closed:
            raise Closed
        if inner.failed is not None:
            raise inner.failed

    def _say_spare(self, spare: bool) -> None:
        """Tell that others' chunks are welcome, or not; with a time limit they never are."""
        if self._worker.item_limit is None:
            with self._worker.undisturbed():
                number = self._worker.words[CHUNK_BEGUN]
                self._worker.connection.send(Waiting(spare, number))

    def nudge(self) -> None:
        """End all waits: there may be something to do."""
        for inner in list(self._inners.values()):
            inner.events.put(None)

    def close(self, inner: Inner) -> None:
        """End an inner call; what is still out is run here, should the call go on."""
        with self._worker.undisturbed():
            with self._listing:
                if self._inners.pop(inner.number, None) is None:
                    return
                last = not self._inners
                if last:
                    self._needed.clear()
                    hurry_no_more()
                    self._wake()
            if last and threading.current_thread() is not self._thread:
                self._wait_for_thread()
            inner.go_on_alone()
            inner.events.put(None)
            if inner.seeking or inner.task_sent:
                self._worker.connection.send(Settled(inner.number))

    def _wait_for_thread(self) -> None:
        """Let nobody else read the channel from now on, unless another thread's call needs that."""
        while not self._inners:
            if self._reading.acquire(timeout=LOOK):
                self._reading.release()
                return

    def end_since(self, opened: int) -> None:
        """Close what has been opened since, and left open."""
        for inner in list(self._inners.values()):
            if inner.number > opened:
                self.close(inner)

    # --- what the parent sends; called by whoever reads the channel -------------------------------

    def granted(self, number: int) -> None:
        """Remember that a helper is there for a chunk."""
        inner = self._inners.get(number)
        if inner is not None:
            inner.grants.append(None)
            self._wake()

    def answered(self, reply: NestedReply) -> None:
        """Keep what came of a chunk for the main thread."""
        inner = self._inners.get(reply.inner)
        if inner is None:
            self._worker.connection.inbox.done(reply.packet)
        else:
            inner.answers.append(reply)
        self.nudge()

    # --- the thread ------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._closed:
            self._needed.wait()
            with self._reading:
                while self._inners and not self._closed:
                    self._watch.wait()
                    self._read()

    def _read(self) -> None:
        try:
            self._worker.take()
            for inner in list(self._inners.values()):
                while inner.grants:
                    inner.grants.popleft()
                    inner.context.run(self._hand_out, inner)
        except Closed:
            self._closed = True
        except Exception as error:  # noqa: BLE001 - such as no memory: who waits must know
            for inner in list(self._inners.values()):
                inner.failed = error
        self.nudge()

    def _hand_out(self, inner: Inner) -> None:
        """Send a chunk to the helper that was granted, or do without."""
        chunk = inner.take_to_lend()
        if chunk is None:
            # In this order: another thread that seeks meanwhile must not be heard before.
            self._worker.connection.send(Quit(inner.number))
            inner.seeking = False
            self.seek(inner)  # if there is something since
            return
        limit, connection = self._worker.runtime.max_nbytes, self._worker.connection
        try:
            if not inner.task_sent:
                traced = inner.task.traced
                own = {} if inner.source.endless else inner.own
                state, variables = inner.task.state, variables_here()
                task = _with_own(own, lambda own: dumps(state(variables, own), limit, True))
                connection.send_pickled(
                    NestedTask, (inner.number,), task, (list(task.needs), traced)
                )
                inner.task_sent = True
            if inner.source.endless:  # who submitted it may be about to say so
                self._look_at_own(inner)
            if inner.source.endless and inner.own:
                columns = chunk.columns
                pickled = _with_own(inner.own, lambda own: dumps(WithOwn(columns, own), limit))
            else:
                pickled = dumps(chunk.columns, limit)
        except Closed:
            raise
        except Exception:  # noqa: BLE001 - what cannot be sent can still be run here
            inner.take_back(chunk.start)
            inner.alone, inner.seeking = True, False
            self._worker.connection.send(Quit(inner.number))
            return
        where = chunk.start, chunk.size, inner.ahead, list(pickled.needs)
        connection.send_pickled(NestedChunk, (inner.number,), pickled, where)

    def _wake(self) -> None:
        self._watch.wake()
