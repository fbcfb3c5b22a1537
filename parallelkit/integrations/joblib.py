"""joblib on parallelkit's workers: what is written for joblib, scikit-learn too, runs here.

Importing this module registers two backends::

    joblib.parallel_config(backend="parallelkit", n_jobs=2)           processes
    joblib.parallel_config(backend="parallelkit-threads", n_jobs=2)   threads

How a batch of tasks travels::

    Parallel ─► submit ─► BatchPickler ─► Pool.submit ─► worker ─► Future ─► joblib's callback
       ▲                  (large arrays of the call                             │
       │                   once, see `arrays_once`)                             │
       └───────────── retrieval_context: wakes when the last one is done ◄──────┘
"""

from __future__ import annotations

import copy
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

try:
    from joblib.externals.loky.process_executor import TerminatedWorkerError
    from joblib.parallel import (
        AutoBatchingMixin,
        FallbackToBackend,
        ParallelBackendBase,
        SequentialBackend,
        register_parallel_backend,
    )
except ImportError as error:
    raise ImportError(
        f"parallelkit.integrations.joblib needs joblib: pip install 'parallelkit[joblib]' ({error})"
    ) from error

from ..api import Pool
from ..errors import ParallelError, RemoteTraceback, WorkerDied, assign, note
from ..options import Giver
from ..place import blas
from ..place.attributes import attribute
from ..place.nesting import GivenUp, given_up, nesting, pool_cores, process_cores, room
from ..values.outcome import short
from ..worker.task import format_error
from .arrays_once import Once, Packed

__all__ = ["ParallelkitBackend", "ParallelkitThreadsBackend", "TerminatedWorker"]

# What joblib hands to every backend, and its own ones need.
_JOBLIBS = ("context", "idle_worker_timeout", "mmap_mode", "verbose")
_THREADS = tuple(name for name in blas.VARIABLES if name.endswith("_NUM_THREADS"))
# Options of a Pool that do not go with the way in which joblib cuts its input.
_REFUSED = {
    "backend": "choose the backend by its name",
    "chunksize": "use Parallel(batch_size=...)",
    "on_error": "catch the error in the function",
    "progress": "use Parallel(verbose=...)",
    "strict": "joblib takes one list of tasks",
    "timeout": "use Parallel(timeout=...)",
    "workers": "use n_jobs=",
}


class TerminatedWorker(WorkerDied, TerminatedWorkerError):  # type: ignore[misc]
    """A worker ended in the middle of a task: an error of both libraries.

    It is caught as :class:`parallelkit.WorkerDied`, as loky's ``TerminatedWorkerError``, and as
    ``concurrent.futures.process.BrokenProcessPool``.
    """


