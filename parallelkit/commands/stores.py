"""The commands ``merge`` and ``export``."""

from __future__ import annotations

import argparse
import math
import os
import sys
from typing import Any

from ..sweeps.merging import merge as merged
from ..sweeps.show import cell
from ..sweeps.table import Table, open_sweep
from ..sweeps.together import files_of
from .reading import Usage

__all__ = ["FORMATS", "export", "merge"]

FORMATS = (".csv", ".parquet", ".jsonl")


def merge(options: argparse.Namespace) -> bool:
    """Make several stores one; return whether they had no conflicts."""
    files = files_of(options.files)
    target = os.path.abspath(options.store)
    together = merged(files, target)
    for told in together.other_code:
        print(f"note: {told}", file=sys.stderr)
    for told in together.conflicts:
        print(f"conflict: {told}: the later one was taken", file=sys.stderr)
    table = open_sweep(target, pickle=True)
    print(f"{target}: {table.caption()}, from {len(files)} files")
    return not together.conflicts


def export(options: argparse.Namespace) -> None:
    """Write the table of stores to a file of another kind."""
    suffix = os.path.splitext(options.to)[1].lower()
    if options.to != "-" and suffix not in FORMATS:
        raise Usage(
            f"{options.to}: write one of {', '.join(FORMATS)}, or - for CSV on the terminal"
        )
    if options.no_formulas and suffix not in (".csv", ""):
        raise Usage("--no-formulas is for CSV")
    table = open_sweep(options.files, pickle=options.pickle, name=options.name)
    if options.to == "-":
        print(table.to_csv(formulas=not options.no_formulas), end="")
    elif suffix == ".csv":
        table.to_csv(options.to, formulas=not options.no_formulas)
    elif suffix == ".parquet":
        table.to_parquet(options.to)
    else:
        _lines(table, options.to)


def _lines(table: Table, path: str) -> None:
    """A JSON object a line."""
    import json

    with open(path, "w", encoding="utf-8") as file:
        for row in table:
            plain = {name: _plain(value) for name, value in row.items()}
            file.write(json.dumps(plain, default=str, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has neither infinities nor NaN
    return value if isinstance(value, (list, tuple, dict)) else cell(value)
