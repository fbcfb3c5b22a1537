"""The workers of one process pool as the parent sees them, and who may use them when.

Who waits, drives: a thread that waits for its own call reads what *all* workers have sent and
routes it to the calls that it belongs to. One thread drives at a time; when its call is done,
another waiting thread takes over. So there is no thread between a worker's answer and the caller.

::

    worker sockets ─┐                       ┌─► call A's inbox   (A drives)
    process ends   ─┼─► selector ─► route ──┤
    wake pipe      ─┘                       └─► call B's inbox, B's event
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import wait as wait_for
from typing import Any

from ..chunking import Chunk
from ..errors import ParallelError, RemoteTraceback, WorkerDied
from ..outcome import Lost
from ..transport import pickling
from ..transport import worker as protocol
from ..transport.channel import Channel, Closed, Message
from ..transport.segments import Inbox, Outbox, Packet, Segment, control_block, take_all
from ..transport.surroundings import Surroundings, current
from .hosting import Host

__all__ = ["Answer", "Call", "Crew", "Ticket"]

GRACE = 0.2  # seconds for a worker to leave the item of a call that was given up


@dataclass(eq=False, slots=True)
class Ticket:
    """A chunk that a worker has."""

    number: int
    call: Call
    chunk: Chunk
    nbytes: int
    done: int = 0  # items answered so far


@dataclass(slots=True)
class Answer:
    """What came for a ticket: part of a reply still to be unpickled, or a loss."""

    chunk: Chunk
    nbytes: int = 0
    worker: Worker | None = None
    packet: Packet | None = None
    seconds: float = 0.0
    final: bool = True
    lost: Lost | None = None


@dataclass(eq=False, slots=True)
class Call:
    """One call's state in the crew."""

    number: int
    pickled: pickling.Pickled
    around: Surroundings
    timeout: float | None
    inbox: deque[Answer] = field(default_factory=deque)
    tickets: int = 0
    event: threading.Event = field(default_factory=threading.Event)
    poked: bool = False
    failed: BaseException | None = None
    packet: Packet | None = None
    segment: Segment | None = None
    users: set[Worker] = field(default_factory=set)  # who has not released the segment


class Worker:
    """A worker process: its channel, its segments, its tickets."""

    def __init__(self, process: Any, sock: socket.socket, rank: int, folder: str | None) -> None:
        self.process = process
        self.sentinel: int = process.sentinel
        self.pid: int = process.pid
        self.channel = Channel(sock)
        self.rank = rank
        self.outbox, self.inbox = Outbox(folder=folder), Inbox()
        self.sent = 0  # segments known to it, by the highest id
        self.tickets: deque[Ticket] = deque()
        self.reserved = 0
        self.calls: set[int] = set()
        self.around: Surroundings | None = None
        self.ready = self.retired = self.dead = False
        self.sending = threading.Lock()
        self.control_fd, control = control_block(protocol.CONTROL_BYTES)
        self.words, self.times = control.cast("Q"), control.cast("d")

    @property
    def load(self) -> int:
        """Chunks that it has or is about to get."""
        return len(self.tickets) + self.reserved

    def kill(self) -> None:
        """End the process, whatever it does."""
        if not self.dead:
            self.process.kill()


