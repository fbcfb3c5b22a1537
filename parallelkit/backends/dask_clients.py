"""Clients of Dask: the one for some options, what its workers have, and how it is asked."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from ..errors import ParallelError
from ..options import Options
from ..worker.versions import made_with, own_version
from .cluster import is_missing
from .dask_local import Local

__all__ = [
    "Unasked",
    "asked",
    "check",
    "client_for",
    "demand",
    "distributed",
    "is_local",
    "missing",
    "shutdown",
    "workers_of",
]

CONNECT = 10.0  # seconds for a scheduler to answer
SILENT = 30.0  # seconds that it may take to answer; then it is asked once more
LOOK = 0.9  # seconds between questions which workers there are


class Unasked(Exception):
    """A question to Dask has failed; its cause tells why."""


def asked(client: Any, func: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
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


async def _ncores(client: Any) -> Any:
    return await client.scheduler.ncores(workers=None)  # there is none once it is closed


async def _patiently(client: Any, awaitable: Any) -> Any:
    """Await what may take long, while the scheduler answers."""
    task = asyncio.ensure_future(awaitable)
    try:
        while not (await asyncio.wait([task], timeout=SILENT))[0]:
            await asyncio.wait_for(_ncores(client), SILENT)
        return task.result()
    finally:
        task.cancel()


_lock = threading.RLock()
_clients: dict[str, Any] = {}  # by address, those of ours
_ours: list[Any] = []  # a client, and the `Local` that it is connected to
_seen: WeakKeyDictionary[Any, tuple[float, dict[str, int]]] = WeakKeyDictionary()  # by the client
_checked: WeakSet[Any] = WeakSet()  # clients whose workers were looked at
_uploaded: WeakSet[Any] = WeakSet()  # those by which this package was sent


def distributed() -> Any:
    """Import Dask, or say what to install."""
    try:
        import distributed as found
        from distributed import utils_comm
    except ImportError as error:
        raise ParallelError(
            "backend='dask' needs Dask; run: pip install 'parallelkit[dask]'"
        ) from error
    asking: Any = utils_comm
    if asking.random is random:  # the choice of whom it asks would use up the script's numbers
        asking.random = random.Random()  # noqa: S311
    return found


def client_for(options: Options) -> Any:
    """Client for these options, connected if there is none yet."""
    package = distributed()
    with _lock:
        if options.address is not None:
            client = _clients.get(options.address)
            if client is None or client.status != "running":
                client = _clients[options.address] = _connected(package, options.address)
            return client
        try:
            client = package.get_client(timeout=0)
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
            _ours[:] = [_connected(package, local.address), local]
        return _ours[0]


def _connected(package: Any, address: str) -> Any:
    try:
        return package.Client(address, timeout=CONNECT, set_as_default=False)
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
        _uploaded.clear()
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
    _uploaded.clear()
    _seen.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# --- what the workers have -----------------------------------------------------------------------


def workers_of(client: Any) -> dict[str, int]:
    """Workers and their threads, as they were within the last second."""
    now = time.monotonic()
    known = _seen.get(client)
    if known is None or now - known[0] > LOOK:
        found = asked(client, _ncores, client)
        _seen[client] = known = now, dict(found)
    return known[1]


def demand(client: Any) -> float:
    """Seconds of work that must wait for each thread for a cluster to grow; 0.0 where it does not.

    A client that was made for a cluster knows whether that is adaptive. One that has an address
    alone does not: somebody else may have called ``adapt()`` there, so work waits as if one had.
    """
    if client in _ours:
        return 0.0
    target: Any = None
    cluster = getattr(client, "cluster", None)
    if cluster is None:
        import dask

        target = dask.utils.parse_timedelta(dask.config.get("distributed.adaptive.target-duration"))
    else:
        target = getattr(getattr(cluster, "_adaptive", None), "target_duration", None)
    return 2.0 * float(target or 0.0)


def is_local(client: Any) -> bool:
    """Whether the workers are on this machine for certain: those at an address may not be."""
    if client in _ours:
        return True
    return isinstance(getattr(client, "cluster", None), distributed().LocalCluster)


def check(client: Any, options: Options) -> None:
    """Raise if workers have other versions than this process, or no parallelkit.

    Once for a client: those that come later tell it with their first chunk.
    """
    if client in _checked:
        return
    if options.upload and client not in _uploaded:
        _upload(client)
        _uploaded.add(client)
    if not workers_of(client):
        return
    found = client.run(_versions, on_error="return")
    mine = _versions()
    for address, theirs in found.items():
        if isinstance(theirs, BaseException) and is_missing(theirs):
            raise missing(f"Dask (worker {address})")
        if isinstance(theirs, BaseException):
            continue  # it has gone at this moment
        for name, version in mine.items():
            if theirs[name] != version:
                raise ParallelError(
                    f"the Dask worker {address} has {name} {theirs[name]}, this process "
                    f"{version}: caller and workers must have the same versions, since functions "
                    "travel as code"
                )
    _checked.add(client)


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


def missing(name: str) -> ParallelError:
    """Error that says what workers without parallelkit need."""
    return ParallelError(
        f"the workers of {name} have no parallelkit: run there `pip install "
        f"parallelkit=={own_version()}`, or let it be sent by Pool(backend='dask', upload=True)"
    )
