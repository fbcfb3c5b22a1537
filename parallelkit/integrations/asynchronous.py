"""What `multiprocessing` and pathos have in common: a pool, and results for later."""

from __future__ import annotations

import builtins
import multiprocessing
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial
from types import GenericAlias
from typing import Any

import multiprocess

from ..background.futures import SubmitQueues, in_thread
from ..background.jobs import ENGINE, Job, chunks_of, run_chunk, snapshot, start
from ..engine import run as engine
from ..engine.plan import plan
from ..errors import ParallelError
from ..options import Resolver
from ..place.nesting import nesting
from ..values.call import Call
from ..values.outcome import Failure
from ..values.source import Source

__all__ = ["AsyncPool", "AsyncResult", "Results", "Timeout"]

RUN, CLOSE, TERMINATE = "RUN", "CLOSE", "TERMINATE"
TERMINATED = "the pool was terminated"


class Timeout(multiprocessing.TimeoutError, multiprocess.TimeoutError, builtins.TimeoutError):
    """Nothing was there in time; caught by whichever TimeoutError is expected."""


class AsyncResult:
    """What will come of a call, as `multiprocessing` hands it out.

    Parameters
    ----------
    future : Future
    callback, error_callback : callable, optional
        Called with the result, or the error, before it can be had here.
    """

    __class_getitem__: Any = classmethod(GenericAlias)

    def __init__(
        self,
        future: Future[Any],
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> None:
        self._future = future
        self._there = threading.Event()
        future.add_done_callback(partial(self._tell, callback, error_callback))

    def _tell(
        self,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        future: Future[Any],
    ) -> None:
        try:
            error = future.exception()
            if error is None and callback is not None:
                callback(future.result())
            elif error is not None and error_callback is not None:
                error_callback(error)
        finally:
            self._there.set()

    def ready(self) -> bool:
        """Whether it is there."""
        return self._there.is_set()

    def successful(self) -> bool:
        """Whether the call has not raised; ValueError if it is not ready."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._future.exception() is None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is there, or `timeout` seconds."""
        self._there.wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        """Return the result, or raise what the call raised, or :class:`Timeout`."""
        if not self._there.wait(timeout):
            raise Timeout(f"not there within {timeout} seconds")
        return self._future.result()


class Results:
    """An iterator over results whose `next` takes a timeout."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __iter__(self) -> Iterator[Any]:
        return self

    def __del__(self) -> None:
        self._job.leave()

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result; :class:`Timeout` if there is none within `timeout` seconds."""
        with self._job.changed:  # others may take as well
            try:
                more = self._job.more(timeout)
            except builtins.TimeoutError as error:
                if self._job.over:
                    raise
                raise Timeout(*error.args) from None
            if not more:
                raise StopIteration
            return self._job.pop()

    def __next__(self) -> Any:
        return self.next()


class AsyncPool:
    """A pool that runs, is closed or is terminated; what was asked for is done until then.

    Parameters
    ----------
    **options
        Those of :class:`parallelkit.Pool`.
    """

    def __init__(self, **options: Any) -> None:
        self._resolve = Resolver(options)
        self._queues = SubmitQueues(self._resolve)
        self._jobs: weakref.WeakSet[Job] = weakref.WeakSet()
        self._sources: weakref.WeakSet[Any] = weakref.WeakSet()
        self._maps: set[Future[Any]] = set()
        self._state = RUN
        self._lock = threading.Lock()
        self._held: Any = None  # keeps workers that started with this pool

    def _start(self) -> None:
        """Start the workers now if they have an initializer, which may be all that they are for."""
        options = self._resolve()
        if options.initializer is not None:
            self._held = engine.hold(options)

    def close(self) -> None:
        """Take no more calls."""
        if self._state == RUN:
            self._state = CLOSE

    def terminate(self) -> None:
        """Take no more calls and end those that run: they fail with ``ParallelError``."""
        self._state = TERMINATE
        error = ParallelError(TERMINATED)
        with self._lock:
            sources, jobs = list(self._sources), list(self._jobs)
        for source in sources:
            source.abort(error)
        for job in jobs:
            job.abort(error)
        for stream in self._queues.all():
            stream.abort(error)
        if self._held is not None:
            self._held.let_go()

    def join(self) -> None:
        """Wait until all that was asked for is done; ValueError before `close` or `terminate`."""
        if self._state == RUN:
            raise ValueError("Pool is still running; close() or terminate() it first")
        wait(list(self._maps))
        for job in list(self._jobs):
            job.join()
        for stream in self._queues.all():
            stream.join()
        if self._held is not None and self._state == CLOSE:
            self._held.settle()
            self._held.let_go()

    @property
    def _processes(self) -> int:
        """How many work at a time: the name by which other libraries ask for it."""
        return plan(self._resolve(), nesting()).workers

    def __repr__(self) -> str:
        kind, workers = type(self), self._resolve().workers
        return f"<{kind.__module__}.{kind.__name__} state={self._state} workers={workers}>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    # --- for those who give it the names of others -----------------------------------------------

    def _check_running(self) -> None:
        """Raise ValueError if it takes no more calls."""
        if self._state != RUN:
            raise ValueError("Pool not running")

    def _submit(
        self, func: Callable[..., Any], args: Iterable[Any], kwds: Mapping[str, Any] | None
    ) -> Future[Any]:
        """Begin one call."""
        self._check_running()
        return self._queues.here().put(func, tuple(args), kwds or {})

    def _mapping(
        self, func: Callable[..., Any], inputs: Sequence[Iterable[Any]], chunksize: int | None
    ) -> Callable[[], list[Any]]:
        """Return what maps `func` over the items as they are now, when it is called."""
        self._check_running()
        options = self._resolve().but(on_error="return", strict=False, chunksize=chunksize or None)
        columns = snapshot(inputs)
        planned = plan(options, nesting())
        if planned.backend in ENGINE:
            if not columns:  # iterators that gave nothing
                return list
            call = Call(func, tuple(columns), {})
            options = options.but(seed=self._resolve.of_call().seed)
            return lambda: _values(engine.gather(call, options, self._begun))
        shortest = min(map(len, columns), default=0)
        size = chunksize or max(1, -(-shortest // (4 * planned.workers)))
        chunks = chunks_of(func, zip(*columns, strict=False), size)
        futures = [self._queues.here().put(run_chunk, chunk, {}) for chunk in chunks]
        return lambda: _values(_joined(futures))

    def _later(self, mapping: Callable[[], list[Any]]) -> Future[list[Any]]:
        """Run a :meth:`_mapping` in the background."""
        future = in_thread(mapping, limited=False)
        self._maps.add(future)
        future.add_done_callback(self._maps.discard)
        return future

    def _iterator(
        self,
        func: Callable[..., Any],
        inputs: Sequence[Iterable[Any]],
        chunksize: int | None,
        ordered: bool,
    ) -> Results:
        """Begin to map `func` over `inputs`, which are drawn at the pace of the workers."""
        self._check_running()
        options = self._resolve.of_call().but(chunksize=chunksize)
        job = start(func, inputs, options, self._queues, ordered=ordered)
        with self._lock:
            self._jobs.add(job)
        if self._state == TERMINATE:
            job.abort(ParallelError(TERMINATED))
        return Results(job)

    def _begun(self, source: Source) -> None:
        with self._lock:
            self._sources.add(source)
        if self._state == TERMINATE:  # which may have looked just before
            source.abort(ParallelError(TERMINATED))


def _joined(futures: Sequence[Future[list[Any]]]) -> list[Any]:
    wait(futures)
    return [value for future in futures for value in future.result()]


def _values(results: list[Any]) -> list[Any]:
    """Results of a map; raise what the first of the items that failed has raised."""
    for index, value in enumerate(results):
        if type(value) is Failure and value.index == index:
            raise value.exception
    return results
