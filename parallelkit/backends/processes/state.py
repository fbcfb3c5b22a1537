"""What the scheduler knows: workers, the calls they work for, the chunks they have; plain values.

Then what it decides: instructions, which `workers` carries out when no lock is held.
"""

from __future__ import annotations

import threading
import weakref
from _queue import SimpleQueue  # `queue` has others, which take imports
from collections import deque
from collections.abc import Callable, MutableSequence
from typing import TYPE_CHECKING, Any

from ...errors import ParallelError
from ...place.recording import Traced
from ...place.records import NamedTuple
from ...values.outcome import Lost
from ...values.source import Chunk

if TYPE_CHECKING:
    from ...transport.pickling import Pickled
    from ...transport.segments import Packet
    from ...worker.environment import Surroundings
    from .tasks import PreparedTask

__all__ = [
    "FENCE",
    "Abandon",
    "Answer",
    "Assignment",
    "Call",
    "Drop",
    "Expired",
    "Instruction",
    "Kill",
    "NestedCall",
    "Poke",
    "Post",
    "Refuse",
    "Relay",
    "SendNested",
    "Waiter",
    "Wake",
    "WorkerState",
]

FENCE = threading.Lock()  # by taking it, what was written before is seen by other processors


class Expired(ParallelError):
    """The workers have been idle for long, and have ended; others take their place."""


class Assignment:
    """A chunk that a worker has."""

    __slots__ = ("call", "chunk", "done", "nbytes", "number", "taken_back", "waits")

    def __init__(self, number: int, call: Call, chunk: Chunk, nbytes: int) -> None:
        self.number = number
        self.call = call
        self.chunk = chunk
        self.nbytes = nbytes
        self.done = 0  # items answered so far
        self.waits = False  # its item waits, in a call of its own; others may run meanwhile
        self.taken_back = False  # the worker has been told so, and had perhaps begun before


class Answer:
    """What came for a chunk, from its first unanswered item on: a reply to be read, or a loss."""

    __slots__ = ("chunk", "count", "final", "lost", "nbytes", "packet", "seconds", "worker")

    def __init__(
        self,
        chunk: Chunk,
        nbytes: int = 0,
        worker: WorkerState | None = None,
        packet: Packet | None = None,
        seconds: float = 0.0,
        count: int = 0,
        final: bool = True,
        lost: Lost | None = None,
    ) -> None:
        self.chunk = chunk
        self.nbytes = nbytes
        self.worker = worker
        self.packet = packet
        self.seconds = seconds
        self.count = count
        self.final = final
        self.lost = lost


class Waiter:
    """Who waits for one result of a call that has many owners, such as a future's.

    Parameters
    ----------
    call : Call
    done : callable
        Tells whether the result is there.
    """

    __slots__ = ("_done", "_seen", "call", "poked", "wakes")

    def __init__(self, call: Call, done: Callable[[], bool]) -> None:
        self.call = call
        self._done = done
        self._seen = call.news
        self.wakes: SimpleQueue[None] | None = None
        self.poked = False

    def ready(self) -> bool:
        """Whether there is something to do, for itself or for the call."""
        return self._done() or self.call.news != self._seen


