"""`PoolExecutor`: the pools behind the interface of `concurrent.futures`."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from concurrent.futures.thread import BrokenThreadPool
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from ..background.futures import Submissions, SubmitQueues
from ..background.jobs import ENGINE, Job, snapshot, start
from ..engine.plan import plan
from ..errors import IN_INITIALIZER, StaysHere, WorkerDied
from ..options import Resolver
from ..place.attributes import attribute
from ..place.nesting import nesting
from ..place.sigint import by_a_handler

__all__ = ["BrokenPool", "BrokenWorker", "PoolExecutor"]

if TYPE_CHECKING:
    from ..options import BackendName, PoolOptions

R = TypeVar("R")


class BrokenPool(BrokenProcessPool, BrokenThreadPool):
    """An executor whose initializer fails; a ``BrokenExecutor`` of either kind."""


class BrokenWorker(WorkerDied, BrokenProcessPool):
    """:class:`WorkerDied`, as it comes out of an executor: also a ``BrokenProcessPool``."""


class PoolExecutor(Executor):
    """The pools of parallelkit as a ``concurrent.futures.Executor``.

    Parameters
    ----------
    max_workers : int, optional
        How many work at a time; by default the share of the cores.
    backend : {"process", "thread", "serial", "auto"}
    mp_context : multiprocessing context, optional
        Its start method counts, as for ``ProcessPoolExecutor``.
    max_tasks_per_child : int, optional
        The option ``tasks_per_worker``, as ``ProcessPoolExecutor`` calls it.
    **options
        All other options of :class:`Pool`: ``initializer``, ``initargs``, ``timeout``,
        ``retries``, ``memory_limit``, ...

    Raises
    ------
    ValueError, TypeError
        For a bad value or an unknown option.

    Notes
    -----
    A worker that dies costs the future that it ran: that gets a :class:`WorkerDied` which is a
    ``BrokenProcessPool`` too, and the executor goes on with another worker. An initializer that
    fails breaks the executor: all futures get a ``BrokenExecutor``, and so does who submits.

    After `shutdown` the workers stay warm, for the next pool or executor with the same settings.

    Examples
    --------
    >>> import parallelkit as pk
    >>> with pk.PoolExecutor(2) as executor:
    ...     future = executor.submit(pow, 2, 5)
    ...     list(executor.map(pow, [1, 2, 3], [2, 2, 2])), future.result()
    ([1, 4, 9], 32)
    """

    def __init__(
        self,
        max_workers: int | None = None,
        backend: BackendName | Executor | None = None,
        *,
        mp_context: Any = None,
        max_tasks_per_child: int | None = None,
        **options: Unpack[PoolOptions],
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0; None means all cores")
        given = {
            "workers": max_workers,
            "backend": backend,
            "start_method": mp_context and mp_context.get_start_method(),
            "tasks_per_worker": max_tasks_per_child,
        }
        named = {name: value for name, value in given.items() if value is not None}
        self._resolve = Resolver({**named, **options})
        self._health = _Health()
        self._queues = SubmitQueues(self._resolve, self._health.translate, _open.add)
        self._jobs: weakref.WeakSet[Job] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._down = False

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Start one call of `fn`.

        Returns
        -------
        concurrent.futures.Future
            Of its result. A call that has not been sent to a worker can be cancelled.

        Raises
        ------
        RuntimeError
            After `shutdown`, or when Python is about to end.
        BrokenExecutor
            If the initializer has failed.
        """
        if not callable(fn):
            raise TypeError(f"the function must be callable, not {fn!r}")
        with self._lock:
            self._check()
            stream = self._queues.here()
        return stream.put(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., R],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[R]:
        """Call `fn` with the elements of `iterables`; return an iterator over the results.

        Parameters
        ----------
        fn : callable
        *iterables : iterable
            Drawn at once, up to the end of the shortest.
        timeout : float, optional
            Seconds from now until the last result.
        chunksize : int, optional
            Items that a worker process gets at a time; by default it adapts to what they take.
            Items that wait for later ones want 1. Threads always take one at a time.
        buffersize : int, optional
            How many chunks may be under way or done ahead of what has been taken; the input is
            then drawn as results are taken.

        Returns
        -------
        iterator
            In input order. An error, a timeout, or its end cancels what has not been begun.

        Raises
        ------
        TimeoutError
            From the iterator.
        ValueError, TypeError
            For a bad `chunksize` or `buffersize`.

        Examples
        --------
        >>> import parallelkit as pk
        >>> with pk.PoolExecutor(2) as executor:
        ...     sum(executor.map(abs, range(-1000, 0)))
        500500
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        _check_size("chunksize", chunksize)
        _check_size("buffersize", buffersize)
        if not callable(fn):
            raise TypeError(f"the function must be callable, not {fn!r}")
        options = self._resolve()
        if plan(options, nesting()).backend not in ENGINE:
            rows = zip(*iterables, strict=False)
            return self._through_futures(fn, rows, deadline, buffersize, timeout)
        if buffersize is not None:
            chunks = _chunks(zip(*iterables, strict=False), chunksize or 1)
            work = partial(_run_chunk, fn)
            return _flat(self._through_futures(work, chunks, deadline, buffersize, timeout))
        columns = snapshot(iterables)
        if not columns:
            return iter(())
        with self._lock:
            self._check()
        options = self._resolve.of_call().but(chunksize=chunksize)
        translate = self._health.translate
        job = start(fn, columns, options, self._queues, ordered=True, translate=translate)
        self._jobs.add(job)
        _open.add(job)
        return _taken(job, deadline, timeout)

    def _through_futures(
        self,
        fn: Callable[..., Any],
        rows: Iterator[tuple[Any, ...]],
        deadline: float | None,
        buffersize: int | None,
        timeout: float | None,
    ) -> Iterator[Any]:
        futures = deque(self.submit(fn, *row) for row in islice(rows, buffersize))
        if buffersize is None:
            rows = iter(())  # it may still refer to what it gave last
        more = weakref.ref(self)  # an executor that is dropped takes no more

        def results() -> Iterator[Any]:
            try:
                while futures:
                    executor = more()
                    if executor is not None:
                        futures.extend(executor.submit(fn, *row) for row in islice(rows, 1))
                    del executor
                    # No name here refers to what is yielded.
                    yield _result_or_cancel(futures.popleft(), deadline, timeout)
            finally:
                for future in futures:
                    future.cancel()

        return results()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; those that were submitted are done, as long as Python runs.

        Parameters
        ----------
        wait : bool
            Whether to return only when all of them are done.
        cancel_futures : bool
            Whether to cancel those that have not been begun. One that waits to be tried again has
            its last attempt at once.
        """
        with self._lock:
            self._down = True
        streams, jobs = self._queues.all(), list(self._jobs)
        for stream in streams:
            if cancel_futures:
                stream.cancel_queued()
            stream.close_soon()
        for job in jobs:
            if cancel_futures and job.alive:
                job.cancel()
        if wait:
            for job in jobs:
                job.join()
            for stream in streams:
                stream.join()

    @property
    def workers(self) -> int:
        """How many work at a time."""
        return plan(self._resolve(), nesting()).workers

    # By these names other libraries ask an executor, or a pool, how many work for it.
    size = _processes = _max_workers = workers

    def _check(self) -> None:
        if self._health.broken is not None:
            raise self._health.broken
        if self._down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if _ending:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def __repr__(self) -> str:
        options = self._resolve()
        state = ", shut down" if self._down else ""
        workers, backend = options.workers, options.backend
        return f"<parallelkit.PoolExecutor max_workers={workers}, backend={backend!r}{state}>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise StaysHere(
            "an executor cannot be sent to a worker; make one there, or use pk.map inside"
        )


