"""Ray as a backend: the cluster at an address, the one that is initialised, or one of this machine.

Large things are put into Ray's object store, once; workers of a machine share them there, which is
why large arrays among frozen keywords cannot be written, as usual with Ray.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import Any

from ..errors import ParallelError
from ..options import Options
from ..worker.remote import Parcel, own_version
from .futures import AGAIN, DIED, FuturesPool, is_missing, outcome

__all__ = ["RayCluster", "pool_for", "prepare", "reach", "shutdown"]

ENDING = 3.0  # seconds for what was cancelled to end
PACE = 10.0  # how much longer a message takes than to a process of ours


class RayCluster:
    """What an initialised Ray offers: a slot for each CPU.

    Parameters
    ----------
    ray : module
    """

    shares_memory = False
    name = "Ray"

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._refs: dict[int, Any] = {}  # by the id of a future

    def slots(self) -> int:
        """CPUs of all nodes."""
        try:
            return int(self._ray.cluster_resources().get("CPU", 0))
        except Exception as error:
            raise self._lost(error) from error

    def put(self, parcel: Parcel) -> Any:
        """Put into the object store."""
        return self._ray.put(parcel)

    def there(self, handle: Any) -> bool:  # noqa: ARG002 - as all clusters
        """Not known: it is put anew, which costs little where it is rare."""
        return False

    def submit(self, name: str, func: Callable[..., Any], *args: Any) -> Any:
        """Start a call as a task of one CPU, under a name that the dashboard shows."""
        task = _tasks.get(func)
        if task is None:  # Ray keeps what is made here for its life: so once only
            task = _tasks[func] = self._ray.remote(num_cpus=1, max_retries=0)(func)
        ref = task.options(name=name).remote(*args)
        future = ref.future()
        self._refs[id(future)] = ref
        _under_way.add(future)
        future.add_done_callback(_under_way.discard)
        return future

    def collect(self, futures: Sequence[Any]) -> list[Any]:
        """Results, or errors, of futures that are done."""
        outcomes = [outcome(future) for future in futures]
        for future in futures:
            self._refs.pop(id(future), None)
        return outcomes

    def cancel(self, futures: Sequence[Any]) -> None:
        """Give up calls; what runs is interrupted."""
        for future in futures:
            ref = self._refs.pop(id(future), None)
            try:
                self._ray.cancel(ref)
            except Exception:  # noqa: BLE001, S112 - it is over, or so is Ray
                continue

    def check(self) -> None:
        """Raise if Ray has been shut down."""
        if not self._ray.is_initialized():
            raise self._lost(None)

    def verdict(self, error: BaseException) -> str | BaseException:
        """What an error of a task, or of a submission, says."""
        cause = getattr(error, "cause", None) or error
        if is_missing(error) or is_missing(cause):
            return ParallelError(
                "the workers of Ray have no parallelkit, or another version of it; run there: "
                f"pip install parallelkit=={own_version()}"
            )
        exceptions = self._ray.exceptions
        if not self._ray.is_initialized():
            return self._lost(error)
        died = (exceptions.WorkerCrashedError, exceptions.NodeDiedError)
        if isinstance(error, (*died, exceptions.OutOfMemoryError)):
            return DIED
        if isinstance(error, (exceptions.ObjectLostError, exceptions.TaskCancelledError)):
            return AGAIN
        return ParallelError(f"Ray could not run a chunk: {type(error).__name__}: {error}")

    def _lost(self, error: BaseException | None) -> ParallelError:
        told = "" if error is None else f" ({type(error).__name__}: {error})"
        return ParallelError(f"Ray has been shut down or was lost, with what ran there{told}")


_under_way: set[Any] = set()  # futures
_tasks: dict[Callable[..., Any], Any] = {}
_lock = threading.RLock()
_ours = False  # whether Ray was initialised here


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ParallelError(
            "backend='ray' needs Ray; run: pip install 'parallelkit[ray]'"
        ) from error
    return ray


def _initialised(options: Options) -> Any:
    """Ray, connected to the address, or as it is, or begun on this machine."""
    global _ours
    ray = _ray()
    with _lock:
        if not ray.is_initialized():
            try:
                # An address that is not given is looked up as Ray does, in RAY_ADDRESS.
                ray.init(
                    address=options.address or os.environ.get("RAY_ADDRESS"),
                    include_dashboard=None if options.address else False,
                    log_to_driver=False,
                    logging_level="error",
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ParallelError(
                    f"no Ray cluster answers at {options.address} ({error}); is it running, and "
                    "can this machine reach it?"
                ) from error
            _ours = True
        return ray


def shutdown() -> None:
    """End Ray, if it was begun here."""
    global _ours
    with _lock:
        if _ours:
            _ours = False
            # Ray may crash where it ends while somebody still waits for a result of it.
            wait(list(_under_way), timeout=ENDING)
            _ray().shutdown()


def _after_fork() -> None:
    global _lock, _ours
    _lock, _ours = threading.RLock(), False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def reach(options: Options) -> tuple[int, float, bool]:
    """CPUs of the cluster, and how far away they are."""
    return RayCluster(_initialised(options)).slots(), PACE, False


def pool_for(options: Options, workers: int, level: int, wished: bool) -> FuturesPool:  # noqa: ARG001 - as all backends
    """Pool for one call."""
    cluster = RayCluster(_initialised(options))
    return FuturesPool(cluster, workers if wished else None, options, PACE)


def prepare(options: Options) -> None:  # noqa: ARG001 - as all backends
    """Import Ray, or say what to install."""
    _ray()
