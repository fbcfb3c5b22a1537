"""How well the workers were used, in numbers, and what to change."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..place.host import cpu_count
from .advice import advice, duration
from .story import Call, Item, Story, covered, startup

__all__ = ["Slow", "Summary", "summarize"]

MOST_SLOW = 3


@dataclass(frozen=True)
class Slow:
    """An item that took much longer than the others of its call."""

    name: str
    index: int
    seconds: float
    usual: float  # the median of its call


@dataclass(frozen=True, repr=False)
class Summary:
    """What a trace tells in numbers. ``str`` of it is the report.

    Attributes
    ----------
    seconds : float
        In which at least one call ran.
    calls, items, failed, retried, died : int
        Calls, those inside items among them; items that were begun, each once however often it
        was tried; items that raised or were lost; attempts after a first one; workers that ended
        while they were needed, and not by a time limit.
    workers : int
        That the calls had, at most at a time, threads of inner calls among them.
    work : float
        Seconds that items ran, without those in which they waited for calls of their own.
    utilisation : float
        Share of the workers' time in which they worked.
    speedup : float
        Seconds of work done in a second.
    ceiling : float
        What the speed-up could have been with these workers: no item can be cut in two.
    transport : float
        Share of pickling, sending and unpickling in all that was done.
    startup : float
        Seconds that calls waited for workers that were started for them.
    idle_tail : float
        Share of the workers' time at the ends of calls in which some had nothing left to do.
    slow : tuple of Slow
        Items that took much longer than the others.
    advice : tuple of str
        What to change, the most important first.
    recorded : float or None
        Seconds after which there was no room for more, where the run was longer than that.
    """

    seconds: float
    calls: int
    items: int
    failed: int
    retried: int
    died: int
    workers: int
    work: float
    utilisation: float
    speedup: float
    ceiling: float
    transport: float
    startup: float
    idle_tail: float
    slow: tuple[Slow, ...]
    advice: tuple[str, ...]
    recorded: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return asdict(self)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        lines = [
            f"{self.items} items in {self.calls} {_plural('call', self.calls)}, "
            f"{duration(self.seconds)} with {self.workers} {_plural('worker', self.workers)}",
            f"  speed-up     {self.speedup:.2f} of at most {self.ceiling:.2f} "
            f"({duration(self.work)} of work)",
            f"  utilisation  {self.utilisation:.0%}",
            f"  transport    {self.transport:.1%} of all that was done",
            f"  start-up     {duration(self.startup)}",
            f"  idle tail    {self.idle_tail:.1%}",
        ]
        wrong = [
            f"{number} {what}"
            for number, what in (
                (self.failed, "failed"),
                (self.retried, "tried again"),
                (self.died, _plural("worker", self.died) + " died"),
            )
            if number
        ]
        if wrong:
            lines.append(f"  failures     {', '.join(wrong)}")
        lines += [
            f"  slow         {slow.name}[{slow.index}] took {duration(slow.seconds)}, "
            f"usual is {duration(slow.usual)}"
            for slow in self.slow
        ]
        if self.recorded is not None:
            lines.append(
                f"  recorded     only {duration(self.recorded)}: there is no room for more"
            )
        if self.advice:
            lines.append("advice:")
            lines += [f"- {one}" for one in self.advice]
        return "\n".join(lines)


def _plural(word: str, number: int) -> str:
    return word if number == 1 else word + "s"


def summarize(story: Story) -> Summary:
    """Return the numbers of a story."""
    top, chunks = story.top, story.chunks
    seconds = covered((call.begin, call.end) for call in story.calls)  # one may outlive its item
    work = sum(call.work for call in story.calls)
    workers = _workers(top)
    transport = sum(chunk.transport for chunk in chunks)
    transport += sum(call.task_seconds for call in story.calls)
    slow = _slow(story.calls)
    died = sum(1 for w in story.workers.values() if w.obituary and _needed(w.ended, story))
    tail = min(sum(idle_tail(call) for call in top), seconds * workers)
    ceiling = ceiling_of(top, workers, work)
    return Summary(
        seconds=seconds,
        calls=len(story.calls),
        items=sum(_items(call) for call in story.calls),
        failed=sum(1 for event in story.events if event.kind in ("failed", "lost")),
        retried=sum(1 for event in story.events if event.kind == "retried"),
        died=died,
        workers=workers,
        work=work,
        utilisation=min(1.0, work / (seconds * workers)) if seconds and workers else 0.0,
        speedup=work / seconds if seconds else 0.0,
        ceiling=ceiling,
        transport=transport / (transport + work) if transport + work else 0.0,
        startup=sum(startup(call, story) for call in top),
        idle_tail=tail / (seconds * workers) if seconds and workers else 0.0,
        slow=tuple(slow),
        advice=tuple(advice(story)),
        recorded=None if story.until is None else story.until - story.begin,
    )


def _items(call: Call) -> int:
    """Items that were begun, whatever came of them, and however often."""
    return int(covered((chunk.start, chunk.start + chunk.done) for chunk in call.chunks))


def _workers(top: Sequence[Call]) -> int:
    """The most workers that calls had at a time, with the threads of inner calls.

    Calls that share a pool share its workers.
    """
    lasting = [call for call in top if call.end > call.begin]  # not open, with nothing done yet
    moments = [(call.begin, 1, call) for call in lasting]
    moments += [(call.end, 0, call) for call in lasting]
    most, open_ = max((call.workers for call in top), default=0), list[Call]()
    for _, begins, call in sorted(moments, key=lambda moment: moment[:2]):
        if not begins:
            open_.remove(call)
            continue
        open_.append(call)
        lanes = {(c.pid, c.tid) for one in open_ for each in one.below() for c in each.chunks}
        wanted = [one.workers for one in open_]
        most = max(most, *wanted, min(len(lanes), max(sum(wanted), cpu_count())))
    return most


def ceiling_of(top: Sequence[Call], workers: int, work: float) -> float:
    """Speed-up that these workers could reach with these items."""
    longest = sum(max((i.seconds for i in call.items()), default=0.0) for call in top if call.work)
    least = max(longest if len(top) == 1 else 0.0, work / workers if workers else 0.0)
    return work / least if least else 0.0


def _needed(ended: float | None, story: Story) -> bool:
    """Whether a worker ended while a call ran that it may have worked for."""
    return ended is not None and any(call.begin <= ended < call.end for call in story.top)


def idle_tail(call: Call) -> float:
    """Seconds of workers that had nothing left to do, while others still ran items of the call."""
    last: dict[tuple[int, int], float] = {}
    for one in call.below():
        for chunk in one.chunks:
            key = chunk.pid, chunk.tid
            last[key] = max(last.get(key, 0.0), chunk.end)
    if not last or call.endless:
        return 0.0
    end = max(last.values())
    late = sorted(last.values())[-call.workers :]  # more threads than that take turns
    idle = sum(end - moment for moment in late)
    missing = call.workers - len(last)
    if missing > 0 and call.total is not None:
        idle += missing * (end - min(chunk.begin for chunk in call.chunks))
    return idle


def _slow(calls: Sequence[Call]) -> list[Slow]:
    found = []
    for call in calls:
        items: list[Item] = list(call.items())
        if len(items) < 4 or call.endless:
            continue
        usual = statistics.median(item.seconds for item in items)
        least = max(3 * usual, 0.001, call.seconds / 10)
        found += [
            Slow(call.name, item.index, item.seconds, usual)
            for item in items
            if item.seconds > least
        ]
    found.sort(key=lambda slow: -slow.seconds)
    return found[:MOST_SLOW]
