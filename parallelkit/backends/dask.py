"""Dask as a backend: what a client offers for chunks to run.

Large things are scattered, without a hash, to one worker; Dask brings them to another one when a
chunk that needs them runs there. All that is kept of a call are its futures, until they are taken.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import ParallelError
from ..options import Options
from ..worker.parcel import Parcel
from . import dask_clients
from .cluster import AGAIN, DIED, PERHAPS, is_missing
from .dask_clients import Unasked, asked, shutdown
from .futures import FuturesPool

__all__ = ["DaskCluster", "pool_for", "prepare", "reach", "shutdown"]

PACE = 10.0  # how much longer a message takes than to a process of ours
GONE = 5.0  # seconds without a scheduler after which it counts as lost


class DaskCluster:
    """What a client of Dask offers.

    Parameters
    ----------
    client : distributed.Client
    """

    shares_memory = False
    one_each = False  # it has several threads, and calls that wait for them

    def __init__(self, client: Any) -> None:
        self._client = client
        self.demand = dask_clients.demand(client)
        address = getattr(getattr(client, "scheduler", None), "address", "?")
        self.name = f"Dask (scheduler {address})"
        self._away: float | None = None  # since when there is no scheduler
        self._number = 0
        self._prefix = os.urandom(6).hex()

    def slots(self) -> int:
        """Threads of all workers."""
        try:
            return sum(dask_clients.workers_of(self._client).values())
        except Unasked as error:
            raise self._lost() from error.__cause__

    def put(self, parcel: Parcel) -> Any:
        """Scatter."""
        try:
            if not dask_clients.workers_of(self._client):
                return None  # it would wait for one
            return asked(self._client, self._client.scatter, parcel, hash=False, asynchronous=True)
        except Unasked:  # no worker yet, or none any more: then it goes along
            return None

    def there(self, handle: Any) -> bool:
        """Whether what was scattered is still held by a worker."""
        if handle.status != "finished":
            return False
        try:
            found = asked(self._client, self._held_by, handle.key)
        except Unasked:  # whatever is wrong with it, it is put anew
            return False
        return bool(found.get(handle.key))

    async def _held_by(self, key: str) -> Any:
        return await self._client.scheduler.who_has(keys=[key])

    def submit(self, name: str, func: Callable[..., Any], *args: Any) -> Any:
        """Start a call, under a name that the dashboard shows."""
        self._number += 1
        key = f"{name}-{self._prefix}-{self._number}"
        return self._client.submit(func, *args, key=key, pure=False, retries=0)

    def collect(self, futures: Sequence[Any]) -> list[Any]:
        """Results of futures that are done, all at once."""
        try:
            outcomes: list[Any] = asked(self._client, self._gathered, futures)
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
            return DIED if getattr(error, "allowed_failures", 0) > 1 else PERHAPS
        if is_missing(error):
            return dask_clients.missing(self.name)
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


def reach(options: Options) -> tuple[int, float, bool]:
    """Threads of all workers, and how far away they are."""
    cluster = DaskCluster(dask_clients.client_for(options))
    return cluster.slots(), PACE, False


def pool_for(options: Options, workers: int, level: int, wished: bool) -> FuturesPool:  # noqa: ARG001 - as all backends
    """Pool for one call."""
    client = dask_clients.client_for(options)
    cluster = DaskCluster(client)
    cluster.slots()  # or tell that the scheduler is lost
    dask_clients.check(client, options)
    return FuturesPool(cluster, workers if wished else None, options, PACE)


def prepare(options: Options, _: object = None) -> None:  # noqa: ARG001 - as all backends
    """Import Dask, or say what to install."""
    dask_clients.distributed()
