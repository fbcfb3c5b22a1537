"""The table of a sweep.

It is long because all that can be asked of a table is a method of it, with its documentation.
"""

from __future__ import annotations

import csv
import heapq
import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, cast, overload

from . import show
from .crossing import Crossing
from .layout import Layout, is_number
from .means import Means, Picked, means
from .records import Record, Rows
from .row import Row, like, rank, unlabelled
from .stored import EmptyStore, Stored
from .together import Together, files_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["Table", "open_sweep"]

# In print these only matter when something is wrong, or when they are asked for.
QUIET = ("started", "worker", "attempt", "seed", "error")


class Table:
    """What came of a sweep: one row for each finished point and repeat, in the order of the grid.

    The columns are the parameters; ``repeat``, where there are repeats; the results (a dict gives
    one column for each key, anything else the column ``value``); of a store ``code``, which tells
    rows apart that were computed with different code; ``reported``, the last value that a point
    reported, where any has; ``status`` ("ok", "failed" or "pruned"), ``error`` (text),
    ``seconds``, ``started`` (a datetime in UTC), ``worker`` (process id), ``attempt`` (how often it
    was tried) and ``seed``. Where a parameter or result has one of these names, it keeps it, and
    the sweep's own column is called ``sweep.seed`` and so on; a result named like a parameter
    becomes ``result.name``.

    ``table[0]`` is a row, a dict by column; ``table["score"]`` a column, as a list; ``table[2:5]``
    and what :meth:`filter`, :meth:`sort`, :meth:`head`, :meth:`tail` and :meth:`mean` give are
    tables again. Of a stored sweep nothing is kept in memory: rows are read as they are asked for.

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

    def __iter__(self) -> Iterator[Row]:
        records = iter(self._source)
        first = next(records, None)
        # The names are read when the records are fixed: a sweep that runs may add some.
        layout = self._layout()
        for record in () if first is None else chain([first], records):
            yield Row(layout.row(record), record)

    def _layout(self) -> Layout:
        layout = Layout(self._source.names())
        if isinstance(self._source, Means):  # what is a run's own has no mean
            own = set(layout.own.values())
            layout.own = {}
            layout.columns = [name for name in layout.columns if name not in own]
        return layout

    def __bool__(self) -> bool:
        return True  # also where it is empty: it is asked for rows, not for truth

    @overload
    def __getitem__(self, key: int) -> Row: ...
    @overload
    def __getitem__(self, key: str) -> list[Any]: ...
    @overload
    def __getitem__(self, key: slice) -> Table: ...
    def __getitem__(self, key: Any) -> Any:
        """A row by its number, a column by its name, some rows by a slice."""
        if isinstance(key, str):
            _check(self, key)
            return [row[key] for row in self]
        if isinstance(key, slice):
            return self._picked(list(self._source)[key])
        if not hasattr(key, "__index__"):
            raise TypeError(
                f"a table has rows, table[0] or table[:5], and columns, table['name'], not {key!r}"
            )
        count, at = len(self), key.__index__()
        if not -count <= at < count:
            raise IndexError(f"row {at} of a table of {count}")
        at %= count
        if at < count - at:
            record = next(islice(iter(self._source), at, None))
        else:
            record = self._source.ends(count - at)[-(count - at)]
        return Row(self._layout().row(record), record)

    def _picked(self, records: Iterable[Record]) -> Table:
        source = self._source
        if isinstance(source, Means):
            return Table(Means(source, records, source.names(), source.title), self.interrupted)
        return Table(Picked(source, records), self.interrupted)

    def filter(self, condition: Callable[[Row], object] | None = None, /, **values: Any) -> Table:
        """Keep some rows.

        Parameters
        ----------
        condition : callable, optional
            Called with each row.
        **values
            Columns with the value that they must have. Numbers are equal as numbers (1 and 1.0),
            NaN is equal to NaN, and True is not 1. Arrays, models, functions and data frames are
            found by equal ones, also in a store.

        Returns
        -------
        Table

        Examples
        --------
        >>> import parallelkit as pk
        >>> table = pk.sweep(lambda a, b: a * b, pk.grid(a=[1, 2], b=[3, 4]))
        >>> table.filter(a=2)["value"], table.filter(lambda row: row["value"] < 5)["b"]
        ([6, 8], [3, 4])
        """
        if condition is not None and not callable(condition):
            raise TypeError(f"filter takes a condition, called with each row, not {condition!r}")
        _check(self, *values)
        wanted = {name: like(value) for name, value in values.items()}
        return self._picked(
            row.record
            for row in self
            if all(is_it(row[name]) for name, is_it in wanted.items())
            and (condition is None or condition(row))
        )

    def sort(self, *columns: str, reverse: bool = False) -> Table:
        """Put the rows in order: by the first column, where that is equal by the second, ...

        Rows without a value come last, either way.

        Examples
        --------
        >>> import parallelkit as pk
        >>> table = pk.sweep(lambda a: -a, pk.grid(a=[1, 3, 2]))
        >>> table.sort("value")["a"], table.sort("value", reverse=True)["a"]
        ([3, 2, 1], [1, 2, 3])
        """
        if not columns:
            raise TypeError("sort takes the names of columns")
        _check(self, *columns)
        rows = list(self)
        for name in reversed(columns):
            lacking = [row for row in rows if rank(row[name]) == rank(None)]
            there = [row for row in rows if rank(row[name]) != rank(None)]
            rows = [*sorted(there, key=lambda row: rank(row[name]), reverse=reverse), *lacking]
        return self._picked(row.record for row in rows)

    def head(self, n: int = 5) -> Table:
        """Return the first `n` rows, as a table."""
        return self._picked(self._source.ends(n)[: min(n, len(self))])

    def tail(self, n: int = 5) -> Table:
        """Return the last `n` rows, as a table."""
        records = self._source.ends(n)
        return self._picked(records[len(records) - min(n, len(self)) :])

    def mean(self, over: str | Sequence[str] = "repeat") -> Table:
        """Means over repeats, or over parameters such as folds, with how sure they are.

        Parameters
        ----------
        over : str or list of str
            ``"repeat"``, names of parameters, or several of these.

        Returns
        -------
        Table
            A row for each combination of the parameters that are left. A result ``score`` that has
            numbers becomes ``score``, its mean; ``score.std``, the standard deviation (with n - 1);
            and ``score.sem``, the standard error of the mean. These are NaN where one run is all
            there is. Other results stay where all runs agree. ``count`` is the number of runs that
            ended well; ``failed`` and ``pruned`` count the others, where there are any.

        Examples
        --------
        >>> import parallelkit as pk
        >>> table = pk.Sweep(repeats=4, seed=1, backend="serial").run(
        ...     lambda x, rng: {"score": x + rng.random()}, pk.grid(x=[10, 20]))
        >>> [(row["x"], row["count"], int(row["score"])) for row in table.mean()]
        [(10, 4, 10), (20, 4, 20)]
        """
        layout = self._layout()
        names = [over] if isinstance(over, str) else list(over)
        if layout.repeat is None:  # one run of each is the mean of one
            names = [name for name in names if name != "repeat"]
        for name in names:
            if name not in (*layout.params, layout.repeat):
                known = ", ".join([*layout.params, *filter(None, [layout.repeat])])
                raise KeyError(f"means are over repeats and parameters, not {name!r}: {known}")
        records, columns = means(self, layout, names, self._source.files_differ())
        title = f"{self._source.title}, means over {', '.join(names) or 'single runs'}"
        return Table(Means(self._source, records, columns, title), self.interrupted)

    def curves(self) -> list[dict[str, Any]]:
        """What points have reported while they ran.

        Returns
        -------
        list of dict
            One for each row that has reported anything: its parameters, ``repeat`` where there are
            repeats, ``status``, and two lists of the same length, ``steps`` and ``values``.

        Examples
        --------
        >>> import parallelkit as pk
        >>> def train(rate):
        ...     for epoch in range(1, 4):
        ...         pk.report(rate * epoch, epoch)
        >>> table = pk.Sweep(backend="serial").run(train, pk.grid(rate=[0.5]))
        >>> table.curves()
        [{'rate': 0.5, 'status': 'ok', 'steps': [1, 2, 3], 'values': [0.5, 1.0, 1.5]}]
        """
        layout = self._layout()
        kept = [*layout.params, *([] if layout.repeat is None else [layout.repeat])]
        return [
            {
                **{name: row[name] for name in kept},
                "status": row.record.status,
                "steps": [step for step, _ in row.record.curve],
                "values": [value for _, value in row.record.curve],
            }
            for row in self
            if row.record.curve
        ]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows, as dicts. (Iterate over the table itself to have one at a time in memory.)."""
        return list(self)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self._layout().columns

    @property
    def parameters(self) -> list[str]:
        """Names of the columns that are parameters."""
        return self._source.names().params

    @property
    def results(self) -> list[str]:
        """Names of the columns that are results."""
        return list(self._layout().results.values())

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Rows of the points that failed, each with its ``traceback`` as text.

        It ends with how the point is run again under a debugger: see :meth:`Sweep.rerun`.
        """
        return [
            Row({**row, "traceback": row.record.traceback}, row.record)
            for row in self
            if row.record.status == "failed"
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

    def best(
        self, column: str, mode: str = "max", over: str | Sequence[str] | None = "repeat"
    ) -> dict[str, Any]:
        """Row with the largest, or smallest, value in a column: by the mean over repeats.

        Parameters
        ----------
        column : str
        mode : {"max", "min"}
        over : str or list of str, optional
            What means are taken over, as in :meth:`mean`. Where there are no repeats, rows are
            what they are. None ranks single rows: with many repeats the best of them is luck.

        Returns
        -------
        dict
            Where means are taken, a row of ``table.mean(over)``.

        Raises
        ------
        KeyError
            If there is no such column.
        ValueError
            If no row has a number there; it says so where all points failed.
        """
        best = self.top(column, 1, mode, over)
        if not best:
            raise ValueError(self._nothing(column))
        return best[0]

    def top(
        self,
        column: str,
        n: int = 10,
        mode: str = "max",
        over: str | Sequence[str] | None = "repeat",
    ) -> list[dict[str, Any]]:
        """Return the `n` best rows, the best first; of equal ones, that which comes first.

        Points that failed or were pruned and values that are no numbers, or NaN, do not count; nor
        does a mean of which a run failed, was pruned or gave NaN, as the others are the lucky ones.
        Parameters and exceptions are those of :meth:`best`.
        """
        if mode not in ("max", "min"):
            raise ValueError(f"mode must be 'max' or 'min', not {mode!r}")
        if column not in self.columns and self._summary_ok() == 0:
            return []
        table = self._averaged(over, column)
        _check(table, column)
        sign = 1 if mode == "max" else -1
        lost = table._source.names().lost  # noqa: SLF001 - a table like this one
        ranked = (
            (sign * row[column], -place, row)
            for place, row in enumerate(table)
            if row.record.status == "ok"
            and is_number(row[column])
            and not any(row[name] for name in lost)
        )
        return [row for _, _, row in heapq.nlargest(n, ranked, key=lambda entry: entry[:2])]

    def _averaged(self, over: str | Sequence[str] | None, *needed: str) -> Table:
        """The table of means, where there is something to take means of.

        What a run has of its own, such as the seconds that it took, is looked at row by row.
        """
        layout = self._layout()
        if over is None or isinstance(self._source, Means) or not layout.results:
            return self
        if over == "repeat" and layout.repeat is None:
            return self
        if layout.repeat in needed or not set(needed).isdisjoint(layout.own.values()):
            return self
        return self.mean(over)

    def _summary_ok(self) -> int:
        of = self._source.summary()
        return of.points - of.failed - of.pruned

    def _nothing(self, column: str) -> str:
        """Why no row has a number in a column."""
        of = self._source.summary()
        if of.points and of.failed == of.points:
            first = next(iter(self._source)).error
            count = "the only point" if of.points == 1 else f"all {of.points} points"
            return f"{count} failed, the first with {first}; table.failed has the tracebacks"
        if of.points and of.failed + of.pruned == of.points:
            return (
                f"of {of.points} points {of.failed} failed and {of.pruned} were pruned: none ended"
            )
        ended = (row for row in self if row.record.status == "ok")
        if (of.pruned or of.failed) and any(is_number(row[column]) for row in ended):
            how = " or ".join(["failed"] * bool(of.failed) + ["was pruned"] * bool(of.pruned))
            return (
                f"of each point with a number in the column {column!r} a repeat {how}, so "
                "that no mean can be compared with others; over=None compares single rows"
            )
        return f"no row has a number in the column {column!r}"

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
        plain = csv.writer(file, lineterminator="\n")
        # Before Python 3.13 a carriage return alone is not quoted, and would end the row.
        quoting = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)

        def write(cells: list[Any]) -> None:
            returns = any(isinstance(text, str) and "\r" in text for text in cells)
            (quoting if returns else plain).writerow(cells)

        write(columns if formulas else list(map(cell, columns)))
        for row in self:
            write([cell(row[name]) for name in columns])

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

    def pivot(
        self,
        index: str,
        columns: str,
        values: str,
        over: str | Sequence[str] | None = "repeat",
    ) -> DataFrame:
        """Two columns against each other, with the mean of a third where they meet.

        Parameters
        ----------
        index, columns, values : str
            Columns of the table: down, across, and what is averaged. Rows without a number in
            `values`, and points that failed or were pruned, do not count.
        over : str or list of str, optional
            Means are taken over this first, so that each point counts once, however many repeats
            it has. None: each row counts.

        Returns
        -------
        pandas.DataFrame
        """
        pandas = show.needed("pandas", "pandas")
        down, across, means = self.crossed(index, columns, values, over)
        return pandas.DataFrame(
            means, index=pandas.Index(down, name=index), columns=pandas.Index(across, name=columns)
        )

    def crossed(
        self,
        index: str,
        columns: str,
        values: str,
        over: str | Sequence[str] | None = "repeat",
    ) -> tuple[list[Any], list[Any], list[list[float]]]:
        """:meth:`pivot` as lists: labels down and across, and means (NaN where there is none)."""
        _check(self, index, columns, values)
        table = self._averaged(over, index, columns, values)
        crossing = Crossing(table, index, columns, values)
        down, across = map(unlabelled, crossing.down), map(unlabelled, crossing.across)
        return list(down), list(across), crossing.means

    # --- pictures ----------------------------------------------------------------------------

    def plot(
        self,
        x: str | None = None,
        y: str | None = None,
        hue: str | None = None,
        path: str | os.PathLike[str] | None = None,
        *,
        over: str | None = "repeat",
        ax: Axes | None = None,
        **style: Any,
    ) -> Figure:
        """Draw a result over a parameter: means, and a band of one standard deviation.

        Points that failed or were pruned stand at the lower edge, and are counted in the legend.

        Parameters
        ----------
        x, y : str, optional
            Columns; by default the parameter with most values, and the first result.
        hue : str, optional
            A line for each value of this column.
        path : path, optional
            Save it there as well.
        over : str, optional
            None: no means, but a dot for each row.
        ax : matplotlib.axes.Axes, optional
            Draw there, instead of on a figure of its own.
        **style
            Of the lines, as for ``Axes.plot``.

        Returns
        -------
        matplotlib.figure.Figure
            (``pip install matplotlib``)
        """
        from . import plots

        return cast("Figure", plots.lines(self, x, y, hue, path, over is not None, ax, style))

    def heatmap(
        self,
        index: str,
        columns: str,
        values: str,
        path: str | os.PathLike[str] | None = None,
        *,
        over: str | Sequence[str] | None = "repeat",
        ax: Axes | None = None,
        **style: Any,
    ) -> Figure:
        """Draw a :meth:`pivot` as colours: `index` downwards, `columns` across.

        Where all points failed or were pruned there is a mark in place of the number, where some
        did a mark beside it.

        Parameters
        ----------
        index, columns, values, over
            As for :meth:`pivot`.
        path : path, optional
            Save it there as well.
        ax : matplotlib.axes.Axes, optional
            Draw there, instead of on a figure of its own.
        **style
            As for ``Axes.imshow``: ``cmap``, ``vmin``, ...

        Returns
        -------
        matplotlib.figure.Figure
        """
        from . import plots

        _check(self, index, columns, values)
        table = self._averaged(over, index, columns, values)
        crossing = Crossing(table, index, columns, values)
        if not any(map(crossing.has, crossing.down)):
            raise ValueError(self._nothing(values))
        crossing.mark(self)
        return cast("Figure", plots.heatmap(crossing, path, ax, style))

    def parallel(
        self,
        *columns: str,
        color: str | None = None,
        path: str | os.PathLike[str] | None = None,
        over: str | Sequence[str] | None = "repeat",
        ax: Axes | None = None,
        **style: Any,
    ) -> Figure:
        """Draw parallel coordinates: an axis for each column, a line for each point.

        Parameters
        ----------
        *columns : str
            By default all parameters and the first result.
        color : str, optional
            Column that gives the lines their colours; by default the last one.
        path : path, optional
            Save it there as well.
        over : str or list of str, optional
            Means are taken over this first. None: a line for each row.
        ax : matplotlib.axes.Axes, optional
            Draw there, instead of on a figure of its own.
        **style
            Of the lines, as for ``Axes.plot``.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from . import plots

        table = self._averaged(over, *columns, *([color] if color else []))
        return cast("Figure", plots.coordinates(table, columns, color, path, ax, style))

    def plot_curves(
        self,
        hue: str | None = None,
        path: str | os.PathLike[str] | None = None,
        *,
        ax: Axes | None = None,
        **style: Any,
    ) -> Figure:
        """Draw what points have reported, step by step; those that were given up end with a mark.

        Parameters
        ----------
        hue : str, optional
            Colours by this column. By default each of up to ten points has a colour and a name;
            of more those that went on stand out from the others.
        path : path, optional
            Save it there as well.
        ax : matplotlib.axes.Axes, optional
            Draw there, instead of on a figure of its own.
        **style
            Of the lines, as for ``Axes.plot``.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from . import plots

        return cast("Figure", plots.curves(self, hue, path, ax, style))

    # --- looks -------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return show.text(self._shown())

    def _repr_html_(self) -> str:
        return show.html(self._shown())

    def _shown(self) -> show.Extract:
        """The part of the table that is printed."""
        layout, count = self._layout(), len(self)
        few = count <= 2 * show.SHOWN
        records = self._source.ends(count if few else show.SHOWN // 2)[:count]
        rows = [Row(layout.row(record), record) for record in records]
        hidden = {layout.own[name] for name in QUIET if name in layout.own}
        if any(record.status == "failed" for record in records):
            hidden -= {layout.own.get("error")}
        code = layout.own.get("code")
        if code is not None and len({record.code for record in records}) < 2:
            hidden.add(code)  # where all rows have the same, it says nothing
        columns = [name for name in layout.columns if name not in hidden]
        return show.Extract(self.caption(), columns, rows, max(0, count - len(rows)))

    def caption(self) -> str:
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


def _check(table: Table, *names: str) -> None:
    columns = table.columns
    for name in names:
        if name not in columns:
            raise KeyError(f"no column {name!r}; there are {', '.join(columns)}")


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
    stores, empty = [], []
    for file in files:
        try:
            stores.append(Stored(file, pickle=pickle, name=name, version=version))
        except EmptyStore as error:  # of several parts one may have just begun
            empty.append(error)
    if not stores:
        raise empty[0]
    for nothing in empty:
        warnings.warn(str(nothing), stacklevel=2)
    if len(files) == 1:
        return Table(stores[0])
    together = Together(stores)
    for told in (*together.different, *together.other_code, *together.conflicts):
        warnings.warn(told, stacklevel=2)
    return Table(together)
