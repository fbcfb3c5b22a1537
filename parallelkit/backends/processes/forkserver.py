"""The fork servers as this process sees them.

::

    start_method=None           forked from this process where that is safe, which is looked at
                                after the fork; else a new one
    start_method="forkserver"   always a new one

One is started by the first call, before that call's own imports, and a new one imports while this
process does; so this module itself needs to be imported fast.

The two are connected by a socket pair. There is no address, and the server ends when this end of
it is closed, by whatever ends this process.
"""

from __future__ import annotations

import contextvars
import gc
import logging
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ...errors import ParallelError
from ...place import forksafe, importing, limits, system
from ...place.descriptors import identity, keep
from . import launch

if TYPE_CHECKING:
    import subprocess

__all__ = [
    "DEFAULT",
    "METHODS",
    "PATIENCE",
    "Preload",
    "clear_stock",
    "forced",
    "fork",
    "is_copy",
    "number_at",
    "renew",
    "rouse",
    "shutdown",
    "start",
]

log = logging.getLogger("parallelkit")

PATIENCE = 1.0  # seconds for an answer of it, or its end
TRIES = 10
IMPORTED = 100  # modules more than a copy has that are worth another one
SHRUNK = 256 << 20  # bytes that a copy may hold longer than this process
FAILED = 1  # exit code of a copy that could not let go of what is the caller's
DEFAULT = "default"  # what `start_method=None` stands for, where there is a fork server
METHODS = (DEFAULT, "forkserver")
ANEW = "the fork server is started anew"
_NUMBER = struct.Struct("q")  # as `worker.forkserver` writes it; to import that takes too long
_VARIABLE = "PARALLELKIT_FORK_SERVER"  # "forked" or "new": for tests of either


def forced() -> str | None:
    """Return which kind of server the environment asks for, whatever the start method says."""
    kind = os.environ.get(_VARIABLE)
    return kind if kind in ("forked", "new") else None


