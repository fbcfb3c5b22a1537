"""Ray as a backend: the cluster at an address, the one that is initialised, or one of this machine.

Large things are put into Ray's object store, once; workers of a machine share them there, which is
why large arrays among frozen keywords cannot be written, as usual with Ray.
"""

from __future__ import annotations

import atexit
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import wait
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from ..errors import ParallelError
from ..options import Options
from ..place.sigint import by_a_handler
from ..worker import parcel as parcels
from ..worker.parcel import Parcel
from ..worker.versions import own_version
from .cluster import AGAIN, PERHAPS, is_missing, outcome
from .futures import FuturesPool
from .ray_census import Census, knock
from .ray_start import patience

__all__ = ["RayCluster", "pool_for", "prepare", "reach", "shutdown"]

CONNECT = 10.0  # seconds for the head of Ray to answer
ENDING = 3.0  # seconds for what was cancelled to end
GRACE = 1.5  # seconds for what nobody wants any more to end by itself
PACE = 10.0  # how much longer a message takes than to a process of ours


class RayCluster:
    """What an initialised Ray offers: a slot for each CPU.

    Parameters
    ----------
    ray : module
    """

    shares_memory = False
    one_each = True
    demand = 0.01  # an autoscaler starts nodes where anything waits at all
    name = "Ray"

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def slots(self) -> int:
        """CPUs of all nodes, as they were within the last second: to ask takes a millisecond."""
        try:
            return _counted(self._ray)
        except Exception as error:
            if by_a_handler(error):
                raise
            raise self._lost(error) from error

    def put(self, parcel: Parcel) -> Any:
        """Put into the object store."""
        return self._ray.put(parcel)

    def there(self, handle: Any) -> bool:  # noqa: ARG002 - as all clusters
        """Not known: it is put anew, which costs little where it is rare."""
        return False

    def submit(self, name: str, func: Callable[..., Any], *args: Any) -> Any:
        """Start a call as a task of one CPU, under a name that the dashboard shows."""
        data, fetched = parcels.packed(func, args, self._ray.ObjectRef)
        ref = _named(self._ray, name).remote(data, *fetched)
        future = ref.future()
        _under_way[future] = ref
        future.add_done_callback(_over)
        return future

    def collect(self, futures: Sequence[Any]) -> list[Any]:
        """Results, or errors, of futures that are done."""
        return [parcels.unpacked(outcome(future)) for future in futures]

    def cancel(self, futures: Sequence[Any]) -> None:
        """Give up calls; what still runs after `GRACE` seconds is interrupted."""
        timer = threading.Timer(GRACE, _interrupt, (self._ray, WeakSet(futures)))
        timer.daemon = True
        with suppress(RuntimeError):  # at the end of the process, which ends them too
            timer.start()

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
            return PERHAPS
        if isinstance(error, (exceptions.ObjectLostError, exceptions.TaskCancelledError)):
            return AGAIN
        return ParallelError(f"Ray could not run a chunk: {type(error).__name__}: {error}")

    def _lost(self, error: BaseException | None) -> ParallelError:
        if error is None or not self._ray.is_initialized():
            return ParallelError("Ray has been shut down, and what ran there is lost")
        return ParallelError(
            f"the head of Ray does not answer, and what ran there is lost ({type(error).__name__}: "
            f"{error}); unless ray.shutdown() is called within half a minute, Ray ends this process"
        )


_census: Census | None = None  # of the Ray that is initialised
_under_way: dict[Any, Any] = {}  # futures, and the references that they wait for
_task: Any = None  # Ray keeps what is made of a function for its life: so once only
_names: dict[str, Any] = {}  # the same under names
MOST_NAMES = 256
_lock = threading.RLock()
_ours = False  # whether Ray was initialised here
_folder: str | None = None  # of a Ray that was begun here


def _named(ray: Any, name: str) -> Any:
    """The task that runs a call, under a name."""
    global _task
    if _task is None:
        _task = ray.remote(num_cpus=1, max_retries=0)(parcels.called)
    if name not in _names:
        if len(_names) >= MOST_NAMES:
            _names.clear()
        _names[name] = _task.options(name=name)
    return _names[name]


