"""Random streams: one for each item, the same whatever runs it.

A seed is a place in a tree: the entropy that the user gave, and the path from there. Item i of a
call with ``seed=s`` stands at ``(i,)``; calls made inside it, which have no seed of their own,
stand below it, so that a nest of calls is repeatable as a whole. numpy's `SeedSequence` turns a
place into a stream that is independent of all others:
https://numpy.org/doc/stable/reference/random/parallel.html

What an item draws from: an `rng` parameter, where its function has one that is not given; and
`random` and `numpy.random`. These two are one for all threads of a process. So they are set where
one item runs at a time, which is in worker processes and in place; `plan` sees to it that a call
with a seed, whose function has no `rng`, does not run on several threads.
"""

from __future__ import annotations

import itertools
import operator
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MethodType
from typing import TYPE_CHECKING, Any

from ..options import NumberedSeed, drawn_from
from ..place.attributes import attribute
from ..place.importing import whole
from ..place.records import NamedTuple
from ..place.sigint import pass_on
from .call import Call, around
from .caller import beside
from .remembered import Remembered

if TYPE_CHECKING:
    from numpy.random import SeedSequence

__all__ = [
    "Seed",
    "Seeded",
    "draws",
    "fresh",
    "kept",
    "needs",
    "needs_rng",
    "of_next_call",
    "root",
    "run",
    "takes_rng",
    "torch_here",
]

# Nested calls are numbered from here, so that they do not meet what an item spawns by itself; and
# so are further calls with one seed, so that they do not meet the items of the first.
_CALLS = 1 << 31


class Seed(NamedTuple):
    """A place in the tree of random streams: `entropy` of the root, and the path from there."""

    entropy: int | tuple[int, ...]
    path: tuple[int, ...] = ()

    def child(self, *path: int) -> Seed:
        """Return the place `path` below this one."""
        return Seed(self.entropy, (*self.path, *path))

    def sequence(self) -> SeedSequence:
        """Return numpy's form of it."""
        made: SeedSequence = whole("numpy.random").SeedSequence(self.entropy, spawn_key=self.path)
        return made


class _Here(NamedTuple):
    """The item that runs: its place, and numbers for the calls that it makes."""

    seed: Seed
    calls: Iterator[int]


_here: ContextVar[_Here | None] = ContextVar("parallelkit_seed", default=None)


def root(seed: Any) -> Seed:
    """Place of a call that was given `seed`: a whole number, a SeedSequence, or a generator.

    A generator of numpy is drawn from, so that each call gets streams of its own; of the others,
    further calls stand below the first.
    """
    if isinstance(seed, NumberedSeed):
        return root(seed.seed).child(_CALLS + seed.number)
    drawn = drawn_from(seed)
    if drawn is not None:
        return Seed(drawn)
    if hasattr(seed, "spawn_key"):
        entropy = seed.entropy
        try:
            entropy = operator.index(entropy)  # numpy's whole numbers too
        except TypeError:
            entropy = tuple(map(int, entropy))
        return Seed(entropy, tuple(seed.spawn_key))
    return Seed(int(seed))


def of_next_call() -> Seed | None:
    """Place of the next call that is made here without a seed; None outside of seeded items."""
    here = _here.get()
    return None if here is None else here.seed.child(next(here.calls))


def run(
    seed: Seed,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    alone: bool,
) -> Any:
    """Call `func` with the stream of `seed`.

    With `alone`, no other item runs in this process: `random`, `numpy.random` and torch are set.
    They stay as the item leaves them; see :func:`kept`.
    """
    token = _here.set(_Here(seed, itertools.count(_CALLS)))
    try:
        if alone:
            _set_global(seed)
        if takes_rng(func, len(args), frozenset(kwargs)):
            kwargs = {**kwargs, "rng": whole("numpy.random").default_rng(seed.sequence())}
        return beside(func)(*args, **kwargs)
    finally:
        _here.reset(token)


