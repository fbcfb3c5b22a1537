"""From varying inputs to chunks: what is drawn when, and how many items a message carries.

::

    lists, ranges, arrays ──slices──────────────┐
                                                ├─► Source.take() ─► Chunk ─► a pool
    generators, queues ──a feeder thread──rows──┘        ▲
                                                         └── Sizer: seconds per item so far

A sized input is sliced where the pool asks for it. An iterator may wait as long as it likes (a
live queue, a slow file), so a thread of its own draws from it and what is there is sent: results
come out while the input still feeds. The thread runs in a copy of the caller's context.
"""

from __future__ import annotations

import contextvars
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

__all__ = ["Chunk", "Sizer", "Source", "Stream", "Table", "source_of"]

TARGET_SECONDS = 0.015  # of work in a chunk: long beside a message (0.1 ms), short beside a wait
LARGEST = 8192  # items; keeps latency and memory bounded where items cost nothing
LARGEST_BYTES = 8 << 20
FIRST = 16  # items of the first chunks; a worker gives back what takes too long
GROWTH = 32  # one measurement is trusted so far
WINDOW_ITEMS = 64  # per worker, see window()
WINDOW_CHUNKS = 4


@dataclass(frozen=True, slots=True)
class Chunk:
    """Items `start` to `start + size` of the input, as one column for each varying argument."""

    start: int
    size: int
    columns: tuple[Any, ...]
    attempts: int = 1

    def part(self, begin: int, end: int) -> Chunk:
        """Items `begin` to `end` of this chunk as a chunk."""
        columns = tuple(column[begin:end] for column in self.columns)
        return replace(self, start=self.start + begin, size=end - begin, columns=columns)

    def args(self, offset: int) -> tuple[Any, ...]:
        """Varying arguments of one item."""
        return tuple(column[offset] for column in self.columns)


