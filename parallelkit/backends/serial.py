"""The pool without workers: items run in place, in order, one chunk at a time."""

from __future__ import annotations

import contextvars
from collections.abc import Generator

from ..options import Options
from ..place import blas
from ..values.source import Source
from .base import Done, Setup, Task

__all__ = ["SerialPool", "pool_for", "prepare"]


class SerialPool:
    """Runs items in the thread that asks for them.

    Parameters
    ----------
    setup : Setup
        The user's initializer.
    blas_threads : int, optional
        Threads of numerical libraries within an item; by default as many as there are outside.
    """

    def __init__(self, setup: Setup, blas_threads: int | None = None) -> None:
        self._setup = setup
        self._blas_threads = blas_threads

    def run(self, task: Task, source: Source) -> Generator[Done | None, None, None]:
        """Run all chunks of `source`; one item at a time where the consumer is lazy."""
        self._setup()
        context = contextvars.copy_context()  # what items set is gone afterwards, as anywhere
        yield None
        while not source.finished:
            if source.aborted is not None:
                raise source.aborted
            chunk = source.take()
            if chunk is None:
                source.wait()
                continue
            if self._blas_threads is None:
                reply = context.run(task.run, chunk, 0)
            else:
                with blas.lent(self._blas_threads, task.place(0).cores):
                    reply = context.run(task.run, chunk, 0)
            yield chunk, reply
            del chunk, reply  # while this waits, they belong to the consumer alone

    def close(self) -> None:
        """Nothing to end."""


def pool_for(options: Options, workers: int, level: int, wished: bool) -> SerialPool:  # noqa: ARG001 - as all backends
    """Pool for one call."""
    return SerialPool(Setup(options.initializer, options.initargs), options.blas_threads)


def prepare(options: Options) -> None:
    """Nothing has to be there before the first call."""
