"""The contract of a pool, and all that an adapter for another engine has to implement.

A pool gets a task and a source of chunks. It takes chunks while it has workers for them, runs
``task.run(chunk, rank)`` somewhere, and yields ``(chunk, outcome)`` pairs in
any order until the source is finished and all chunks that it took are answered. The first thing
that it yields is None: the call has begun. An outcome is

- a :class:`~parallelkit.values.outcome.Reply` for the items from the chunk's start on. A pool that
  answers in parts yields each part with the chunk that begins where the part does. The consumer
  puts items that a final reply leaves out back into the source, and tells the source what it can
  learn from the reply about the size of chunks;
- a :class:`~parallelkit.values.outcome.Lost` where the chunk came to nothing: the worker died, the
  arguments could not be unpickled. Whether it is tried again is not for the pool to decide: the
  consumer may put the chunk back before it resumes the generator.

``rank`` counts the workers from 0. Closing the generator, also by an exception, gives the call
up: chunks in work are abandoned, and the workers are fit for another call when ``close`` returns
or soon after. Several calls may run at the same time, in several threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol

from ..errors import IN_INITIALIZER, note
from ..options import Giver
from ..place.nesting import Nesting
from ..place.recording import Traced
from ..values.outcome import Lost, Reply
from ..values.source import Chunk, Source

__all__ = ["Done", "Pool", "Setup", "Task"]

Done = tuple[Chunk, Reply | Lost]


class Task(Protocol):
    """What a pool knows of the task: it runs chunks."""

    timeout: float | None  # seconds per item
    cores: int  # what the workers have together
    stop_at_error: bool  # whether the first item that fails ends its chunk
    func: Callable[..., Any]
    frozen: Mapping[str, Any]
    places: list[Nesting]  # of the workers
    configured: Mapping[str, Any]  # options for what is below
    blas_threads: int | None
    seed: Any
    alone: bool
    traced: Traced | None  # where to note how long its items take

    def run(
        self,
        chunk: Chunk,
        rank: int,
        stop: Callable[[], bool] | None = None,
        *,
        spare: Callable[[], int] | None = None,
        given_up: Callable[[], bool] | None = None,
    ) -> Reply:
        """Run the items of a chunk, or its first ones; `stop` is asked between some of them.

        `spare` tells the items how many cores are theirs for the moment, where that is more than
        the share of the worker. `given_up` tells whether nobody waits for them any more.
        """
        ...

    def state(self, variables: tuple[Any, ...], own: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        """Return what a worker process makes its copy from.

        `variables` are the context's, `own` is what a worker's items have made of the script.
        """
        ...

    def may_be_kept(self) -> bool:
        """Whether a worker process may use its copy for other calls that say the same."""
        ...

    def place(self, rank: int) -> Nesting:
        """Level and share of the worker `rank`."""
        ...

    def threads(self, rank: int) -> int:
        """How many threads numerical libraries may use in the worker `rank`."""
        ...

    def refusal(self, error: BaseException) -> BaseException:
        """Error to raise for `error`, which came up when the task was pickled."""
        ...


class Setup:
    """A user's initializer, for pools whose workers are threads; one for each call.

    A thread runs it when it begins to work on the call, unless it was the last initializer that
    ran, both in this thread and in this process: it may have set the state of either.

    Parameters
    ----------
    initializer : callable or None
    initargs : tuple
    giver : Giver, optional
        By whose number it is known.
    """

    _thread = threading.local()  # with the number of the last that ran in it
    _process = 0  # of the last that ran in any thread

    def __init__(
        self,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        giver: Giver | None = None,
    ) -> None:
        self._initializer = initializer
        self._initargs = initargs
        self.number = 0 if giver is None else giver.number
        self.renew()

    def renew(self) -> None:
        """Let threads look again whether it is to run: another call begins on the same pool."""
        if self._initializer is not None:
            self._call = threading.local()

    def __call__(self) -> None:
        """Run it, if it is to run in this thread."""
        if self._initializer is None or hasattr(self._call, "begun"):
            return
        kept = Setup._process == self.number
        if not (kept and getattr(self._thread, "last", 0) == self.number):
            self._thread.last = 0
            if not kept:  # until it has run, no other thread takes it for the last that has
                Setup._process = 0
            try:
                self._initializer(*self._initargs)
            except BaseException as error:
                Setup._process = 0
                note(error, IN_INITIALIZER)
                raise
            self._thread.last = Setup._process = self.number
        self._call.begun = True

    @classmethod
    def forget(cls) -> None:
        """In a copy of a process: others may have run there since."""
        cls._process = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Setup.forget)


class Pool(Protocol):
    """What the engine knows of a pool."""

    def run(self, task: Task, source: Source) -> Generator[Done | None, None, None]:
        """Run all chunks of `source`."""
        ...

    def close(self) -> None:
        """End the workers. Calls that are under way fail."""
        ...
