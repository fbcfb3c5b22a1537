"""The writing side of a store: the sweeping process alone.

::

    put ─► a batch ─► flush ─► SQLite (WAL): one transaction a batch ─► checkpoint ─► the file
                        ▲                                                   ▲
                        └── by `put`, if the last one is a while ago;       │
                            else by a thread, so that no batch waits ───────┘
                            longer than that

What is in the journal (``run.db-wal``) alone is lost to who copies the file alone, so it is carried
over twice a second.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from ..errors import StoreError, outside
from ..place.sigint import Shield
from .artifacts import Files, folder_of
from .code import Code, changes, listed
from .database import Lock, clean, meta_of, refuse_pickles, translated, writable
from .identity import check
from .records import Record, named_results
from .values import Encoded, NotPlain, encode

__all__ = ["Store", "Writing"]

INTERVAL = 0.1  # seconds for which results may wait to be stored
CHECKED = 0.5  # seconds for which they may be in the journal beside the file alone
PATIENCE = 1000  # milliseconds to wait for readers at the end
LARGEST_BATCH = 4096  # results
LARGEST_BYTES = 8 << 20
LARGEST_BLOB = 999_999_999  # SQLite's limit

_PUT = """
INSERT INTO points (sweep, code, run, key, position, repeat, params, seed, status, result, error,
                    traceback, seconds, started, worker, attempt, curve)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (sweep, key) DO UPDATE SET
    position = excluded.position, status = excluded.status, seed = excluded.seed,
    result = excluded.result, error = excluded.error, traceback = excluded.traceback,
    seconds = excluded.seconds, started = excluded.started, worker = excluded.worker,
    attempt = excluded.attempt + CASE WHEN code = excluded.code THEN attempt ELSE 0 END,
    curve = excluded.curve, code = excluded.code, run = excluded.run
