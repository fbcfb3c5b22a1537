"""A map that runs by itself: `Job`, from which its results are taken, at leisure.

An iterator of the facade stops drawing input when nobody takes results, and ends its call when it
is dropped. The interfaces that others have made (`concurrent.futures`, `multiprocessing`, pathos)
promise the opposite: what was asked for is done, whether or not somebody looks.

::

    input ─► a thread: the engine, on processes  ─► Job ─► next(timeout)
                       single calls, on threads
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import CancelledError, Future
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any

from ..backends import TABLE
from ..engine import run as engine
from ..engine.ordering import Part
from ..engine.plan import plan
from ..options import Options
from ..place.attributes import attribute
from ..place.nesting import nesting
from ..values.call import Call
from ..values.outcome import Failure
from ..values.source import Source
from .futures import SubmitQueues, Translate, as_it_is
from .runner import begin

__all__ = ["ENGINE", "Job", "chunks_of", "run_chunk", "snapshot", "start"]

# Where maps are run by the engine; elsewhere, on threads, they are single calls.
ENGINE = tuple(name for name, backend in TABLE.items() if not backend.shares_memory)
AHEAD = 64  # chunks for each worker that are submitted ahead of those that are done


class Job:
    """Results of a map that runs in the background, in input order or as they come.

    An item that raised does not end it: `next` raises its error, and then goes on.

    Parameters
    ----------
    ordered : bool
    translate : callable
        Turns an error into the one to raise; see `futures.SubmitQueues`.
    """

    def __init__(self, ordered: bool, translate: Translate) -> None:
        self._ordered = ordered
        self._translate = translate
        self.changed = threading.Condition()  # held by who takes in two steps
        self._due: deque[Any] = deque()  # results that can be taken
        self._early: dict[int, Sequence[Any]] = {}  # chunks that came before their turn, by index
        self._turn = 0
        self._over = False
        self._error: BaseException | None = None  # what ended it, after the results before it
        self.cancelled = False
        self._left = False  # nobody takes any more
        self._source: Source | None = None
        self._futures: set[Future[Any]] = set()

    # --- for who takes ---------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result, where there is :meth:`more`; else raise StopIteration."""
        with self.changed:
            if self.more(timeout):
                return self.pop()
            raise StopIteration

    def more(self, timeout: float | None = None, given: float | None = None) -> bool:
        """Wait for the next result; tell whether there is one.

        Raises
        ------
        TimeoutError
            If there is none within `timeout` seconds. There may be one later. The message tells
            `given` instead, where `timeout` is what is left of that.
        BaseException
            What has ended the map early; ``CancelledError`` where the rest was cancelled.
        """
        with self.changed:
            if not self.changed.wait_for(lambda: self._due or self._over, timeout):
                told = timeout if given is None else given
                raise TimeoutError(f"no result within {told} seconds")
            if not self._due and self._error is not None:
                error, self._error = self._error, None
                raise error
            return bool(self._due)

    def pop(self) -> Any:
        """Return the result that is there, or raise what its item raised."""
        value = self._due.popleft()
        if isinstance(value, Failure):
            raise self._translate(value.exception)
        return value

    def cancel(self) -> None:
        """Begin no more items; those that run are finished."""
        with self.changed:
            self.cancelled = True
            source, futures = self._source, list(self._futures)
        if source is not None:
            source.close()
            wake = source.wake
            if wake is not None:
                wake()
        for future in futures:
            future.cancel()

    def leave(self) -> None:
        """Go on, but keep no results: whoever took them has gone, maybe by way of the collector.

        So without the lock: what is given at this moment, `give` lets go of.
        """
        self._left = True
        self._due.clear()

    def abort(self, error: BaseException) -> None:
        """End with `error`, without waiting for the items that run."""
        self.cancel()
        source = self._source  # looked at once: it is forgotten when the map is over
        if source is not None:
            source.abort(error)

    def join(self) -> None:
        """Wait until nothing of it runs any more."""
        self._thread.join()

    @property
    def over(self) -> bool:
        """Whether no more results will come."""
        return self._over

    @property
    def alive(self) -> bool:
        """Whether something of it may still run."""
        return self._thread.is_alive()

    # --- for who gives ---------------------------------------------------------------------------

    def begin(self, work: Callable[[], None]) -> None:
        """Let `work` give the results, in a thread and in a copy of this context."""
        self._thread = begin("job", partial(self._run, work))

    def _run(self, work: Callable[[], None]) -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as problem:  # noqa: BLE001 - belongs to whoever takes
            error = self._translate(problem)
        if error is None and self.cancelled:
            error = CancelledError()
        with self.changed:
            self._over, self._error, self._source = True, error, None
            self.changed.notify_all()

    def give(self, values: Sequence[Any]) -> None:
        """Take in results in the order in which they are to be taken."""
        with self.changed:
            self._due.extend(values)
            self._tell()

    def give_at(self, index: int, values: Sequence[Any]) -> None:
        """Take in the results of the chunk with this index."""
        with self.changed:
            self._early[index if self._ordered else self._turn] = () if self._left else values
            while self._turn in self._early:
                self._due.extend(self._early.pop(self._turn))
                self._turn += 1
            self._tell()

    def _tell(self) -> None:
        if self._left:
            self._due.clear()
        self.changed.notify_all()

    def watch(self, source: Source) -> None:
        """Remember where the input comes from."""
        self._source = source

    def follow(self, index: int, future: Future[Any], done: Callable[[], object]) -> None:
        """Give the result of `future` when it is there, and call `done`."""
        with self.changed:
            self._futures.add(future)
        future.add_done_callback(partial(self._settle, index, done))
        if self.cancelled:
            future.cancel()

    def _settle(self, index: int, done: Callable[[], object], future: Future[Any]) -> None:
        with self.changed:
            self._futures.discard(future)
        if not future.cancelled():
            error = future.exception()
            kept = future.result() if error is None else [Failure(index, (), {}, error, "")]
            self.give_at(index, kept)
            del error, kept
        done()


