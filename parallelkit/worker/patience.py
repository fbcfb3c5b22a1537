"""A time limit for items that run in threads, or in place: who runs them waits no longer.

::

    who runs the chunk                    a thread beside it
    Limited(...) ── function, arguments ──► runs the item
                 ◄── what came of it ─────  in time
    TaskTimeout                             too late: it finishes alone, and another takes its place

A thread cannot be ended from outside, as a process can.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from ..errors import TaskTimeout
from ..place import blas, limits

__all__ = ["Limited"]

_Outcome = tuple[Any, BaseException | None]


class Limited:
    """Calls a function for one item after the other, and waits so long for each.

    Parameters
    ----------
    func : callable
    seconds : float
    threads : int
        Threads of numerical libraries within an item.
    """

    def __init__(self, func: Callable[..., Any], seconds: float, threads: int) -> None:
        self._func = func
        self._seconds = seconds
        self._threads = threads
        self._runner: _Runner | None = None

    def __call__(self, *args: Any) -> Any:
        """Return the result for an item, or raise what it raised.

        Raises
        ------
        TaskTimeout
            If there is none in time.
        """
        runner = self._runner or _Runner(self._threads)
        self._runner = None  # until it is free again; an interrupted wait leaves it alone
        value, error = None, None
        try:
            runner.orders.put((contextvars.copy_context(), self._func, args))
            value, error = runner.outcomes.get(timeout=self._seconds)
            self._runner = runner
        except Empty:
            told = f"an item ran longer than timeout={self._seconds:g} seconds"
            raise TaskTimeout(f"{told}; its thread finishes it alone") from None
        finally:
            if self._runner is None:
                runner.orders.put(None)
        if error is None:
            return value
        try:
            raise error
        finally:
            del error  # it would keep this frame

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        """Let the thread end."""
        if self._runner is not None:
            self._runner.orders.put(None)
            self._runner = None


class _Runner:
    """A thread that runs what it is given, until that is None."""

    def __init__(self, threads: int) -> None:
        self.orders: SimpleQueue[Any] = SimpleQueue()
        self.outcomes: SimpleQueue[_Outcome] = SimpleQueue()
        self._threads = threads
        limits.start(threading.Thread(target=self._serve, name="parallelkit-item", daemon=True))

    def _serve(self) -> None:
        while (order := self.orders.get()) is not None:
            blas.hold(self._threads)
            context, func, args = order
            outcome: _Outcome = None, None
            try:
                outcome = context.run(func, *args), None
            except BaseException as error:  # noqa: BLE001 - belongs to who waits for it
                outcome = None, error
            self.outcomes.put(outcome)
            del order, context, func, args, outcome  # while this waits, they are the caller's
