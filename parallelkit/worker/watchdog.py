"""The time limit of items, kept by a thread in the worker itself.

What may take too long is an item, but also its arguments' unpickling, its result's pickling, and
what its arguments do when they are dropped. The thread ends the process when one of these has
lasted too long; before that it answers for the items that were finished, so that none is run
again. What it watches stands in the worker's control block too: where the interpreter is held and
the thread cannot run, the parent sees it there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .ending import end_now
from .protocol import WHOLE
from .task import Progress

__all__ = ["Watch"]


class Watch(threading.Thread):
    """Ends this process when something lasts longer than its time limit.

    Parameters
    ----------
    tell : callable
        Called with what lasts and when it began (0.0: nothing).
    excused : callable
        Asked whether what lasts too long has a reason that does not count.
    expire : callable
        Called before the process ends with what has lasted too long, what is finished of the
        chunk, and how many of its items were answered before that.
    """

    def __init__(
        self,
        tell: Callable[[int, float], None],
        excused: Callable[[], bool],
        expire: Callable[[int, Progress, int], None],
    ) -> None:
        super().__init__(name="parallelkit-watch", daemon=True)
        self._tell = tell
        self._excused_by = excused
        self._expire = expire
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._timeout = 0.0
        self._progress = Progress()
        self._done = 0
        self._what = 0
        self.start()

    def begin(self, timeout: float) -> None:
        """Watch the loading of a chunk, with `timeout` for this and all that follows of it."""
        self._timeout = timeout
        self.mark(WHOLE)

    def items(self, progress: Progress, done: int) -> None:
        """Say where the items that follow leave their results; `done` were answered before."""
        self._progress, self._done = progress, done

    def item(self, offset: int) -> None:
        """Watch an item."""
        self.mark(self._done + offset)

    def whole(self) -> None:
        """Watch what concerns the chunk as a whole."""
        self.mark(WHOLE)

    def mark(self, what: int) -> None:
        """Watch `what` from now on."""
        now = time.monotonic()
        self._tell(what, now)
        with self._changed:
            self._what = what
            before, self._deadline = self._deadline, now + self._timeout
            if before is None or before > self._deadline:
                self._changed.notify()

    def end(self) -> None:
        """Watch nothing."""
        with self._changed:
            self._deadline = None
        self._tell(0, 0.0)

    def _excused(self) -> bool:
        """Whether modules are imported for what comes before an item; an item's own count."""
        return self._what == WHOLE and self._excused_by()

    def run(self) -> None:
        """Sleep from one deadline to the next."""
        with self._changed:
            while True:
                left = None if self._deadline is None else self._deadline - time.monotonic()
                if left is None or left > 0:
                    self._changed.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
                elif self._excused():  # a first chunk may bring modules that take long to import
                    self._deadline = time.monotonic() + self._timeout
                    self._tell(self._what, time.monotonic())
                elif self._done <= self._what < self._done + len(self._progress.values):
                    self._deadline = None  # the item was finished at the last moment
                else:
                    try:
                        self._expire(self._what, self._progress, self._done)
                    finally:
                        end_now()