class _PoolBackend(ParallelBackendBase):  # type: ignore[misc]
    """What the two backends share: a pool from `configure` to `terminate`."""

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    kind = "process"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parallel: Any = None
        self._forget()

    def _forget(self) -> None:
        """Be as new."""
        self._pool: Pool | None = None
        self._giver = Giver()
        self._options: dict[str, Any] = {}
        self._given_up: Callable[[], bool] | None = None
        self._once: Once | None = None
        self._pending = 0
        self._idle = threading.Event()
        self._lock = threading.Lock()
        self._telling = threading.local()

    # --- what joblib asks ------------------------------------------------------------------

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Tasks that run at a time; negative numbers count from this level's share of the cores.

        What is asked for is granted, except in calls within calls within tasks: those get no more
        than their share, so that threads of threads do not multiply.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        here = nesting()
        if n_jobs < 0:
            return max(here.cores + 1 + n_jobs, 1)
        return n_jobs if here.level < 2 else min(n_jobs, here.cores)

    def get_nested_backend(self) -> tuple[ParallelBackendBase, int | None]:
        """Backend for calls inside the tasks: our threads; they know their share of the cores."""
        level = 0 if self.nesting_level is None else self.nesting_level
        return ParallelkitThreadsBackend(nesting_level=level + 1), None

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,  # noqa: ARG002 - a hint between backends, not within one
        require: str | None = None,  # noqa: ARG002 - joblib has seen to it
        **options: Any,
    ) -> int:
        """Get ready for calls of `parallel`; return the number of workers."""
        # As many as there are cores: inside an item that changes while the call runs.
        most = max(pool_cores(), process_cores()) if n_jobs == -1 and room() is not None else 1
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == most == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if self._pool is not None and parallel is not self.parallel:
            # Another Parallel is at work with this object, as its generators may be.
            twin = copy.copy(self)
            twin._forget()  # noqa: SLF001 - of its own kind
            raise FallbackToBackend(twin)
        self.parallel = parallel
        own = not {"initializer", "initargs"} & options.keys()
        options = {**self.backend_kwargs, **options}
        once_from = options.pop("max_nbytes", 1 << 20)
        self._options = {"backend": self.kind, **self._pool_options(options)}
        if most == 1:
            self._options["workers"] = n_jobs
        self._given_up = given_up()
        self._pool = Pool(**self._options)
        if own:  # one Parallel after the other finds the workers warm
            self._pool._resolve.giver = self._giver  # noqa: SLF001
        pickles = self.kind == "process" and nesting().level == 0  # else it becomes threads
        self._once = Once(once_from, self._options.get("temp_folder")) if pickles else None
        return max(n_jobs, most)

    def _pool_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options of our pool among those that joblib or the user gave."""
        for name, instead in _REFUSED.items():
            if name in options:
                raise TypeError(f"{name}= is no option of this backend: {instead}")
        chosen = {k: v for k, v in options.items() if k not in _JOBLIBS and v is not None}
        if "temp_folder" in chosen:
            os.makedirs(chosen["temp_folder"], exist_ok=True)
        threads = self.inner_max_num_threads or _threads_of_environment()
        if threads is not None:
            chosen.setdefault("blas_threads", threads)
        return chosen

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None
    ) -> Future[Any]:
        """Start a batch of tasks."""
        with self._lock:
            self._pending += 1
            self._idle.clear()
        future = self._started(func)
        future.add_done_callback(lambda done: self._tell(done, callback))
        return future

    def _started(self, func: Callable[[], Any]) -> Future[Any]:
        # An error must come by the future: joblib may call this in a thread of the pool.
        try:
            pool, once = self._pool, self._once
            if pool is None:
                raise ParallelError("the call of Parallel that this task belongs to is over")
            if self._given_up is not None and self._given_up():
                raise GivenUp
            return pool.submit(_work, func if once is None else Packed(func, once))
        except (Exception, GivenUp) as error:  # noqa: BLE001 - whatever it is, joblib raises it
            future: Future[Any] = Future()
            future.set_exception(error)
            return future

    def _tell(self, future: Future[Any], callback: Callable[[Any], Any] | None) -> None:
        """Tell joblib that a batch is done; it then submits the next, which may be done at once.

        Its end is told when the telling of the first is over: one within the other, as many as
        there are batches, they would be too deep a recursion.
        """
        if getattr(self._telling, "queue", None) is not None:
            self._telling.queue.append((future, callback))
            return
        queue = self._telling.queue = deque([(future, callback)])
        try:
            while queue:
                self._on_done(*queue.popleft())
        finally:
            self._telling.queue = None

    def _on_done(self, future: Future[Any], callback: Callable[[Any], Any] | None) -> None:
        try:
            if callback is not None:
                callback(future)  # submits what comes next
        finally:
            with self._lock:
                self._pending -= 1
                # The second is what joblib's own loop looks at.
                if not self._pending or getattr(self.parallel, "_aborting", True):
                    self._idle.set()

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Wait for all tasks before joblib, which looks every 10 ms, begins to wait for them."""
        parallel = self.parallel
        if parallel is not None and not parallel.return_generator and parallel.timeout is None:
            while self._pending and not getattr(parallel, "_aborting", True):
                self._idle.wait()
        yield

    def retrieve_result_callback(self, future: Future[Any]) -> Any:
        """Results of a batch, or the error of its first task that failed."""
        try:
            return future.result()
        except WorkerDied as error:
            raise TerminatedWorker(*error.args) from error
        except BaseException as error:
            _drop_index(error)
            if error.__cause__ is None:  # joblib takes the traceback away
                assign(error, __cause__=RemoteTraceback(format_error(error)))
            raise

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End what runs; the workers are fit for the next call."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()
        if ensure_ready:
            self._pool = Pool(**self._options)

    def terminate(self) -> None:
        """End the call; the workers stay warm."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
        self._once = None

    def __getstate__(self) -> dict[str, Any]:
        """All but what belongs to the calls of this process."""
        own = (
            *("parallel", "_pool", "_options", "_given_up", "_once", "_giver"),
            *("_pending", "_idle", "_lock", "_telling"),
        )
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.parallel = None
        self._forget()


class ParallelkitBackend(AutoBatchingMixin, _PoolBackend):  # type: ignore[misc]
    """joblib's tasks in our worker processes, under the name ``"parallelkit"``.

    Parameters
    ----------
    nesting_level, inner_max_num_threads
        As of any backend of joblib.
    **backend_kwargs
        Options of :class:`parallelkit.Pool`: ``start_method``, ``initializer``, ``initargs``,
        ``tasks_per_worker``, ``memory_limit``, ``retries``, ``retry_on``, ``temp_folder``.

    Examples
    --------
    >>> import joblib
    >>> import parallelkit.integrations.joblib
    >>> with joblib.parallel_config(backend="parallelkit", n_jobs=2, retries=1):
    ...     joblib.Parallel()(joblib.delayed(pow)(2, n) for n in range(4))
    [1, 2, 4, 8]
    """

    def terminate(self) -> None:
        """End the call; the workers stay warm."""
        super().terminate()
        self.reset_batch_stats()


class ParallelkitThreadsBackend(_PoolBackend):
    """joblib's tasks in our threads, under the name ``"parallelkit-threads"``.

    Examples
    --------
    >>> import joblib
    >>> import parallelkit.integrations.joblib
    >>> with joblib.parallel_config(backend="parallelkit-threads", n_jobs=2):
    ...     joblib.Parallel()(joblib.delayed(pow)(2, n) for n in range(4))
    [1, 2, 4, 8]
    """

    kind = "thread"
    uses_threads = True
    supports_sharedmem = True


def _threads_of_environment() -> int | None:
    """Threads of numerical libraries that the user's environment asks for; joblib honours it.

    Below the first level the environment says what is ours.
    """
    for name in _THREADS if nesting().level == 0 else ():
        text = os.environ.get(name, "")
        if text.isdecimal() and int(text) > 0:
            return int(text)
    return None


# --- in a worker ------------------------------------------------------------------------------


class _Tasks:
    """The tasks of a batch, that remember which one is running."""

    def __init__(self, items: list[tuple[Any, ...]]) -> None:
        self._items = items
        self.running: tuple[Any, ...] = ()

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for item in self._items:
            self.running = item
            yield item


def _work(batch: Any) -> Any:
    """Run a batch; an error tells which of its tasks it comes from."""
    items = getattr(batch, "items", None)
    if not isinstance(items, list):
        return batch()
    batch.items = tasks = _Tasks(items)
    try:
        return batch()
    except Exception as error:
        _note(error, tasks.running)
        raise
    finally:
        batch.items = items


def _note(error: Exception, task: tuple[Any, ...]) -> None:
    try:
        func, args, kwargs = task
        name = getattr(func, "__qualname__", type(func).__name__)
        told = [*map(short, args), *(f"{k}={short(v)}" for k, v in kwargs.items())]
        note(error, f"in the task {name}({', '.join(told)})")
    except Exception:  # noqa: BLE001 - an exception class, or a __repr__, may raise anything
        pass


def _drop_index(error: BaseException) -> None:
    """Take away what the pool says of the item: a batch is none that the user knows."""
    notes = attribute(error, "__notes__")
    if notes and notes[-1].startswith("in item "):
        notes.pop()


register_parallel_backend("parallelkit", ParallelkitBackend)
register_parallel_backend("parallelkit-threads", ParallelkitThreadsBackend)
