"""Idle workers for calls that a worker makes: the parent's side, a broker between two workers.

::

    worker A, inside an item            parent                      worker B, idle
    SEEK    an inner call has chunks ─►  a Loan, in line
                                     ◄─ GRANT   when B has nothing else to do
    TASK    function, frozen         ─►
    LEND    a chunk                  ─►  ─────── CHUNK, as of any call ───────►
                                         ◄────── REPLY ──────────────────────
                                     ◄─ LENT    what came of it
    QUIT    nothing to hand out now  ─►
    SETTLED the inner call is over   ─►

To B it is a call like any other; to the crew as well, but that its answers go to A instead of an
inbox here, and that calls of this process come first. A runs chunks itself all the while, so an
inner call gets on whether or not anybody helps. Pickles pass through unread.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from ...errors import ParallelError
from ...transport import pickling
from ...transport.channel import Closed
from ...transport.pickling import Pickled
from ...transport.segments import Packet
from ...values.outcome import Lost
from ...values.source import Chunk
from ...worker import loop as protocol
from .handle import Answer, Call, Worker, interrupt

if TYPE_CHECKING:
    from .scheduler import Crew

__all__ = ["Lending", "Loan", "abandon", "is_below"]

_OUT_OF_MEANS = (MemoryError, OSError, KeyError)  # no memory, or no descriptor and so no segment
AHEAD = 2  # chunks that a helper has, one of them in advance, where chunks are short


@dataclass(eq=False, slots=True, kw_only=True)
class Loan(Call):
    """An inner call, made in the worker `lender`, as a call of the crew."""

    lent: ClassVar[bool] = True
    lender: Worker
    inner: int  # its number there
    outer: Call  # the call whose item made it
    granted: deque[Worker] = field(default_factory=deque)  # reserved for chunks that will come
    ahead: bool = False  # chunks are short: let a helper have one in advance


class Lending:
    """The loans of a crew.

    Parameters
    ----------
    crew : Crew
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._seekers: deque[Loan] = deque()  # who has chunks to hand out, in turn

    def __bool__(self) -> bool:
        return bool(self._seekers)

    def below(self, call: Call) -> list[Loan]:
        """Loans that items of `call` took out, and items of those."""
        found: list[Call] = [call]
        for one in found:
            found += [loan for loan in self._loans() if loan.outer is one]
        return [loan for loan in found if isinstance(loan, Loan) and loan is not call]

    def of(self, worker: Worker) -> list[Loan]:
        """Loans of which `worker` is the lender."""
        return [loan for loan in self._loans() if loan.lender is worker]

    def _loans(self) -> list[Loan]:
        return [call for call in self._crew.calls.values() if isinstance(call, Loan)]

    # --- what lenders send; called with the lock ------------------------------------------------

    def seek(self, lender: Worker, inner: int, outer: int) -> None:
        """Put an inner call in line."""
        loan = self._find(lender, inner)
        if loan is None:
            call = self._crew.calls.get(outer)
            if call is None:
                return  # over, and about to be given up there
            loan = Loan(
                number=self._crew.next_number(),
                pickled=Pickled([], []),
                around=call.around,
                timeout=None,
                cores=0,
                exhausted=True,
                lender=lender,
                inner=inner,
                outer=call,
            )
            self._crew.calls[loan.number] = loan
        if loan not in self._seekers:
            self._seekers.append(loan)
        self._crew.later(self.grant)

    def task(self, lender: Worker, inner: int, packet: Packet) -> None:
        """Take the task of an inner call, which precedes its first chunk."""
        try:
            pickled = _passed_on(lender, packet)
        except _OUT_OF_MEANS:
            return  # an empty one cannot be unpickled either, and that is told
        loan = self._find(lender, inner)
        if loan is not None:
            loan.pickled = pickled

    def lend(
        self, lender: Worker, inner: int, packet: Packet, start: int, size: int, ahead: bool
    ) -> None:
        """Take a chunk for the worker that was granted."""
        chunk, loan = Chunk(start, size, ()), self._find(lender, inner)
        try:
            pickled = _passed_on(lender, packet)
        except _OUT_OF_MEANS as error:
            if loan is not None:
                self._crew.later(partial(self.relay, loan, Answer(chunk, lost=Lost(error))))
            return
        if loan is None:
            return  # closed meanwhile
        loan.ahead = ahead
        helper = loan.granted.popleft() if loan.granted else None
        self._crew.later(partial(self._send, loan, helper, chunk, pickled))

    def quit(self, lender: Worker, inner: int) -> None:
        """Take an inner call out of the line, until it seeks again."""
        loan = self._find(lender, inner)
        if loan is not None:
            self._give_back(loan)
            self._crew.later(self.grant)

    def settled(self, lender: Worker, inner: int) -> None:
        """End a loan."""
        loan = self._find(lender, inner)
        if loan is not None:
            self.drop(loan)

    def drop(self, loan: Loan) -> None:
        """End a loan whose lender wants it no more, or is dead."""
        self.end(loan)
        self._crew.later(partial(self._abandon, loan))

    def _abandon(self, loan: Loan) -> None:
        with self._crew.lock:
            tickets = [(w, t.call) for w in self._crew.workers for t in w.tickets]
        abandon([(worker, call) for worker, call in tickets if call is loan])

    def _find(self, lender: Worker, inner: int) -> Loan | None:
        return next((loan for loan in self.of(lender) if loan.inner == inner), None)

    def end(self, loan: Loan) -> None:
        """End a loan. What helpers still run of it is ended with the outer call at the latest."""
        self._give_back(loan)
        self._crew.withdraw(loan)
        self._crew.later(partial(self._crew.packing.let_forget, loan))

    def _give_back(self, loan: Loan) -> None:
        if loan in self._seekers:
            self._seekers.remove(loan)
        for worker in loan.granted:
            if loan in worker.reserved:
                worker.reserved.remove(loan)
        loan.granted.clear()

    # --- what lenders are sent; called without the lock ----------------------------------------

    def grant(self) -> None:
        """Promise idle workers to who seeks them."""
        crew = self._crew
        while True:
            with crew.lock:
                found = None if crew.wanted else self._match()
                if found is None:
                    return
                loan, helper = found
                helper.reserved.append(loan)
                loan.granted.append(helper)
                self._seekers.remove(loan)
                self._seekers.append(loan)  # the next one in line is next
            crew.post(loan.lender, (protocol.GRANT, loan.inner))

    def _match(self) -> tuple[Loan, Worker] | None:
        """Find a loan and a worker for it that has nothing else to do."""
        for loan in self._seekers:
            for worker in self._crew.workers:
                if worker is loan.lender or worker.retired or not worker.ready:
                    continue
                # An item that waits and one that runs meanwhile share what is around them.
                if worker.spare and worker.around != loan.around:
                    continue
                # The item of a worker that is spare waits: what the worker has otherwise counts.
                calls = [t.call for t in worker.tickets if t.call is loan or not worker.spare]
                calls += worker.reserved
                room = AHEAD if loan.ahead else 1
                if len(calls) < room and all(call is loan for call in calls):
                    return loan, worker
        return None

    def _send(self, loan: Loan, helper: Worker | None, chunk: Chunk, pickled: Pickled) -> None:
        if helper is None or not self._crew.send(loan, helper, chunk, pickled):
            gone = ParallelError("not run")
            self.relay(loan, Answer(chunk, lost=Lost(gone, started=False)))
        self.grant()

    def relay(self, loan: Loan, answer: Answer) -> None:
        """Pass what came of a chunk on to the lender."""
        chunk = answer.chunk
        pickled, lost = Pickled([], []), answer.lost
        if answer.packet is not None and answer.worker is not None:
            try:
                pickled = _passed_on(answer.worker, answer.packet)
            except _OUT_OF_MEANS as error:
                lost = Lost(error)
        if lost is not None:
            pickled = pickling.dumps((pickling.portable(lost.reason), lost.started))
        head = protocol.LENT, loan.inner, chunk.start, chunk.size, answer.seconds, lost is not None
        self._crew.post(loan.lender, head, pickled)

    def refuse(self, loan: Loan, error: BaseException) -> None:
        """Tell the lender that its task could not be unpickled."""
        pickled = pickling.dumps((pickling.portable(error), True))
        self._crew.post(loan.lender, (protocol.LENT, loan.inner, 0, 0, 0.0, True), pickled)


def _passed_on(worker: Worker, packet: Packet) -> Pickled:
    """Take a packet of `worker` to be sent to another one, unread."""
    data, buffers = worker.inbox.unpack(packet, copy=True)
    pickled = Pickled([bytes(data)], buffers, getattr(buffers, "held", None) or ())
    worker.inbox.done(packet)
    return pickled


def is_below(call: Call, outer: Call) -> bool:
    """Whether `call` is `outer`, or was made by an item of it, or by one of such a call."""
    while call is not outer:
        if not isinstance(call, Loan):
            return False
        call = call.outer
    return True


def abandon(left: list[tuple[Worker, Call]]) -> None:
    """Ask workers to leave the items of calls that are over."""
    for worker, call in left:
        try:
            worker.channel.send((protocol.ABORT, call.number))
        except Closed:
            pass
    for worker in {worker for worker, _ in left}:
        if worker.ready and not worker.dead:
            interrupt(worker.pid)
