"""A worker that a fork server has forked, as this process sees it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from ...worker.ending import kill_with_children
from . import family, forkserver

__all__ = ["Forked", "OnFailure", "OnStart"]

OnStart = Callable[[Any, socket.socket], None]
OnFailure = Callable[[BaseException], None]

_LOST = 255  # exit code of a worker whose fork server could not tell it any more


class Forked:
    """A worker that was forked by a fork server.

    Parameters
    ----------
    server : str
        Start method of the server.
    """

    def __init__(self, server: str) -> None:
        self.ours, self.pid, self.sentinel, self._ended = forkserver.fork(server)
        self.returncode: int | None = None
        self._owner = os.getpid()  # of the descriptor
        self._polling = threading.Lock()  # the code can be read just once

    def poll(self) -> int | None:
        """Exit code, or None while the process lives."""
        with self._polling:
            if self.returncode is None and family.wait_for([self.sentinel], 0):
                try:
                    code = forkserver.number_at(self.sentinel)
                except OSError:
                    code = None
                self.returncode = _LOST if code is None else code
                self._ended()
            return self.returncode

    @property
    def exitcode(self) -> int | None:
        """The same, as processes of `multiprocessing` have it."""
        return self.poll()

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the server tells of the worker's end, also where somebody has stopped it."""
        if timeout is not None:
            family.wait_for([self.sentinel], timeout)
            return self.poll()
        while self.poll() is None:
            if not family.wait_for([self.sentinel], forkserver.PATIENCE):
                forkserver.rouse()
        return self.returncode

    def kill(self) -> None:
        """End the process, whatever it does, and what its items have started."""
        if self.returncode is None:
            kill_with_children(self.pid)
            forkserver.rouse()  # it is to tell of the end

    def lose(self) -> None:
        """End the process, whose descriptor is somebody else's by now."""
        self._owner = 0
        if self.returncode is None:
            self.returncode = -9
            try:
                if os.getsid(self.pid) == os.getsid(0):  # it is the one that was started
                    kill_with_children(self.pid)
            except ProcessLookupError:
                pass
            self._ended()

    def __del__(self) -> None:
        if getattr(self, "_owner", 0) == os.getpid():
            os.close(self.sentinel)
