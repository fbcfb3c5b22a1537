"""Pictures of tables, by matplotlib's object interface: no window, no global state.

It is long because three kinds of pictures share their scales, colours, names and legends.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ..pictures import figure
from .crossing import Crossing
from .layout import as_float, is_number
from .row import Row, Tabular, key_of, label, ordered, unlabelled
from .show import COLORS as STATUS_COLORS
from .show import distinct, needed

__all__ = ["coordinates", "curves", "heatmap", "lines", "varied"]

COLORS = "viridis"  # even in brightness, also for who does not see all colours
MOST_LINES = 12  # with a legend that can still be read
MOST_COLORS = 10  # of lines that are in no order
MOST_TICKS = 12
GRID = {"color": "0.9", "linewidth": 0.8}
MARKS = {"failed": "x", "pruned": "v"}


def lines(
    table: Tabular,
    x: str | None,
    y: str | None,
    hue: str | None,
    path: str | os.PathLike[str] | None,
    means: bool,
    ax: Any,
    style: Mapping[str, Any],
) -> Any:
    """A result over a parameter; a line for each value of `hue`."""
    rows = list(table)
    x = x or varied(table, rows)
    y = y or _result(table, rows)
    _check(table, x, y, *([hue] if hue else []))
    groups: dict[Any, dict[Any, list[float]]] = {}
    for row in rows:
        if row.record.status == "ok" and is_number(row[y]):
            group = groups.setdefault(label(row[hue]) if hue else None, {})
            group.setdefault(label(row[x]), []).append(as_float(row[y], y))
    if not groups:
        raise ValueError(_nothing(rows, y))
    lost = [row for row in rows if row.record.status != "ok"]
    places = ordered(
        [*(at for group in groups.values() for at in group), *(label(row[x]) for row in lost)]
    )
    numeric = all(is_number(at) for at in places)
    timed = len({type(at) for at in places}) == 1 and isinstance(places[0], dt.date)
    figure, axes = _figure(ax=ax)
    names = ordered(groups)
    told = _told(names)
    for i, name in enumerate(names):
        group = groups[name]
        at = [place for place in places if place in group]
        xs = at if numeric or timed else [places.index(place) for place in at]
        color = _colors()(i / max(1, len(names) - 1) * 0.9) if len(names) > 1 else "C0"
        own = {"color": color, "label": told[i], "marker": "o", "markersize": 4, **style}
        if not (numeric or timed) and len(names) > 1:
            xs = [at + 0.12 * (i - (len(names) - 1) / 2) for at in xs]  # side by side
        if means:
            middle = [math.fsum(group[place]) / len(group[place]) for place in at]
            spread = [statistics.stdev(v) if len(v := group[p]) > 1 else 0.0 for p in at]
            _line(axes, xs, middle, spread, numeric or timed, own)
        else:
            every = [(one, value) for one, p in zip(xs, at, strict=True) for value in group[p]]
            own |= {"linestyle": "", "alpha": own.get("alpha", 0.6)}
            axes.plot([one for one, _ in every], [value for _, value in every], **own)
    marked = _mark(axes, lost, x, places if not (numeric or timed) else None)
    _scale(axes, places, numeric, timed)
    axes.set_xlabel(_plain(x))
    axes.set_ylabel(_plain(y))
    axes.grid(**GRID)
    if (hue and len(names) <= MOST_LINES) or (marked and not hue):
        handles = None if hue else marked
        title = _plain(hue) if hue else None
        _legend(axes, ax is None, handles=handles, title=title)
    elif hue:
        axes.set_title(
            f"a line for each of {len(names)} values of {_plain(hue)}", fontsize="medium"
        )
    return _saved(figure, path)


def _mark(axes: Any, lost: Sequence[Row], x: str, places: list[Any] | None) -> list[Any]:
    """Mark at the lower edge where points failed or were pruned; return the marks for a legend."""
    marks = []
    for status, marker in MARKS.items():
        rows = [row for row in lost if row.record.status == status]
        if rows:
            at = [label(row[x]) for row in rows]
            xs = at if places is None else [places.index(one) for one in at]
            marks += axes.plot(
                xs,
                [0.02] * len(xs),
                linestyle="",
                marker=marker,
                color=STATUS_COLORS[status],
                label=f"{len(rows)} {status}",
                transform=axes.get_xaxis_transform(),
                clip_on=False,
                zorder=3,
            )
    return marks


def _legend(axes: Any, beside: bool, **options: Any) -> None:
    """A legend beside axes that have a figure to themselves; within those that have neighbours."""
    where: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "frameon": False}
    if not beside:
        where = {"loc": "best", "fontsize": "small", "framealpha": 0.7, "edgecolor": "none"}
    axes.legend(**where, **options)


def _nothing(rows: Sequence[Row], column: str) -> str:
    """Why there is nothing to draw."""
    failed = [row for row in rows if row.record.status == "failed"]
    if rows and len(failed) == len(rows):
        return f"all {len(rows)} points failed, the first with {failed[0].record.error}"
    return f"no row has a number in the column {column!r}"


def _told(labels: Sequence[Any]) -> list[str]:
    """Labels as texts that differ, and that matplotlib does not take for formulas."""
    values = [unlabelled(one) for one in labels]
    known = iter(distinct([value for value in values if value is not None]))
    return [_plain("None" if value is None else next(known)) for value in values]


def _plain(text: Any) -> str:
    """A text that matplotlib does not take for a formula."""
    return str(text).replace("$", r"\$")


def _named(set_ticks: Any, names: list[Any], most: int, turned: bool = False) -> None:
    """Name places along an axis: as many as there is room for."""
    step = math.ceil(len(names) / most)
    told = _told(names)[::step]
    turned = turned and sum(map(len, told)) > 60
    style = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    set_ticks(range(0, len(names), step), told, **style)


def _dated(axis: Any) -> None:
    """Name dates as briefly as they can be told apart."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator: Any = cast("Any", AutoDateLocator)()
    axis.set_major_locator(locator)
    axis.set_major_formatter(cast("Any", ConciseDateFormatter)(locator))


