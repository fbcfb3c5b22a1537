"""Where inputs become sources: what can be sliced, and what has to be drawn.

An iterator may wait as long as it likes (a live queue, a slow file), so a thread of its own draws
from it and what is there is sent: results come out while the input still feeds. The thread runs
in a copy of the caller's context.
"""

from __future__ import annotations

import contextvars
import threading
from _queue import SimpleQueue  # `queue` has others, which take imports
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from ..place import limits
from ..place.attributes import attribute
from ..values.sizer import Sizer
from ..values.source import Chunk, Source, Table
from ..values.weight import weight

__all__ = ["Inline", "Stream", "source_of"]

_PLAIN = (list, tuple, range, str, bytes, bytearray)


class _Room:
    """An event for which one thread waits, and which a signal handler's error cannot leave locked.

    (`threading.Event` has a lock that is kept where an error strikes while it is being taken.)
    """

    __slots__ = ("_set", "_wakes")

    def __init__(self) -> None:
        self._set = False
        self._wakes: SimpleQueue[None] = SimpleQueue()

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        self._wakes.put(None)  # also where it is set: the last one may have been cut off here

    def clear(self) -> None:
        self._set = False
        while not self._wakes.empty():
            self._wakes.get()

    def wait(self) -> None:
        while not self._set:
            self._wakes.get()


class _Drawn(Source):
    """What both kinds of inputs with an iterator among them know."""

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
        self._ended = False  # whether the iterators have given all that they will
        self._begin(iterables)

    def _begin(self, iterables: Sequence[Iterable[Any]]) -> None:
        raise NotImplementedError


class Stream(_Drawn):
    """Inputs of which at least one is an iterator, drawn by a thread."""

    def _begin(self, iterables: Sequence[Iterable[Any]]) -> None:
        self._rows: deque[Any] = deque()
        self._starved = True  # a pool found nothing and wants to be woken
        self._room = _Room()
        self._begun = threading.Event()  # the first row is there, or there will be none
        context = contextvars.copy_context()
        self._feeder = threading.Thread(
            target=context.run,
            args=(self._feed, iterables),
            name="parallelkit-feeder",
            daemon=True,
        )
        limits.start(self._feeder)

    def consumed(self, items: int) -> None:
        """Tell that the consumer took `items` results, and let the feeder draw as many more."""
        super().consumed(items)
        self._room.set()

    def close(self) -> None:
        """Draw no more; an iterator that waits ends its thread when it gives something."""
        super().close()
        self._room.set()
        self._begun.set()

    def known_empty(self, patience: float | None) -> bool:
        """Whether the iterators turn out within `patience` seconds to give nothing at all."""
        self._begun.wait(patience)
        return self._ended and not self._rows and not self.drawn

    def _draw(self, size: int) -> Chunk | None:
        rows = self._rows
        size = min(size, len(rows), self.sizer.first(len(rows)))
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

    def _feed(self, iterables: Sequence[Iterable[Any]]) -> None:
        try:
            count = self._pull(_rows(iterables, self.total))
            if count is not None and self._strict:
                _check_count(self._lengths, self.total, count)
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
                if count == before + 1:
                    room = self._weighed(row, before, room)
                if self._starved:
                    self._starved = False
                    self._notify()
                if self._closed:
                    return None
                if count - before >= room:
                    break
            if count - before < room:
                return count

    def _weighed(self, row: Any, before: int, room: int) -> int:
        """How many rows there is room for, the others being likely to be as large as `row`."""
        nbytes = weight(row)
        if not nbytes:
            return room
        self.sizer.weigh(nbytes)
        return min(room, max(1, self._allowance() - before))

    def _allowance(self) -> int:
        """How many rows may have been drawn in all by now."""
        ahead = self.sizer.window()
        return ahead + (self.taken if self.lazy else self.drawn)

    def _notify(self) -> None:
        self._begun.set()
        wake = self.wake
        if wake is not None:
            wake()


class Inline(_Drawn):
    """The same, drawn by whoever takes; for a pool that has nothing else to do meanwhile."""

    def _begin(self, iterables: Sequence[Iterable[Any]]) -> None:
        self._rows = _rows(iterables, self.total)

    def _draw(self, size: int) -> Chunk | None:
        if self._ended:
            return None
        size = 1 if self.lazy else size
        taken: list[Any] = []
        begin = self.drawn
        try:
            for row in islice(self._rows, size):
                taken.append(row)  # noqa: PERF402 - what comes before an error counts
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
    if len(iterables) == 1 and type(iterables[0]) in (list, tuple):
        return Table(iterables, len(iterables[0]), sizer, lazy)  # type: ignore[arg-type]
    columns = [_column(position, iterable) for position, iterable in enumerate(iterables)]
    lengths = [_length(column) for column in columns]
    known = [length for length in lengths if length is not None]
    if strict and len(set(known)) > 1:
        told = ", ".join(_length_of(i, n) for i, n in enumerate(lengths))
        raise ValueError(f"inputs differ in length: {told} (strict=False cuts at the shortest)")
    if all(map(_sliceable, columns)) and len(known) == len(columns):
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
    in_memory = type(iterable).__module__ in ("builtins", "collections") or (
        attribute(iterable, "keys") is not None
    )
    return list(iterator) if in_memory and _length(iterable) is not None else iterable


def _length(column: Any) -> int | None:
    """Number of items, where that can be known."""
    try:
        return len(column)
    except (TypeError, OverflowError):  # it has none, or more than can be counted
        return None


def _sliceable(value: Any) -> bool:
    """Whether slices of `value` are sequences of its items. Tells an ndarray without numpy."""
    kind = type(value)
    if kind in _PLAIN or kind.__module__ == "array":
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
