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

from . import ending, malloc
from .channel import Channel
from .worker import serve

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


def spawned(fd: int, end: int) -> None:
    """Be the worker that a fresh interpreter was started for; its `end` is seen by a pipe's."""
    os.set_inheritable(end, False)
    settle()
    live(socket.socket(fileno=fd), end)


def live(sock: socket.socket, end: int | None = None, below_server: bool = False) -> None:
    """Be a worker until the parent hangs up or is gone."""
    sock.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with_parent(below_server)
    malloc.keep()
    serve(Channel(sock), end)
    ending.leave()


def _die_with_parent(below_server: bool) -> None:
    """Arrange that this process ends when its parent does, even in the middle of an item.

    On Linux the kernel does it below a fork server. It counts from the thread that started the
    process, which for the other start methods may be one that ends earlier, so there, and
    elsewhere, a thread looks twice a second whether the parent is still the same.
    """
    parent = os.getppid()
    if sys.platform.startswith("linux") and below_server:
        pr_set_pdeathsig = 1
        if ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL) == 0:
            if os.getppid() != parent:  # it ended in between
                os.kill(os.getpid(), signal.SIGKILL)
            return
    threading.Thread(
        target=_watch_parent, args=(parent,), name="parallelkit-orphan", daemon=True
    ).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
