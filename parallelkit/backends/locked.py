"""Whether threads wait for the interpreter lock rather than compute: measured, not guessed.

While several threads of a call run chunks, each measures for how much of the time it was on a
processor, and how often it has gone to sleep by itself. Threads that wait for the lock are away
most of the time, wake every few milliseconds, and compute in between. Threads that another program
keeps from a core do not sleep by themselves, and those that wait for a disk or a network hardly
compute. What was found is remembered for the function.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

from ..place import system

if system.SLEEPS:  # else the time alone decides
    import resource

__all__ = ["Lock"]

ENOUGH = 0.02  # seconds that must have been measured, of all threads together
BUSY = 0.75  # of the time on a processor, above which threads do not wait
IDLE = 0.15  # below which they wait for something else
WAKES = 30  # of a thread in a second, at the least, where it waits for the lock

_known: weakref.WeakSet[Any] = weakref.WeakSet()


class Lock:
    """What is known of the lock and the function of one call.

    Parameters
    ----------
    func : callable
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        self._func = func.__func__ if isinstance(func, MethodType) else func
        try:
            self.known = self._func in _known
        except TypeError:  # it has no hash, or cannot be referred to weakly
            self.known = False
        self.found = self.known
        self._lock = threading.Lock()
        self._elapsed = self._computed = 0.0
        self._sleeps = 0

    @contextlib.contextmanager
    def measured(self, running: Callable[[], int]) -> Iterator[None]:
        """Measure what runs within the block, if others do as well; `running` tells how many."""
        together = running() > 1
        begin, computed, slept = time.perf_counter(), time.thread_time(), _sleeps()
        yield
        if together and running() > 1:
            self.learn(
                time.perf_counter() - begin, time.thread_time() - computed, _sleeps() - slept
            )

    def learn(self, elapsed: float, computed: float, sleeps: int) -> None:
        """Take in what one thread has measured."""
        with self._lock:
            self._elapsed += elapsed
            self._computed += computed
            self._sleeps += sleeps
            if self.found or self._elapsed < ENOUGH:
                return
            share = self._computed / self._elapsed
            wakes = not system.SLEEPS or self._sleeps > WAKES * self._elapsed
            if IDLE < share < BUSY and wakes:
                self.found = True
                with contextlib.suppress(TypeError):
                    _known.add(self._func)


def _sleeps() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw if system.SLEEPS else 0
