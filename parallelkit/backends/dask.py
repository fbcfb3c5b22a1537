"""Dask as a backend: what a client offers for chunks to run.

Large things are scattered, without a hash, to one worker; Dask brings them to another one when a
chunk that needs them runs there. All that is kept of a call are its futures, until they are taken.

By default both what is scattered and what is gathered passes through the scheduler. On a cluster
that is this machine's for certain, large things go to the workers, and come from them, directly.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ..errors import ParallelError
from ..options import Options
from ..worker import parcel as parcels
from ..worker.parcel import Parcel
from . import dask_clients
from .cluster import AGAIN, DIED, PERHAPS, is_missing
from .dask_clients import Unasked, asked, shutdown
from .futures import FuturesPool

__all__ = ["DaskCluster", "pool_for", "prepare", "reach", "shutdown"]

PACE = 10.0  # how much longer a message takes than to a process of ours
GONE = 5.0  # seconds without a scheduler after which it counts as lost


# What a worker evaluates. A worker of Dask that cannot unpickle a task ends itself, and so does the
# next one. This can be unpickled without parallelkit, and by another version of Python, also by
# the scheduler, which pickles it anew. Where it cannot be run, the task fails, which tells why.
CALL = f"__import__({parcels.__name__!r}, fromlist=['called']).called(data, *fetched)"


class _Future:
    """A future of Dask that says by itself when it is done, in the client's thread.

    Dask's own way needs a pool of threads. That is gone before the connection is where a program
    ends, so that each chunk which is still under way then would print a traceback.
    """

    __slots__ = ("asked",)

    def __init__(self, asked: Any) -> None:
        self.asked = asked

    def add_done_callback(self, callback: Callable[[_Future], None]) -> None:
        self.asked.client.loop.add_callback(self._watch, callback)

    async def _watch(self, callback: Callable[[_Future], None]) -> None:
        with suppress(Exception, asyncio.CancelledError):  # whatever came of it is asked for later
            await self.asked.exception(asynchronous=True)
        callback(self)


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
        self._direct = True if dask_clients.is_local(client) else None  # None: as the client has it
        self._large = False  # whether the results that came last were large
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
            how = {"hash": False, "direct": self._direct, "asynchronous": True}
            return asked(self._client, self._client.scatter, parcel, **how)
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
        data, fetched = parcels.packed(func, args, dask_clients.distributed().Future)
        known, how = {"data": data, "fetched": fetched}, {"key": key, "pure": False, "retries": 0}
        return _Future(self._client.submit(eval, CALL, None, known, **how))

    def collect(self, futures: Sequence[Any]) -> list[Any]:
        """Results of futures that are done, all at once."""
        try:
            own = [future.asked for future in futures]
            outcomes: list[Any] = asked(self._client, self._gathered, own)
        except Unasked as error:
            raise self._lost() from error.__cause__
        self.cancel(futures)
        self._large = any(isinstance(outcome, tuple) for outcome in outcomes)
        return [parcels.unpacked(outcome) for outcome in outcomes]

    async def _gathered(self, futures: Sequence[Any]) -> list[Any]:
        done = [future for future in futures if future.status == "finished"]
        values: dict[str, Any] = {}
        if done:
            # To ask a worker takes one message more, which is worth it for large results alone.
            direct = self._direct if self._large else None
            try:
                results = await self._client.gather(done, direct=direct, asynchronous=True)
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
            future.asked.release()

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
