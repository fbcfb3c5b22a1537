"""How a worker process comes to life, on its own side.

All that crosses at a worker's birth is its end of a socket pair; the rest comes with the first
message. `__main__` is not imported; what functions need of it comes with them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time

from ..place import malloc, system
from ..transport.channel import Channel
from . import ending
from .process import serve

__all__ = ["live", "settle", "spawned"]


def settle() -> None:
    """In an interpreter started for workers: take no input, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # see `launch`; and the caller may block some
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:  # closed: nothing else is to get this number
            os.open(os.devnull, os.O_RDWR)
    try:
        if sys.stdin is not None:
            sys.stdin.close()
            sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - for good
    except (OSError, ValueError):
        pass


def spawned(fd: int, end: int, life: int) -> None:
    """Be the worker that a fresh interpreter was started for; its `end` is seen by a pipe's."""
    os.set_inheritable(end, False)
    os.set_inheritable(life, False)
    settle()
    live(socket.socket(fileno=fd), end, life)


def live(sock: socket.socket, end: int | None = None, life: int | None = None) -> None:
    """Be a worker until the parent hangs up or is gone.

    One that was not forked by the fork server has ends of two pipes: `end`, by whose closing the
    parent sees that it has ended, and `life`, by which it sees the same of the parent.
    """
    sock.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with_parent(life)
    malloc.keep()
    serve(Channel(sock), end)
    ending.leave()


def _die_with_parent(life: int | None) -> None:
    """Arrange that this process ends when its parent does, even in the middle of an item.

    The kernel does it where it can. Below a fork server it watches the parent; that is, the thread
    that started the process, which for the other start methods may be one that ends earlier, so
    there it watches a pipe. Elsewhere a thread looks twice a second whether the parent is the same.
    """
    parent = os.getppid()
    if life is None:
        if system.PARENT_SIGNAL:
            pr_set_pdeathsig = 1
            if ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL) == 0:
                if os.getppid() != parent:  # it ended in between
                    os.kill(os.getpid(), signal.SIGKILL)
                return
    elif system.PIPE_SIGNAL and _die_with_pipe(life):
        return
    threading.Thread(
        target=_watch_parent, args=(parent,), name="parallelkit-orphan", daemon=True
    ).start()


def _die_with_pipe(life: int) -> bool:
    """Have the kernel end this process when nobody can write to a pipe any more."""
    import fcntl

    try:
        # Opened anew: what follows is a matter of an open file, and others have the same.
        own = os.open(f"{system.PROC}/self/fd/{life}", os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
        os.read(own, 1)
    except BlockingIOError:  # as long as somebody can
        return True
    except OSError:
        return False
    os.kill(os.getpid(), signal.SIGKILL)
    return True


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    ending.kill_below(os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)
