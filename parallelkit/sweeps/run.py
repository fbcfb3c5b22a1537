"""What people type: `sweep`, and `Sweep` for its options."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Unpack

from ..engine.progress import bar
from ..options import Resolver, check_names
from ..values.seeds import of_next_call, root
from .best import taken_off
from .canonical import canonical
from .code import code_of
from .going import Going
from .grid import as_points
from .identity import function_name, identity, key_of, known_digests, other_values, seed_of
from .point import called
from .provenance import Commit, about
from .pruning import Pruner
from .row import Row, point_of
from .running import Run, begin, check_call
from .store import Store, Writing
from .stored import Chosen, Stored, count_points
from .table import Table

if TYPE_CHECKING:
    from ..options import SweepOptions

__all__ = ["Sweep", "sweep"]

SHUFFLE = 0x5EED  # an order like any other, the same each time


class Sweep:
    """Options for sweeps, and the sweep.

    Parameters
    ----------
    store : path, optional
        A file (SQLite) that keeps what is finished. Run the same again, after a crash or
        ``kill -9``, and it goes on: what is stored is not run again.
    repeats : int
        How often each point is run, each time with another seed.
    seed : int or numpy.random.SeedSequence, optional
        Each point and repeat gets a random stream of its own, which depends on the values of its
        parameters, not on its place in the grid: as a parameter ``rng`` of the function, and in
        `random` and `numpy.random`, as for ``Pool(seed=...)``.
    on_error : {"record", "raise"}
        ``"record"`` keeps what a point raises as text in the table and goes on; ``"raise"`` raises
        it, when what was finished is stored, and does not store the failure.
    retry_failed : bool
        Run points again that are stored as failed.
    shuffle : bool
        Run the points in a random order, so that the first results are spread over all of them.
    version : optional
        Of your function: another one does not take the old results, which stay beside the new.
    name : str, optional
        By which the store knows the function; by default its module and name. A store can hold
        several functions and versions.
    pickle : bool
        Store results that are no numbers, texts, lists, dicts or arrays as pickles. Who opens
        such a store must ask for it, as loading runs code of who made it.
    notes : Mapping, optional
        Texts by name to be kept in the store, beside the results.
    on_change : {"warn", "rerun", "error", "ignore"}
        What to do where stored rows were computed with other code than the function has now: its
        own, that of helpers it calls in the project, globals, defaults and closure. ``"warn"``
        says what changed, and takes the rows; where there is a `version`, that decides, and
        nothing is said.
    pruner : callable, optional
        Gives up points that are not worth going on with, by what they :func:`report`:
        :class:`Median`, :class:`Halving`, or anything that is called with a ``Report`` (see
        docs/sweeps.md) and says whether its point is to be given up.
    part : (int, int), optional
        ``(i, n)``: run the part `i` (from 0) of `n` alone, on one machine of many, each with a
        store of its own. Parts are the same each time, differ by one point at most in their size,
        and give points the seeds that they have in one run. ``open_sweep("run-*.db")`` reads
        them together.
    **options
        Of :class:`Pool`: ``workers``, ``backend``, ``progress``, ``timeout``, ``retries``,
        ``memory_limit``, ... A point is a message of its own unless ``chunksize`` says otherwise,
        so that it is stored as soon as it is finished.

    Raises
    ------
    TypeError, ValueError
        For an unknown option or a bad value.

    Examples
    --------
    >>> import parallelkit as pk
    >>> table = pk.Sweep(workers=2, repeats=2, seed=1).run(
    ...     lambda x, rng: x + rng.random(), pk.grid(x=[10, 20]))
    >>> [(row["x"], row["repeat"], int(row["value"])) for row in table]
    [(10, 0, 10), (10, 1, 10), (20, 0, 20), (20, 1, 20)]
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | None = None,
        repeats: int = 1,
        seed: Any = None,
        on_error: Literal["record", "raise"] = "record",
        retry_failed: bool = False,
        shuffle: bool = False,
        version: Any = None,
        name: str | None = None,
        pickle: bool = False,
        notes: Mapping[str, str] | None = None,
        on_change: Literal["warn", "rerun", "error", "ignore"] = "warn",
        part: tuple[int, int] | None = None,
        pruner: Pruner | None = None,
        **options: Unpack[SweepOptions],
    ) -> None:
        if isinstance(repeats, bool) or not hasattr(repeats, "__index__"):
            raise TypeError(f"repeats must be a whole number, not {repeats!r}")
        if repeats.__index__() < 1:
            raise ValueError(f"repeats must be at least 1, not {repeats!r}")
        if on_error not in ("record", "raise"):
            raise ValueError(f"on_error of a sweep must be 'record' or 'raise', not {on_error!r}")
        if on_change not in ("warn", "rerun", "error", "ignore"):
            raise ValueError(
                f"on_change must be 'warn', 'rerun', 'error' or 'ignore', not {on_change!r}"
            )
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a text, not {name!r}")
        if store is not None and os.fspath(store) in ("", ":memory:"):
            raise ValueError("store must name a file; leave it out to keep the results in memory")
        self._store = None if store is None else os.path.abspath(store)
        self._repeats = repeats.__index__()
        self._on_error = on_error
        self._retry_failed = retry_failed
        self._shuffle = shuffle
        self._version, self._name, self._pickle = version, name, pickle
        if notes is not None and not isinstance(notes, Mapping):
            raise TypeError(f"notes must be texts by name, not {notes!r}")
        self._notes = _texts(notes or {})
        self._on_change = on_change
        self._part = None if part is None else _checked_part(part)
        if isinstance(pruner, type) or not (pruner is None or callable(pruner)):
            raise TypeError(
                f"pruner must be pk.Median(), pk.Halving() or a function, not {pruner!r}"
            )
        self._pruner = pruner
        own: dict[str, Any] = {**options}
        if seed is not None:
            own["seed"] = seed
        check_names(own, OWN)
        self._resolve = Resolver(own)

    def run(self, func: Callable[..., Any], grid: Any, /, **frozen: Any) -> Table:
        """Call `func` with the parameters of each point as keywords, in parallel.

        Parameters
        ----------
        func : callable
            Returns a number; a dict, which gets a column for each key; or anything.
        grid : Points or iterable of dict
            :func:`grid`, :func:`sample`, a list of dicts, scikit-learn's ``ParameterGrid``, ...
            A point that comes twice is run once.
        **frozen
            Keywords that are the same for all points. They are sent once.

        Returns
        -------
        Table
            Of all points of the grid, in the order of the grid.

        Raises
        ------
        SweepInterrupted
            On Ctrl-C: what was finished is stored, and in its ``table``; points that were running
            are given up. A second Ctrl-C waits for nobody. (A ``KeyboardInterrupt``.)
        TypeError
            If `func` cannot be called with the parameters of the first point; if parameters have
            no canonical form where there is a store or a seed; if the first result cannot be
            stored.
        StoreError
            If the store cannot be written, is that of another sweep, or is being written by
            another process. (A :class:`ParallelError`.)
        BaseException
            With ``on_error="raise"`` what a point raised.

        Examples
        --------
        >>> import parallelkit as pk
        >>> table = pk.Sweep(backend="serial").run(pow, [{"base": 2, "exp": 5}], mod=7)
        >>> table.rows[0]["value"]
        4
        """
        going = self._begin(func, grid, frozen)
        for _ in going:
            pass
        return going.table

    def stream(
        self, func: Callable[..., Any], grid: Any, /, **frozen: Any
    ) -> Generator[Row, None, None]:
        """Run as :meth:`run` does; give the rows as they finish, to stop when it is enough.

        Work starts with the call. Leaving the loop, or closing the iterator, ends the sweep: what
        is finished is stored, points that run are given up. Of a store, points that were finished
        before are given as well, when their turn comes.

        Parameters
        ----------
        func, grid, **frozen
            As for :meth:`run`.

        Yields
        ------
        dict
            A row, as in the table; a column that no point has had yet is missing in it.

        Raises
        ------
        SweepInterrupted
            On Ctrl-C while the next row is waited for.
        TypeError, StoreError, BaseException
            As from :meth:`run`.

        Examples
        --------
        >>> import parallelkit as pk
        >>> rows = pk.Sweep(workers=2).stream(lambda x: {"score": x / 10}, pk.grid(x=range(10**6)))
        >>> for row in rows:
        ...     if row["score"] > 0.95:
        ...         break
        >>> rows.close()
        >>> row["score"] > 0.95
        True
        """
        going = self._begin(func, grid, frozen, streams=True)
        rows = _rows(going)
        next(rows)  # from here on, closing it ends the sweep
        return rows

    def rerun(self, func: Callable[..., Any], row: Mapping[str, Any], /, **frozen: Any) -> Any:
        """Run one point again: here, with its seed, raising what it raises. For a debugger.

        Parameters
        ----------
        func : callable
        row : dict
            A row of a table, such as ``table.failed[0]``; or a dict with the parameters, and
            ``seed`` where the point had one.
        **frozen
            The frozen keywords of the sweep.

        Returns
        -------
        object
            What `func` returns.

        Raises
        ------
        TypeError
            If a parameter is known by its description only, as arrays and models of a store are:
            give it, ``sweep.rerun(func, {**row, "model": model})``.
        BaseException
            What `func` raises.

        Warns
        -----
        RuntimeWarning
            If the row was computed with other values of the frozen keywords, as far as they are
            known: all of a store, numbers and texts of a table in memory. Or if it is a mean, of
            which the first repeat is run.

        Examples
        --------
        >>> import parallelkit as pk
        >>> sweep = pk.Sweep(seed=1, backend="serial")
        >>> def draw(x, rng):
        ...     return x + rng.random()
        >>> row = sweep.run(draw, pk.grid(x=[1, 2]))[0]
        >>> sweep.rerun(draw, row) == row["value"]
        True
        """
        if not callable(func):
            raise TypeError(f"the function must be callable, not {func!r}")
        if not isinstance(row, Mapping):
            raise TypeError(f"rerun takes a row of a table, not {row!r}")
        params, seed = point_of(func, row, frozen)
        told = _different(row, frozen)
        if told is not None:
            warnings.warn(told, RuntimeWarning, stacklevel=2)
        if seed is None and self._resolve().seed is not None:
            seed = seed_of(root(self._resolve().seed), key_of(canonical(params), 0))
        check_call(func, params, frozen, seed is not None)
        return called(func, params, frozen, seed)

    def _begin(
        self,
        func: Callable[..., Any],
        grid: Any,
        frozen: Mapping[str, Any],
        streams: bool = False,
    ) -> Going:
        """Check all that can be checked before anything runs, and open what is needed."""
        if not callable(func):
            raise TypeError(f"the function must be callable, not {func!r}")
        points = as_points(grid)
        first = next(iter(points), None)
        options = self._resolve()
        seed = of_next_call() if options.seed is None else root(options.seed)
        if first is not None:
            check_call(func, first, frozen, seed is not None)
        name = self._name or function_name(func)
        progress, best = taken_off(options.progress, self._repeats)
        options = options.but(progress=progress)
        stack = ExitStack()
        with stack:
            store = None
            if self._store is not None:
                if first is not None and count_points(self._store) < len(points) * self._repeats:
                    begin(func, first, frozen, options)
                store = Store(self._store, self._writing(func, name, frozen, seed))
                stack.callback(store.close)
            run = Run(
                *(store, seed, options.seed is not None, self._on_error, self._repeats),
                *(frozen.keys(), self._pruner, _again(func, frozen), known_digests(frozen)),
            )
            run.best = best
            if store is not None:
                again = self._retry_failed or self._on_error == "raise"
                run.done = store.finished(failed_too=not again)
                if run.done and self._pruner is not None:
                    run.remember(Stored(store.path, None, self._pickle, store.sweep, store.run))
                if run.done and (streams or best is not None):
                    run.read = partial(self._read, store)
            run.part = self._part
            total = len(points) * self._repeats if progress is not False else None
            if total is not None and self._part is not None:
                total = len(range(self._part[0], total, self._part[1]))
            run.bar = bar(progress, total)
            stack.callback(run.bar.close)
            numbered = points.numbered(SHUFFLE if self._shuffle else None)
            going = Going(run, store, stack.pop_all(), name, self._pickle, self._repeats)
        going.start(partial(run.records, func, numbered, frozen, options))
        return going

    def _read(self, store: Store, chosen: Chosen) -> Stored:
        return Stored(store.path, chosen, self._pickle, store.sweep, store.run)

    def _writing(
        self, func: Callable[..., Any], name: str, frozen: Mapping[str, Any], seed: Any
    ) -> Writing:
        """What a store is to know of a run, beside its points."""
        code = code_of(func)
        # Who gives a version says when results are to be thrown away; the table tells the rest.
        warned = self._on_change == "warn" and self._version is not None
        entropy = None if seed is None else str(seed.entropy)
        return Writing(
            identity(name, self._version, frozen, seed),
            code,
            "ignore" if warned else self._on_change,
            self._pickle,
            self._notes,
            about(frozen, code.packages, {"seed": entropy}),
            Commit(func),
        )


