"""How tables look: as text, in a notebook, in files.

Values that differ are to differ in print as well, be they numbers with many digits, long texts with
the same beginning, or models. So a column is told as a whole: as briefly as it can be, and where
that makes two different values look alike, by what distinguishes them.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import html as markup
import importlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..errors import ParallelError
from .database import clean
from .row import Row, as_python, key_of
from .settings import Named, Settings, brief, settings_of
from .values import Described

__all__ = [
    "SHOWN",
    "Extract",
    "cell",
    "cells",
    "distinct",
    "duration",
    "grid_text",
    "harmless",
    "html",
    "needed",
    "short",
    "text",
]

SHOWN = 10  # rows; of longer tables the first and last ones
WIDEST = 40  # characters of a cell
LEAST = 24  # to which the widest column is cut
FEW = 6  # numbers of an array that are shown one by one
RIGHT = "text-align: right"
COLORS = {"failed": "#c0392b", "pruned": "#7f8c8d"}


class Extract(NamedTuple):
    """What is shown of a table: a line about it, columns, rows, and how many are left out."""

    head: str
    columns: list[str]
    rows: Sequence[Row]
    left_out: int  # between the two halves of the rows


def needed(module: str, install: str) -> Any:
    """Import an optional package, or say how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ParallelError(f"this needs {module}: pip install {install}") from error


def text(shown: Extract) -> str:
    """A table as aligned text, as wide as the terminal."""
    lines = grid_text(shown.columns, cells(shown.columns, shown.rows))
    if shown.left_out:
        half = len(lines) - SHOWN // 2
        lines[half:half] = [f"... {shown.left_out} more ..."]
    return "\n".join([shown.head, *lines])