"""


class Writing(NamedTuple):
    """What a sweep writes to a store, beside its points.

    Attributes
    ----------
    identity : Mapping
        Of the sweep: its function and version, and what must be the same to go on with it.
    code : Code
        What the rows are computed with from now on.
    on_change : {"warn", "rerun", "error", "ignore"}
        What to do about rows that were computed with other code.
    pickle : bool
        Whether results that are not plain may be pickled.
    notes : Mapping
        Texts by name.
    told : Mapping
        Where the rows come from: see provenance.py.
    later : callable, optional
        Called at the end for more of that.
    """

    identity: Mapping[str, Any]
    code: Code
    on_change: str
    pickle: bool
    notes: Mapping[str, str]
    told: Mapping[str, Any]
    later: Callable[[], Mapping[str, Any]] | None = None


class Store:
    """The writing side.

    Parameters
    ----------
    path : str
    writing : Writing

    Attributes
    ----------
    sweep, code, run : int
        Numbers of the function, of its code and of this run in the store.

    Raises
    ------
    StoreError
        If it cannot be written, or holds the same function with other frozen values or seed.
    """

    def __init__(self, path: str, writing: Writing) -> None:
        self.path = path
        self._writing = writing
        self._pickle = writing.pickle
        self._files = Files(folder_of(os.path.realpath(path)))
        self._guard = threading.RLock()
        self._rows: list[tuple[Any, ...]] = []
        self._blobs: list[tuple[Any, ...]] = []
        self._names: list[tuple[int, str, str]] = []
        self._bytes = 0
        self._error: BaseException | None = None
        self._last = self._checked = 0.0
        self._behind = False  # the file lacks something that the journal has
        self._waiting, self._ended = threading.Event(), threading.Event()
        with translated(path):
            self._lock = Lock(path)
            try:
                self._connection = writable(path)
                try:
                    older = self._begin()
                except BaseException:
                    self._tidy()
                    self._connection.close()
                    raise
            except BaseException:
                self._lock.release()
                raise
        self._thread = threading.Thread(target=self._serve, name="parallelkit-store", daemon=True)
        self._thread.start()
        if older:
            try:
                self._tell(*older)
            except BaseException:  # where warnings are errors
                self.close()
                raise

    def _begin(self) -> tuple[int, int, list[str]] | None:
        """Find or make what the points belong to; what is to be told about older code."""
        writing, run = self._writing, self._connection.execute
        meta = meta_of(self._connection, self.path)
        if meta.get("pickle") == "1" and not self._pickle:
            refuse_pickles(self.path, "Sweep(..., pickle=True)")
        who = (str(writing.identity["function"]), json.dumps(writing.identity["version"]))
        found = run(
            "SELECT id, identity FROM sweeps WHERE function = ? AND version = ?", who
        ).fetchone()
        older = None
        if found is not None:
            check(self.path, json.loads(found[1]), writing.identity)
            older = self._older(found[0])
            if older and writing.on_change == "error":
                raise StoreError(_told(self.path, writing, *older))
        run("BEGIN IMMEDIATE")
        try:
            run("INSERT OR IGNORE INTO meta VALUES ('pickle', '0')")
            self._connection.executemany(
                "INSERT OR REPLACE INTO notes VALUES (?, ?)", writing.notes.items()
            )
            if found is None:
                row = (*who, json.dumps(writing.identity))
                run("INSERT INTO sweeps (function, version, identity) VALUES (?, ?, ?)", row)
            self.sweep: int = run(
                "SELECT id FROM sweeps WHERE function = ? AND version = ?", who
            ).fetchone()[0]
            code = (writing.code.digest, json.dumps(writing.code.parts))
            run("INSERT OR IGNORE INTO codes (digest, parts) VALUES (?, ?)", code)
            self.code: int = run("SELECT id FROM codes WHERE digest = ?", code[:1]).fetchone()[0]
            told = (self.sweep, self.code, json.dumps(writing.told))
            made = run("INSERT INTO runs (sweep, code, told) VALUES (?, ?, ?)", told)
            self.run = made.lastrowid
            run("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                run("ROLLBACK")
            raise
        names = run("SELECT kind, name FROM names WHERE sweep = ?", (self.sweep,))
        self._known = set(names)
        return older if writing.on_change == "warn" else None

    def _older(self, sweep: int) -> tuple[int, int, list[str]] | None:
        """How many rows there are, how many of other code, and what is different."""
        counts = self._connection.execute(
            "SELECT digest, parts, count(*), max(points.id) FROM points JOIN codes "
            "ON points.code = codes.id WHERE sweep = ? GROUP BY codes.id ORDER BY 4",
            (sweep,),
        ).fetchall()
        others = [one for one in counts if one[0] != self._writing.code.digest]
        if not others:
            return None
        # Of several, what is different from the newest: that is what was changed last.
        changed = changes(json.loads(others[-1][1]), self._writing.code.parts)
        return sum(one[2] for one in counts), sum(one[2] for one in others), changed

    def _tell(self, count: int, older: int, changed: list[str]) -> None:
        told = _told(self.path, self._writing, count, older, changed)
        warnings.warn(told, stacklevel=outside())

    def finished(self, failed_too: bool) -> set[bytes]:
        """Keys of the points that need not be run any more."""
        statement = "SELECT key FROM points WHERE sweep = ?"
        if not failed_too:
            statement += " AND status <> 'failed'"
        values = [self.sweep]
        if self._writing.on_change == "rerun":
            statement += " AND code = ?"
            values.append(self.code)
        with translated(self.path):
            return {key for (key,) in self._connection.execute(statement, values)}

    def encode(self, value: Any) -> Encoded:
        """A result in the form in which it is stored.

        Raises
        ------
        NotPlain
            If it has none.
        """
        with translated(self.path, reading=False):
            encoded = encode(value, self._pickle, self._files)
        if max((len(data) for _, data in encoded.blobs), default=len(encoded.text)) > LARGEST_BLOB:
            raise NotPlain("it is larger than 1 GB; save it to a file, and return the file's name")
        for name in value if type(value) is dict else ():
            if type(name) is str and _encodable(name) != name:
                raise NotPlain(f"its name {name!r} has half a character")
        return encoded

    def put(self, key: bytes, params: str, record: Record, encoded: Encoded | None) -> None:
        """Keep a finished point; it is in the file within `INTERVAL` seconds."""
        text, blobs = encoded or (None, [])
        seed = None if record.seed is None else str(record.seed)
        with self._guard:
            self._raise()
            self._name("param", record.params)
            self._name("result", named_results(record))
            # First what the row names, then the row: Ctrl-C may strike in between.
            for number, (kind, data) in enumerate(blobs):
                self._blobs.append((self.sweep, key, number, kind, data))
                self._bytes += len(data)
            whose = (self.sweep, self.code, self.run)
            head = (key, record.position, record.repeat, params, seed, record.status)
            pairs = [list(pair) for pair in record.curve]
            curve = encode(pairs, False).text if pairs else None
            error, traceback = _encodable(record.error), _encodable(record.traceback)
            self._rows.append((*whose, *head, text, error, traceback, *record[8:12], curve))
            self._bytes += len(text or "") + len(curve or "")
            self._settle()

    def flush(self) -> None:
        """Write what waits."""
        with self._guard:
            rows, blobs, names = self._rows, self._blobs, self._names
            if not rows:
                return
            with translated(self.path, reading=False):
                run = self._connection.execute
                many = self._connection.executemany
                run("BEGIN IMMEDIATE")
                try:
                    many("INSERT OR IGNORE INTO names (sweep, kind, name) VALUES (?, ?, ?)", names)
                    many(_PUT, rows)
                    many("INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?, ?)", blobs)
                    if any(kind == "pickle" for _, _, _, kind, _ in blobs):
                        run("UPDATE meta SET value = '1' WHERE name = 'pickle'")
                    run("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        run("ROLLBACK")
                    raise
            self._rows, self._blobs, self._names, self._bytes = [], [], [], 0
            self._last = time.monotonic()
            self._behind = True
            if self._last - self._checked > CHECKED:
                self._check_in()

    def _check_in(self) -> None:
        """Carry what is in the journal over to the file."""
        with self._guard, translated(self.path):
            # Readers are not waited for: what they still need stays where it is.
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._checked = time.monotonic()
            self._behind = False

    def close(self) -> None:
        """Write what waits, and let others write; a second Ctrl-C waits for it, too."""
        with Shield():
            self._ended.set()
            self._waiting.set()
            self._thread.join()
            try:
                self.flush()
                self._end()
            finally:
                self._tidy()
                self._connection.close()
                self._lock.release()

    def _end(self) -> None:
        """Add what is known of the run by now."""
        later = {} if self._writing.later is None else self._writing.later()
        if any(later.values()):
            told = json.dumps({**self._writing.told, **later})
            self._write("UPDATE runs SET told = ? WHERE id = ?", [(told, self.run)])

    def _tidy(self) -> None:
        """Leave one plain file, which can be read where nothing may be written."""
        run = self._connection.execute
        with suppress(sqlite3.Error):
            run(f"PRAGMA busy_timeout = {PATIENCE}")
            if run("PRAGMA journal_mode = DELETE").fetchone() != ("delete",):
                # Somebody is reading, for long. The journal stays, and the file has all of it.
                run("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _settle(self) -> None:
        full = len(self._rows) >= LARGEST_BATCH or self._bytes >= LARGEST_BYTES
        if full or time.monotonic() - self._last > INTERVAL:
            self.flush()
        if not self._waiting.is_set():
            self._waiting.set()

    def _serve(self) -> None:
        """Write what has waited, while the main loop waits for the next result."""
        while not self._ended.is_set():
            came = self._waiting.wait(CHECKED if self._behind else None)
            try:
                if came:
                    self._ended.wait(INTERVAL)
                    self._waiting.clear()
                    self.flush()
                else:
                    self._check_in()
            except Exception as error:  # noqa: BLE001 - for the main loop to raise
                self._error = error
                return

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _name(self, kind: str, names: Iterable[str]) -> None:
        for name in names:
            if (kind, name) not in self._known:
                self._known.add((kind, name))
                self._names.append((self.sweep, kind, name))

    def _write(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        with translated(self.path, reading=False):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(statement, rows)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def _encodable(text: str | None) -> str | None:
    """Text of an exception, which may hold halves of characters."""
    return None if text is None else text.encode(errors="backslashreplace").decode()


def _told(path: str, writing: Writing, count: int, older: int, changed: list[str]) -> str:
    rows = f"{older} of the {count} rows" if older < count else f"all {count} rows"
    ways = (
        "name another file, give the function another version=, or say on_change='rerun' (run "
        "them again) or 'ignore'"
    )
    if writing.on_change == "warn":
        ways = (
            "the column 'code' tells them apart. Sweep(on_change='rerun') runs them again, "
            "version= keeps both, on_change='ignore' says nothing"
        )
    return (
        f"{rows} of {writing.identity['function']} in {path!r} were computed with other code: "
        f"{clean(listed(changed))} changed since; {ways}"
    )
