"""From varying inputs to chunks: what is drawn when.

::

    lists, ranges, arrays ──slices──────────────┐
                                                ├─► Source.take() ─► Chunk ─► a pool
    generators, queues ──a feeder thread──rows──┘        ▲
    (`engine.inputs`)                                    └── `sizer`: how many items
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from .sizer import LARGEST_BYTES, Sizer
from .weight import weight

__all__ = ["MOST_AHEAD", "Chunk", "Source", "Table"]

Wakes = Callable[[], None]
AHEAD_SECONDS = 0.002  # of work that a worker has in advance
MOST_AHEAD = 8  # chunks


class Chunk:
    """Items `start` to `start + size` of the input, as one column for each varying argument."""

    __slots__ = ("attempts", "columns", "size", "start")

    def __init__(self, start: int, size: int, columns: tuple[Any, ...], attempts: int = 1) -> None:
        self.start = start
        self.size = size
        self.columns = columns
        self.attempts = attempts

    def part(self, begin: int, end: int) -> Chunk:
        """Items `begin` to `end` of this chunk as a chunk."""
        if begin == 0 and end == self.size:
            return self
        columns = tuple(column[begin:end] for column in self.columns)
        return Chunk(self.start + begin, end - begin, columns, self.attempts)

    def args(self, offset: int) -> tuple[Any, ...]:
        """Varying arguments of one item."""
        return tuple(column[offset] for column in self.columns)


class _Timer(threading.Timer):
    """A timer whose time may be over at once."""

    _hurried = False

    def hurry(self) -> None:
        """Do what is to be done now, in the timer's thread."""
        self._hurried = True
        self.finished.set()

    def run(self) -> None:
        """Wait, and do it, unless it is cancelled."""
        if not self.finished.wait(self.interval) or self._hurried:
            self.function(*self.args, **self.kwargs)


