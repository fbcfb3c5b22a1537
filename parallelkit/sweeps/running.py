"""One sweep on its way: points through the engine, what comes of them into a store or memory.

::

    points ─► feed: keys, seeds, what is stored already ─► engine ─► settle ─┬─► Store
                                                                             └─► memory

It is long because a run is one state: whatever a point may come to changes the same counts.
"""

from __future__ import annotations

import difflib
import inspect
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from typing import Any

from ..backends import TABLE
from ..engine import run as engine
from ..engine.ordering import Part
from ..engine.plan import plan
from ..engine.progress import Bar
from ..options import NAMES, Options
from ..place.nesting import nesting
from ..transport.shared import shared_empty
from ..values.call import Call
from ..values.outcome import Failure
from ..values.seeds import Seed, takes_rng
from ..values.source import Source
from ..worker import output
from .best import Best
from .canonical import canonical
from .grid import Point
from .identity import key_of, seed_of
from .judge import Ended, Judge
from .point import Item, Measured, Problem, Ran, described
from .pruning import History, Pruner
from .records import Record
from .report import PLACES, Asking
from .store import Store
from .stored import Chosen
from .values import Encoded, NotPlain

__all__ = ["Run", "begin", "check_call"]

_OF_SWEEPS = ("store", "repeats", "pruner", "on_change", "version", "notes", "part")


class _Sent:
    """A point that was handed to the engine."""

    __slots__ = ("item", "key", "position", "repeat", "run", "text")

    def __init__(self, item: Item, position: int, repeat: int, text: str, key: bytes) -> None:
        self.item, self.position, self.repeat = item, position, repeat
        self.text, self.key = text, key
        self.run = 0  # which attempt at it was heard of last