class Seeded:
    """A task's function with a stream for each item; called for one after another.

    Parameters
    ----------
    func : callable
        May be one of the library's own that unpack rows and delayed calls.
    frozen : Mapping
    seed : Seed
        Of the call.
    start : int
        Index of the first item that will come.
    alone : bool
        See :func:`run`.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        frozen: Mapping[str, Any],
        seed: Seed,
        start: int,
        alone: bool,
    ) -> None:
        self._func, self._frozen = func, frozen
        self._seed, self._alone = seed, alone
        self._indexes = itertools.count(start)

    def __call__(self, *args: Any) -> Any:
        """Run the next item."""
        seed = self._seed.child(next(self._indexes))

        def drawing(func: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args, **kwargs: run(seed, func, args, kwargs, alone=self._alone)

        return around(self._func, drawing)(*args, **self._frozen)


def takes_rng(func: Callable[..., Any], positional: int, names: frozenset[str]) -> bool:
    """Whether `func`, called with so many positional arguments and keywords, lacks an ``rng``."""
    if "rng" in names:
        return False
    if type(func) is MethodType:
        func, positional = func.__func__, positional + 1
    before = _before_rng.of(func)
    if before is None:
        before = _arguments_before_rng(func)
        _before_rng.keep(func, before)
    return positional <= before


_before_rng: Remembered[int | None] = Remembered(256, None)


def draws(call: Call) -> bool:
    """Whether all items of `call` get their streams as an argument ``rng``."""
    if call.inner is None:
        return False
    positional = len(call.iterables) if call.inner is call.func else 0
    return takes_rng(call.inner, positional, frozenset(call.frozen))


def needs(call: Call) -> bool:
    """Whether the items of `call` cannot be run without an ``rng`` that nobody gives them."""
    func = call.inner
    code = attribute(func, "__code__")
    if func is None or (code is not None and "rng" not in code.co_varnames):  # the quick way out
        return False
    if _here.get() is not None or not draws(call):
        return False
    return needs_rng(func)


def needs_rng(func: Callable[..., Any]) -> bool:
    """Whether a parameter ``rng`` of `func` has no default."""
    import inspect

    return inspect.signature(func).parameters["rng"].default is inspect.Parameter.empty


def fresh() -> int:
    """Entropy of the system, as a seed for one call."""
    return int.from_bytes(os.urandom(16), "little")


def _arguments_before_rng(func: Callable[..., Any]) -> int:
    """How many positional arguments `func` may get and still lack an ``rng``; -1 if it has none."""
    text = attribute(func, "__text_signature__")
    if isinstance(text, str) and "rng" not in text:  # of a builtin, which is long to be read
        return -1
    import inspect

    try:
        parameters = list(inspect.signature(func).parameters.values())
    except Exception as error:  # noqa: BLE001 - some built-in functions do not tell, and some objects
        pass_on(error)
        return -1
    for position, parameter in enumerate(parameters):
        if parameter.name == "rng":
            if parameter.kind is parameter.KEYWORD_ONLY:
                return sys.maxsize
            return position if parameter.kind is parameter.POSITIONAL_OR_KEYWORD else -1
    return -1


@contextmanager
def kept() -> Iterator[None]:
    """Leave `random`, `numpy.random` and torch as they were before."""
    import random  # nobody needs it without a seed

    before, numpy_random = random.getstate(), _numpy_random()
    torch = torch_here()
    before_torch = None if torch is None else torch.get_rng_state()
    before_numpy = None if numpy_random is None else numpy_random.get_state()
    try:
        yield
    finally:
        random.setstate(before)
        if numpy_random is not None:
            numpy_random.set_state(before_numpy)
        elif (numpy_random := _numpy_random()) is not None:
            numpy_random.seed()
        if torch is not None:
            torch.set_rng_state(before_torch)


def torch_here() -> Any:
    """Return torch where somebody has imported it, else None."""
    found = whole("torch") if "torch" in sys.modules else None
    return found if hasattr(found, "default_generator") else None


def _numpy_random() -> Any:
    """Return `numpy.random` where somebody has imported it; another thread may be about to."""
    return whole("numpy.random") if "numpy.random" in sys.modules else None


def _set_global(seed: Seed) -> None:
    import random

    words = seed.sequence().generate_state(8)
    random.seed(words[:4].tobytes())
    whole("numpy.random").seed(words[4:])
    torch = torch_here()
    if torch is not None:
        # Its `manual_seed` sees to devices as well, which takes a fifth of a millisecond.
        torch.default_generator.manual_seed(int(words[0]) << 32 | int(words[1]))
