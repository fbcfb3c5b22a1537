"""The timeline as one page that needs no network."""

from __future__ import annotations

import json
import platform
import statistics
from collections import defaultdict
from importlib.resources import files
from typing import Any

from .chrome import version
from .lanes import Bar, Lane, lanes, names
from .plot import COLOURS
from .story import Call, Chunk, Story
from .summary import summarize

__all__ = ["page"]

MOST_BARS = 60_000  # that the page has; of more, the longest


def page(story: Story) -> str:
    """Return the page as text."""
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    data = json.dumps(_data(story), separators=(",", ":")).replace("<", "\\u003c")
    return template.replace("@COLOURS@", json.dumps(COLOURS)).replace("@DATA@", data)


def _data(story: Story) -> dict[str, Any]:
    rows = lanes(story)
    least = _least([bar for lane in rows for bar in lane.bars])
    functions = names(story.calls, rows)
    zero = min((call.begin for call in story.calls), default=story.begin)
    end = max((call.end for call in story.calls), default=story.end)
    chunks: dict[int, int] = {}  # which of those on the page
    told: list[list[float]] = []

    def at(moment: float) -> float:
        return round(1e6 * (moment - zero), 1)

    def bar(one: Bar) -> list[Any]:
        number = chunks.get(id(one.chunk))
        if number is None:
            number = chunks[id(one.chunk)] = len(told)
            told.append(_chunk(one.chunk))
        where = [at(one.begin), round(1e6 * (one.end - one.begin), 1), functions.index(one.name)]
        what = [one.index, one.count, one.level, int(one.outer), one.failed or 0]
        return [*where, *what, number]

    def lane(one: Lane) -> dict[str, Any]:
        bars = [b for b in one.bars if b.failed or b.end - b.begin >= least]
        return {
            "name": one.name,
            "first": one.first,
            "bars": [bar(b) for b in bars if b.name in functions],
            "starts": [[at(b), round(1e6 * (e - b), 1)] for b, e in one.starts],
            "ways": [[at(b), round(1e6 * (e - b), 1)] for b, e in one.ways],
            "deaths": [[at(moment), why] for moment, why in one.deaths],
        }

    return {
        "origin": f"parallelkit {version()}, Python {platform.python_version()}, {platform.node()}",
        "summary": summarize(story).as_dict(),
        "names": functions,
        "calls": _calls(story.calls),
        "end": at(end),
        "lanes": [lane(one) for one in rows],
        "chunks": told,
    }


def _least(bars: list[Bar]) -> float:
    """Seconds that a bar must have, so that there are not too many."""
    if len(bars) <= MOST_BARS:
        return 0.0
    return sorted((bar.end - bar.begin for bar in bars), reverse=True)[MOST_BARS]


def _chunk(chunk: Chunk) -> list[float]:
    def took(seconds: float) -> float:
        return round(1e6 * max(0.0, seconds), 1)

    crossed = chunk.sending is not None
    return [
        chunk.size,
        chunk.attempts,
        took(chunk.waited),
        took(chunk.crossing) if crossed else -1,
        took(chunk.begin - chunk.taken),
        took(chunk.answered - chunk.end),
        took(chunk.returning),
        chunk.nbytes,
        chunk.answer_nbytes,
        chunk.memory,
        took(chunk.thread_seconds),
    ]


def _calls(calls: list[Call]) -> list[list[Any]]:
    """Calls made at one place with one function, as a line of a table each."""
    groups: dict[tuple[Any, ...], list[Call]] = defaultdict(list)
    for call in calls:
        groups[call.level, call.name, call.where, call.backend].append(call)
    lines: list[list[Any]] = []
    for (level, name, where, backend), group in sorted(groups.items(), key=lambda one: one[0][0]):
        times = [item.seconds for call in group for item in call.items()] or [0.0]
        done = sum(chunk.done for call in group for chunk in call.chunks)
        work = sum(call.work for call in group)
        spent = [1e6 * statistics.median(times), 1e6 * max(times), 1e6 * work]
        lines.append([name, len(group), done, *spent, backend, level, where])
    return lines
