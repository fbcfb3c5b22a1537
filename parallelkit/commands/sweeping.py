"""The commands ``sweep`` and ``show``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, cast

from ..errors import ParallelError, SweepInterrupted
from ..sweeps.database import clean
from ..sweeps.grid import grid
from ..sweeps.layout import is_number
from ..sweeps.provenance import lines
from ..sweeps.row import Row
from ..sweeps.run import Sweep
from ..sweeps.show import cells, grid_text, needed
from ..sweeps.stored import Stored
from ..sweeps.table import Table, open_sweep
from .reading import Usage, condition, function, named, one_value, values

__all__ = ["Usage", "show", "stored_command", "sweep"]

OPTIONS = ("workers", "backend", "timeout", "retries", "seed", "on_change")


def sweep(options: argparse.Namespace, folder: str, note: str) -> Table:
    """Run a sweep, and show its table; `note` is what ``--resume`` needs to know."""
    lists = _once(named(text) for text in options.values)
    frozen = _once(named(text) for text in options.set)
    points = grid(**{name: values(text) for name, text in lists.items()})
    if options.where is not None:
        points = points.where(condition(options.where, lists))
    _check_files(options)  # now, not when hours have passed
    func = function(options.function, folder)
    given = {name: getattr(options, name) for name in OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    maker = Sweep(
        options.store,
        repeats=options.repeats,
        retry_failed=options.retry_failed,
        shuffle=options.shuffle,
        part=None if options.part is None else _part(options.part),
        version=None if options.func_version is None else one_value(options.func_version),
        progress=sys.stderr.isatty() and not options.no_progress,
        notes={"command": note},
        **given,
    )
    try:
        table = maker.run(func, points, **{name: one_value(text) for name, text in frozen.items()})
    except SweepInterrupted as stopped:
        _out(stopped.table, options)
        raise
    _out(table, options)
    return table


def stored_command(path: str, given: list[str]) -> tuple[list[str], str]:
    """Arguments of the command that made a store, with those given now, and its folder."""
    note = Stored(path, pickle=True).notes().get("command", "")
    try:
        known = json.loads(note)
        arguments, folder = list(map(str, known["arguments"])), str(known["folder"])
    except (ValueError, TypeError, LookupError):
        raise ParallelError(
            f"{path!r} was not made by this command: run its script again"
        ) from None
    at = given.index("sweep") + 1
    now = _without(given[at:], "--resume")
    return ["sweep", *_without(arguments[1:], "--store"), *now, "--store", path], folder


def _without(arguments: list[str], option: str) -> list[str]:
    """Arguments but for one option and its value."""
    rest = list(arguments)
    while option in rest:
        at = rest.index(option)
        del rest[at : at + 2]
    return [one for one in rest if not one.startswith(f"{option}=")]


def show(options: argparse.Namespace) -> None:
    """Show the table of a store."""
    _check_files(options)
    table = open_sweep(options.store, pickle=options.pickle, name=options.name)
    if options.provenance:
        print(clean("\n".join(lines(table.provenance)), lines=True))
        return
    if options.failed:
        for row in table.failed:
            names = [*table.parameters, *(["repeat"] if "repeat" in row else [])]
            point = ", ".join(f"{name}={row[name]!r}" for name in names)
            print(clean(f"{point}\n{row['traceback']}", lines=True))
        return
    _out(table, options)


def _check_files(options: argparse.Namespace) -> None:
    """Refuse files that cannot be written later."""
    for name in ("csv", "plot"):
        path = getattr(options, name)
        if path and (name, path) != ("csv", "-"):
            folder = os.path.dirname(path) or "."
            if not os.path.isdir(folder):
                raise Usage(f"--{name} {path}: there is no folder {folder!r}")
            if os.path.isdir(path):
                raise Usage(f"--{name} {path}: this is a folder; name a file in it")
    if options.plot:
        needed("matplotlib", "matplotlib")
        from matplotlib.backend_bases import FigureCanvasBase

        known = FigureCanvasBase.get_supported_filetypes()
        suffix = os.path.splitext(options.plot)[1][1:].lower()
        if suffix and suffix not in known:
            raise Usage(f"--plot {options.plot}: write one of .{', .'.join(sorted(known))}")


def _out(table: Table, options: argparse.Namespace) -> None:
    if options.csv == "-":
        print(table.to_csv(), end="")
    else:
        _print(table, options)
        if options.csv:
            table.to_csv(options.csv)
    if options.plot:
        _plot(table, options)


def _plot(table: Table, options: argparse.Namespace) -> None:
    if not any(row.record.status == "ok" for row in table):
        print(f"no picture in {options.plot}: no point came to its end", file=sys.stderr)
        return
    table.plot(y=options.best, hue=_hue(table), path=options.plot)


def _print(table: Table, options: argparse.Namespace) -> None:
    best = options.best
    if best is None and options.top is not None:
        best = _first_number(table)  # the best ones are meant, and mostly there is one result
    if best is None and options.top is None:
        told = repr(table).splitlines()
    else:
        count = 10 if options.top is None else options.top
        over = None if options.rows else "repeat"
        if best is None:
            rows = list(table.head(count))
        else:
            rows = cast("list[Row]", table.top(best, count, options.mode, over))
        columns = _columns(table, rows)
        width = None if sys.stdout.isatty() else 10**6  # who reads a pipe wants all of it
        told = [table.caption(), *grid_text(columns, cells(columns, rows), width)]
        if options.best is None and best is not None:
            told[0] += f"; the best by {clean(best)}"
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        told[1:2] = [f"\x1b[1m{line}\x1b[0m" for line in told[1:2]]
    print("\n".join(told))


def _columns(table: Table, rows: Sequence[Row]) -> list[str]:
    """Columns that tell the best rows apart."""
    every = list(rows[0]) if rows else table.columns
    if "count" in every and "repeat" not in every:  # means
        return every
    known = {*table.parameters, *table.results, "repeat"}
    if any(row.record.status != "ok" for row in table):
        known.add("status")
    return [name for name in every if name in known]


def _first_number(table: Table) -> str | None:
    """The first result that has numbers."""
    for name in table.results:
        if any(is_number(row[name]) for row in table):
            return name
    return None


def _hue(table: Table) -> str | None:
    """The second parameter, where there are two: a line for each of its values."""
    from ..sweeps.plots import varied

    rows = table.rows
    others = [name for name in table.parameters if name != varied(table, rows)]
    few = [name for name in others if len({str(row[name]) for row in rows}) <= 12]
    return few[0] if few else None


def _part(text: str) -> tuple[int, int]:
    number, found, count = text.partition("/")
    if not (found and number.isdecimal() and count.isdecimal()):
        raise Usage(f"--part {text}: write the part and their number, as 0/4")
    return int(number), int(count)


def _once(pairs: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, text in pairs:
        if name in found:
            raise Usage(f"{name!r} is given twice")
        found[name] = text
    return found
