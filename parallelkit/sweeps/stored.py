"""The reading side of a store: anyone, at any time, also while the sweep runs.

Each batch of rows is read by a connection of its own, so that a table that is read half-way keeps
nothing open, and the sweep can leave one plain file at its end. What is read is a stranger's, until
it has been looked at: see :func:`~parallelkit.sweeps.database.translated`.

It is long because each question to a store has its own checked way from SQL to plain values.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from ..errors import StoreError
from .artifacts import folder_of
from .database import clean, is_new, meta_of, readable, refuse_pickles, translated
from .identity import DIGEST
from .records import Names, Record, Summary, named_results
from .values import decode

__all__ = ["FETCHED", "Chosen", "EmptyStore", "Outcome", "Stored", "Swept", "count_points"]

FETCHED = 500  # rows at a time
LARGEST_FETCH = 8 << 20  # bytes at a time, but for the last row
STATUS = ("ok", "failed", "pruned")
FAR = 253402300799  # seconds: the end of the year 9999
_COLUMNS = (
    "key, result, params, position, repeat, seed, status, error, traceback, seconds, started, "
    "worker, attempt, curve, sweep, code"
)


class Swept(NamedTuple):
    """A function, with its version, that a store has rows of."""

    number: int
    function: str
    version: str | None
    identity: dict[str, Any]

    @property
    def title(self) -> str:
        """What it is called in print."""
        version = "" if self.version is None else f" version {clean(self.version)}"
        return f"{clean(self.function)}{version}"


class Outcome(NamedTuple):
    """What came of a point, to be compared with what came of it elsewhere."""

    status: str
    result: bytes  # a digest of it, or of the error
    rank: tuple[bool, float]  # whether it is well, and when it began


class Chosen:
    """Keys of the points that a sweep was asked for, by their place: 24 bytes each."""

    def __init__(self) -> None:
        self._keys = bytearray()
        self._positions = array("q")

    def __len__(self) -> int:
        return len(self._positions)

    def add(self, key: bytes, position: int) -> None:
        """Add a point."""
        self._keys += key
        self._positions.append(position)

    def keys(self) -> list[bytes]:
        """Keys in the order of their places."""
        order = sorted(range(len(self._positions)), key=self._positions.__getitem__)
        return [bytes(self._keys[i * DIGEST : (i + 1) * DIGEST]) for i in order]


class EmptyStore(StoreError):
    """No sweep has begun in a file."""


class Stored:
    """The reading side: records of a store, read anew each time.

    Parameters
    ----------
    path : str
    chosen : Chosen, optional
        Only these points, in this order.
    pickle : bool
        Whether pickled results may be loaded, which can run code of who made the store.
    sweep : int, optional
        Only rows of the function with this number in the store.
    run : int, optional
        Number of the run that made the table: rows of other runs were stored before.
    name, version : optional
        Only rows of functions of this name or version, as ``Sweep`` takes them.
    """

    def __init__(
        self,
        path: str,
        chosen: Chosen | None = None,
        pickle: bool = False,
        sweep: int | None = None,
        run: int | None = None,
        name: str | None = None,
        version: Any = None,
    ) -> None:
        self.path = path
        self._chosen = chosen
        self._pickle = pickle
        self._run = run
        self.skipped: set[int] = set()  # numbers of rows that another file has as well
        self._found: array[int] | None = None  # numbers of the rows, where none will be added
        with self._connected() as connection:
            meta = meta_of(connection, path)
            if meta.get("pickle") == "1" and not pickle:
                refuse_pickles(path, "open_sweep(path, pickle=True)")
            every = [_swept(row) for row in connection.execute("SELECT * FROM sweeps ORDER BY id")]
        self.every = every
        self.sweeps = [one for one in every if sweep is None or one.number == sweep]
        if name is not None:
            self.sweeps = _named(self.sweeps, name)
        if version is not None:
            told = _version(version)
            self.sweeps = [one for one in self.sweeps if one.version == told]
        if not self.sweeps:
            if every:
                known = ", ".join(one.title for one in every)
                raise StoreError(f"{path!r} has no such function or version; it has: {known}")
            raise EmptyStore(f"{path!r} is empty: no sweep has begun in it")
        self._of = {one.number: one for one in self.sweeps}
        self.title = ", ".join(one.title for one in self.sweeps)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with translated(self.path), closing(readable(self.path)) as connection:
            if is_new(connection):
                raise EmptyStore(f"{self.path!r} is empty: no sweep has begun in it")
            yield connection

    # --- what is told ------------------------------------------------------------------------

    def files_differ(self) -> bool:
        """Whether there are files whose points are not the same points."""
        return False

    def notes(self) -> dict[str, str]:
        """Texts by name that its makers gave."""
        with self._connected() as connection:
            rows = connection.execute("SELECT name, value FROM notes ORDER BY name")
            return {_text(name): _text(value) for name, value in rows}

    def provenance(self) -> list[dict[str, Any]]:
        """Where the rows come from, run by run: those of which there are rows, or the last one."""
        with self._connected() as connection:
            counts: dict[Any, int] = {}
            for run, number in self._each(connection, "run, id"):
                if number not in self.skipped:
                    counts[run] = counts.get(run, 0) + 1
            digests = self._digests(connection)
            rows = connection.execute("SELECT id, sweep, code, told FROM runs ORDER BY id")
            found = [row for row in rows if row[1] in self._of]
            runs = []
            for number, sweep, code, told in found:
                if number in counts or number == found[-1][0]:
                    of = self._of[sweep]
                    head = {"function": of.function, "version": of.version}
                    tail = {"rows": counts.get(number, 0), "code": digests[code]}
                    runs.append({**head, **_dict(told), **tail})
            return runs

    # --- rows --------------------------------------------------------------------------------

    def __len__(self) -> int:
        if self._chosen is None:
            with self._connected() as connection:
                marks = self._marks()
                counted = f"SELECT count(*) FROM points WHERE sweep IN ({marks})"  # noqa: S608
                count = connection.execute(counted, list(self._of)).fetchone()[0]
                return int(count) - len(self.skipped)
        return len(self.numbers())

    def __iter__(self) -> Iterator[Record]:
        return self._records(self.numbers())

    def ends(self, n: int) -> list[Record]:
        """Return the first `n` records, then the last `n`."""
        numbers = self.numbers()
        return list(self._records([*numbers[:n], *numbers[-n:]] if n else []))

    def summary(self) -> Summary:
        """Count and add up."""
        with self._connected() as connection:
            count, failed, pruned, total, before, older = 0, 0, 0, 0.0, 0, 0
            newest = self._newest(connection)
            columns = "id, status, seconds, run, code, sweep"
            for number, status, seconds, run, code, sweep in self._each(connection, columns):
                if number in self.skipped:
                    continue
                count += 1
                failed += status == "failed"
                pruned += status == "pruned"
                total += float(seconds or 0.0)
                before += run != self._run
                older += code != newest[sweep]
            stored = before if self._run is not None else 0
            return Summary(count, failed, pruned, total, stored, older)

    def codes(self) -> dict[int, dict[str, str]]:
        """What each function was last computed with, part by part: see code.py."""
        with self._connected() as connection:
            parts = dict(connection.execute("SELECT id, parts FROM codes"))
            newest = self._newest(connection)
            return {one: _dict(parts[newest[one]]) for one in self._of if one in newest}

    def _newest(self, connection: sqlite3.Connection) -> dict[Any, Any]:
        """Code of this run, else of the last one, by the number of the function."""
        if self._run is not None:
            mine = connection.execute("SELECT sweep, code FROM runs WHERE id = ?", (self._run,))
            return dict(mine)
        # The last row of each group: https://sqlite.org/lang_select.html#bareagg
        return {
            sweep: code
            for sweep, code, _ in connection.execute(
                "SELECT sweep, code, max(id) FROM runs GROUP BY sweep"
            )
        }

    def names(self) -> Names:
        """What the columns are called."""
        with self._connected() as connection:
            found = self._names(connection)
            marks = self._marks()
            most = (
                "SELECT max(repeat), max(curve IS NOT NULL) FROM points "  # noqa: S608
                f"WHERE sweep IN ({marks})"
            )
            repeats, curve = connection.execute(most, list(self._of)).fetchone()
        several = ("function", "version") if len(self.sweeps) > 1 else ()
        origin = (*several, "code")
        return Names(found["param"], found["result"], bool(repeats), origin, bool(curve))

    def marked(self) -> Iterator[tuple[int, bytes, int]]:
        """Numbers of all rows, each with the key of its point and the number of its function."""
        with self._connected() as connection:
            rows = list(self._each(connection, "id, key, sweep"))
        yield from rows

    def outcomes(self, numbers: Iterable[int]) -> dict[int, Outcome]:
        """What came of some points, as it is stored."""
        found = {}
        with self._connected() as connection:
            for number in numbers:
                sweep, key, status, result, error, started = connection.execute(
                    "SELECT sweep, key, status, result, error, started FROM points WHERE id = ?",
                    (number,),
                ).fetchone()
                blobs = connection.execute(
                    "SELECT data FROM blobs WHERE sweep = ? AND key = ? ORDER BY number",
                    (sweep, key),
                )
                digest = hashlib.blake2b(repr((result, error)).encode(errors="backslashreplace"))
                for (data,) in blobs:
                    digest.update(data)
                rank = (status != "failed", float(started or 0.0))
                found[number] = Outcome(status, digest.digest(), rank)
        return found

    def at(self, numbers: Iterable[int]) -> list[Record]:
        """Return some rows by their numbers."""
        return list(self._records(list(numbers)))

    def _records(self, numbers: Sequence[int]) -> Iterator[Record]:
        return (record for _, record in self._decoded(numbers))

    # --- help --------------------------------------------------------------------------------

    def _marks(self) -> str:
        return ", ".join("?" * len(self._of))

    def numbers(self) -> Sequence[int]:
        """Numbers of all rows, in their order."""
        if self._found is not None:
            return self._found
        with self._connected() as connection:
            if self._chosen is None:
                rows = self._each(connection, "id")
                return array("q", (number for (number,) in rows if number not in self.skipped))
            found = array("q", self._chosen_numbers(connection, self._chosen.keys()))
        if len(found) == len(self._chosen):
            self._found = found
        return found

    def _chosen_numbers(self, connection: sqlite3.Connection, keys: list[bytes]) -> Iterator[int]:
        (sweep,) = self._of
        for begin in range(0, len(keys), FETCHED):
            part = keys[begin : begin + FETCHED]
            marks = ", ".join("?" * len(part))
            statement = f"SELECT key, id FROM points WHERE sweep = ? AND key IN ({marks})"  # noqa: S608
            found = dict(connection.execute(statement, (sweep, *part)))
            yield from (found[key] for key in part if key in found)

    def _each(self, connection: sqlite3.Connection, columns: str) -> Iterator[Any]:
        """Some columns of all rows, in their order."""
        if self._chosen is None:
            yield from connection.execute(
                f"SELECT {columns} FROM points WHERE sweep IN ({self._marks()}) "  # noqa: S608
                "ORDER BY sweep, position, repeat, id",
                list(self._of),
            )
            return
        numbers = self.numbers()
        for begin in range(0, len(numbers), FETCHED):
            part = list(numbers[begin : begin + FETCHED])
            marks = ", ".join("?" * len(part))
            statement = f"SELECT id, {columns} FROM points WHERE id IN ({marks})"  # noqa: S608
            found = {number: row for number, *row in connection.execute(statement, part)}
            yield from (found[number] for number in part if number in found)

    def _decoded(self, numbers: Sequence[int]) -> Iterator[tuple[Any, Record]]:
        """Rows by their numbers, in this order; those that are gone are left out."""
        at = 0
        while at < len(numbers):
            part = list(numbers[at : at + FETCHED])
            with self._connected() as connection:
                read, at = self._read(connection, part, at)
            yield from read

    def _read(
        self, connection: sqlite3.Connection, part: list[int], at: int
    ) -> tuple[list[tuple[Any, Record]], int]:
        """Some of the next rows, as many as memory may hold, and where the next ones begin."""
        marks = ", ".join("?" * len(part))
        statement = f"SELECT id, {_COLUMNS} FROM points WHERE id IN ({marks})"  # noqa: S608
        found = {number: row for number, *row in connection.execute(statement, part)}
        known = {kind: set(names) for kind, names in self._names(connection).items()}
        digests = self._digests(connection)
        read, size = [], 0
        for number in part:
            at += 1
            if number not in found:
                continue
            row = found[number]
            blobs = self._blobs(connection, row)
            size += sum(len(data) for _, data in blobs.values()) + len(row[1] or "")
            record = self._record(row, blobs, digests)
            if not known["param"].issuperset(record.params):
                raise StoreError(f"{self.path!r} is damaged: it does not list all its parameters")
            if not known["result"].issuperset(named_results(record)):
                raise StoreError(f"{self.path!r} is damaged: it does not list all its results")
            read.append((row, record))
            if size > LARGEST_FETCH:
                break
        return read, at

    def _blobs(self, connection: sqlite3.Connection, row: Any) -> dict[int, tuple[str, bytes]]:
        key, result, sweep = row[0], row[1], row[14]
        if not isinstance(result, str) or '"~blob"' not in result:
            return {}
        statement = "SELECT number, kind, data FROM blobs WHERE sweep = ? AND key = ?"
        rows = connection.execute(statement, (sweep, key))
        return {number: (kind, data) for number, kind, data in rows}

    def _record(
        self, row: Any, blobs: dict[int, tuple[str, bytes]], digests: dict[Any, str]
    ) -> Record:
        """Make sense of a row, and of nothing that is not what we write."""
        (key, result, params, position, repeat, seed, status, error, traceback, seconds) = row[:10]
        started, worker, attempt, told, sweep, code = row[10:]
        ints = (position, repeat, attempt, 0 if worker is None else worker)
        if not (
            set(map(type, ints)) == {int}
            and (status in STATUS and type(key) is bytes)
            and (error is None or type(error) is str)
            and (traceback is None or type(traceback) is str)
            and (seconds is None or type(seconds) is float)
            and (started is None or (type(started) is float and abs(started) <= FAR))
        ):
            raise ValueError("a row has values that no sweep writes")
        value = None
        if result is not None:
            value = decode(result, blobs, self._pickle, folder_of(self.path))
        point = decode(params, {})
        if type(point) is not dict:
            raise TypeError("a point has no parameters")
        curve = [] if told is None else [(step, number) for step, number in decode(told, {})]
        if not set(map(type, itertools.chain.from_iterable(curve))) <= {int, float}:
            raise TypeError("a curve has other values than numbers")
        of = self._of[sweep]
        return Record(
            *(position, repeat, point, None if seed is None else int(seed), status, value),
            *(error, traceback, seconds, started, worker, attempt),
            *(curve, digests[code], of.function, of.version, None, of.identity["frozen"]),
        )

    def _names(self, connection: sqlite3.Connection) -> dict[str, list[str]]:
        """Names of parameters and results, in the order in which they first came up."""
        found: dict[str, dict[str, None]] = {"param": {}, "result": {}}
        for sweep, kind, name in connection.execute(
            "SELECT sweep, kind, name FROM names ORDER BY id"
        ):
            if sweep in self._of:
                found[kind][_text(name)] = None
        return {kind: list(names) for kind, names in found.items()}

    def _digests(self, connection: sqlite3.Connection) -> dict[Any, str]:
        rows = connection.execute("SELECT id, digest FROM codes")
        return {number: _text(digest) for number, digest in rows}


def count_points(path: str) -> int:
    """How many points a store has, of all its sweeps; 0 if there is none, or it cannot be read."""
    try:
        with translated(path), closing(readable(path)) as connection:
            found: int = connection.execute("SELECT count(*) FROM points").fetchone()[0]
    except StoreError:
        return 0
    return found


def _swept(row: Any) -> Swept:
    number, function, version, identity = row
    told = _dict(identity)
    for part in ("frozen", "seed", "version"):
        if part not in told:
            raise KeyError(part)
    if not isinstance(told["frozen"], dict) or not isinstance(number, int):
        raise TypeError("its identity is not one")
    plain = json.loads(version)
    return Swept(number, _text(function), None if plain is None else _text(plain), told)


def _named(sweeps: list[Swept], name: str) -> list[Swept]:
    """Those of a function: by all of its name, or without its module."""
    exact = [one for one in sweeps if one.function == name]
    return exact or [one for one in sweeps if one.function.partition(":")[2] == name]


def _version(version: Any) -> str:
    from .canonical import canonical

    return canonical(version)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} should be a text")
    return value


def _dict(text: Any) -> dict[str, Any]:
    value = json.loads(_text(text))
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.60} should be a dict")
    return value
