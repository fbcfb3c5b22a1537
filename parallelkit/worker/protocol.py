"""What parent and worker say to each other: one named record for each message.

::

    parent                                worker
    Hello     initializer, environment ─►
                                        ◄─ Ready, or Failed with what the initializer raised
    Run       a chunk of a call; with   ─►
              its task, if that is new
                                        ◄─ Replied: values and exceptions (in parts, if it lasts)
                                           Skipped, Unreadable, TimedOut: there is no reply
    Abort     a call is given up        ─►  (with SIGINT, to stop the item that runs)
    Forget    tasks are not needed      ─►
                                        ◄─ Released: segments that nothing here refers to
                                        ◄─ Said: log records, warnings, prints, at any time
                                        ◄─ Retired: it ends after so many items
                                           Returned: threads on cores of idle workers have ended

    an item makes a call of its own, which idle workers may help with (nested="process"):
                                        ◄─ Seek, NestedTask, NestedChunk, Quit, Settled, Waiting
    Grant, NestedReply                  ─►

A message crosses as a tuple of plain values, with a number for its kind first (`encode`,
`decode`). A pickle that goes with it is a `Packet` of `transport.segments`; the fields after it
tell of segments: whether its own comes with this message (`fresh`), which of the receiver's are
free again (`released`), and which of the sender's are gone (`forgotten`).
"""

from __future__ import annotations

from typing import Any

from ..errors import ParallelError
from ..place.recording import Traced
from ..place.records import NamedTuple
from ..transport.segments import Packet

VERSION = 2  # of all records below together; told by Hello

# The control block: shared memory of eight-byte fields, by which each side sees at once, and after
# the worker's death, what it was doing.
CONTROL_BYTES = 64
CHUNK_BEGUN, ITEM_OFFSET, ITEM_BEGUN = range(3)  # written by the worker
SPARE_CORES = 3  # written by the parent: cores for calls that an item makes, beyond its share
# Written by the worker: on the cores of how many others threads here run, whether as SPARE_CORES
# says or because its item has them for good. Some of the cores of one count as all.
BORROWED_CORES = 6
# Written by the parent: whether other workers need their cores, also those that an item here has
# for good. While it is set Returned tells when threads here run on fewer of them.
WANTED_BACK = 7
# A chunk that waits behind another one may be taken back. First each side writes, then it reads
# what the other has written: one of them at least sees both. So it is with cores that are borrowed.
LAST_BEGUN = 4  # written by the worker: the highest number of a chunk that it has begun
TAKEN_BACK = 5  # written by the parent: a bit for each chunk that is not to be begun any more

# What runs, in ITEM_OFFSET, beside the offset of an item in its chunk.
WHOLE = (1 << 63) - 1  # something that concerns all of the chunk that has not been answered
NOBODY = WHOLE - 1  # something after the chunk was answered


def bit(number: int) -> int:
    """Bit of a chunk in TAKEN_BACK; no two chunks that a worker has share one."""
    return 1 << (number & 63)


class Hello(NamedTuple):
    """The first message: what holds for a worker's life."""

    version: int
    initializer: Packet  # of (initializer, initargs, finalizer)
    environment: tuple[Any, ...]
    settings: dict[str, Any]
    origin: tuple[Any, ...]  # argv, temporary folder, standard modules, parentage


class Run(NamedTuple):
    """Run a chunk: `size` items of the input of `call`, from `start` on."""

    call: int
    task: int  # the key under which the worker keeps it
    number: int  # of this chunk, in all messages about it
    rank: int
    start: int
    size: int
    timeout: float | None
    nested: bool  # whether an item of another worker made the call
    packet: Packet  # of the columns of arguments
    fresh: bool
    released: list[int]
    forgotten: list[int]
    environment: dict[str, Any] | None  # what of it has changed
    state: Packet | None  # of the task, where the worker has not got it
    over: list[int]  # tasks to forget
    news: Packet | None  # what the worker has not got of the script
    traced: Traced | None  # where to note how long it takes


class Abort(NamedTuple):
    """Leave what runs of a call, and skip its chunks."""

    call: int


