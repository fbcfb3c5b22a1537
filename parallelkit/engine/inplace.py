"""Short calls in place: run before there is a source, a pool or a bar.

A call with one worker, or a nested one whose share is a single core, runs where it is made, and so
does a nested one whose items are known to take less than it costs to wake a thread. What the items
leave undone, because there are more cores now or they take longer than was thought, goes the usual
way, and so do errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..options import Options
from ..place import blas, recording
from ..place.nesting import room
from ..values.call import Call
from ..values.outcome import Reply
from ..values.source import Chunk
from .plan import Plan

__all__ = ["Here", "chunk_of", "run"]

QUICK = 5e-5  # seconds of work below which no thread is woken
MOST = 256  # items: of more, it would not be looked after each one whether to go on
PATIENCE = 1e-3  # seconds after which work that was thought to be quick is shared out after all
_PLAIN = (list, tuple, range)


class Here:
    """Stands for the source of a call in place, for who may want to end it."""

    __slots__ = ("__weakref__", "aborted")

    def __init__(self) -> None:
        self.aborted: BaseException | None = None

    def abort(self, error: BaseException) -> None:
        """End the call with `error`, after the item that runs."""
        self.aborted = error


def chunk_of(call: Call, options: Options, plan_: Plan, cost: float) -> Chunk | None:
    """All items of a call, if they are to run in place; `cost` are seconds per item, or 0.0."""
    if plan_.backend not in ("serial", "thread") or recording.on:
        return None
    if options.progress or options.on_error != "raise" or options.retry_on:
        return None
    if options.initializer is not None or options.seed is not None or options.timeout is not None:
        return None
    if options.blas_threads is not None or (plan_.level == 1 and blas.overrun() is not None):
        return None
    columns: tuple[Any, ...] = call.iterables
    sizes = {len(column) if type(column) in _PLAIN else 0 for column in columns}
    size = sizes.pop() if len(sizes) == 1 else 0
    if not 0 < size <= MOST:
        return None
    if plan_.backend == "thread":
        quick = 0.0 < cost * size < QUICK and options.chunksize is None and not plan_.wished
        if not quick:
            return None
    # Items may change a list that is theirs to see: they get what was in it when the call began.
    return Chunk(0, size, tuple(c.copy() if type(c) is list else c for c in columns))


def run(chunk: Chunk, task: Any, options: Options, plan_: Plan, here: Here) -> Reply:
    """Run items of a chunk until it is done, or something else is to go on with it."""
    cores = room()
    stop: Callable[[], bool]
    if plan_.backend == "thread":
        end = time.perf_counter() + PATIENCE

        def stop() -> bool:
            return here.aborted is not None or time.perf_counter() > end
    elif cores is None or plan_.wished or options.backend == "serial":

        def stop() -> bool:
            return here.aborted is not None
    else:
        grows = cores

        def stop() -> bool:
            return here.aborted is not None or grows() > 1

    reply: Reply = task.run(chunk, 0, stop, spare=cores)
    if here.aborted is not None:
        raise here.aborted
    return reply
