"""What was found out about functions in earlier calls."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any, Generic, TypeVar

__all__ = ["Remembered"]

Found = TypeVar("Found")


class Remembered(Generic[Found]):
    """What was found out about functions: of the last `most` ones, and `unknown` of all others.

    A function is known by its identity, as its ``==`` may be its own, and a method by its function.
    None is kept alive for this, but for those that cannot be referred to weakly.
    """

    def __init__(self, most: int, unknown: Found) -> None:
        self._most = most
        self._unknown = unknown
        self._found: dict[int, tuple[Callable[[], Any], Found]] = {}

    def of(self, func: Callable[..., Any]) -> Found:
        """What was found out about a function."""
        func = func.__func__ if isinstance(func, MethodType) else func
        found = self._found.get(id(func))
        return self._unknown if found is None or found[0]() is not func else found[1]

    def keep(self, func: Callable[..., Any], found: Found) -> None:
        """Remember what was found out about a function, in place of what was before."""
        func = func.__func__ if isinstance(func, MethodType) else func
        self._found[id(func)] = _weakly(func), found
        if len(self._found) > self._most:
            self._found.pop(list(self._found)[0], None)  # noqa: RUF015 - other threads add to it


def _weakly(func: Callable[..., Any]) -> Callable[[], Any]:
    try:
        return weakref.ref(func)
    except TypeError:  # NumPy's, or an object with slots
        return lambda: func
