"""Several stores made into one."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress

from ..errors import StoreError
from ..place.replacing import replace
from .artifacts import folder_of
from .database import Lock, meta_of, readable, translated, writable
from .stored import FETCHED, Stored
from .together import Together

__all__ = ["merge"]

_POINT = (
    "key, position, repeat, params, seed, status, result, error, traceback, seconds, started, "
    "worker, attempt, curve"
)


def merge(paths: Sequence[str], target: str) -> Together:
    """Copy what several stores hold into a new one.

    Parameters
    ----------
    paths : sequence of str
    target : str
        A file that does not exist yet. It is there when all is in it.

    Returns
    -------
    Together
        Its ``conflicts`` are points of which the stores have different results; the later one was
        taken.

    Raises
    ------
    StoreError
        If they do not fit: the same function and version with other frozen values or seed.
    """
    if os.path.lexists(target):
        raise StoreError(f"{target!r} exists: name a new file")
    stores = [Stored(path, pickle=True) for path in paths]
    together = Together(stores)
    if together.different:
        raise StoreError(
            f"{'; '.join(together.different)}: such sweeps are kept in files of their own, or "
            "run with another name= or version="
        )
    draft = f"{target}.part"
    lock = Lock(target)
    try:
        with translated(target), closing(writable(draft)) as into:
            for store in stores:
                with translated(store.path), closing(readable(store.path)) as source:
                    _copy(source, into, store)
            into.execute("PRAGMA journal_mode = DELETE")
        for path in paths:
            _copy_files(folder_of(path), folder_of(target))
        replace(draft, target)
    except BaseException:
        for file in (draft, f"{draft}-wal", f"{draft}-shm"):
            with suppress(OSError):
                os.unlink(file)
        raise
    finally:
        lock.release()
    return together


def _copy(source: sqlite3.Connection, into: sqlite3.Connection, store: Stored) -> None:
    """Copy a store's rows in one transaction, with the numbers that they have in the new one."""
    run = into.execute
    run("BEGIN IMMEDIATE")
    pickle = meta_of(source, store.path).get("pickle", "0")
    run(
        "INSERT INTO meta VALUES ('pickle', ?) "
        "ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
        (pickle,),
    )
    into.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?)", store.notes().items())
    sweeps, codes, runs = {}, {}, {}
    for number, *row in source.execute("SELECT id, function, version, identity FROM sweeps"):
        run("INSERT OR IGNORE INTO sweeps (function, version, identity) VALUES (?, ?, ?)", row)
        found = run("SELECT id FROM sweeps WHERE function = ? AND version = ?", row[:2])
        sweeps[number] = found.fetchone()[0]
    for number, *row in source.execute("SELECT id, digest, parts FROM codes"):
        run("INSERT OR IGNORE INTO codes (digest, parts) VALUES (?, ?)", row)
        codes[number] = run("SELECT id FROM codes WHERE digest = ?", row[:1]).fetchone()[0]
    for number, sweep, code, told in source.execute("SELECT id, sweep, code, told FROM runs"):
        row = (sweeps[sweep], codes[code], told)
        runs[number] = run("INSERT INTO runs (sweep, code, told) VALUES (?, ?, ?)", row).lastrowid
    for sweep, kind, name in source.execute("SELECT sweep, kind, name FROM names ORDER BY id"):
        row = (sweeps[sweep], kind, name)
        run("INSERT OR IGNORE INTO names (sweep, kind, name) VALUES (?, ?, ?)", row)
    marks = ", ".join("?" * (3 + len(_POINT.split(","))))
    put = f"INSERT INTO points (sweep, code, run, {_POINT}) VALUES ({marks})"  # noqa: S608
    for sweep, code, number, *row in _points(source, store.skipped):
        run(put, (sweeps[sweep], codes[code], runs[number], *row))
        blobs = source.execute(
            "SELECT number, kind, data FROM blobs WHERE sweep = ? AND key = ?", (sweep, row[0])
        )
        whose = (sweeps[sweep], row[0])
        into.executemany(
            "INSERT INTO blobs VALUES (?, ?, ?, ?, ?)", ((*whose, *blob) for blob in blobs)
        )
    run("COMMIT")


def _points(source: sqlite3.Connection, skipped: set[int]) -> Iterator[tuple[object, ...]]:
    rows = source.execute(f"SELECT id, sweep, code, run, {_POINT} FROM points")  # noqa: S608
    while part := rows.fetchmany(FETCHED):
        yield from (row for number, *row in part if number not in skipped)


def _copy_files(folder: str, into: str) -> None:
    """Copy the files beside a store; those of the same name are the same."""
    if not os.path.isdir(folder):
        return
    os.makedirs(into, exist_ok=True)
    for name in os.listdir(folder):
        goal = os.path.join(into, name)
        if not name.startswith(".") and not os.path.exists(goal):
            try:
                os.link(os.path.join(folder, name), goal)
            except OSError:  # on another disk, or one that has no links
                shutil.copyfile(os.path.join(folder, name), goal)
