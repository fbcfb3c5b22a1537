"""What becomes of items: a failure that is kept as a value, and the reply for a chunk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..place.records import Frozen, NamedTuple

__all__ = ["Failure", "Lost", "Raised", "Reply", "short"]


class Failure(Frozen):
    """An item that failed, in its place among the results (``on_error="return"``).

    Attributes
    ----------
    index : int
        Position of the item in the input.
    args : tuple
        Its varying arguments.
    kwargs : Mapping
        The frozen keywords of the call.
    exception : BaseException
        What it raised, or the :class:`WorkerDied`, :class:`TaskTimeout` or
        :class:`TransportError` that stands for what happened to it.
    traceback : str
        The traceback where it was raised, as text.
    attempts : int
        How often it was tried.
    """

    __slots__ = ("args", "attempts", "exception", "index", "kwargs", "traceback")
    __match_args__ = ("index", "args", "kwargs", "exception", "traceback", "attempts")

    index: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    exception: BaseException
    traceback: str
    attempts: int

    def __init__(
        self,
        index: int,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        exception: BaseException,
        traceback: str,
        attempts: int = 1,
    ) -> None:
        values = index, args, kwargs, exception, traceback, attempts
        for name, value in zip(self.__match_args__, values, strict=True):
            object.__setattr__(self, name, value)

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        args, exception = short(self.args, 1000), self.exception
        return f"Failure(index={self.index}, {args=!s}, {exception=}, attempts={self.attempts})"


def short(value: object, most: int = 120) -> str:
    """Text of a value for a message."""
    import reprlib

    try:
        text = reprlib.repr(value)
    except Exception:  # noqa: BLE001 - as that of an int of many digits does
        return f"<{type(value).__name__}>"
    return text if len(text) <= most else text[: most - 3] + "..."


class Raised(NamedTuple):
    """One item's exception, as the worker saw it."""

    offset: int  # within its chunk
    exception: BaseException
    traceback: str


class Reply(NamedTuple):
    """What came of the first ``len(values)`` items of a chunk that had not been answered yet.

    Where an item raised, `values` holds None and `raised` the rest. A worker may answer a chunk
    in parts; the last part is final, and what a final part leaves out has not been started.
    """

    values: list[Any]
    raised: list[Raised]
    seconds: float
    final: bool
    nbytes: int = 0  # that the items or their results take, where that is known and not counted yet


class Lost(NamedTuple):
    """A chunk that came to nothing as a whole, for `reason`.

    ``started`` is false where the items cannot be to blame: nobody had begun to run them.
    """

    reason: BaseException
    started: bool = True
