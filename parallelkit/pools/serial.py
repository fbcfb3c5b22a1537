"""The pool without workers: items run in place, in order, one chunk at a time."""

from __future__ import annotations

import contextvars
from collections.abc import Generator

from ..chunking import Source
from .base import Done, Setup, Task

__all__ = ["SerialPool"]


class SerialPool:
    """Runs items in the thread that asks for them.

    Parameters
    ----------
    setup : Setup
        The user's initializer.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup

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
            reply = context.run(task.run, chunk, 0)
            done = len(reply.values)
            if done < chunk.size and not (reply.raised and task.stop_at_error):
                source.put_back(chunk.part(done, chunk.size))
            source.sizer.observe(done, reply.seconds)
            yield chunk.part(0, done), reply

    def close(self) -> None:
        """Nothing to end."""
