"""What a worker knows, and how it runs a chunk: bound to no channel, the same wherever items run.

A process of ours is told by its parent, through its connection, what to learn and to run; a worker
of a cluster gets the same in the arguments of a call.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from .. import options
from ..errors import assign, note
from ..place import blas, nesting
from ..transport import mirror, pickling
from ..transport.pickling import Pickled
from ..transport.shared import let_go
from ..values.outcome import Raised, Reply
from ..values.source import Chunk
from .task import BUDGET, Interrupted, Progress, Task, format_error

if TYPE_CHECKING:
    from .lap import Lap

__all__ = ["Runtime", "Watched", "pickled_error"]

HELPED = "process", "auto"  # what `nested` is where other workers may help with items' calls
BY_ITSELF = 5e-5  # seconds that a chunk may take whatever its items do


class Watched(Protocol):
    """What sees to the time limit of items; see `watchdog`."""

    def items(self, progress: Progress, done: int) -> None:
        """Say where the items that follow leave their results; `done` were answered before."""
        ...

    def item(self, offset: int) -> None:
        """Watch an item."""
        ...

    def whole(self) -> None:
        """Watch what concerns the chunk as a whole."""
        ...


class Runtime:
    """Tasks by their keys, and the place at which their items run.

    Parameters
    ----------
    spare : callable
        Gives the cores that items may use beyond their share, at the moment of asking.
    put_back : callable, optional
        Undoes what items have set for the whole process; see `environment`.
    known : Mirror, optional
        Where several clients have a part of this process: the mirror of theirs.
    """

    def __init__(
        self,
        spare: Callable[[], int],
        put_back: Callable[[], bool] | None = None,
        known: mirror.Mirror | None = None,
    ) -> None:
        self.tasks: dict[Any, Task] = {}
        self.mirror = known or mirror.settle(alone=True)
        self.max_nbytes = 1 << 16  # of a buffer that travels in the pickle itself
        self.items = 0  # that have been run
        self.item: tuple[int, Progress] | None = None  # first index and progress of what runs
        self.lap: Lap | None = None  # of what has run and is not answered, where that is traced
        self.standing: tuple[Task, int] | None = None  # whose share the libraries are held to
        self._spare = spare
        self._put_back = put_back
        self._threads = 0, 0  # of numerical libraries, and the cores of the share

    def learn(self, key: Any, data: Any, buffers: list[Any]) -> None:
        """Make the task that is called `key` from now on; raises what its unpickling raises."""
        task = self.tasks[key] = Task.of(pickling.loads(data, buffers))
        if task.configured.get("nested") in HELPED:
            self.mirror.own.watch()
        offer_to_joblib()

    def learn_script(self, data: Any, buffers: list[Any]) -> None:
        """Take in what has come of the script; raises what its unpickling raises."""
        try:
            pickling.loads(data, buffers)
        except BaseException as error:
            if self.mirror.about is not None:
                note(error, f"in the global {self.mirror.about!r} of the script")
            raise
        finally:
            self.mirror.learning = False

    def forget(self, keys: Iterable[Any]) -> None:
        """Keep tasks, and the memory that they share, no longer."""
        for key in keys:
            task = self.tasks.pop(key, None)
            if self.standing is not None and self.standing[0] is task:
                self.standing = None
        let_go()

    @property
    def index(self) -> int | None:
        """Index of the item that runs, in the input of its call."""
        return None if self.item is None else self.item[0] + len(self.item[1].values)

    def stand(self, task: Task, rank: int) -> None:
        """Take the place of the worker `rank`, with numerical libraries held to its share."""
        if self.standing is not None and self.standing[0] is task and self.standing[1] == rank:
            blas.hold(self._threads[0])
            return
        self.standing = task, rank
        place = task.place(rank)
        options.settle(task.below(place))
        nesting.settle(place, self._spare, task.cores)
        threads = task.threads(rank), place.cores
        if threads == self._threads:
            blas.hold(threads[0])
        else:
            blas.settle(*threads)
            self._threads = threads

    def run(
        self, task: Task, chunk: Chunk, rank: int, watch: Watched | None, begin: float
    ) -> Iterator[Reply]:
        """Run the items of a chunk; with a time limit the reply comes in parts.

        `begin`, by ``time.perf_counter``, is when the work on the chunk began.
        """
        size, done, final = chunk.size, 0, False
        progress = Progress(None if watch is None else watch.item)
        while not final:
            self.item = chunk.start + done, progress
            if watch is not None:
                watch.items(progress, done)
            rest = chunk.part(done, size) if done else chunk
            lap = None
            if task.traced is not None:
                lap = task.lap(rest, rank, time.perf_counter() if done else begin)
            reply = task.run(rest, rank, None, progress, self._spare, self._put_back, lap)
            self.lap = lap
            del rest
            if watch is not None:
                watch.whole()
            values, raised, seconds, _, nbytes = reply
            count = len(values)
            done += count
            self.items += count
            seconds = max(seconds, time.perf_counter() - begin - BY_ITSELF)
            failed = bool(raised) and task.stop_at_error
            final = watch is None or done >= size or failed or seconds > BUDGET
            yield Reply(values, raised, seconds, final, nbytes)
            progress = Progress(progress.mark)

    def pickled(self, reply: Reply) -> Pickled:
        """Pickle what came of items; a result that cannot be is an error of its item."""
        values, raised = reply.values, reply.raised
        if raised:
            for one in raised:  # tblib would send it, in place of the text of all tracebacks
                if one.exception.__cause__ is None:
                    assign(one.exception, __traceback__=None)
            raised = [r._replace(exception=pickling.portable(r.exception)) for r in raised]
        try:
            return pickling.dumps((values, raised), self.max_nbytes)
        except Interrupted:
            raise
        except BaseException:  # noqa: BLE001 - a user's __reduce__ may raise anything
            raised = sorted([*raised, *self._unpicklable(values)], key=lambda r: r.offset)
            return pickling.dumps((values, raised), self.max_nbytes)

    def _unpicklable(self, values: list[Any]) -> list[Raised]:
        """Take results that cannot be pickled out of `values`; tell why."""
        raised = []
        for offset, value in enumerate(values):
            try:
                pickling.dumps(value)
            except Interrupted:
                raise
            except BaseException as error:  # noqa: BLE001
                from ..transport.refusals import refusal

                values[offset] = None
                out_of_memory = isinstance(error, MemoryError)
                why = error if out_of_memory else refusal("result", value, error)
                raised.append(Raised(offset, why, f"{type(why).__name__}: {why}\n"))
        return raised


def offer_to_joblib() -> None:
    """Have joblib find our backends, if what items need has imported it.

    In the caller an import has registered them, of which nothing is told here.
    """
    known = getattr(sys.modules.get("joblib.parallel"), "EXTERNAL_BACKENDS", None)
    if isinstance(known, dict) and "parallelkit" not in known:
        register = partial(importlib.import_module, "parallelkit.integrations.joblib")
        known["parallelkit"] = known["parallelkit-threads"] = register


def pickled_error(error: BaseException) -> Pickled:
    """Pickle an error that concerns no item, with its traceback as text."""
    return pickling.dumps((pickling.portable(error), format_error(error)))
