"""Pictures of tables, by matplotlib's object interface: no window, no global state."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import os
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from .layout import as_float, is_number
from .show import label, needed, ordered, short

if TYPE_CHECKING:
    from .table import Table

__all__ = ["coordinates", "heatmap", "lines", "varied"]

COLORS = "viridis"  # even in brightness, also for who does not see all colours
MOST_LINES = 12  # with a legend that can still be read
MOST_TICKS = 12
GRID = {"color": "0.9", "linewidth": 0.8}


def lines(
    table: Table,
    x: str | None,
    y: str | None,
    hue: str | None,
    path: str | os.PathLike[str] | None,
) -> Any:
    """A result over a parameter; a line for each value of `hue`."""
    rows = table.rows
    x = x or varied(table, rows)
    y = y or _result(table)
    _check(table, x, y, *([hue] if hue else []))
    groups: dict[Any, dict[Any, list[float]]] = {}
    for row in rows:
        if is_number(row[y]):
            group = groups.setdefault(label(row[hue]) if hue else None, {})
            group.setdefault(label(row[x]), []).append(as_float(row[y], y))
    if not groups:
        raise ValueError(f"no row has a number in the column {y!r}")
    places = ordered(at for group in groups.values() for at in group)
    numeric = all(is_number(at) and not isinstance(at, bool) for at in places)
    timed = len({type(at) for at in places}) == 1 and isinstance(places[0], dt.date)
    figure, axes = _figure()
    names = ordered(groups)
    for i, name in enumerate(names):
        group = groups[name]
        at = [place for place in places if place in group]
        xs = at if numeric or timed else [places.index(place) for place in at]
        means = [math.fsum(group[place]) / len(group[place]) for place in at]
        color = _colors()(i / max(1, len(names) - 1) * 0.9) if len(names) > 1 else "C0"
        spread = [statistics.stdev(v) if len(v := group[p]) > 1 else 0.0 for p in at]
        style = {"color": color, "label": _plain(name), "marker": "o", "markersize": 4}
        if not (numeric or timed) and len(names) > 1:
            xs = [at + 0.12 * (i - (len(names) - 1) / 2) for at in xs]  # side by side
        _line(axes, xs, means, spread, numeric or timed, style)
    _scale(axes, places, numeric, timed)
    axes.set_xlabel(_plain(x))
    axes.set_ylabel(_plain(y))
    axes.grid(**GRID)
    if hue and len(names) <= MOST_LINES:
        axes.legend(title=_plain(hue), frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    elif hue:
        axes.set_title(
            f"a line for each of {len(names)} values of {_plain(hue)}", fontsize="medium"
        )
    return _saved(figure, path)


def _plain(value: Any) -> str:
    """A value as text that matplotlib does not take for a formula."""
    return ("None" if value is None else short(value)).replace("$", r"\$")


def _named(set_ticks: Any, names: list[Any], most: int, turned: bool = False) -> None:
    """Name places along an axis: as many as there is room for."""
    step = math.ceil(len(names) / most)
    told = [_plain(name) for name in names[::step]]
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


def heatmap(table: Table, x: str, y: str, value: str, path: str | os.PathLike[str] | None) -> Any:
    """A result over two parameters, as colours and numbers."""
    down, across, means = table.crossed(y, x, value)
    if not down:
        raise ValueError(f"no row has a number in the column {value!r}")
    known = [mean for row in means for mean in row if not math.isnan(mean)]
    low, high = min(known), max(known)
    figure, axes = _figure(
        min(16.0, max(4.5, 1.6 + 0.75 * len(across))), min(12.0, max(3.0, 1.2 + 0.5 * len(down)))
    )
    image = axes.imshow(means, aspect="auto", origin="lower", cmap=COLORS)
    figure.colorbar(image, label=_plain(value))
    _named(axes.set_xticks, across, 20, turned=True)
    _named(axes.set_yticks, down, 25)
    axes.set_xlabel(_plain(x))
    axes.set_ylabel(_plain(y))
    if len(down) * len(across) <= 150:
        middle = (low + high) / 2
        for i, row in enumerate(means):
            for j, mean in enumerate(row):
                if not math.isnan(mean):
                    color = "black" if mean > middle else "white"
                    told = f"{mean:.3g}"
                    axes.text(j, i, told, ha="center", va="center", color=color, fontsize=8)
    return _saved(figure, path)


def coordinates(
    table: Table,
    columns: Sequence[str],
    color: str | None,
    path: str | os.PathLike[str] | None,
) -> Any:
    """An axis for each column, a line for each row that has them all; high ones on top."""
    names = list(columns) or [*table.parameters, _result(table)]
    color = color or names[-1]
    _check(table, *names, color)
    rows = [row for row in table if all(row[name] is not None for name in (*names, color))]
    rows = [row for row in rows if is_number(row[color])]
    if len(names) < 2 or not rows:
        raise ValueError(f"parallel coordinates need two columns or more, and rows with a {color}")
    figure, axes = _figure(max(5.0, 1.7 * len(names)), 4.0)
    scales = {name: _Scale([label(row[name]) for row in rows]) for name in names}
    shades = _Scale([float(row[color]) for row in rows])
    for row in sorted(rows, key=lambda row: float(row[color])):  # the high ones in front
        heights = [scales[name].place(label(row[name])) for name in names]
        share = shades.place(float(row[color]))
        axes.plot(range(len(names)), heights, color=_colors()(share), alpha=0.35 + 0.6 * share)
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
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure.colorbar(
        ScalarMappable(Normalize(shades.low, shades.high), COLORS), ax=axes, label=_plain(color)
    )
    return _saved(figure, path)


class _Scale:
    """Values of a column as heights from 0 to 1: numbers by size, others by rank."""

    def __init__(self, values: list[Any]) -> None:
        self._names = ordered(values)
        self._numeric = all(is_number(v) and not isinstance(v, bool) for v in self._names)
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
        return [
            (self.place(name), _plain(name if not self._numeric else _rounded(name)))
            for name in names
        ]


def _rounded(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _figure(width: float = 6.4, height: float = 4.0) -> tuple[Any, Any]:
    needed("matplotlib", "matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that a notebook shows, whether or not pyplot is loaded."""

        def _repr_png_(self) -> bytes:
            import io

            file = io.BytesIO()
            self.savefig(file, format="png", dpi=110)
            return file.getvalue()

    figure = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _saved(figure: Any, path: str | os.PathLike[str] | None) -> Any:
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _colors() -> Any:
    from matplotlib import colormaps

    return colormaps[COLORS]


def varied(table: Table, rows: list[dict[str, Any]]) -> str:
    """The parameter with most different values, numbers first."""
    if not table.parameters:
        raise ValueError("this sweep has no parameters to draw over")

    def weight(name: str) -> tuple[bool, int]:
        different = {label(row[name]) for row in rows}
        return all(is_number(v) for v in different), len(different)

    return max(table.parameters, key=weight)


def _result(table: Table) -> str:
    if not table.results:
        raise ValueError("this sweep has no results to draw yet")
    return table.results[0]


def _check(table: Table, *names: str) -> None:
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