def _scale(axes: Any, places: list[Any], numeric: bool, timed: bool) -> None:
    """Let the x axis fit what stands on it: numbers, dates, or names."""
    if numeric and _is_geometric(places):
        axes.set_xscale("log")
        if len(places) <= MOST_TICKS:  # the values themselves say more than powers of ten
            axes.set_xticks(places, [f"{place:g}" for place in places])
            axes.minorticks_off()
    elif timed:
        _dated(axes.xaxis)
    elif not numeric:
        _named(axes.set_xticks, places, 20, turned=True)


def _line(
    axes: Any, xs: list[Any], means: list[float], spread: list[float], joined: bool, style: Any
) -> None:
    """Means with a band, or with bars where nothing lies between the places."""
    if not joined:
        axes.errorbar(xs, means, spread, linestyle="", capsize=3, **style)
        return
    axes.plot(xs, means, **style)
    if any(spread):
        low = [m - s for m, s in zip(means, spread, strict=True)]
        high = [m + s for m, s in zip(means, spread, strict=True)]
        axes.fill_between(xs, low, high, color=style["color"], alpha=0.15, linewidth=0)


def heatmap(
    crossing: Crossing, path: str | os.PathLike[str] | None, ax: Any, style: Mapping[str, Any]
) -> Any:
    """A result over two parameters, as colours and numbers."""
    down, across, means = crossing.down, crossing.across, crossing.means
    known = [mean for row in means for mean in row if not math.isnan(mean)]
    size = min(16.0, max(4.5, 1.6 + 0.75 * len(across))), min(12.0, max(3.0, 1.2 + 0.5 * len(down)))
    figure, axes = _figure(*size, ax=ax)
    image = axes.imshow(means, **{"aspect": "auto", "origin": "lower", "cmap": COLORS, **style})
    figure.colorbar(image, ax=axes, label=_plain(crossing.values))
    _named(axes.set_xticks, across, 20, turned=True)
    _named(axes.set_yticks, down, 25)
    axes.set_xlabel(_plain(crossing.columns))
    axes.set_ylabel(_plain(crossing.index))
    few = len(down) * len(across) <= 150
    middle = (min(known) + max(known)) / 2
    for i, row in enumerate(means):
        for j, mean in enumerate(row):
            counts = crossing.marks.get((down[i], across[j]), {})
            if not math.isnan(mean) and few:
                color = "black" if image.norm(mean) > image.norm(middle) else "white"
                axes.text(j, i, f"{mean:.3g}", ha="center", va="center", color=color, fontsize=8)
            for place, status in enumerate(status for status in MARKS if status in counts):
                alone = math.isnan(mean)
                at = (j + 0.18 * place, i) if alone else (j + 0.36 - 0.18 * place, i + 0.3)
                axes.plot(
                    *at,
                    marker=MARKS[status],
                    color=STATUS_COLORS[status] if alone else "white",
                    markeredgecolor=STATUS_COLORS[status],
                    markersize=7 if alone else 5,
                )
    _explain(axes, crossing)
    return _saved(figure, path)