def sweep(func: Callable[..., Any], grid: Any, /, **frozen: Any) -> Table:
    """Call `func` with the parameters of each point of `grid`, in parallel; return a table.

    Options (a store, repeats, seeds, workers, ...) are :class:`Sweep`'s.

    Parameters
    ----------
    func : callable
        Gets a point's parameters as keywords; returns a number, a dict of numbers, or anything.
    grid : Points or iterable of dict
        :func:`grid`, :func:`sample`, a list of dicts, scikit-learn's ``ParameterGrid``, ...
    **frozen
        Keywords that are the same for all points.

    Returns
    -------
    Table
        A row for each point; one that failed is a row too.

    Raises
    ------
    TypeError
        If `func` cannot be called with the parameters of the first point, or a point is no dict.

    Examples
    --------
    >>> import parallelkit as pk
    >>> table = pk.sweep(lambda a, b: {"sum": a + b}, pk.grid(a=[1, 2], b=[10, 20]))
    >>> table.best("sum")["a"], [row["sum"] for row in table]
    (2, [11, 21, 12, 22])
    """
    return Sweep().run(func, grid, **frozen)


OWN = tuple(inspect.signature(Sweep).parameters)[:-1]  # options of a sweep, beside a pool's


def _rows(going: Going) -> Generator[Any, None, None]:
    """Rows of a sweep; first a None, when it can be closed."""
    try:
        yield None
        for record in going:
            yield going.row(record)
    finally:
        going.close()


