"""Which worker runs what: events in, instructions out.

::

    a call opens, wants a worker, ends ──┐                   ┌─► assignments: chunks of workers
    a worker comes, says something,      ├──► Scheduler ─────┼─► answers in the inboxes of calls
    dies, takes too long ────────────────┘                   └─► instructions, for `workers`

Calls that want a worker stand in line; each takes one when it is its turn, and lines up again for
the next. Nothing here sends, reads, waits or runs anything of the user's: what is to be done is
returned, and done by the caller when the lock has been given back.

All rules stand in this one file since each event may touch each of them: who changes one has the
others before them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from ...errors import ParallelError, TransportError, WorkerDied
from ...transport.pickling import Pickled
from ...transport.segments import Packet
from ...values.outcome import Lost
from ...values.source import Chunk
from ...worker.protocol import (
    BORROWED_CORES,
    CHUNK_BEGUN,
    ITEM_BEGUN,
    ITEM_OFFSET,
    LAST_BEGUN,
    NOBODY,
    SPARE_CORES,
    TAKEN_BACK,
    WANTED_BACK,
    WHOLE,
    bit,
)
from .nested import NestedCalls, is_below
from .state import (
    FENCE,
    Answer,
    Assignment,
    Call,
    Drop,
    Expired,
    Instruction,
    Kill,
    NestedCall,
    Poke,
    Refuse,
    SendNested,
    Wake,
    WorkerState,
)

__all__ = ["GRACE", "HOLD", "LONG", "Scheduler"]

GRACE = 0.2  # seconds for a worker to leave the item of a call that was given up
LONG = 0.01  # seconds that a worker may be at a chunk while others wait behind it
# Seconds that a chunk waits for threads on the core of the idle worker that is to have it. No more,
# since the items that they run may be long, or may even wait for what that chunk does.
HOLD = 0.02
MOST_FUTILE = 100  # deaths in a row of workers that have begun nothing, by whatever kills them

_NOT_RUN = ParallelError("not run")
_TIMED_OUT = TimeoutError("ran too long")


class Scheduler:
    """The workers of one pool and the calls that share them.

    Parameters
    ----------
    size : int
        How many workers there are meant to be.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        # Held for a few lines at a time. Re-entrant: a finalizer or a signal handler may end a
        # call anywhere.
        self.lock = threading.RLock()
        self.workers: list[WorkerState] = []
        self.calls: dict[int, Call] = {}
        self.line: deque[Call] = deque()  # calls that want a worker, in turn
        self.unclaimed: deque[tuple[str, tuple[Any, ...]]] = (
            deque()
        )  # what was said for no call of ours
        self.broken: BaseException | None = None
        self.closed = False
        self._nested = NestedCalls(self.workers, self.calls)
        self._numbers = 0
        self._futile = 0  # deaths since a worker answered or began something
        self._shared_out = False  # whether workers have cores of idle ones
        self._lent = False  # whether threads may still run on such cores
        self._wanted = False  # whether WANTED_BACK is set

    # --- workers come and go ----------------------------------------------------------------------

    def joined(self, worker: WorkerState) -> list[Instruction]:
        """A worker is there; it takes chunks at once, and runs them when it is ready."""
        with self.lock:
            self.workers.append(worker)
            worker.words[WANTED_BACK] = self._wanted
            worker.since = time.monotonic()
            return self._turn()

    def ready(self, worker: WorkerState) -> list[Instruction]:
        """A worker has run its initializer."""
        with self.lock:
            worker.ready = True
            return self._turn()

    def died(self, worker: WorkerState, obituary: str) -> list[Instruction]:
        """A worker has ended. What it had begun is lost, what it had not is not."""
        with self.lock:
            if worker.dead:
                return []
            worker.dead = True
            self.workers.remove(worker)
            begun = worker.assignment(worker.words[CHUNK_BEGUN])
            # Chunks are begun in the order in which they came; what came before the one that was
            # running, and is not answered, waits in an item.
            running = begun is not None
            out: list[Instruction] = []
            for assignment in worker.assignments:
                assignment.call.assignments -= 1
                if self.closed:
                    continue  # the call fails as a whole
                rest = assignment.chunk.part(assignment.done, assignment.chunk.size)
                started = running or assignment.done > 0 or assignment.waits
                running = running and assignment is not begun
                if worker.given_up:  # on behalf of another call: this one is not to blame
                    started = False
                if started:
                    self._futile = 0
                self._give(
                    assignment.call, Answer(rest, lost=Lost(WorkerDied(obituary), started)), out
                )
            worker.assignments.clear()
            out.extend(self._nested.end(nested) for nested in self._nested.of(worker))
            self._futile += 1
            idle = worker.ready or worker.retired  # else it has not even begun to live
            if self._futile > (MOST_FUTILE if idle else 2 * self.size + 1) and self.broken is None:
                error = WorkerDied(f"workers end before they do anything: {obituary}")
                out += self.fail(error)
            return out + self._turn()

    def fail(self, error: BaseException) -> list[Instruction]:
        """Nothing more can be done with these workers: tell all calls."""
        with self.lock:
            self.broken = self.broken or error
            for call in self.calls.values():
                call.failed = call.failed or error
            return [Wake(call) for call in self.calls.values()]

    def used(self) -> float:
        """When a worker has last begun or answered something."""
        with self.lock:
            return max((worker.since for worker in self.workers), default=0.0)

    def retire(self) -> bool:
        """Take no more chunks for good, if nothing is under way; whether that is so.

        Calls that are open for what is submitted are to go on with other workers.
        """
        with self.lock:
            if self.broken is None:
                if self.line or not all(call.endless for call in self.calls.values()):
                    return False
                if any(worker.assignments or worker.reserved for worker in self.workers):
                    return False
                if any(call.inbox for call in self.calls.values()):
                    return False
                self.fail(Expired("these workers were idle, and have ended"))
            return True

    # --- calls ------------------------------------------------------------------------------------

    def open(self, call: Call) -> None:
        """A call begins.

        Raises
        ------
        BaseException
            What makes these workers useless, if something does.
        """
        with self.lock:
            if self.broken is not None:
                raise self.broken
            call.number = self._next_number()
            self.calls[call.number] = call
            if self._shared_out:
                self._share_out()

    def _next_number(self) -> int:
        """Return a number for a call or a chunk that no other has."""
        self._numbers += 1
        return self._numbers

    def claim(self, call: Call, depth: int) -> WorkerState | None:
        """Find a worker that may take another chunk of `call`, in turn with other calls.

        `depth` is how many chunks a worker may have that has none of other calls.
        """
        with self.lock:
            if call.number not in self.calls or self.broken is not None:
                return None  # it has just been closed, by another thread than the one that feeds
            if self._lent and self._held(call):
                found = None
            else:
                call.held = 0.0
                found = self._room_for(call, depth)
            line = self.line
            if found is None or (line and line[0] is not call):
                if call not in line:
                    line.append(call)
                return None
            if line:
                line.popleft()
            found.reserved.append(call)
            return found

    def _held(self, call: Call) -> bool:
        """Take cores of idle workers back, and tell whether a chunk of `call` is to wait for that.

        It waits for threads that still run on those cores, until the items end with which they are.
        """
        if self._shared_out:
            call.exhausted = False
            self._share_out()
        for worker in self.workers:
            if worker.words[BORROWED_CORES]:
                break
        else:
            self._lent = False
            return False
        now = time.monotonic()
        patient = now - (call.held or now) < HOLD
        if patient and any(worker.words[BORROWED_CORES] for worker in self.workers):
            self._want_back(True)
            if self._nested.all_run():
                call.held = call.held or now
                return True
        # Where one call has waited for so long, it does not wait again, and no other does.
        self._lent = patient and any(worker.words[BORROWED_CORES] for worker in self.workers)
        return False

    def _room_for(self, call: Call, depth: int) -> WorkerState | None:
        """Find a worker that has nothing to do; if there is none, one that may have more of it."""
        found: WorkerState | None = None
        for worker in self.workers:
            if not (worker.assignments or worker.reserved or worker.retired):
                if worker.ready:
                    return worker
                found = found or worker
        if found is not None or depth < 2:
            return found
        for worker in self.workers:
            if len(worker.assignments) + len(worker.reserved) >= depth:
                continue
            if worker.retired or worker.long:
                continue
            for assignment in worker.assignments:
                if assignment.call is not call:
                    break
            else:
                return worker
        return None

    def release(self, call: Call, worker: WorkerState) -> None:
        """Give a claimed place back unused."""
        with self.lock:
            if call in worker.reserved:
                worker.reserved.remove(call)

    def assign(
        self, call: Call, worker: WorkerState, chunk: Chunk, nbytes: int
    ) -> Assignment | None:
        """Give a chunk to a worker that was claimed for it; None if it, or the call, is gone."""
        with self.lock:
            if call.number not in self.calls:
                return None  # closed meanwhile, by another thread
            worker.reserved.remove(call)
            if worker.dead:
                return None
            number = self._next_number()
            taken, others = worker.words[TAKEN_BACK], worker.assignments
            if others or taken:
                while taken & bit(number) or any(bit(x.number) == bit(number) for x in others):
                    number = self._next_number()
            else:
                worker.since = time.monotonic()
            assignment = Assignment(number, call, chunk, nbytes)
            worker.assignments.append(assignment)
            call.assignments += 1
            return assignment

    def relieve(self, call: Call, empty: bool, patience: float = 0.0) -> list[Instruction]:
        """Take back what waits behind others, where somebody could run it now.

        That is where there is nothing else for an idle worker (`empty`), and where a worker has
        been at its chunk for `LONG` and for `patience` (seconds that are nothing unusual for a
        chunk of `call`): it may even wait for what it has been given in advance.
        """
        with self.lock:
            out: list[Instruction] = []
            idle = empty and any(
                w.ready and not (w.assignments or w.reserved or w.retired) for w in self.workers
            )
            now = time.monotonic()
            loaded: WorkerState | None = None
            for worker in self.workers:
                waiting = len(worker.assignments) - 1
                if waiting < 1 or worker.assignments[0].call is not call:
                    continue
                if now - worker.since > max(LONG, patience):
                    worker.long = True
                    self._take_back(worker, waiting, out)
                elif loaded is None or len(loaded.assignments) <= waiting:
                    loaded = worker
            if idle and loaded is not None and not out:
                self._take_back(loaded, len(loaded.assignments) // 2, out)
            return out

    def _take_back(self, worker: WorkerState, count: int, out: list[Instruction]) -> None:
        """Take the last chunks from a worker that it has not begun."""
        for assignment in list(worker.assignments)[-count:]:
            if assignment.taken_back:
                continue
            worker.words[TAKEN_BACK] |= bit(assignment.number)
            with FENCE:
                begun = worker.words[LAST_BEGUN] >= assignment.number
            if begun:  # and perhaps left out nevertheless: then it says so
                assignment.taken_back = True
                continue
            worker.assignments.remove(assignment)
            assignment.call.assignments -= 1
            lost = Lost(_NOT_RUN, started=False)
            self._give(assignment.call, Answer(assignment.chunk, lost=lost), out)

    def sated(self, call: Call) -> list[Instruction]:
        """`call` wants no worker for now: let the next in turn have one."""
        with self.lock:
            if call in self.line:
                self.line.remove(call)
            return self._turn()

    def turn(self) -> list[Instruction]:
        """Who may have a worker now."""
        with self.lock:
            return self._turn()

    def _turn(self) -> list[Instruction]:
        if self.line:
            return [Poke(self.line[0])]
        if self._nested.open:
            if self._shared_out:
                self._share_out()
            self._want_back(True)
            return [*self._nested.grant()]
        if self._wanted:
            self._want_back(False)
        return []

    def exhausted(self, call: Call, exhausted: bool) -> None:
        """`call` has, or has not, a chunk left that some worker has not got."""
        with self.lock:
            call.exhausted = exhausted
            self._share_out()

    def _share_out(self) -> None:
        """At the end of all calls, let workers that still run use the cores of those that do not.

        Calls that items make see it when they begin, and between their own items.
        """
        tail, cores = not self._nested.open, 0
        for call in self.calls.values():
            if not call.exhausted:
                tail = False
                break
            cores = max(cores, call.cores)
        if not (tail or self._shared_out):
            return  # as with nearly every chunk, and without a look at each worker
        busy: list[WorkerState] = []
        for worker in self.workers:
            worker.words[SPARE_CORES] = 0
            if tail and (worker.assignments or worker.reserved):
                busy.append(worker)
        # Who has nothing to do helps the calls that seek helpers; then its core is its own.
        self._shared_out = 0 < len(busy) < self.size
        if self._shared_out:
            self._lent = True
            base, extra = divmod(cores, len(busy))
            for rank, worker in enumerate(busy):
                worker.words[SPARE_CORES] = base + (rank < extra)
        with FENCE:  # then only it is looked who still borrows
            pass

    def _want_back(self, wanted: bool) -> None:
        """Let workers keep to their own cores, or no longer."""
        if wanted != self._wanted:
            self._wanted = wanted
            for worker in self.workers:
                worker.words[WANTED_BACK] = wanted
            with FENCE:  # then only it is looked who still has those of others
                pass

    def withdraw(self, call: Call) -> tuple[list[tuple[WorkerState, Call]], list[Instruction]]:
        """A call ends: what still comes for it is dropped.

        Returns which workers still have chunks of it, or of calls that its items have made.
        """
        with self.lock:
            if self.calls.pop(call.number, None) is None:
                return [], []
            if call in self.line:
                self.line.remove(call)
            out: list[Instruction] = []
            if self._nested.open:
                out += [self._nested.end(nested) for nested in self._nested.below(call)]
            for worker in self.workers:
                if call in worker.reserved:  # Ctrl-C has left a place reserved
                    worker.reserved = [other for other in worker.reserved if other is not call]
            if call.inbox:
                out += [Drop(answer) for answer in call.inbox]
                call.inbox.clear()
            call.failed = None
            return self._left(call), out + self._turn()

    def _left(self, call: Call) -> list[tuple[WorkerState, Call]]:
        return [
            (worker, assignment.call)
            for worker in self.workers
            for assignment in worker.assignments
            if is_below(assignment.call, call)
        ]

    def part_with(self, call: Call) -> list[Instruction]:
        """A call that was given up has had its moment: end what still runs of it."""
        with self.lock:
            out: list[Instruction] = []
            for worker in {worker for worker, _ in self._left(call)}:
                # Where an item of another call runs while one of this call waits, this one leaves
                # by itself when that is done.
                top = worker.assignment(worker.words[CHUNK_BEGUN])
                if top is None or top.call.number not in self.calls:
                    worker.given_up = True
                    out.append(Kill(worker))
            return out + self._turn()

    # --- what workers say -------------------------------------------------------------------------

    def replied(
        self,
        worker: WorkerState,
        number: int,
        packet: Packet,
        seconds: float,
        count: int,
        final: bool,
        lost: BaseException | None,
    ) -> list[Instruction]:
        """Part of a chunk is answered; `lost` if the answer itself could not be received."""
        with self.lock:
            self._futile = 0
            assignment = worker.assignment(number)
            if assignment is None:  # settled without it
                return [Drop(Answer(_NOTHING, worker=worker, packet=packet))]
            chunk, begin = assignment.chunk, assignment.done
            assignment.done += count
            rest = chunk.part(begin, chunk.size) if begin else chunk
            out: list[Instruction] = []
            if lost is None:
                nbytes = assignment.nbytes * count // chunk.size
                answer = Answer(rest, nbytes, worker, packet, seconds, count, final)
            else:
                answer = Answer(chunk.part(begin, assignment.done), lost=Lost(lost))
                if final and assignment.done < chunk.size:
                    left = chunk.part(assignment.done, chunk.size)
                    self._give(assignment.call, Answer(left, lost=Lost(_NOT_RUN, False)), out)
            self._give(assignment.call, answer, out)
            return self._close_assignment(worker, assignment, out) if final else out

    def skipped(self, worker: WorkerState, number: int) -> list[Instruction]:
        """A worker has left out a chunk of a call that is over, or has failed."""
        with self.lock:
            worker.words[TAKEN_BACK] &= ~bit(number)
            assignment, out = worker.assignment(number), list[Instruction]()
            if assignment is None:
                return out
            if assignment.taken_back:
                lost = Lost(_NOT_RUN, started=False)
                self._give(assignment.call, Answer(assignment.chunk, lost=lost), out)
            return self._close_assignment(worker, assignment, out)

    def unreadable(
        self, worker: WorkerState, number: int, error: BaseException
    ) -> list[Instruction]:
        """A worker could not unpickle the arguments of a chunk."""
        with self.lock:
            assignment, out = worker.assignment(number), list[Instruction]()
            if assignment is None:
                return out
            self._give(assignment.call, Answer(assignment.chunk, lost=Lost(error)), out)
            return self._close_assignment(worker, assignment, out)

    def task_failed(self, task: int, error: BaseException) -> list[Instruction]:
        """A task could not be unpickled: its calls fail."""
        told = f"the function or a keyword could not be unpickled in a worker: {error!r}"
        failed = TransportError(" ".join([told, *getattr(error, "__notes__", ())]))
        failed.__cause__ = error
        out: list[Instruction] = []
        with self.lock:
            for call in self.calls.values():
                if call.task is not None and call.task.key == task:
                    call.failed = failed
                    out.append(Refuse(call, failed) if isinstance(call, NestedCall) else Wake(call))
        return out

    def retired(self, worker: WorkerState) -> list[Instruction]:
        """A worker takes no more chunks, since it is about to end."""
        with self.lock:
            worker.retired = True
            return []

    def said(self, worker: WorkerState, kind: str, fields: tuple[Any, ...]) -> list[Instruction]:
        """An item has logged, warned or printed."""
        with self.lock:
            call = worker.assignments[0].call if worker.assignments else None
            if call is None or call.nested or call.number not in self.calls:
                self.unclaimed.append((kind, fields))
                return []
            call.said.append((kind, fields))
            return [Wake(call)]

    def _give(self, call: Call, answer: Answer, out: list[Instruction]) -> None:
        """Give an answer to the call that it is for; drop it if that is over."""
        out.append(call.give(answer) if call.number in self.calls else Drop(answer))

    def _close_assignment(
        self, worker: WorkerState, assignment: Assignment, out: list[Instruction]
    ) -> list[Instruction]:
        """Take a chunk off a worker: it is answered in full, or lost."""
        worker.assignments.remove(assignment)
        worker.since, worker.long = time.monotonic(), False
        if assignment.taken_back:
            worker.words[TAKEN_BACK] &= ~bit(assignment.number)
        call = assignment.call
        call.assignments -= 1
        if not call.assignments and not out:
            out.append(Wake(call))
        if call.exhausted:
            self._share_out()
        return out + self._turn() if self.line or self._nested.open else out

    # --- time limits ------------------------------------------------------------------------------

    def timed_out(self, worker: WorkerState, number: int, offset: int) -> list[Instruction]:
        """A worker ends itself, since something took too long; see `worker.protocol`."""
        with self.lock:
            assignment, out = worker.assignment(number), list[Instruction]()
            return out if assignment is None else self._expired(worker, assignment, offset, out)

    def overdue(self, call: Call, now: float) -> list[Instruction]:
        """End workers that did not do that when an item's time was over."""
        out: list[Instruction] = []
        with self.lock:
            for worker in self.workers:
                begun = worker.times[ITEM_BEGUN]
                if not begun or call.timeout is None or now - begun - call.timeout < 2 * GRACE:
                    continue
                what = worker.words[ITEM_OFFSET]
                assignment = worker.assignment(worker.words[CHUNK_BEGUN])
                if worker.times[ITEM_BEGUN] != begun:
                    continue  # it goes on, and `what` may have begun just now
                if assignment is not None and assignment.call is call:
                    self._expired(worker, assignment, what, out)
                    out.append(Kill(worker))
                elif what == NOBODY and assignment is None:
                    out.append(Kill(worker))
        return out

    def _expired(
        self, worker: WorkerState, assignment: Assignment, offset: int, out: list[Instruction]
    ) -> list[Instruction]:
        """Settle a assignment whose item at `offset` ran too long; its worker is about to end."""
        chunk, call = assignment.chunk, assignment.call
        begin, end = (assignment.done, chunk.size) if offset == WHOLE else (offset, offset + 1)
        not_run, too_long = Lost(_NOT_RUN, started=False), Lost(_TIMED_OUT)
        if assignment.done < begin:
            self._give(call, Answer(chunk.part(assignment.done, begin), lost=not_run), out)
        self._give(call, Answer(chunk.part(begin, end), lost=too_long), out)
        if end < chunk.size:
            self._give(call, Answer(chunk.part(end, chunk.size), lost=not_run), out)
        worker.retired = True
        return self._close_assignment(worker, assignment, out)

    # --- calls that items make --------------------------------------------------------------------

    def seek(self, worker: WorkerState, inner: int, outer: int) -> list[Instruction]:
        """An item's call has chunks for helpers."""
        with self.lock:
            self._nested.seek(self._next_number(), worker, inner, outer)
            return self._turn()

    def nested_task(self, worker: WorkerState, inner: int) -> NestedCall | None:
        """Find the call whose task has come."""
        with self.lock:
            return self._nested.find(worker, inner)

    def nested_chunk(
        self, worker: WorkerState, inner: int, chunk: Chunk, ahead: bool, pickled: Pickled
    ) -> list[Instruction]:
        """A chunk has come for the worker that was granted."""
        with self.lock:
            nested = self._nested.find(worker, inner)
            if nested is None:
                return []  # closed meanwhile
            nested.ahead = ahead
            helper = nested.granted.popleft() if nested.granted else None
            return [SendNested(nested, helper, chunk, pickled)]

    def quit(self, worker: WorkerState, inner: int) -> list[Instruction]:
        """A call wants no helper any more, until it seeks again."""
        with self.lock:
            nested = self._nested.find(worker, inner)
            if nested is not None:
                self._nested.quit(nested)
            return self._turn()

    def settled(self, worker: WorkerState, inner: int) -> list[Instruction]:
        """An item's call is over."""
        with self.lock:
            nested = self._nested.find(worker, inner)
            return [] if nested is None else [self._nested.end(nested), *self._turn()]

    def waiting(self, worker: WorkerState, waits: bool, number: int) -> list[Instruction]:
        """An item waits for a call of its own (or no longer): other chunks may run meanwhile."""
        with self.lock:
            worker.spare = waits
            assignment = worker.assignment(number)
            if assignment is not None:
                assignment.waits = waits
            return self._turn()


_NOTHING = Chunk(0, 0, ())
