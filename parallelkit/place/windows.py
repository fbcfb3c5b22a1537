"""What Windows tells of the machine and of this process."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any, NamedTuple

__all__ = ["Memory", "cores", "kernel", "memory"]


@functools.cache
def kernel() -> Any:
    """Return the system's library, for what Python has no function for."""
    return ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined,unused-ignore]


class Memory(NamedTuple):
    """Bytes of memory that the machine has, and that it can still promise to a process."""

    whole: int
    promised: int


class _Status(ctypes.Structure):
    """MEMORYSTATUSEX."""

    _fields_ = [
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("whole", ctypes.c_uint64),
        ("free", ctypes.c_uint64),
        ("most", ctypes.c_uint64),
        ("promised", ctypes.c_uint64),
        ("rest", ctypes.c_uint64 * 3),
    ]


def memory() -> Memory:
    """What there is of memory."""
    status = _Status(length=ctypes.sizeof(_Status))
    if not kernel().GlobalMemoryStatusEx(ctypes.byref(status)):
        return Memory(0, sys.maxsize)
    return Memory(status.whole, status.promised)


def cores() -> int | None:
    """How many cores this process is bound to; None if to none, or in a way that is not known.

    A process that nobody has bound may use all of its group of processors (of 64 at most), and its
    workers are spread over all groups: then it is the machine that counts.
    """
    this = ctypes.c_void_p(-1)
    own, group = ctypes.c_size_t(), ctypes.c_size_t()
    if not kernel().GetProcessAffinityMask(this, ctypes.byref(own), ctypes.byref(group)):
        return None
    return own.value.bit_count() if 0 < own.value != group.value else None
