"""The timeline as a picture, by matplotlib."""

from __future__ import annotations

import importlib.util
from typing import Any

from ..pictures import figure
from .lanes import Bar, Lane, lanes, names
from .story import Story
from .summary import summarize

__all__ = ["COLOURS", "draw"]

# Told apart also by people who do not see all colours; the last is for all that come after.
COLOURS = ("#4477aa", "#ee7733", "#228833", "#aa3377", "#66ccee", "#ccbb44", "#999999")
FAILED = "#cc3311"
WAY = "#aab2ba"
MOST_BARS = 20_000  # of a lane and a level; those that would not be seen are drawn as one


def draw(story: Story) -> Any:
    """Return a figure of a story."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            "trace.plot() needs matplotlib: pip install parallelkit[plot]; trace.html() does not"
        )
    rows = lanes(story)
    functions = names(story.calls, rows)
    begin = min((call.begin for call in story.calls), default=story.begin)
    end = max((call.end for call in story.calls), default=story.end)
    unit, scale = ("s", 1.0) if end - begin >= 1 else ("ms", 1e3)
    height = 1.5 + 0.42 * max(1, len(rows)) + 0.3 * -(-len(functions) // 4)
    made = figure(9, height)
    axes = made.subplots()
    for row, lane in enumerate(rows):
        _draw_lane(axes, lane, row, functions, begin, scale, (end - begin) / MOST_BARS)
    axes.set_yticks(range(len(rows)), [lane.name for lane in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, max(scale * (end - begin), 1e-6))
    axes.set_xlabel(f"time in {unit}")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    told = summarize(story)
    axes.set_title(
        f"{told.items} items, speed-up {told.speedup:.2f} of at most {told.ceiling:.2f}",
        loc="left",
        fontsize=10,
    )
    _legend(made, axes, rows, functions)
    return made


def _colour(name: str, functions: list[str]) -> str:
    return COLOURS[min(functions.index(name), len(COLOURS) - 1)]


def _draw_lane(
    axes: Any, lane: Lane, row: int, functions: list[str], zero: float, scale: float, least: float
) -> None:
    for begin, end in lane.starts:
        span = [(scale * (begin - zero), scale * (end - begin))]
        axes.broken_barh(
            span, (row - 0.4, 0.8), facecolor="#eeeeee", hatch="////", ec="#bbbbbb", lw=0
        )
    ways = [(scale * (begin - zero), scale * (end - begin)) for begin, end in lane.ways]
    axes.broken_barh(ways, (row - 0.15, 0.3), facecolor=WAY, zorder=2)
    groups: dict[tuple[int, str, bool], list[tuple[float, float]]] = {}
    for bar in lane.bars:
        spans = groups.setdefault((bar.level, bar.name, bar.outer), [])
        if spans and bar.begin - spans[-1][1] < 0 <= bar.end - bar.begin < least:
            spans[-1] = spans[-1][0], max(spans[-1][1], bar.end)
        else:
            spans.append((bar.begin, bar.end))
    for (level, name, outer), spans in sorted(groups.items()):
        tall = _height(level)
        axes.broken_barh(
            [(scale * (b - zero), scale * (e - b)) for b, e in spans],
            (row - tall / 2, tall),
            facecolor=_colour(name, functions),
            alpha=0.35 if outer else 1.0,
            edgecolor="white",
            linewidth=0.3 if len(spans) < 500 else 0,
            zorder=2 + level,
        )
    failed = [bar for bar in lane.bars if bar.failed]
    if failed:
        axes.plot(
            *([scale * (bar.end - zero) for bar in failed], [row] * len(failed)),
            *("x",),
            color=FAILED,
            markersize=7,
            markeredgewidth=2,
            zorder=9,
            clip_on=False,  # also at the very end
        )
    for died, _ in lane.deaths:
        where = scale * (died - zero)
        axes.plot([where, where], [row - 0.45, row + 0.45], color=FAILED, linewidth=2, zorder=8)


def _height(level: int) -> float:
    return float(max(0.2, 0.8 - 0.25 * (level - 1)))


def _legend(made: Any, axes: Any, rows: list[Lane], functions: list[str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shown = functions[: len(COLOURS)]
    whole = {bar.name for lane in rows for bar in lane.bars if not bar.outer}
    handles: list[Any] = [
        Patch(facecolor=_colour(name, functions), alpha=1 if name in whole else 0.35, label=name)
        for name in shown
    ]
    if len(functions) > len(COLOURS):
        handles[-1].set_label("others")
    if any(lane.starts for lane in rows):
        handles.append(Patch(facecolor="#eeeeee", hatch="////", ec="#bbbbbb", label="start"))
    if any(lane.ways for lane in rows):
        handles.append(Patch(color=WAY, label="pickling, imports"))
    bars: list[Bar] = [bar for lane in rows for bar in lane.bars]
    if any(bar.failed for bar in bars):
        handles.append(
            Line2D(
                [], [], color=FAILED, marker="x", linestyle="", markeredgewidth=2, label="failed"
            )
        )
    if any(lane.deaths for lane in rows):
        handles.append(Line2D([], [], color=FAILED, linewidth=2, label="worker died"))
    if handles:
        made.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    axes.margins(y=0)