class Forget(NamedTuple):
    """Tasks that will not be used again."""

    tasks: list[int]


class Grant(NamedTuple):
    """A helper is there for a chunk of the nested call `inner`."""

    inner: int


class NestedReply(NamedTuple):
    """What came of items of a nested call; `size` 0: its task could not be unpickled."""

    inner: int
    start: int
    size: int
    seconds: float
    lost: bool
    packet: Packet
    fresh: bool
    released: list[int]
    forgotten: list[int]


class Ready(NamedTuple):
    """The initializer is done."""


class Failed(NamedTuple):
    """A task that cannot be unpickled; with the key 0 an initializer that raised."""

    task: int
    packet: Packet
    released: list[int]
    released_tasks: list[int]
    forgotten: list[int]


class Replied(NamedTuple):
    """What came of the next `items` of a chunk; the last part is `final`."""

    number: int
    packet: Packet
    seconds: float
    items: int
    final: bool
    released: list[int]
    released_tasks: list[int]
    forgotten: list[int]


class Skipped(NamedTuple):
    """A chunk that was taken back, or of a call that was given up, or whose task has failed."""

    number: int


class Unreadable(NamedTuple):
    """A chunk whose arguments cannot be unpickled."""

    number: int
    packet: Packet
    released: list[int]
    released_tasks: list[int]
    forgotten: list[int]


class TimedOut(NamedTuple):
    """Something took too long: the item at `offset`, or `WHOLE`. The worker ends."""

    number: int
    offset: int


class Retired(NamedTuple):
    """The worker ends: it has run as many items as it may."""


class Returned(NamedTuple):
    """No thread runs on cores of idle workers any more, and those want them back."""


class Released(NamedTuple):
    """Segments of the parent that are free again: of chunks, and of tasks."""

    released: list[int]
    released_tasks: list[int]


class Said(NamedTuple):
    """A log record, a warning, or printed text."""

    kind: str
    fields: tuple[Any, ...]


class Seek(NamedTuple):
    """A nested call has chunks for helpers; `outer` is the call whose item made it."""

    inner: int
    outer: int


class NestedTask(NamedTuple):
    """The task of a nested call; precedes its first chunk."""

    inner: int
    packet: Packet
    needs: list[Any]  # what it names of the script
    traced: Traced | None
    released: list[int]
    released_tasks: list[int]
    forgotten: list[int]


class NestedChunk(NamedTuple):
    """A chunk for the helper that was granted; `ahead` where helpers may have two."""

    inner: int
    packet: Packet
    start: int
    size: int
    ahead: bool
    needs: list[Any]
    released: list[int]
    released_tasks: list[int]
    forgotten: list[int]


class Quit(NamedTuple):
    """Nothing to hand out now."""

    inner: int


class Settled(NamedTuple):
    """The nested call is over."""

    inner: int


class Waiting(NamedTuple):
    """The item of chunk `number` waits (or no longer): other chunks may run meanwhile."""

    waits: bool
    number: int


_KINDS: tuple[Any, ...] = (
    *(Hello, Run, Abort, Forget, Grant, NestedReply),
    *(Ready, Failed, Replied, Skipped, Unreadable, TimedOut, Retired, Released, Said),
    *(Seek, NestedTask, NestedChunk, Quit, Settled, Waiting, Returned),
)
_NUMBERS: dict[type, int] = {kind: number for number, kind in enumerate(_KINDS)}


def encode(message: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a message as a plain tuple."""
    return (_NUMBERS[type(message)], *message)


def decode(body: Any) -> Any:
    """Return the message that a tuple stands for.

    Raises
    ------
    ParallelError
        If it is none: of another version, cut short, or of an unknown kind.
    """
    try:
        if body[0] >= 0:
            return _KINDS[body[0]](*body[1:])
    except (IndexError, TypeError, KeyError):
        pass
    raise ParallelError(
        f"a message that is none of ours: {_short(body)}; do parent and worker import the same "
        "version of parallelkit?"
    )


def _short(body: object) -> str:
    text = repr(body)
    return text if len(text) <= 80 else text[:77] + "..."