def html(shown: Extract) -> str:
    """A table for a notebook."""
    lines = [
        "<div style='overflow-x: auto'>",
        f"<p style='margin: 0 0 .4em'><b>{markup.escape(shown.head)}</b></p>",
        "<table style='border-collapse: collapse; font-variant-numeric: tabular-nums'>",
        "<thead><tr style='border-bottom: 1px solid'>",
        *(f"<th style='{RIGHT}'>{markup.escape(clean(name))}</th>" for name in shown.columns),
        "</tr></thead><tbody>",
    ]
    told = cells(shown.columns, shown.rows)
    for place, (row, line) in enumerate(zip(shown.rows, told, strict=True)):
        if shown.left_out and place == len(shown.rows) - SHOWN // 2:
            lines.append(
                f"<tr><td colspan='{len(shown.columns)}' style='opacity: .6'>"
                f"… {shown.left_out} more</td></tr>"
            )
        color = COLORS.get(row.record.status)
        lines.append("<tr>" if color is None else f"<tr style='color: {color}'>")
        lines += [f"<td style='{RIGHT}'>{markup.escape(value)}</td>" for value in line]
        lines.append("</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


# --- cells ----------------------------------------------------------------------------------------


def cells(columns: Sequence[str], rows: Sequence[Row]) -> list[list[str]]:
    """Cells as text; of times the digits that matter, of errors somewhat more."""
    told = [_column(name, rows) for name in columns]
    return [list(line) for line in zip(*told, strict=True)] if told else [[] for _ in rows]


def _column(name: str, rows: Sequence[Row]) -> list[str]:
    values = [row[name] for row in rows]
    if name in ("seconds", "sweep.seconds"):
        return [f"{v:.3g}" if isinstance(v, float) else _brief(v) if v else "" for v in values]
    if name in ("error", "sweep.error"):
        return [short(value, 2 * WIDEST) for value in values]
    given = [row.is_given(name) for row, value in zip(rows, values, strict=True) if value is None]
    known = [value for value in values if value is not None]
    texts, nones = iter(_fitted(distinct(known), WIDEST)), iter(given)
    return [next(texts) if v is not None else "None" if next(nones) else "" for v in values]


def distinct(values: Sequence[Any]) -> list[str]:
    """Texts of values, as brief as they can be, but different where the values are."""
    values = [as_python(value) for value in values]
    keys = list(map(key_of, values))
    texts = _models(values) or list(map(_brief, values))
    for digits in (7, 8, 9, 10, 12, 14, 17, 0):
        alike = _alike(keys, texts)
        if not alike:
            break
        for at in alike:
            value = values[at]
            if isinstance(value, float) and digits:
                texts[at] = f"{value:.{digits}g}"
            elif not digits or not any(isinstance(values[other], float) for other in alike):
                texts[at] = _exact(value, keys[at])
    return texts


def _alike(keys: list[Any], texts: list[str]) -> list[int]:
    """Places whose text is that of another value as well."""
    by_text: dict[str, set[Any]] = {}
    for key, told in zip(keys, texts, strict=True):
        by_text.setdefault(told, set()).add(key)
    return [at for at, told in enumerate(texts) if len(by_text[told]) > 1]


def _brief(value: Any, quoted: bool = False) -> str:
    value = as_python(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    model = settings_of(value)
    if model is not None:  # by what is not as usual
        usual = model.defaults
        names = [name for name in model.values if name not in usual or not _is(model, name)]
        return clean(_model(model, names))
    known = brief(value)
    if known is not None:
        return clean(known)
    if isinstance(value, dt.datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if getattr(value, "ndim", 0) and hasattr(value, "dtype"):
        if value.size <= FEW and value.ndim == 1 and value.dtype.kind in "biuf":
            return f"[{' '.join(_brief(one) for one in value)}]"
        return f"array {value.dtype} {'×'.join(map(str, value.shape))}"
    try:
        told = value if isinstance(value, str) and not quoted else repr(_plain(value))
    except Exception:  # noqa: BLE001 - a user's __repr__ may raise anything
        told = f"<{type(value).__name__}>"
    return " ".join("".join(c if c.isprintable() else " " for c in told).split())


def _is(model: Settings, name: str) -> bool:
    """Whether a setting is what it is by default."""
    return bool(key_of(model.values[name]) == key_of(model.defaults[name]))


def _plain(value: Any) -> Any:
    """Lists and the like with what is shorter than the repr of numpy's numbers, models, ..."""
    if type(value) in (list, tuple):
        return type(value)(_plain(one) for one in value)
    if type(value) is dict:
        return {as_python(key): _plain(one) for key, one in value.items()}
    value = as_python(value)
    known = brief(value) is not None or settings_of(value) is not None
    return Named(_brief(value)) if known else value


def _exact(value: Any, key: Any) -> str:
    """A value by all that distinguishes it from others."""
    if isinstance(value, dt.datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, Described):
        return f"{_brief(value)} #{_digest(value)}"
    if isinstance(value, (str, bytes, int, float, complex)):
        return repr(value)
    return f"{_brief(value)} #{_digest(repr(key))}"


def _models(values: list[Any]) -> list[str]:
    """Models by the settings in which they differ; nothing where there are none."""
    models = list(map(settings_of, values))
    if not any(models):
        return []
    by_kind: dict[str, list[Settings]] = {}
    for one in models:
        if one is not None:
            by_kind.setdefault(one.kind, []).append(one)
    texts = []
    for value, model in zip(values, models, strict=True):
        if model is None:
            texts.append(_brief(value))
            continue
        others = by_kind[model.kind]
        names = list(dict.fromkeys(name for one in others for name in one.values))
        differ = [name for name in names if _differs(name, others)]
        texts.append(_model(model, differ) if differ or len(by_kind) > 1 else _brief(value))
    return texts


def _differs(name: str, models: list[Settings]) -> bool:
    """Whether models differ in a setting, or in having a step."""
    there = [one.values[name] for one in models if name in one.values]
    if isinstance(there[0], Named) and len(there) < len(models):
        return True
    return len(set(map(key_of, there))) > 1


def _model(model: Settings, names: Iterable[str]) -> str:
    """A model by some of its settings."""
    found = model.values
    told = ", ".join(f"{name}={_brief(found[name], True)}" for name in names if name in found)
    return f"{model.kind}({told})"


def _digest(told: str) -> str:
    return hashlib.blake2b(told.encode("utf-8", "backslashreplace"), digest_size=3).hexdigest()


# --- columns side by side -------------------------------------------------------------------------


def grid_text(columns: Sequence[str], rows: list[list[str]], width: int | None = None) -> list[str]:
    """Lines of aligned columns: the widest one is cut to fit, what finds no room is left out."""
    columns = [" ".join(clean(name).split()) for name in columns]
    width = width or max(60, shutil.get_terminal_size((100, 24)).columns)
    told = [[name, *texts] for name, texts in zip(columns, zip(*rows, strict=True), strict=False)]
    told = told or [[name] for name in columns]
    widths = [max(map(len, column)) for column in told]
    over = sum(widths) + 2 * (len(widths) - 1) - width
    if over > 0:
        widest = widths.index(max(widths))
        widths[widest] = max(min(widths[widest], LEAST), widths[widest] - over)
        told[widest][1:] = _fitted(told[widest][1:], widths[widest])
    room, fits = width, 0
    for one in widths:
        room -= one + 2
        if room < -2:
            break
        fits += 1
    more = "  ..." if fits < len(columns) else ""
    lines = zip(*told[:fits], strict=True)
    return [
        "  ".join(_cut(c, w).rjust(w) for c, w in zip(line, widths, strict=False)).rstrip() + more
        for line in lines
    ]


def _fitted(texts: Sequence[str], width: int) -> list[str]:
    """Texts that are cut, so that those that differ still do."""
    cut = [_cut(told, width) for told in texts]
    alike = _alike(list(texts), cut)
    if not alike:
        return cut
    begin = os.path.commonprefix([texts[at] for at in alike])  # noqa: RUF071 - of any texts
    for at in alike:
        cut[at] = _cut("…" + texts[at][max(0, len(begin) - 4) :], width)
    for at in _alike(list(texts), cut):
        cut[at] = f"{texts[at][: width - 8]}…#{_digest(texts[at])}"
    return cut


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def short(value: Any, widest: int = WIDEST) -> str:
    """A value for somebody to look at."""
    return "" if value is None else _cut(_brief(value), widest)


def cell(value: Any) -> Any:
    """A value for a file of text: as it is, or as JSON where it holds others."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple, dict)):
        try:
            return json.dumps(value, default=_listed)
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


def _listed(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= 2 * size or size == 1:
            number = seconds / size
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    raise AssertionError
