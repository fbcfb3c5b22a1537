"""BLAS and OpenMP threads, held to a share of the cores (by threadpoolctl).

OpenBLAS and its kin keep one number for the process, OpenMP one for each thread that calls it.
A worker process, and a helper thread, set theirs and keep it; the thread that makes a call gets
back what it had. Libraries that are loaded later find the number in the environment of a worker
process; elsewhere they are found by looking again when modules have been imported since.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .host import cpu_count

__all__ = ["VARIABLES", "hold", "lent", "set_default"]

VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

_lock = threading.RLock()
_libraries: list[Any] = []
_modules_seen = -1
_held = threading.local()


_borrowers = 0
_before: dict[str, int] = {}  # library file: threads of the process before the first borrower


class _Thread:
    """What is lent to one thread, and what OpenMP, which counts for each, had there before."""

    def __init__(self) -> None:
        self.lent: list[list[int]] = []  # the last one rules; iterators may end in any order
        self.before: dict[str, int] = {}


class _Here(threading.local):
    def __init__(self) -> None:
        self.thread = _Thread()


_here = _Here()


def hold(threads: int) -> None:
    """Let numerical libraries use `threads` threads in this thread, from now on."""
    libraries = _loaded()
    if getattr(_held, "state", None) == (threads, len(libraries)):
        return
    for library in libraries:
        library.set_num_threads(threads)
    _held.state = threads, len(libraries)


def set_default(threads: int) -> None:
    """Let libraries that this process has yet to load start with `threads` threads."""
    for name in VARIABLES:
        os.environ[name] = str(threads)


@contextmanager
def lent(threads: int) -> Iterator[None]:
    """Hold to `threads` within the block, and give back what was there before."""
    global _borrowers
    with _lock:
        here, loan = _here.thread, [threads]
        _borrowers += 1
        if _borrowers == 1:
            _before.clear()
        if not here.lent:
            here.before.clear()
        here.lent.append(loan)
        for library in list(_loaded()):
            before = here.before if library.user_api == "openmp" else _before
            before.setdefault(library.filepath, library.get_num_threads())
            library.set_num_threads(threads)
    try:
        yield
    finally:
        with _lock:
            _borrowers = max(0, _borrowers - 1)  # a fork within the block has begun anew
            here.lent = [other for other in here.lent if other is not loan]
            _held.state = None
            for library in _loaded():  # those loaded within the block get what they would have had
                if library.user_api != "openmp":
                    if _borrowers == 0:
                        library.set_num_threads(_before.get(library.filepath, cpu_count()))
                elif here is _here.thread:
                    own = here.before.get(library.filepath, cpu_count())
                    library.set_num_threads(here.lent[-1][0] if here.lent else own)


def _loaded() -> list[Any]:
    """Controllers of the numerical libraries that this process has loaded."""
    global _libraries, _modules_seen
    if len(sys.modules) != _modules_seen:
        import threadpoolctl

        with _lock:
            _libraries = threadpoolctl.ThreadpoolController().lib_controllers
            _modules_seen = len(sys.modules)
    return _libraries


def _after_fork() -> None:
    global _lock, _borrowers
    _lock, _borrowers = threading.RLock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
