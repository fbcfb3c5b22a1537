"""A thread that sleeps until workers have been idle for long enough to be ended.

It is there while workers are kept, and it wakes when the next of them are due: with the default
every few minutes, whatever the caller is doing meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ...place import forksafe

__all__ = ["Sleeper"]

PATIENCE = 1.0  # seconds for the thread to end


class Sleeper:
    """Calls `look` when it is time for that.

    Parameters
    ----------
    look : callable
        Does what is due, and returns in how many seconds it is to be called again; None if there
        is nothing left to look after, which ends the thread.

    Attributes
    ----------
    thread : Thread or None
        None also where there was none to be had, and where `look` has raised.
    """

    def __init__(self, look: Callable[[], float | None]) -> None:
        self._look = look
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self.thread: threading.Thread | None = None

    def begin(self) -> None:
        """Have it look soon, in a thread that is started where there is none."""
        with self._lock:
            self._wake.set()
            if self.thread is None:
                thread = threading.Thread(target=self._run, name="parallelkit-idle", daemon=True)
                forksafe.harmless.add(thread)  # what it may hold is made anew in a fork
                try:
                    thread.start()
                except RuntimeError:  # there are no more threads, or Python is ending
                    return
                self.thread = thread

    def stop(self) -> None:
        """End the thread."""
        with self._lock:
            thread, self.thread = self.thread, None
            self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            # Not for ever: a signal handler may have interrupted who holds what it waits for.
            thread.join(PATIENCE)

    def _run(self) -> None:
        while True:
            with self._lock:
                if self.thread is not threading.current_thread():
                    return
                self._wake.clear()
            try:
                left = self._look()
            except BaseException:
                self.thread = None
                raise
            if left is not None:
                self._wake.wait(min(left, threading.TIMEOUT_MAX))
                continue
            with self._lock:
                if not self._wake.is_set():
                    if self.thread is threading.current_thread():
                        self.thread = None
                    return
