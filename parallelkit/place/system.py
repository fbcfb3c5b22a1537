"""What this system has that others have not. Nothing else asks which one it is.

Each has another way for where it is missing. ``PARALLELKIT_WITHOUT`` names, with commas between
them, what is to be taken for missing, or says ``all``: so the ways of other systems, macOS above
all, are tried on Linux (``make test-without``).
"""

from __future__ import annotations

import os
import select
import sys

__all__ = [
    "AFFINITY",
    "ALLOCATES",
    "EPOLL",
    "FDS_LAST",
    "FORKS_WELL",
    "LINUX",
    "MACOS",
    "MEMFD",
    "PARENT_SIGNAL",
    "PIDFD",
    "PIPE_SIGNAL",
    "PROC",
    "SLEEPS",
    "SWITCHES",
    "WINDOWS",
    "without",
]

SWITCHES = (
    *("affinity", "allocate", "epoll", "fds", "forking", "memfd"),
    *("parent-signal", "pidfd", "pipe-signal", "proc", "sleeps"),
)
_VARIABLE = "PARALLELKIT_WITHOUT"


def without() -> list[str]:
    """Return what the environment says is to be taken for missing."""
    words = os.environ.get(_VARIABLE, "").replace(",", " ").split()
    for word in words:
        if word != "all" and word not in SWITCHES:
            raise ValueError(f"{_VARIABLE}={word!r}: it can be all, or some of {SWITCHES}")
    return list(SWITCHES) if "all" in words else words


_missing = without()


def _has(name: str, there: bool) -> bool:
    return there and name not in _missing


LINUX = sys.platform.startswith("linux")
MACOS = sys.platform == "darwin"
WINDOWS = sys.platform == "win32"
# How many cores a process may use: `os.sched_getaffinity`.
AFFINITY = _has("affinity", hasattr(os, "sched_getaffinity"))
# Room in a file is reserved, or refused, by one call: `os.posix_fallocate`.
ALLOCATES = _has("allocate", hasattr(os, "posix_fallocate"))
EPOLL = _has("epoll", hasattr(select, "epoll"))
# A descriptor that is under way outlives that of its sender. On macOS it may be lost with it.
FDS_LAST = _has("fds", not MACOS)
# A process with one thread may be forked, whatever it has imported. On macOS the frameworks that
# numpy may load (Accelerate) have crashed in the child, so there the default is to spawn.
FORKS_WELL = _has("forking", hasattr(os, "fork") and not MACOS)
# Memory without a name that has a descriptor: `os.memfd_create`.
MEMFD = _has("memfd", hasattr(os, "memfd_create"))
# The kernel ends a process with its parent: `prctl`.
PARENT_SIGNAL = _has("parent-signal", LINUX)
# A process has a descriptor that tells its end.
PIDFD = _has("pidfd", hasattr(os, "pidfd_open"))
# The kernel ends a process when a pipe is closed: `F_SETSIG`.
PIPE_SIGNAL = _has("pipe-signal", LINUX)
# What the kernel tells of processes, as files. Nothing can be opened where there are none.
PROC = "/proc" if _has("proc", LINUX) else os.path.join(os.devnull, "proc")
# The kernel counts how often a thread has gone to sleep: `RUSAGE_THREAD`.
SLEEPS = _has("sleeps", LINUX)
