"""One call on another engine: which chunk is under way, which is to run again, and how.

Few chunks are under way at a time: as many as there are slots, and as many again where they are
short, so that neither caller nor scheduler holds more than these. Workers may come and go
meanwhile. An engine that starts workers where there is work for them has to see some of it: there
more are under way.

Where a worker dies, the engine does not tell which of the chunks under way is to blame. Each of
them is *suspect* then: it runs again alone, with nothing else beside it, in ever smaller parts. An
item that takes workers along while it is alone is to blame, and no other. One worker may have been
ended by somebody else, so that it takes a second one. Where a worker has one chunk at a time, only
that last try of an item is alone: all others go on beside suspects.
"""

from __future__ import annotations

import itertools
import logging
import queue
import time
from collections import deque
from collections.abc import Generator
from typing import Any

from ..errors import ParallelError, WorkerDied
from ..options import Options
from ..place.sigint import by_a_handler
from ..values.outcome import Lost
from ..values.sizer import LARGEST_BYTES
from ..values.source import Chunk, Source
from .base import Done, Task
from .cluster import AGAIN, DIED, Cluster, short

__all__ = ["Dispatch", "Flight"]

log = logging.getLogger("parallelkit")

AHEAD = 0.5  # seconds; a longer chunk makes the gap between two of no account
YOUNG = 2.0  # seconds; a call of unknown length that is older may have work for more workers
MOST_WAITING = 64  # chunks for each slot, to have more workers started
CHECK = 1.0  # seconds between looks at whether the engine is still there
PARTS = 16  # that a suspect chunk is cut into
CHANCES = 2  # of an item that is alone with a worker that ends
MOST_TRIES = 5  # of a chunk that is lost by no fault of its own
PATIENCE = 10.0  # seconds without a worker after which that is told


class Flight:
    """A chunk under way."""

    __slots__ = (
        "alone",
        "behind",
        "chunk",
        "columns",
        "future",
        "held",
        "lacked",
        "nbytes",
        "needs",
        "plans",
        "suspect",
        "tries",
    )

    def __init__(
        self, chunk: Chunk, tries: int = 1, suspect: bool = False, alone: bool = False
    ) -> None:
        self.chunk = chunk
        self.tries = tries
        self.suspect = suspect
        self.alone = alone
        self.columns: Any = None
        self.plans: list[Any] = []
        self.needs: tuple[int, ...] = ()
        self.held: tuple[int, ...] = ()  # what its worker had, when it lacked something
        self.lacked = 0
        self.behind = False  # whether its worker had less of what grows than was thought
        self.nbytes = 0
        self.future: Any = None


