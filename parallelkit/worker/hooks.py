"""What an item may leave in the interpreter of its worker: streams, hooks, signal handlers.

None of it is the caller's to tell: a worker has its own from its beginning. What the initializer
puts in its place stays, and what modules do that are imported for the function; what an item does
is undone, when and as `environment` does that. A worker looks often, so a look is to take no more
than a microsecond: the signals are those that programs handle.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the enums of `signal` take time
import contextlib
import gc
import operator
import signal
import sys
import threading
import warnings
from typing import Any

from . import printing

__all__ = ["altered", "keep", "put_back"]

_ALARM = getattr(signal, "SIGALRM", None)
# Not SIGCHLD: who handles that does so for processes that outlive the item.
_NAMES = ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2")
_SIGNALS = tuple(int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name))
_standing: tuple[Any, ...] = ()


def _look() -> tuple[Any, ...]:
    return (
        *(sys.stdout, sys.stderr, sys.excepthook, threading.excepthook),
        *(warnings.showwarning, gc.isenabled()),
        *map(_signal.getsignal, _SIGNALS),
    )


def keep() -> None:
    """Let what there is stand from now on."""
    global _standing
    _standing = _look()


def altered() -> bool:
    """Whether something has been set since."""
    return bool(_standing) and not all(map(operator.is_, _look(), _standing))


def put_back() -> bool:
    """Undo what has been set since; tell whether there was something."""
    if not _standing:
        return False
    closed = any(getattr(stream, "closed", False) for stream in _standing[:2])
    now = _look()
    if not closed and all(map(operator.is_, now, _standing)):
        return False
    out, err, hook, thread_hook, show, collects, *handlers = _standing
    sys.stdout, sys.stderr = out, err
    sys.excepthook, threading.excepthook = hook, thread_hook
    warnings.showwarning = show
    if gc.isenabled() is not collects:
        (gc.enable if collects else gc.disable)()
    for number, handler, there in zip(_SIGNALS, handlers, now[-len(_SIGNALS) :], strict=True):
        if handler is not there and handler is not None:  # None is not one of Python's
            if number == _ALARM:
                signal.setitimer(signal.ITIMER_REAL, 0)  # nobody waits for it any more
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, handler)
    if closed:
        printing.attach_again()
        keep()
    return True
