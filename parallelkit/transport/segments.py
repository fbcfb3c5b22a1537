"""Shared segments: large messages and arrays, without a name that could be left behind.

::

    sender                                              receiver
    Outbox.pack ── copies into a segment ── message ──► Inbox.adopt ── maps it, once
       ▲                                                Inbox.unpack ─ views or copies
       └──────────── ids of segments that are free again, with the next message

A segment is memory that has a descriptor but no name in the file system (see `anonymous`); the
descriptor crosses beside the message that first names it. The kernel frees it with its last user,
however that ends.

Fresh shared pages are dear (52 ms for 64 MB by mapping, 30 by ``pwrite``, 4 where the pages are
already there), so segments are recycled: a worker's as soon as the parent has copied out of it,
the parent's once the worker has shown that nothing there refers to the memory any more.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ParallelError
from ..place import limits, system
from ..place.sigint import pass_on
from . import anonymous
from .pickling import Pickled

if TYPE_CHECKING:
    from .inheritance import Descriptor
    from .shared import Shared

__all__ = [
    "INLINE",
    "Inbox",
    "Missing",
    "Outbox",
    "Packet",
    "Segment",
    "control_block",
    "opened_block",
]

INLINE = 1 << 15  # bytes that travel in the message itself
SMALLEST = 1 << 16
ALIGN = 64

# What a message says of a pickle: (its bytes, or None and then: segment, its size, spans).
# A span is (offset, length, read-only); the first is the pickle, the others its buffers. Last come
# names and sizes of the shared memory whose descriptors go beside the message.
Span = tuple[int, int, bool]
Packet = tuple[bytes | None, int, int, tuple[Span, ...], tuple[tuple[str, int], ...]]


class Segment:
    """Shared memory of this process's making."""

    __slots__ = ("fd", "id", "map", "size", "view")

    def __init__(self, number: int, size: int, folder: str | None) -> None:
        self.id = number
        self.size = size
        self.map: mmap.mmap | None = None
        self.view: memoryview | None = None
        self.fd = anonymous.create(size, folder, "parallelkit")
        if not anonymous.WRITES:
            try:
                self._map()
            except BaseException:
                self.close()
                raise

    def write(self, parts: Sequence[Any], offsets: Sequence[int]) -> None:
        """Copy `parts` to `offsets`, without a map where pages are fresh and that is faster."""
        if self.view is None:
            for part, offset in zip(parts, offsets, strict=True):
                anonymous.write(self.fd, part, offset)
            return
        for part, offset in zip(parts, offsets, strict=True):
            self.view[offset : offset + len(part)] = part

    def recycle(self) -> None:
        """Get ready for another use. Untouched pages are reserved now, where that is possible."""
        if self.view is None and system.ALLOCATES:
            anonymous.reserve(self.fd, self.size)
            self._map()

    def _map(self) -> None:
        self.map = anonymous.mapped(self.fd, self.size, populate=True)
        self.view = memoryview(self.map)

    def close(self) -> None:
        """Give the memory back, as far as this side is concerned."""
        if self.view is not None and self.map is not None:
            self.view.release()
            self.map.close()
            self.view = self.map = None
        if self.fd >= 0:
            anonymous.close(self.fd)
            self.fd = -1


def control_block(nbytes: int) -> tuple[int, memoryview]:
    """Small shared memory for a word or two: its descriptor and a view of it."""
    fd = anonymous.create(nbytes, None, "parallelkit")
    try:
        return fd, opened_block(fd, nbytes)
    except BaseException:
        anonymous.close(fd)
        raise


def opened_block(fd: int, nbytes: int) -> memoryview:
    """View of such memory."""
    return memoryview(anonymous.mapped(fd, nbytes))