class Run:
    """One sweep on its way: what was sent, what is done, and how many went well.

    Parameters
    ----------
    store : Store, optional
        Without it records are kept in `kept`.
    seed : Seed, optional
    seeded : bool
        Whether the sweep was given a seed, beside what it inherits.
    on_error : {"record", "raise"}
    repeats : int
    frozen : iterable of str
        Names of the frozen keywords.
    pruner : callable, optional
    again : str
        How a point is run again by hand; goes with each failure.
    digests : Mapping
        Of the frozen keywords, as far as they are known; go with each record.
    """

    def __init__(
        self,
        store: Store | None,
        seed: Seed | None,
        seeded: bool,
        on_error: str,
        repeats: int,
        frozen: Any,
        pruner: Pruner | None,
        again: str,
        digests: Mapping[str, str | None],
    ) -> None:
        self._store, self._seed = store, seed
        self._seeded = seeded  # by its own word, not by the item in which it runs
        self._raising = on_error == "raise"
        self._repeats, self._frozen = repeats, frozen
        self._history = None if pruner is None else History(pruner)
        self._asking: Asking | None = None
        self._again, self._digests = again, digests
        self._sent: dict[int, _Sent] = {}
        self._curves: Ended | None = None  # where points run where they cannot ask
        self._ended = False
        self._seen: set[bytes] = set()
        self._stored: deque[tuple[bytes, int]] = deque()  # seen in the store, and to be told of
        self._error: Exception | None = None  # of the pruner
        self._reports = 0
        self._first: str | None = None  # what the first point that failed has raised
        self.part: tuple[int, int] | None = None  # of the points, by their number
        self._numbered = 0
        self.in_threads = False  # where nothing that runs can be stopped
        self.done: set[bytes] = set()  # stored by an earlier run, and not seen yet in this one
        self.chosen = Chosen()
        self.kept: list[Record] = []
        self.bar: Bar
        self.best: Best | None = None
        # Reads records that were stored before, where `records` is to give them as well.
        self.read: Callable[[Chosen], Iterable[Record]] | None = None
        self._ok = self._failed = self._pruned = self._skipped = self._told = 0

    @property
    def finished(self) -> int:
        """How many points are."""
        return self._ok + self._failed + self._pruned + self._skipped

    def useless(self) -> str | None:
        """What somebody who waited for the table is to know at once."""
        if self._failed and self._failed == self.finished:
            count = "the only point" if self._failed == 1 else f"all {self._failed} points"
            return f"{count} failed, the first with {self._first}; see table.failed"
        if self._history is not None and self._ok and not self._reports:
            return "the pruner was never asked: no point has called pk.report(value, step)"
        return None

    def records(
        self,
        func: Callable[..., Any],
        numbered: Iterator[tuple[int, Point]],
        frozen: Mapping[str, Any],
        options: Options,
        stack: ExitStack,
    ) -> Iterator[Record]:
        """Run all points; give what comes of them, as it comes.

        Work starts here, and what is wrong with the first point is raised before. What ends with
        the sweep is left to the `stack`.
        """
        feed = self._feed(numbered)
        stack.callback(self._end)
        first = next(feed, None)
        if first is None:
            return self._settled(())
        names = frozenset((*first.params, *frozen))
        options, backend = _for_engine(options, takes_rng(func, 0, names))
        kind = TABLE[backend]
        self.in_threads = kind.shares_memory and not kind.inline
        far = kind.elsewhere and not kind.shares_memory
        if far and self._history is not None:
            self._curves = Ended(self._history.pruner)
            for curve in self._history.curves():
                self._curves.add(curve)
        if (self._history is not None and not far) or self.in_threads:
            self._asking = self._listen(backend, stack)
        passing = (Exception,) if self._raising else options.retry_on
        measured = Measured(func, passing, kind.alone, options.chunksize != 1, self._asking)
        call = Call(measured, (chain([self._judged(first)], feed),), frozen)
        parts = engine.stream(call, options, _nobody, ordered=False, whole=True)
        stack.callback(parts.close)
        return self._settled(parts)

    def _settled(self, parts: Iterable[Part]) -> Iterator[Record]:
        """What comes of points, as it arrives."""
        for part in parts:
            for offset, value in enumerate(part.values):
                index = part.start + offset
                yield self._settle(index, self._sent.pop(index), value, part.attempts)
            yield from self._from_store()
            self._show()
        yield from self._from_store()
        self._show()

    # --- reports of points that run ---------------------------------------------------------------

    def _listen(self, backend: str, stack: ExitStack) -> Asking:
        """Hear what points report, wherever they run."""
        number = int.from_bytes(os.urandom(8), "little")
        output.listen(number, self._heard)
        stack.callback(output.stop_listening, number)
        given_up = None
        if backend not in ("serial", "thread"):
            given_up = shared_empty(PLACES, "uint64")
        return Asking(number, given_up, os.getpid() if backend == "thread" else 0)

    def _heard(self, index: int, run: int, step: float, value: float) -> bool:
        """Take in a step of a point; tell whether it is given up, here and where it runs."""
        sent = self._sent.get(index)
        if sent is None or self._history is None:
            return False  # it has ended meanwhile
        if sent.run != run:  # it is tried once more
            sent.run = run
            self._history.drop(index)
        gives_up = self._error is not None
        if not gives_up:
            try:
                gives_up = self._history.gives_up(index, sent.item.params, sent.repeat, step, value)
            except Exception as error:  # noqa: BLE001 - a user's pruner; raised where points settle
                self._error, gives_up = error, True
        if gives_up and self._asking is not None and self._asking.given_up is not None:
            self._asking.given_up[index % PLACES] = run
        return gives_up

    def remember(self, records: Iterable[Record]) -> None:
        """Let the pruner know what points have reported in an earlier run."""
        if self._history is not None:
            for record in records:
                if record.curve:
                    self._history.set((record.position, record.repeat), record.curve)

    # --- points in --------------------------------------------------------------------------------

    def _end(self) -> None:
        self._ended = True

    def _feed(self, numbered: Iterator[tuple[int, Point]]) -> Iterator[Item]:
        """Points that are to be run. Later ones are drawn in a thread of the engine."""
        index = 0
        for position, point in numbered:
            _check_frozen(point, self._frozen)
            text = self._canonical(point)
            for repeat in range(self._repeats):
                if self._ended:
                    return
                key = b"" if text is None else key_of(text, repeat)
                if key in self._seen:
                    continue
                if key:
                    self._seen.add(key)
                if not self._is_mine():
                    continue
                if key and not self._is_new(key, position):
                    continue
                # A stream from outside must not fail where no seed was asked for: it is by place.
                place = key or key_of(f"place {position}", repeat)
                seed = None if self._seed is None else seed_of(self._seed, place)
                item = Item(point, seed, index)
                self._sent[index] = _Sent(item, position, repeat, text or "", key)
                index += 1
                yield self._judged(item)

    def _judged(self, item: Item) -> Item:
        """The point with its judge, where it cannot ask."""
        if self._curves is None:
            return item
        repeat = self._sent[item.place].repeat
        return item._replace(judge=Judge(self._curves, item.params, repeat))

    def _is_mine(self) -> bool:
        """Whether the next point that has not come before belongs to this part of the sweep.

        Of each `n` points in a row every part gets one, and not always the same: values of the
        grid that come again and again, one of them slow, are spread over all parts.
        """
        number = self._numbered
        self._numbered += 1
        if self.part is None:
            return True
        mine, count = self.part
        row, place = divmod(number, count)
        return (place + zlib.crc32(b"%d" % row)) % count == mine

    def _is_new(self, key: bytes, position: int) -> bool:
        """Whether a point is to be run: it is not stored."""
        if self._store is not None:
            self.chosen.add(key, position)
        if key not in self.done:
            return True
        self.done.discard(key)
        self._skipped += 1
        if self.read is not None:
            self._stored.append((key, position))
        return False

    def _from_store(self) -> Iterator[Record]:
        """Records of points that were stored before, as far as they have been met."""
        if self.read is None or not self._stored:
            return
        chosen = Chosen()
        while self._stored:
            chosen.add(*self._stored.popleft())
        for record in self.read(chosen):
            self._note(record)
            yield record

    # --- results out ------------------------------------------------------------------------------

    def _canonical(self, point: Point) -> str | None:
        try:
            return canonical(point)
        except NotPlain:
            if self._store is None and not self._seeded:
                return None
        for name, value in point.items():
            try:
                canonical(value)
            except NotPlain as error:
                raise TypeError(
                    f"parameter {name!r} of a sweep with a store or a seed: {error}"
                ) from None
        raise AssertionError

    def _settle(self, index: int, sent: _Sent, outcome: Ran | Failure, attempts: int) -> Record:
        """Keep what came of a point."""
        if self._error is not None:
            raise self._error
        if isinstance(outcome, Ran) and outcome.broken is not None:
            raise outcome.broken
        if isinstance(outcome, Failure):
            if self._raising:
                raise outcome.exception
            attempts = outcome.attempts
            problem = described(outcome.exception, outcome.traceback)
            curve = [] if self._history is None else self._history.curve(index)
            outcome = Ran(None, problem, None, None, None, curve, False)
        if self._curves is not None:
            self._curves.add(outcome.curve)
        elif self._history is not None:
            self._history.set(index, outcome.curve)
        self._reports += len(outcome.curve)
        encoded, outcome = self._encoded(sent, outcome)
        record = _record(sent, outcome, attempts, self._again)._replace(frozen=self._digests)
        if record.status == "ok":
            self._ok += 1
        elif record.status == "pruned":
            self._pruned += 1
        else:
            self._failed += 1
            self._first = self._first or record.error
        if self._store is None:
            self.kept.append(record)
        else:
            self._store.put(sent.key, sent.text, record, encoded)
        self._note(record)
        return record

    def _encoded(self, sent: _Sent, outcome: Ran) -> tuple[Encoded | None, Ran]:
        """A result as the store has it; or what came of the point, if it cannot be stored."""
        if self._store is None or outcome.problem is not None:
            return None, outcome
        try:
            return self._store.encode(outcome.value), outcome
        except NotPlain as error:
            told = TypeError(
                f"the result of the point ({sent.item!r}) cannot be stored: {error}. Return "
                "these, or allow pickles: Sweep(store=..., pickle=True)"
            )
            if self._raising or not self._ok:  # it will be the same with all of them
                raise told from None
            problem = Problem("TypeError", str(told), f"{told}\n")
            return None, outcome._replace(problem=problem)

    def _note(self, record: Record) -> None:
        if self.best is not None:
            self.best.note(record)

    def _show(self) -> None:
        if hasattr(self.bar, "set_postfix_str"):
            told = f"ok={self._ok}, failed={self._failed}"
            if self._history is not None:
                told += f", pruned={self._pruned}"
            if self._store is not None:
                told += f", stored={self._skipped}"
            if self.best is not None:
                told = f"{self.best}, {told}"
            self.bar.set_postfix_str(told, refresh=False)
        self.bar.update(self.finished - self._told)
        self._told = self.finished