class Source:
    """Where a pool takes chunks from; one for each call.

    A pool may call `take` from several threads. ``None`` from it means "nothing right now": the
    input is waiting, or the window is full; `finished` tells whether anything may still come.
    """

    total: int | None = None  # items, where that can be known
    endless = False  # whether it lives as long as a pool, and mostly waits
    error: BaseException | None = None  # what the input raised; after the items before it
    aborted: BaseException | None = None  # why the call is to end at once

    drawn = 0
    taken = 0  # by the consumer; counts only where lazy
    wake: Callable[[], object] | None = None  # called when a wait for input is over
    push: Callable[[], object] | None = None  # instead, where the caller may do the work
    deliver: Callable[[Chunk, Any], object] | None = None  # takes outcomes in any thread
    # Given by a pool whose waiting may be done by whoever waits for a result of an endless source:
    # called with what tells whether that is there, a list that meanwhile has what ends the wait,
    # and a time-out.
    help: Callable[[Callable[[], bool], list[Wakes], float | None], object] | None = None
    # By a pool that runs an endless source in the thread in which its results are taken: the same
    # for this thread, called with what tells whether the result is there.
    meanwhile: Callable[[Callable[[], bool]], object] | None = None
    last_attempt = False  # what fails from now on is not tried again
    _closed = False
    _end = sys.maxsize

    def __init__(self, sizer: Sizer, lazy: bool) -> None:
        self.sizer = sizer
        self.lazy = lazy
        self._again: deque[Chunk] = deque()
        self._later: dict[int, _Timer] = {}  # by the first item of what is given back
        self._lock = threading.Lock()

    def take(self) -> Chunk | None:
        """Return the next chunk, or None if there is none right now."""
        with self._lock:
            if self._again:
                return self._next_again()
            if self._closed:
                return None
            size = self.sizer.size(None if self.total is None else self.total - self.drawn)
            if self.lazy:
                size = min(size, self.taken + self.sizer.window() - self.drawn)
            return self._draw(size) if size > 0 else None

    def _next_again(self) -> Chunk | None:
        """Return what was given back; cut, if the items turned out to be long, or to be large."""
        size = self.sizer.size(None)
        if self.lazy:
            waiting = sum(chunk.size for chunk in self._again)
            room = self.taken + self.sizer.window() - (self.drawn - waiting)
            if room <= 0:
                return self._due()
            size = min(size, room)
        chunk = self._again.popleft()
        if chunk.size <= size:
            return chunk
        self._again.appendleft(chunk.part(size, chunk.size))
        return chunk.part(0, size)

    def _due(self) -> Chunk | None:
        """Return the item that the consumer of an ordered call waits for, if it was given back."""
        for place, chunk in enumerate(self._again):
            offset = self.taken - chunk.start
            if 0 <= offset < chunk.size:
                del self._again[place]
                rest = [chunk.part(0, offset), chunk.part(offset + 1, chunk.size)]
                self._again.extendleft(part for part in reversed(rest) if part.size)
                return chunk.part(offset, offset + 1)
        return None

    def put_back(self, *chunks: Chunk) -> None:
        """Give chunks back, to be taken again before anything else."""
        with self._lock:
            self._again.extendleft(chunk for chunk in reversed(chunks) if chunk.start < self._end)

    def put_back_later(self, seconds: float, chunk: Chunk) -> None:
        """Give a chunk back after a while."""
        if self.wake is None:  # the pool would not learn of it: it has nothing else to wait for
            self.rest(seconds)
            self.put_back(chunk)
            return
        timer = _Timer(seconds, self._put_back_now, (chunk,))
        timer.daemon = True
        self._later[chunk.start] = timer
        timer.start()
        if self.last_attempt:  # since it was decided that there is to be another one
            timer.hurry()

    def rest(self, seconds: float) -> None:
        """Let time pass before the next attempt."""
        time.sleep(seconds)

    def _put_back_now(self, chunk: Chunk) -> None:
        self.put_back(chunk)
        self._later.pop(chunk.start, None)
        wake = self.wake
        if wake is not None:
            wake()

    def cut(self, index: int) -> None:
        """Give no item from `index` on any more; those before it are still wanted."""
        for start, timer in list(self._later.items()):
            if start >= index:
                timer.cancel()
                self._later.pop(start, None)
        with self._lock:
            self._end = min(self._end, index)
            self._closed = True
            self._again = deque(chunk for chunk in self._again if chunk.start < self._end)

    @property
    def hurried(self) -> bool:
        """Whether somebody is to be told of results who does not wait for them."""
        return False

    @property
    def idle(self) -> bool:
        """Whether it is known, without a look at the input, that `take` gives nothing just now."""
        return False

    @property
    def waits(self) -> bool:
        """Whether something waits to be taken, be it after a while."""
        return bool(self._later) or not self.idle

    @property
    def finished(self) -> bool:
        """Whether all that will ever come has been taken."""
        if self._again or (self._later and self.aborted is None):
            return False
        return self._closed or self._exhausted()

    @property
    def remaining(self) -> int | None:
        """Items not taken yet, where that is known."""
        if self.total is None:
            return None
        return self.total - self.drawn + sum(chunk.size for chunk in self._again)

    def depth(self, workers: int, seconds: float) -> int:
        """How many chunks a worker may have: more than one where they are shorter than `seconds`.

        Very short ones, as a fixed size may make them, fill `AHEAD_SECONDS`. Near the end there is
        one for each, as the second could wait while another worker has nothing to do.
        """
        expected = self.sizer.seconds
        if not 0.0 < expected < seconds:
            return 1
        wish = min(MOST_AHEAD, max(2, int(AHEAD_SECONDS / expected)))
        if nbytes := self.sizer.nbytes:
            wish = max(2, min(wish, LARGEST_BYTES // nbytes))
        left = self.remaining
        if left is None or left > wish * workers:
            return wish
        return 2 if left > 2 * workers else 1

    def wait(self) -> None:
        """Wait until `take` may give something; for a pool that has nothing else to wait for."""

    def known_empty(self, patience: float | None) -> bool:  # noqa: ARG002 - for inputs that wait
        """Whether the input has no item at all, as far as that shows within `patience` seconds."""
        return self.total == 0

    def elsewhere(self, chunk: Chunk) -> bool:  # noqa: ARG002 - for those that many wait for
        """Whether an outcome must be delivered by the thread that runs the call."""
        return True

    def consumed(self, items: int) -> None:
        """Tell that the consumer took `items` results."""
        self.taken += items

    def close(self) -> None:
        """Draw no more."""
        self._closed = True

    def end(self) -> None:
        """The call is over: nothing comes back any more."""
        self.close()
        for timer in list(self._later.values()):
            timer.cancel()
        self._later.clear()

    def abort(self, error: BaseException) -> None:
        """Ask the pool that runs this to end with `error`."""
        self.aborted = error
        self.close()
        wake = self.wake
        if wake is not None:
            wake()

    def _draw(self, size: int) -> Chunk | None:
        raise NotImplementedError

    def _exhausted(self) -> bool:
        raise NotImplementedError


class Table(Source):
    """Inputs of known length that can be sliced."""

    def __init__(self, columns: Sequence[Any], length: int, sizer: Sizer, lazy: bool) -> None:
        super().__init__(sizer, lazy)
        self.total = self._length = length
        self._columns = columns
        if length:
            nbytes = 0
            for column in columns:
                nbytes += weight(column[0])
            if nbytes:
                sizer.weigh(nbytes)

    def _draw(self, size: int) -> Chunk | None:
        begin = self.drawn
        size = min(size, self._length - begin)
        if size <= 0:
            return None
        self.drawn = end = begin + size
        columns = tuple([column[begin:end] for column in self._columns])
        for column in columns:
            if len(column) != size:
                return self._shortened(begin, columns)
        return Chunk(begin, size, columns)

    def _shortened(self, begin: int, columns: tuple[Any, ...]) -> Chunk | None:
        """End the input where the first of its lists ends by now."""
        there = min(map(len, columns))
        self.error = ValueError(
            f"an input of {self._length} items was shortened while they were being worked on, and "
            f"ended after {begin + there}: give a copy of it"
        )
        self.total = self._length = self.drawn = begin + there
        columns = tuple([column[:there] for column in columns])
        return Chunk(begin, there, columns) if there else None

    @property
    def finished(self) -> bool:
        """Whether all that will ever come has been taken; asked several times a chunk."""
        if self.drawn >= self._length and not (self._again or self._later):
            return True
        return super().finished

    def _exhausted(self) -> bool:
        return self.drawn >= self._length
