"""Chunks as futures of another engine: what Dask, Ray and all executors have in common.

::

    Source ─► chunk ─► Cluster.submit(remote.run, order, what it needs) ─► a worker of the engine
                                                                             │
    engine ◄─ (chunk, Reply or Lost) ◄─ Cluster.collect ◄─ inbox ◄─ done ────┘

An adapter for an engine implements `Cluster`, and is short. `dispatch` runs a call on it; what
goes with a chunk is made in `orders`, and in `executor_threads` where nothing has to be sent.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial

from ..options import Options
from ..values.source import Source
from .base import Done, Task
from .cluster import Cluster
from .executor_threads import Here
from .orders import There

__all__ = ["FuturesPool"]


class FuturesPool:
    """Runs chunks in the workers of another engine.

    Parameters
    ----------
    cluster : Cluster
    workers : int or None
        How many chunks may run at a time; by default as many as there are slots.
    options : Options
    pace : float
        How much longer a message takes than to a process of ours.
    """

    def __init__(
        self, cluster: Cluster, workers: int | None, options: Options, pace: float
    ) -> None:
        self._cluster = cluster
        self._workers = workers
        self._options = options
        self._pace = pace

    def run(self, task: Task, source: Source) -> Generator[Done | None, None, None]:
        """Run all chunks of `source` there."""
        kind = Here if self._cluster.shares_memory else There
        call = kind(self._cluster, self._workers, self._options, self._pace, task, source)
        source.wake = partial(call.inbox.put, None)
        try:
            call.open()
            yield None
            yield from call.outcomes()
        finally:
            source.wake = None
            call.close()

    def close(self) -> None:
        """Nothing to end: the workers are the engine's."""
