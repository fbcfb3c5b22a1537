"""How tables look: as text, in a notebook, in files."""

from __future__ import annotations

import datetime as dt
import html as markup
import importlib
import json
import shutil
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import ParallelError
from .database import clean

if TYPE_CHECKING:
    from .table import Table

__all__ = [
    "cell",
    "cells",
    "duration",
    "grid_text",
    "harmless",
    "html",
    "label",
    "needed",
    "ordered",
    "short",
    "text",
]

SHOWN = 10  # rows; of longer tables the first and last ones
WIDEST = 40  # characters of a cell
LEAST = 24  # to which the widest column is cut
# In print these only matter when something is wrong, or when they are asked for.
QUIET = ("started", "worker", "attempt", "seed", "error")


def needed(module: str, install: str) -> Any:
    """Import an optional package, or say how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ParallelError(f"this needs {module}: pip install {install}") from error


def text(table: Table, head: str) -> str:
    """A table as aligned text, as wide as the terminal."""
    columns, rows, left_out = _extract(table)
    lines = grid_text(columns, cells(columns, rows))
    if left_out:
        half = len(lines) - SHOWN // 2
        lines[half:half] = [f"... {left_out} more ..."]
    return "\n".join([head, *lines])


def cells(columns: list[str], rows: list[dict[str, Any]]) -> list[list[str]]:
    """Cells as text; of times the digits that matter, of errors somewhat more."""
    return [[_cell(name, row[name]) for name in columns] for row in rows]


def _cell(name: str, value: Any) -> str:
    if name in ("seconds", "sweep.seconds") and isinstance(value, float):
        return f"{value:.3g}"
    return short(value, 2 * WIDEST if name in ("error", "sweep.error") else WIDEST)


def grid_text(columns: list[str], rows: list[list[str]], width: int | None = None) -> list[str]:
    """Lines of aligned columns: the widest one is cut to fit, what finds no room is left out."""
    columns = [" ".join(clean(name).split()) for name in columns]
    width = width or max(60, shutil.get_terminal_size((100, 24)).columns)
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    over = sum(widths) + 2 * (len(widths) - 1) - width
    if over > 0:
        widest = widths.index(max(widths))
        widths[widest] = max(min(widths[widest], LEAST), widths[widest] - over)
    room, fits = width, 0
    for one in widths:
        room -= one + 2
        if room < -2:
            break
        fits += 1
    more = "  ..." if fits < len(columns) else ""
    lines = [zip(row[:fits], widths, strict=False) for row in [columns, *rows]]
    return ["  ".join(_cut(c, w).rjust(w) for c, w in line).rstrip() + more for line in lines]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def html(table: Table, head: str) -> str:
    """A table for a notebook."""
    columns, rows, left_out = _extract(table)
    lines = [
        "<div style='overflow-x: auto'>",
        f"<p style='margin: 0 0 .4em'><b>{markup.escape(head)}</b></p>",
        "<table style='border-collapse: collapse; font-variant-numeric: tabular-nums'>",
        "<thead><tr style='border-bottom: 1px solid'>",
        *(f"<th style='text-align: right'>{markup.escape(clean(name))}</th>" for name in columns),
        "</tr></thead><tbody>",
    ]
    for place, row in enumerate(rows):
        if left_out and place == len(rows) - SHOWN // 2:
            told = f"{left_out} more"
            lines.append(f"<tr><td colspan='{len(columns)}' style='opacity: .6'>… {told}</td></tr>")
        failed = row[_status(columns)] == "failed"
        lines.append("<tr style='color: #c0392b'>" if failed else "<tr>")
        values = map(markup.escape, cells(columns, [row])[0])
        lines += [f"<td style='text-align: right'>{value}</td>" for value in values]
        lines.append("</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


def _extract(table: Table) -> tuple[list[str], list[dict[str, Any]], int]:
    """Columns and rows to show, and how many rows are left out between the two halves."""
    count = len(table)
    rows = table.ends(count if count <= 2 * SHOWN else SHOWN // 2)[:count]
    own = {name: name for name in QUIET} | {f"sweep.{name}": name for name in QUIET}
    last = table.columns[-7:]  # the sweep's own
    hidden = {name for name in last if name in own}
    if any(row[_status(last)] == "failed" for row in rows):
        hidden -= {"error", "sweep.error"}
    theirs = {*table.parameters, *table.results}
    for name in ("code", "sweep.code"):  # where all rows have the same, it says nothing
        if name not in theirs and len({row.get(name) for row in rows}) < 2:
            hidden.add(name)
    return [name for name in table.columns if name not in hidden], rows, max(0, count - len(rows))


def _status(columns: list[str]) -> str:
    return "sweep.status" if "sweep.status" in columns else "status"


def short(value: Any, widest: int = WIDEST) -> str:
    """A value for somebody to look at."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dt.datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if getattr(value, "ndim", 0) and hasattr(value, "dtype"):
        return f"array {value.dtype} {'×'.join(map(str, value.shape))}"
    try:
        told = value if isinstance(value, str) else repr(value)
    except Exception:  # noqa: BLE001 - a user's __repr__ may raise anything
        told = f"<{type(value).__name__}>"
    told = " ".join("".join(c if c.isprintable() else " " for c in told).split())
    return _cut(told, widest)


def cell(value: Any) -> Any:
    """A value for a file of text: as it is, or as JSON where it holds others."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple, dict)):
        try:
            return json.dumps(value, default=str)
        except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
            return short(value, 10**6)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    try:
        str(value)
    except Exception:  # noqa: BLE001 - likewise
        return f"<{type(value).__name__}>"
    return value


def harmless(value: Any) -> Any:
    """As :func:`cell`, with an apostrophe before what a spreadsheet would run as a formula."""
    found = cell(value)
    text = found if isinstance(found, (int, float)) else str(found)
    if not isinstance(text, str) or found is None or not text.startswith(_FORMULA):
        return found
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return found


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%", "＝", "＋", "－", "＠")


def label(value: Any) -> Any:
    """A value that can be told apart and looked up: itself, or its text."""
    try:
        hash(value)
    except TypeError:
        return short(value)
    return value


def ordered(labels: Iterable[Any]) -> list[Any]:
    """Different labels: sorted if they can be, else as they come."""
    different = list(dict.fromkeys(labels))
    try:
        return sorted(different)
    except TypeError:
        return different


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= 2 * size or size == 1:
            number = seconds / size
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    raise AssertionError
