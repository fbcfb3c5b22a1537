"""The error tree.

::

    Exception
    └── ParallelError            anything that this library itself has to say
        ├── WorkerDied           the process that ran an item ended
        ├── TaskTimeout          an item ran longer than ``timeout=`` (also a TimeoutError)
        ├── TransportError       something could not cross between processes (also a PicklingError)
        └── StoreError           the file of a sweep cannot be read, written or gone on with
    KeyboardInterrupt
    └── SweepInterrupted         Ctrl-C ended a sweep; has the table of what is finished
    BaseException
    └── Pruned                   ends a point of a sweep that is not worth going on with

An exception that a user's function raises arrives as what it is, with a note that names the
item; it is never wrapped in one of these. Bad options and bad input meet the built-in
``TypeError`` and ``ValueError``.
"""

from __future__ import annotations

import pickle
import sys
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any

__all__ = [
    "INHERITED",
    "IN_INITIALIZER",
    "LeftBehind",
    "ParallelError",
    "Pruned",
    "RemoteTraceback",
    "StaysHere",
    "StoreError",
    "SweepInterrupted",
    "TaskTimeout",
    "TransportError",
    "WorkerDied",
    "assign",
    "formatted",
    "note",
    "outside",
    "show_remote",
]

IN_INITIALIZER = "in the initializer of a worker"  # the note on what an initializer raises


class ParallelError(Exception):
    """Base class of every error that parallelkit itself raises."""


class WorkerDied(ParallelError):
    """The worker process that ran an item ended before it gave a result."""


class TaskTimeout(ParallelError, TimeoutError):
    """An item ran longer than the option ``timeout`` allows.

    Its worker process was ended; a thread finishes the item alone.
    """


class TransportError(ParallelError, pickle.PicklingError):
    """A function, an argument, a result or an exception could not cross between processes."""


class StoreError(ParallelError):
    """The file in which a sweep keeps its results cannot be used."""


class SweepInterrupted(KeyboardInterrupt):
    """Ctrl-C ended a sweep; what was finished is stored, and in ``table``.

    It is a ``KeyboardInterrupt``: a script that does not catch it ends, and so does "Run All" of a
    notebook.

    Attributes
    ----------
    table : Table
        Of the points that are finished. ``table.interrupted`` is true.
    """

    def __init__(self, told: str, table: Any = None) -> None:
        super().__init__(told)
        self.table = table


class Pruned(BaseException):
    """Raised by :func:`report` in a point of a sweep that its pruner has given up.

    Let it pass, and the point becomes a row with the status ``pruned``. It is no ``Exception``, so
    that a training loop which catches those does not go on. Catch it to tidy up, and raise it
    again; or return what there is, which then is the result of the pruned point.
    """


def assign(error: BaseException, **attributes: object) -> None:
    """Set what all exceptions have, also where the class refuses assignments, as a frozen one."""
    for name, value in attributes.items():
        getattr(BaseException, name).__set__(error, value)


def formatted(error: BaseException, tb: TracebackType | None) -> str:
    """Text of an exception and a traceback, whatever the class does."""
    try:
        return "".join(traceback.format_exception(type(error), error, tb))
    except Exception:  # noqa: BLE001 - attributes are looked for, where a class may raise anything
        lines = ["Traceback (most recent call last):\n", *traceback.format_tb(tb)]
        return "".join(lines) + f"{type(error).__module__}.{type(error).__qualname__}\n"


def note(error: BaseException, told: str) -> None:
    """Add a note, once, where the class allows it."""
    try:
        if told not in getattr(error, "__notes__", ()):
            error.add_note(told)
    except Exception:  # noqa: BLE001 - it may forbid attributes, or raise whatever is looked for
        pass


class RemoteTraceback(Exception):
    """The traceback of a worker as text: the first ``__cause__`` of what an item raised there."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"


def show_remote(error: BaseException, text: str) -> None:
    """Let the traceback of another process be shown above an error and all it was raised from."""
    first, seen = error, {id(error)}
    while first.__cause__ is not None and id(first.__cause__) not in seen:
        first = first.__cause__
        seen.add(id(first))
    if type(first) is not RemoteTraceback:
        assign(first, __cause__=RemoteTraceback(text))


INHERITED = (
    "what multiprocessing's fork context makes is in workers only if they are forked after that: "
    "give it to map as a keyword, to submit, or to Pool(initializer=, initargs=), without "
    "start_method=; or make it by multiprocessing.get_context('spawn') or a "
    "multiprocessing.Manager(), which can also be an item"
)


class StaysHere(TypeError):
    """Raised by what cannot be pickled on purpose; its message says what to do instead."""


class LeftBehind:
    """Stands in an error for a part that could not be sent between processes, and says so.

    Parameters
    ----------
    kind : str
        What the part was.
    reason : str
        Why it could not be sent.
    """

    def __init__(self, kind: str, reason: str) -> None:
        self._told = kind, reason

    def __reduce__(self) -> tuple[type[LeftBehind], tuple[str, str]]:
        return LeftBehind, self._told

    def __repr__(self) -> str:
        kind, reason = self._told
        return f"<a {kind} that could not be sent between processes: {reason}>"

    def __getattr__(self, name: str) -> object:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(
            f"no {name!r}: this is {self!r}; use it where the error is raised, or backend='thread'"
        )


def outside() -> int:
    """How far up the caller of this package is, for a warning's line."""
    level, frame = 1, sys._getframe(1)  # noqa: SLF001 - there is no other way
    package = __name__.partition(".")[0]
    while frame.f_back is not None and _package_of(frame.f_globals) == package:
        frame, level = frame.f_back, level + 1
    return level


def _package_of(names: Mapping[str, Any]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]
