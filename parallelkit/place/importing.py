"""Imports that the first calls of several threads need: one at a time.

Packages whose modules import one another (pathos, numpy.random) are seen half-made, or end in a
deadlock of import locks, where two threads import them at once and begin at different ends.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

__all__ = ["at_exit", "for_ourselves", "lock", "own", "uncollected", "whole"]

lock = threading.RLock()  # a signal handler may make a call in the middle of the first one


def whole(name: str) -> ModuleType:
    """Import a module, or wait until another thread has finished with that."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if module is not None and not getattr(spec, "_initializing", False):
        return module
    with lock:
        return importlib.import_module(name)


@contextmanager
def uncollected() -> Iterator[None]:
    """Within this the collector rests, and leaves what was made to its next full look.

    Imports make no garbage. Where a large library is loaded, one look through all its objects takes
    longer than they do, and after a fork it copies the pages in which they lie.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if not gc.get_freeze_count():  # what the program has frozen stays so
                gc.freeze()
                gc.unfreeze()  # all are old now, and none has been looked at
            gc.enable()


own = 0  # how many modules have been imported for what this package needs itself


@contextmanager
def for_ourselves() -> Iterator[None]:
    """Within this is imported what says nothing about the program."""
    global own
    before = len(sys.modules)
    try:
        yield
    finally:
        own += len(sys.modules) - before


_handler: Callable[[], object] | None = None


def at_exit(handler: Callable[[], object] | None = None) -> None:
    """Have our exit handler called before those that have been registered so far.

    To be called after each import of what a backend is built on: the exit handlers of that would
    kill workers that still have finalizers and exit handlers to call.
    """
    global _handler
    _handler = handler or _handler
    if _handler is not None:
        atexit.unregister(_handler)
        atexit.register(_handler)


def _after_fork() -> None:
    """In a forked child: the thread that holds the lock may not exist here."""
    global lock
    lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
