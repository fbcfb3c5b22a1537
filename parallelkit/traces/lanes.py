"""Where on a timeline everything lies: lanes of workers, and bars in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .story import Call, Chunk, Item, Story, Worker

__all__ = ["Bar", "Lane", "lanes", "names"]


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that ran: an item, or several short ones of a chunk."""

    begin: float
    end: float
    name: str
    index: int
    count: int  # of items
    level: int
    outer: bool  # whether it made calls of its own
    failed: str
    chunk: Chunk


@dataclass
class Lane:
    """What one thread of one process ran."""

    name: str
    first: bool  # of its worker
    bars: list[Bar] = field(default_factory=list)
    starts: list[tuple[float, float]] = field(default_factory=list)  # of a process; until ready
    deaths: list[tuple[float, str]] = field(default_factory=list)
    # When arguments were unpickled, with the imports that this makes, and results pickled.
    ways: list[tuple[float, float]] = field(default_factory=list)


def lanes(story: Story) -> list[Lane]:
    """Lanes, those of one worker together, workers by their pool and rank.

    A worker that takes the place of one that died goes on in its lane.
    """
    by_thread: dict[tuple[int, int], list[Chunk]] = defaultdict(list)
    for chunk in story.chunks:
        by_thread[chunk.pid, chunk.tid].append(chunk)
    least = (story.end - story.begin) / 1000
    makers = {(id(call.parent), call.index) for call in story.calls if call.parent is not None}
    pools = _pools(story)
    lanes: dict[tuple[Any, ...], Lane] = {}
    for pid in {pid for pid, _ in by_thread} | set(story.workers):
        worker = story.workers.get(pid)
        threads = sorted(
            (one for one in by_thread if one[0] == pid),
            key=lambda one: (one[1] != pid, by_thread[one][0].begin),
        ) or [(pid, pid)]
        for number, thread in enumerate(threads):
            key = (*_place(pid, worker, pools, story), number)
            lane = lanes.setdefault(key, Lane("", number == 0))
            lane.name = f"thread {number + 1}" if number else _name(pid, worker, pools, story)
            lane.bars += [bar for chunk in by_thread[thread] for bar in _bars(chunk, makers)]
            lane.ways += [way for chunk in by_thread[thread] for way in _ways(chunk, least)]
            if number == 0 and worker is not None and worker.started is not None:
                lane.starts.append((worker.started, worker.ready or worker.started))
            if number == 0 and worker is not None and worker.ended is not None and worker.obituary:
                lane.deaths.append((worker.ended, worker.obituary))
    result = [lane for _, lane in sorted(lanes.items()) if lane.bars or lane.starts or lane.deaths]
    for lane in result:
        lane.bars.sort(key=lambda bar: (bar.begin, -bar.end))
    return result


def _ways(chunk: Chunk, least: float) -> list[tuple[float, float]]:
    """What a worker spends on transport, where it can be seen."""
    if chunk.sending is None:
        return []
    ways = (chunk.taken, chunk.begin), (chunk.end, chunk.answered)
    return [(begin, end) for begin, end in ways if end - begin > least]


def _pools(story: Story) -> list[int]:
    """Pools, in the order in which they began to work."""
    begins = {chunk.pid: chunk.begin for chunk in reversed(story.chunks)}
    workers = sorted(story.workers.values(), key=lambda one: begins.get(one.pid, story.end))
    return list(dict.fromkeys(worker.pool for worker in workers if worker.pid in begins))


def _place(pid: int, worker: Worker | None, pools: list[int], story: Story) -> tuple[int, int, int]:
    """By what the lanes of a process are put in order."""
    if worker is None:
        return (0, 0, 0) if pid == story.pid else (2, 0, pid)
    pool = pools.index(worker.pool) if worker.pool in pools else len(pools)
    return 1, pool, worker.rank


def _name(pid: int, worker: Worker | None, pools: list[int], story: Story) -> str:
    if worker is None:
        return "this process" if pid == story.pid else f"process {pid}"
    if worker.name:
        return worker.name
    if len(pools) < 2 or worker.pool not in pools:
        return f"worker {worker.rank}"
    return f"pool {pools.index(worker.pool) + 1}, worker {worker.rank}"


def _bars(chunk: Chunk, makers: set[tuple[int, int]]) -> list[Bar]:
    call = chunk.call

    def bar(item: Item, count: int) -> Bar:
        name, outer = item.name or call.name, (id(call), item.index) in makers
        where = item.begin, item.end, name, item.index, count, call.level, outer
        return Bar(*where, item.failed, chunk)

    if chunk.done > sum(item.count for item in chunk.items):  # some of many: the rest as one bar
        whole = bar(Item(chunk.start, chunk.begin, chunk.end, "", ""), chunk.done)
        least = chunk.seconds / 10
        told = [item for item in chunk.items if item.failed or item.end - item.begin > least]
        return [whole, *(bar(item, item.count) for item in told)]  # and the long ones on it
    return [bar(item, item.count) for item in chunk.items]


def names(calls: Sequence[Call], of: Sequence[Lane]) -> list[str]:
    """Names of functions, by how long they ran, for their colours."""
    seconds: dict[str, float] = defaultdict(float)
    for call in calls:
        seconds[call.name] += 0.0
    for lane in of:
        for bar in lane.bars:
            seconds[bar.name] += bar.end - bar.begin
    return [name for name, spent in sorted(seconds.items(), key=lambda one: -one[1]) if spent]