class Call:
    """One call, as long as it runs. It waits for itself, as a rule: see `Waiter`.

    Parameters
    ----------
    number : int
    task : PreparedTask
    environment : Surroundings
        What its items are to find around them.
    timeout : float or None
        Seconds per item.
    cores : int
        What its items have together.
    """

    nested = False  # whether an item in a worker makes it, and not this process
    outer: Call | None = None  # the call whose item makes it
    traced: Traced | None = None  # where to note how long its items take
    exhausted = False  # no chunk is left to be sent
    held = 0.0  # since when its next chunk waits for cores that others have, if it does
    assignments = 0
    failed: BaseException | None = None
    endless = False  # open for calls that are submitted, also while there are none
    closed = False
    owner: weakref.ref[object] | None = None  # what lives as long as who runs it
    poked = False  # it is to look whether there is something to do
    # Made by who waits while another drives. Not an Event, whose lock stays locked for good
    # where Ctrl-C strikes inside it: what is written in C is done or not begun.
    wakes: SimpleQueue[None] | None = None
    news = 0  # how often something has come for it, or it was its turn
    relieved = 0.0  # when it was last looked for chunks that wait in vain
    pushed = 0  # how often something was submitted to it
    asleep = False  # its own thread waits until it is woken, whatever comes
    quiet = 0  # looks in a row at which nothing had happened to it
    turns = -1  # waits of the reactor and submissions by the last look
    thread = 0  # that which has sent a chunk, or tried to, the last time

    def __init__(
        self,
        number: int,
        task: PreparedTask | None,
        environment: Surroundings | None,
        timeout: float | None,
        cores: int,
    ) -> None:
        self.number = number
        self.task = task
        self.environment = environment
        self.timeout = timeout
        self.cores = cores
        self.inbox: deque[Answer] = deque()
        self.said: deque[tuple[str, tuple[Any, ...]]] = deque()  # logs, warnings, prints
        self.feeding = threading.RLock()  # one thread at a time sends its chunks

    @property
    def call(self) -> Call:
        """What it waits for."""
        return self

    def ready(self) -> bool:
        """Whether there is something to do for it."""
        return bool(self.inbox or self.poked or self.failed or self.said)

    def give(self, answer: Answer) -> Instruction:
        """Take an answer in; return what is to follow."""
        self.inbox.append(answer)
        self.news += 1
        return Wake(self)


class NestedCall(Call):
    """A call that an item in the worker `lender` makes, and that other workers help with."""

    nested = True

    def __init__(self, number: int, lender: WorkerState, inner: int, outer: Call) -> None:
        super().__init__(number, None, outer.environment, None, 0)
        self.exhausted = True
        self.lender = lender
        self.inner = inner  # its number there
        self.outer = outer
        self.granted: deque[WorkerState] = deque()  # reserved for chunks that will come
        self.ahead = False  # chunks are short: let a helper have one in advance

    def give(self, answer: Answer) -> Instruction:
        """Pass an answer on to the worker that makes the call."""
        return Relay(self, answer)


class WorkerState:
    """A worker, as far as decisions go."""

    def __init__(self, rank: int = 0, *, ready: bool = False) -> None:
        self.rank = rank
        self.assignments: deque[Assignment] = deque()
        self.reserved: list[Call] = []  # a place for each chunk on its way here
        self.ready = ready  # its initializer is done
        self.retired = False  # it takes nothing more
        self.dead = False
        self.spare = False  # its item waits: others may run meanwhile
        self.given_up = False  # we have ended it, and not what it runs
        self.since = 0.0  # when it began with what it runs, or thereabouts
        self.long = False  # it takes so long that nothing shall wait behind that
        self.environment: Surroundings | None = None  # what its items find around them now
        # The control block; see `worker.protocol` for its fields.
        self.words: MutableSequence[int] | memoryview[int] = [0] * 8
        self.times: MutableSequence[float] | memoryview[float] = [0.0] * 8

    def assignment(self, number: int) -> Assignment | None:
        """Assignment of a chunk that it has; None if that has been settled."""
        for assignment in self.assignments:
            if assignment.number == number:
                return assignment
        return None


# --- instructions -------------------------------------------------------------------------------


class Wake(NamedTuple):
    """Something has come for a call."""

    call: Call


class Poke(NamedTuple):
    """It is the turn of a call to get a worker."""

    call: Call


class Drop(NamedTuple):
    """Nobody wants an answer any more."""

    answer: Answer


class Kill(NamedTuple):
    """End a worker process."""

    worker: WorkerState


class Post(NamedTuple):
    """Send a worker a message that names no pickle."""

    worker: WorkerState
    message: tuple[Any, ...]


class Relay(NamedTuple):
    """Send an answer to the worker whose item makes the call."""

    call: NestedCall
    answer: Answer


class Refuse(NamedTuple):
    """Tell that worker that its task could not be unpickled."""

    call: NestedCall
    error: BaseException


class SendNested(NamedTuple):
    """Send a chunk of a nested call to the helper that was granted, if there still is one."""

    call: NestedCall
    helper: WorkerState | None
    chunk: Chunk
    pickled: Pickled


class Abandon(NamedTuple):
    """A nested call is over: helpers are to leave it, and to forget its task."""

    call: NestedCall
    left: list[WorkerState]


Instruction = Wake | Poke | Drop | Kill | Post | Relay | Refuse | SendNested | Abandon
