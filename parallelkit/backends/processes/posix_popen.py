"""How pathos starts workers where processes can be forked, by the start method."""

# ruff: noqa: SLF001 - what a process of multiprocess has for who starts it

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import CodeType, FrameType
from typing import Any

from multiprocess import popen_fork, util

from ...worker.ending import kill_with_children
from . import forkserver, launch, warden

__all__ = ["POPEN"]

PATIENCE = 2.0  # seconds for programs that other threads are starting


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

    def lose(self) -> None:
        """The same without descriptors, which are somebody else's by now."""
        self.returncode = -signal.SIGKILL
        try:
            if os.getsid(self.pid) == os.getsid(0):  # it is the one that was started
                kill_with_children(self.pid)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def _wait_for_programs() -> None:
    """Wait while another thread is starting a program, but not for long.

    It waits for the end of a pipe, which a process that is forked in that moment would hold open
    for as long as it lives.
    """
    popen: Any = getattr(sys.modules.get("subprocess"), "Popen", None)
    code = getattr(getattr(popen, "_execute_child", None), "__code__", None)
    deadline = time.monotonic() + PATIENCE
    while code is not None and _runs(code) and time.monotonic() < deadline:
        time.sleep(0.001)


def _runs(code: CodeType) -> bool:
    """Whether another thread is in a function with this code."""
    frames = sys._current_frames()
    del frames[threading.get_ident()]
    for frame in frames.values():
        at: FrameType | None = frame
        while at is not None:
            if at.f_code is code:
                return True
            at = at.f_back
    return False


class _ForkPopen(_Polled, popen_fork.Popen):  # type: ignore[misc]
    """Start by fork."""

    def _launch(self, process: Any) -> None:
        process.connect()
        process.life = warden.life()
        self.sentinel, process.end = os.pipe()
        self.finalizer = util.Finalize(self, os.close, (self.sentinel,))
        try:
            _wait_for_programs()
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


class _ForkServerPopen:
    """A worker that was forked by a fork server; the face of multiprocess' Popen."""

    method = "forkserver"
    finalizer = None

    def __init__(self, process: Any) -> None:
        self._forked = process.forked
        self.pid: int = self._forked.pid
        self.sentinel: int = self._forked.sentinel
        self.wait = self._forked.wait
        self.kill = self.terminate = self.stop = self._forked.kill

    @property
    def returncode(self) -> int | None:
        """Exit code, once it is known."""
        code: int | None = self._forked.returncode
        return code

    def poll(self, _: int = 0) -> int | None:
        """Exit code, or None while the process lives."""
        code: int | None = self._forked.poll()
        return code

    def close(self) -> None:
        """Nothing is held but by the worker itself."""


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
    **dict.fromkeys(forkserver.METHODS, _ForkServerPopen),
}
