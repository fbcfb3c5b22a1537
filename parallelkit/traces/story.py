"""What was noted while a trace was open, put together: calls, their chunks, workers and events.

::

    records of each process (`place.recording`) ─► read ─► Story ─► chrome, summary, plot, page

All times are seconds by ``time.perf_counter``.
"""

from __future__ import annotations

import bisect
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..place import recording

Records = list[tuple[int, tuple[Any, ...]]]  # and the process of each

__all__ = ["Call", "Chunk", "Event", "Item", "Story", "Worker", "read"]


@dataclass(slots=True)
class Item:
    """One item of a chunk."""

    index: int
    begin: float
    end: float
    name: str  # of its function, where each item has its own
    failed: str  # what it raised, or how it was lost; empty where it is well

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return self.end - self.begin


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
    memory: int = 0  # bytes of the worker
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
    large: list[tuple[str, int]]  # frozen keywords, and their bytes
    pid: int
    tid: int
    begin: float
    end: float = 0.0
    consumer: float = 0.0  # seconds that whoever took the results kept it waiting
    error: str = ""
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
        spent = sum(chunk.seconds for chunk in self.chunks)
        return max(0.0, spent - sum(call.seconds for call in self.calls))

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


def read(folder: str, begin: float, end: float) -> Story:
    """Put together what lies in the folder of a trace that was open from `begin` to `end`."""
    records: Records = []
    for pid, some in recording.read(folder):
        records += [(pid, one) for one in some]
    calls = _calls(records, end)
    workers, events = _workers(records)
    _chunks(records, calls, workers, end)
    _losses(records, calls, events)
    events += _unsent(records, calls)
    for call in calls.values():
        call.chunks.sort(key=lambda chunk: chunk.begin)
        inside = {item.name for item in call.items()}
        if call.name == "submit" and len(inside) == 1:
            call.name = inside.pop() or call.name
        events += _of_items(call)
        if call.endless:  # its end is that of its pool
            times = [c.reading[1] if c.reading else c.answered for c in call.chunks]
            call.end = max(times, default=call.begin)
    story = Story(os.getpid(), begin, end, list(calls.values()), workers, events)
    events.sort(key=lambda event: event.time)
    story.until = min((record[2] for _, record in records if record[0] == "full"), default=None)
    return story


def _calls(records: Records, end: float) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    parents: dict[str, str] = {}
    for pid, (kind, number, *rest) in records:
        if kind != "call" or number in calls:
            continue
        parent, index, name, where, *how, lazy, endless, large, tid, began = rest
        backend, workers, level, total = how
        parents[number] = parent
        known = None if total < 0 else total
        calls[number] = Call(
            *(number, None, index, name, where, backend, workers, level, known),
            *(lazy, endless, [tuple(one) for one in large], pid, tid, began, end),
        )
    for number, call in calls.items():
        call.parent = calls.get(parents[number])
        if call.parent is not None:
            call.parent.calls.append(call)
    for _, (kind, number, *rest) in records:
        found = calls.get(number)
        if found is None:
            continue
        if kind == "over":
            found.end, found.consumer, found.error = rest
        elif kind == "task":
            nbytes, began, ended = rest
            found.task_nbytes, found.task_seconds = nbytes, ended - began
    return dict(sorted(calls.items(), key=lambda one: one[1].begin))


def _workers(
    records: Records,
) -> tuple[dict[int, Worker], list[Event]]:
    workers: dict[int, Worker] = {}
    events = []
    last: dict[tuple[int, int], int] = {}  # by pool and rank: the process that had it
    for _, record in sorted((r for r in records if r[1][0] == "worker"), key=lambda r: r[1][5]):
        _, what, pid, rank, pool, moment, text = record
        worker = workers.setdefault(pid, Worker(pid, rank, pool))
        if what == "there":
            last[pool, rank] = pid
            continue
        if what == "started":
            worker.started = moment
            worker.replaces = last.get((pool, rank), 0)
            if worker.replaces:
                text = f"in place of {worker.replaces}"
            last[pool, rank] = pid
        elif what == "ready":
            worker.ready = moment
        else:
            worker.ended, worker.obituary = moment, text
        events.append(Event(what, moment, pid, text))
    return workers, events


def _chunks(
    records: Records,
    calls: dict[str, Call],
    workers: dict[int, Worker],
    end: float,
) -> None:
    """Hang chunks on their calls: those that ran, and those that were begun and never ended."""
    open_: dict[tuple[str, int, int, int], tuple[int, float]] = {}
    chunks: list[Chunk] = []
    for pid, (kind, number, *rest) in records:
        call = calls.get(number)
        if call is None:
            continue
        if kind == "begun":
            start, size, tid, moment = rest
            open_[number, start, pid, tid] = size, moment
        elif kind == "ran":
            chunk = _chunk(call, pid, rest)
            open_.pop((number, chunk.start, pid, chunk.tid), None)
            chunks.append(chunk)
    for (number, start, pid, tid), (size, moment) in open_.items():
        worker = workers.get(pid)
        ended = end if worker is None or worker.ended is None else worker.ended
        ended = max(ended, moment)
        lost = Chunk(calls[number], start, size, pid, tid, moment, ended)
        lost.taken, lost.answered, lost.done = moment, ended, 1
        lost.lost = "was still running" if worker is None else worker.obituary or "did not end"
        lost.items.append(Item(start, moment, ended, "", lost.lost))
        chunks.append(lost)
    chunks.sort(key=lambda chunk: chunk.begin)
    last: dict[int, Chunk] = {}
    for chunk in chunks:
        chunk.previous = last.get(chunk.pid)
        last[chunk.pid] = chunk
        chunk.call.chunks.append(chunk)
        worker = workers.get(chunk.pid)
        if worker is not None and worker.ready is not None:  # the caller saw that a little later
            worker.ready = min(worker.ready, chunk.taken)
        if chunk.pid not in workers and chunk.pid != os.getpid():  # of a pool that a child has
            workers[chunk.pid] = Worker(chunk.pid, chunk.rank, 0)
    _ways(records, calls)


