"""A call as a frozen value: what is to be run on what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Call", "Delayed", "delayed"]


@dataclass(frozen=True, slots=True)
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

    func: Callable[..., Any]
    iterables: tuple[Iterable[Any], ...]
    frozen: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not callable(self.func):
            raise TypeError(f"the function must be callable, not {self.func!r}")
        if not self.iterables:
            raise TypeError("no input to map over: give at least one iterable")


@dataclass(frozen=True, slots=True)
class Delayed:
    """A call that waits to be run; made by :func:`delayed`."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __call__(self) -> Any:
        return self.func(*self.args, **self.kwargs)


def delayed(func: Callable[..., Any]) -> Callable[..., Delayed]:
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
        raise TypeError(f"delayed needs a function, not {func!r}")

    def freeze(*args: Any, **kwargs: Any) -> Delayed:
        return Delayed(func, args, kwargs)

    return freeze