class Dispatch:
    """One call: what of it is under way."""

    def __init__(
        self,
        cluster: Cluster,
        workers: int | None,
        options: Options,
        pace: float,
        task: Task,
        source: Source,
    ) -> None:
        self._cluster = cluster
        self._workers = workers
        self._options = options
        self._pace = pace
        self._task = task
        self._source = source
        self._flights: dict[int, Flight] = {}
        self._numbers = itertools.count()
        self._suspects: deque[tuple[Chunk, int]] = deque()  # with the number of tries
        self._again: deque[tuple[Chunk, int]] = deque()
        self._ready: deque[Done] = deque()
        self._begun = time.monotonic()
        self._looked = 0.0
        self._slots = 0
        self._none_since: float | None = None
        self.inbox: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.closed = False

    def open(self) -> None:
        """Make ready what all chunks need; raise what keeps it from being sent."""

    def outcomes(self) -> Generator[Done, None, None]:
        """Run all chunks; yield what comes of them."""
        source = self._source
        while True:
            if source.aborted is not None:
                raise source.aborted
            self._feed()
            if self._ready:
                yield self._ready.popleft()
            elif self._flights:
                self._take_in(self._done())
            elif source.finished and not self._suspects and not self._again:
                return
            elif not self._suspects:
                self._done()

    # --- out -----------------------------------------------------------------------------------

    def _feed(self) -> None:
        """Submit chunks while there are chunks and slots."""
        while (flight := self._next()) is not None:
            try:
                sent = self._prepare(flight)
            except BaseException:
                self._source.put_back(flight.chunk)
                raise
            if sent:
                self._launch(flight)

    def _next(self) -> Flight | None:
        """The next chunk to be submitted; none where there is no slot for it."""
        source, flights = self._source, self._flights
        if len(flights) == 1 and next(iter(flights.values())).alone:
            return None
        if self._suspects:
            return self._next_suspect()
        if source.finished and not self._again:
            return None
        slots = self._room()
        if len(flights) >= slots * self._depth(slots):
            return None
        if self._again:
            return Flight(*self._again.popleft())
        chunk = source.take()
        return None if chunk is None else Flight(chunk)

    def _depth(self, slots: int) -> int:
        """How many chunks each slot may have, the one that runs included."""
        source = self._source
        if source.endless:  # what was submitted may wait for what comes later
            return 1
        if self._workers is not None and self._workers < self._slots:  # other slots would run it
            return 1
        if self._grows(slots):
            expected, nbytes = source.sizer.seconds, source.sizer.nbytes
            most = min(MOST_WAITING, LARGEST_BYTES // nbytes) if nbytes else MOST_WAITING
            return max(2, min(most, int(self._cluster.demand / expected) if expected else 0))
        return min(2, source.depth(slots, AHEAD * max(1.0, self._pace / 10)))

    def _grows(self, slots: int) -> bool:
        """Whether there is work for more workers, so that the engine is to see it wait."""
        demand, left = self._cluster.demand, self._source.remaining
        if not demand:
            return False
        if left is None:
            return time.monotonic() - self._begun > YOUNG
        cost = self._source.sizer.cost
        return left > slots and (not cost or cost * left > demand / 2 * slots)

    def _next_suspect(self) -> Flight | None:
        chunk, tries = self._suspects[0]
        alone = not self._cluster.one_each or tries >= CHANCES
        if self._flights and (alone or len(self._flights) >= self._room()):
            return None
        self._suspects.popleft()
        return Flight(chunk, tries, suspect=True, alone=alone)

    def _room(self) -> int:
        """How many chunks may run at a time, as far as is known by now."""
        now = time.monotonic()
        if now - self._looked > CHECK or not self._slots:
            self._looked, self._slots = now, self._cluster.slots()
            if self._slots:
                self._none_since = None
            elif self._none_since is None:
                self._none_since = now
            elif now - self._none_since > PATIENCE:
                self._none_since = float("inf")
                log.warning("%s has no workers yet; the call waits for some", self._cluster.name)
        slots = max(1, self._slots)  # where there are none, work is what makes some be started
        return slots if self._workers is None else min(slots, self._workers)

    def _launch(self, flight: Flight) -> None:
        number = next(self._numbers)
        self._flights[number] = flight
        try:
            flight.future = self._start(flight)
        except Exception as error:
            del self._flights[number]
            if by_a_handler(error):
                self._source.put_back(flight.chunk)
                raise
            verdict = self._cluster.verdict(error)
            if isinstance(verdict, BaseException):
                raise verdict from error
            self._lost_by_chance(flight, error)
            return
        flight.future.add_done_callback(lambda _: self.inbox.put(number))

    def _prepare(self, flight: Flight) -> bool:
        """Make a chunk ready; false where that has settled it."""
        raise NotImplementedError

    def _start(self, flight: Flight) -> Any:
        """Submit a chunk; return its future."""
        raise NotImplementedError

    # --- in ------------------------------------------------------------------------------------

    def _done(self) -> list[int]:
        """Wait until something has happened; return the flights that are over."""
        numbers: list[int] = []
        try:
            one = self.inbox.get(timeout=CHECK)
            while True:
                if one is not None:
                    numbers.append(one)
                one = self.inbox.get_nowait()
        except queue.Empty:
            if not numbers:
                self._cluster.check()
                self._room()
        return numbers

    def _take_in(self, numbers: list[int]) -> None:
        flights = [self._flights.pop(number) for number in numbers if number in self._flights]
        if not flights:
            return
        outcomes = self._cluster.collect([flight.future for flight in flights])
        problem: BaseException | None = None
        for flight, outcome in zip(flights, outcomes, strict=True):
            flight.future = None
            try:
                if isinstance(outcome, BaseException):
                    self._failed(flight, outcome)
                else:
                    self._opened(flight, outcome)
            except BaseException as error:  # noqa: BLE001 - the others are taken in first
                problem = problem or error
        if problem is not None:
            raise problem

    def _opened(self, flight: Flight, result: Any) -> None:
        """Take what came of a chunk."""
        raise NotImplementedError

    def _failed(self, flight: Flight, error: BaseException) -> None:
        """See what is to become of a chunk of which nothing came."""
        verdict = self._cluster.verdict(error)
        if isinstance(verdict, BaseException):
            raise verdict from error
        chunk = flight.chunk
        if verdict == AGAIN:
            self._lost_by_chance(flight, error)
        elif not flight.suspect:
            self._suspects.append((chunk, 1))
        elif chunk.size == 1 and flight.alone and (verdict == DIED or flight.tries >= CHANCES):
            told = f"the worker of {self._cluster.name} that ran item {chunk.start} ended abruptly"
            died = WorkerDied(f"{told} ({short(error)})")
            died.__cause__ = error
            self._ready.append((chunk, Lost(died)))
        elif chunk.size == 1:
            self._suspects.appendleft((chunk, flight.tries + 1))
        else:
            step = -(-chunk.size // PARTS)
            parts = [chunk.part(i, min(i + step, chunk.size)) for i in range(0, chunk.size, step)]
            self._suspects.extendleft((part, 1) for part in reversed(parts))

    def _lost_by_chance(self, flight: Flight, error: BaseException) -> None:
        if flight.tries >= MOST_TRIES:
            chunk = flight.chunk
            raise ParallelError(
                f"items {chunk.start} to {chunk.start + chunk.size - 1} were lost {flight.tries} "
                f"times on {self._cluster.name}: {short(error)}"
            ) from error
        self._again.append((flight.chunk, flight.tries + 1))

    def close(self) -> None:
        """Give up what is under way."""
        self.closed = True
        futures = [flight.future for flight in self._flights.values() if flight.future is not None]
        self._flights.clear()
        if futures:
            self._cluster.cancel(futures)
