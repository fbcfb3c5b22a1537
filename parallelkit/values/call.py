"""A call as a value: what is to be run on what; and keywords of it that are taken for options."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar

from ..errors import outside
from ..place.records import Frozen
from ..place.sigint import pass_on

__all__ = [
    "Call",
    "Delayed",
    "apply_call",
    "apply_parts",
    "apply_row",
    "around",
    "delayed",
    "refuse_options",
    "unpacks",
]

P = ParamSpec("P")
R = TypeVar("R")
_MISTAKEN = frozenset(("workers", "progress", "timeout", "store"))
_warned: set[tuple[str | None, str, str]] = set()  # functions with **kwargs, and a keyword


class Call:
    """A function, its varying inputs and its frozen keywords.

    Attributes
    ----------
    func : callable
        Called with one element of each input.
    iterables : tuple of iterable
    frozen : Mapping
        Keywords that are the same for all items.
    """

    __slots__ = ("frozen", "func", "iterables")

    def __init__(
        self,
        func: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        frozen: Mapping[str, Any],
    ) -> None:
        if not callable(func):
            raise TypeError(f"the function must be callable, not {func!r}")
        if not iterables:
            raise TypeError("no input to map over: give at least one iterable")
        self.func = func
        self.iterables = iterables
        self.frozen = frozen

    @property
    def inner(self) -> Callable[..., Any] | None:
        """The user's function; None where each item brings its own."""
        if self.func is apply_call or self.func is apply_parts:
            return None
        if isinstance(self.func, functools.partial) and self.func.func is apply_row:
            return self.func.args[0]  # type: ignore[no-any-return]
        return self.func

    def arguments(self, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Positional arguments and keywords that the user's function gets for an item."""
        if self.func is apply_call and isinstance(args[0], Delayed):
            return args[0].args, args[0].kwargs
        if self.func is apply_parts:
            return args[1], args[2]
        if isinstance(self.func, functools.partial) and self.func.func is apply_row:
            if isinstance(args[0], Mapping):
                return (), {**args[0], **self.frozen}
            return _elements(args[0]), self.frozen
        return args, self.frozen


def _elements(row: Any) -> tuple[Any, ...]:
    try:
        return tuple(row)
    except TypeError:  # which is then what its item raised, too
        return (row,)


def apply_row(func: Callable[..., Any], row: Any, /, **frozen: Any) -> Any:
    """Call with the elements of a row, or with its items as keywords, for ``starmap``."""
    if isinstance(row, Mapping):
        return func(**row, **frozen)
    return func(*row, **frozen)


def apply_call(call: Callable[[], Any], /) -> Any:
    """Run what ``delayed`` froze, for ``run``."""
    if not callable(call):
        raise TypeError(f"run takes calls made by delayed(func)(...), not {call!r}")
    return call()


def apply_parts(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    within: Callable[..., Any] | None = None,
    /,
) -> Any:
    """Make a call that came in parts, for ``submit``: they are quicker to send than one object.

    `within` makes it in the context of who has submitted it.
    """
    return func(*args, **kwargs) if within is None else within(func, args, kwargs)


def unpacks(func: Callable[..., Any]) -> bool:
    """Whether `func` is one of these, which call the user's function for the pool."""
    if func is apply_call or func is apply_parts:
        return True
    return isinstance(func, functools.partial) and func.func is apply_row


def around(
    func: Callable[..., Any], wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Callable[..., Any]:
    """Return `func` with the user's function, which it may unpack rows for, wrapped."""
    if func is apply_call:
        return lambda call: (
            wrap(call.func)(*call.args, **call.kwargs)
            if isinstance(call, Delayed)
            else apply_call(wrap(call) if callable(call) else call)
        )
    if func is apply_parts:
        return lambda func, *parts: apply_parts(wrap(func), *parts)
    if isinstance(func, functools.partial) and func.func is apply_row:
        return functools.partial(apply_row, wrap(func.args[0]))
    return wrap(func)


class Delayed(Frozen, Generic[R]):
    """A call that waits to be run; made by :func:`delayed`."""

    __slots__ = ("args", "func", "kwargs")
    __match_args__ = ("func", "args", "kwargs")

    func: Callable[..., R]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __init__(
        self, func: Callable[..., R], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        object.__setattr__(self, "func", func)
        object.__setattr__(self, "args", args)
        object.__setattr__(self, "kwargs", kwargs)

    def __call__(self) -> R:
        """Make the call."""
        return self.func(*self.args, **self.kwargs)


def delayed(func: Callable[P, R]) -> Callable[P, Delayed[R]]:
    """Freeze a call, for :func:`run`.

    Parameters
    ----------
    func : callable

    Returns
    -------
    callable
        ``delayed(func)(*args, **kwargs)`` is the call ``func(*args, **kwargs)``, not made yet.

    Raises
    ------
    TypeError
        If `func` is not callable.

    Examples
    --------
    >>> import parallelkit as pk
    >>> pk.run(pk.delayed(pow)(2, n) for n in range(4))
    [1, 2, 4, 8]
    """
    if not callable(func):
        raise TypeError(f"delayed needs something callable, not {func!r}")

    def freeze(*args: P.args, **kwargs: P.kwargs) -> Delayed[R]:
        return Delayed(func, args, kwargs)

    return freeze


def refuse_options(keywords: Iterable[str], func: Callable[..., Any]) -> None:
    """Refuse keywords that are options, where the function does not take them."""
    for name in _MISTAKEN.intersection(keywords):
        _check(name, func)


def _check(name: str, func: Callable[..., Any]) -> None:
    import inspect

    try:
        # What is called itself: a decorator may take an option that it keeps from its function.
        parameters = inspect.signature(func, follow_wrapped=False).parameters
        known = {*parameters, *inspect.signature(func).parameters}
    except Exception as error:  # noqa: BLE001 - some built-in functions do not tell, and some objects
        pass_on(error)
        return
    if name in known:
        return
    where = "a sweep: pk.Sweep(store=...)" if name == "store" else f"the pool: pk.Pool({name}=...)"
    told = f"keywords of a call belong to its function; options live on {where}"
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise TypeError(f"the function {func!r} takes no {name}=: {told}")
    place = getattr(func, "__module__", None), getattr(func, "__qualname__", repr(func)), name
    if place not in _warned:
        _warned.add(place)
        told = f"{told}. Where the function is meant, functools.partial(func, {name}=...) says so"
        warnings.warn(f"{name}= goes to the function {func!r}: {told}", stacklevel=outside())