class Outbox:
    """Sender's side: packs pickles, into segments of its own where they are large.

    Parameters
    ----------
    cap : int
        Bytes in free segments that are kept for another use.
    folder : str or None
        Where segments lie that need a file.
    """

    def __init__(self, cap: int = 256 << 20, folder: str | None = None) -> None:
        self._cap = cap
        self._folder = folder
        self._count = 0
        self._leased: dict[int, Segment] = {}
        self._free: list[Segment] = []
        self.forgotten: list[int] = []  # ids that receivers should unmap, for the next message

    def pack(self, pickled: Pickled) -> tuple[Packet, Segment | None]:
        """Packet for a message, and the segment that it names, if any.

        The receiver needs ``segment.fd`` beside the first message that names the segment.
        Where no segment can be had the packet is whole in the message: slower, but it arrives.
        """
        shared = tuple((memory.token, len(memory)) for memory in pickled.shared)
        if not pickled.buffers and sum(map(len, pickled.pieces)) <= INLINE:
            return (b"".join(pickled.pieces), 0, 0, (), shared), None
        parts: list[Any] = list(pickled.pieces)
        offsets, at = [], 0
        for piece in pickled.pieces:
            offsets.append(at)
            at += len(piece)
        places, end = _arrange(pickled.buffers, at)
        spans = [(0, at, False)]
        reached = 0  # what overlaps is written once
        for offset, view in sorted(zip(places, pickled.buffers, strict=True), key=_begin):
            if offset + view.nbytes > reached:
                parts.append(view)
                offsets.append(offset)
                reached = offset + view.nbytes
        for offset, view in zip(places, pickled.buffers, strict=True):
            spans.append((offset, view.nbytes, view.readonly))
        try:
            segment = self._lease(end)
        except OSError as error:
            pass_on(error)
            return (*_whole(parts, offsets, end, spans), shared), None
        try:
            segment.write(parts, offsets)
        except OSError as error:
            self._give_up(self._leased.pop(segment.id))
            pass_on(error)
            return (*_whole(parts, offsets, end, spans), shared), None
        return (None, segment.id, segment.size, tuple(spans), shared), segment

    def free(self, ids: Sequence[int]) -> None:
        """Take segments back that no receiver uses any more."""
        for number in ids:
            segment = self._leased.pop(number, None)
            if segment is None:
                continue
            self._free.append(segment)
            while sum(s.size for s in self._free) > self._cap:
                self._give_up(self._free.pop(0))

    def close(self) -> None:
        """Give all segments back."""
        for segment in [*self._leased.values(), *self._free]:
            segment.close()
        self._leased.clear()
        self._free.clear()

    def _give_up(self, segment: Segment) -> None:
        self.forgotten.append(segment.id)
        segment.close()

    def _lease(self, nbytes: int) -> Segment:
        fitting = [s for s in self._free if nbytes <= s.size <= 2 * nbytes + SMALLEST]
        if fitting:
            segment = min(fitting, key=lambda s: s.size)
            self._free.remove(segment)
            try:
                segment.recycle()
            except OSError:
                self._give_up(segment)
                raise
        else:
            self._count += 1
            segment = Segment(self._count, _round(nbytes), self._folder)
        self._leased[segment.id] = segment
        return segment


def _begin(placed: tuple[int, memoryview]) -> tuple[int, int]:
    offset, view = placed
    return offset, -view.nbytes


