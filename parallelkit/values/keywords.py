"""Keywords of a call that are taken for options: they belong to its function."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import outside

__all__ = ["refuse_options"]

_MISTAKEN = frozenset(("workers", "progress", "timeout", "store"))
_warned: set[tuple[str | None, str, str]] = set()  # functions with **kwargs, and a keyword


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
    except Exception:  # noqa: BLE001 - some built-in functions do not tell, and some objects
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
