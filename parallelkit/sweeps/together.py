"""Several stores read as one table: the parts of a sweep, or sweeps to be compared."""

from __future__ import annotations

import glob
import heapq
import os
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import StoreError
from .code import changes, listed
from .database import clean
from .records import Names, Record, Summary
from .stored import Stored

__all__ = ["Together", "files_of"]

NAMED = 3  # points in a message


def files_of(path: Any) -> list[str]:
    """Files that a user names: one, several, or those that fit a pattern with ``*``."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        return [file for one in path for file in files_of(one)]
    text = os.path.abspath(os.fsdecode(path))
    if os.path.lexists(text) or not glob.has_magic(text):
        return [text]
    found = sorted(glob.glob(text))
    if not found:
        raise StoreError(f"no file fits {os.fsdecode(path)!r}")
    return found


class Together:
    """Records of several stores, as if they were one.

    A point that several of them have is there once: that of a finished one, else the later one.

    Parameters
    ----------
    stores : sequence of Stored

    Attributes
    ----------
    different : list of str
        Files that have the same function and version with other frozen values or another seed:
        whose points are not the same points.
    other_code : list of str
        Files that have the same function and version, computed with other code.
    conflicts : list of str
        Points of which files have different results.
    """

    def __init__(self, stores: Sequence[Stored]) -> None:
        self.stores = list(stores)
        self._labels = _labels([one.path for one in stores])
        self.different: list[str] = []
        self.conflicts: list[str] = []
        self.other_code: list[str] = []
        self._order: dict[tuple[str, str | None], int] = {}
        for store in self.stores:
            for swept in store.sweeps:
                self._order.setdefault(swept[1:3], len(self._order))
        self._find_different()
        self._find_other_code()
        self._find_twice()
        titles = dict.fromkeys(one.title for store in self.stores for one in store.sweeps)
        self.title = f"{', '.join(titles)} in {len(self.stores)} files"

    # --- what does not fit -------------------------------------------------------------------

    def _find_different(self) -> None:
        first: dict[Any, tuple[int, Any]] = {}
        for at, store in enumerate(self.stores):
            for swept in store.sweeps:
                told = swept.identity
                known, other = first.setdefault(swept[1:3], (at, told))
                parts = [
                    f"the frozen {clean(name)}"
                    for name in sorted(told["frozen"].keys() | other["frozen"].keys())
                    if told["frozen"].get(name) != other["frozen"].get(name)
                ]
                parts += ["the seed"] if told["seed"] != other["seed"] else []
                if parts:
                    self.different.append(
                        f"{self._labels[known]} and {self._labels[at]} differ in "
                        f"{', '.join(parts)} of {swept.title}"
                    )

    def _find_other_code(self) -> None:
        first: dict[Any, tuple[int, dict[str, str]]] = {}
        for at, store in enumerate(self.stores):
            codes = store.codes()
            for swept in store.sweeps:
                parts = codes.get(swept.number, {})
                known, other = first.setdefault(swept[1:3], (at, parts))
                changed = changes(other, parts)
                if changed:
                    self.other_code.append(
                        f"{self._labels[known]} and {self._labels[at]} have rows of "
                        f"{swept.title} that were computed with other code: "
                        f"{clean(listed(changed))} changed"
                    )

    def _find_twice(self) -> None:
        """Leave out what another file has as well."""
        first: dict[Any, tuple[int, int]] = {}
        several: dict[Any, list[tuple[int, int]]] = {}
        for at, store in enumerate(self.stores):
            whose = {one.number: _identity(one) for one in store.sweeps}
            for number, key, sweep in store.marked():
                place = (whose[sweep], key)
                before = first.setdefault(place, (at, number))
                if before[0] != at:
                    several.setdefault(place, [before]).append((at, number))
        outcomes = [
            store.outcomes(n for rows in several.values() for other, n in rows if other == at)
            for at, store in enumerate(self.stores)
        ]
        told: dict[tuple[int, int], list[str]] = {}
        for rows in several.values():
            kept, *rest = rows
            for row in rest:
                old, new = (outcomes[at][number] for at, number in (kept, row))
                same = old.result == new.result
                if not same and old.status == new.status == "ok":
                    points = told.setdefault((kept[0], row[0]), [])
                    points.append(self._point(*row) if len(points) < NAMED else "")
                lost = row if same or old.rank >= new.rank else kept
                self.stores[lost[0]].skipped.add(lost[1])
                kept = kept if lost is row else row
        for (one, other), points in told.items():
            more = f" and {len(points) - NAMED} more" if len(points) > NAMED else ""
            self.conflicts.append(
                f"{self._labels[one]} and {self._labels[other]} have different results of "
                f"{'; '.join(points[:NAMED])}{more}"
            )

    def _point(self, at: int, number: int) -> str:
        (record,) = self.stores[at].at([number])
        return clean(", ".join(f"{name}={value!r:.40}" for name, value in record.params.items()))

    # --- rows --------------------------------------------------------------------------------

    def __len__(self) -> int:
        return sum(map(len, self.stores))

    def __iter__(self) -> Iterator[Record]:
        return heapq.merge(*map(self._labelled, range(len(self.stores))), key=self._place)

    def _labelled(self, at: int, records: Any = None) -> Iterator[Record]:
        label = self._labels[at]
        return (one._replace(file=label) for one in records or self.stores[at])

    def _place(self, record: Record) -> tuple[int, int, int]:
        return self._order[record.function, record.version], record.position, record.repeat

    def ends(self, n: int) -> list[Record]:
        """Return the first `n` records, then the last `n`."""
        if not n:
            return []
        firsts: list[Record] = []
        lasts: list[Record] = []
        for at, store in enumerate(self.stores):
            numbers = store.numbers()
            firsts += self._labelled(at, iter(store.at(numbers[:n])))
            lasts += self._labelled(at, iter(store.at(numbers[-n:])))
        return [*sorted(firsts, key=self._place)[:n], *sorted(lasts, key=self._place)[-n:]]

    def summary(self) -> Summary:
        """Count and add up."""
        parts = [store.summary() for store in self.stores]
        return Summary(
            points=sum(part.points for part in parts),
            failed=sum(part.failed for part in parts),
            pruned=sum(part.pruned for part in parts),
            seconds=sum(part.seconds for part in parts),
            older=sum(part.older for part in parts),
        )

    def names(self) -> Names:
        """What the columns are called."""
        every = [store.names() for store in self.stores]
        several = ("function", "version") if len(self._order) > 1 else ()
        return Names(
            list(dict.fromkeys(name for names in every for name in names.params)),
            list(dict.fromkeys(name for names in every for name in names.results)),
            any(names.repeats for names in every),
            ("file", *several, "code"),
        )

    def files_differ(self) -> bool:
        """Whether there are files whose points are not the same points."""
        return bool(self.different)

    def notes(self) -> dict[str, str]:
        """Texts by name; of the same name those of the last file."""
        return {name: text for store in self.stores for name, text in store.notes().items()}

    def provenance(self) -> list[dict[str, Any]]:
        """Where the rows come from, file by file and run by run."""
        return [
            {"file": label, **run}
            for label, store in zip(self._labels, self.stores, strict=True)
            for run in store.provenance()
        ]


def _identity(swept: Any) -> Any:
    """What makes the points of a function the same in two files."""
    told = swept.identity
    return swept.function, swept.version, repr(sorted(told["frozen"].items())), repr(told["seed"])


def _labels(paths: list[str]) -> list[str]:
    """Short names of files that tell them apart."""
    names = [os.path.basename(path) for path in paths]
    return [
        name if names.count(name) == 1 else path for name, path in zip(names, paths, strict=True)
    ]
