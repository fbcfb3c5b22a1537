"""From the records of all processes to the story of a run."""

from __future__ import annotations

import bisect
import os
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from ..place import recording
from .story import Call, Chunk, Event, Item, Story, Worker

__all__ = ["read"]

FIRST_FAR = 10**9  # numbers for processes of other machines, whose own may be those of others here

Records = list[tuple[int, tuple[Any, ...]]]  # and the process of each


def read(folder: str, begin: float, end: float) -> Story:
    """Put together what lies in the folder of a trace that was open from `begin` to `end`."""
    records: Records = []
    for pid, some in recording.read(folder):
        records += [(pid, one) for one in some]
    records, names = _aligned(records)
    calls = _calls(records, end)
    workers, events = _workers(records)
    _chunks(records, calls, workers, end)
    for pid, name in names.items():
        if pid in workers:
            workers[pid].name = name
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


# Where records that come from other machines have times, by their kind.
_TIMES = {
    "call": (-1,),
    "over": (2,),
    "task": (3, 4),
    "begun": (5,),
    "ran": (7, 8, 9, 10),
    "lost": (6,),
    "raised": (5,),
}


def _aligned(records: Records) -> tuple[Records, dict[int, str]]:
    """Records of other machines as if they were of this one, and names for their processes.

    How far a clock is behind is known up to the time of a message: the shortest of them counts.
    """
    behind: dict[str, float] = {}
    for _, (kind, *rest) in records:
        if kind == "far":
            behind[rest[0]] = min(behind.get(rest[0], rest[2]), rest[2])
    if not behind:
        return records, {}
    aligned: Records = []
    numbers: dict[tuple[str, int], int] = {}
    for pid, one in records:
        if one[0] != "far":
            aligned.append((pid, one))
            continue
        _, host, theirs, _, fields = one
        number = numbers.setdefault((host, theirs), FIRST_FAR + len(numbers))
        aligned.append((number, _shifted(fields, behind[host])))
    return aligned, {number: f"{host} {pid}" for (host, pid), number in numbers.items()}


def _shifted(fields: tuple[Any, ...], seconds: float) -> tuple[Any, ...]:
    moved = list(fields)
    for place in _TIMES.get(fields[0], ()):
        moved[place] += seconds
    if fields[0] == "ran":
        moved[16] = [(n, b + seconds, e + seconds, *more) for n, b, e, *more in moved[16]]
    return tuple(moved)


def _calls(records: Records, end: float) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    parents: dict[str, str] = {}
    for pid, (kind, number, *rest) in records:
        if kind != "call" or number in calls:
            continue
        parent, index, name, where, *how, lazy, endless, nested, large, tid, began = rest
        backend, workers, level, total = how
        parents[number] = parent
        known = None if total < 0 else total
        calls[number] = Call(
            *(number, None, index, name, where, backend, workers, level, known),
            *(lazy, endless, [tuple(one) for one in large], pid, tid, began, max(began, end)),
            nested=nested,
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
            end, found.consumer, found.error = rest
            found.end = max(end, found.begin)
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
        lost.lost = worker.obituary if worker is not None else "was still running"
        lost.lost = lost.lost or "its worker was ended, as by a time limit"
        lost.items.append(Item(start, moment, ended, "", lost.lost))
        chunks.append(lost)
    chunks.sort(key=lambda chunk: chunk.begin)
    last: dict[int, Chunk] = {}
    strangers = 0  # workers that are not of a pool of this process
    for chunk in chunks:
        chunk.previous = last.get(chunk.pid)
        last[chunk.pid] = chunk
        chunk.call.chunks.append(chunk)
        worker = workers.get(chunk.pid)
        if worker is not None and worker.ready is not None:  # the caller saw that a little later
            worker.ready = min(worker.ready, chunk.taken)
        if chunk.pid not in workers and chunk.pid != os.getpid():  # of a pool that a child has
            strangers += 1
            workers[chunk.pid] = Worker(chunk.pid, strangers - 1, 0)
    _ways(records, calls)


def _chunk(call: Call, pid: int, fields: list[Any]) -> Chunk:
    start, size, done, rank, tid, taken, begin, end, answered, *fields = fields
    thread_seconds, process_seconds, memory, most, nbytes, items, failed = fields
    why = dict(failed)
    chunk = Chunk(call, start, size, pid, tid, begin, end, 1, done, rank, taken, answered)
    chunk.thread_seconds, chunk.process_seconds = thread_seconds, process_seconds
    chunk.memory, chunk.most_memory, chunk.answer_nbytes = memory, most, nbytes
    chunk.items = [
        Item(start + n, b, e, name, why.pop(n, "") if count == 1 else "", count)
        for n, b, e, name, count in items
    ]
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
