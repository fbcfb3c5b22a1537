"""How workers are started where processes can be forked, by the start method."""

# ruff: noqa: SLF001 - what a process of multiprocess has for who starts it

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from multiprocessing.connection import wait as wait_for
from typing import Any

from multiprocess import popen_fork, popen_forkserver, util

from ...place import system
from ...transport.channel import Channel
from ...worker.ending import kill_with_children
from . import forkserver, launch, warden
from .launch import pair

__all__ = ["POPEN", "channel", "interrupt", "pair", "poll", "wakers"]


class _Polled:
    """The pool's thread and ours both ask for the exit code, which can be read just once."""

    pid: int
    returncode: int | None

    def __init__(self, process: Any) -> None:
        self._polling = threading.Lock()
        super().__init__(process)  # type: ignore[call-arg]

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Exit code, or None while the process lives."""
        if flag != os.WNOHANG:
            return super().poll(flag)  # type: ignore[misc,no-any-return]
        with self._polling:
            return super().poll(flag)  # type: ignore[misc,no-any-return]

    def stop(self) -> None:
        """End the process, whatever it does, and what its items have started."""
        if self.returncode is None:
            kill_with_children(self.pid)
            forkserver.rouse()  # it is to tell of the end

    def lose(self) -> None:
        """The same without descriptors, which are somebody else's by now."""
        self.returncode = -signal.SIGKILL
        try:
            if os.getsid(self.pid) == os.getsid(0):  # it is the one that was started
                kill_with_children(self.pid)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


class _ForkPopen(_Polled, popen_fork.Popen):  # type: ignore[misc]
    """Start by fork."""

    def _launch(self, process: Any) -> None:
        process.connect()
        process.life = warden.life()
        self.sentinel, process.end = os.pipe()
        self.finalizer = util.Finalize(self, os.close, (self.sentinel,))
        try:
            self.pid = os.fork()
            if self.pid == 0:
                code = 1
                try:
                    os.close(self.sentinel)
                    code = process._bootstrap()
                finally:
                    os._exit(code)
        finally:
            os.close(process.end)
        warden.watch(self.pid)


class _ForkServerPopen(_Polled, popen_forkserver.Popen):  # type: ignore[misc]
    """Start by a fork server of our own, which has loaded what every worker needs."""

    server = "forkserver"

    def _launch(self, process: Any) -> None:
        ours, self.pid, self.sentinel = forkserver.fork(self.server)
        process.connect(ours)
        self.finalizer = util.Finalize(self, os.close, (self.sentinel,))

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the server tells of the worker's end, also where somebody has stopped it."""
        if timeout is None:
            while self.returncode is None and not wait_for([self.sentinel], forkserver.PATIENCE):
                forkserver.rouse()
        return super().wait(timeout)  # type: ignore[no-any-return]


class _DefaultPopen(_ForkServerPopen):
    """Start by a fork server that may be a copy of this process."""

    server = forkserver.DEFAULT


class _SpawnPopen(_Polled, popen_fork.Popen):  # type: ignore[misc]
    """Start in a fresh interpreter."""

    def _launch(self, process: Any) -> None:
        process.connect()
        self.sentinel, end = os.pipe()  # the worker's end of it is closed when it ends
        end = launch.apart(end)
        self.finalizer = util.Finalize(self, os.close, (self.sentinel,))
        fds = process.theirs.fileno(), end, warden.life()
        try:
            code = f"from parallelkit.worker.bootstrap import spawned; spawned{fds}"
            started = launch.run(code, fds)
            self.pid, started.returncode = started.pid, 0  # its end is waited for here
        finally:
            os.close(end)
        warden.watch(self.pid)


POPEN = {
    "fork": _ForkPopen,
    "spawn": _SpawnPopen,
    "forkserver": _ForkServerPopen,
    forkserver.DEFAULT: _DefaultPopen,
}


def channel(end: socket.socket, sentinel: int) -> Channel:  # noqa: ARG001 - its end tells
    """Return what talks to a worker by our end of a pair."""
    return Channel(end)


def interrupt(pid: int) -> None:
    """Send SIGINT; a worker takes it as a hint to look for what its parent gave up."""
    try:
        os.kill(pid, signal.SIGINT)
    except ProcessLookupError:
        pass


def poll() -> Any:
    """Return what waits for many descriptors."""
    return select.epoll() if system.EPOLL else _Poll()


def wakers(poll: Any) -> tuple[Any, Any]:
    """Return something to send a byte to that wakes who polls, and what reads it."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    poll.register(ends[1], select.POLLIN)
    return ends


class _Poll:
    """`select.poll` with the face of `select.epoll`, where there is none; for several threads."""

    def __init__(self) -> None:
        self._masks: dict[int, int] = {}

    def register(self, source: Any, mask: int) -> None:
        """Listen to a descriptor, or what has one, from the next time on that somebody waits."""
        self._masks[source if isinstance(source, int) else source.fileno()] = mask

    def unregister(self, fd: int) -> None:
        """Listen to it no more."""
        del self._masks[fd]

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait for seconds."""
        poll = select.poll()
        for fd, mask in self._masks.copy().items():
            poll.register(fd, mask)
        return poll.poll(None if timeout is None else timeout * 1000)

    def close(self) -> None:
        """Nothing is open."""
