"""Exceptions that arrive as what they are, whatever their ``__init__`` wants.

Pickle makes an exception again by calling its class with ``args``, which fails for a class whose
``__init__`` takes something else, at the far end and for everything else in the same message.
So each is tried where it was raised. One that fails is rebuilt without its ``__init__``, and one
that cannot travel even so is replaced by a `TransportError` that can be read.
"""

from __future__ import annotations

from typing import Any

from ..errors import TransportError
from . import pickling

__all__ = ["portable"]


def portable(error: BaseException) -> Any:
    """`error`, or something that unpickles to it or to its stand-in."""
    if _survives(error):
        return error
    if _plain(type(error)):
        rebuilt = _Rebuilt(error)
        if _survives(rebuilt):
            return rebuilt
    return TransportError(
        f"{type(error).__name__}: {_text(error)} (this exception could not be sent back; "
        "its text stands for it)"
    )


def _survives(error: Any) -> bool:
    try:
        pickled = pickling.dumps(error)
        copy = pickling.loads(b"".join(pickled.pieces), pickled.buffers)
    except BaseException:  # noqa: BLE001 - a user's class may raise anything
        return False
    return type(copy) is (error.kind if isinstance(error, _Rebuilt) else type(error))


def _plain(kind: type[BaseException]) -> bool:
    """Whether the class leaves its pickling to the built-in one."""
    return (
        kind.__reduce__ is BaseException.__reduce__
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__setstate__ is BaseException.__setstate__
    )


class _Rebuilt:
    """Pickles as the exception itself, made by ``__new__`` alone."""

    def __init__(self, error: BaseException) -> None:
        self.kind = type(error)
        self._args = error.args
        self._state = dict(error.__dict__)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.kind, self._args, self._state)


def _rebuild(
    kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]
) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001
        return f"args of type {[type(arg).__name__ for arg in error.args]}"
