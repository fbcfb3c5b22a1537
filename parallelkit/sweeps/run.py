"""Sweeps: points through the engine, what comes of them into a store or memory.

::

    points ─► feed: keys, seeds, what is stored already ─► engine ─► settle ─┬─► Store ─┐
                                                                             └─► memory ┴─► Table
"""

from __future__ import annotations

import difflib
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from typing import Any

from .. import engine
from ..call import Call
from ..chunking import Source
from ..collect.progress import Bar, bar
from ..levels import nesting
from ..options import Options, Resolver
from ..outcome import Failure
from ..plan import plan
from ..seeds import Seed, root, takes_rng
from . import values
from .grid import Point, as_points
from .identity import function_name, identity, key_of, seed_of
from .point import Item, Measured, Problem, Ran, described
from .records import Kept, Record
from .store import Chosen, Store, Stored
from .table import Table

__all__ = ["Sweep", "sweep"]

log = logging.getLogger("parallelkit")
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
        Of your function: another one does not go on with the old results.
    name : str, optional
        By which the store knows the function; by default its module and name.
    pickle : bool
        Store results that are no numbers, texts, lists, dicts or arrays as pickles. Who opens
        such a store must ask for it, as loading runs code of who made it.
    notes : Mapping, optional
        Texts by name to be kept in the store, beside the results.
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
        on_error: str = "record",
        retry_failed: bool = False,
        shuffle: bool = False,
        version: Any = None,
        name: str | None = None,
        pickle: bool = False,
        notes: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        if isinstance(repeats, bool) or not hasattr(repeats, "__index__"):
            raise TypeError(f"repeats must be a whole number, not {repeats!r}")
        if repeats.__index__() < 1:
            raise ValueError(f"repeats must be at least 1, not {repeats!r}")
        if on_error not in ("record", "raise"):
            raise ValueError(f"on_error of a sweep must be 'record' or 'raise', not {on_error!r}")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a text, not {name!r}")
        self._store = None if store is None else os.fspath(store)
        if self._store is not None and (not self._store or self._store == ":memory:"):
            raise ValueError("store must name a file; leave it out to keep the results in memory")
        self._repeats = repeats.__index__()
        self._on_error = on_error
        self._retry_failed = retry_failed
        self._shuffle = shuffle
        self._version, self._name, self._pickle = version, name, pickle
        self._notes = dict(notes or {})
        if seed is not None:
            options["seed"] = seed
        self._resolve = Resolver(options)

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
            Keywords that are the same for all points. They are sent once, whatever their size.

        Returns
        -------
        Table
            Of all points of the grid that are finished, in the order of the grid. After Ctrl-C its
            ``interrupted`` is true: the points that were running are not in it.

        Raises
        ------
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
        if not callable(func):
            raise TypeError(f"the function must be callable, not {func!r}")
        points = as_points(grid)
        first = next(iter(points), None)
        if first is not None:
            _check_call(func, first, frozen)
        options = self._resolve()
        seed = None if options.seed is None else root(options.seed)
        name = self._name or function_name(func)
        with ExitStack() as stack:
            store = None
            if self._store is not None:
                who = identity(name, self._version, frozen, seed)
                store = Store(self._store, who, self._pickle, self._notes)
                stack.callback(store.close)
            run = _Run(store, seed, self._on_error, self._repeats, frozen.keys())
            if store is not None:
                again = self._retry_failed or self._on_error == "raise"
                run.done = store.finished(failed_too=not again)
            total = len(points) * self._repeats if options.progress is not False else None
            run.bar = bar(options.progress, total)
            stack.callback(run.bar.close)
            numbered = points.numbered(SHUFFLE if self._shuffle else None)
            run.go(func, numbered, frozen, options, stack)
        if run.interrupted:
            log.warning(
                "sweep interrupted: the table has the %d points that are finished", run.finished
            )
        if store is None:
            return Table(Kept(name, run.kept), run.interrupted)
        return Table(Stored(store.path, run.chosen, self._pickle), run.interrupted)


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

    Examples
    --------
    >>> import parallelkit as pk
    >>> table = pk.sweep(lambda a, b: {"sum": a + b}, pk.grid(a=[1, 2], b=[10, 20]))
    >>> table.best("sum")["a"], [row["sum"] for row in table]
    (2, [11, 21, 12, 22])
    """
    return Sweep().run(func, grid, **frozen)


class _Sent:
    """A point that was handed to the engine."""

    __slots__ = ("item", "key", "position", "repeat", "text")

    def __init__(self, item: Item, position: int, repeat: int, text: str, key: bytes) -> None:
        self.item, self.position, self.repeat = item, position, repeat
        self.text, self.key = text, key


class _Run:
    """One sweep on its way: what was sent, what is done, and how many went well."""

    def __init__(
        self, store: Store | None, seed: Seed | None, on_error: str, repeats: int, frozen: Any
    ) -> None:
        self._store, self._seed = store, seed
        self._raising = on_error == "raise"
        self._repeats, self._frozen = repeats, frozen
        self._sent: dict[int, _Sent] = {}
        self._ended = False
        self._seen: set[bytes] = set()
        self.done: set[bytes] = set()  # stored by an earlier run, and not seen yet in this one
        self.chosen = Chosen()
        self.kept: list[Record] = []
        self.bar: Bar
        self.interrupted = False
        self._ok = self._failed = self._skipped = self._told = 0

    @property
    def finished(self) -> int:
        """How many points are."""
        return self._ok + self._failed + self._skipped

    def go(
        self,
        func: Callable[..., Any],
        numbered: Iterator[tuple[int, Point]],
        frozen: Mapping[str, Any],
        options: Options,
        stack: ExitStack,
    ) -> None:
        """Run all points; what is wrong with the first one is raised before anything starts."""
        feed = self._feed(numbered)
        stack.callback(self._end)
        try:
            first = next(feed, None)
            if first is not None:
                names = frozenset((*first.params, *frozen))
                options, alone = _for_engine(options, takes_rng(func, 0, names))
                passing = (Exception,) if self._raising else options.retry_on
                call = Call(Measured(func, passing, alone), (chain([first], feed),), frozen)
                parts = engine.stream(call, options, _nobody, ordered=False, parts=True)
                stack.callback(parts.close)
                for part in parts:
                    for offset, value in enumerate(part.values):
                        self._settle(self._sent.pop(part.start + offset), value, part.attempts)
                    self._show()
            self._show()
        except KeyboardInterrupt:
            self.interrupted = True

    def _end(self) -> None:
        self._ended = True

    def _feed(self, numbered: Iterator[tuple[int, Point]]) -> Iterator[Item]:
        """Points that are to be run. Later ones are drawn in a thread of the engine."""
        index = 0
        for position, point in numbered:
            both = point.keys() & self._frozen
            if both:
                raise TypeError(f"{min(both)!r} is a parameter of the grid, and frozen too")
            text = self._canonical(point)
            for repeat in range(self._repeats):
                if self._ended:
                    return
                key = b"" if text is None else key_of(text, repeat)
                if key and not self._is_new(key, position):
                    continue
                seed = None if self._seed is None else seed_of(self._seed, key)
                item = Item(point, seed)
                self._sent[index] = _Sent(item, position, repeat, text or "", key)
                index += 1
                yield item

    def _is_new(self, key: bytes, position: int) -> bool:
        """Whether a point is to be run: it has not come before, and is not stored."""
        if key in self._seen:
            return False
        self._seen.add(key)
        if self._store is not None:
            self.chosen.add(key, position)
        if key not in self.done:
            return True
        self.done.discard(key)
        self._skipped += 1
        return False

    def _canonical(self, point: Point) -> str | None:
        try:
            return values.canonical(point)
        except values.NotPlain:
            if self._store is None and self._seed is None:
                return None
        for name, value in point.items():
            try:
                values.canonical(value)
            except values.NotPlain as error:
                raise TypeError(
                    f"parameter {name!r} of a sweep with a store or a seed: {error}"
                ) from None
        raise AssertionError

    def _settle(self, sent: _Sent, outcome: Ran | Failure, attempts: int) -> None:
        """Keep what came of a point."""
        if isinstance(outcome, Failure):
            if self._raising:
                raise outcome.exception
            attempts = outcome.attempts
            problem = described(outcome.exception, outcome.traceback)
            outcome = Ran(None, problem, None, None, None)
        encoded = None
        if self._store is not None and outcome.problem is None:
            try:
                encoded = self._store.encode(outcome.value)
            except values.NotPlain as error:
                told = TypeError(
                    f"the result of the point ({sent.item!r}) cannot be stored: {error}. Return "
                    "these, or allow pickles: Sweep(store=..., pickle=True)"
                )
                if self._raising or not self._ok:  # it will be the same with all of them
                    raise told from None
                outcome = outcome._replace(problem=Problem("TypeError", str(told), f"{told}\n"))
        record = _record(sent, outcome, attempts)
        if record.status == "ok":
            self._ok += 1
        else:
            self._failed += 1
        if self._store is None:
            self.kept.append(record)
        else:
            self._store.put(sent.key, sent.text, record, encoded)

    def _show(self) -> None:
        if hasattr(self.bar, "set_postfix_str"):
            told = f"ok={self._ok}, failed={self._failed}"
            if self._store is not None:
                told += f", stored={self._skipped}"
            self.bar.set_postfix_str(told, refresh=False)
        self.bar.update(self.finished - self._told)
        self._told = self.finished


def _record(sent: _Sent, ran: Ran, attempts: int) -> Record:
    head = (sent.position, sent.repeat, sent.item.params, sent.item.seed)
    tail = (ran.seconds, ran.started, ran.worker, attempts)
    if ran.problem is None:
        return Record(*head, "ok", ran.value, None, None, *tail)
    kind, message, traceback = ran.problem
    return Record(*head, "failed", None, f"{kind}: {message}", traceback, *tail)


def _for_engine(options: Options, takes_rng: bool) -> tuple[Options, bool]:
    """Options of the call, and whether its items run one at a time in their process.

    The engine does not seed the points, as it would by their place; but its rule where a call
    with a seed may run holds for them too.
    """
    backend = plan(options, nesting(), takes_rng).backend
    seeded, chunksize = options.seed is not None, options.chunksize or 1
    options = replace(options, seed=None, on_error="return", progress=False, chunksize=chunksize)
    if seeded and backend == "serial":
        options = replace(options, backend="serial", timeout=None)
    return options, backend != "thread"


def _nobody(source: Source) -> None:
    """Watch a call for a pool that is terminated: a sweep has none."""


def _check_call(func: Callable[..., Any], point: Point, frozen: Mapping[str, Any]) -> None:
    """Refuse, before anything runs, parameters that the function does not have."""
    both = sorted(point.keys() & frozen.keys())
    if both:
        raise TypeError(f"{both[0]!r} is a parameter of the grid, and frozen too")
    try:
        signature = inspect.signature(func)
    except (TypeError, ValueError):  # some built-in functions do not tell
        return
    names = {**point, **frozen}
    try:
        bound = signature.bind_partial(**names)
    except TypeError as error:
        unknown = [name for name in names if name not in signature.parameters]
        near = difflib.get_close_matches(unknown[0], signature.parameters, 1) if unknown else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise TypeError(
            f"the function {getattr(func, '__name__', func)}{signature} cannot take the first "
            f"point: {error}{hint}"
        ) from None
    for name, parameter in signature.parameters.items():
        needed = parameter.default is parameter.empty and name not in bound.arguments
        if (
            needed
            and name != "rng"
            and parameter.kind
            not in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            )
        ):
            raise TypeError(
                f"the function {getattr(func, '__name__', func)}{signature} also needs {name!r}: "
                "make it a parameter of the grid, or give it by keyword"
            )
