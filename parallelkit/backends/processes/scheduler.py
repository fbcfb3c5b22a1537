"""The workers of one process pool as the parent sees them, and which call may use them when.

A crew is shared: by calls, threads and pools with the same settings. Calls that want a worker
stand in line; each takes one when it is its turn, and lines up again for the next. What a worker
sends is routed here (see `driver` for who reads it) and unpickled by the call that it is for.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ...errors import ParallelError, WorkerDied
from ...place.sigint import Shield
from ...transport import pickling
from ...transport.channel import Closed
from ...values.outcome import Lost
from ...values.source import Chunk
from ...worker import loop as protocol
from ...worker import output as telling
from ...worker.environment import current
from .handle import GRACE, Answer, Call, Ticket, Worker, exit_code, obituary
from .nested import Lending, Loan, abandon, is_below
from .packing import Packing
from .pathos_host import Host
from .reactor import Driver
from .routing import Router

__all__ = ["Crew"]

MOST_FUTILE = 100  # deaths in a row of workers that have begun nothing, by whatever kills them


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
        self.abandoned: BaseException | None = None  # in a forked child, where locks may be stuck
        self._closed = False
        self.origin: object = None
        self.lock = threading.RLock()
        self.workers: list[Worker] = []
        self.calls: dict[int, Call] = {}
        self._hungry: deque[Call] = deque()  # in the order in which they get workers
        self._later: deque[Callable[[], object]] = deque()
        self.told: deque[tuple[str, tuple[Any, ...]]] = deque()  # on behalf of no call of ours
        self.lending = Lending(self)
        self._numbers = 0
        self._shared_out = False  # whether workers have cores of idle ones
        self._futile = 0  # deaths since a worker answered or began something
        self._folder: str | None = settings["temp_folder"]
        settings = {**self.settings, "workers": workers}
        self.packing = Packing(self.lock, self.workers, settings, initializer, initargs)
        self.router = Router(self)
        self._driver = Driver(self.lock, self._receive, self._bury)
        self.poke, self.wake, self.look = self._driver.poke, self._driver.wake, self._driver.look
        self.pid = os.getpid()
        self.handed_out = 0  # pools on it whose call is yet to be opened
        try:
            self.host = Host(workers, start_method, self._add, self.fail)
        except BaseException:
            self._closed = True  # for what another thread is starting at this moment
            for worker in self.workers:
                worker.kill()
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
            # One that has ended while nobody waited is still to be buried.
            living = [worker for worker in self.workers if worker.process.exitcode is None]
            taken = {worker.rank for worker in living}
            rank = next(i for i in range(len(taken) + 1) if i not in taken)
            worker = Worker(process, sock, rank, self._folder)
            worker.around = current()
            self.workers.append(worker)
            self.packing.greet(worker)
            self._driver.add(worker)
            self.feed_next()
        self._follow_up()
        os.close(worker.control_fd)
        self._driver.nudge()

    def _bury(self, worker: Worker) -> None:
        """Take a dead worker out; what it had begun is lost, what it had not is not."""
        with Shield(), self.lock:
            if worker.dead:
                return
            self._drain(worker)
            worker.dead = True
            self._driver.remove(worker)
            self.workers.remove(worker)
            code = exit_code(worker.process)
            begun = worker.words[protocol.CHUNK_BEGUN]
            for ticket in worker.tickets:
                ticket.call.tickets -= 1
                if self._closed:
                    continue  # the call fails as a whole
                rest = ticket.chunk.part(ticket.done, ticket.chunk.size)
                started = ticket.number == begun or ticket.done > 0 or ticket.waits
                if worker.given_up:  # on behalf of another call: this one is not to blame
                    started = False
                if started:
                    self.alive()
                died = WorkerDied(obituary(worker.pid, code))
                self.deliver(ticket.call, Answer(rest, lost=Lost(died, started)))
            worker.tickets.clear()
            for loan in self.lending.of(worker):
                self.lending.drop(loan)
            self.packing.bury(worker)
            idle = worker.ready or worker.retired  # else it has not even begun to live
            self._futile += 1
            most = MOST_FUTILE if idle else 2 * self.size + 1
            if self._futile > most and self.broken is None:
                how = obituary(worker.pid, code)
                self.fail(WorkerDied(f"workers end before they do anything: {how}"))
            worker.channel.close()
            worker.outbox.close()  # the inbox stays for answers that are still to be read
        self._follow_up()

    def alive(self) -> None:
        """Take note that some worker got somewhere."""
        self._futile = 0

    def _drain(self, worker: Worker) -> None:
        try:
            while True:
                for message in worker.channel.receive():
                    self.router.route(worker, message)
                if not worker.channel.wait(0):
                    break
        except Closed:
            pass

    def fail(self, error: BaseException) -> None:
        """Nothing more can be done with these workers: tell all calls."""
        with self.lock:
            self.broken = self.broken or error
            for call in self.calls.values():
                call.failed = call.failed or error
                call.event.set()
        self._driver.nudge()

    def close(self) -> None:
        """End the workers. Calls that are under way fail."""
        if os.getpid() != self.pid:
            return
        with self.lock:
            if self._closed:
                return
            self._closed = True
        self.fail(ParallelError("the workers were shut down while the call was running"))
        self.host.replace_no_more()
        with self.lock:
            for worker in self.workers:
                worker.hang_up()
        self.host.close()
        with self.lock:
            for worker in list(self.workers):
                worker.dead = True
                self._driver.remove(worker)
                worker.channel.close()
                worker.outbox.close()  # the inbox stays for answers that are still to be read
            self.workers.clear()
            if not self.calls:
                self._let_go()

    def abandon(self) -> None:
        """In a forked child: close our copies of what is the parent's, and touch nothing else."""
        self.abandoned = self.broken = ParallelError(
            "these workers belong to the process this one was forked from"
        )
        self._closed = True
        for worker in self.workers:
            worker.dead = True
            worker.channel.close()
        self.host.disown([worker.process for worker in self.workers])
        self._let_go()

    def _let_go(self) -> None:
        self.packing.close()
        self._driver.close()

    # --- calls ---------------------------------------------------------------------------------

    def open(self, pickled: pickling.Pickled, timeout: float | None, cores: int) -> Call:
        """Begin a call."""
        with self.lock:
            if self.broken is not None:
                raise self.broken
            call = Call(self.next_number(), pickled, current(), timeout, cores)
            self.calls[call.number] = call
            self._share_out()
        if pickled.buffers:
            self.look(call)  # a segment of the last call may be free by now
        return call

    def reserve(self, call: Call, depth: int) -> Worker | None:
        """Find a worker that may take another chunk of `call`, in turn with other calls."""
        with self.lock:
            if call.number not in self.calls:
                return None  # it has just been closed, by another thread than the one that feeds
            free = [w for w in self.workers if not (w.tickets or w.reserved or w.retired)]
            if not free and depth > 1:
                free = [w for w in self.workers if w.load < depth and w.serves_only(call)]
            if not free or (self._hungry and self._hungry[0] is not call):
                if call not in self._hungry:
                    self._hungry.append(call)
                return None
            if self._hungry:
                self._hungry.popleft()
            worker = next((w for w in free if w.ready), free[0])
            worker.reserved.append(call)
            if len(free) > 1:
                self.feed_next()
            return worker

    def sated(self, call: Call) -> None:
        """`call` wants no worker for now: let the next in turn have one."""
        if not self._hungry:
            return
        with self.lock:
            if call in self._hungry:
                self._hungry.remove(call)
            self.feed_next()
        self._follow_up()

    @property
    def wanted(self) -> bool:
        """Whether a call of this process waits for a worker."""
        return bool(self._hungry)

    def next_number(self) -> int:
        """Return a number for a call or a chunk that no other has; with the lock."""
        self._numbers += 1
        return self._numbers

    def exhausted(self, call: Call, exhausted: bool) -> None:
        """Tell whether `call` has no chunk left that some worker has not got."""
        with self.lock:
            call.exhausted = exhausted
            self._share_out()

    def _share_out(self) -> None:
        """At the end of all calls, let workers that still run use the cores of those that do not.

        The items see it when they make a call. What was handed out so is not taken back from
        inner calls that run when a new outer call begins.
        """
        tail = all(call.exhausted for call in self.calls.values())
        if not (tail or self._shared_out):
            return  # as with nearly every chunk, and without a look at each worker
        busy = [worker for worker in self.workers if worker.load]
        tail = tail and len(busy) < self.size
        if not (tail or self._shared_out):
            return
        self._shared_out = tail
        for worker in self.workers:
            worker.words[protocol.SPARE_CORES] = 0
        if tail and busy:
            cores = max(call.cores for call in self.calls.values()) if self.calls else 0
            base, extra = divmod(cores, len(busy))
            for rank, worker in enumerate(busy):
                worker.words[protocol.SPARE_CORES] = base + (rank < extra)

    def unreserve(self, call: Call, worker: Worker) -> None:
        """Give a reserved place back unused."""
        with self.lock:
            worker.reserved.remove(call)

    def send(self, call: Call, worker: Worker, chunk: Chunk, pickled: pickling.Pickled) -> bool:
        """Send a chunk to a worker that was reserved for it; false if the worker is dead."""
        with worker.sending:
            with self.lock:
                if call.number not in self.calls:
                    return False  # closed meanwhile, by another thread
                worker.reserved.remove(call)
                if worker.dead:
                    return False
                packed = self.packing.packed(worker, pickled)
                ticket = Ticket(self.next_number(), call, chunk, pickled.nbytes)
                worker.tickets.append(ticket)
                call.tickets += 1
            body, fds = packed
            worker.sharing |= bool(call.pickled.shared)
            head = (
                *(protocol.CHUNK, call.number, ticket.number, worker.rank),
                *(chunk.start, chunk.size, call.timeout, call.lent),
            )
            around = self.packing.around_for(call, worker)
            task = self.packing.task_for(call, worker, fds)
            try:
                worker.channel.send((*head, *body, around, task), fds)
            except Closed:
                pass  # the selector will tell, and the ticket be answered as not started
        if worker.channel.pending:  # read while the message waited to be sent
            self._receive(worker)
        return True

    def post(
        self, worker: Worker, head: tuple[Any, ...], pickled: pickling.Pickled | None = None
    ) -> None:
        """Send a worker something that it need not answer."""
        with worker.sending:
            with self.lock:
                if worker.dead:
                    return
                body, fds = ((), []) if pickled is None else self.packing.packed(worker, pickled)
            try:
                worker.channel.send((*head, *body), fds)
            except Closed:
                pass
        if worker.channel.pending:
            self._receive(worker)

    def close_call(self, call: Call) -> None:
        """End a call; give it up in the workers that still have chunks of it."""
        if os.getpid() != self.pid:
            return  # a copy of the call, in a forked child
        try:
            with Shield(len(self.calls) > 1), self.lock:
                self._driver.leave(call)
                self.withdraw(call)
                for loan in self.lending.below(call):
                    self.lending.end(loan)
                left = self._left(call)
            if left and self.broken is None:
                self._give_up(call, left)
        finally:  # also where Ctrl-C, once more, has cut that short
            with Shield(len(self.calls) > 0), self.lock:
                self._part_with(call)
            self._follow_up()
            self._retell(call)

    def _left(self, call: Call) -> list[tuple[Worker, Call]]:
        """Which workers still have chunks of `call`, or of calls that its items have made."""
        return [
            (worker, ticket.call)
            for worker in self.workers
            for ticket in worker.tickets
            if is_below(ticket.call, call)
        ]

    def _part_with(self, call: Call) -> None:
        """Leave nothing of a call that is over in the workers."""
        self.calls.pop(call.number, None)
        for worker in {worker for worker, _ in self._left(call)}:
            # It had its moment. But where an item of another call runs while one of this call
            # waits, this one leaves by itself when that is done.
            top = worker.ticket(worker.words[protocol.CHUNK_BEGUN])
            if top is None or top.call.number not in self.calls:
                worker.given_up = True
                worker.kill()
        self.packing.let_forget(call)
        self.feed_next()
        if self._closed and not self.calls and not self.workers:
            self._let_go()  # else close() does, which is under way in another thread

    def withdraw(self, call: Call) -> None:
        """Take a call out; what still comes for it is dropped."""
        del self.calls[call.number]
        if call in self._hungry:
            self._hungry.remove(call)
        self._clear(call)

    def _clear(self, call: Call) -> None:
        """Drop what was kept for a call, and give places back that Ctrl-C left reserved."""
        for worker in self.workers:
            worker.reserved = [other for other in worker.reserved if other is not call]
        while call.inbox:
            self.deliver(call, call.inbox.popleft())
        call.failed = None

    def wait(self, call: Call, timeout: float | None = None) -> None:
        """Wait until something may have come for `call`."""
        self._driver.wait(call, timeout)
        self._retell(call)

    def _give_up(self, call: Call, left: list[tuple[Worker, Call]]) -> None:
        """Ask workers to leave the items of `call`, and give them a moment for it."""
        abandon(left)
        deadline = time.monotonic() + GRACE
        while any(one.tickets for one in {call, *(one for _, one in left)}) and not self._closed:
            patience = deadline - time.monotonic()
            if patience <= 0:
                break
            self.wait(call, patience)

    # --- what workers send ------------------------------------------------------------------

    def _receive(self, worker: Worker) -> None:
        with Shield(len(self.calls) > 1):  # a reply that is read and not routed would be lost
            try:
                messages = worker.channel.receive()
            except Closed:
                gone = True
            else:
                gone = False
                with self.lock:
                    for message in messages:
                        self.router.route(worker, message)
        if gone:
            self._bury(worker)
        else:
            self._follow_up()

    def _retell(self, call: Call) -> None:
        """Log, warn and print what items of a call told, in its own thread and without the lock.

        So handlers may do anything, and one that takes its time holds up no other call.
        """
        for told in (call.told, self.told):
            while told:
                try:
                    kind, fields = told.popleft()
                except IndexError:  # another thread had it
                    break
                telling.retell(kind, fields)

    def later(self, what: Callable[[], object]) -> None:
        """Do `what` when the lock has been given back."""
        self._later.append(what)

    def _follow_up(self) -> None:
        """Do what waits for that."""
        while self._later:
            try:
                what = self._later.popleft()
            except IndexError:  # another thread was faster
                return
            with Shield(len(self.calls) > 1):  # what another call waits for
                what()

    def close_ticket(self, worker: Worker, ticket: Ticket) -> None:
        """Take a chunk off a worker: it is answered in full, or lost."""
        worker.tickets.remove(ticket)
        ticket.call.tickets -= 1
        self.wake(ticket.call)
        self._share_out()
        self.feed_next()

    def deliver(self, call: Call, answer: Answer) -> None:
        """Give an answer to the call that it is for; drop it if that is over."""
        if call.number in self.calls:
            if isinstance(call, Loan):
                self.later(partial(self.lending.relay, call, answer))
                return
            call.inbox.append(answer)
            self.wake(call)
        elif answer.worker is not None and answer.packet is not None:
            answer.worker.inbox.done(answer.packet)

    def feed_next(self) -> None:
        """Wake the call whose turn it is to get a worker."""
        if self._hungry:
            self._driver.poke(self._hungry[0])
        elif self.lending:
            self.later(self.lending.grant)