def _explain(axes: Any, crossing: Crossing) -> None:
    """Say what the marks of a heatmap mean."""
    totals: dict[str, int] = {}
    for counts in crossing.marks.values():
        for status, count in counts.items():
            totals[status] = totals.get(status, 0) + count
    signs = {"failed": "×", "pruned": "▾"}
    if totals:
        told = ", ".join(f"{signs[s]} {totals[s]} {s}" for s in MARKS if s in totals)
        axes.set_title(told, fontsize="medium", color="0.35")


def coordinates(
    table: Tabular,
    columns: Sequence[str],
    color: str | None,
    path: str | os.PathLike[str] | None,
    ax: Any,
    style: Mapping[str, Any],
) -> Any:
    """An axis for each column, a line for each row that has them all; high ones on top."""
    every = list(table)
    names = list(columns) or [*table.parameters, _result(table, every)]
    color = color or names[-1]
    _check(table, *names, color)
    lost = [row for row in every if row.record.status != "ok"]
    rows = [row for row in every if row.record.status == "ok"]
    rows = [row for row in rows if all(row[name] is not None for name in (*names, color))]
    rows = [row for row in rows if is_number(row[color])]
    if len(names) < 2 or not rows:
        raise ValueError(f"parallel coordinates need two columns or more, and rows with a {color}")
    figure, axes = _figure(max(5.0, 1.7 * len(names)), 4.0, ax)
    scales = {name: _Scale([label(row[name]) for row in rows]) for name in names}
    shades = _Scale([float(row[color]) for row in rows])
    for row in sorted(rows, key=lambda row: float(row[color])):  # the high ones in front
        heights = [scales[name].place(label(row[name])) for name in names]
        share = shades.place(float(row[color]))
        own = {"color": _colors()(share), "alpha": 0.35 + 0.6 * share, **style}
        axes.plot(range(len(names)), heights, **own)
    for at, name in enumerate(names):
        axes.axvline(at, color="0.3", linewidth=0.8)
        for place, told in scales[name].ticks():
            box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
            axes.text(at + 0.03, place, told, fontsize=7, va="center", bbox=box)
    axes.set_xticks(range(len(names)), [_plain(name) for name in names])
    axes.set_yticks([])
    axes.set_xlim(-0.15, len(names) - 0.6)
    for side in axes.spines.values():
        side.set_visible(False)
    if lost:
        counts = [(s, sum(row.record.status == s for row in lost)) for s in MARKS]
        told = ", ".join(f"{count} {status}" for status, count in counts if count)
        axes.set_title(f"without points that did not end: {told}", fontsize="medium", color="0.35")
    _bar(figure, axes, shades.low, shades.high, color)
    return _saved(figure, path)


def _bar(figure: Any, axes: Any, low: float, high: float, name: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure.colorbar(ScalarMappable(Normalize(low, high), COLORS), ax=axes, label=_plain(name))


def curves(
    table: Tabular,
    hue: str | None,
    path: str | os.PathLike[str] | None,
    ax: Any,
    style: Mapping[str, Any],
) -> Any:
    """What points have reported, a line each; those that were given up end with a mark."""
    rows = [row for row in table if row.record.curve]
    if not rows:
        raise ValueError("no point has reported anything: call pk.report(value, step) in it")
    _check(table, *([hue] if hue else []))
    figure, axes = _figure(ax=ax)
    hues = [label(row[hue]) if hue else None for row in rows]
    names = ordered(hues) if hue else []
    shades = {name: _colors()(i / max(1, len(names) - 1) * 0.9) for i, name in enumerate(names)}
    if hue is None and 1 < len(rows) <= MOST_COLORS:  # so few can each be told apart
        hues = [*_points(table, rows)]
        shades = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(hues)) if name}
    lines = sorted(zip(rows, hues, strict=True), key=lambda line: line[0].record.status == "ok")
    for row, shade in lines:  # those that ended in front
        status, steps = row.record.status, [step for step, _ in row.record.curve]
        values = [value for _, value in row.record.curve]
        color = shades.get(shade, "C0" if status == "ok" else "0.6")
        own: dict[str, Any] = {"linewidth": 1.4 if status == "ok" else 0.8}
        own |= {"color": color, "alpha": 0.9 if status == "ok" else 0.6, **style}
        if len(steps) == 1:
            own.setdefault("marker", ".")
        axes.plot(steps, values, **own)
        if status != "ok":
            ending = {"color": STATUS_COLORS[status], "marker": MARKS[status], "markersize": 4}
            axes.plot(steps[-1:], values[-1:], linestyle="", **ending)
    every = sorted({step for row in rows for step, _ in row.record.curve})
    ends = sorted({row.record.curve[-1][0] for row in rows})
    if _is_geometric(ends) and every[0] > 0:  # as the rungs of halving
        _scale(axes, ends, numeric=True, timed=False)
    axes.set_xlabel("step")
    axes.set_ylabel("reported")
    axes.grid(**GRID)
    _curve_legend(axes, rows, hue, shades, ax is None)
    return _saved(figure, path)


