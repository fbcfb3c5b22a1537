"""The fork server: a process that has imported what every worker needs, and forks them.

::

    parent                                      server
    a byte, and two descriptors: a pipe's   ─►
    end for reports, a worker's socket
                                            ◄─  on the pipe: the worker's id, and when it has
                                                ended, its exit code

It has one thread and nothing of the parent's, so that its forks are safe. It ends when the parent
closes its end of the socket pair, or is gone.
"""

from __future__ import annotations

import codecs
import gc
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from ..transport import carried
from . import bootstrap, output, preload
from .ending import kill_with_children

__all__ = ["main", "prepare", "serve"]

_PATIENCE = 1.0  # seconds for workers that have been killed to end
_NUMBER = struct.Struct("q")  # ids and exit codes, which `backends` reads


def main(fd: int, names: Sequence[str] = ()) -> None:
    """Serve the parent at the other end of a socket pair, in an interpreter started for that.

    `names` are of modules to be imported before the first fork.
    """
    bootstrap.settle()
    preload.load(names)
    import multiprocessing  # noqa: F401 - which has the key of the caller, for its managers

    prepare()
    gc.freeze()  # what is imported stays; no worker is to look through it, or to copy its pages
    gc.enable()
    serve(fd)


def prepare() -> None:
    """Do once, rather than in each worker, what all of them do when they are greeted.

    What they import then would also make each of them look for numerical libraries once more.
    """
    codecs.lookup("ascii")  # files of the kernel are read by it
    output.set_filters(output.filters())  # whose patterns are compiled
    carried.note()
    sys.modules.setdefault("__mp_main__", sys.modules["__main__"])  # as the script has it there


def serve(fd: int) -> None:
    """Fork workers as the parent asks for them; in each of them, work. Does not return."""
    with socket.socket(fileno=fd) as requests:
        worker = _Server(requests).run()
    if worker is not None:
        bootstrap.live(worker)
    os._exit(0)


class _Server:
    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._reports: dict[int, int] = {}  # by worker: the pipe that its exit code is told on

    def run(self) -> socket.socket | None:
        """Fork workers. Return in each of them, with its socket, and at the end, with None."""
        ended, wakeup = os.pipe()
        os.set_blocking(ended, False)
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        before = signal.signal(signal.SIGCHLD, lambda *_: None)  # so that it wakes us up
        poll = select.poll()
        poll.register(self._requests, select.POLLIN)
        poll.register(ended, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if ended in ready:
                os.read(ended, 1 << 16)
                self._reap()
            if self._requests.fileno() in ready:
                byte, fds, _, _ = socket.recv_fds(self._requests, 1, 2)
                if not byte:
                    self._end()
                    return None
                if self._fork(fds) == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, before)
                    for fd in (ended, wakeup, fds[0], *self._reports.values()):
                        os.close(fd)
                    return socket.socket(fileno=fds[1])

    def _fork(self, fds: list[int]) -> int | None:
        """Fork; return 0 in the child. Where it is impossible, the parent is told by silence."""
        pid = None
        if len(fds) == 2:  # there was room for both
            with suppress(OSError):
                pid = os.fork()
        if pid == 0:
            return 0
        if pid is not None:
            report = fds.pop(0)
            self._reports[pid] = report
            _tell(report, pid)
        for fd in fds:
            os.close(fd)
        return pid

    def _end(self) -> None:
        """End the workers that are left with what their items have started, and wait for them.

        So nothing is left for the system's init to reap, which a container may not have.
        """
        for worker in self._reports:
            kill_with_children(worker)
        deadline = time.monotonic() + _PATIENCE
        while self._reports and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.001)

    def _reap(self) -> None:
        """Tell the exit codes of workers that have ended."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                report = self._reports.pop(pid, None)
                if report is not None:
                    _tell(report, os.waitstatus_to_exitcode(status))
                    os.close(report)


def _tell(report: int, number: int) -> None:
    with suppress(BrokenPipeError):  # nobody wants to know any more
        os.write(report, _NUMBER.pack(number))
