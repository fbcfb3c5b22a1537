"""Memory by descriptors of files that have no name (any more); see `anonymous`."""

from __future__ import annotations

import mmap
import os
import sys
from typing import Any

from ..place import system
from ..place.descriptors import identity

__all__ = [
    "WRITES",
    "available",
    "close",
    "create",
    "duplicate",
    "identity",
    "mapped",
    "reserve",
    "write",
]

# Fresh pages come without being zeroed first that way, and memory that cannot be had is an OSError
# instead of a SIGBUS later.
WRITES = True
_AT_ONCE = getattr(mmap, "MAP_POPULATE", 0)  # half the time of one fault for each page
# Most and present memory of the control group, in either version, as a container sees its own.
_GROUP = "/sys/fs/cgroup/"
_GROUP_LIMITS = (
    (_GROUP + "memory.max", _GROUP + "memory.current"),
    (_GROUP + "memory/memory.limit_in_bytes", _GROUP + "memory/memory.usage_in_bytes"),
)


def create(size: int, folder: str | None, name: str) -> int:
    """Make memory: a `memfd` where there are such, else a file that is removed at once."""
    if system.MEMFD and folder is None:
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
    else:
        import tempfile

        fd, path = tempfile.mkstemp(prefix=f"{name}-", dir=folder)
        os.unlink(path)
    try:
        os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def reserve(fd: int, size: int) -> None:
    """Have all pages of a file that nobody else has yet, or an OSError."""
    if system.ALLOCATES:
        os.posix_fallocate(fd, 0, size)
        return
    for page in range(0, size, mmap.PAGESIZE):
        os.pwrite(fd, b"\0", page)


def mapped(kind: type[mmap.mmap], fd: int, size: int, private: bool, populate: bool) -> mmap.mmap:
    """Map it."""
    if private:
        return mmap.mmap.__new__(kind, fd, size, flags=mmap.MAP_PRIVATE)
    return mmap.mmap.__new__(kind, fd, size, flags=mmap.MAP_SHARED | (_AT_ONCE if populate else 0))


def write(fd: int, data: Any, at: int) -> None:
    """Copy into the file."""
    rest = memoryview(data).cast("B")
    while rest:
        done = os.pwrite(fd, rest, at)
        rest, at = rest[done:], at + done


def close(fd: int) -> None:
    """Let go of a descriptor."""
    os.close(fd)


def duplicate(fd: int) -> int:
    """Return another descriptor of the same."""
    return os.dup(fd)


def available() -> int:
    """Bytes of memory that can be had; reserving more would end processes, not raise errors."""
    free = sys.maxsize
    try:
        with open(f"{system.PROC}/meminfo") as lines:
            free = next(int(li.split()[1]) * 1024 for li in lines if li.startswith("MemAvailable:"))
        for limit, used in _GROUP_LIMITS:
            if os.path.exists(limit):
                with open(limit) as most, open(used) as now:
                    bound = most.read().strip()
                    free = min(free, int(bound) - int(now.read())) if bound != "max" else free
    except (OSError, StopIteration, ValueError):
        pass
    return max(0, free)
