"""Workers keep freed memory while they work, and give it back when they idle.

glibc's malloc returns large blocks to the kernel as soon as they are free; each large temporary
of numpy is then taken anew, page by page, which costs more than most of what is done with it.

Only in workers, and only with glibc. ``PARALLELKIT_MALLOC=0`` leaves malloc alone.
"""

from __future__ import annotations

import ctypes
import os

from . import system

__all__ = ["IDLE", "keep", "trim"]

IDLE = 1.0  # seconds without a message after which a worker gives back what it keeps
LARGEST = 32 << 20  # bytes; the most that M_MMAP_THRESHOLD takes. Larger blocks come and go
KEPT = 256 << 20  # bytes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of malloc.h

_libc: ctypes.CDLL | None = None  # where memory is kept


def keep() -> None:
    """Have malloc keep freed memory for the next item, up to 256 MB.

    In one arena for all threads: memory that one thread has freed serves the next one, there is
    one limit for all, and `trim` reaches everything; it does not reach what is free in a
    thread's own arena.
    """
    global _libc
    if os.environ.get("PARALLELKIT_MALLOC") == "0" or not system.LINUX:
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_MMAP_THRESHOLD, LARGEST)
        libc.mallopt(_TRIM_THRESHOLD, KEPT)
        libc.mallopt(_ARENA_MAX, 1)
        _libc = libc


def trim() -> None:
    """Give freed memory back to the kernel."""
    if _libc is not None:
        _libc.malloc_trim(0)
