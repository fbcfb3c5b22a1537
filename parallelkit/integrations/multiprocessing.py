"""`multiprocessing.Pool`, its names and what they mean, on the workers of parallelkit.

>>> from parallelkit.integrations.multiprocessing import Pool
>>> with Pool(2) as pool:
...     pool.map(abs, [-1, -2]), pool.apply_async(pow, (2, 5)).get()
([1, 2], 32)

Unlike the original, it takes lambdas, closures and functions of ``__main__`` as they are now,
loses one item, not all, when a worker dies, and keeps its workers warm for the next pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Self

from .asynchronous import AsyncPool, AsyncResult, Timeout

__all__ = ["ApplyResult", "AsyncResult", "Pool", "ThreadPool", "TimeoutError"]

ApplyResult = AsyncResult
TimeoutError = Timeout  # noqa: A001 - the name that it has in `multiprocessing`


class Pool(AsyncPool):
    """A pool with the interface of ``multiprocessing.Pool``.

    Parameters
    ----------
    processes : int, optional
        By default the share of the cores.
    initializer : callable, optional
        Called once in each worker, with `initargs`. Workers then start with the pool, so that one
        which serves a queue does its work without any call.
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
        super().__init__(**own, **options)
        self._start()

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
        return self._mapping(func, (iterable,), chunksize)()

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
        future = self._later(self._mapping(func, (iterable,), chunksize))
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
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> Iterator[Any]:
        """Call `func` with each item; return an iterator over the results.

        The iterator has a method ``next(timeout)``. Items are run whether or not results are
        taken; an iterable that does not end is drawn at the pace of the workers. By default
        processes get as many items at a time as suits them (give 1 where items wait for later
        ones), and threads one.
        """
        return self._iterator(func, (iterable,), chunksize, ordered=True)

    def imap_unordered(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> Iterator[Any]:
        """:meth:`imap` in the order in which items finish."""
        return self._iterator(func, (iterable,), chunksize, ordered=False)

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()


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