class _Health:
    """Turns errors into those of `concurrent.futures`, and remembers what breaks an executor."""

    def __init__(self) -> None:
        self.broken: BrokenPool | None = None

    def translate(self, error: BaseException) -> BaseException:
        """Error for a future."""
        if IN_INITIALIZER in attribute(error, "__notes__", ()):
            self.broken = BrokenPool(f"no call can be run, since the initializer fails: {error!r}")
            self.broken.__cause__ = error
            return self.broken
        if type(error) is not WorkerDied:
            return error
        told = BrokenWorker(*error.args)
        told.__cause__ = error.__cause__
        for note in attribute(error, "__notes__", ()):
            told.add_note(note)
        return told


# --- map ----------------------------------------------------------------------------------------


def _check_size(name: str, size: int | None) -> None:
    if size is None:
        return
    if not hasattr(size, "__index__"):
        raise TypeError(f"{name} must be a whole number or None, not {size!r}")
    if size < 1:
        raise ValueError(f"{name} must be at least 1, not {size}")


def _taken(job: Job, deadline: float | None, timeout: float | None) -> Iterator[Any]:
    try:
        while job.more(_left(deadline), timeout):
            yield job.pop()
    finally:
        job.cancel()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _result_or_cancel(future: Future[Any], deadline: float | None, timeout: float | None) -> Any:
    try:
        return future.result(_left(deadline))
    except TimeoutError as error:
        if future.done() or by_a_handler(error):  # then it is an error of the call, or of nobody
            raise
        raise TimeoutError(f"no result within {timeout} seconds") from None
    finally:
        future.cancel()
        del future  # whose exception refers to this frame


def _chunks(rows: Iterator[Any], size: int) -> Iterator[tuple[list[Any]]]:
    while chunk := list(islice(rows, size)):
        yield (chunk,)


def _run_chunk(fn: Callable[..., Any], rows: list[tuple[Any, ...]]) -> list[Any]:
    return [fn(*row) for row in rows]


def _flat(chunks: Iterator[list[Any]]) -> Iterator[Any]:
    for chunk in chunks:
        chunk.reverse()
        while chunk:
            yield chunk.pop()


# --- the end of Python --------------------------------------------------------------------------

_open: weakref.WeakSet[Submissions | Job] = weakref.WeakSet()
_ending = False


def _finish() -> None:
    """Let what was submitted come to its end before Python does."""
    global _ending
    _ending = True
    for each in list(_open):
        if isinstance(each, Submissions):
            each.close_soon()
        each.join()


# Not `atexit`, whose functions are called after Python has ended what threads depend on.
threading._register_atexit(_finish)  # type: ignore[attr-defined]
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open.clear)
