"""Ctrl-C held back for a moment, where it would leave something half done that others wait for."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # `signal` makes enumerations: ten times as long
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Shield", "held_here"]


class Shield:
    """SIGINT that comes within the block is handled at its end; in the main thread alone.

    (Other threads are never interrupted.) Not for blocks that wait.

    Parameters
    ----------
    needed : bool
        Without need nothing is done: it takes a few microseconds.
    """

    def __init__(self, needed: bool = True) -> None:
        self._before: Any = None
        self._late: tuple[int, FrameType | None] | None = None
        if needed and threading.get_ident() == threading.main_thread().ident:
            handler = _signal.getsignal(_signal.SIGINT)
            self._before = handler if callable(handler) else None

    def __enter__(self) -> None:
        if self._before is not None:
            _signal.signal(_signal.SIGINT, self._note)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before is not None:
            _signal.signal(_signal.SIGINT, self._before)
            if self._late is not None:
                self._before(*self._late)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._late = number, frame


def held_here(lock: Any) -> bool:
    """Whether this very thread holds a `threading.RLock`.

    A signal handler or a finalizer that asks has interrupted what the lock is held for.
    """
    return bool(lock._is_owned())  # noqa: SLF001 - as threading.Condition asks it
