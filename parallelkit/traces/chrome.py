"""A trace as Chrome trace event JSON, which Perfetto, speedscope and ``chrome://tracing`` open.

The format is described in "Trace Event Format" (Google, 2016). Times are in microseconds since the
trace was opened. Each worker process is a process there, its threads are threads, and what an item
calls stands below the item.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from ..place.replacing import replace
from .story import Call, Chunk, Item, Story
from .story import Event as Moment

__all__ = ["check", "events", "version", "write"]

MOST_ITEMS = 200_000  # that are told one by one; of more, the longest

Event = dict[str, Any]


def check(path: str) -> None:
    """Raise OSError if a file cannot be written there; leave it as it is."""
    if os.path.isdir(path):
        raise IsADirectoryError(f"a trace cannot be written to {path!r}: it is a folder")
    try:
        existed = os.path.exists(path)
        with open(path, "ab"):
            pass
        if not existed:
            os.unlink(path)
    except OSError as error:
        why = error.strerror or error
        raise type(error)(error.errno, f"a trace cannot be written there ({why})", path) from None


def write(story: Story, path: str, more: dict[str, Any]) -> None:
    """Write the file, whole or not at all."""
    document = {"traceEvents": [], "displayTimeUnit": "ms", "otherData": {**_origin(), **more}}
    head = json.dumps(document)
    begin, end = head.split('"traceEvents": []', 1)
    folder = os.path.dirname(os.path.abspath(path))
    special = os.path.exists(path) and not os.path.isfile(path)  # such as /dev/stdout
    if special or not os.access(folder, os.W_OK):
        with open(path, "w", encoding="utf-8") as file:
            _dump(story, file, begin, end)
        return
    fd, part = tempfile.mkstemp(dir=folder, prefix=".trace-")
    try:
        with open(fd, "w", encoding="utf-8") as file:
            _dump(story, file, begin, end)
        os.chmod(part, 0o666 & ~_umask())
        replace(part, os.path.realpath(path))
    except BaseException:
        os.unlink(part)
        raise


def _dump(story: Story, file: Any, begin: str, end: str) -> None:
    file.write(f'{begin}"traceEvents": [\n')
    encode = json.JSONEncoder(separators=(",", ":")).encode
    file.write(",\n".join(map(encode, events(story))))
    file.write(f"\n]{end}")


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def version() -> str:
    """Of this package."""
    return str(sys.modules[__package__.partition(".")[0]].__version__)


def _origin() -> dict[str, Any]:
    return {
        "parallelkit": version(),
        "python": platform.python_version(),
        "host": platform.node(),
    }


def events(story: Story) -> Iterator[Event]:
    """The events of a story, one by one."""
    told = _Told(story.begin)
    yield from _names(story)
    for call in story.calls:
        yield from told.call(call)
    for chunk in story.chunks:
        yield from told.chunk(chunk)
    for chunk, item in _items(story):
        yield told.item(chunk, item)
    for event in story.events:
        if event.kind != "ready":
            yield told.moment(event)
    for worker in story.workers.values():
        if worker.started is not None and worker.ready is not None:
            where = worker.pid, worker.pid, worker.started, worker.ready
            yield told.span("start of the worker", "start", *where)


class _Told:
    """Makes events of what a story has; `zero` is the begin of the trace."""

    def __init__(self, zero: float) -> None:
        self._zero = zero

    def at(self, moment: float) -> float:
        """Microseconds, in eighths: their sums are exact, so that what is apart stays apart."""
        return round(8e6 * (moment - self._zero)) / 8

    def span(
        self, name: str, kind: str, pid: int, tid: int, begin: float, end: float, **args: Any
    ) -> Event:
        """Something that lasts."""
        start = self.at(begin)
        place = {"ph": "X", "pid": pid, "tid": tid, "ts": start}
        length = max(0.0, self.at(end) - start)
        return {"name": name, "cat": kind, **place, "dur": length, "args": args}

    def call(self, call: Call) -> Iterator[Event]:
        """A call; one that is taken from bit by bit may overlap with others in its thread."""
        name, args = f"{call.name} ({call.backend})", _told_of_call(call)
        if not (call.lazy or call.endless):
            yield self.span(name, "call", call.pid, call.tid, call.begin, call.end, **args)
            return
        place = {"name": name, "cat": "call", "pid": call.pid, "tid": call.tid, "id": call.number}
        yield {**place, "ph": "b", "ts": self.at(call.begin), "args": args}
        yield {**place, "ph": "e", "ts": self.at(call.end)}

    def chunk(self, chunk: Chunk) -> Iterator[Event]:
        """A chunk on its way there and back."""
        here, there = chunk.call.pid, (chunk.pid, chunk.tid)
        what: dict[str, Any] = {"index": chunk.start, "items": chunk.size, "bytes": chunk.nbytes}
        came = {**what, "bytes": chunk.answer_nbytes}
        if chunk.sending is not None:
            begin, pickled, sent, tid = chunk.sending
            yield self.span("pickle", "transport", here, tid, begin, pickled, **what)
            yield self.span("send", "transport", here, tid, pickled, sent, **what)
        times = chunk.taken, chunk.answered
        yield self.span(_title(chunk), "chunk", *there, *times, **_told_of_chunk(chunk))
        if chunk.sending is not None:
            if chunk.begin > chunk.taken:
                times = chunk.taken, chunk.begin
                yield self.span("unpickle", "transport", *there, *times, **what)
            if chunk.answered > chunk.end:
                times = chunk.end, chunk.answered
                yield self.span("pickle results", "transport", *there, *times, **came)
        if chunk.reading is not None:
            begin, end, tid = chunk.reading
            yield self.span("unpickle results", "transport", here, tid, begin, end, **came)
        if chunk.memory:
            memory = {"MB": round(chunk.memory / 1e6, 1)}
            place = {"ph": "C", "pid": chunk.pid, "ts": self.at(chunk.end)}
            yield {"name": "memory", **place, "args": memory}

    def item(self, chunk: Chunk, item: Item) -> Event:
        """One item."""
        last = f":{item.index + item.count}" if item.count > 1 else ""
        name = f"{item.name or chunk.call.name}[{item.index}{last}]"
        args: dict[str, Any] = {"index": item.index, "level": chunk.call.level}
        if item.count > 1:
            args["items"] = item.count
        args["attempt"] = chunk.attempts
        if item.failed:
            args["failed"] = item.failed
        where = chunk.pid, chunk.tid, item.begin, item.end
        told = self.span(name, "item", *where, **args)
        return {**told, "cname": "terrible"} if item.failed else told

    def moment(self, event: Moment) -> Event:
        """Something that happened."""
        args: dict[str, Any] = {"text": event.text}
        if event.index >= 0:
            args["index"] = event.index
        place = {"ph": "i", "s": "p", "pid": event.pid, "tid": event.pid, "ts": self.at(event.time)}
        return {"name": _TITLES[event.kind], "cat": "event", **place, "args": args}


_TITLES = {
    "started": "worker started",
    "ended": "worker ended",
    "lost": "lost",
    "divided": "items to be tried one by one",
    "retried": "tried again",
    "failed": "failed",
}


def _title(chunk: Chunk) -> str:
    name, last = chunk.call.name, chunk.start + max(1, chunk.done) - 1
    where = str(chunk.start) if last <= chunk.start else f"{chunk.start} to {last}"
    return f"{name} {where}"


def _told_of_call(call: Call) -> dict[str, Any]:
    return {
        "where": call.where,
        "backend": call.backend,
        "workers": call.workers,
        "level": call.level,
        "items": call.total,
        "task_bytes": call.task_nbytes,
        "error": call.error,
        "made_by_item": None if call.parent is None else call.index,
    }


def _told_of_chunk(chunk: Chunk) -> dict[str, Any]:
    told: dict[str, Any] = {
        "index": chunk.start,
        "items": chunk.size,
        "ran": chunk.done,
        "worker": chunk.rank,
        "level": chunk.call.level,
        "attempt": chunk.attempts,
        "processor_ms": round(1e3 * chunk.thread_seconds, 3),
        "memory": chunk.memory,
    }
    if chunk.sending is not None:
        told |= {
            "bytes": chunk.nbytes,
            "waited_ms": round(1e3 * chunk.waited, 3),
            "crossing_ms": round(1e3 * chunk.crossing, 3),
            "returning_ms": round(1e3 * chunk.returning, 3),
            "result_bytes": chunk.answer_nbytes,
        }
    if chunk.lost:
        told["lost"] = chunk.lost
    return told


def _items(story: Story) -> Iterator[tuple[Chunk, Any]]:
    """Items to be told, the longest of them where they are too many."""
    pairs = [(chunk, item) for chunk in story.chunks for item in chunk.items]
    if len(pairs) > MOST_ITEMS:
        pairs.sort(key=lambda pair: (not pair[1].failed, pair[1].begin - pair[1].end))
        del pairs[MOST_ITEMS:]
    return iter(sorted(pairs, key=lambda pair: pair[1].begin))


def _names(story: Story) -> Iterator[Event]:
    def named(what: str, pid: int, tid: int, told: dict[str, Any]) -> Event:
        return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": told}

    pids = {chunk.pid for chunk in story.chunks} | {call.pid for call in story.calls}
    yield named("process_name", story.pid, 0, {"name": "this process"})
    yield named("process_sort_index", story.pid, 0, {"sort_index": -1})
    for pid in sorted(pids | set(story.workers)):
        if pid == story.pid:
            continue
        worker = story.workers.get(pid)
        name = f"process {pid}" if worker is None else worker.name or f"worker {worker.rank}"
        yield named("process_name", pid, 0, {"name": name})
        order = len(pids) if worker is None else worker.rank
        yield named("process_sort_index", pid, 0, {"sort_index": order})
    threads = {(chunk.pid, chunk.tid) for chunk in story.chunks}
    for pid, tid in sorted(threads):
        yield named("thread_name", pid, tid, {"name": "items" if pid == tid else "thread"})
