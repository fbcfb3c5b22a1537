"""What people type: `Pool`, and its methods as functions."""

from __future__ import annotations

import threading
import weakref
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
    overload,
)

from .engine import run as engine
from .engine.plan import plan
from .errors import ParallelError
from .options import UNSET, Options, Resolver, Unset
from .place.nesting import nesting
from .values.call import Call, apply_call, apply_row, refuse_options
from .values.source import Source

__all__ = ["Pool", "imap", "map", "parallel", "run", "starmap", "uimap"]

A = TypeVar("A")
B = TypeVar("B")
P = ParamSpec("P")
R = TypeVar("R")

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future
    from typing import Never

    from typing_extensions import TypeVar as _TypeVar

    from .background.futures import SubmitQueues
    from .options import BackendName, OtherOptions, PoolOptions
    from .values.outcome import Failure

    # What stands among results in the place of one: a Failure with on_error="return", else nothing.
    E_co = _TypeVar("E_co", covariant=True, default=Never)
    Workers = int | Literal["fair"] | Unset | None
    Backend = BackendName | Executor | Unset | None

    # Elements are checked as those of Python's own `map` are. What follows them is not: an `rng`
    # is given by nobody. (mypy infers lambdas from the first of the two, which says the same.)
    One = Callable[[A], R] | Callable[Concatenate[A, ...], R]
    Two = Callable[[A, B], R] | Callable[Concatenate[A, B, ...], R]
    Any_ = Iterable[Any]
    AnyAsync = Iterable[Any] | AsyncIterable[Any]
else:
    E_co = TypeVar("E_co", covariant=True)


