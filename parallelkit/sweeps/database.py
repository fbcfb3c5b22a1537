"""The file of a sweep: its tables, its one writer's lock, and its errors in plain words."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import StoreError

__all__ = ["Lock", "is_new", "meta_of", "readable", "refuse_pickles", "translated", "writable"]

FORMAT = 2
TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE names (id INTEGER PRIMARY KEY, kind TEXT, name TEXT, UNIQUE (kind, name));
CREATE TABLE points (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, position INTEGER,
    repeat INTEGER, params TEXT, seed TEXT, status TEXT, result TEXT, error TEXT, traceback TEXT,
    seconds REAL, started REAL, worker INTEGER, attempt INTEGER, curve TEXT);
CREATE TABLE blobs (key BLOB, number INTEGER, kind TEXT, data BLOB, PRIMARY KEY (key, number));
"""
PATIENCE = 10.0  # seconds; readers and the writer of a WAL file hardly ever wait for each other


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn SQLite's errors into ones that say what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"{path!r} {_explained(str(error))} (SQLite: {error})") from error


def _explained(text: str) -> str:
    if "not a database" in text or "malformed" in text:
        return (
            "is not the store of a sweep, or is damaged; nothing in it was changed. Name another "
            "file, or take what `sqlite3 FILE .recover` finds"
        )
    if "no such table" in text or "no such column" in text:
        return "is a SQLite database, but not the store of a sweep; name another file"
    if "full" in text or "I/O" in text:
        return (
            "could not be written: is the disk full? What was stored before is still there; make "
            "room and run the same again, it goes on from there"
        )
    if "readonly" in text:
        return "may not be written; pk.open_sweep reads it, a sweep needs a file of its own"
    if "unable to open" in text:
        return "cannot be opened: does its folder exist, and may you write there?"
    if "locked" in text:
        return "is in use by another program"
    return "could not be used"


def writable(path: str) -> sqlite3.Connection:
    """Open a store, or make one; whoever does holds its :class:`Lock`."""
    _refuse_folder(path)
    connection = sqlite3.connect(
        path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
    )
    try:
        _distrust(connection)
        if not is_new(connection):
            connection.execute("SELECT 1 FROM meta, points, names, blobs LIMIT 1")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")  # a file that may not be written shows it now
        if is_new(connection):
            for statement in TABLES.split(";"):
                connection.execute(statement)
            connection.execute("INSERT INTO meta VALUES ('format', ?)", (str(FORMAT),))
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def readable(path: str) -> sqlite3.Connection:
    """Open a store for reading alone."""
    if not os.path.exists(path):
        raise StoreError(f"there is no file {path!r}")
    _refuse_folder(path)
    address = Path(path).absolute().as_uri()
    try:
        return _reading(f"{address}?mode=ro")
    except sqlite3.OperationalError:
        # Where nothing may be written, SQLite cannot make the file that readers and writers of
        # a WAL file share. If there is no such file either, nobody writes.
        wal = f"{path}-wal"
        if os.path.exists(wal) and os.path.getsize(wal):
            raise
        return _reading(f"{address}?mode=ro&immutable=1")


def meta_of(connection: sqlite3.Connection, path: str) -> dict[str, str]:
    """What a store says about itself."""
    meta: dict[str, str] = dict(connection.execute("SELECT name, value FROM meta"))
    if meta.get("format") != str(FORMAT):
        raise StoreError(f"{path!r} was written by another version of parallelkit; name a new file")
    return meta


def refuse_pickles(path: str, how: str) -> None:
    """Tell that a store is not to be trusted lightly."""
    raise StoreError(
        f"{path!r} holds pickled results, and to load them runs code of whoever made it; if you "
        f"trust it: {how}"
    )


def _refuse_folder(path: str) -> None:
    if os.path.isdir(path):
        raise StoreError(f"{path!r} is a folder; name a file in it")


def _reading(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        address, timeout=PATIENCE, uri=True, isolation_level=None, check_same_thread=False
    )
    try:
        _distrust(connection)
        is_new(connection)  # reads: what is wrong with the file shows here
    except BaseException:
        connection.close()
        raise
    return connection


def _distrust(connection: sqlite3.Connection) -> None:
    """Run nothing that a stranger may have put into the file's schema."""
    connection.execute("PRAGMA trusted_schema = OFF")


def is_new(connection: sqlite3.Connection) -> bool:
    """Whether there is no table in it yet."""
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


class Lock:
    """The right to write a store; the system takes it back however its process ends.

    It is SQLite's own lock on an empty file beside the store, which works on every system where
    SQLite does, is not inherited by forked workers, and does not outlive ``kill -9``.
    """

    def __init__(self, path: str) -> None:
        self._path = f"{os.path.realpath(path)}-lock"
        self._held = self._take()
        # Who held it before may have removed the file at this moment, and then nobody else would
        # meet this lock. A second try must fail, or it has got the right one.
        while (again := self._try()) is not None:
            self._held.close()
            self._held = again

    def _take(self) -> sqlite3.Connection:
        taken = self._try()
        if taken is None:
            raise StoreError(
                f"{self._path.removesuffix('-lock')!r} is being written by another sweep; wait "
                "for its end, or name another file. pk.open_sweep may read it meanwhile"
            )
        return taken

    def _try(self) -> sqlite3.Connection | None:
        connection = sqlite3.connect(
            self._path, timeout=0, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            connection.close()
            if "locked" in str(error):
                return None
            raise
        return connection

    def release(self) -> None:
        """Let others write."""
        try:
            os.unlink(self._path)
        except OSError:  # on Windows, where it is open; it is empty, and may stay
            pass
        self._held.close()