class Sizer:
    """How many items the next chunk takes: as many as run for `TARGET_SECONDS`.

    Starts small, grows 32-fold at most at a time, and where the number of items is known never
    takes more than a third of a worker's share of what remains, so that the chunks shrink
    towards the end and all workers finish together.
    """

    def __init__(self, workers: int, fixed: int | None = None) -> None:
        self._workers = workers
        self._fixed = fixed
        self._size = fixed or FIRST
        self._cost = 0.0  # seconds per item, the recent ones weigh more
        self._bytes = 0.0

    def observe(self, items: int, seconds: float, nbytes: int = 0) -> None:
        """Learn from a chunk that is finished."""
        cost = seconds / items
        self._cost = cost if self._cost == 0.0 else (self._cost + cost) / 2
        if nbytes:
            self._bytes = max(self._bytes, nbytes / items)
        if self._fixed is None:
            wish = min(LARGEST, TARGET_SECONDS / self._cost if self._cost > 0 else LARGEST)
            if self._bytes:
                wish = min(wish, LARGEST_BYTES / self._bytes)
            self._size = max(1, min(int(wish), max(self._size, items) * GROWTH))

    @property
    def seconds(self) -> float:
        """What the next chunk is expected to take; 0.0 while nothing is known."""
        return self._cost * self._size

    def size(self, remaining: int | None) -> int:
        """Items of the next chunk."""
        if remaining is None or self._fixed is not None:
            return self._size
        return max(1, min(self._size, -(-remaining // (self._workers * 3))))

    def window(self) -> int:
        """How many items may be drawn ahead of what a lazy consumer took."""
        return max(WINDOW_ITEMS * self._workers, WINDOW_CHUNKS * self._workers * self._size)


class Source:
    """Where a pool takes chunks from; one for each call.

    A pool may call `take` from several threads. ``None`` from it means "nothing right now": the
    input is waiting, or the window is full; `finished` tells whether anything may still come.
    """

    total: int | None = None  # items, where that can be known
    error: BaseException | None = None  # what the input raised; after the items before it
    aborted: BaseException | None = None  # why the call is to end at once

    def __init__(self, sizer: Sizer, lazy: bool) -> None:
        self.sizer = sizer
        self.drawn = 0
        self.taken = 0  # by the consumer; counts only where lazy
        self.lazy = lazy
        self.wake: Callable[[], object] | None = None  # called when a wait for input is over
        self._again: deque[Chunk] = deque()
        self._lock = threading.Lock()
        self._closed = False
        self._end = sys.maxsize

    def take(self) -> Chunk | None:
        """Return the next chunk, or None if there is none right now."""
        with self._lock:
            if self._again:
                return self._again.popleft()
            if self._closed:
                return None
            size = self.sizer.size(None if self.total is None else self.total - self.drawn)
            if self.lazy:
                size = min(size, self.taken + self.sizer.window() - self.drawn)
            return self._draw(size) if size > 0 else None

    def put_back(self, *chunks: Chunk) -> None:
        """Give chunks back, to be taken again before anything else."""
        with self._lock:
            self._again.extendleft(chunk for chunk in reversed(chunks) if chunk.start < self._end)

    def cut(self, index: int) -> None:
        """Give no item from `index` on any more; those before it are still wanted."""
        with self._lock:
            self._end = min(self._end, index)
            self._closed = True
            self._again = deque(chunk for chunk in self._again if chunk.start < self._end)

    @property
    def finished(self) -> bool:
        """Whether all that will ever come has been taken."""
        return not self._again and (self._closed or self._exhausted())

    @property
    def remaining(self) -> int | None:
        """Items not taken yet, where that is known."""
        if self.total is None:
            return None
        return self.total - self.drawn + sum(chunk.size for chunk in self._again)

    def wait(self) -> None:
        """Wait until `take` may give something; for a pool that has nothing else to wait for."""

    def known_empty(self, patience: float | None) -> bool:
        """Whether the input has no item at all, as far as that shows within `patience` seconds."""
        return self.total == 0

    def consumed(self, items: int) -> None:
        """Tell that the consumer took `items` results."""
        self.taken += items

    def close(self) -> None:
        """Draw no more."""
        self._closed = True

    def abort(self, error: BaseException) -> None:
        """Ask the pool that runs this to end with `error`."""
        self.aborted = error
        self.close()
        if self.wake is not None:
            self.wake()

    def _draw(self, size: int) -> Chunk | None:
        raise NotImplementedError

    def _exhausted(self) -> bool:
        raise NotImplementedError


class Table(Source):
    """Inputs of known length that can be sliced."""

    def __init__(self, columns: Sequence[Any], length: int, sizer: Sizer, lazy: bool) -> None:
        super().__init__(sizer, lazy)
        self.total = length
        self._columns = columns

    def _draw(self, size: int) -> Chunk | None:
        begin = self.drawn
        size = min(size, self._length - begin)
        if size <= 0:
            return None
        self.drawn = begin + size
        return Chunk(begin, size, tuple(column[begin : begin + size] for column in self._columns))

    @property
    def _length(self) -> int:
        assert self.total is not None
        return self.total

    def _exhausted(self) -> bool:
        return self.drawn >= self._length


class Stream(Source):
    """Inputs of which at least one is an iterator, drawn by a thread."""

    def __init__(
        self,
        iterables: Sequence[Iterable[Any]],
        lengths: Sequence[int | None],
        sizer: Sizer,
        lazy: bool,
        strict: bool,
    ) -> None:
        super().__init__(sizer, lazy)
        self.total = min((n for n in lengths if n is not None), default=None)
        self._strict = strict
        self._arity = len(iterables)
        self._rows: deque[Any] = deque()
        self._ended = False
        self._starved = True  # a pool found nothing and wants to be woken
        self._room = threading.Event()
        self._begun = threading.Event()  # the first row is there, or there will be none
        context = contextvars.copy_context()
        self._feeder = threading.Thread(
            target=context.run,
            args=(self._feed, iterables, lengths),
            name="parallelkit-feeder",
            daemon=True,
        )
        self._feeder.start()

    def consumed(self, items: int) -> None:
        super().consumed(items)
        self._room.set()

    def close(self) -> None:
        super().close()
        self._room.set()

    def known_empty(self, patience: float | None) -> bool:
        self._begun.wait(patience)
        return self._ended and not self._rows and not self.drawn

    def _draw(self, size: int) -> Chunk | None:
        rows = self._rows
        size = min(size, len(rows))
        if not size:
            self._starved = True
            # The feeder may have looked at the flag just before; look again.
            size = min(1, len(rows))
            if not size:
                self._room.set()
                return None
        taken = [rows.popleft() for _ in range(size)]
        begin = self.drawn
        self.drawn = begin + size
        if not self._room.is_set():
            self._room.set()
        return Chunk(begin, size, _columns(taken, self._arity))

    def _exhausted(self) -> bool:
        return self._ended and not self._rows

    def _feed(self, iterables: Sequence[Iterable[Any]], lengths: Sequence[int | None]) -> None:
        try:
            count = self._pull(_rows(iterables, self.total))
            if count is not None and self._strict:
                _check_count(lengths, self.total, count)
        except BaseException as error:  # noqa: BLE001 - belongs to the caller, who raises it
            self.error = error
        finally:
            self._ended = True
            self._notify()

    def _pull(self, rows: Iterator[Any]) -> int | None:
        """Draw until the end, never more than the window ahead; None if closed before."""
        append, count = self._rows.append, 0
        while True:
            self._room.clear()
            room = self._allowance() - count
            if self._closed:
                return None
            if room <= 0:
                self._room.wait()
                continue
            before = count
            for row in islice(rows, room):
                append(row)
                count += 1
                if self._starved:
                    self._starved = False
                    self._notify()
                if self._closed:
                    return None
            if count - before < room:
                return count

    def _allowance(self) -> int:
        """How many rows may have been drawn in all by now."""
        ahead = self.sizer.window()
        return ahead + (self.taken if self.lazy else self.drawn)

    def _notify(self) -> None:
        self._begun.set()
        if self.wake is not None:
            self.wake()


class Inline(Source):
    """The same, drawn by whoever takes; for a pool that has nothing else to do meanwhile."""

    def __init__(
        self,
        iterables: Sequence[Iterable[Any]],
        lengths: Sequence[int | None],
        sizer: Sizer,
        lazy: bool,
        strict: bool,
    ) -> None:
        super().__init__(sizer, lazy)
        self.total = min((n for n in lengths if n is not None), default=None)
        self._strict = strict
        self._lengths = lengths
        self._arity = len(iterables)
        self._rows = _rows(iterables, self.total)
        self._ended = False

    def _draw(self, size: int) -> Chunk | None:
        if self._ended:
            return None
        size = 1 if self.lazy else size
        taken: list[Any] = []
        begin = self.drawn
        try:
            for row in islice(self._rows, size):
                taken.append(row)
            self.drawn = begin + len(taken)
            if len(taken) < size:
                self._ended = True
                if self._strict:
                    _check_count(self._lengths, self.total, self.drawn)
        except BaseException as error:  # noqa: BLE001 - raised after the items before it
            self.error, self._ended = error, True
        self.drawn = begin + len(taken)
        return Chunk(begin, len(taken), _columns(taken, self._arity)) if taken else None

    def _exhausted(self) -> bool:
        return self._ended


def source_of(
    iterables: Sequence[Iterable[Any]],
    *,
    sizer: Sizer,
    lazy: bool,
    strict: bool,
    inline: bool,
) -> Source:
    """Source of the rows of `iterables`.

    Raises
    ------
    TypeError
        If one of them cannot be iterated.
    ValueError
        If `strict` and sized ones differ in length.

    Iterators are drawn by a thread, or `inline` by whoever takes the chunks.
    """
    columns = [_column(position, iterable) for position, iterable in enumerate(iterables)]
    lengths = [len(column) if hasattr(column, "__len__") else None for column in columns]
    known = [length for length in lengths if length is not None]
    if strict and len(set(known)) > 1:
        told = ", ".join(_length_of(i, n) for i, n in enumerate(lengths))
        raise ValueError(f"inputs differ in length: {told} (strict=False cuts at the shortest)")
    if all(map(_sliceable, columns)):
        return Table(columns, min(known), sizer, lazy)
    return (Inline if inline else Stream)(columns, lengths, sizer, lazy, strict)


def _rows(iterables: Sequence[Iterable[Any]], total: int | None) -> Iterator[Any]:
    iterators = [iter(iterable) for iterable in iterables]
    rows: Iterator[Any] = iterators[0] if len(iterators) == 1 else zip(*iterators, strict=False)
    return rows if total is None else islice(rows, total)


def _columns(rows: list[Any], arity: int) -> tuple[Any, ...]:
    return (rows,) if arity == 1 else tuple(map(list, zip(*rows, strict=True)))


def _check_count(lengths: Sequence[int | None], total: int | None, count: int) -> None:
    if total is not None and count < total:
        raise ValueError(_too_short(lengths, count))


def _column(position: int, iterable: Any) -> Any:
    """`iterable` in a form that can be sliced, where that costs no more than references."""
    if _sliceable(iterable):
        return iterable
    try:
        iterator = iter(iterable)
    except TypeError:
        raise TypeError(
            f"input {position} is {_short(iterable)}, which cannot be iterated; "
            "pass a value that is the same for all items by keyword: map(func, xs, name=value)"
        ) from None
    # Sets, dict views, deques; and a DataFrame, which has as many items as columns, not rows.
    in_memory = type(iterable).__module__ in ("builtins", "collections") or hasattr(iterable, "keys")
    return list(iterator) if in_memory and hasattr(iterable, "__len__") else iterable


def _sliceable(value: Any) -> bool:
    """Whether slices of `value` are sequences of its items. Tells an ndarray without numpy."""
    kind = type(value)
    if kind in (list, tuple, range, str, bytes, bytearray) or kind.__module__ == "array":
        return True
    is_array = any(c.__name__ == "ndarray" and c.__module__ == "numpy" for c in kind.__mro__)
    return is_array and value.ndim > 0


def _length_of(position: int, length: int | None) -> str:
    return f"input {position} " + ("is an iterator" if length is None else f"has {length} items")


def _too_short(lengths: Sequence[int | None], count: int) -> str:
    told = ", ".join(_length_of(i, n) for i, n in enumerate(lengths))
    return f"an iterator ended after {count} items: {told} (strict=False cuts at the shortest)"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"of type {type(value).__name__}"
