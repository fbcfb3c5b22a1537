"""The pool without workers: items run in place, in order, one chunk at a time.

A call that runs in place because its share is a single core looks between its items whether there
are more, and goes on with threads from the next item on.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from ..options import Options
from ..place import blas
from ..place.nesting import room
from ..values.source import Chunk, Source
from .base import Done, Pool, Setup, Task

__all__ = ["SerialPool", "pool_for", "prepare"]


class SerialPool:
    """Runs items in the thread that asks for them.

    Parameters
    ----------
    setup : Setup
        The user's initializer.
    blas_threads : int, optional
        Threads of numerical libraries within an item; by default as many as there are outside.
    grown : callable, optional
        Makes the pool to go on with when there are more cores, or None; its argument tells whether
        items have `random` to themselves.
    """

    def __init__(
        self,
        setup: Setup,
        blas_threads: int | None = None,
        grown: Callable[[bool], Pool | None] | None = None,
    ) -> None:
        self._setup = setup
        self._blas_threads = blas_threads
        self._grown = grown

    def run(self, task: Task, source: Source) -> Generator[Done | None, None, None]:
        """Run all chunks of `source`; one item at a time where the consumer is lazy."""
        self._setup()
        context = contextvars.copy_context()  # what items set is gone afterwards, as anywhere
        # An input of unknown length is drawn by the caller, unless it is a queue.
        known = source.total is not None or source.endless
        grown = self._grown if known else None
        cores = room()
        more = None if cores is None or grown is None else partial(_more, cores)
        if source.endless:
            source.meanwhile = partial(self._run_meanwhile, context, task, source)
        yield None
        while not source.finished:
            if source.aborted is not None:
                raise source.aborted
            if more is not None and grown is not None and more() and source.remaining != 1:
                pool = grown(task.alone)
                if pool is not None:
                    going = pool.run(task, source)
                    next(going)  # it has begun
                    yield from going
                    return
                more = None
            chunk = source.take()
            if chunk is None:
                source.wait()
                if source.endless:
                    self._setup.renew()
                    self._setup()
                continue
            reply = self._reply(context, task, chunk, more, cores)
            yield chunk, reply
            del chunk, reply  # while this waits, they belong to the consumer alone

    def _reply(
        self,
        context: contextvars.Context,
        task: Task,
        chunk: Chunk,
        more: Callable[[], bool] | None,
        cores: Callable[[], int] | None,
    ) -> Any:
        if self._blas_threads is None:
            return context.run(task.run, chunk, 0, more, spare=cores)
        with blas.lent(self._blas_threads, task.place(0).cores):
            return context.run(task.run, chunk, 0, more, spare=cores)

    def _run_meanwhile(
        self, context: contextvars.Context, task: Task, source: Source, over: Callable[[], bool]
    ) -> None:
        """Run what is there, until something is over for which a callback waits in this thread."""
        while not over():
            chunk = source.take()
            if chunk is None or source.deliver is None:
                return
            source.deliver(chunk, self._reply(context.copy(), task, chunk, None, None))

    def close(self) -> None:
        """Nothing to end."""


def _more(cores: Callable[[], int]) -> bool:
    return cores() > 1


def pool_for(options: Options, workers: int, level: int, wished: bool) -> SerialPool:  # noqa: ARG001 - as all backends
    """Pool for one call."""
    setup = Setup(options.initializer, options.initargs, options.giver)
    grown = None
    if level > 1 and options.workers is None and options.backend != "serial":
        grown = partial(_grown, options, setup, level)
    threads = options.blas_threads
    if threads is None and level == 1:  # further down they are held already
        threads = blas.overrun()
    return SerialPool(setup, threads, grown)


def _grown(options: Options, setup: Setup, level: int, alone: bool) -> Pool | None:
    """Threads, or where items have `random` to themselves idle workers, if they may help."""
    from . import threads  # nobody else needs it here

    helped = threads.helped_by(options)
    return helped if alone else threads.ThreadPool(1, level, setup, False, helped)


def prepare(options: Options, _: object = None) -> None:
    """Nothing has to be there before the first call."""
