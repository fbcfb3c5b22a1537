"""The table of a sweep."""

from __future__ import annotations

import csv
import heapq
import io
import math
import os
import warnings
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from . import show
from .layout import Layout, as_float, is_number
from .records import Record, Rows
from .stored import Stored
from .together import Together, files_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["Table", "open_sweep"]


class Table:
    """What came of a sweep: one row for each finished point and repeat, in the order of the grid.

    The columns are the parameters; ``repeat``, where there are repeats; the results (a dict gives
    one column for each key, anything else the column ``value``); ``status`` ("ok" or "failed"),
    ``error`` (text), ``seconds``, ``started`` (a datetime in UTC), ``worker`` (process id),
    ``attempt`` (how often it was tried) and ``seed``. Where a parameter or result has one of these
    names, it keeps it, and the sweep's own column is called ``sweep.seed`` and so on; a result
    named like a parameter becomes ``result.name``.

    Of a stored sweep nothing is kept in memory: rows are read as they are asked for.

    Attributes
    ----------
    interrupted : bool
        Whether Ctrl-C ended the sweep before all points were finished.

    Examples
    --------
    >>> import parallelkit as pk
    >>> table = pk.sweep(lambda x: {"square": x * x}, pk.grid(x=[1, 2, 3]))
    >>> table.columns[:3], len(table), table.best("square", mode="min")["x"]
    (['x', 'square', 'status'], 3, 1)
    """

    def __init__(self, rows: Rows, interrupted: bool = False) -> None:
        self._source = rows
        self.interrupted = interrupted

    # --- rows --------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (row for row, _ in self._laid_out())

    def _laid_out(self) -> Iterator[tuple[dict[str, Any], Record]]:
        """Rows, each with the record that it is made from."""
        records = iter(self._source)
        first = next(records, None)
        # The names are read when the records are fixed: a sweep that runs may add some.
        layout = Layout(self._source.names())
        for record in () if first is None else chain([first], records):
            yield layout.row(record), record

    def __bool__(self) -> bool:
        return True  # also where it is empty: it is asked for rows, not for truth

    def ends(self, n: int) -> list[dict[str, Any]]:
        """Return the first `n` rows, then the last `n`."""
        records = self._source.ends(n)
        layout = Layout(self._source.names())
        return [layout.row(record) for record in records]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows, as dicts. (Iterate over the table itself to have one at a time in memory.)."""
        return list(self)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return Layout(self._source.names()).columns

    @property
    def parameters(self) -> list[str]:
        """Names of the columns that are parameters."""
        return self._source.names().params

    @property
    def results(self) -> list[str]:
        """Names of the columns that are results."""
        return list(Layout(self._source.names()).results.values())

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Rows of the points that failed, each with its ``traceback`` as text."""
        return [
            {**row, "traceback": record.traceback}
            for row, record in self._laid_out()
            if record.status == "failed"
        ]

    @property
    def notes(self) -> dict[str, str]:
        """Texts by name that ``Sweep(notes=...)`` gave to the store."""
        return self._source.notes()

    @property
    def provenance(self) -> list[dict[str, Any]]:
        """Where the rows of a store come from: a dict for each run that made some.

        Each has ``function``, ``version``, ``started``, ``host``, ``folder``, ``command``,
        ``python``, ``platform``, ``packages`` (versions of those that the function uses),
        ``frozen`` (short values as text, long ones as a summary and a digest), ``seed``, ``git``
        (``commit``, ``branch`` and whether it was ``dirty``, or None), ``rows`` (how many are in
        this table) and ``code`` (as in the column).
        """
        return self._source.provenance()

    def best(self, column: str, mode: str = "max") -> dict[str, Any]:
        """Row with the largest, or smallest, value in a column.

        Parameters
        ----------
        column : str
        mode : {"max", "min"}

        Returns
        -------
        dict

        Raises
        ------
        KeyError
            If there is no such column.
        ValueError
            If no row has a number there.
        """
        best = self.top(column, 1, mode)
        if not best:
            raise ValueError(f"no row has a number in the column {column!r}")
        return best[0]

    def top(self, column: str, n: int = 10, mode: str = "max") -> list[dict[str, Any]]:
        """Return the `n` best rows, the best first; of equal ones, that which comes first.

        Failed points and values that are no numbers, or NaN, do not count. Parameters and
        exceptions are those of :meth:`best`.
        """
        if mode not in ("max", "min"):
            raise ValueError(f"mode must be 'max' or 'min', not {mode!r}")
        self._check(column)
        sign = 1 if mode == "max" else -1
        ranked = (
            (sign * row[column], -place, row)
            for place, row in enumerate(self)
            if is_number(row[column])
        )
        return [row for _, _, row in heapq.nlargest(n, ranked, key=lambda entry: entry[:2])]

    # --- other forms -------------------------------------------------------------------------

    def to_pandas(self) -> DataFrame:
        """Return a DataFrame of all rows. (``pip install pandas``)."""
        pandas = show.needed("pandas", "pandas")
        return pandas.DataFrame(self.rows, columns=self.columns)

    def to_csv(
        self, path: str | os.PathLike[str] | None = None, formulas: bool = True
    ) -> str | None:
        """Write a CSV file; without a path, return its text.

        Parameters
        ----------
        path : path, optional
        formulas : bool
            Whether texts that begin with ``=``, ``+``, ``-`` or ``@`` stay as they are. A
            spreadsheet takes them for formulas, which matters where the table is a stranger's:
            False puts an apostrophe before them.
        """
        if path is None:
            text = io.StringIO()
            self._write_csv(text, formulas)
            return text.getvalue()
        with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            self._write_csv(file, formulas)
        return None

    def _write_csv(self, file: Any, formulas: bool) -> None:
        columns = self.columns
        cell = show.cell if formulas else show.harmless
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns if formulas else map(cell, columns))
        writer.writerows([cell(row[name]) for name in columns] for row in self)

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file. (``pip install pandas pyarrow``).

        What is neither a number, a text nor a time becomes text.
        """
        show.needed("pyarrow", "pyarrow")
        frame = self.to_pandas()
        for name in frame.columns:
            if frame[name].dtype == object:
                kinds = {type(value) for value in frame[name] if value is not None}
                if len(kinds) > 1 or not kinds <= {str, bool, int, float, bytes}:
                    frame[name] = [None if v is None else str(show.cell(v)) for v in frame[name]]
        frame.to_parquet(path, index=False)

    def pivot(self, index: str, columns: str, values: str) -> DataFrame:
        """Two columns against each other, with the mean of a third where they meet.

        Parameters
        ----------
        index, columns, values : str
            Columns of the table. Rows without a number in `values` do not count.

        Returns
        -------
        pandas.DataFrame
        """
        pandas = show.needed("pandas", "pandas")
        down, across, means = self.crossed(index, columns, values)
        return pandas.DataFrame(
            means, index=pandas.Index(down, name=index), columns=pandas.Index(across, name=columns)
        )

    def crossed(
        self, index: str, columns: str, values: str
    ) -> tuple[list[Any], list[Any], list[list[float]]]:
        """:meth:`pivot` as lists: labels down and across, and means (NaN where there is none)."""
        for name in (index, columns, values):
            self._check(name)
        found: dict[tuple[Any, Any], list[float]] = {}
        for row in self:
            if is_number(row[values]):
                place = show.label(row[index]), show.label(row[columns])
                found.setdefault(place, []).append(as_float(row[values], values))
        down = show.ordered(place[0] for place in found)
        across = show.ordered(place[1] for place in found)
        means = [
            [math.fsum(v) / len(v) if (v := found.get((d, a))) else math.nan for a in across]
            for d in down
        ]
        return down, across, means

    # --- pictures ----------------------------------------------------------------------------

    def plot(
        self,
        x: str | None = None,
        y: str | None = None,
        hue: str | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draw a result over a parameter: means, and a band of one standard deviation.

        Parameters
        ----------
        x, y : str, optional
            Columns; by default the parameter with most values, and the first result.
        hue : str, optional
            A line for each value of this column.
        path : path, optional
            Save it there as well.

        Returns
        -------
        matplotlib.figure.Figure
            (``pip install matplotlib``)
        """
        from . import plots

        return cast("Figure", plots.lines(self, x, y, hue, path))

    def heatmap(
        self, x: str, y: str, value: str, path: str | os.PathLike[str] | None = None
    ) -> Figure:
        """Draw a result over two parameters as colours; parameters are those of :meth:`plot`."""
        from . import plots

        return cast("Figure", plots.heatmap(self, x, y, value, path))

    def parallel(
        self,
        *columns: str,
        color: str | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draw parallel coordinates: an axis for each column, a line for each row.

        Parameters
        ----------
        *columns : str
            By default all parameters and the first result.
        color : str, optional
            Column that gives the lines their colours; by default the last one.
        path : path, optional
            Save it there as well.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from . import plots

        return cast("Figure", plots.coordinates(self, columns, color, path))

    # --- looks -------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return show.text(self, self.head())

    def _repr_html_(self) -> str:
        return show.html(self, self.head())

    def head(self) -> str:
        """Say in a line what the table is of."""
        of = self._source.summary()
        told = f"{self._source.title}: {of.points} {'point' if of.points == 1 else 'points'}"
        if of.failed:
            told += f", {of.failed} failed"
        if of.pruned:
            told += f", {of.pruned} pruned"
        if of.stored:
            told += f", {of.stored} from the store"
        if of.older:
            told += f", {of.older} with older code"
        told += f", {show.duration(of.seconds)} of work"
        return told + (", interrupted" if self.interrupted else "")

    def _check(self, column: str) -> None:
        columns = self.columns
        if column not in columns:
            raise KeyError(f"no column {column!r}; there are {', '.join(columns)}")


def open_sweep(
    path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    pickle: bool = False,
    name: str | None = None,
    version: Any = None,
) -> Table:
    """Open the table of a stored sweep; also while it runs, in whatever process.

    Parameters
    ----------
    path : path or iterable of paths
        Several files, also by a pattern such as ``"run-*.db"``, give one table with a column
        ``file``. A point that several of them have is there once; a warning names points with
        different results, and files whose frozen values or seeds differ.
    pickle : bool
        Load pickled results, which can run code of who made the store.
    name, version : optional
        Only rows of this function, or version, as ``Sweep`` has them. (A function's name may be
        given without its module.)

    Returns
    -------
    Table
        Of all points in the store. Where it holds several functions or versions, the columns
        ``function`` and ``version`` tell them apart.

    Raises
    ------
    StoreError
        If the file is missing, damaged, or no store of a sweep, or holds pickles that were not
        asked for. (A :class:`ParallelError`.)

    Examples
    --------
    >>> import os, tempfile
    >>> import parallelkit as pk
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "run.db")
    ...     table = pk.Sweep(store=path).run(abs, [])
    ...     len(pk.open_sweep(path))
    0
    """
    files = files_of(path)
    if not files:
        raise ValueError("name at least one file")
    stores = [Stored(file, pickle=pickle, name=name, version=version) for file in files]
    if len(stores) == 1:
        return Table(stores[0])
    together = Together(stores)
    for told in (*together.different, *together.other_code, *together.conflicts):
        warnings.warn(told, stacklevel=2)
    return Table(together)
