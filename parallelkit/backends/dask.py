"""Dask as a backend: the scheduler at an address, the client that is there, or a cluster of ours.

Large things are scattered, without a hash, to one worker; Dask brings them to another one when a
chunk that needs them runs there. All that is kept of a call are its futures, until they are taken.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import ParallelError
from ..options import Options
from ..worker.remote import Parcel, made_with, own_version
from .dask_local import Local
from .futures import AGAIN, DIED, FuturesPool, is_missing

__all__ = ["DaskCluster", "pool_for", "prepare", "reach", "shutdown"]

PACE = 10.0  # how much longer a message takes than to a process of ours
CONNECT = 10.0  # seconds for a scheduler to answer
SILENT = 30.0  # seconds that it may take to answer; then it is asked once more
LOOK = 0.9  # seconds between questions which workers there are
GONE = 5.0  # seconds without a scheduler after which it counts as lost


class DaskCluster:
    """What a client of Dask offers.

    Parameters
    ----------
    client : distributed.Client
    """

    shares_memory = False

    def __init__(self, client: Any) -> None:
        self._client = client
        address = getattr(getattr(client, "scheduler", None), "address", "?")
        self.name = f"Dask (scheduler {address})"
        self._away: float | None = None  # since when there is no scheduler
        self._number = 0
        self._prefix = os.urandom(6).hex()

    def slots(self) -> int:
        """Threads of all workers."""
        try:
            return sum(_workers(self._client).values())
        except Unasked as error:
            raise self._lost() from error.__cause__

    def put(self, parcel: Parcel) -> Any:
        """Scatter."""
        try:
            if not _workers(self._client):
                return None  # it would wait for one
            return _asked(self._client, self._client.scatter, parcel, hash=False, asynchronous=True)
        except Unasked:  # no worker yet, or none any more: then it goes along
            return None

    def there(self, handle: Any) -> bool:
        """Whether what was scattered is still held by a worker."""
        if handle.status != "finished":
            return False
        try:
            found = _asked(self._client, self._client.scheduler.who_has, keys=[handle.key])
        except Unasked:  # whatever is wrong with it, it is put anew
            return False
        return bool(found.get(handle.key))

    def submit(self, name: str, func: Callable[..., Any], *args: Any) -> Any:
        """Start a call, under a name that the dashboard shows."""
        self._number += 1
        key = f"{name}-{self._prefix}-{self._number}"
        return self._client.submit(func, *args, key=key, pure=False, retries=0)

    def collect(self, futures: Sequence[Any]) -> list[Any]:
        """Results of futures that are done, all at once."""
        try:
            outcomes: list[Any] = _asked(self._client, self._gathered, futures)
        except Unasked as error:
            raise self._lost() from error.__cause__
        for future in futures:
            future.release()
        return outcomes

    async def _gathered(self, futures: Sequence[Any]) -> list[Any]:
        done = [future for future in futures if future.status == "finished"]
        values: dict[str, Any] = {}
        if done:
            try:
                results = await self._client.gather(done, asynchronous=True)
                values = {future.key: value for future, value in zip(done, results, strict=True)}
            except Exception:  # noqa: BLE001 - one is lost: which, is asked one by one
                values = {}
        return [
            values[future.key] if future.key in values else await self._outcome(future)
            for future in futures
        ]

    async def _outcome(self, future: Any) -> Any:
        try:
            got = self._client.gather([future], asynchronous=True)
            return (await asyncio.wait_for(got, GONE))[0]
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever it is
            return error

    def cancel(self, futures: Sequence[Any]) -> None:
        """Give up calls: nobody wants them any more. What runs ends, and its result is dropped."""
        for future in futures:
            future.release()

    def check(self) -> None:
        """Raise if the scheduler has been away for `GONE` seconds."""
        if self._client.status == "running":
            self._away = None
            return
        now = time.monotonic()
        self._away = self._away or now
        if self._client.status == "closed" or now - self._away > GONE:
            raise self._lost()

    def verdict(self, error: BaseException) -> str | BaseException:
        """What an error of a future, or of a submission, says."""
        kind = type(error).__name__
        if kind == "KilledWorker":
            return DIED
        if is_missing(error):
            return _missing(self.name)
        if self._client.status != "running":
            return self._lost()
        if kind in ("FutureCancelledError", "CancelledError", "FuturesCancelledError"):
            return AGAIN  # what it needed went with a worker
        if isinstance(error, (OSError, EOFError)) or "Comm" in kind or "lost" in str(error):
            return AGAIN
        return ParallelError(f"{self.name} could not run a chunk: {kind}: {error}")

    def _lost(self) -> ParallelError:
        return ParallelError(
            f"the connection to {self.name} was lost, and with it what was under way there; "
            "results that were taken before are whole"
        )


class Unasked(Exception):
    """A question to Dask has failed; its cause tells why."""


def _asked(client: Any, func: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """Await a call in the client's thread.

    What it raises is an `Unasked`. So anything else comes from a signal handler, and is not to be
    taken for Dask's.
    """

    async def found() -> tuple[Any, BaseException | None]:
        try:
            return await _patiently(client, func(*args, **keywords)), None
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever it is
            return None, error

    try:
        result, error = client.sync(found)
    except RuntimeError as problem:
        if client.status == "running":
            raise
        raise Unasked from problem
    if error is not None:
        raise Unasked from error
    return result


def _missing(name: str) -> ParallelError:
    return ParallelError(
        f"the workers of {name} have no parallelkit: run there `pip install "
        f"parallelkit=={own_version()}`, or let it be sent by Pool(backend='dask', upload=True)"
    )


async def _patiently(client: Any, awaitable: Any) -> Any:
    """Await what may take long, while the scheduler answers."""
    task = asyncio.ensure_future(awaitable)
    try:
        while not (await asyncio.wait([task], timeout=SILENT))[0]:
            await asyncio.wait_for(client.scheduler.ncores(workers=None), SILENT)
        return task.result()
    finally:
        task.cancel()


# --- clients -------------------------------------------------------------------------------------

_lock = threading.RLock()
_clients: dict[str, Any] = {}  # by address, those of ours
_ours: list[Any] = []  # a client, and the `Local` that it is connected to
_seen: dict[int, tuple[Any, float, dict[str, int]]] = {}  # by the id of a client
_checked: dict[int, Any] = {}  # clients whose workers were looked at, by their id


def _distributed() -> Any:
    try:
        import distributed
        import distributed.utils_comm
    except ImportError as error:
        raise ParallelError(
            "backend='dask' needs Dask; run: pip install 'parallelkit[dask]'"
        ) from error
    asking: Any = distributed.utils_comm
    if asking.random is random:  # the choice of whom it asks would use up the script's numbers
        asking.random = random.Random()  # noqa: S311
    return distributed


def _client(options: Options) -> Any:
    """Client for these options, connected if there is none yet."""
    distributed = _distributed()
    with _lock:
        if options.address is not None:
            client = _clients.get(options.address)
            if client is None or client.status != "running":
                client = _clients[options.address] = _connected(distributed, options.address)
            return client
        try:
            client = distributed.get_client(timeout=0)
        except ValueError:  # there is none
            pass
        else:
            if client.asynchronous:
                raise ParallelError(
                    "the Dask client that is there is asynchronous, and would wait for itself; "
                    "give address= for one of our own"
                )
            return client
        if not _ours or _ours[0].status != "running" or not _ours[1].running:
            _end(_ours)
            local = Local()
            _ours[:] = [_connected(distributed, local.address), local]
        return _ours[0]


def _connected(distributed: Any, address: str) -> Any:
    try:
        return distributed.Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ParallelError(
            f"no Dask scheduler answers at {address} within {CONNECT:g} seconds ({error}); "
            "is it running, and can this machine reach it?"
        ) from error


def shutdown() -> None:
    """End the clients and the cluster that were started here."""
    with _lock:
        ending = [*_clients.values(), *_ours]
        _clients.clear()
        _ours.clear()
        _checked.clear()
        _seen.clear()
    _end(ending)


def _end(what: list[Any]) -> None:
    for one in what:
        with suppress(Exception):  # one that is gone is closed
            one.close()


def _after_fork() -> None:
    """In a forked child, which has none of the threads that a client lives by."""
    global _lock
    _lock = threading.RLock()
    for local in _ours[1:]:
        local.leave()
    _clients.clear()
    _ours.clear()
    _checked.clear()
    _seen.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# --- what the workers have -----------------------------------------------------------------------


def _workers(client: Any) -> dict[str, int]:
    """Workers and their threads, as they were within the last second."""
    now = time.monotonic()
    known = _seen.get(id(client))
    if known is None or known[0] is not client or now - known[1] > LOOK:
        found = _asked(client, client.scheduler.ncores, workers=None)
        _seen[id(client)] = known = client, now, dict(found)
    return known[2]


def _check(client: Any, options: Options) -> None:
    """Raise if workers have other versions than this process, or no parallelkit.

    Once for a client: those that come later tell it with their first chunk.
    """
    if _checked.get(id(client)) is client or not DaskCluster(client).slots():
        return
    if options.upload:
        _upload(client)
    found = client.run(_versions, on_error="return")
    mine = _versions()
    for address, theirs in found.items():
        if isinstance(theirs, BaseException) and is_missing(theirs):
            raise _missing(f"Dask (worker {address})")
        if isinstance(theirs, BaseException):
            continue  # it has gone at this moment
        for name, version in mine.items():
            if theirs[name] != version:
                raise ParallelError(
                    f"the Dask worker {address} has {name} {theirs[name]}, this process "
                    f"{version}: caller and workers must have the same versions, since functions "
                    "travel as code"
                )
    _checked[id(client)] = client


def _versions() -> dict[str, str]:
    """Versions that must be the same."""
    return dict(made_with())


def _upload(client: Any) -> None:
    """Send this package to all workers, also to those that come later."""
    root = Path(sys.modules["parallelkit"].__path__[0])
    with tempfile.TemporaryDirectory(prefix="parallelkit-") as folder:
        target = Path(folder) / "parallelkit.zip"
        with zipfile.ZipFile(target, "w") as file:
            for path in sorted(root.rglob("*.py")):
                file.write(path, Path("parallelkit") / path.relative_to(root))
        client.upload_file(str(target))


# --- the backend ---------------------------------------------------------------------------------


def reach(options: Options) -> tuple[int, float, bool]:
    """Threads of all workers, and how far away they are."""
    cluster = DaskCluster(_client(options))
    return cluster.slots(), PACE, False


def pool_for(options: Options, workers: int, level: int, wished: bool) -> FuturesPool:  # noqa: ARG001 - as all backends
    """Pool for one call."""
    client = _client(options)
    _check(client, options)
    return FuturesPool(DaskCluster(client), workers if wished else None, options, PACE)


def prepare(options: Options) -> None:  # noqa: ARG001 - as all backends
    """Import Dask, or say what to install."""
    _distributed()
