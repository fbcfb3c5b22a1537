"""What a trace tells: calls, their chunks and items, workers and events.

::

    records of each process (`place.recording`) ─► reading ─► Story ─► chrome, summary, plot, page

All times are seconds by ``time.perf_counter``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

__all__ = ["Call", "Chunk", "Event", "Item", "Story", "Worker", "covered", "startup"]


@dataclass(slots=True)
class Item:
    """One item of a chunk, or some that follow one another."""

    index: int
    begin: float
    end: float
    name: str  # of its function, where each item has its own
    failed: str  # what it raised, or how it was lost; empty where it is well
    count: int = 1  # of items, where several short ones were measured together

    @property
    def seconds(self) -> float:
        """How long one of it ran."""
        return (self.end - self.begin) / self.count


@dataclass(eq=False)
class Chunk:
    """Items that ran together, on one worker."""

    call: Call
    start: int
    size: int
    pid: int
    tid: int
    begin: float  # of the first item
    end: float  # of the last
    attempts: int = 1
    done: int = 0  # items that ran
    rank: int = 0
    taken: float = 0.0  # when the worker began with it
    answered: float = 0.0  # when what came of it was pickled
    thread_seconds: float = 0.0  # of processor time
    process_seconds: float = 0.0
    memory: int = 0  # bytes of the worker, afterwards
    most_memory: int = 0  # the most that it ever had so far
    nbytes: int = 0  # of its arguments, pickled
    answer_nbytes: int = 0  # of its results, pickled
    sending: tuple[float, float, float, int] | None = None  # begin, pickled, sent; thread
    reading: tuple[float, float, int] | None = None  # begin and end, at the caller; thread
    items: list[Item] = field(default_factory=list)  # all, or some of many
    lost: str = ""  # why nothing came of it
    previous: Chunk | None = None  # on the same worker

    @property
    def seconds(self) -> float:
        """How long its items ran."""
        return self.end - self.begin

    @property
    def waited(self) -> float:
        """Seconds that it lay at its worker, behind the chunk before it."""
        if self.sending is None or self.previous is None:
            return 0.0
        return max(0.0, min(self.previous.answered, self.taken) - self.sending[2])

    @property
    def crossing(self) -> float:
        """Seconds on its way to the worker."""
        if self.sending is None:
            return 0.0
        return max(0.0, self.taken - self.sending[2] - self.waited)

    @property
    def returning(self) -> float:
        """Seconds from the worker's answer until the caller took it up."""
        return 0.0 if self.reading is None else max(0.0, self.reading[0] - self.answered)

    @property
    def transport(self) -> float:
        """Seconds of processor time for pickling and unpickling, on both sides, and for sending."""
        seconds = max(0.0, self.begin - self.taken) + max(0.0, self.answered - self.end)
        if self.sending is not None:
            seconds += self.sending[2] - self.sending[0]
        if self.reading is not None:
            seconds += self.reading[1] - self.reading[0]
        return seconds


@dataclass(eq=False)
class Call:
    """A call of ``map`` or one of its kin; of ``submit``, all that was submitted to one pool."""

    number: str
    parent: Call | None
    index: int  # of the item that made it, where it has a parent
    name: str
    where: str  # file and line
    backend: str
    workers: int
    level: int
    total: int | None
    lazy: bool
    endless: bool
    large: list[tuple[str, int, bool]]  # frozen keywords, their bytes, whether each is an array
    pid: int
    tid: int
    begin: float
    end: float = 0.0
    consumer: float = 0.0  # seconds that whoever took the results kept it waiting
    error: str = ""
    nested: str = "thread"  # where items of calls run that its items make
    task_nbytes: int = 0
    task_seconds: float = 0.0
    chunks: list[Chunk] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)  # that its items made

    @property
    def seconds(self) -> float:
        """From its begin to its end."""
        return self.end - self.begin

    def items(self) -> Iterator[Item]:
        """Its items, as far as they were told one by one."""
        for chunk in self.chunks:
            yield from chunk.items

    @property
    def work(self) -> float:
        """Seconds that its items ran, without the time in which they waited for their own calls."""
        inner: dict[int, list[Call]] = {}
        for call in self.calls:
            inner.setdefault(call.index, []).append(call)
        spent = sum(chunk.seconds for chunk in self.chunks)
        for chunk in self.chunks if inner else ():
            indexes = range(chunk.start, chunk.start + chunk.size)
            waited = [call for index in indexes for call in inner.get(index, ())]
            spent -= covered(
                (max(call.begin, chunk.begin), min(call.end, chunk.end)) for call in waited
            )
        return max(0.0, spent)

    def below(self) -> Iterator[Call]:
        """Itself, and all calls that were made inside its items."""
        yield self
        for call in self.calls:
            yield from call.below()


@dataclass(slots=True)
class Event:
    """Something that happened at one moment."""

    kind: str  # "started", "ready", "ended", "lost", "divided", "retried", "failed"
    time: float
    pid: int
    text: str
    call: Call | None = None
    index: int = -1


@dataclass
class Worker:
    """A process in which items ran."""

    pid: int
    rank: int
    pool: int  # workers of one pool have the same number here
    started: float | None = None
    ready: float | None = None
    ended: float | None = None
    obituary: str = ""
    name: str = ""  # of one on another machine
    replaces: int = 0  # the process that had this rank before


@dataclass
class Story:
    """All of it."""

    pid: int  # of the process that opened the trace
    begin: float
    end: float
    calls: list[Call]
    workers: dict[int, Worker]
    events: list[Event]
    until: float | None = None  # when a process had noted as much as it may

    @property
    def top(self) -> list[Call]:
        """Calls that no item has made."""
        return [call for call in self.calls if call.parent is None]

    @property
    def chunks(self) -> list[Chunk]:
        """Those of all calls, by their begin."""
        return sorted((c for call in self.calls for c in call.chunks), key=lambda c: c.begin)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that lie in at least one of the spans."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def startup(call: Call, story: Story) -> float:
    """Seconds that a call waited for workers that were started for it."""
    began = any(
        worker.started is not None and call.begin <= worker.started <= call.end
        for worker in story.workers.values()
    )
    if not began or not call.chunks:
        return 0.0
    return max(0.0, min(chunk.begin for chunk in call.chunks) - call.begin)
