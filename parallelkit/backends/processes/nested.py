"""Idle workers for calls that a worker makes: which helper works for whom.

::

    worker A, inside an item            parent                      worker B, idle
    Seek    an inner call has chunks ─►  a NestedCall, in line
                                     ◄─ Grant   when B has nothing else to do
    NestedTask  function, frozen     ─►
    NestedChunk                      ─►  ─────── Run, as of any call ─────────►
                                         ◄────── Replied ────────────────────
                                     ◄─ NestedReply
    Quit    nothing to hand out now  ─►
    Settled the inner call is over   ─►

To B it is a call like any other; to the scheduler as well, but that its answers go to A instead of
an inbox here, and that calls of this process come first. A runs chunks itself all the while, so an
inner call gets on whether or not anybody helps. Pickles pass through unread.
"""

from __future__ import annotations

from collections import deque

from ...worker.protocol import BORROWED_CORES, Grant
from .state import Abandon, Call, NestedCall, Post, WorkerState

__all__ = ["NestedCalls", "is_below"]

AHEAD = 2  # chunks that a helper has, one of them in advance, where chunks are short


class NestedCalls:
    """The nested calls of a scheduler; all methods are called with its lock.

    Parameters
    ----------
    workers : list of WorkerState
    calls : dict
        All calls by their numbers, nested ones among them; the scheduler's own.
    """

    def __init__(self, workers: list[WorkerState], calls: dict[int, Call]) -> None:
        self._workers = workers
        self._calls = calls
        self._seekers: deque[NestedCall] = deque()  # who has chunks to hand out, in turn
        self.open = 0  # how many there are, so that who has none need not look

    def seek(self, number: int, lender: WorkerState, inner: int, outer: int) -> None:
        """Put an inner call in line; `number` becomes its own here if it is new."""
        nested = self.find(lender, inner)
        if nested is None:
            call = self._calls.get(outer)
            if call is None:
                return  # over, and about to be given up there
            nested = NestedCall(number, lender, inner, call)
            self._calls[number] = nested
            self.open += 1
        if nested not in self._seekers:
            self._seekers.append(nested)

    def find(self, lender: WorkerState, inner: int) -> NestedCall | None:
        """The call with the number `inner` in the worker `lender`."""
        for nested in self.of(lender):
            if nested.inner == inner:
                return nested
        return None

    def of(self, worker: WorkerState) -> list[NestedCall]:
        """Calls that items in `worker` make."""
        return [nested for nested in self._all() if nested.lender is worker]

    def below(self, call: Call) -> list[NestedCall]:
        """Calls that items of `call` have made, and items of those."""
        return [n for n in self._all() if n is not call and is_below(n, call)] if self.open else []

    def _all(self) -> list[NestedCall]:
        if not self.open:
            return []
        return [call for call in self._calls.values() if isinstance(call, NestedCall)]

    def quit(self, nested: NestedCall) -> None:
        """Take a call out of the line, until it seeks again."""
        if nested in self._seekers:
            self._seekers.remove(nested)
        for worker in nested.granted:
            if nested in worker.reserved:
                worker.reserved.remove(nested)
        nested.granted.clear()

    def end(self, nested: NestedCall) -> Abandon:
        """End a call; helpers leave what they still run of it."""
        self.quit(nested)
        del self._calls[nested.number]
        self.open -= 1
        left = [w for w in self._workers for t in w.assignments if t.call is nested]
        return Abandon(nested, left)

    def grant(self) -> list[Post]:
        """Promise idle workers to who seeks them."""
        granted = []
        while self._seekers and (found := self._match()) is not None:
            nested, helper = found
            helper.reserved.append(nested)
            nested.granted.append(helper)
            self._seekers.remove(nested)
            self._seekers.append(nested)  # the next one in line is next
            granted.append(Post(nested.lender, Grant(nested.inner)))
        return granted

    def _match(self) -> tuple[NestedCall, WorkerState] | None:
        """Find a call and a worker for it that has nothing else to do."""
        full = self.all_run()
        for nested in self._seekers:
            for worker in self._workers:
                if worker is nested.lender or worker.retired or not worker.ready:
                    continue
                # An item that waits and one that runs meanwhile share what is around them.
                if worker.spare and worker.environment != nested.environment:
                    continue
                # The item of a worker that is spare waits: what the worker has otherwise counts.
                calls = [t.call for t in worker.assignments if t.call is nested or not worker.spare]
                calls += worker.reserved
                room = AHEAD if nested.ahead else 1
                if full and not any(call is nested for call in calls):
                    continue
                if len(calls) < room and all(call is nested for call in calls):
                    return nested, worker
        return None

    def all_run(self) -> bool:
        """Whether threads of other workers still run on the cores of those that do nothing.

        That is for as long as the items last with which they were when their cores were wanted. An
        item that waits may go on at any moment, and counts as one that runs.
        """
        borrowed = sum(worker.words[BORROWED_CORES] for worker in self._workers)
        if not borrowed:
            return False
        running = sum(bool(worker.reserved or worker.assignments) for worker in self._workers)
        return running + borrowed >= len(self._workers)


def is_below(call: Call, outer: Call) -> bool:
    """Whether `call` is `outer`, or was made by an item of it, or by one of such a call."""
    one: Call | None = call
    while one is not None:
        if one is outer:
            return True
        one = one.outer
    return False
