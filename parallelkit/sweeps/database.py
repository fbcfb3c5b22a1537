"""The file of a sweep: its tables, its one writer's lock, and its errors in plain words."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from ..errors import StoreError
from ..place import system

__all__ = [
    "Lock",
    "clean",
    "is_new",
    "meta_of",
    "readable",
    "refuse_pickles",
    "translated",
    "writable",
]

FORMAT = 3
TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE sweeps (
    id INTEGER PRIMARY KEY, function TEXT, version TEXT, identity TEXT, UNIQUE (function, version));
CREATE TABLE codes (id INTEGER PRIMARY KEY, digest TEXT UNIQUE, parts TEXT);
CREATE TABLE runs (id INTEGER PRIMARY KEY, sweep INTEGER, code INTEGER, told TEXT);
CREATE TABLE names (
    id INTEGER PRIMARY KEY, sweep INTEGER, kind TEXT, name TEXT, UNIQUE (sweep, kind, name));
CREATE TABLE points (
    id INTEGER PRIMARY KEY, sweep INTEGER, key BLOB NOT NULL, position INTEGER,
    repeat INTEGER, params TEXT, seed TEXT, status TEXT, result TEXT, error TEXT, traceback TEXT,
    seconds REAL, started REAL, worker INTEGER, attempt INTEGER, curve TEXT, code INTEGER,
    run INTEGER, UNIQUE (sweep, key));
CREATE TABLE blobs (
    sweep INTEGER, key BLOB, number INTEGER, kind TEXT, data BLOB,
    PRIMARY KEY (sweep, key, number));
"""
LARGEST_SCHEMA = 1000  # tables, views and indexes of a stranger
LARGEST_CHECK = 1 << 28  # bytes of a file that is gone through before it is written
PATIENCE = 10.0  # seconds; readers and the writer of a WAL file hardly ever wait for each other
# What a file that is damaged, or made to do harm, may raise when its content is made sense of.
# (A MemoryError is that of a length which the file claims: what it really has, fits.)
DAMAGES = (
    ArithmeticError,  # decimals, and numbers that are too large
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,  # JSON, Unicode
)


@functools.cache
def _ours() -> dict[str, str]:
    """The tables of a store by name, each with the statement that makes it."""
    made = [statement.strip() for statement in TABLES.split(";") if statement.strip()]
    return {statement.split()[2]: statement for statement in made}


@contextmanager
def translated(path: str, reading: bool = True) -> Iterator[None]:
    """Turn whatever a file's content leads to into errors that say what to do.

    All use of a store goes through this one border. Nothing of the user's runs within it where
    content is made sense of (`reading`).
    """
    try:
        yield
    except sqlite3.Error as error:
        told = clean(str(error))
        raise StoreError(f"{path!r} {_explained(told)} (SQLite: {told})") from error
    except OSError as error:  # of the files beside it
        raise StoreError(f"{path!r}: {error}") from error
    except DAMAGES as error:
        if not reading:
            raise
        told = f"{type(error).__name__}: {clean(str(error))[:200]}"
        raise StoreError(f"{path!r} {_explained('malformed')} ({told})") from error


def clean(text: str, lines: bool = False) -> str:
    """Text that a terminal shows and does not obey: control characters become spaces.

    Parameters
    ----------
    text : str
    lines : bool
        Keep line breaks and tabs.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in kept else " " for c in text)


def _explained(text: str) -> str:
    if "not a database" in text or "malformed" in text or "UTF-8" in text:
        return (
            "is not the store of a sweep, or is damaged; nothing in it was changed. If it is a "
            "copy that was made while a sweep ran, or after it was killed, copy it again or open "
            "the original. Else name another file, or take what `sqlite3 FILE .recover` finds"
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
            _check_tables(connection, path)
            _look_through(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")  # a file that may not be written shows it now
        if is_new(connection):
            for statement in _ours().values():
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
    # Quoted as a whole: SQLite would take the server of a network path for one of the address.
    address = f"file:{quote(os.fsencode(Path(path).absolute()), safe='')}"
    wal = f"{path}-wal"
    if not os.path.exists(wal) and _in_wal_mode(path):
        # A copy of a store whose writer was killed. SQLite would make a file beside it, and leave
        # it there: who only reads may not remove it.
        return _reading(f"{address}?mode=ro&immutable=1", path)
    try:
        return _reading(f"{address}?mode=ro", path)
    except sqlite3.OperationalError:
        # Where nothing may be written, SQLite cannot make the file that readers and writers of
        # a WAL file share. If there is no such file either, nobody writes.
        if os.path.exists(wal) and os.path.getsize(wal):
            raise
        return _reading(f"{address}?mode=ro&immutable=1", path)


def _in_wal_mode(path: str) -> bool:
    """Whether a file's head says so: https://sqlite.org/fileformat.html#the_database_header."""
    try:
        with open(path, "rb") as file:
            return file.read(20)[18:20] == b"\2\2"
    except OSError:
        return False  # SQLite says what is wrong with it


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


def _reading(address: str, path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        address, timeout=PATIENCE, uri=True, isolation_level=None, check_same_thread=False
    )
    try:
        _distrust(connection)
        if not is_new(connection):  # reads: what is wrong with the file shows here
            _check_tables(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _distrust(connection: sqlite3.Connection) -> None:
    """Run nothing that a stranger may have put into the file, and look at its pages closely."""
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA mmap_size = 0")  # a file that shrinks is an error, not a SIGBUS


def _check_tables(connection: sqlite3.Connection, path: str) -> None:
    """Refuse a schema that is not ours, before anything is read: a view or a trigger is a program.

    Our tables must be as we make them; other plain tables beside them are nobody's harm.
    """
    rows = connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT ?", (LARGEST_SCHEMA,)
    ).fetchall()
    ours = _ours()
    found = {name: sql for kind, name, _, sql in rows if kind == "table" and name in ours}
    if {"meta", "points", "names"} <= found.keys() and found != ours:
        raise StoreError(
            f"{path!r} was written by another version of parallelkit, or is damaged; "
            "name a new file"
        )
    if found != ours or any(_acts(kind, table, sql, ours) for kind, _, table, sql in rows):
        raise StoreError(
            f"{path!r} is a SQLite database, but not the store of a sweep; name another file"
        )


def _look_through(connection: sqlite3.Connection, path: str) -> None:
    """Meet damage before anything is written: a writer changes the head of the file at once.

    It takes a millisecond for each quarter of a megabyte, so very large files are not gone through.
    """
    if os.path.getsize(path) <= LARGEST_CHECK:
        (told,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if told != "ok":
            raise sqlite3.DatabaseError(f"malformed: {told}")


def _acts(kind: str, table: str, sql: str | None, ours: dict[str, str]) -> bool:
    """Whether something in a schema does more than hold rows; SQLite's own indexes have no text."""
    return kind in ("view", "trigger") or (kind == "index" and table in ours and sql is not None)


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
            connection.execute("PRAGMA journal_mode = OFF")  # there is nothing to be taken back
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            connection.close()
            if "locked" in str(error):
                return None
            raise
        return connection

    def release(self) -> None:
        """Let others write."""
        if system.WINDOWS:  # a file that anybody has open, as the next writer would, stays there
            self._held.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        self._held.close()