def _points(table: Tabular, rows: Sequence[Row]) -> list[str]:
    """What tells rows apart, as text: the parameters that vary, and the repeat."""
    names = [name for name in table.parameters if len({label(row[name]) for row in rows}) > 1]
    if "repeat" in table.columns and any(row.record.repeat for row in rows):
        names.append("repeat")
    told = [
        [f"{_plain(name)} {text}" for text in _told([label(row[name]) for row in rows])]
        for name in names
    ]
    return [", ".join(texts) for texts in zip(*told, strict=True)] or [""] * len(rows)


def _curve_legend(
    axes: Any, rows: Sequence[Row], hue: str | None, shades: dict[Any, Any], beside: bool
) -> None:
    from matplotlib.lines import Line2D

    counts = [(s, sum(row.record.status == s for row in rows)) for s in ("ok", *MARKS)]
    handles = []
    for status, count in counts:
        if count:
            usual = "0.3" if shades else "C0"
            color = usual if status == "ok" else STATUS_COLORS[status]
            marker = MARKS.get(status, "")
            line: Any = "-" if status == "ok" else ""
            said = f"{count} {'to the end' if status == 'ok' else status}"
            handles.append(Line2D([], [], color=color, marker=marker, linestyle=line, label=said))
    if len(shades) <= MOST_LINES:
        told = list(shades) if hue is None else [f"{_plain(hue)} {t}" for t in _told(list(shades))]
        handles += [
            Line2D([], [], color=color, label=text)
            for color, text in zip(shades.values(), told, strict=True)
        ]
    _legend(axes, beside, handles=handles)


class _Scale:
    """Values of a column as heights from 0 to 1: numbers by size, others by rank."""

    def __init__(self, values: list[Any]) -> None:
        self._names = ordered(values)
        self._numeric = all(map(is_number, self._names))
        self._log = self._numeric and _is_geometric(self._names)
        self.low, self.high = 0.0, max(1.0, len(self._names) - 1.0)
        if self._numeric:
            self.low, self.high = float(self._names[0]), float(self._names[-1])

    def place(self, value: Any) -> float:
        """Height of a value."""
        low, high = self.low, self.high
        at = float(value) if self._numeric else float(self._names.index(value))
        if self._log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return (at - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Heights of some values, and their names."""
        names = self._names
        if len(names) > 7:
            names = [names[round(i * (len(names) - 1) / 4)] for i in range(5)]
        if self._numeric:
            told = [f"{name:.3g}" if isinstance(name, float) else str(name) for name in names]
        else:
            told = _told(names)
        return [(self.place(name), text) for name, text in zip(names, told, strict=True)]


def _figure(width: float = 6.4, height: float = 4.0, ax: Any = None) -> tuple[Any, Any]:
    """A figure of our own, or that of axes which were given."""
    if ax is not None:
        return ax.figure, ax
    needed("matplotlib", "matplotlib")
    made = figure(width, height)
    axes = made.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return made, axes


def _saved(figure: Any, path: str | os.PathLike[str] | None) -> Any:
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _colors() -> Any:
    from matplotlib import colormaps

    return colormaps[COLORS]


def varied(table: Tabular, rows: Sequence[Mapping[str, Any]]) -> str:
    """The parameter with most different values, numbers first."""
    if not table.parameters:
        raise ValueError("this sweep has no parameters to draw over")

    def weight(name: str) -> tuple[bool, int]:
        values = [row[name] for row in rows]
        numeric = all(is_number(value) and not isinstance(value, bool) for value in values)
        return numeric, len(set(map(key_of, values)))

    return max(table.parameters, key=weight)


def _result(table: Tabular, rows: Sequence[Row]) -> str:
    for name in table.results:
        if any(is_number(row[name]) for row in rows if row.record.status == "ok"):
            return name
    if rows and all(row.record.status == "failed" for row in rows):
        raise ValueError(_nothing(rows, ""))
    raise ValueError("this sweep has no results to draw yet")


def _check(table: Tabular, *names: str) -> None:
    columns = table.columns
    for name in names:
        if name not in columns:
            raise KeyError(f"no column {name!r}; there are {', '.join(columns)}")


def _is_geometric(places: list[Any]) -> bool:
    """Whether positive numbers lie rather by factors than by differences."""
    if len(places) < 3 or places[0] <= 0 or places[-1] < 8 * places[0]:
        return False
    between = [b / a for a, b in itertools.pairwise(places)]
    return bool(max(between) < places[-1] / places[0] * 0.7)
