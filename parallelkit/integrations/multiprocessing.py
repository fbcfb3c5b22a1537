"""`multiprocessing.Pool`, its names and what they mean, on the workers of parallelkit.

>>> from parallelkit.integrations.multiprocessing import Pool
>>> with Pool(2) as pool:
...     pool.map(abs, [-1, -2]), pool.apply_async(pow, (2, 5)).get()
([1, 2], 32)

Unlike the original, it takes lambdas, closures and functions of ``__main__`` as they are now,
loses one item, not all, when a worker dies, and keeps its workers warm for the next pool.
"""

from __future__ import annotations

import builtins
import multiprocessing
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from functools import partial
from types import GenericAlias, TracebackType
from typing import Any, Self

import multiprocess

from .. import engine
from ..call import Call, Delayed
from ..errors import ParallelError
from ..futures import Desk, in_thread
from ..jobs import Job, start
from ..levels import nesting
from ..options import Resolver
from ..outcome import Failure
from ..plan import plan

__all__ = ["ApplyResult", "AsyncResult", "Pool", "ThreadPool", "TimeoutError"]

RUN, CLOSE, TERMINATE = "RUN", "CLOSE", "TERMINATE"


class TimeoutError(  # type: ignore[misc]  # noqa: A001 - named as in `multiprocessing`
    multiprocessing.TimeoutError, multiprocess.TimeoutError, builtins.TimeoutError
):
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
        """Return the result, or raise what the call raised, or TimeoutError."""
        if not self._there.wait(timeout):
            raise TimeoutError(f"not there within {timeout} seconds")
        return self._future.result()


ApplyResult = AsyncResult


class _Results:
    """An iterator over results whose `next` takes a timeout."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __iter__(self) -> Iterator[Any]:
        return self

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result; TimeoutError if there is none within `timeout` seconds."""
        try:
            more = self._job.more(timeout)
        except builtins.TimeoutError as error:
            if self._job.over:
                raise
            raise TimeoutError(*error.args) from None
        if not more:
            raise StopIteration
        return self._job.pop()

    def __next__(self) -> Any:
        return self.next()


