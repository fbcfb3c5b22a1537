"""What workers send, and what follows from it: to which call a reply belongs, what is lost.

Everything here runs with the crew's lock, in the thread that happens to drive (see `driver`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import IN_INITIALIZER, ParallelError, RemoteTraceback, TransportError, assign
from ...transport import pickling
from ...transport.channel import Message
from ...transport.segments import Packet
from ...values.outcome import Lost
from ...worker import loop as protocol
from ...worker.watchdog import NOBODY, WHOLE
from .handle import GRACE, Answer, Call, Ticket, Worker
from .nested import Loan

if TYPE_CHECKING:
    from .scheduler import Crew

__all__ = ["Router"]

_NOT_RUN = ParallelError("not run")
_TIMED_OUT = TimeoutError("ran too long")


class Router:
    """Takes the messages of a crew's workers.

    Parameters
    ----------
    crew : Crew
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def route(self, worker: Worker, message: Message) -> None:
        """Do what a message asks for."""
        kind, *fields = message.body
        self._ROUTES[kind](self, worker, message.fds, *fields)

    def _on_reply(
        self,
        worker: Worker,
        fds: list[int],
        number: int,
        packet: Packet,
        seconds: float,
        count: int,
        final: bool,
        *segments: list[int],
    ) -> None:
        lost = None
        try:
            worker.inbox.adopt(packet, fds)
        except OSError as error:
            worker.inbox.done(packet)
            lost = Lost(TransportError(f"a result could not be received ({error}); see ulimit -n"))
        self._crew.packing.free(worker, *segments)
        self._crew.alive()
        ticket = worker.ticket(number)
        if ticket is None:  # settled without it
            worker.inbox.done(packet)
            return
        chunk, begin = ticket.chunk, ticket.done
        ticket.done += count
        part = chunk if count == chunk.size else chunk.part(begin, ticket.done)
        nbytes = ticket.nbytes * count // chunk.size
        if lost is None:
            self._crew.deliver(ticket.call, Answer(part, nbytes, worker, packet, seconds, final))
        else:
            self._crew.deliver(ticket.call, Answer(part, lost=lost))
        if final:
            if ticket.done < chunk.size:
                left = chunk.part(ticket.done, chunk.size)
                self._crew.deliver(ticket.call, Answer(left, lost=Lost(_NOT_RUN, started=False)))
            self._crew.close_ticket(worker, ticket)

    def _on_skipped(self, worker: Worker, _: list[int], number: int) -> None:
        ticket = worker.ticket(number)
        if ticket is not None:
            self._crew.close_ticket(worker, ticket)

    def _on_unreadable(
        self, worker: Worker, fds: list[int], number: int, packet: Packet, *segments: list[int]
    ) -> None:
        error = self._error(worker, packet, fds, segments)
        ticket = worker.ticket(number)
        if ticket is not None:
            self._crew.deliver(ticket.call, Answer(ticket.chunk, lost=Lost(error)))
            self._crew.close_ticket(worker, ticket)

    def _on_timeout(self, worker: Worker, _: list[int], number: int, offset: int) -> None:
        ticket = worker.ticket(number)
        if ticket is not None:
            self._expired(worker, ticket, offset)

    def _on_failed(
        self, worker: Worker, fds: list[int], number: int, packet: Packet, *segments: list[int]
    ) -> None:
        """A task that cannot be unpickled, or (number 0) an initializer that raised."""
        error = self._error(worker, packet, fds, segments)
        if number == 0:
            error.add_note(IN_INITIALIZER)
            self._crew.fail(error)
        elif number in self._crew.calls:
            told = f"the function or a keyword could not be unpickled in a worker: {error!r}"
            failed = TransportError(told)
            failed.__cause__ = error
            call = self._crew.calls[number]
            call.failed = failed
            self._crew.wake(call)
            if isinstance(call, Loan):
                self._crew.later(partial(self._crew.lending.refuse, call, failed))

    def _on_ready(self, worker: Worker, _: list[int]) -> None:
        worker.ready = True
        self._crew.feed_next()

    def _on_retired(self, worker: Worker, _: list[int]) -> None:
        worker.retired = True

    def _on_told(self, worker: Worker, _: list[int], kind: str, fields: tuple[Any, ...]) -> None:
        call = worker.tickets[0].call if worker.tickets else None
        if call is None or call.lent or call.number not in self._crew.calls:
            self._crew.told.append((kind, fields))
        else:
            call.told.append((kind, fields))
            self._crew.wake(call)

    def _on_lending(
        self, worker: Worker, fds: list[int], what: str, inner: int, *fields: Any
    ) -> None:
        """Pass on what a worker says of an inner call; with a pickle if it has one."""
        if fields and isinstance(fields[0], tuple):
            packet, *rest = fields
            try:
                worker.inbox.adopt(packet, fds)
            except OSError:
                pass  # it cannot be unpacked then, which is told to who sent it
            self._crew.packing.free(worker, *rest[-3:])
            fields = (packet, *rest[:-3])
        getattr(self._crew.lending, what)(worker, inner, *fields)

    def _on_spare(self, worker: Worker, _: list[int], spare: bool, number: int) -> None:
        worker.spare = spare
        ticket = worker.ticket(number)
        if ticket is not None:
            ticket.waits = spare
        self._crew.later(self._crew.lending.grant)

    def _on_released(self, worker: Worker, _: list[int], *segments: list[int]) -> None:
        self._crew.packing.free(worker, *segments)

    _ROUTES: ClassVar[dict[int, Callable[..., None]]] = {
        protocol.REPLY: _on_reply,
        protocol.SKIPPED: _on_skipped,
        protocol.UNREADABLE: _on_unreadable,
        protocol.TIMEOUT: _on_timeout,
        protocol.FAILED: _on_failed,
        protocol.READY: _on_ready,
        protocol.RETIRED: _on_retired,
        protocol.RELEASED: _on_released,
        protocol.TOLD: _on_told,
        protocol.LENDING: _on_lending,
        protocol.SPARE: _on_spare,
    }

    def _expired(self, worker: Worker, ticket: Ticket, offset: int) -> None:
        """Settle a ticket whose item at `offset` ran too long; its worker is about to end."""
        if ticket not in worker.tickets:
            return
        chunk, call = ticket.chunk, ticket.call
        begin, end = (ticket.done, chunk.size) if offset == WHOLE else (offset, offset + 1)
        not_run, too_long = Lost(_NOT_RUN, started=False), Lost(_TIMED_OUT)
        if ticket.done < begin:
            self._crew.deliver(call, Answer(chunk.part(ticket.done, begin), lost=not_run))
        self._crew.deliver(call, Answer(chunk.part(begin, end), lost=too_long))
        if end < chunk.size:
            self._crew.deliver(call, Answer(chunk.part(end, chunk.size), lost=not_run))
        worker.retired = True
        self._crew.close_ticket(worker, ticket)

    def _error(
        self,
        worker: Worker,
        packet: Packet,
        fds: list[int],
        segments: tuple[list[int], ...],
    ) -> BaseException:
        worker.inbox.adopt(packet, fds)
        self._crew.packing.free(worker, *segments)
        try:
            error, text = pickling.loads(*worker.inbox.unpack(packet, copy=True))
        except BaseException as problem:  # noqa: BLE001 - a user's class may raise anything
            error, text = ParallelError(f"an error that cannot be read: {problem}"), ""
        worker.inbox.done(packet)
        assign(error, __cause__=RemoteTraceback(text))
        return error  # type: ignore[no-any-return]

    def end_overdue(self, call: Call) -> None:
        """Kill workers that did not end by themselves when an item's time was over."""
        with self._crew.lock:
            for worker in self._crew.workers:
                begun = worker.times[protocol.ITEM_BEGUN]
                if not begun or call.timeout is None:
                    continue
                if time.monotonic() - begun - call.timeout < 2 * GRACE:
                    continue
                what = worker.words[protocol.ITEM_OFFSET]
                number = worker.words[protocol.CHUNK_BEGUN]
                if worker.times[protocol.ITEM_BEGUN] != begun:
                    continue  # it goes on, and `what` may have begun just now
                for ticket in worker.tickets:
                    if ticket.number == number and ticket.call is call:
                        self._expired(worker, ticket, what)
                        worker.kill()
                        break
                else:
                    if what == NOBODY:
                        worker.kill()
