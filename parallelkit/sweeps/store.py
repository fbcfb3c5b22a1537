"""The writing side of a store: the sweeping process alone.

::

    put ─► a batch ─► flush ─► SQLite (WAL): one transaction a batch
                        ▲
                        └── by `put`, if the last one is a while ago; else by a thread, so that no
                            batch waits longer than that
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ..place.sigint import Shield
from .database import Lock, meta_of, refuse_pickles, translated, writable
from .identity import check
from .records import Record, named_results
from .values import Encoded, NotPlain, encode

__all__ = ["Store"]

INTERVAL = 0.1  # seconds for which results may wait to be stored
LARGEST_BATCH = 4096  # results
LARGEST_BYTES = 8 << 20
LARGEST_BLOB = 999_999_999  # SQLite's limit

_PUT = """
INSERT INTO points (key, position, repeat, params, seed, status, result, error, traceback,
                    seconds, started, worker, attempt, curve)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    position = excluded.position, status = excluded.status,
    result = excluded.result, error = excluded.error, traceback = excluded.traceback,
    seconds = excluded.seconds, started = excluded.started, worker = excluded.worker,
    attempt = attempt + excluded.attempt, curve = excluded.curve
"""


class Store:
    """The writing side.

    Parameters
    ----------
    path : str
    identity : Mapping
        Of the sweep; a new store takes it, an old one must have the same.
    pickle : bool
        Whether results that are not plain may be pickled.
    notes : Mapping
        What else a new store is to remember, by name; texts.

    Raises
    ------
    StoreError
        If it cannot be written, or is that of another sweep.
    """

    def __init__(
        self, path: str, identity: Mapping[str, Any], pickle: bool, notes: Mapping[str, str]
    ) -> None:
        self.path = path
        self._pickle = pickle
        self._guard = threading.RLock()
        self._rows: list[tuple[Any, ...]] = []
        self._blobs: list[tuple[Any, ...]] = []
        self._bytes = 0
        self._error: BaseException | None = None
        self._last = 0.0
        self._waiting, self._ended = threading.Event(), threading.Event()
        with translated(path):
            self._lock = Lock(path)
            try:
                self._connection = writable(path)
                try:
                    self._begin(identity, notes)
                except BaseException:
                    self._tidy()
                    self._connection.close()
                    raise
            except BaseException:
                self._lock.release()
                raise
        self._thread = threading.Thread(target=self._serve, name="parallelkit-store", daemon=True)
        self._thread.start()

    def _begin(self, identity: Mapping[str, Any], notes: Mapping[str, str]) -> None:
        meta = meta_of(self._connection, self.path)
        if "identity" in meta:
            check(self.path, json.loads(meta["identity"]), identity)
            if meta["pickle"] == "1" and not self._pickle:
                refuse_pickles(self.path, "Sweep(..., pickle=True)")
        now = {"pickle": str(int(self._pickle)), **notes}
        if "identity" not in meta:
            now["identity"] = json.dumps(identity)
        self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", now.items())
        self._known = set(self._connection.execute("SELECT kind, name FROM names"))

    def finished(self, failed_too: bool) -> set[bytes]:
        """Keys of the points that need not be run any more."""
        statement = "SELECT key FROM points"
        if not failed_too:
            statement += " WHERE status <> 'failed'"
        with translated(self.path):
            return {key for (key,) in self._connection.execute(statement)}

    def encode(self, value: Any) -> Encoded:
        """A result in the form in which it is stored.

        Raises
        ------
        NotPlain
            If it has none.
        """
        encoded = encode(value, self._pickle)
        if max((len(data) for _, data in encoded.blobs), default=len(encoded.text)) > LARGEST_BLOB:
            raise NotPlain("it is larger than 1 GB; save it to a file, and return the file's name")
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
                self._blobs.append((key, number, kind, data))
                self._bytes += len(data)
            head = (key, record.position, record.repeat, params, seed, record.status)
            pairs = [list(pair) for pair in record.curve]
            curve = encode(pairs, False).text if pairs else None
            self._rows.append((*head, text, *record[6:12], curve))
            self._bytes += len(text or "") + len(curve or "")
            self._settle()

    def flush(self) -> None:
        """Write what waits."""
        with self._guard:
            rows, blobs = self._rows, self._blobs
            if not rows:
                return
            with translated(self.path):
                run = self._connection.execute
                many = self._connection.executemany
                run("BEGIN IMMEDIATE")
                try:
                    many(_PUT, rows)
                    many("INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?)", blobs)
                    run("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        run("ROLLBACK")
                    raise
            self._rows, self._blobs, self._bytes = [], [], 0
            self._last = time.monotonic()

    def close(self) -> None:
        """Write what waits, and let others write; a second Ctrl-C waits for it, too."""
        with Shield():
            self._ended.set()
            self._waiting.set()
            self._thread.join()
            try:
                self.flush()
            finally:
                self._tidy()
                self._connection.close()
                self._lock.release()

    def _tidy(self) -> None:
        """Leave one plain file, which can be read where nothing may be written."""
        try:
            self._connection.execute("PRAGMA busy_timeout = 0")
            self._connection.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.Error:  # somebody is reading; it is fine as it is
            pass

    def _settle(self) -> None:
        full = len(self._rows) >= LARGEST_BATCH or self._bytes >= LARGEST_BYTES
        if full or time.monotonic() - self._last > INTERVAL:
            self.flush()
        elif not self._waiting.is_set():
            self._waiting.set()

    def _serve(self) -> None:
        """Write what has waited, while the main loop waits for the next result."""
        while not self._ended.is_set():
            self._waiting.wait()
            self._ended.wait(INTERVAL)
            self._waiting.clear()
            try:
                self.flush()
            except Exception as error:  # noqa: BLE001 - for the main loop to raise
                self._error = error
                return

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _name(self, kind: str, names: Iterable[str]) -> None:
        for name in names:
            if (kind, name) not in self._known:
                self._write(
                    "INSERT OR IGNORE INTO names (kind, name) VALUES (?, ?)", [(kind, name)]
                )
                self._known.add((kind, name))

    def _write(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        with translated(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(statement, rows)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
