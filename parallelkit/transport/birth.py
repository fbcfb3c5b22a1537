"""How a worker process comes to life, on its own side.

What crosses at a worker's birth is one object of :class:`Newborn`: a process of multiprocess'
kind that holds the worker's end of a socket pair. `__main__` is not imported; what functions
need of it comes with them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from importlib.machinery import PathFinder
from typing import Any

from multiprocess.process import BaseProcess

from . import ending, malloc
from .channel import Channel
from .worker import serve

__all__ = ["Newborn", "live"]


class Newborn(BaseProcess):  # type: ignore[misc]
    """The process object as the child sees it."""

    _start_method = None

    def __init__(self, name: str, handle: Any, standard: Sequence[str]) -> None:
        super().__init__(name=name)
        self._handle = handle
        self._standard = standard

    def run(self) -> None:
        """Serve the parent at the other end of the socket."""
        sys.meta_path.insert(0, _StandardFinder(self._standard, list(sys.path)))
        live(socket.socket(fileno=self._handle.detach()))


class _StandardFinder:
    """Finds those modules in the standard library that the parent has from there.

    A file of the user's that is called like one hides it in the worker only if it does so in the
    parent, where it may have come too late.
    """

    def __init__(self, names: Sequence[str], path: list[str]) -> None:
        self._names = frozenset(names)
        self._path = path  # begins with the standard library

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:  # noqa: ARG002 - the protocol's
        """Find a module, or leave it to the next finder."""
        return PathFinder.find_spec(name, self._path) if name in self._names else None


def live(sock: socket.socket) -> None:
    """Be a worker until the parent hangs up or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _leave_fork_server()
    _die_with_parent()
    malloc.keep()
    serve(Channel(sock))
    ending.leave()


def _leave_fork_server() -> None:
    """Let go of the pipe that keeps the fork server alive, so that it ends with the parent."""
    from multiprocess import forkserver

    server = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None


def _die_with_parent() -> None:
    """Arrange that this process ends when its parent does, even in the middle of an item.

    On Linux the kernel does it below a fork server. It counts from the thread that started the
    process, which for the other start methods may be one that ends earlier, so there, and
    elsewhere, a thread looks twice a second whether the parent is still the same.
    """
    parent = os.getppid()
    if sys.platform.startswith("linux") and _below_fork_server():
        pr_set_pdeathsig = 1
        if ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL) == 0:
            if os.getppid() != parent:  # it ended in between
                os.kill(os.getpid(), signal.SIGKILL)
            return
    threading.Thread(
        target=_watch_parent, args=(parent,), name="parallelkit-orphan", daemon=True
    ).start()


def _below_fork_server() -> bool:
    from multiprocess import forkserver

    return forkserver._forkserver._inherited_fds is not None


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