def start(
    func: Callable[..., Any],
    iterables: Sequence[Iterable[Any]],
    options: Options,
    queues: SubmitQueues,
    *,
    ordered: bool,
    translate: Translate = as_it_is,
) -> Job:
    """Begin to map `func` over `iterables`, up to the end of the shortest.

    On threads, which a pool never has more of than its workers, chunks are single calls that go
    through `queues`.
    """
    job = Job(ordered, translate)
    planned = plan(options, nesting())
    if planned.backend in ENGINE:
        call = Call(func, tuple(iterables), {})
        settled = options.but(on_error="return", progress=False, strict=False)
        try:
            parts = engine.stream(call, settled, job.watch, ordered, lazy=False, whole=True)
        except BaseException as error:  # noqa: BLE001 - it is raised again, as what others expect
            raise translate(error) from error.__cause__
        job.begin(partial(_from_engine, job, parts))
    else:
        chunks = chunks_of(func, zip(*iterables, strict=False), options.chunksize or 1)
        job.begin(partial(_from_queues, job, chunks, queues, AHEAD * planned.workers))
    return job


def _from_engine(job: Job, parts: Generator[Part, None, None]) -> None:
    with closing(parts):
        for part in parts:
            given = part.values[:]
            part.values.clear()  # others may still refer to the list; the results are not theirs
            job.give(given)
            del given


def _from_queues(
    job: Job, chunks: Iterator[tuple[Any, ...]], queues: SubmitQueues, ahead: int
) -> None:
    room = threading.Semaphore(ahead)
    try:
        for index, chunk in enumerate(chunks):
            room.acquire()
            if job.cancelled:
                room.release()
                return
            try:
                future = queues.here().put(run_chunk, chunk, {})
            except BaseException:
                room.release()
                raise
            job.follow(index, future, room.release)
            del future
            del chunk
    finally:
        for _ in range(ahead):
            room.acquire()  # all are settled


def chunks_of(
    func: Callable[..., Any], rows: Iterator[tuple[Any, ...]], size: int
) -> Iterator[tuple[Any, ...]]:
    """Arguments of `run_chunk`, for `size` rows each."""
    begin = 0
    while chunk := list(islice(rows, size)):
        yield func, chunk, begin
        begin += len(chunk)


def run_chunk(func: Callable[..., Any], rows: list[tuple[Any, ...]], begin: int) -> list[Any]:
    """Results of `func` for each row; a Failure for each that raised."""
    results: list[Any] = []
    for row in rows:
        try:
            results.append(func(*row))
        except BaseException as error:  # noqa: BLE001 - belongs to whoever asks for the result
            results.append(Failure(begin + len(results), row, {}, error, ""))
    return results


def snapshot(iterables: Sequence[Iterable[Any]]) -> list[Any]:
    """Inputs as they are now, whatever becomes of them later; arrays are not copied."""
    if all(isinstance(each, Sized) for each in iterables):
        return [
            each if attribute(each, "__array_interface__") else list(each) for each in iterables
        ]
    return [list(column) for column in zip(*zip(*iterables, strict=False), strict=True)]