def _record(sent: _Sent, ran: Ran, attempts: int, again: str) -> Record:
    head = (sent.position, sent.repeat, sent.item.params, sent.item.seed)
    tail = (ran.seconds, ran.started, ran.worker, attempts)
    if ran.problem is None:
        status = "pruned" if ran.pruned else "ok"
        return Record(*head, status, ran.value, None, None, *tail, ran.curve)
    kind, message, traceback = ran.problem
    traceback = f"{traceback.rstrip()}\n{again}\n"
    return Record(*head, "failed", None, f"{kind}: {message}", traceback, *tail, ran.curve)


def _for_engine(options: Options, takes_rng: bool) -> tuple[Options, str]:
    """Options of the call, and the backend on which it will run.

    The engine does not seed the points, as it would by their place; but its rule where a call
    with a seed may run holds for them too.
    """
    backend = plan(options, nesting(), takes_rng).backend
    seeded, chunksize = options.seed is not None, options.chunksize or 1
    options = options.but(seed=None, on_error="return", progress=False, chunksize=chunksize)
    if seeded and backend == "serial":
        options = options.but(backend="serial", timeout=None)
    return options, backend


def begin(
    func: Callable[..., Any], point: Point, frozen: Mapping[str, Any], options: Options
) -> None:
    """Prepare for a sweep's workers before its store is open, and has a thread.

    So they may begin with what this process has imported, which takes a fork.
    """
    rng = takes_rng(func, 0, frozenset((*point, *frozen)))
    engine.begin(_for_engine(options, rng)[0], func, rng)