class Pool:
    """A pool with the interface of ``multiprocessing.Pool``.

    Parameters
    ----------
    processes : int, optional
        By default the share of the cores.
    initializer : callable, optional
        Called once in each worker, with `initargs`.
    initargs : tuple
    maxtasksperchild : int, optional
        Replace a worker after as many items. (The original counts chunks.)
    context : multiprocessing context, optional
        Its start method counts.
    **options
        All other options of :class:`parallelkit.Pool`.

    Raises
    ------
    ValueError, TypeError
        For bad values.

    Examples
    --------
    >>> from parallelkit.integrations.multiprocessing import Pool
    >>> with Pool(2) as pool:
    ...     pool.starmap(pow, [(2, 3), (3, 2)]), sorted(pool.imap_unordered(abs, [-1, -2]))
    ([8, 9], [1, 2])
    """

    _backend = "process"

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        **options: Any,
    ) -> None:
        self._state = TERMINATE  # until it is made
        if processes is not None and processes < 1:
            raise ValueError(f"Number of processes must be at least 1, not {processes}")
        tasks: Any = maxtasksperchild
        if tasks is not None and not (isinstance(tasks, int) and tasks > 0):
            raise ValueError(
                f"maxtasksperchild must be a positive int or None, not {maxtasksperchild!r}"
            )
        given = {
            "workers": processes,
            "initializer": initializer,
            "tasks_per_worker": maxtasksperchild,
            "start_method": context and context.get_start_method(),
        }
        named = {name: value for name, value in given.items() if value is not None}
        own = {"backend": self._backend, "initargs": tuple(initargs), **named}
        self._resolve = Resolver({**own, **options})
        self._desk = Desk(self._resolve)
        self._jobs: weakref.WeakSet[Job] = weakref.WeakSet()
        self._sources: weakref.WeakSet[Any] = weakref.WeakSet()
        self._maps: set[Future[Any]] = set()
        self._state = RUN

    # --- calls -----------------------------------------------------------------------------------

    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func` in a worker; return its result."""
        return self._submit(func, args, kwds).result()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """Call `func` in a worker; return an :class:`AsyncResult`."""
        return AsyncResult(self._submit(func, args, kwds), callback, error_callback)

    def map(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Call `func` with each item; return the results. All are run, also if one fails."""
        return self._mapping(func, iterable, chunksize)()

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[Any]:
        """Call `func` with the elements of each item; see :meth:`map`."""
        return self.map(partial(_star, func), iterable, chunksize)

    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """Begin :meth:`map`; return an :class:`AsyncResult`."""
        future = in_thread(self._mapping(func, iterable, chunksize))
        self._maps.add(future)
        future.add_done_callback(self._maps.discard)
        return AsyncResult(future, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """Begin :meth:`starmap`; return an :class:`AsyncResult`."""
        star = partial(_star, func)
        return self.map_async(star, iterable, chunksize, callback, error_callback)

    def imap(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> Iterator[Any]:
        """Call `func` with each item; return an iterator over the results.

        The iterator has a method ``next(timeout)``. Items are run whether or not results are
        taken; an iterable that does not end is drawn at the pace of the workers.
        """
        return self._iterator(func, iterable, chunksize, ordered=True)

    def imap_unordered(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> Iterator[Any]:
        """:meth:`imap` in the order in which items finish."""
        return self._iterator(func, iterable, chunksize, ordered=False)

    # --- its life --------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more calls."""
        if self._state == RUN:
            self._state = CLOSE
            for stream in self._desk.streams():
                stream.close_soon()

    def terminate(self) -> None:
        """Take no more calls and end those that run: they fail with ``ParallelError``."""
        self._state = TERMINATE
        error = ParallelError("the pool was terminated")
        for source in list(self._sources):
            source.abort(error)
        for job in list(self._jobs):
            job.abort(error)
        for stream in self._desk.streams():
            stream.abort(error)

    def join(self) -> None:
        """Wait until all that was asked for is done; ValueError before `close` or `terminate`."""
        if self._state == RUN:
            raise ValueError("Pool is still running; close() or terminate() it first")
        wait(list(self._maps))
        for job in list(self._jobs):
            job.join()
        for stream in self._desk.streams():
            stream.join()

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.terminate()

    def __repr__(self) -> str:
        workers = self._resolve().workers
        return (
            f"<{type(self).__module__}.{type(self).__name__} state={self._state} workers={workers}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    # --- how -------------------------------------------------------------------------------------

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")

    def _submit(
        self, func: Callable[..., Any], args: Iterable[Any], kwds: Mapping[str, Any] | None
    ) -> Future[Any]:
        self._check_running()
        return self._desk.here().put(Delayed(func, tuple(args), kwds or {}))

    def _mapping(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None
    ) -> Callable[[], list[Any]]:
        """What maps over the items as they are now, when it is called."""
        self._check_running()
        options = replace(self._resolve(), on_error="return", chunksize=chunksize or None)
        items = iterable if hasattr(iterable, "__array_interface__") else list(iterable)
        if plan(options, nesting()).backend == "process":
            call = Call(func, (items,), {})
            return lambda: _values(engine.gather(call, options, self._sources.add))
        futures = [self._submit(func, (item,), None) for item in items]
        return lambda: _results(futures)

    def _iterator(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        ordered: bool,
    ) -> _Results:
        self._check_running()
        options = replace(self._resolve(), chunksize=chunksize)
        job = start(func, (iterable,), options, self._desk, ordered=ordered)
        self._jobs.add(job)
        return _Results(job)


class ThreadPool(Pool):
    """:class:`Pool` on threads, as ``multiprocessing.pool.ThreadPool``.

    Parameters
    ----------
    processes, initializer, initargs, **options
        As for :class:`Pool`.

    Examples
    --------
    >>> from parallelkit.integrations.multiprocessing import ThreadPool
    >>> with ThreadPool(2) as pool:
    ...     list(pool.imap(abs, [-1, -2]))
    [1, 2]
    """

    _backend = "thread"


def _star(func: Callable[..., Any], row: Iterable[Any]) -> Any:
    return func(*row)


def _values(results: list[Any]) -> list[Any]:
    """Results of a map; raise what the first of the items that failed has raised."""
    for index, value in enumerate(results):
        if type(value) is Failure and value.index == index:
            raise value.exception
    return results


def _results(futures: Sequence[Future[Any]]) -> list[Any]:
    wait(futures)
    return [future.result() for future in futures]
