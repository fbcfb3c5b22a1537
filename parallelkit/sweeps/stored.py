"""The reading side of a store: anyone, at any time, also while the sweep runs."""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain
from typing import Any

from ..errors import StoreError
from .database import is_new, meta_of, readable, refuse_pickles, translated
from .identity import DIGEST
from .records import Names, Record, Summary
from .values import decode

__all__ = ["Chosen", "Stored"]

FETCHED = 500  # rows at a time, by their keys
_COLUMNS = (
    "key, result, params, position, repeat, seed, status, error, traceback, seconds, started, "
    "worker, attempt, curve"
)
_ORDER = "ORDER BY position, repeat, id"
_BACK = "ORDER BY position DESC, repeat DESC, id DESC"
_SELECT = f"SELECT {_COLUMNS} FROM points"  # noqa: S608 - of two texts of ours


def _picked(connection: sqlite3.Connection, columns: str, chosen: Chosen) -> Iterator[list[Any]]:
    """Rows of chosen points, in their order; those that are not stored are left out."""
    for keys in chosen.batches():
        marks = ", ".join("?" * len(keys))
        statement = f"SELECT {columns} FROM points WHERE key IN ({marks})"  # noqa: S608
        rows = connection.execute(statement, keys)
        found = {row[0]: row for row in rows}
        yield [found[key] for key in keys if key in found]


class Chosen:
    """Keys of the points that a sweep was asked for, by their place: 24 bytes each."""

    def __init__(self) -> None:
        self._keys = bytearray()
        self._positions = array("q")

    def add(self, key: bytes, position: int) -> None:
        """Add a point."""
        self._keys += key
        self._positions.append(position)

    def batches(self) -> Iterator[list[bytes]]:
        """Keys in the order of their places, some at a time."""
        order = sorted(range(len(self._positions)), key=self._positions.__getitem__)
        for begin in range(0, len(order), FETCHED):
            part = order[begin : begin + FETCHED]
            yield [bytes(self._keys[i * DIGEST : (i + 1) * DIGEST]) for i in part]


class Stored:
    """The reading side: records of a store, read anew each time.

    Parameters
    ----------
    path : str
    chosen : Chosen, optional
        Only these points, in this order.
    pickle : bool
        Whether pickled results may be loaded, which can run code of who made the store.
    """

    def __init__(self, path: str, chosen: Chosen | None = None, pickle: bool = False) -> None:
        self.path = path
        self._chosen = chosen
        self._pickle = pickle
        meta = self.meta()
        if meta.get("pickle") == "1" and not pickle:
            refuse_pickles(path, "open_sweep(path, pickle=True)")
        told = json.loads(meta["identity"])
        version = "" if told["version"] is None else f" version {told['version']}"
        self.title = f"{told['function']}{version}"

    def meta(self) -> dict[str, str]:
        """What the store says about itself."""
        with translated(self.path), closing(readable(self.path)) as connection:
            if is_new(connection):
                raise StoreError(f"{self.path!r} is empty: no sweep has begun in it")
            meta = meta_of(connection, self.path)
        if "identity" not in meta:
            raise StoreError(f"{self.path!r} is empty: no sweep has begun in it")
        return meta

    def __len__(self) -> int:
        with translated(self.path), closing(readable(self.path)) as connection:
            if self._chosen is None:
                return int(connection.execute("SELECT count(*) FROM points").fetchone()[0])
            return sum(len(rows) for rows in _picked(connection, "key", self._chosen))

    def __iter__(self) -> Iterator[Record]:
        with translated(self.path), closing(readable(self.path)) as connection:
            for row in self._all(connection, _COLUMNS):
                yield self._record(connection, row)

    def ends(self, n: int) -> list[Record]:
        """Return the first `n` records, then the last `n`."""
        with translated(self.path), closing(readable(self.path)) as connection:
            if self._chosen is None:
                rows = [
                    *connection.execute(f"{_SELECT} {_ORDER} LIMIT ?", (n,)),
                    *reversed(connection.execute(f"{_SELECT} {_BACK} LIMIT ?", (n,)).fetchall()),
                ]
            else:
                keys = [key for (key,) in self._all(connection, "key")]
                ends = [*keys[:n], *keys[-n:]] if n else []
                statement = f"{_SELECT} WHERE key = ?"
                rows = [connection.execute(statement, (key,)).fetchone() for key in ends]
            return [self._record(connection, row) for row in rows]

    def summary(self) -> Summary:
        """Count and add up."""
        with translated(self.path), closing(readable(self.path)) as connection:
            count, failed, pruned, total, reported = 0, 0, 0, 0.0, False
            columns = "key, status, seconds, curve IS NOT NULL"
            for _, status, seconds, curve in self._all(connection, columns):
                count += 1
                failed += status == "failed"
                pruned += status == "pruned"
                total += seconds or 0.0
                reported |= bool(curve)
            return Summary(count, failed, pruned, total, reported)

    def _all(self, connection: sqlite3.Connection, columns: str) -> Iterable[Any]:
        if self._chosen is not None:
            return chain.from_iterable(_picked(connection, columns, self._chosen))
        return connection.execute(f"SELECT {columns} FROM points {_ORDER}")  # noqa: S608

    def _record(self, connection: sqlite3.Connection, row: Any) -> Record:
        key, result, params, position, repeat, seed, status, *rest, told = row
        curve = [] if told is None else [(step, value) for step, value in decode(told, {})]
        value = None if result is None else self._value(connection, key, result)
        number = None if seed is None else int(seed)
        record = Record(position, repeat, decode(params, {}), number, status, value, *rest)
        return record._replace(curve=curve)

    def _value(self, connection: sqlite3.Connection, key: bytes, text: str) -> Any:
        blobs: dict[int, tuple[str, bytes]] = {}
        if '"~blob"' in text:
            statement = "SELECT number, kind, data FROM blobs WHERE key = ?"
            blobs = {n: (kind, data) for n, kind, data in connection.execute(statement, (key,))}
        try:
            return decode(text, blobs, self._pickle)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise StoreError(f"a result in {self.path!r} is damaged: {error}") from error

    def names(self) -> Names:
        """What the columns are called."""
        with translated(self.path), closing(readable(self.path)) as connection:
            names = connection.execute("SELECT kind, name FROM names ORDER BY id").fetchall()
            repeats = connection.execute("SELECT max(repeat) FROM points").fetchone()[0]
        params = [name for kind, name in names if kind == "param"]
        return Names(params, [name for kind, name in names if kind == "result"], bool(repeats))
