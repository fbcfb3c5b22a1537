"""The pool without workers: items run in place, in order, one chunk at a time.

A call that runs in place because its share is a single core looks between its items whether there
are more, and goes on with threads from the next item on.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Generator
from functools import partial

from ..options import Options
from ..place import blas
from ..place.nesting import room
from ..values.source import Source
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
    grown : Pool, optional
        Where to go on when there are more cores: threads.
    helped : Pool, optional
        The same for items that have `random` to themselves: other processes.
    """

    def __init__(
        self,
        setup: Setup,
        blas_threads: int | None = None,
        grown: Pool | None = None,
        helped: Pool | None = None,
    ) -> None:
        self._setup = setup
        self._blas_threads = blas_threads
        self._grown = grown
        self._helped = helped

    def run(self, task: Task, source: Source) -> Generator[Done | None, None, None]:
        """Run all chunks of `source`; one item at a time where the consumer is lazy."""
        self._setup()
        context = contextvars.copy_context()  # what items set is gone afterwards, as anywhere
        grown = self._helped if task.alone else self._grown
        if source.total is None:  # an iterator that the caller draws from
            grown = None
        cores = None if grown is None else room()
        more = None if cores is None else partial(_more, cores)
        yield None
        while not source.finished:
            if source.aborted is not None:
                raise source.aborted
            if more is not None and grown is not None and more() and source.remaining != 1:
                going = grown.run(task, source)
                next(going)  # it has begun
                yield from going
                return
            chunk = source.take()
            if chunk is None:
                source.wait()
                continue
            if self._blas_threads is None:
                reply = context.run(task.run, chunk, 0, more, spare=cores)
            else:
                with blas.lent(self._blas_threads, task.place(0).cores):
                    reply = context.run(task.run, chunk, 0, more, spare=cores)
            yield chunk, reply
            del chunk, reply  # while this waits, they belong to the consumer alone

    def close(self) -> None:
        """Nothing to end."""


def _more(cores: Callable[[], int]) -> bool:
    return cores() > 1


def pool_for(options: Options, workers: int, level: int, wished: bool) -> SerialPool:  # noqa: ARG001 - as all backends
    """Pool for one call."""
    setup = Setup(options.initializer, options.initargs)
    grown = helped = None
    if level > 1 and options.workers is None and options.backend != "serial":
        from . import threads  # nobody else needs it here

        helped = threads.helped_by(options, setup)
        grown = threads.ThreadPool(1, level, setup, wished=False, helped=helped)
    return SerialPool(setup, options.blas_threads, grown, helped)


def prepare(options: Options) -> None:
    """Nothing has to be there before the first call."""
