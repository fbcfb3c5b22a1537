"""Cores shared out among the programs of one user on one machine that ask for it.

Each program keeps a file in a folder of the user's, and a lock on it for as long as it lives, which
the system lets go whatever ends it. Whoever looks tries the locks of the others: a file that is not
locked is left over, and is removed. Programs that do not ask for a fair share are not counted.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from typing import Any, NamedTuple

from .descriptors import identity

fcntl: Any
try:
    import fcntl
except ImportError:  # not on this system: each program is alone
    fcntl = None

__all__ = ["leave", "share"]

OFTEN = 0.5  # seconds between two looks at who is there

_lock = threading.RLock()


class _File(NamedTuple):
    """The file of this program, by which others see it."""

    pid: int
    fd: int
    path: str
    of: tuple[int, int] | None  # what the descriptor is of


_own: _File | None = None
_seen: tuple[float, int, int] = 0.0, 0, 1  # when who was there: rank of this program, and how many


def share(cores: int) -> int:
    """How many of `cores` are this program's, which is counted from now on; at least one."""
    global _seen
    if fcntl is None:
        return cores
    with _lock:
        now = time.monotonic()
        if _own is None or _own.pid != os.getpid() or not now - _seen[0] < OFTEN:
            try:
                _seen = (now, *_look())
            except OSError:  # no folder to write to, or somebody else's
                _seen = now, 0, 1
        _, rank, programs = _seen
    base, extra = divmod(cores, programs)
    return max(1, base + (rank < extra))


def leave() -> None:
    """Be counted no more, until the next time."""
    global _own
    with _lock:
        own, _own = _own, None
        if own is not None and own.pid == os.getpid():
            with contextlib.suppress(OSError):
                os.unlink(own.path)
                os.rmdir(os.path.dirname(own.path))  # who is the last
            _close(own)


def _look() -> tuple[int, int]:
    while True:
        folder = _folder()
        try:
            mine = _entered(folder)
            break
        except FileNotFoundError:  # who was the last here has just taken the folder away
            continue
    names = sorted(name for name in os.listdir(folder) if name == mine or _alive(folder, name))
    return names.index(mine), len(names)


def _folder() -> str:
    """The folder of this user's programs.

    Raises
    ------
    OSError
        If it is not this user's alone.
    """
    user = os.getuid()
    folder = os.path.join(tempfile.gettempdir(), f"parallelkit-fair-{user}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if found.st_uid != user or found.st_mode & 0o077 or os.path.islink(folder):
        raise PermissionError(folder)
    return folder


def _entered(folder: str) -> str:
    """Name of the file of this program, made and locked if it is not there."""
    global _own
    if _own is not None:
        if _own.pid == os.getpid() and _is_ours(_own) and os.path.exists(_own.path):
            return os.path.basename(_own.path)
        # A copy of the parent's, which keeps its lock; or somebody has removed or closed it.
        _close(_own)
        _own = None
    while True:
        name = f"{os.getpid()}-{os.urandom(4).hex()}"
        path = os.path.join(folder, name)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        # A lock of the process, not of the descriptor: what is forked from here has none.
        try:
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            os.unlink(path)
            os.close(file)
            raise
        if os.path.exists(path):  # else it was taken for left over before it was locked
            _own = _File(os.getpid(), file, path, identity(file))
            return name
        os.close(file)


def _is_ours(own: _File) -> bool:
    """Whether the descriptor is still of that file; a program may close all that there are."""
    return identity(own.fd) == own.of


def _close(own: _File) -> None:
    if _is_ours(own):
        os.close(own.fd)


def _alive(folder: str, name: str) -> bool:
    """Whether the program of a file lives; its file goes if it does not."""
    path = os.path.join(folder, name)
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False
