"""What workers have been sent of tasks, so that nothing is sent, or made, twice.

A task that says the same as one before it keeps the key of that one: a chunk then names the task,
and nothing of it crosses. Large ones lie in a segment, which is free again when the call is over
and the last worker has let go of it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ...transport.channel import take_all
from ...transport.importable import is_named, is_reachable
from ...transport.pickling import Pickled
from ...transport.script import script
from ...transport.segments import Outbox, Packet, Segment

if TYPE_CHECKING:
    from ...worker.context import Variables
    from ..base import Task

__all__ = ["Holder", "PreparedTask", "Tasks", "forgotten"]

KEPT = 512 << 20  # bytes of free segments
REMEMBERED = 64  # tasks that workers keep although no call needs them
MOST_BYTES = 64 << 20  # of these together, but for the last one


Kept = tuple[bytes, int]  # a pickle, and what of the modules that it names was reloaded by then


class Holder:
    """A worker, as far as tasks go."""

    known: set[int]  # tasks that it has
    over: list[int]  # tasks that it is to forget
    sharing: bool  # whether it may have shared memory mapped for a call


H = TypeVar("H", bound=Holder)


class PreparedTask:
    """A task on its way.

    Attributes
    ----------
    key : int
        What the workers call it.
    pickled : Pickled
    """

    __slots__ = (
        *("calls", "kept", "key", "packet", "pickled", "roots", "script", "segment", "users"),
    )

    def __init__(self, key: int, pickled: Pickled, kept: Kept | None) -> None:
        self.key = key
        self.pickled = pickled if kept is None else pickled._replace(needs=())
        self.roots: tuple[Any, ...] = ()  # what it names of the script
        self.script: Any = pickled.needs or None  # what it needs of that, while there are calls
        self.kept = kept  # by which it is found again
        self.calls = 1
        self.packet: Packet | None = None
        self.segment: Segment | None = None
        self.users: set[Holder] = set()  # who has not released the segment


class _Opened:
    """A task of a function that is known by name, as it was prepared, to be found without a pickle.

    Nothing of the caller's is kept alive by it, once that was defined anew.
    """

    __slots__ = ("_frozen", "_func", "_importable", "_told", "prepared", "reloaded")

    def __init__(self, task: Task, prepared: PreparedTask) -> None:
        self._func = weakref.ref(task.func)
        self._importable = is_reachable(task.func)
        self._frozen = dict(task.frozen)
        self._told = _told(task)
        self.reloaded = script.reloaded
        self.prepared = prepared

    def is_of(self, task: Task) -> bool:
        """Whether `task` would be pickled to the same."""
        func, frozen = task.func, task.frozen
        if self._func() is not func or self._told != _told(task):
            return False
        if frozen or self._frozen:
            if frozen.keys() != self._frozen.keys():
                return False
            for name, value in frozen.items():
                if self._frozen[name] is not value:
                    return False
        return is_reachable(func) if self._importable else is_named(func)


def _told(task: Task) -> tuple[Any, ...]:
    """What a task says besides its function and keywords."""
    return (
        *(task.stop_at_error, task.places, task.configured, task.cores),
        *(task.timeout, task.blas_threads, task.alone),
    )


class Tasks:
    """The tasks of one pool's calls.

    Parameters
    ----------
    folder : str or None
        Where segments lie that need a file.
    """

    def __init__(self, folder: str | None) -> None:
        self._lock = threading.RLock()
        self.outbox = Outbox(cap=KEPT, folder=folder)
        self._keys = 0
        self._remembered: dict[Kept, PreparedTask] = {}  # the last used one last
        self._nbytes = 0  # of these
        self._opened: dict[int, _Opened] = {}  # by the id of the function
        self._in_segments: dict[int, PreparedTask] = {}
        self._news: PreparedTask | None = None  # what was last told of the script
        self._deaths = 0  # of the script, when tasks were last let go of for them

    def find(self, task: Task, variables: Variables) -> PreparedTask | None:
        """A task as it was prepared for an earlier call; None if it must be pickled.

        Raises
        ------
        Unsendable
            If something of the script that it needs cannot be pickled any more.
        """
        opened = self._opened.get(id(task.func))
        if opened is None or variables or task.seed is not None or not opened.is_of(task):
            return None
        prepared = opened.prepared
        needs = script.prepare(prepared.roots)
        if opened.reloaded != script.reloaded:  # its names may stand for something else
            return None
        with self._lock:
            assert prepared.kept is not None
            if self._remembered.pop(prepared.kept, None) is not prepared:
                return None
            self._remembered[prepared.kept] = prepared
            prepared.calls += 1
            prepared.script = needs
        return prepared

    def keep(
        self, task: Task, variables: Variables, prepared: PreparedTask, roots: Sequence[Any]
    ) -> None:
        """Remember how a task was prepared, where its function goes by its name."""
        func = task.func
        if prepared.kept is None or variables or task.seed is not None:
            return
        if is_reachable(func) or is_named(func):
            prepared.roots = tuple(roots)
            self._opened[id(func)] = _Opened(task, prepared)
            if len(self._opened) > REMEMBERED:
                del self._opened[next(iter(self._opened))]

    def prepare(self, pickled: Pickled, again: bool) -> PreparedTask:
        """A task for a call; `again` tells whether a worker may use its copy for other calls."""
        plain = again and not pickled.buffers and not pickled.shared
        data = (b"".join(pickled.pieces), script.reloaded) if plain else None
        with self._lock:
            found = None if data is None else self._remembered.pop(data, None)
            if found is None:
                self._keys += 1
                found = PreparedTask(self._keys, pickled, data)
                self._nbytes += 0 if data is None else len(data[0])
            else:
                found.calls += 1
                found.script = pickled.needs or None
            if data is not None:
                self._remembered[data] = found
            return found

    def for_worker(self, task: PreparedTask, worker: Holder, fds: list[int]) -> Packet | None:
        """What a worker needs to make the task; None if it has it. May add to `fds`."""
        if task.key in worker.known:
            return None
        worker.known.add(task.key)
        return self._packed(task, worker, fds)

    def news_for_worker(self, pickled: Pickled, worker: Holder, fds: list[int]) -> Packet:
        """What a worker is told of the script, packed once for several that are told the same."""
        with self._lock:
            news = self._news
            if news is None or news.pickled is not pickled:
                if news is not None:
                    news.calls = 0
                    self._free_if_unused(news)
                news = self._news = PreparedTask(0, pickled, None)
            return self._packed(news, worker, fds)

    def _packed(self, task: PreparedTask, worker: Holder, fds: list[int]) -> Packet:
        with self._lock:
            if task.packet is None:
                task.packet, task.segment = self.outbox.pack(task.pickled)
                if task.segment is not None:
                    self._in_segments[task.segment.id] = task
            if task.segment is not None:
                task.users.add(worker)
                fds.append(task.segment.fd)
            fds += [memory.fd for memory in task.pickled.shared]
            return task.packet

    def end(self, task: PreparedTask, workers: Iterable[H]) -> list[H]:
        """A call is over. Return the workers that hold memory for it, to be told so at once."""
        told = [worker for worker in workers if worker.sharing]
        for worker in told:
            worker.sharing = False
        with self._lock:
            task.calls -= 1
            if not task.calls:
                task.script = None
            over = [] if task.calls or task.kept is not None else [task]
            full = len(self._remembered) > REMEMBERED or self._nbytes > MOST_BYTES
            if full or self._deaths != script.deaths:
                over += self._not_to_be_kept()
            for one in over:
                if one.kept is not None:
                    del self._remembered[one.kept]
                    self._nbytes -= len(one.kept[0])
                for worker in workers:
                    if one.key in worker.known:
                        worker.known.discard(one.key)
                        worker.over.append(one.key)
                        if one.segment is not None and worker not in told:
                            told.append(worker)
                self._free_if_unused(one)
            return told

    def _not_to_be_kept(self) -> list[PreparedTask]:
        """Of the tasks that no call needs, those of what was defined anew, and the oldest."""
        self._deaths = script.deaths
        idle = [one for one in self._remembered.values() if not one.calls]
        over = [one for one in idle if any(root.lost for root in one.roots)]
        tasks = len(self._remembered) - len(over)
        nbytes = self._nbytes - sum(len(one.kept[0]) for one in over if one.kept is not None)
        for one in idle[:-1]:
            if tasks <= REMEMBERED and nbytes <= MOST_BYTES:
                break
            if one not in over and one.kept is not None:
                over.append(one)
                tasks -= 1
                nbytes -= len(one.kept[0])
        for number, opened in list(self._opened.items()):
            if opened.prepared in over:
                self._opened.pop(number, None)
        return over

    def freed(self, worker: Holder, segments: Sequence[int]) -> None:
        """A worker refers to these segments no more."""
        with self._lock:
            for number in segments:
                task = self._in_segments.get(number)
                if task is not None:
                    task.users.discard(worker)
                    self._free_if_unused(task)

    def bury(self, worker: Holder) -> None:
        """A worker uses nothing any more."""
        with self._lock:
            for task in list(self._in_segments.values()):
                task.users.discard(worker)
                self._free_if_unused(task)

    def _free_if_unused(self, task: PreparedTask) -> None:
        if task.segment is not None and not task.users and not task.calls:
            number = task.segment.id
            if self._in_segments.pop(number, None) is not None:
                self.outbox.free([number])

    def close(self) -> None:
        """Give the memory back."""
        self.outbox.close()


def forgotten(worker: Holder) -> list[int]:
    """Keys that a worker is to be told to forget, with the next message that can tell."""
    return take_all(worker.over) if worker.over else []
