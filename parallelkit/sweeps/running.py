"""One sweep on its way: points through the engine, what comes of them into a store or memory.

::

    points ─► feed: keys, seeds, what is stored already ─► engine ─► settle ─┬─► Store
                                                                             └─► memory
"""

from __future__ import annotations

import difflib
import inspect
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from typing import Any

from ..backends import TABLE
from ..engine import run as engine
from ..engine.plan import plan
from ..engine.progress import Bar
from ..options import Options
from ..place.nesting import nesting
from ..values.call import Call
from ..values.outcome import Failure
from ..values.seeds import Seed, takes_rng
from ..values.source import Source
from .canonical import canonical
from .grid import Point
from .identity import key_of, seed_of
from .point import Item, Measured, Problem, Ran, described
from .records import Record
from .store import Store
from .stored import Chosen
from .values import NotPlain

__all__ = ["Run", "check_call"]


class _Sent:
    """A point that was handed to the engine."""

    __slots__ = ("item", "key", "position", "repeat", "text")

    def __init__(self, item: Item, position: int, repeat: int, text: str, key: bytes) -> None:
        self.item, self.position, self.repeat = item, position, repeat
        self.text, self.key = text, key


class Run:
    """One sweep on its way: what was sent, what is done, and how many went well."""

    def __init__(
        self,
        store: Store | None,
        seed: Seed | None,
        seeded: bool,
        on_error: str,
        repeats: int,
        frozen: Any,
    ) -> None:
        self._store, self._seed = store, seed
        self._seeded = seeded  # by its own word, not by the item in which it runs
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
        self.part: tuple[int, int] | None = None  # of the points, by their number
        self._numbered = 0
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
                together = options.chunksize != 1
                call = Call(
                    Measured(func, passing, alone, together), (chain([first], feed),), frozen
                )
                parts = engine.stream(call, options, _nobody, ordered=False, whole=True)
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
                item = Item(point, seed)
                self._sent[index] = _Sent(item, position, repeat, text or "", key)
                index += 1
                yield item

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
        return False

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
            except NotPlain as error:
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
    return options, TABLE[backend].alone


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
