"""Inner calls on processes: the caller runs chunks itself, idle workers of the outer pool help."""

from __future__ import annotations

import contextvars
from collections.abc import Generator
from functools import partial

from ..options import Options
from ..place import blas
from ..place.nesting import room
from ..values.source import Source
from ..worker import process as worker
from .base import Done, Task

__all__ = ["OuterPool", "pool_for", "prepare"]


class OuterPool:
    """Runs chunks of a call that is made in a worker process.

    Parameters
    ----------
    workers : int
        How many may work on it, the caller included.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def run(self, task: Task, source: Source) -> Generator[Done | None, None, None]:
        """Run all chunks of `source`, here and elsewhere."""
        context, cores = contextvars.copy_context(), room()
        own = len(task.places) - 1  # the last place is that of the caller
        link = worker.link()
        inner = link.open(task, source, self._workers - 1)
        source.wake = partial(link.more, inner)
        try:
            yield None
            while True:
                if source.aborted is not None:
                    raise source.aborted
                link.seek(inner)
                done = link.next(inner)
                if done is not None:
                    yield done
                elif (chunk := inner.take()) is not None:
                    # The item that makes the call may have more than a worker's part.
                    with blas.lent(task.threads(own), task.place(own).cores):
                        reply = context.run(task.run, chunk, own, spare=cores)
                    yield chunk, reply
                    if len(reply.values) < chunk.size:
                        inner.worth_seeking = True
                elif inner.over():
                    return
                else:
                    link.wait(inner)
        finally:
            source.wake = None
            link.close(inner)

    def close(self) -> None:
        """Nothing to end: the workers are the outer pool's."""


def pool_for(options: Options, workers: int, level: int, wished: bool) -> OuterPool:  # noqa: ARG001 - as all backends
    """Pool for one call."""
    return OuterPool(workers)


def prepare(options: Options, _: object = None) -> None:
    """Nothing has to be there before the first call."""
