"""The fork server as this process sees it.

It is started by the first call, before that call's own imports, and imports while this process
does; so this module itself needs to be imported fast.

The two are connected by a socket pair. There is no address, and the server ends when this end of
it is closed, by whatever ends this process.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading

from ...errors import ParallelError
from . import launch

__all__ = ["PATIENCE", "fork", "rouse", "shutdown", "start"]

PATIENCE = 1.0  # seconds for an answer of it, or its end
TRIES = 10
_NUMBER = struct.Struct(
    "q"
)  # as `worker.forkserver` writes it; to import that here would take too long


class _Server:
    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may shut down
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def start(self) -> None:
        """Start it if it does not run; do not wait for it."""
        with self._lock:
            if self._process is not None and self._requests is not None:
                if not self._is_gone():
                    return
                self._requests.close()
                self._process.wait()
            self.disown()
            self._requests, theirs = launch.pair()
            with theirs:
                try:
                    # numpy is dear to import, and dearer in every worker.
                    code = (
                        "import gc; gc.disable(); from parallelkit.worker.forkserver import main; "
                        f"main({theirs.fileno()}, {'numpy' in sys.modules})"
                    )
                    self._process = launch.run(code, [theirs.fileno()])
                except BaseException:
                    self.disown()
                    raise

    def _is_gone(self) -> bool:
        """Whether it has ended, and its end of the socket with it."""
        assert self._requests is not None
        try:
            return not self._requests.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    def fork(self, theirs: socket.socket) -> tuple[int, int]:
        """Have a worker forked that serves a socket; return its id, and where its end is told."""
        for _ in range(TRIES):  # a server that was killed a moment ago gets a successor
            self.start()
            status, report = os.pipe()
            try:
                try:
                    self._ask(report, theirs)
                finally:
                    os.close(report)
                answer = select.poll()
                answer.register(status, select.POLLIN)
                while not answer.poll(PATIENCE * 1000):
                    self.rouse()
                number = os.read(status, _NUMBER.size)
                if number:
                    return _NUMBER.unpack(number)[0], status
            except ConnectionError:
                pass
            except BaseException:
                os.close(status)
                raise
            os.close(status)
        raise ParallelError("the fork server could not start a worker")

    def rouse(self) -> None:
        """Let it go on if somebody has stopped it."""
        with self._lock:
            if self._process is not None:
                self._process.send_signal(signal.SIGCONT)

    def _ask(self, report: int, theirs: socket.socket) -> None:
        with self._lock:
            if self._requests is None:
                raise ParallelError("the fork server was shut down")
            socket.send_fds(self._requests, [b"w"], [report, theirs.fileno()])

    def stop(self) -> None:
        """End it. It must have no workers any more."""
        with self._lock:
            process = self._process
            if process is not None and self._requests is not None:
                self._requests.close()
                process.send_signal(signal.SIGCONT)  # it may have been stopped
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            self.disown()

    def disown(self) -> None:
        """Forget the server; it ends when nobody else holds its socket."""
        if self._requests is not None:
            self._requests.close()
        if self._process is not None:
            self._process.returncode = 0  # or it would warn that it still runs
        self._process = self._requests = None


def start() -> None:
    """Start the server if there is none; do not wait for it."""
    _server.start()


def fork(theirs: socket.socket) -> tuple[int, int]:
    """Have a worker forked that serves a socket; return its id, and where its end is told."""
    return _server.fork(theirs)


def rouse() -> None:
    """Let the server go on if somebody has stopped it."""
    _server.rouse()


def shutdown() -> None:
    """End the server."""
    _server.stop()


def _after_fork() -> None:
    """In a forked child: the server is the parent's, and could not end while we hold its socket."""
    global _server
    _server.disown()
    _server = _Server()


_server = _Server()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
