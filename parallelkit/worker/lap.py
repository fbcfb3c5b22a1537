"""What a chunk of a traced call takes, item by item, measured where it runs.

::

    worker takes it ─► unpickles ─► items ─► pickles what came of them ─► answers
       `taken`            Lap.around (each item)           Lap.answered

Elsewhere than in a worker process there is nothing to unpickle or to pickle, and the record is
written when the items have run.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..place import system
from ..place.recording import Here, Traced, called, current, record, told
from ..values.call import Delayed, apply_call, apply_parts
from ..values.caller import beside
from ..values.outcome import Raised
from ..values.source import Chunk

__all__ = ["Lap"]

# Of a chunk with more items some are told, at even distances, and those that take long.
MOST_ITEMS = 64
LONG = 0.001  # seconds
MANY = 50_000  # items that a process has told; from then on a few of each chunk are
FEW = 4

_clock = time.perf_counter
_thread_time = getattr(time, "thread_time", time.process_time)
_process_time = time.process_time
_told: tuple[tuple[str, ...], int] = (), 0  # items so far in this process, and for which traces


class Lap:
    """One chunk on its way through this process.

    Parameters
    ----------
    traced : Traced
    chunk : Chunk
    rank : int
        Of the worker.
    taken : float
        When the work on it began, by ``time.perf_counter``.
    """

    def __init__(self, traced: Traced, chunk: Chunk, rank: int, taken: float) -> None:
        self._traced = traced
        self._start = chunk.start
        self._size = chunk.size
        self._rank = rank
        self._taken = taken
        self._items: list[tuple[int, float, float, str, int]] = []
        self._values: list[Any] = []
        self._batched = False
        self._failed: list[tuple[int, str]] = []
        many = _told[0] == traced.folders and _told[1] > MANY
        self._every = -(-chunk.size // (FEW if many else MOST_ITEMS))
        self._long = 100 * LONG if many else LONG
        here = chunk.start, chunk.size, threading.get_native_id()
        record(traced.folders, ("begun", traced.call, *here, _clock()))
        self._thread_seconds, self._process_seconds = _thread_time(), _process_time()
        self._begin = self._end = self._last = _clock()

    @property
    def index(self) -> int:
        """Index of the item that runs."""
        return self._start + len(self._values)

    def around(
        self, call: Callable[..., Any], func: Callable[..., Any], values: list[Any], batch: int
    ) -> Callable[..., Any]:
        """Return `call`, which calls the task's `func`, with the time of each item taken.

        `values` are the results so far.
        Very short items run `batch` at a time, and are measured so; see `some`. From here on calls
        in this context are the items'.
        """
        current.set(Here(self._traced, self))
        self._values = values
        if batch > 1:
            self._batched = True
            self._every = -(-self._every // batch)
            return call
        several, call = func is apply_call or func is apply_parts, beside(call)
        items, every, long, clock = self._items, self._every, self._long, _clock

        def timed(*args: Any) -> Any:
            begin = clock()
            try:
                return call(*args)
            finally:
                end = clock()
                done = len(values)
                if not done % every or end - begin > long:
                    items.append((done, begin, end, _name(args) if several else "", 1))

        return timed

    def some(self, done: int, count: int, now: float) -> None:
        """`count` items have run after the first `done`, by `now`."""
        if self._batched:
            if not (done // count) % self._every or now - self._last > self._long:
                self._items.append((done, self._last, now, "", count))
            self._last = now

    def ran(self, raised: Sequence[Raised]) -> None:
        """The items have run, or what was to be run of them."""
        global _told
        self._end = _clock()
        self._thread_seconds = _thread_time() - self._thread_seconds
        self._process_seconds = _process_time() - self._process_seconds
        self._failed = [(r.offset, told(r.exception)) for r in raised]
        folders = self._traced.folders
        _told = folders, len(self._items) + (_told[1] if _told[0] == folders else 0)

    def answered(self, nbytes: int) -> None:
        """Write down all of it; what came of the items is pickled, if it has to be."""
        where = self._start, self._size, len(self._values), self._rank, threading.get_native_id()
        times = self._taken, self._begin, self._end, _clock()
        cost = self._thread_seconds, self._process_seconds, *_memory(), nbytes
        traced = self._traced
        record(
            traced.folders, ("ran", traced.call, *where, *times, *cost, self._items, self._failed)
        )


def _name(args: tuple[Any, ...]) -> str:
    """Name of the function of an item that brings its own."""
    if not args:
        return ""
    if isinstance(args[0], Delayed):
        return called(args[0].func, args[0].args)
    return called(args[0], args[1])


_looked, _used = 0.0, (0, 0)
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def _memory() -> tuple[int, int]:
    """Bytes of memory that this process has in use, and the most it ever had; now and then."""
    global _looked, _used
    now = _clock()
    if now - _looked > 0.01:
        _looked, _used = now, _memory_now()
    return _used


def _memory_now() -> tuple[int, int]:
    """The same, looked at now; twice the most it had, where that alone is known."""
    try:
        import resource
    except ImportError:
        return 0, 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    most = most if system.MACOS else most * 1024
    if not system.LINUX:
        return most, most
    try:
        with open(f"{system.PROC}/self/statm", "rb", 0) as file:
            return int(file.read(64).split()[1]) * _PAGE, most
    except (OSError, ValueError, IndexError):
        return 0, most
