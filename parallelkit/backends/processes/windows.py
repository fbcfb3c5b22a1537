"""How workers are started and ended on Windows: a fresh interpreter each, in a job of its own.

A job ends with the last handle to it, and all processes in it: so nothing that a worker has
started outlives the worker, or this process, by whatever cause it ends.
"""

# ruff: noqa: SLF001 - what a process of subprocess has for who waits for it

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import spawn  # noqa: F401 - names another program for services
from multiprocessing.connection import wait
from typing import Any

from ...place import host, system
from ...place.windows import kernel
from ...transport.anonymous_windows import given
from ...transport.pipes import Bell, PipeChannel, Poll, ProcessEnd, pair
from ...worker.jobs import Job
from . import launch

# What is there on Windows only; types are checked on other systems too.
_winapi: Any = importlib.import_module("_winapi") if system.WINDOWS else None

__all__ = [
    "EARLY",
    "KILLED",
    "channel",
    "interrupt",
    "pair",
    "poll",
    "popen",
    "started",
    "wait_for",
    "wakers",
]

_NEW_PROCESS_GROUP, _NO_WINDOW = 0x200, 0x8000000
_INVALID_HANDLE = 6
KILLED = 1  # exit code of what was ended


class Started:
    """A worker in a fresh interpreter, as this process sees it; the face of `forked.Forked`."""

    def __init__(self) -> None:
        self.returncode: int | None = None  # once it is known
        self.ours, theirs = pair()
        try:
            self._start(theirs)
        except BaseException:
            self.ours.close()
            raise
        finally:
            theirs.close()

    def _start(self, theirs: Any) -> None:
        code = "from parallelkit.worker.windows import spawned; spawned()"
        guarded = f"import sys; sys.path[:] = {launch.first_path()!r}; {code}"
        flags = [*subprocess._args_from_interpreter_flags(), "-P"]  # type: ignore[attr-defined]
        environment = host.variables()
        python = launch.interpreter()
        base = _behind(python)
        if base != python:
            environment["__PYVENV_LAUNCHER__"] = python
            python = base
        self._process = started = _program([python, *flags, "-c", guarded], environment)
        started.returncode = 0  # its end is waited for here
        self.pid = started.pid
        self.sentinel = int(started._handle)  # type: ignore[attr-defined]
        self._job = Job()
        # A worker that ends by itself leaves what its items have started.
        self.end = ProcessEnd(self.sentinel, started, then=functools.partial(self._job.end, KILLED))
        try:
            self._job.take(self.sentinel)
            pipe = given(theirs.fileno(), self.sentinel)
            # By the other it gives us memory.
            us = given(_winapi.GetCurrentProcess(), self.sentinel)
            assert started.stdin is not None
            with started.stdin as told:
                told.write(b"%d %d\n" % (pipe, us))
        except BaseException:
            _end(self.sentinel)
            raise

    @property
    def exitcode(self) -> int | None:
        """Exit code, or None while the process lives."""
        return self.poll()

    def poll(self) -> int | None:
        """The same."""
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end."""
        if self.returncode is None and wait_for([self.sentinel], timeout):
            self.returncode = _winapi.GetExitCodeProcess(self.sentinel)
        return self.returncode

    def kill(self) -> None:
        """End the process, and what its items have started."""
        self._job.end(KILLED)
        _end(self.sentinel)

    lose = kill


class _Popen:
    """The same for pathos; the face of multiprocess' Popen.

    Its pool waits for the sentinels of all workers at once, and Windows lets nobody wait for more
    than 63: so the workers of a pool have one, which is rung at the end of any.
    """

    method = "spawn"
    finalizer = None

    def __init__(self, process: Any) -> None:
        self._started: Started = process.forked
        owner = process._owner
        if owner.any_end is None:
            owner.any_end = Bell(for_one=True)
        self._started.end.tell_too(owner.any_end)
        self.pid = self._started.pid
        self.sentinel: int = owner.any_end.handle
        self.wait = self._started.wait
        self.kill = self.terminate = self.stop = self._started.kill

    @property
    def returncode(self) -> int | None:
        """Exit code, once it is known."""
        return self._started.returncode

    def poll(self, _: int = 0) -> int | None:
        """Exit code, or None while the process lives."""
        return self._started.poll()

    def close(self) -> None:
        """Nothing is held but by the worker itself."""


def _behind(python: str) -> str:
    """Return the interpreter behind one of a virtual environment, or the same.

    The environment's is a launcher: it starts another process, which would be the worker. A file
    tells of what: https://peps.python.org/pep-0405/.
    """
    if python == sys.executable:
        return getattr(sys, "_base_executable", None) or python
    folder, name = os.path.split(os.path.abspath(python))
    for place in (folder, os.path.dirname(folder)):
        try:
            with open(os.path.join(place, "pyvenv.cfg"), encoding="utf-8") as file:
                lines = [line.partition("=") for line in file]
        except OSError:
            continue
        for key, _, home in lines:
            if key.strip().lower() == "home":
                return os.path.join(home.strip(), name)
    return python


def _end(process: int) -> None:
    """End a process, by its handle."""
    try:
        _winapi.TerminateProcess(process, KILLED)
    except OSError:
        pass  # it has ended


def _program(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a program, whose output is that of this process.

    Another thread may redirect that at this moment, or it was closed behind Python's back.
    """
    for pause in (0.01, 0.1, None):
        try:
            return subprocess.Popen(  # noqa: S603 - our own command
                command,
                stdin=subprocess.PIPE,
                stdout=_passed_on(_winapi.STD_OUTPUT_HANDLE, pause is None),
                stderr=_passed_on(_winapi.STD_ERROR_HANDLE, pause is None),
                env=environment,
                cwd=sys.exec_prefix,  # nobody can remove a folder in which a process stands
                creationflags=_flags(),
            )
        except OSError as error:
            if pause is None or getattr(error, "winerror", 0) != _INVALID_HANDLE:
                raise
            time.sleep(pause)
    raise AssertionError


def _passed_on(number: int, is_lost: bool) -> int | None:
    """Which output a worker has: that of this process, or where it has none, nowhere."""
    return None if _winapi.GetStdHandle(number) and not is_lost else subprocess.DEVNULL


def _flags() -> int:
    """How to be created: Ctrl-C is the parent's; where there is no console none is to open."""
    return _NEW_PROCESS_GROUP | (0 if kernel().GetConsoleCP() else _NO_WINDOW)


EARLY = ("spawn",)


def started(start_method: str) -> Started:  # noqa: ARG001 - there is but one
    """Start a worker."""
    return Started()


def popen(start_method: str) -> type[_Popen]:  # noqa: ARG001 - there is but one
    """Return what starts a process for pathos."""
    return _Popen


def wait_for(ends: Sequence[int], timeout: float | None = None) -> bool:
    """Wait until one of these handles is signalled; return whether one is."""
    return bool(wait(ends, timeout))


def channel(end: Any, sentinel: int) -> PipeChannel:
    """Return what talks to a worker by our end of a pair."""
    return PipeChannel(end, sentinel)


def interrupt(pid: int) -> None:
    """Nothing is to be done: a thread of the worker has read what was given up."""


def poll() -> Poll:
    """Return what waits for many sources."""
    return Poll()


def wakers(poll: Poll) -> tuple[Poll, Poll]:
    """Return what wakes who polls: it does so itself."""
    return poll, poll
