"""Chunks as futures of another engine: what Dask, Ray and all executors have in common.

::

    Source ─► chunk ─► Cluster.submit(remote.run, order, what it needs) ─► a worker of the engine
                                                                             │
    engine ◄─ (chunk, Reply or Lost) ◄─ Cluster.collect ◄─ inbox ◄─ done ────┘

An adapter for an engine implements `Cluster`, and is short. Few chunks are under way at a time: as
many as there are slots, and as many again where they are short, so that neither caller nor
scheduler holds more than these. Workers may come and go meanwhile.

Where a worker dies, the engine does not tell which of the chunks under way is to blame. Each of
them is *suspect* then: it runs again with nothing else beside it, in ever smaller parts. An item
that takes its worker along while it is alone is to blame, and no other.
"""

from __future__ import annotations

import contextvars
import hashlib
import itertools
import logging
import os
import queue
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, Protocol

from ..errors import ParallelError, RemoteTraceback, TransportError, WorkerDied, assign
from ..options import Options
from ..place import blas
from ..place.sigint import by_a_handler
from ..transport import pickling
from ..transport.pickling import Pickled
from ..transport.refusals import is_refused, refusal
from ..transport.script import script
from ..values.outcome import Lost, Reply
from ..values.source import Chunk, Source
from ..worker import output, remote
from ..worker.context import carried
from ..worker.environment import current
from ..worker.remote import Order, Parcel
from .base import Done, Setup, Task

__all__ = ["AGAIN", "DIED", "Cluster", "FuturesPool", "is_missing", "outcome"]

log = logging.getLogger("parallelkit")

DIED = "died"  # a worker ended, perhaps by what the chunk did
AGAIN = "again"  # the chunk, or what it needs, was lost, by no fault of its own

SMALL = 1 << 14  # bytes that go with each order rather than be asked for
LARGE = 1 << 20  # bytes of arguments that are put where workers fetch them
AHEAD = 0.5  # seconds; a longer chunk makes the gap between two of no account
CHECK = 1.0  # seconds between looks at whether the engine is still there
BUDGET = 0.05  # seconds of a chunk, as `worker.task` has it, for a pace of 1
PARTS = 16  # that a suspect chunk is cut into
MOST_TRIES = 5  # of a chunk that is lost by no fault of its own
PATIENCE = 10.0  # seconds without a worker after which that is told


class Cluster(Protocol):
    """What an engine has to offer.

    Attributes
    ----------
    name : str
        As it is called in messages.
    shares_memory : bool
        Whether its workers are threads of this process.
    """

    name: str
    shares_memory: bool

    def slots(self) -> int:
        """How many chunks can run at this moment; asked again and again, so at little cost."""
        ...

    def put(self, parcel: Parcel) -> Any:
        """Put something where all workers can fetch it; None if there is no such place."""
        ...

    def there(self, handle: Any) -> bool:
        """Whether what was put is still there."""
        ...

    def submit(self, name: str, func: Callable[..., Any], *args: Any) -> Any:
        """Start a call; return a future with ``add_done_callback``. `name` is for people."""
        ...

    def collect(self, futures: Sequence[Any]) -> list[Any]:
        """Results of futures that are done; in the place of one that failed, its exception."""
        ...

    def cancel(self, futures: Sequence[Any]) -> None:
        """Give up calls, and keep nothing of them."""
        ...

    def check(self) -> None:
        """Raise what tells that the engine is gone."""
        ...

    def verdict(self, error: BaseException) -> str | BaseException:
        """`DIED`, `AGAIN`, or the error to raise for one that is not an item's."""
        ...


class _Flight:
    """A chunk under way."""

    __slots__ = (
        "alone",
        "chunk",
        "columns",
        "future",
        "held",
        "lacked",
        "nbytes",
        "needs",
        "plans",
        "tries",
    )

    def __init__(self, chunk: Chunk, alone: bool) -> None:
        self.chunk = chunk
        self.alone = alone
        self.columns: Any = None
        self.plans: list[Any] = []
        self.needs: tuple[int, ...] = ()
        self.held: tuple[int, ...] = ()  # what its worker had, when it lacked something
        self.lacked = 0
        self.nbytes = 0
        self.tries = 1
        self.future: Any = None


