"""Ctrl-C, and what other signal handlers raise, held back for a moment where it would do harm.

What it would leave half done is what others wait for.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` makes an enum of each number
import functools
import operator
import signal
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any

__all__ = ["UNSHIELDED", "Shield", "by_a_handler", "held_here", "pass_on"]

# Those by which programs interrupt themselves or are asked to end.
_HELD = [
    int(getattr(signal, name))
    for name in (
        *("SIGINT", "SIGALRM", "SIGTERM", "SIGUSR1", "SIGUSR2"),
        *("SIGHUP", "SIGVTALRM", "SIGPROF", "SIGQUIT", "SIGBREAK"),
    )
    if hasattr(signal, name)
]


_NONE: Mapping[int, Any] = {}
_seen: tuple[tuple[Any, ...], Mapping[int, Any]] = (), _NONE


def _handlers() -> Mapping[int, Any]:
    """Handlers that Python code may run in; asked so often that the answer is kept."""
    global _seen
    now = tuple(map(_signal.getsignal, _HELD))
    seen, handlers = _seen
    if len(seen) != len(now) or not all(map(operator.is_, now, seen)):
        handlers = {n: one for n, one in zip(_HELD, now, strict=True) if callable(one)}
        _seen = now, handlers
    return handlers


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


class Shield:
    """Signals that come within the block are handled at its end; in the main thread alone.

    (Other threads are never interrupted.) Not for blocks that wait.

    Parameters
    ----------
    needed : bool
        Without need nothing is done: it takes a few microseconds.
    """

    __slots__ = ("_before", "_late")

    def __init__(self, needed: bool = True) -> None:
        self._before = _handlers() if needed and _is_main() else _NONE
        self._late: dict[int, FrameType | None] = {}

    def __enter__(self) -> None:
        try:
            for number in self._before:
                _signal.signal(number, self._note)
        except ValueError:  # in a subinterpreter, which is never interrupted
            self._before = _NONE

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            _signal.signal(number, handler)
        while self._late:
            number = min(self._late)  # Ctrl-C before the others
            try:
                self._before[number](number, self._late.pop(number))
            except BaseException:
                self.__exit__()  # the others are told all the same
                raise

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._late[number] = frame


UNSHIELDED = Shield(False)  # one for all: to make it takes longer than to pass through it


def held_here(*locks: Any) -> bool:
    """Whether this very thread holds one of these `threading.RLock`.

    A signal handler or a finalizer that asks has interrupted what the lock is held for.
    """
    for lock in locks:  # noqa: SIM110 - asked twice a call
        if lock._is_owned():  # noqa: SLF001 - as threading.Condition asks it
            return True
    return False


def by_a_handler(error: BaseException) -> bool:
    """Whether a signal handler has raised an error, as far as its traceback tells.

    Libraries raise anything; what a handler raises in the middle of them is not theirs.
    """
    if isinstance(error, KeyboardInterrupt):
        return True
    if not _is_main():  # no handler runs there
        return False
    codes = {_code(signal.getsignal(number)) for number in _HELD} - {None}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False


def pass_on(error: BaseException) -> None:
    """Raise an error again that a signal handler has raised: it is no word of the system's.

    For who takes errors of a class that handlers raise too, as they do at a time limit.
    """
    if by_a_handler(error):
        raise error


def _code(handler: Any) -> object:
    """Code that runs when a handler is called: of a function, a method, a partial, an object."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not callable(handler):  # one of the system's
        return None
    if not hasattr(handler, "__code__") and not hasattr(handler, "__func__"):
        handler = type(handler).__call__
    return getattr(getattr(handler, "__func__", handler), "__code__", None)