class _Server:
    def __init__(self, may_be_forked: bool) -> None:
        self._may_be_forked = may_be_forked
        self._lock = threading.RLock()  # a signal handler may shut down
        self._process: subprocess.Popen[bytes] | _Child | None = None
        self._requests: socket.socket | None = None
        self._identity: tuple[int, int] | None = None  # of that socket
        self._limits: tuple[object, ...] = ()  # of this process when it was started
        self._stock: deque[tuple[socket.socket, int]] = deque()  # of workers that nobody has yet
        self.preload = Preload()
        self._then: tuple[int, int] | None = None  # of a copy: what `_size` was when it was made
        self._workers = 0  # of this process that live, as far as is known
        self._retired = False  # it starts no more

    @property
    def runs(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    def is_outdated(self) -> bool:
        """Whether this process has become another than that of which the server is a copy.

        It has let go of much memory, which the copy holds; or it has imported much, and can be
        forked. What it has come to hold since is no reason: workers are told what they need of it.
        """
        if self._then is None or self._process is None:
            return False
        (modules, memory), (modules_then, memory_then) = _size(), self._then
        if memory_then - memory > max(SHRUNK, memory_then // 2):
            return True
        return modules - modules_then > IMPORTED and forksafe.why_not() is None

    def retire(self) -> None:
        """Let it end with the last of its workers."""
        with self._lock:
            self.clear_stock()
            self._retired = True
            if not self._workers:
                self.stop()

    def _worker_ended(self, process: object) -> None:
        """Take note that a worker of this process has ended."""
        with self._lock:
            if process is self._process:
                self._workers -= 1
                if self._retired and not self._workers:
                    self.stop()

    def start(self, *, safe: bool = False) -> None:
        """Start it if it does not run; do not wait for it.

        It is `safe` to fork this process where `is_copy` has just said so.
        """
        with self._lock:
            if self._is_lost():
                self._lose()
            if self._process is not None and self._requests is not None:
                if not self._is_gone():
                    if limits.ours() != self._limits:  # what it forks has its own
                        self._limits = limits.ours()
                        limits.like_ours(self._process.pid)
                    return
                self._requests.close()
                code = self._process.wait()
                if code in (forksafe.REFUSED, -signal.SIGALRM):
                    self.preload = Preload(())
                    log.debug("the fork server imports nothing: that has started threads, or hung")
                elif self._then is not None and code != -signal.SIGKILL:  # which comes from outside
                    self._may_be_forked = False
                    log.debug("%s: a copy of this process could not become one", ANEW)
            self.disown()
            self._then, self._workers = None, 0
            self._limits = limits.ours()
            self._requests, theirs = launch.pair()
            self._identity = identity(self._requests.fileno())
            with theirs:
                try:
                    self._process = self._forked(theirs, safe) or _anew(theirs, self.preload.all())
                    self.preload.forget()
                except BaseException:
                    self.disown()
                    raise

    def _forked(self, theirs: socket.socket, safe: bool) -> _Child | None:
        """Fork it from this process, if it is safe to do so."""
        wanted = forced()
        if wanted == "new" or not self._may_be_forked:
            return None
        why = forksafe.why_not(strictly=wanted is None, again=safe)
        if why is None:
            try:
                child = _fork(theirs, self.preload.named or ())
            except (OSError, RuntimeError) as error:  # no memory for it; the end of Python
                why = f"it cannot be forked ({error})"
            else:
                why = forksafe.why_not_after()
                assert self._requests is not None
                if why is None:
                    self._requests.send(b"g", socket.MSG_NOSIGNAL)
                    self._then = _size()
                    log.debug("the fork server is forked from this process")
                    return child
                child.kill()
                child.wait()
        log.debug("%s: %s", ANEW, why)
        return None

    def is_copy(self) -> bool:
        """Whether it is going to be forked from this process, as far as that is known before."""
        wanted = forced()
        return (
            self._may_be_forked
            and wanted != "new"
            and forksafe.why_not(strictly=wanted is None) is None
        )

    def _is_gone(self) -> bool:
        """Whether it has ended, and its end of the socket with it."""
        assert self._requests is not None
        try:
            return not self._requests.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    def stock(self, count: int) -> None:
        """Have workers forked that `fork` is going to ask for; do not wait for them."""
        for _ in range(count):
            ours, theirs = launch.pair()
            try:
                with theirs:
                    self._stock.append((ours, self._ask(theirs)))
            except (OSError, ParallelError):  # `fork` will tell, if it is still so then
                ours.close()
                return

    def clear_stock(self) -> None:
        """Let workers go that nobody has asked for."""
        while self._stock:
            ours, status = self._stock.popleft()
            ours.close()
            os.close(status)

    def fork(self) -> tuple[socket.socket, int, int, Callable[[], None]]:
        """Have a worker forked, see the function."""
        for _ in range(TRIES):  # a server that was killed a moment ago gets a successor
            if self._stock:
                ours, status = self._stock.popleft()
            else:
                self.start()
                ours, theirs = launch.pair()
                with theirs:
                    try:
                        status = self._ask(theirs)
                    except BaseException as error:
                        ours.close()
                        if isinstance(error, ConnectionError):
                            continue
                        raise
            try:
                number = self._answer(status)
                if number is not None:
                    with self._lock:
                        self._workers += 1
                        ended = partial(self._worker_ended, self._process)
                    return ours, number, status, ended
            except BaseException:
                ours.close()
                os.close(status)
                raise
            ours.close()
            os.close(status)
            self.clear_stock()  # of the same server
            if self._process is not None:  # it may have fewer means than this process by now
                limits.like_ours(self._process.pid)
        raise ParallelError(
            "the fork server could not start a worker: the system gives it too few processes, open "
            f"files or memory{limits.told()}; use fewer workers (workers=), or raise the limits"
        )

    def _answer(self, status: int) -> int | None:
        """Id of a worker that was asked for, or None where the server has not started it."""
        answer = select.poll()
        answer.register(status, select.POLLIN)
        while not answer.poll(PATIENCE * 1000):
            self.rouse()
        return number_at(status)

    def rouse(self) -> None:
        """Let it go on if somebody has stopped it."""
        with self._lock:
            if self._process is not None:
                self._process.send_signal(signal.SIGCONT)

    def _ask(self, theirs: socket.socket) -> int:
        """Ask for a worker that serves a socket; return where its id and its end are told."""
        status, report = os.pipe()
        try:
            with self._lock:
                if self._requests is None:
                    raise ParallelError("the fork server was shut down")
                socket.send_fds(self._requests, [b"w"], [report, theirs.fileno()])
                if not system.FDS_LAST:
                    self._wait_for(status)
        except BaseException:
            os.close(status)
            raise
        finally:
            os.close(report)
        return status

    def _wait_for(self, status: int) -> None:
        """Wait until the server has what was sent to it, as its answer shows, or has ended."""
        assert self._requests is not None
        answer = select.poll()
        answer.register(status, select.POLLIN)
        answer.register(self._requests, 0)  # for its end alone
        while not answer.poll(PATIENCE * 1000):
            self.rouse()

    def stop(self) -> None:
        """End it. It must have no workers any more."""
        with self._lock:
            if self._is_lost():
                self._lose()
            process = self._process
            if process is not None and self._requests is not None:
                self._requests.close()
                process.send_signal(signal.SIGCONT)  # it may have been stopped
                launch.see_off(process, PATIENCE)
            self.disown()

    def _lose(self) -> None:
        """End a server whose socket somebody has closed; others may have its number by now."""
        keep((self._requests, self._stock))
        self._stock = deque()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._requests = None

    def _is_lost(self) -> bool:
        return self._requests is not None and (identity(self._requests.fileno()) != self._identity)

    def disown(self) -> None:
        """Forget the server; it ends when nobody else holds its socket."""
        self.clear_stock()
        if self._requests is not None:
            self._requests.close()
        if self._process is not None:
            self._process.returncode = 0  # or it would warn that it still runs
        self._process = self._requests = None


class Preload:
    """What a server imports before it forks.

    Parameters
    ----------
    named : sequence of str or None
        Modules that the user has named; an empty one: nothing is to be imported.
    func : callable, optional
        The function of the first call.
    """

    def __init__(
        self, named: Sequence[str] | None = None, func: Callable[..., Any] | None = None
    ) -> None:
        self.named = named
        self._func = func
        self._found: list[str] = []  # what the function needs

    def all(self) -> tuple[str, ...]:
        """What a server imports that is started anew; a copy of this process has most of it."""
        if self.named is not None and not self.named:
            return ()
        if self._func is not None:
            from ...transport.needed import modules_of

            self._found = modules_of(self._func)
        # numpy is dear to import, and dearer in every worker.
        numpy = ["numpy"] if "numpy" in sys.modules else []
        return tuple(dict.fromkeys((*numpy, *self._found, *(self.named or ()))))

    def forget(self) -> None:
        """Let go of the function, which may hold on to much."""
        self._func = None


def _size() -> tuple[int, int]:
    """How many modules the program has imported, and its own memory in bytes."""
    return len(sys.modules) - importing.own, forksafe.memory()


def _anew(theirs: socket.socket, names: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start it in an interpreter of its own."""
    code = (
        "import gc; gc.disable(); from parallelkit.worker.forkserver import main; "
        f"main({theirs.fileno()}, {names!r})"
    )
    return launch.run(code, [theirs.fileno()])


def _fork(theirs: socket.socket, names: Sequence[str]) -> _Child:
    """Fork this process; the child waits to be told to go on."""
    path = launch.first_path()
    # No handler of the caller's is to run in the child, which takes them off before it goes on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    collects = gc.isenabled()
    gc.disable()  # what is garbage of the caller's does not come to its end in the child
    try:
        with warnings.catch_warnings():  # some warn of threads, which are looked at afterwards
            warnings.simplefilter("ignore")
            pid = os.fork()
            if pid == 0:
                try:
                    sys.path[:] = path
                    from ...worker import snapshot  # here, while the other goes on

                    contextvars.Context().run(snapshot.serve, theirs.fileno(), names)
                finally:
                    os._exit(FAILED)
    finally:
        if collects:
            gc.enable()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return _Child(pid)


class _Child:
    """A process that was forked from this one, as `subprocess.Popen` shows others."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Exit code, or None while the process lives."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
            except ChildProcessError:  # somebody else has waited for it
                self.returncode = 0
        return self.returncode

    def wait(self) -> int:
        """Wait for its end."""
        while self.poll() is None:
            time.sleep(0.0005)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it lives."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def start(start_method: str, stock: int, preload: Preload, *, safe: bool = False) -> None:
    """Start the server of a start method if there is none; do not wait for it.

    It begins with `stock` workers, which those get that ask for some soon. It is `safe` to fork
    this process where `is_copy` has just said so.
    """
    server = _servers[start_method]
    server.preload = preload
    server.start(safe=safe)
    server.stock(stock)


def is_copy(start_method: str) -> bool:
    """Whether the server of a start method is going to be a copy of this process."""
    return _servers[start_method].is_copy()


def clear_stock() -> None:
    """Let workers go that nobody has asked for."""
    for server in _servers.values():
        server.clear_stock()


def renew(start_method: str, named: Sequence[str] | None) -> None:
    """Before workers of a pool are started: replace a copy of this process that is outdated.

    It lives on as long as its workers do. `named` are modules that a server imports which is
    started from now on.
    """
    server = _servers[start_method]
    server.preload.named = named
    if server.is_outdated():
        log.debug("the fork server is replaced: this process has changed much since it was forked")
        _servers[start_method] = _new_servers()[start_method]
        _servers[start_method].preload.named = named
        _retired[:] = [server, *(other for other in _retired if other.runs)]
        server.retire()


def fork(start_method: str) -> tuple[socket.socket, int, int, Callable[[], None]]:
    """Have a worker forked.

    Return our end of its socket, its id, where its end is told, and what to call at its end.
    """
    return _servers[start_method].fork()


def number_at(status: int) -> int | None:
    """What a server tells of a worker: its id, then its exit code; None if the server has ended."""
    told = os.read(status, _NUMBER.size)
    return _NUMBER.unpack(told)[0] if len(told) == _NUMBER.size else None


def rouse() -> None:
    """Let servers go on if somebody has stopped them."""
    for server in (*_servers.values(), *_retired):
        server.rouse()


def shutdown() -> None:
    """End the servers."""
    for server in (*_servers.values(), *_retired):
        server.stop()
    _retired.clear()


def _new_servers() -> dict[str, _Server]:
    named = forced() == "forked"
    return {DEFAULT: _Server(may_be_forked=True), "forkserver": _Server(may_be_forked=named)}


def _after_fork() -> None:
    """In a forked child: the servers are the parent's, whose ends we must not hold."""
    global _servers
    for server in (*_servers.values(), *_retired):
        server.disown()
    _servers = _new_servers()
    _retired.clear()


_servers = _new_servers()
_retired: list[_Server] = []  # whose workers live on
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