class Pool(Generic[E_co]):
    """Options for calls, and the calls.

    A pool is a light handle: workers start with the first call that needs them, are kept warm
    and shared by all pools with the same settings, and end with :func:`shutdown` or the process.
    A pool that is given an ``initializer`` has workers of its own.
    It may be used by several threads at once.

    Parameters
    ----------
    workers : int, optional
        How many work at a time; by default this level's share of the cores. -1 means all cores,
        -2 all but one. With one, items run in place, in this process, unless the pool names its
        backend or start method, or asks for what only a process can have (``timeout``,
        ``memory_limit``, ``tasks_per_worker``, ``initializer``, ``finalizer``, ``devices``).
        ``"fair"``: this program's part of them, beside other programs of the same
        user that ask for the same.
    backend : {"process", "thread", "serial", "auto", "dask", "ray"} or Executor
        ``"auto"`` takes processes where threads share one interpreter lock, else threads.
        ``"dask"`` and ``"ray"`` run items on a cluster, and so does any executor of
        `concurrent.futures`; see *Beyond one machine* in the documentation.
    **options
        ``progress``, ``on_error``, ``timeout``, ``retries``, ``retry_on``, ``retry_wait``,
        ``chunksize``, ``start_method``, ``initializer``, ``initargs``, ``finalizer``,
        ``devices``, ``tasks_per_worker``, ``memory_limit``,
        ``max_nbytes``, ``temp_folder``, ``strict``, ``seed``, ``same_each_call``, ``nested``,
        ``blas_threads``, ``prefer``, ``library``, ``address``, ``upload``, ``idle``,
        ``preload``; see *Options* in the documentation. What is not given, or is ``pk.UNSET``,
        comes from :class:`configure`, from ``PARALLELKIT_*`` variables, or is its default; None is
        the default of each but ``idle``.

        The ``initializer`` runs anew for each pool: in each worker process before its first item,
        and in a thread when a call begins to use it, unless it is the last initializer that has
        run, both in that thread and in its process.

    Raises
    ------
    TypeError, ValueError
        For an unknown option (with the nearest name) or a bad value.

    Examples
    --------
    >>> import parallelkit as pk
    >>> with pk.Pool(workers=2) as pool:
    ...     pool.map(pow, [1, 2, 3], [2, 2, 2])
    [1, 4, 9]
    """

    # The usual one first: of options in a dictionary type checkers take the first that may be.
    @overload
    def __init__(
        self: Pool[Never],
        workers: Workers = UNSET,
        backend: Backend = UNSET,
        *,
        on_error: Literal["raise", "skip"] | Unset | None = UNSET,
        **options: Unpack[OtherOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Pool[Failure],
        workers: Workers = UNSET,
        backend: Backend = UNSET,
        *,
        on_error: Literal["return"],
        **options: Unpack[OtherOptions],
    ) -> None: ...
    def __init__(
        self, workers: Workers = UNSET, backend: Backend = UNSET, **options: Unpack[PoolOptions]
    ) -> None:
        self._resolve = Resolver({"workers": workers, "backend": backend, **options})
        self._closed = False
        self._ended: ParallelError | None = None  # what calls get that were not done
        self._sources: weakref.WeakSet[Source] = weakref.WeakSet()
        # Made by the first `submit`, which imports what it needs.
        self._queues: SubmitQueues | None = None
        self._lock = threading.RLock()

    @overload
    def map(self, func: One[A, R], a: Iterable[A], /, **frozen: Any) -> list[R | E_co]: ...
    @overload
    def map(
        self, func: Two[A, B, R], a: Iterable[A], b: Iterable[B], /, **frozen: Any
    ) -> list[R | E_co]: ...
    @overload
    def map(
        self, func: Callable[..., R], a: Any_, b: Any_, c: Any_, /, *more: Any_, **frozen: Any
    ) -> list[R | E_co]: ...
    def map(
        self, func: Callable[..., R], /, *iterables: Iterable[Any], **frozen: Any
    ) -> list[R | E_co]:
        """Call `func` with the elements of `iterables`; see :func:`parallelkit.map`."""
        return engine.gather(_call(func, iterables, frozen), self._options(), self._watch)

    @overload
    def imap(
        self, func: One[A, R], a: Iterable[A], /, **frozen: Any
    ) -> Generator[R | E_co, None, None]: ...
    @overload
    def imap(
        self, func: Two[A, B, R], a: Iterable[A], b: Iterable[B], /, **frozen: Any
    ) -> Generator[R | E_co, None, None]: ...
    @overload
    def imap(
        self, func: Callable[..., R], a: Any_, b: Any_, c: Any_, /, *more: Any_, **frozen: Any
    ) -> Generator[R | E_co, None, None]: ...
    def imap(
        self, func: Callable[..., R], /, *iterables: Iterable[Any], **frozen: Any
    ) -> Generator[R | E_co, None, None]:
        """The same as a lazy iterator; see :func:`parallelkit.imap`."""
        call = _call(func, iterables, frozen)
        return engine.stream(call, self._options(), self._watch, ordered=True)

    @overload
    def uimap(
        self, func: One[A, R], a: Iterable[A], /, **frozen: Any
    ) -> Generator[R | E_co, None, None]: ...
    @overload
    def uimap(
        self, func: Two[A, B, R], a: Iterable[A], b: Iterable[B], /, **frozen: Any
    ) -> Generator[R | E_co, None, None]: ...
    @overload
    def uimap(
        self, func: Callable[..., R], a: Any_, b: Any_, c: Any_, /, *more: Any_, **frozen: Any
    ) -> Generator[R | E_co, None, None]: ...
    def uimap(
        self, func: Callable[..., R], /, *iterables: Iterable[Any], **frozen: Any
    ) -> Generator[R | E_co, None, None]:
        """The same in the order in which items finish; see :func:`parallelkit.uimap`."""
        call = _call(func, iterables, frozen)
        return engine.stream(call, self._options(), self._watch, ordered=False)

    def map_blocks(
        self,
        func: Callable[..., Any],
        /,
        *arrays: Any,
        axis: int = 0,
        blocks: int | Sequence[int] | None = None,
        outer: bool = False,
        out: Any = None,
        **frozen: Any,
    ) -> Any:
        """Call `func` on blocks of arrays, with the options of this pool.

        See :func:`parallelkit.map_blocks`. Errors are raised whatever `on_error` says, and blocks
        travel one at a time. With a seed a function that has a parameter ``rng`` gets a stream for
        each block, and the number of blocks does not depend on the number of workers.

        Examples
        --------
        >>> import numpy as np
        >>> import parallelkit as pk
        >>> with pk.Pool(2, seed=1) as pool:
        ...     noise = pool.map_blocks(lambda x, rng: x + rng.random(x.shape), np.zeros(100))
        >>> noise.shape
        (100,)
        """
        from .blocks import blocks_with

        how = (axis, blocks, outer, out)
        return blocks_with(self._options(), self._watch, func, arrays, how, frozen)

    def starmap(
        self,
        func: Callable[..., R],
        rows: Iterable[Iterable[Any] | Mapping[str, Any]],
        /,
        **frozen: Any,
    ) -> list[R | E_co]:
        """Call `func` with the elements of each row; see :func:`parallelkit.starmap`."""
        if not callable(func):
            raise TypeError(f"the function must be callable, not {func!r}")
        return self.map(partial(apply_row, func), rows, **frozen)

    def run(self, calls: Iterable[Callable[[], R]]) -> list[R | E_co]:
        """Run calls made by :func:`delayed`; see :func:`parallelkit.run`."""
        return self.map(apply_call, calls)

    @overload
    def amap(self, func: One[A, R], a: Iterable[A], /, **frozen: Any) -> Future[list[R | E_co]]: ...
    @overload
    def amap(
        self, func: Two[A, B, R], a: Iterable[A], b: Iterable[B], /, **frozen: Any
    ) -> Future[list[R | E_co]]: ...
    @overload
    def amap(
        self, func: Callable[..., R], a: Any_, b: Any_, c: Any_, /, *more: Any_, **frozen: Any
    ) -> Future[list[R | E_co]]: ...
    def amap(
        self, func: Callable[..., R], /, *iterables: Iterable[Any], **frozen: Any
    ) -> Future[list[R | E_co]]:
        """Start :meth:`map` in the background.

        The function, the arguments and what they refer to are read as workers take the items:
        change nothing of that until the result is there.

        Returns
        -------
        concurrent.futures.Future
            Of the list.

        Examples
        --------
        >>> import parallelkit as pk
        >>> with pk.Pool(2) as pool:
        ...     future = pool.amap(abs, [-1, -2])
        ...     future.result()
        [1, 2]
        """
        options, call = self._options(), _call(func, iterables, frozen)
        from .background.futures import in_thread

        engine.begin(options, func)
        limited = nesting().level > 0 and options.workers is None
        return in_thread(lambda: engine.gather(call, options, self._watch), limited=limited)

    @overload
    def aimap(
        self, func: One[A, R], a: Iterable[A] | AsyncIterable[A], /, **frozen: Any
    ) -> AsyncIterator[R | E_co]: ...
    @overload
    def aimap(
        self,
        func: Two[A, B, R],
        a: Iterable[A] | AsyncIterable[A],
        b: Iterable[B] | AsyncIterable[B],
        /,
        **frozen: Any,
    ) -> AsyncIterator[R | E_co]: ...
    @overload
    def aimap(
        self,
        func: Callable[..., R],
        a: AnyAsync,
        b: AnyAsync,
        c: AnyAsync,
        /,
        *more: AnyAsync,
        **frozen: Any,
    ) -> AsyncIterator[R | E_co]: ...
    def aimap(
        self,
        func: Callable[..., R],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        **frozen: Any,
    ) -> AsyncIterator[R | E_co]:
        """:meth:`imap` for ``async for``: nothing of it blocks the event loop.

        Inputs may be asynchronous iterables. Closing it (``aclose``), dropping it, and cancelling
        the task that waits for it end the call: items that run are given up.

        Returns
        -------
        asynchronous iterator
            Over the results, in input order.

        Raises
        ------
        RuntimeError
            Outside of an event loop.

        Examples
        --------
        >>> import asyncio
        >>> import parallelkit as pk
        >>> async def main():
        ...     with pk.Pool(2) as pool:
        ...         return [result async for result in pool.aimap(abs, [-1, -2])]
        >>> asyncio.run(main())
        [1, 2]
        """
        from .background.aio import AsyncResults

        # Asynchronous inputs are made into ordinary ones before anything draws from them.
        inputs: tuple[Any, ...] = iterables
        return AsyncResults(_call(func, inputs, frozen), self._options(), self._watch)

    def submit(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Start one call of `func` in the background.

        The function, the arguments and what they refer to are read when a worker takes the call,
        as in other executors: change nothing of that until the result is there.

        Returns
        -------
        concurrent.futures.Future
            Of its result. A call that has not started can be cancelled.

        Examples
        --------
        >>> import parallelkit as pk
        >>> with pk.Pool(2) as pool:
        ...     pool.submit(pow, 2, 5).result()
        32
        """
        if not callable(func):
            raise TypeError(f"the function must be callable, not {func!r}")
        self._check_open()
        if kwargs:
            refuse_options(kwargs, func)
        if self._queues is None:
            from .background.futures import SubmitQueues

            with self._lock:
                if self._queues is None:  # another thread may have been first
                    self._queues = SubmitQueues(self._resolve)
        return self._queues.here().put(func, args, kwargs)

    def close(self) -> None:
        """Take no more calls; wait for what was submitted. Workers stay warm for other pools."""
        self._closed = True
        for stream in () if self._queues is None else self._queues.all():
            stream.join()

    def terminate(self) -> None:
        """Take no more calls, and end those that run: they fail with :class:`ParallelError`."""
        self._closed = True
        error = self._ended = ParallelError("the pool was terminated")
        with self._lock:
            sources = list(self._sources)
        for source in sources:
            source.abort(error)
        for stream in () if self._queues is None else self._queues.all():
            stream.abort(error)
            stream.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.terminate()

    def __repr__(self) -> str:
        options = self._resolve()
        state = ", closed" if self._closed else ""
        return f"<parallelkit.Pool workers={options.workers}, backend={options.backend!r}{state}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # As its options, so that methods of an object that has a pool can be mapped.
        own = self._resolve.own
        if not isinstance(own.get("backend", ""), str):  # an executor stays here: threads, as below
            own["backend"] = "thread"
        return _made, (own,)

    @property
    def workers(self) -> int:
        """How many work at a time in a call that is made here."""
        return plan(self._resolve(), nesting()).workers

    # By these names other libraries ask a pool how many work for it.
    size = _processes = _max_workers = workers

    def _watch(self, source: Source) -> None:
        with self._lock:
            self._sources.add(source)
        if self._ended is not None:  # by who may have looked just before
            source.abort(self._ended)

    def _options(self) -> Options:
        """Return the options for one call."""
        self._check_open()
        return self._resolve.of_call()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the pool is closed; make a new one, its workers are kept warm")


def _call(
    func: Callable[..., Any], iterables: tuple[Iterable[Any], ...], frozen: dict[str, Any]
) -> Call:
    """Make a call; refuse a keyword that its function has not, and that looks like an option."""
    call = Call(func, iterables, frozen)
    if frozen and call.inner is not None:
        refuse_options(frozen, call.inner)
    return call


def _made(options: dict[str, Any]) -> Pool[Any]:
    return Pool(**options)


_default = Pool()


@overload
def map(func: One[A, R], a: Iterable[A], /, **frozen: Any) -> list[R]: ...
@overload
def map(func: Two[A, B, R], a: Iterable[A], b: Iterable[B], /, **frozen: Any) -> list[R]: ...
@overload
def map(
    func: Callable[..., R], a: Any_, b: Any_, c: Any_, /, *more: Any_, **frozen: Any
) -> list[R]: ...
def map(func: Callable[..., R], /, *iterables: Iterable[Any], **frozen: Any) -> list[R]:
    """Call `func` with the elements of `iterables`, in parallel; return a list in input order.

    Parameters
    ----------
    func : callable
        Called as ``func(*elements, **frozen)``; any function, also a lambda or a method.
    *iterables : iterable
        One for each varying argument: lists, ranges, generators, arrays (along axis 0), ...
    **frozen
        Keywords that are the same for all items. They are sent once a call; an array that
        many calls use can be given to all workers once, by :func:`share`.

    Returns
    -------
    list
        Results in input order.

    Raises
    ------
    ValueError
        If sized inputs differ in length, or an iterator is shorter than a sized one.
    TypeError
        If `func` is not callable or an input cannot be iterated.
    TransportError
        If something cannot be pickled.
    WorkerDied
        If the process that ran an item ended.
    BaseException
        What an item raised, with a note that names the item. The first failure ends the call.

    Examples
    --------
    >>> import parallelkit as pk
    >>> pk.map(lambda x, y, p: x + y + p, [1, 2, 3], [4, 5, 6], p=200)
    [205, 207, 209]
    """
    return _default.map(func, *iterables, **frozen)


@overload
def imap(func: One[A, R], a: Iterable[A], /, **frozen: Any) -> Generator[R, None, None]: ...
@overload
def imap(
    func: Two[A, B, R], a: Iterable[A], b: Iterable[B], /, **frozen: Any
) -> Generator[R, None, None]: ...
@overload
def imap(
    func: Callable[..., R], a: Any_, b: Any_, c: Any_, /, *more: Any_, **frozen: Any
) -> Generator[R, None, None]: ...
def imap(
    func: Callable[..., R], /, *iterables: Iterable[Any], **frozen: Any
) -> Generator[R, None, None]:
    """:func:`map` as an iterator over the results, in input order.

    It is lazy on its input: never more than ``max(64 * workers, 4 * workers * chunksize)`` items
    are drawn ahead of what has been taken from it, where a chunksize that is not given adapts to
    about 25 ms of work and at most 8192 items. Where items or results are large, there are fewer:
    together they take 256 MB, but each worker has one. An iterator among the inputs is drawn by a
    thread of its own, so that one that waits (a live queue) does not hold results back; an
    exception that it raises is raised here, after the results before it.

    Closing it, or dropping the last reference to it, ends the call and frees the workers.

    Parameters
    ----------
    func : callable
        Called as ``func(*elements, **frozen)``; any function, also a lambda or a method.
    *iterables : iterable
        One for each varying argument. They may be endless.
    **frozen
        Keywords that are the same for all items.

    Returns
    -------
    iterator
        It has ``close()``.

    Raises
    ------
    BaseException
        What :func:`map` raises, in its place: after the results of the items before it.

    Examples
    --------
    >>> import itertools
    >>> import parallelkit as pk
    >>> squares = pk.imap(lambda x: x * x, itertools.count())
    >>> [next(squares) for _ in range(4)]
    [0, 1, 4, 9]
    >>> squares.close()
    """
    return _default.imap(func, *iterables, **frozen)


@overload
def uimap(func: One[A, R], a: Iterable[A], /, **frozen: Any) -> Generator[R, None, None]: ...
@overload
def uimap(
    func: Two[A, B, R], a: Iterable[A], b: Iterable[B], /, **frozen: Any
) -> Generator[R, None, None]: ...
@overload
def uimap(
    func: Callable[..., R], a: Any_, b: Any_, c: Any_, /, *more: Any_, **frozen: Any
) -> Generator[R, None, None]: ...
def uimap(
    func: Callable[..., R], /, *iterables: Iterable[Any], **frozen: Any
) -> Generator[R, None, None]:
    """:func:`imap` in the order in which the items finish.

    Parameters
    ----------
    func : callable
        Called as ``func(*elements, **frozen)``; any function, also a lambda or a method.
    *iterables : iterable
        One for each varying argument. They may be endless.
    **frozen
        Keywords that are the same for all items.

    Returns
    -------
    iterator
        It has ``close()``.

    Raises
    ------
    BaseException
        What :func:`map` raises, as soon as it is known.

    Examples
    --------
    >>> import parallelkit as pk
    >>> sorted(pk.uimap(abs, [-3, -1, -2]))
    [1, 2, 3]
    """
    return _default.uimap(func, *iterables, **frozen)


def starmap(
    func: Callable[..., R],
    rows: Iterable[Iterable[Any] | Mapping[str, Any]],
    /,
    **frozen: Any,
) -> list[R]:
    """Call `func` with the arguments in each row.

    Parameters
    ----------
    func : callable
        Any function, also a lambda or a method.
    rows : iterable
        Tuples (positional arguments) or dicts (keywords).
    **frozen
        Keywords that are the same for all rows.

    Returns
    -------
    list
        Results in input order.

    Raises
    ------
    TypeError
        If `rows` cannot be iterated, or a row is neither a dict nor iterable.
    BaseException
        What :func:`map` raises.

    Examples
    --------
    >>> import parallelkit as pk
    >>> pk.starmap(pow, [(2, 3), {"base": 3, "exp": 2}])
    [8, 9]
    """
    return _default.starmap(func, rows, **frozen)


def run(calls: Iterable[Callable[[], R]]) -> list[R]:
    """Run calls of functions that may differ; return their results in order.

    Parameters
    ----------
    calls : iterable of Delayed
        Made by :func:`delayed`.

    Returns
    -------
    list
        Results in the order of the calls.

    Raises
    ------
    BaseException
        What :func:`map` raises.

    Examples
    --------
    >>> from math import sqrt
    >>> import parallelkit as pk
    >>> pk.run(pk.delayed(sqrt)(i**2) for i in range(4))
    [0.0, 1.0, 2.0, 3.0]
    """
    return _default.run(calls)


@overload
def parallel(
    func: One[A, R], a: Iterable[A], /, *, show: bool = False, thread: bool = False, **frozen: Any
) -> list[R]: ...
@overload
def parallel(
    func: Two[A, B, R],
    a: Iterable[A],
    b: Iterable[B],
    /,
    *,
    show: bool = False,
    thread: bool = False,
    **frozen: Any,
) -> list[R]: ...
@overload
def parallel(
    func: Callable[..., R],
    a: Any_,
    b: Any_,
    c: Any_,
    /,
    *more: Any_,
    show: bool = False,
    thread: bool = False,
    **frozen: Any,
) -> list[R]: ...
def parallel(
    func: Callable[..., R],
    /,
    *iterables: Iterable[Any],
    show: bool = False,
    thread: bool = False,
    **frozen: Any,
) -> list[R]:
    """:func:`map` with two switches that are not keywords of `func`.

    Parameters
    ----------
    func, *iterables, **frozen
        As for :func:`map`.
    show : bool
        Show a progress bar.
    thread : bool
        Run on threads instead of processes.

    Returns
    -------
    list
        Results in input order.

    Raises
    ------
    BaseException
        What :func:`map` raises.

    Examples
    --------
    >>> import parallelkit as pk
    >>> pk.parallel(lambda x, p: x + p, [1, 2], p=10, thread=True)
    [11, 12]
    """
    options: dict[str, Any] = {"progress": show}
    if thread:
        options["backend"] = "thread"
    return Pool(**options).map(func, *iterables, **frozen)
