"""A sweep that has begun: its records as they come, its end, and its table."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from ..errors import SweepInterrupted, outside
from .layout import Layout
from .records import Kept, Names, Record, named_results
from .row import Row
from .running import Run
from .store import Store
from .stored import Stored
from .table import Table

__all__ = ["Going"]


class Going:
    """Start it, iterate over it to have the sweep done, record by record; close it to end it early.

    Parameters
    ----------
    run : Run
    store : Store, optional
    stack : ExitStack
        What ends with the sweep: its call, its bar, its store.
    name : str
        Title of the table.
    pickle : bool
        Whether the store may be read with its pickles.
    repeats : int
    """

    def __init__(
        self,
        run: Run,
        store: Store | None,
        stack: ExitStack,
        name: str,
        pickle: bool,
        repeats: int,
    ) -> None:
        self._run, self._store, self._stack = run, store, stack
        self._records: Iterator[Record] = iter(())
        self._name, self._pickle, self._repeats = name, pickle, repeats
        self._interrupted = False
        self._params: dict[str, None] = {}
        self._results: dict[str, None] = {}

    def start(self, begin: Callable[[ExitStack], Iterator[Record]]) -> None:
        """Let the work begin: `begin` leaves to the stack what is to end with it."""
        try:
            self._records = begin(self._stack)
        except KeyboardInterrupt:
            self._interrupted = True
            self.close()
            raise self._stopped() from None
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Record]:
        """Run the sweep. Ctrl-C gives up what runs, and raises with what is finished."""
        try:
            with self._stack:
                yield from self._records
        except KeyboardInterrupt:  # also a second one, while workers are given a moment to leave
            self._interrupted = True
            raise self._stopped() from None
        self._warn()

    def close(self) -> None:
        """End the sweep, where it has not ended."""
        self._stack.close()

    @property
    def table(self) -> Table:
        """What is finished."""
        if self._store is None:
            return Table(Kept(self._name, self._run.kept), self._interrupted)
        store = self._store
        rows = Stored(store.path, self._run.chosen, self._pickle, store.sweep, store.run)
        return Table(rows, self._interrupted)

    def row(self, record: Record) -> Row:
        """A record as the row that it is in the table, as far as columns are known by now."""
        self._params.update(dict.fromkeys(record.params))
        self._results.update(dict.fromkeys(named_results(record)))
        origin = () if self._store is None else ("code",)
        params, results = list(self._params), list(self._results)
        layout = Layout(Names(params, results, self._repeats > 1, origin, bool(record.curve)))
        return Row(layout.row(record), record)

    def _stopped(self) -> SweepInterrupted:
        count = self._run.finished
        told = f"sweep interrupted with {count} {'point' if count == 1 else 'points'} finished"
        if self._store is not None:
            told += f", which are stored in {self._store.path!r}: run the same again to go on"
        else:
            told += "; they are in the .table of this exception"
        if self._run.in_threads:
            told += (
                ". What runs in threads cannot be stopped: it goes on until it ends, calls "
                "pk.report, or the process ends"
            )
        return SweepInterrupted(told, self.table)

    def _warn(self) -> None:
        """Say what makes a table useless."""
        told = self._run.useless()
        if told is not None:
            warnings.warn(told, RuntimeWarning, stacklevel=outside())