class FuturesPool:
    """Runs chunks in the workers of another engine.

    Parameters
    ----------
    cluster : Cluster
    workers : int or None
        How many chunks may run at a time; by default as many as there are slots.
    options : Options
    pace : float
        How much longer a message takes than to a process of ours.
    """

    def __init__(
        self, cluster: Cluster, workers: int | None, options: Options, pace: float
    ) -> None:
        self._cluster = cluster
        self._workers = workers
        self._options = options
        self._pace = pace

    def run(self, task: Task, source: Source) -> Generator[Done | None, None, None]:
        """Run all chunks of `source` there."""
        kind = _Here if self._cluster.shares_memory else _There
        call = kind(self._cluster, self._workers, self._options, self._pace, task, source)
        source.wake = partial(call.inbox.put, None)
        try:
            call.open()
            yield None
            yield from call.outcomes()
        finally:
            source.wake = None
            call.close()

    def close(self) -> None:
        """Nothing to end: the workers are the engine's."""


class _Call:
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
        self._flights: dict[int, _Flight] = {}
        self._numbers = itertools.count()
        self._suspects: deque[tuple[Chunk, int]] = deque()  # with the number of tries
        self._again: deque[tuple[Chunk, int]] = deque()
        self._ready: deque[Done] = deque()
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
        source, flights = self._source, self._flights
        while True:
            if self._suspects:
                if flights:
                    return
                chunk, tries = self._suspects.popleft()
                flight = _Flight(chunk, alone=True)
                flight.tries = tries
            else:
                over = source.finished and not self._again
                if over or (len(flights) == 1 and next(iter(flights.values())).alone):
                    return
                slots = self._room()
                # What was submitted may wait for what comes later, and could not be taken back.
                short = AHEAD * max(1.0, self._pace / 10)
                twice = not source.endless and source.depth(slots, short) > 1
                if len(flights) >= (2 * slots if twice else slots):
                    return
                tries = 1
                if self._again:
                    taken, tries = self._again.popleft()
                else:
                    found = source.take()
                    if found is None:
                        return
                    taken = found
                flight = _Flight(taken, alone=False)
                flight.tries = tries
            try:
                sent = self._prepare(flight)
            except BaseException:
                self._source.put_back(flight.chunk)
                raise
            if sent:
                self._launch(flight)

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

    def _launch(self, flight: _Flight) -> None:
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

    def _prepare(self, flight: _Flight) -> bool:
        """Make a chunk ready; false where that has settled it."""
        raise NotImplementedError

    def _start(self, flight: _Flight) -> Any:
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

    def _opened(self, flight: _Flight, result: Any) -> None:
        """Take what came of a chunk."""
        raise NotImplementedError

    def _failed(self, flight: _Flight, error: BaseException) -> None:
        """See what is to become of a chunk of which nothing came."""
        verdict = self._cluster.verdict(error)
        if isinstance(verdict, BaseException):
            raise verdict from error
        chunk = flight.chunk
        if verdict == AGAIN:
            self._lost_by_chance(flight, error)
        elif flight.alone and chunk.size == 1:
            told = f"the worker of {self._cluster.name} that ran item {chunk.start} ended abruptly"
            died = WorkerDied(f"{told} ({_short(error)})")
            died.__cause__ = error
            self._ready.append((chunk, Lost(died)))
        elif flight.alone:
            step = -(-chunk.size // PARTS)
            parts = [chunk.part(i, min(i + step, chunk.size)) for i in range(0, chunk.size, step)]
            self._suspects.extendleft((part, 1) for part in reversed(parts))
        else:
            self._suspects.append((chunk, 1))

    def _lost_by_chance(self, flight: _Flight, error: BaseException) -> None:
        if flight.tries >= MOST_TRIES:
            chunk = flight.chunk
            raise ParallelError(
                f"items {chunk.start} to {chunk.start + chunk.size - 1} were lost {flight.tries} "
                f"times on {self._cluster.name}: {_short(error)}"
            ) from error
        self._again.append((flight.chunk, flight.tries + 1))

    def close(self) -> None:
        """Give up what is under way."""
        self.closed = True
        futures = [flight.future for flight in self._flights.values() if flight.future is not None]
        self._flights.clear()
        if futures:
            self._cluster.cancel(futures)


def outcome(future: Future[Any]) -> Any:
    """What a future that is done has to tell, an exception too. What is raised is a signal's."""
    try:
        error = future.exception()
    except CancelledError as cancelled:
        return cancelled
    if isinstance(error, KeyboardInterrupt):
        raise error
    return future.result() if error is None else error


def _short(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else text[:297] + "..."


# --- threads of an executor ----------------------------------------------------------------------


class _Here(_Call):
    """A call whose items run in threads of this process."""

    def open(self) -> None:
        """Hold libraries to the share of the threads."""
        self._setup = Setup(self._options.initializer, self._options.initargs)
        self._context = contextvars.copy_context()
        share = self._task.place(0).cores
        self._lent = blas.lent(self._task.threads(0), share, here=False)
        self._lent.__enter__()

    def _prepare(self, flight: _Flight) -> bool:  # noqa: ARG002 - nothing has to be made
        return True

    def _start(self, flight: _Flight) -> Any:
        context = self._context.copy()
        return self._cluster.submit("", context.run, self._run, flight.chunk)

    def _run(self, chunk: Chunk) -> tuple[BaseException | None, Reply | None]:
        try:
            self._setup()
        except BaseException as error:  # noqa: BLE001 - an initializer's: the caller must know
            return error, None
        blas.hold(self._task.threads(0))
        return None, self._task.run(chunk, 0, stop=lambda: self.closed)

    def _opened(self, flight: _Flight, result: Any) -> None:
        error, reply = result
        if error is not None:
            raise error
        self._ready.append((flight.chunk, reply))

    def close(self) -> None:
        """Give up what is under way."""
        try:
            super().close()
        finally:
            if hasattr(self, "_lent"):
                self._lent.__exit__(None, None, None)


# --- workers elsewhere ---------------------------------------------------------------------------


class _There(_Call):
    """A call whose items run in other processes."""

    def open(self) -> None:
        """Pickle the task."""
        task, options = self._task, self._options
        # The place is found where the work arrives: what it would be here is of no account.
        task.places, task.cores = [task.places[0]._replace(cores=1)], 1
        self._head = remote.head()
        self._name = getattr(task.func, "__name__", None) or type(task.func).__name__
        try:
            pickled = _ready(pickling.dumps(task.state(carried()), together=True))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            told = task.refusal(error)
            if told is error:
                raise
            raise told from error
        self._refuse_shared(pickled, "a keyword or the function")
        self._plan = pickled.needs or None
        state = Parcel.of(pickled)
        self._key = _digest(state) if task.may_be_kept() else os.urandom(8).hex()
        self._parcel = state
        self._state = self._sent(state)
        self._setup, self._setup_key = None, ""
        if options.initializer is not None:
            packed = _ready(pickling.dumps((options.initializer, options.initargs)))
            self._setup_plan = packed.needs or None
            setup = Parcel.of(packed)
            self._setup, self._setup_key = setup, _digest(setup)
        else:
            self._setup_plan = None
        self._settings = remote.settings(current())
        self._news: tuple[Any, Any, int] | None = None  # for who knows nothing

    def _refuse_shared(self, pickled: Pickled, what: str) -> None:
        if pickled.shared:
            raise TransportError(
                f"{what} lies in memory of pk.share, which workers of {self._cluster.name} cannot "
                "see; give a plain array: it is sent once a call and worker"
            )

    def _sent(self, parcel: Parcel) -> Any:
        """What goes with an order for a parcel: itself, or where it was put if it is large."""
        if parcel.nbytes > SMALL:
            return self._cluster.put(parcel) or parcel
        return parcel

    def _prepare(self, flight: _Flight) -> bool:
        chunk, source = flight.chunk, self._source
        try:
            pickled = _ready(pickling.dumps(chunk.columns))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or not is_refused(chunk.columns):
                raise
            if chunk.size == 1:
                args = chunk.args(0)
                told = args[0] if len(args) == 1 else args
                error = refusal(f"argument of item {chunk.start}", told, error)
            self._ready.append((chunk, Lost(error)))
            return False
        try:
            self._refuse_shared(pickled, f"an argument of item {chunk.start}")
        except TransportError as error:
            self._ready.append((chunk, Lost(error)))
            return False
        if source.endless:  # what was submitted just now finds what is around it now
            self._settings = remote.settings(current())
        plans = [self._plan, self._setup_plan, pickled.needs or None]
        flight.plans = [plan for plan in plans if plan is not None]
        columns = Parcel.of(pickled)
        flight.nbytes = columns.nbytes
        large = columns.nbytes > LARGE
        flight.columns = (self._cluster.put(columns) or columns) if large else columns
        return True

    def _start(self, flight: _Flight) -> Any:
        chunk = flight.chunk
        # As it is now: another chunk may have found out more of the same parts of the script.
        flight.needs = tuple(frozenset[int]().union(*(plan.versions for plan in flight.plans)))
        order = Order(
            *(self._key, chunk.start, chunk.size, flight.needs, self._settings),
            *(self._setup_key, BUDGET * self._pace, self._task.traced and tuple(self._task.traced)),
        )
        news, state, setup = self._news_for(flight), self._state, self._setup
        if not flight.lacked:  # who has not got what is large says so
            state = None if isinstance(state, Parcel) and state.nbytes > SMALL else state
            setup = None if setup is not None and setup.nbytes > SMALL else setup
        return self._cluster.submit(
            self._name,
            remote.run,
            *(self._head, tuple(order), flight.columns, news, state, setup),
        )

    def _news_for(self, flight: _Flight) -> Any:
        if not flight.needs:
            return None
        if flight.lacked:
            versions, pickled = script.news_without(frozenset(flight.held), flight.plans)
            return versions, Parcel.of(pickled), flight.lacked > 2
        if self._news is None or not self._news[0] >= frozenset(flight.needs):
            versions, pickled = script.news_without((), flight.plans)
            parcel = Parcel.of(pickled)
            self._news = versions, parcel, parcel.nbytes
        versions, parcel, nbytes = self._news
        return (versions, parcel, False) if nbytes <= SMALL else None

    def _opened(self, flight: _Flight, result: Any) -> None:
        kind, *rest = result
        if kind == "done":
            self._answered(flight, *rest)
        elif kind == "lacks":
            self._lacks(flight, *rest)
        elif kind == "unreadable":
            self._ready.append((flight.chunk, Lost(_error(rest[0]))))
        elif kind == "differs":
            raise ParallelError(
                f"a worker of {self._cluster.name} has {rest[0]}: caller and workers must have "
                "the same versions, since functions travel as code"
            )
        else:  # the initializer, the script or the task
            raise _error(rest[0])

    def _answered(self, flight: _Flight, parcel: Parcel, seconds: float, said: list[Any]) -> None:
        for kind, fields in said:
            output.retell(kind, fields)
        chunk = flight.chunk
        try:
            values, raised = parcel.open()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            try:
                parcel.open()
            except BaseException:  # noqa: BLE001 - a user's __setstate__ may raise anything
                self._ready.append((chunk, Lost(error)))
                return
            raise  # by a signal handler
        nbytes = max(parcel.nbytes, flight.nbytes)
        self._ready.append((chunk, Reply(values, raised, seconds, True, nbytes)))

    def _lacks(self, flight: _Flight, held: tuple[int, ...]) -> None:
        """Send an order again, with what its worker has not got."""
        flight.lacked += 1
        flight.held = held
        self._launch(flight)

    def _failed(self, flight: _Flight, error: BaseException) -> None:
        if is_missing(error):
            verdict = self._cluster.verdict(error)  # which may know of a better way
            if isinstance(verdict, BaseException) and "pip install" in str(verdict):
                raise verdict from error
            raise self._missing(error) from error
        super()._failed(flight, error)

    def _missing(self, error: BaseException) -> ParallelError:
        return ParallelError(
            f"the workers of {self._cluster.name} have no parallelkit, or another version of "
            f"it ({error}); run there: pip install parallelkit=={remote.own_version()}"
        )

    def _lost_by_chance(self, flight: _Flight, error: BaseException) -> None:
        if self._state is not self._parcel and not self._cluster.there(self._state):
            self._state = self._sent(self._parcel)
        super()._lost_by_chance(flight, error)


def is_missing(error: BaseException) -> bool:
    """Whether an error says that there is no parallelkit, or one that lacks a module."""
    if isinstance(error, ImportError) and (error.name or "").startswith("parallelkit"):
        return True
    return "No module named 'parallelkit" in str(error)  # of which an engine has kept the text


def _ready(pickled: Pickled) -> Pickled:
    """Look up what a pickle needs of the script; it then has that in ``needs``."""
    return script.ready(pickled)  # type: ignore[no-any-return]


def _digest(parcel: Parcel) -> str:
    digest = hashlib.sha256(parcel.data)
    for buffer in parcel.buffers:
        digest.update(buffer)
    return digest.hexdigest()


def _error(parcel: Parcel) -> BaseException:
    """Error that came up at a worker, outside of all items, with the traceback that it had."""
    try:
        error, text = parcel.open()
    except Exception as problem:  # noqa: BLE001 - a user's class may raise anything
        return TransportError(f"an error of a worker could not be unpickled: {_short(problem)}")
    if error.__cause__ is None:
        assign(error, __cause__=RemoteTraceback(text))
    return error  # type: ignore[no-any-return]