class Crew:
    """Workers with the same settings, kept warm, shared by calls and threads.

    Parameters
    ----------
    workers : int
    start_method : str
    initializer, initargs
        Run in each worker before its first item.
    settings : Mapping
        ``tasks_per_worker``, ``memory_limit``, ``max_nbytes`` and ``temp_folder``.

    Raises
    ------
    TransportError
        If the initializer or its arguments cannot be pickled.
    """

    def __init__(
        self,
        workers: int,
        start_method: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        settings: Mapping[str, Any],
    ) -> None:
        self.size = workers
        self.settings = dict(settings)
        self.broken: BaseException | None = None
        self._closed = False
        self.origin: object = None
        self.lock = threading.RLock()
        self.workers: list[Worker] = []
        self.calls: dict[int, Call] = {}
        self._leader: Call | None = None
        self._waiting: list[Call] = []
        self._hungry: deque[Call] = deque()  # in the order in which they get workers
        self._numbers = 0
        self._stillborn = 0
        self._folder: str | None = settings["temp_folder"]
        self._tasks = Outbox(cap=512 << 20, folder=self._folder)
        self._over: dict[int, Call] = {}  # calls whose segment is still in use, by segment
        try:
            hello = pickling.dumps((initializer, initargs))
        except BaseException as error:
            raise pickling.refusal("initializer or initargs", (initializer, initargs), error) from error
        self._hello, self._hello_segment = self._tasks.pack(hello)
        self._hello_shared = hello.shared
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        self._selector.register(self._wake_out, selectors.EVENT_READ, None)
        self.pid = os.getpid()
        try:
            self.host = Host(workers, start_method, self._add, self._fail)
        except BaseException:
            self._let_go()
            raise

    # --- workers come and go -------------------------------------------------------------------

    def _add(self, process: Any, sock: socket.socket) -> None:
        """Greet a new worker; called by whichever thread has started it."""
        with self.lock:
            if self._closed:
                sock.close()
                process.kill()
                return
            taken = {worker.rank for worker in self.workers}
            rank = next(i for i in range(len(taken) + 1) if i not in taken)
            worker = Worker(process, sock, rank, self._folder)
            worker.around = current()
            self.workers.append(worker)
            fds = [worker.control_fd]
            if self._hello_segment is not None:
                fds.append(self._hello_segment.fd)
            fds += [memory.fd for memory in self._hello_shared]
            body = (protocol.HELLO, self._hello, tuple(worker.around), self.settings)
            try:
                worker.channel.send(body, fds)
            except Closed:
                pass  # it is dead already; the selector will tell
            self._selector.register(worker.channel, selectors.EVENT_READ, worker)
            self._selector.register(worker.sentinel, selectors.EVENT_READ, worker)
            self._feed_next()
        os.close(worker.control_fd)
        self._poke()

    def _bury(self, worker: Worker) -> None:
        """Take a dead worker out; what it had begun is lost, what it had not is not."""
        with self.lock:
            if worker.dead:
                return
            self._drain(worker)
            worker.dead = True
            self._selector.unregister(worker.channel)
            self._selector.unregister(worker.sentinel)
            self.workers.remove(worker)
            code = _exit_code(worker.process)
            begun = worker.words[protocol.CHUNK_BEGUN]
            for ticket in worker.tickets:
                ticket.call.tickets -= 1
                rest = ticket.chunk.part(ticket.done, ticket.chunk.size)
                started = ticket.number == begun or ticket.done > 0
                died = WorkerDied(obituary(worker.pid, code))
                self._deliver(ticket.call, Answer(rest, lost=Lost(died, started)))
            worker.tickets.clear()
            for number, call in list(self._over.items()):
                self._released(worker, call, number)
            for call in self.calls.values():
                call.users.discard(worker)
            if not worker.ready and not worker.retired:
                self._stillborn += 1
                if self._stillborn > 2 * self.size + 1:
                    self._fail(WorkerDied(f"workers end before they are ready: {obituary(worker.pid, code)}"))
            worker.channel.close()
            worker.outbox.close()  # the inbox stays for answers that are still to be read

    def _drain(self, worker: Worker) -> None:
        try:
            while True:
                for message in worker.channel.receive():
                    self._route(worker, message)
                if not worker.channel.wait(0):
                    break
        except Closed:
            pass

    def _fail(self, error: BaseException) -> None:
        """Nothing more can be done with these workers: tell all calls."""
        with self.lock:
            self.broken = self.broken or error
            for call in self.calls.values():
                call.failed = call.failed or error
                call.event.set()
        self._poke()

    def close(self) -> None:
        """End the workers. Calls that are under way fail."""
        with self.lock:
            if self._closed or os.getpid() != self.pid:
                return
            self._closed = True
        self._fail(ParallelError("the workers were shut down while the call was running"))
        self.host.close()
        with self.lock:
            for worker in list(self.workers):
                worker.dead = True
                self._selector.unregister(worker.channel)
                self._selector.unregister(worker.sentinel)
                worker.channel.close()
                worker.outbox.close()
            self.workers.clear()
            if not self.calls:
                self._let_go()

    def abandon(self) -> None:
        """In a forked child: close our copies of what is the parent's, and touch nothing else."""
        self.broken = ParallelError("these workers belong to the process this one was forked from")
        self._closed = True
        for worker in self.workers:
            worker.dead = True
            worker.channel.close()
        self.host.disown([worker.process for worker in self.workers])
        self._let_go()

    def _let_go(self) -> None:
        self._tasks.close()
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    # --- calls ---------------------------------------------------------------------------------

    def open(self, pickled: pickling.Pickled, timeout: float | None) -> Call:
        """Begin a call."""
        with self.lock:
            if self.broken is not None:
                raise self.broken
            self._numbers += 1
            call = Call(self._numbers, pickled, current(), timeout)
            self.calls[call.number] = call
        if pickled.buffers:
            self._look()  # a segment of the last call may be free by now
        return call

    def reserve(self, call: Call, depth: int) -> Worker | None:
        """Find a worker that may take another chunk of `call`, in turn with other calls."""
        with self.lock:
            free = [
                w
                for w in self.workers
                if not w.retired
                and (w.load == 0 or (w.load < depth and all(t.call is call for t in w.tickets)))
            ]
            if not free or (self._hungry and self._hungry[0] is not call):
                if call not in self._hungry:
                    self._hungry.append(call)
                return None
            if self._hungry:
                self._hungry.popleft()
            worker = min(free, key=lambda w: (w.load, not w.ready))
            worker.reserved += 1
            if len(free) > 1:
                self._feed_next()
            return worker

    def sated(self, call: Call) -> None:
        """`call` wants no worker for now: let the next in turn have one."""
        with self.lock:
            if call in self._hungry:
                self._hungry.remove(call)
            self._feed_next()

    def unreserve(self, worker: Worker) -> None:
        """Give a reserved place back unused."""
        with self.lock:
            worker.reserved -= 1

    def send(self, call: Call, worker: Worker, chunk: Chunk, pickled: pickling.Pickled) -> bool:
        """Send a chunk to a worker that was reserved for it; false if the worker is dead."""
        with worker.sending:
            with self.lock:
                worker.reserved -= 1
                if worker.dead:
                    return False
                self._numbers += 1
                packet, segment = worker.outbox.pack(pickled)
                ticket = Ticket(self._numbers, call, chunk, pickled.nbytes)
                worker.tickets.append(ticket)
                call.tickets += 1
            try:
                if call.number not in worker.calls:
                    self._send_task(call, worker)
                fds = []
                if segment is not None and segment.id > worker.sent:
                    worker.sent = segment.id
                    fds.append(segment.fd)
                fds += [memory.fd for memory in pickled.shared]
                released = take_all(worker.inbox.released)
                forgotten = take_all(worker.outbox.forgotten)
                head = protocol.CHUNK, call.number, ticket.number, worker.rank, chunk.size
                worker.channel.send((*head, packet, released, forgotten), fds)
            except Closed:
                pass  # the selector will tell, and the ticket be answered as not started
            return True

    def _send_task(self, call: Call, worker: Worker) -> None:
        around = None
        if worker.around != call.around:
            around = tuple(call.around)
            worker.around = call.around
        with self.lock:
            if call.packet is None:
                call.packet, call.segment = self._tasks.pack(call.pickled)
            fds = []
            if call.segment is not None:
                call.users.add(worker)
                fds.append(call.segment.fd)
            fds += [memory.fd for memory in call.pickled.shared]
        worker.calls.add(call.number)
        worker.channel.send((protocol.TASK, call.number, call.packet, around), fds)

    def close_call(self, call: Call) -> None:
        """End a call; give it up in the workers that still have chunks of it."""
        if os.getpid() != self.pid:
            return  # a copy of the call, in a forked child
        with self.lock:
            del self.calls[call.number]  # what still comes for it is dropped from now on
            if call in self._hungry:
                self._hungry.remove(call)
            busy = [w for w in self.workers if any(t.call is call for t in w.tickets)]
            while call.inbox:
                self._deliver(call, call.inbox.popleft())
            call.failed = None
        if busy and self.broken is None:
            self._give_up(call, busy)
        with self.lock:
            if call.segment is not None:
                self._over[call.segment.id] = call
                self._released(None, call, call.segment.id)
            for worker in self.workers:
                if call.number in worker.calls:
                    worker.calls.discard(call.number)
                    try:
                        worker.channel.send((protocol.FORGET, call.number))
                    except Closed:
                        pass
            self._feed_next()
            if self._closed and not self.calls:
                self._let_go()

    def _give_up(self, call: Call, busy: list[Worker]) -> None:
        """Free the workers that run items of `call`: ask, and after a moment's grace kill."""
        try:
            for worker in busy:
                try:
                    worker.channel.send((protocol.ABORT, call.number))
                except Closed:
                    continue
                if worker.ready:
                    _interrupt(worker.pid)
            deadline = time.monotonic() + GRACE
            while call.tickets and (left := deadline - time.monotonic()) > 0:
                self.wait(call, left)
        finally:
            with self.lock:
                for worker in busy:
                    if any(ticket.call is call for ticket in worker.tickets):
                        worker.kill()

    def end_overdue(self, call: Call) -> None:
        """Kill workers that did not end by themselves when an item's time was over."""
        with self.lock:
            for worker in self.workers:
                begun = worker.times[protocol.ITEM_BEGUN]
                if not worker.tickets or not begun or call.timeout is None:
                    continue
                ticket = worker.tickets[0]
                late = time.monotonic() - begun - call.timeout
                if ticket.call is call and late > 2 * GRACE:
                    self.expired(worker, ticket, worker.words[protocol.ITEM_OFFSET])
                    worker.kill()

    # --- waiting and driving -------------------------------------------------------------------

    def wait(self, call: Call, timeout: float | None = None) -> None:
        """Wait until something may have come for `call`, driving if nobody else does."""
        with self.lock:
            if call.inbox or call.poked or call.failed:
                call.poked = False
                return
            leads = self._leader is None
            if leads:
                self._leader = call
            self._waiting.append(call)
        try:
            if leads:
                self._drive(timeout)
            else:
                call.event.wait(timeout)
                call.event.clear()
        finally:
            with self.lock:
                self._waiting.remove(call)
                call.poked = False
                if leads:
                    self._leader = None
                if self._leader is None and self._waiting:
                    # Whoever leaves sees to it that somebody drives. That may turn out to leave
                    # too, and sees to it then.
                    self._waiting[0].event.set()

    def poke(self, call: Call) -> None:
        """End the wait of `call`: its input has something."""
        call.poked = True
        call.event.set()
        if self._leader is call:
            self._poke()

    def _poke(self) -> None:
        try:
            self._wake_in.send(b"x")
        except (BlockingIOError, OSError):
            pass  # full: it will wake; closed: nobody waits

    def _drive(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout):
            worker = key.data
            if worker is None:
                try:
                    self._wake_out.recv(4096)
                except BlockingIOError:
                    pass
            elif key.fileobj is worker.channel:
                self._receive(worker)
            else:
                self._bury(worker)

    def _look(self) -> None:
        """Take in what has already come, if nobody drives."""
        with self.lock:
            if self._leader is None:
                self._drive(0)

    def _receive(self, worker: Worker) -> None:
        try:
            messages = worker.channel.receive()
        except Closed:
            self._bury(worker)
            return
        with self.lock:
            for message in messages:
                self._route(worker, message)

    def _route(self, worker: Worker, message: Message) -> None:
        kind, *rest = message.body
        fds = message.fds
        if kind == protocol.REPLY:
            number, packet, seconds, count, final, *segments = rest
            worker.inbox.adopt(packet, fds)
            self._free(worker, *segments)
            ticket = next(t for t in worker.tickets if t.number == number)
            part = ticket.chunk.part(ticket.done, ticket.done + count) if (
                count < ticket.chunk.size
            ) else ticket.chunk
            ticket.done += count
            nbytes = ticket.nbytes * count // max(1, ticket.chunk.size)
            self._deliver(ticket.call, Answer(part, nbytes, worker, packet, seconds, final))
            if final:
                if ticket.done < ticket.chunk.size:
                    left = ticket.chunk.part(ticket.done, ticket.chunk.size)
                    self._deliver(ticket.call, Answer(left, lost=Lost(_NOT_RUN, False)))
                self._close_ticket(worker, ticket)
        elif kind == protocol.SKIPPED:
            ticket = next(t for t in worker.tickets if t.number == rest[0])
            self._close_ticket(worker, ticket)
        elif kind == protocol.UNREADABLE:
            number, packet, *segments = rest
            error = self._error(worker, packet, fds, segments)
            ticket = next(t for t in worker.tickets if t.number == number)
            self._deliver(ticket.call, Answer(ticket.chunk, lost=Lost(error)))
            self._close_ticket(worker, ticket)
        elif kind == protocol.TIMEOUT:
            number, offset = rest
            ticket = next(t for t in worker.tickets if t.number == number)
            self.expired(worker, ticket, offset)
        elif kind == protocol.FAILED:
            number, packet, *segments = rest
            error = self._error(worker, packet, fds, segments)
            if number == 0:
                self._fail(error)
            elif number in self.calls:
                self.calls[number].failed = error
                self.calls[number].event.set()
        elif kind == protocol.READY:
            worker.ready = True
            self._stillborn = 0
            self._feed_next()
        elif kind == protocol.RETIRED:
            worker.retired = True
        elif kind == protocol.RELEASED:
            self._free(worker, *rest, ())

    def expired(self, worker: Worker, ticket: Ticket, offset: int) -> None:
        """Settle a ticket whose item at `offset` ran too long; its worker is about to end."""
        if ticket not in worker.tickets:
            return
        chunk, call = ticket.chunk, ticket.call
        if ticket.done < offset:
            left = chunk.part(ticket.done, offset)
            self._deliver(call, Answer(left, lost=Lost(_NOT_RUN, False)))
        self._deliver(call, Answer(chunk.part(offset, offset + 1), lost=Lost(_TIMED_OUT)))
        if offset + 1 < chunk.size:
            left = chunk.part(offset + 1, chunk.size)
            self._deliver(call, Answer(left, lost=Lost(_NOT_RUN, False)))
        worker.retired = True
        self._close_ticket(worker, ticket)

    def _error(
        self, worker: Worker, packet: Packet, fds: list[int], segments: list[Any]
    ) -> BaseException:
        worker.inbox.adopt(packet, fds)
        self._free(worker, *segments)
        try:
            error, text = pickling.loads(*worker.inbox.unpack(packet, copy=True))
        except BaseException as problem:  # noqa: BLE001 - a user's class may raise anything
            error, text = ParallelError(f"an error that cannot be read: {problem}"), ""
        worker.inbox.done(packet)
        error.__cause__ = RemoteTraceback(text)
        return error  # type: ignore[no-any-return]

    def _close_ticket(self, worker: Worker, ticket: Ticket) -> None:
        worker.tickets.remove(ticket)
        ticket.call.tickets -= 1
        ticket.call.event.set()
        self._feed_next()

    def _deliver(self, call: Call, answer: Answer) -> None:
        if call.number in self.calls:
            call.inbox.append(answer)
            if self._leader is not call:
                call.event.set()
        elif answer.worker is not None and answer.packet is not None:
            answer.worker.inbox.done(answer.packet)

    def _feed_next(self) -> None:
        """Wake the call whose turn it is to get a worker."""
        if self._hungry:
            call = self._hungry[0]
            call.poked = True
            call.event.set()
            if self._leader is call:
                self._poke()

    # --- segments ------------------------------------------------------------------------------

    def _free(
        self, worker: Worker, chunks: list[int], tasks: list[int], forgotten: list[int]
    ) -> None:
        worker.outbox.free(chunks)
        worker.inbox.forget(forgotten)
        for number in tasks:
            call = self._over.get(number) or next(
                (c for c in self.calls.values() if c.segment and c.segment.id == number), None
            )
            if call is not None:
                self._released(worker, call, number)

    def _released(self, worker: Worker | None, call: Call, number: int) -> None:
        """`worker` uses segment `number` of `call` no more; free it with the last user."""
        if worker is not None:
            call.users.discard(worker)
        if not call.users and number in self._over:
            del self._over[number]
            self._tasks.free([number])


_NOT_RUN = ParallelError("not run")
_TIMED_OUT = TimeoutError("ran too long")


def obituary(pid: int, code: int | None) -> str:
    """How a worker ended, and what that may mean."""
    if code is not None and code < 0:
        try:
            how = f"signal {signal.Signals(-code).name}"
        except ValueError:
            how = f"signal {-code}"
    else:
        how = f"exit code {code}"
    advice = ""
    if code == -signal.SIGKILL:
        advice = "; out of memory? (memory_limit= makes that a MemoryError of the item)"
    elif code == -signal.SIGSEGV:
        advice = "; a crash in compiled code, or a recursion too deep for the C stack"
    return f"worker process {pid} ended by {how}{advice}"


def _exit_code(process: Any) -> int | None:
    """Exit code of a process that has hung up. It may still be on its way out."""
    for patience in (1.0, 1.0):
        deadline = time.monotonic() + patience
        wait_for([process.sentinel], patience)
        while time.monotonic() < deadline:
            code: int | None = process.exitcode
            if code is not None:
                return code
            time.sleep(0.001)
        process.kill()  # it lives on without us
    return None


def _interrupt(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGINT)
    except ProcessLookupError:
        pass