def _nobody(source: Source) -> None:
    """Watch a call for a pool that is terminated: a sweep has none."""


def _check_frozen(point: Point, frozen: Iterable[str]) -> None:
    both = sorted(point.keys() & frozen)
    if both:
        raise TypeError(f"{both[0]!r} is a parameter of the grid, and frozen too")


def check_call(
    func: Callable[..., Any], point: Point, frozen: Mapping[str, Any], seeded: bool
) -> None:
    """Refuse, before anything runs, parameters that the function does not have."""
    _check_frozen(point, frozen)
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
        if unknown and unknown[0] in (*NAMES, *_OF_SWEEPS):
            hint = f"; options live on the sweep: pk.Sweep({unknown[0]}=...)"
        raise TypeError(
            f"the function {getattr(func, '__name__', func)}{signature} cannot take the first "
            f"point: {error}{hint}"
        ) from None
    for name, parameter in signature.parameters.items():
        needed = parameter.default is parameter.empty and name not in bound.arguments
        if (
            needed
            and not (name == "rng" and seeded)
            and parameter.kind
            not in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            )
        ):
            how = "make it a parameter of the grid, or give it by keyword"
            if name == "rng":
                how = "give a seed, Sweep(seed=1, ...), or --seed 1 on the command line"
            raise TypeError(
                f"the function {getattr(func, '__name__', func)}{signature} also needs {name!r}: "
                f"{how}"
            )