def _counted(ray: Any) -> int:
    """CPUs of all nodes."""
    global _census
    head = ray.get_runtime_context().gcs_address
    with _lock:
        if _census is None or _census.head != head:
            _census = Census(ray, head)
            _under_way.clear()  # of a Ray that is no more
        census = _census
    return census.cpus()


def _interrupt(ray: Any, futures: Iterable[Any]) -> None:
    """Interrupt those that are still under way.

    Not at once: where a call ends at the moment at which it is cancelled, Ray ends the whole
    process (2.60; https://github.com/ray-project/ray/pull/54798 mends a part of it). Most end by
    themselves, as a chunk runs for half a second or an item; then those are left that take long.
    """
    for future in list(futures):
        ref = _under_way.get(future)
        if ref is not None and ray.is_initialized():
            with suppress(Exception):  # it is over, or so is Ray
                ray.cancel(ref)


def _over(future: Any) -> None:
    _under_way.pop(future, None)


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
    global _ours, _folder
    ray = _ray()
    with _lock:
        if not ray.is_initialized():
            # An address that is not given is looked up as Ray does.
            address = options.address or os.environ.get("RAY_ADDRESS")
            try:
                context = _begun(ray, address)
            except Exception as error:  # of any class: Ray's own are bare ones
                if by_a_handler(error):
                    raise
                if address:
                    told = f"no Ray cluster answers at {address} ({error}); is it running, and "
                    raise ParallelError(told + "can this machine reach it?") from error
                told = f"Ray does not start on this machine ({error}); "
                raise ParallelError(told + "does `python -c 'import ray; ray.init()'`?") from error
            _ours, _folder = True, _folder_of(context)
        if _ended_for != os.getpid():
            _end_in_time()
        return ray


def _begun(ray: Any, address: str | None) -> Any:
    """Connect to the Ray at an address, or begin one here."""
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if address:
        knock(address, CONNECT)  # Ray itself tries for minutes
        return ray.init(address=address, **quiet)
    with patience(ray):
        return ray.init(include_dashboard=False, **quiet)


def _folder_of(context: Any) -> str | None:
    """Where a Ray that was begun here keeps its logs and sockets; None for one that was there."""
    folder = str(getattr(context, "address_info", {}).get("session_dir", ""))
    return folder if folder.endswith(f"_{os.getpid()}") else None  # of who has begun it


_ended_for = 0  # the process


def _end_in_time() -> None:
    """Wait at exit for what is under way, before Ray ends: functions run in reverse order."""
    global _ended_for
    _ended_for = os.getpid()
    atexit.register(_give_up)


def _give_up() -> None:
    """Wait for what is under way, and cancel it where that takes long.

    Ray may crash where it ends while somebody still waits for a result of it.
    """
    wait(list(_under_way), timeout=GRACE)
    _interrupt(_ray(), list(_under_way))
    wait(list(_under_way), timeout=ENDING)


def shutdown() -> None:
    """End Ray, if it was begun here, and remove what it has written."""
    global _ours, _folder
    with _lock:
        if not _ours:
            return
        _ours = False
        _give_up()
        _ray().shutdown()
        if _folder is not None:
            shutil.rmtree(_folder, ignore_errors=True)
            parent = os.path.dirname(_folder)
            latest = os.path.join(parent, "session_latest")
            with suppress(OSError):
                if os.path.basename(os.readlink(latest)) == os.path.basename(_folder):
                    os.unlink(latest)
                os.rmdir(parent)  # if it is empty
        _folder = None


def _after_fork() -> None:
    global _lock, _ours, _folder, _census
    _lock, _ours, _folder, _census = threading.RLock(), False, None, None
    _under_way.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def reach(options: Options) -> tuple[int, float, bool]:
    """CPUs of the cluster, and how far away they are."""
    return RayCluster(_initialised(options)).slots(), PACE, False


def pool_for(options: Options, workers: int, level: int, wished: bool) -> FuturesPool:  # noqa: ARG001 - as all backends
    """Pool for one call."""
    cluster = RayCluster(_initialised(options))
    return FuturesPool(cluster, workers if wished else None, options, PACE)


def prepare(options: Options, _: object = None) -> None:  # noqa: ARG001 - as all backends
    """Import Ray, or say what to install."""
    _ray()
