"""Any ``concurrent.futures.Executor`` as a backend: of the standard library, loky, MPI, Dask, ...

The executor is its owner's: it is neither configured nor ended here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from typing import Any

from ..errors import ParallelError
from ..options import Options
from ..place import host
from ..worker.parcel import Parcel
from .cluster import AGAIN, outcome
from .futures import FuturesPool

__all__ = ["ExecutorCluster", "pool_for", "prepare", "reach"]

NEAR = 3.0  # how much longer a message takes than to a process of ours
FAR = 10.0


class ExecutorCluster:
    """An executor, with what can be asked of it.

    Parameters
    ----------
    executor : Executor
    """

    one_each = False
    demand = 0.0

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.shares_memory = isinstance(executor, ThreadPoolExecutor) and not _elsewhere(executor)
        self.name = f"the executor {type(executor).__name__}"

    def slots(self) -> int:
        """As many workers as the executor says that it has."""
        executor: Any = self._executor
        client: Any = getattr(executor, "_client", None)
        if hasattr(client, "scheduler_info"):  # Dask's
            return sum(client.nthreads().values())
        for name in ("_max_workers", "max_workers", "num_workers"):
            number = getattr(executor, name, None)
            if isinstance(number, int) and number > 0:
                return number
        view = getattr(executor, "view", None)  # ipyparallel's
        ids = getattr(getattr(view, "client", None), "ids", None)
        return len(ids) if ids else host.cpu_count()

    def put(self, parcel: Parcel) -> None:
        """There is no place: what an order needs goes with it where it is asked for."""

    def there(self, handle: Any) -> bool:  # noqa: ARG002
        """Nothing was put anywhere."""
        return True

    def submit(self, name: str, func: Callable[..., Any], *args: Any) -> Future[Any]:  # noqa: ARG002
        """Start a call."""
        return self._executor.submit(func, *args)

    def collect(self, futures: Sequence[Future[Any]]) -> list[Any]:
        """Results, or errors, of futures that are done."""
        return [outcome(future) for future in futures]

    def cancel(self, futures: Sequence[Future[Any]]) -> None:
        """Give up what has not begun."""
        if type(self._executor).__module__.startswith("executorlib"):
            return  # a future that is cancelled ends the thread that serves all others (1.11)
        for future in futures:
            future.cancel()

    def check(self) -> None:
        """What there is to say comes by the futures."""

    def verdict(self, error: BaseException) -> str | BaseException:
        """An executor of which a worker has died is broken, and takes no more calls."""
        if isinstance(error, BrokenExecutor):
            return ParallelError(
                f"{self.name} is broken: one of its workers ended abruptly, and it runs nothing "
                "any more; make a new one. (Pools with backend='process' go on, and name the item)"
            )
        if isinstance(error, CancelledError):
            return ParallelError(f"{self.name} was shut down, or has cancelled what it was given")
        if isinstance(error, RuntimeError) and "shutdown" in str(error):
            return ParallelError(f"{self.name} has been shut down; give one that still runs")
        if isinstance(error, (EOFError, ConnectionError)):
            return AGAIN
        told = f"{self.name} could not run a chunk: {type(error).__name__}: {error}"
        if "crashed" in told:  # executorlib's all that is told, also where workers lack a module
            told += "; what its workers print tells why. Do they have parallelkit?"
        return ParallelError(told)


def _elsewhere(executor: Executor) -> bool:
    """Whether what looks like threads is more, as an interpreter for each (3.14)."""
    return type(executor).__name__ == "InterpreterPoolExecutor"


def reach(options: Options) -> tuple[int, float, bool]:
    """How many slots there are, how far away they are, and whether they share our memory."""
    cluster = ExecutorCluster(options.backend)  # type: ignore[arg-type]
    if cluster.shares_memory:
        return cluster.slots(), 1.0, True
    near = type(options.backend).__module__.startswith(("concurrent.", "loky", "joblib"))
    return cluster.slots(), NEAR if near else FAR, False


def pool_for(options: Options, workers: int, level: int, wished: bool) -> FuturesPool:  # noqa: ARG001 - as all backends
    """Pool for one call."""
    cluster = ExecutorCluster(options.backend)  # type: ignore[arg-type]
    pace = reach(options)[1]
    return FuturesPool(cluster, workers if wished else None, options, pace)


def prepare(options: Options, _: object = None) -> None:
    """Nothing has to be there before the first call."""