def _chunk(call: Call, pid: int, fields: list[Any]) -> Chunk:
    start, size, done, rank, tid, taken, begin, end, answered, *fields = fields
    thread_seconds, process_seconds, memory, nbytes, items, failed = fields
    why = dict(failed)
    chunk = Chunk(call, start, size, pid, tid, begin, end, 1, done, rank, taken, answered)
    chunk.thread_seconds, chunk.process_seconds = thread_seconds, process_seconds
    chunk.memory, chunk.answer_nbytes = memory, nbytes
    chunk.items = [Item(start + n, b, e, name, why.pop(n, "")) for n, b, e, name in items]
    chunk.items += [Item(start + n, end, end, "", text) for n, text in why.items()]
    return chunk


def _ways(records: Records, calls: dict[str, Call]) -> None:
    """Match chunks with what their caller noted: when it sent them, and read what came of them."""
    sent: dict[tuple[str, int], list[tuple[Any, ...]]] = defaultdict(list)
    back: dict[tuple[str, int, int], list[tuple[float, float, int]]] = defaultdict(list)
    for _, (kind, number, *rest) in records:
        if kind == "sent":
            start, size, attempts, pid, nbytes, tid, begin, pickled, gone = rest
            sent[number, pid].append((pickled, start, size, attempts, nbytes, tid, begin, gone))
        elif kind == "back":
            start, _, pid, tid, begin, end = rest
            back[number, pid, start].append((begin, end, tid))
    for ways in sent.values():
        ways.sort()
    for call in calls.values():
        for chunk in call.chunks:
            _settle_way(chunk, sent.get((call.number, chunk.pid), []))
            readings = back.get((call.number, chunk.pid, chunk.start), ())
            chunk.reading = next((one for one in readings if one[0] >= chunk.answered), None)


def _settle_way(chunk: Chunk, sent: list[tuple[Any, ...]]) -> None:
    """Find the message that had a chunk, or all of which this is a later part: the last before."""
    for way in reversed(sent[: bisect.bisect(sent, (chunk.begin,))]):
        pickled, start, size, attempts, nbytes, tid, begin, gone = way
        if start <= chunk.start < start + size:
            chunk.attempts = attempts
            if start == chunk.start:
                chunk.nbytes = nbytes
                chunk.sending = begin, pickled, gone, tid
            return


def _losses(records: Records, calls: dict[str, Call], events: list[Event]) -> None:
    for _, (kind, number, *rest) in records:
        if kind == "lost" and number in calls:
            start, size, attempts, started, moment, reason = rest
            if started:
                call = calls[number]
                what = "lost" if size == 1 else "divided"  # to be tried one by one
                events.append(Event(what, moment, call.pid, reason, call, start))
                _mark(call, start, size, attempts, moment, reason)


def _unsent(records: Records, calls: dict[str, Call]) -> Iterator[Event]:
    """Failures that are not those of an item as it ran: its result could not be sent."""
    seen = {
        (call.number, item.index, chunk.attempts)
        for call in calls.values()
        for chunk in call.chunks
        for item in chunk.items
        if item.failed
    }
    for _, (kind, number, *rest) in records:
        if kind == "raised" and number in calls:
            start, _, attempts, moment, raised = rest
            for offset, text in raised:
                if (number, start + offset, attempts) not in seen:
                    call = calls[number]
                    yield Event("failed", moment, call.pid, text, call, start + offset)


def _mark(call: Call, start: int, size: int, attempts: int, moment: float, reason: str) -> None:
    """Say of the chunk that was running why nothing came of it."""
    for chunk in reversed(call.chunks):
        covers = start <= chunk.start < start + size
        if covers and chunk.attempts == attempts and chunk.lost and chunk.begin <= moment:
            chunk.lost = reason
            for item in chunk.items:
                item.failed = reason
            return


def _of_items(call: Call) -> Iterator[Event]:
    for chunk in call.chunks:
        if chunk.attempts > 1:
            told = f"attempt {chunk.attempts}"
            yield Event("retried", chunk.begin, chunk.pid, told, call, chunk.start)
        if not chunk.lost:
            for item in chunk.items:
                if item.failed:
                    yield Event("failed", item.end, chunk.pid, item.failed, call, item.index)