def _different(row: Mapping[str, Any], frozen: Mapping[str, Any]) -> str | None:
    """What is not as it was when a row was computed."""
    if not isinstance(row, Row):
        return None
    record, told = row.record, []
    if record.runs > 1:
        told.append(f"the row is a mean of {record.runs} runs: the first repeat is run")
    if record.frozen is not None:
        changed = other_values(record.frozen, frozen)
        if changed:
            told.append(
                "the row was computed with other values of the frozen keywords: "
                f"{', '.join(changed)} changed"
            )
    return "; ".join(told) or None


def _again(func: Callable[..., Any], frozen: Mapping[str, Any]) -> str:
    """How a point is run again by hand."""
    name = getattr(func, "__name__", "func")
    given = "".join(f", {keyword}={keyword}" for keyword in frozen)
    return (
        "To run this point again here, with its seed and under a debugger: "
        f"sweep.rerun({name}, row{given}), where row is one of table.failed"
    )


def _texts(notes: Mapping[Any, Any]) -> dict[str, str]:
    for name, text in notes.items():
        if not (isinstance(name, str) and isinstance(text, str)):
            raise TypeError(f"notes must be texts by name, not {name!r}: {text!r}")
    return dict(notes)


def _checked_part(part: Any) -> tuple[int, int]:
    try:
        number, count = (one.__index__() for one in part)
    except (TypeError, ValueError, AttributeError):
        raise TypeError(f"part must be two whole numbers, (i, n), not {part!r}") from None
    if not 0 <= number < count:
        raise ValueError(f"part must be (i, n) with i from 0 to n - 1, not {part!r}")
    return number, count