def _arrange(buffers: Sequence[memoryview], at: int) -> tuple[list[int], int]:
    """Offsets for buffers from `at` on, and where the last one ends.

    Those that overlap in memory overlap in the same way there: views of one array stay that.
    """
    if len(buffers) > 1 and "numpy" in sys.modules:
        from .arrays import bounds

        ranges = [bounds(view) for view in buffers]
    else:
        ends = [0, *itertools.accumulate(view.nbytes for view in buffers)]
        ranges = list(itertools.pairwise(ends))
    places = [0] * len(buffers)
    group_begin = group_end = shift = -1
    for i in sorted(range(len(buffers)), key=lambda i: ranges[i]):
        begin, end = ranges[i]
        if begin >= group_end:  # a group of its own
            offset = -(-at // ALIGN) * ALIGN + begin % ALIGN
            group_begin, group_end, shift = begin, end, offset
        places[i] = shift + begin - group_begin
        group_end = max(group_end, end)
        at = max(at, places[i] + end - begin)
    return places, at


def _whole(
    parts: Sequence[Any], offsets: Sequence[int], size: int, spans: Sequence[Span]
) -> tuple[bytes, int, int, tuple[Span, ...]]:
    data = bytearray(size)
    for part, offset in zip(parts, offsets, strict=True):
        data[offset : offset + len(part)] = part
    return bytes(data), 0, 0, tuple(spans)


def _round(nbytes: int) -> int:
    """Segment size for `nbytes`: at most an eighth more, so that sizes recur."""
    step = max(SMALLEST, 1 << max(0, nbytes.bit_length() - 4))
    return -(-nbytes // step) * step


class Missing(ParallelError, KeyError):
    """A segment has not arrived: the process had too many descriptors open to take its own."""

    def __str__(self) -> str:
        return (
            "a large argument or result was lost: too many files are open in the process that was "
            f"to take it, or it has too little memory{limits.told(limits.OF_SEGMENTS)}; close "
            "some, or raise the limit"
        )


class Inbox:
    """Receiver's side: opens packets of one sender.

    ``unpack`` gives the pickle's bytes and its buffers, either copied into memory of this process
    (``copy``), or as views into the segment; then the segment counts as used until the last
    array made of them is gone. Segments that are free again gather in `released`.
    """

    def __init__(self) -> None:
        self._maps: dict[int, mmap.mmap] = {}
        self._held: dict[int, list[Shared | Descriptor]] = {}  # by packets that were not read yet
        self._private = False
        self.released: list[int] = []

    def adopt(self, packet: Packet, fds: Sequence[int], private: bool = False) -> None:
        """Map the segment of a packet as it arrives, and the shared memory; takes `fds` over.

        A private map is copy-on-write, for one packet only.

        Raises
        ------
        Missing
            If descriptors of shared memory are lost: nothing tells which, so none is used.
        """
        data, number, size, _, shared = packet
        fresh = data is None and (private or number not in self._maps)
        rest = list(fds)
        try:
            if len(fds) != fresh + len(shared):
                if shared:
                    raise Missing
                return
            if fresh:
                self._maps[number] = anonymous.mapped(fds[0], size, private=private)
                self._private = private
            if shared:
                from .shared import arrive

                rest = rest[:fresh]
                self._held[id(packet)] = arrive(shared, fds[fresh:])
        finally:
            for fd in rest:
                anonymous.close(fd)

    def require(self, packet: Packet) -> None:
        """Raise :class:`Missing` where the segment of a packet has not arrived."""
        data, number, *_ = packet
        if data is None and number not in self._maps:
            raise Missing

    def forget(self, ids: Sequence[int]) -> None:
        """Unmap segments that their owner gave up; one that is still viewed goes with its views."""
        for number in ids:
            self._maps.pop(number, None)

    def unpack(self, packet: Packet, copy: bool) -> tuple[Any, list[Any]]:
        """Return the pickle of a packet and its buffers."""
        data, number, _, spans, _ = packet
        held = self._held.pop(id(packet), None)
        if data is not None:
            if not spans:
                return data, _Buffers((), held)
            whole = memoryview(bytearray(data))
            views = [_span(whole, span) for span in spans[1:]]
            return whole[: spans[0][1]], _Buffers(views, held)
        self.require(packet)
        memory = self._maps.pop(number) if self._private else self._maps[number]
        begin, length, _ = spans[0]
        pickled = memoryview(memory)[begin : begin + length]
        if copy:
            return pickled, _Buffers(_copied(memory, spans[1:]), held)
        release = _Countdown(len(spans) - 1, number, self.released.append)
        return pickled, _Buffers([_viewed(memory, span, release) for span in spans[1:]], held)

    def done(self, packet: Packet) -> None:
        """Tell that a copied packet, or one without buffers, has been read, or will not be."""
        self._held.pop(id(packet), None)
        if packet[0] is None:
            self.released.append(packet[1])


class _Buffers(list[Any]):
    """The buffers of a packet; as long as they are there, so is the shared memory that it names."""

    __slots__ = ("held",)

    def __init__(self, views: Sequence[Any], held: object) -> None:
        super().__init__(views)
        self.held = held


class _Countdown:
    """Calls `free(number)` when it has been called `count` times, by whatever threads."""

    __slots__ = ("_calls", "_count", "_free", "_number")

    def __init__(self, count: int, number: int, free: Callable[[int], None]) -> None:
        self._calls = itertools.count(1)  # next() is atomic
        self._count = count
        self._number = number
        self._free = free

    def __call__(self) -> None:
        if next(self._calls) == self._count:
            self._free(self._number)


def _span(whole: memoryview, span: Span) -> memoryview:
    offset, length, readonly = span
    view = whole[offset : offset + length]
    return view.toreadonly() if readonly else view


def _copied(memory: mmap.mmap, spans: Sequence[Span]) -> list[memoryview]:
    """Copy buffers into memory of their own, as numpy allocates it (with huge pages).

    Those that overlap are copied as one.
    """
    if not spans:  # a large pickle without buffers: a caller that has no use for numpy does without
        return []
    import numpy as np

    copies: list[Any] = [None] * len(spans)
    order = sorted(range(len(spans)), key=lambda i: spans[i])
    while order:
        begin, end = spans[order[0]][0], -1
        count = 0
        for i in order:
            if count and spans[i][0] >= end:
                break
            end = max(end, spans[i][0] + spans[i][1])
            count += 1
        fresh: Any = np.empty(end - begin, np.uint8)
        own = memoryview(fresh)
        own[:] = memoryview(memory)[begin:end]
        for i in order[:count]:
            offset, length, readonly = spans[i]
            copies[i] = _span(own, (offset - begin, length, readonly))
        del order[:count]
    return copies


def _viewed(memory: mmap.mmap, span: tuple[int, int, bool], release: Callable[[], None]) -> Any:
    """View of one buffer that calls `release` when the last user of the memory is gone.

    numpy takes a memoryview apart and keeps what lies below it, so that neither a reference to
    the memoryview nor its ``release()`` tells whether the memory is in use. A ctypes array is
    what lies below here: everything made of it keeps it alive, and it can be watched.
    """
    offset, length, readonly = span
    block = (ctypes.c_char * length).from_buffer(memory, offset)
    weakref.finalize(block, release).atexit = False
    view = memoryview(block).cast("B")
    return view.toreadonly() if readonly else view
