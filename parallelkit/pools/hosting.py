"""How pathos hosts worker processes for us.

::

    pathos ProcessPool ── starts, replaces, ends ──► Host.Process ──► worker process
                                                         │ socket pair, made at start
    Crew ◄───────────── on_start(process, socket) ───────┘

pathos owns the processes: its pool starts them, notices a dead one and starts another, and ends
them. It never sees a task. Our context gives it a process class whose `start` makes a socket
pair, hands one end to the newborn and the other to us; the worker serves that instead of the
pool's queue. So no worker touches a lock or queue that another one waits for, and the queues
that the pool makes for itself need no semaphores.
"""

from __future__ import annotations

import io
import itertools
import os
import pickle
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait as wait_for
from typing import Any

from multiprocess import (
    context,
    forkserver,
    popen_fork,
    popen_forkserver,
    popen_spawn_posix,
    queues,
    reduction,
    resource_tracker,
    util,
)
from multiprocess import process as mp_process

from ..errors import ParallelError
from ..transport.birth import Newborn, live
from ..transport.ending import PATIENCE, forget_exit_handlers, kill_with_children
from . import launch

__all__ = ["Host"]

OnStart = Callable[[Any, socket.socket], None]
OnFailure = Callable[[BaseException], None]

_ids = itertools.count()
_ending = False
_starting = threading.RLock()  # no worker inherits a descriptor meant for another


class Host:
    """A pathos process pool whose workers talk to us.

    Parameters
    ----------
    workers : int
    start_method : str
    on_start : callable
        Called with each new process and our end of its socket, also for replacements, which
        pathos starts in a thread of its own.
    on_failure : callable
        Called with the error where a replacement cannot be started.
    """

    def __init__(
        self, workers: int, start_method: str, on_start: OnStart, on_failure: OnFailure
    ) -> None:
        if start_method == "forkserver":
            _server.start()  # it imports while this process does
        from pathos.multiprocessing import ProcessPool

        self._pid = os.getpid()
        self.closed = False
        self._context = _Context(start_method, on_start, on_failure)
        try:
            self._pool = ProcessPool(
                nodes=workers,
                id=f"parallelkit-{os.getpid()}-{next(_ids)}",
                context=self._context,
            )
        except RuntimeError as error:
            if "at interpreter shutdown" not in str(error):
                raise
            raise ParallelError(
                "Python is ending, and this version of it starts neither threads nor forks then "
                "(3.11 and 3.13 do): make the call earlier, or use backend='serial'"
            ) from error

    def replace_no_more(self) -> None:
        """Let workers end without others that come in their place."""
        self._context.deadline = time.monotonic() + PATIENCE + 0.2
        pool = self._pool.__state__.get(self._pool._id)
        if pool is not None:
            pool._worker_handler._state = "TERMINATE"  # as terminate() says it, a moment later

    def close(self) -> None:
        """End all processes, and start no more."""
        if self.closed or os.getpid() != self._pid:
            return
        self.closed = True
        self.replace_no_more()
        pool = self._pool.__state__.get(self._pool._id)
        if pool is not None:
            # Its task handler waits for this from its worker handler, which is gone where a
            # replacement could not be started.
            pool._taskqueue.put(None)
        self._pool.terminate()
        self._pool.join()
        self._pool.clear()

    def disown(self, processes: list[Any]) -> None:
        """In a forked child: see to it that its end does not end the parent's workers."""
        self.closed = True
        for process in processes:
            mp_process._children.discard(process)
        # Not by _serve(), which would start a new pool where there is none any more.
        pool = self._pool.__state__.get(self._pool._id)
        if pool is not None:
            pool._state = "TERMINATE"  # or its __del__ would warn of a running pool


class _Context(context.BaseContext):  # type: ignore[misc]
    """The part of a context that a multiprocess pool uses."""

    def __init__(self, start_method: str, on_start: OnStart, on_failure: OnFailure) -> None:
        self._method = start_method
        self.on_start = on_start
        self.on_failure = on_failure
        self._creator = threading.current_thread()
        self.deadline: float | None = None  # for the workers to have ended, once that is wanted

    def Process(self, *_: Any, **__: Any) -> _Process:  # noqa: N802 - the base's name
        """A worker; what the pool wants to run in it is of no interest."""
        replaces = threading.current_thread() is not self._creator
        return _Process(self, _POPEN[self._method], replaces)

    def SimpleQueue(self) -> _LocalQueue:  # noqa: N802 - the base's name
        """A queue for the pool's own threads."""
        return _LocalQueue()


class _LocalQueue(queues.SimpleQueue):  # type: ignore[misc]
    """A queue between threads, on a pipe because the pool waits on its descriptor."""

    def __init__(self) -> None:
        super().__init__(ctx=_ThreadLocks)


class _ThreadLocks:
    """Stands for a context where a queue asks for locks."""

    Lock = staticmethod(threading.Lock)


class _Process(mp_process.BaseProcess):  # type: ignore[misc]
    """A worker as the parent sees it."""

    _start_method = None

    def __init__(self, owner: _Context, popen: type, replaces: bool) -> None:
        super().__init__(name="parallelkit-worker")
        self._owner = owner
        self._popen_class = popen
        self._replaces = replaces
        self._ours: socket.socket | None = None
        self._theirs: socket.socket | None = None

    def start(self) -> None:
        """Start the process and pass our end of its socket on."""
        try:
            with _starting:
                # Other threads may be stopped anywhere now; a user's atexit handlers go on.
                if _ending and threading.current_thread() is not threading.main_thread():
                    raise ParallelError("Python is ending: no more workers are started")
                self._ours, self._theirs = socket.socketpair()
                try:
                    super().start()
                finally:
                    self._theirs.close()
            self._owner.on_start(self, self._ours)
        except (OSError, ParallelError) as error:
            if self._popen is not None:
                self.kill()
            if not self._replaces:
                raise
            self._owner.on_failure(error)
            raise SystemExit from None  # ends the pool's own thread without a word

    def terminate(self) -> None:
        """Wait a moment for the end of a process that was hung up on, and end it if it does not."""
        left = (self._owner.deadline or 0.0) - time.monotonic()
        wait_for([self.sentinel], max(0.0, left))
        self.kill()

    def kill(self) -> None:
        """End the process, whatever it does, and what its items have started."""
        if self._popen is not None and self._popen.returncode is None:
            kill_with_children(self._popen.pid)

    def run(self) -> None:
        """In a forked child: close what belongs to the parent, and serve."""
        assert self._ours is not None
        assert self._theirs is not None
        self._ours.close()
        forget_exit_handlers()
        self._config["daemon"] = False  # pathos', of its own workers; items may start processes
        live(socket.socket(fileno=self._theirs.detach()))

    def _Popen(self, process: Any) -> Any:  # noqa: N802 - the base's name
        return self._popen_class(process)

    def __reduce__(self) -> tuple[Any, ...]:
        assert self._theirs is not None
        handle = reduction.DupFd(self._theirs.fileno())
        return Newborn, (self.name, handle, launch.standard_modules())


class _Polled:
    """The pool's thread and ours both ask for the exit code, which can be read just once."""

    def __init__(self, process: Any) -> None:
        self._polling = threading.Lock()
        super().__init__(process)  # type: ignore[call-arg]

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Exit code, or None while the process lives."""
        if flag != os.WNOHANG:
            return super().poll(flag)  # type: ignore[misc,no-any-return]
        with self._polling:
            return super().poll(flag)  # type: ignore[misc,no-any-return]


class _ForkPopen(_Polled, popen_fork.Popen):  # type: ignore[misc]
    """Start by fork."""


class _Passing(_Polled):
    """What spawn and forkserver share: the newborn crosses as a pickle, without `__main__`."""

    def __init__(self, process: Any) -> None:
        self._fds: list[int] = []
        super().__init__(process)

    def _cargo(self, process: Any) -> bytes:
        """What the child reads: how to prepare, and itself."""
        preparation = {
            "name": process.name,
            "sys_path": launch.first_path(),
            "sys_argv": sys.argv,
        }
        cargo = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            pickle.dump(preparation, cargo)
            pickle.dump(process, cargo)
        finally:
            context.set_spawning_popen(None)
        return cargo.getvalue()

    def _own(self, sentinel: int, pipe: int, cargo: bytes) -> None:
        """Keep the sentinel and the parent's end of the child's pipe, and send the cargo."""
        self.sentinel = sentinel
        self.finalizer = util.Finalize(self, util.close_fds, (sentinel, pipe))
        with open(pipe, "wb", closefd=False) as stream:
            stream.write(cargo)


def _room_for(descriptors: int) -> None:
    """Raise OSError if there is none, before a fork server is asked that would stumble over it."""
    spare: list[int] = []
    try:
        for _ in range(descriptors):
            spare.append(os.open(os.devnull, os.O_RDONLY))  # noqa: PERF401 - all are to be closed
    finally:
        for fd in spare:
            os.close(fd)


class _ForkServerPopen(_Passing, popen_forkserver.Popen):  # type: ignore[misc]
    """Start by a fork server of our own, which has loaded what every worker needs."""

    def _launch(self, process: Any) -> None:
        cargo = self._cargo(process)
        _room_for(6)
        sentinel, pipe = _server.connect_to_new_process(self._fds)
        self._own(sentinel, pipe, cargo)
        self.pid = forkserver.read_signed(sentinel)


class _SpawnPopen(_Passing, popen_spawn_posix.Popen):  # type: ignore[misc]
    """Start in a fresh interpreter."""

    def _launch(self, process: Any) -> None:
        launch.start_tracker()
        tracker = resource_tracker.getfd()
        cargo = self._cargo(process)
        sentinel, child_end = os.pipe()
        child_pipe, pipe = os.pipe()
        try:
            code = (
                "from multiprocess.spawn import spawn_main; "
                f"spawn_main(tracker_fd={tracker}, pipe_handle={child_pipe})"
            )
            command = launch.command_line(code, "--multiprocessing-fork")
            fds = [*self._fds, tracker, child_pipe, child_end]
            self.pid = util.spawnv_passfds(command[0], command, fds)
        except BaseException:
            os.close(sentinel)
            os.close(pipe)
            raise
        finally:
            os.close(child_end)
            os.close(child_pipe)
        self._own(sentinel, pipe, cargo)


_POPEN = {"fork": _ForkPopen, "spawn": _SpawnPopen, "forkserver": _ForkServerPopen}


# --- the fork server --------------------------------------------------------------------------


class _ForkServer(forkserver.ForkServer):  # type: ignore[misc]
    """A fork server of our own: with our preloads, and with nothing in the file system."""

    _door: int | None = None  # Linux: a descriptor that stands for the socket's file
    _forkserver_alive_fd: int | None
    _forkserver_pid: int | None
    _forkserver_address: str | None

    def start(self) -> None:
        """Start it if it does not run; do not wait for it."""
        # numpy is dear to import, and dearer in every worker: the server has it if the parent has.
        modules = ["birth", "preload"] if "numpy" in sys.modules else ["birth"]
        self.set_forkserver_preload([f"parallelkit.transport.{name}" for name in modules])
        self.ensure_running()

    def stop(self) -> None:
        """End it. It must have no workers any more."""
        with self._lock:
            if self._forkserver_pid is not None:
                pid = self._forkserver_pid
                self.disown()
                try:
                    os.waitpid(pid, 0)
                except ChildProcessError:
                    pass  # the user ignores SIGCHLD: the kernel has taken its exit code

    def disown(self) -> None:
        """Forget the server; it ends when nobody else holds its pipe."""
        for fd in (self._forkserver_alive_fd, self._door):
            if fd is not None:
                os.close(fd)
        self._forkserver_alive_fd = self._forkserver_pid = self._door = None
        self._forkserver_address = None

    def ensure_running(self) -> None:
        """Start the server if there is none."""
        with self._lock:
            launch.start_tracker()
            if self._forkserver_pid is not None:
                if _runs(self._forkserver_pid):
                    return
                self.disown()
            alive, self._forkserver_alive_fd = os.pipe()
            try:
                with socket.socket(socket.AF_UNIX) as listener:
                    self._bind(listener)
                    listener.listen(64)
                    fds = [listener.fileno(), alive]
                    code = (
                        "from multiprocess.forkserver import main; "
                        f"main({fds[0]}, {fds[1]}, {self._preload_modules!r})"
                    )
                    command = launch.command_line(code)
                    self._forkserver_pid = util.spawnv_passfds(command[0], command, fds)
            except BaseException:
                self.disown()
                raise
            finally:
                os.close(alive)

    def _bind(self, listener: socket.socket) -> None:
        """Give the listener an address that no stranger can reach, and that leaves nothing behind.

        On Linux the socket's file is removed at once; an O_PATH descriptor still leads to it. (An
        abstract address has no file either, but every user of the machine may connect to it.)
        """
        error: OSError | None = None
        for place in (None, "/dev/shm", "/var/tmp", "."):  # noqa: S108 - for a moment
            try:
                with tempfile.TemporaryDirectory(prefix="parallelkit-", dir=place) as folder:
                    self._bind_in(listener, folder)
            except OSError as problem:
                error = error or problem
            else:
                return
        raise ParallelError(
            f"no folder for the socket of the fork server ({error}); set TMPDIR to one that can "
            "be written, or use start_method='spawn'"
        )

    def _bind_in(self, listener: socket.socket, folder: str) -> None:
        path = os.path.join(folder, "fork")
        if not hasattr(os, "O_PATH") or not os.path.isdir("/proc/self/fd"):
            path = os.path.join(util.get_temp_dir(), f"fork-{next(_ids)}")
        listener.bind(path)
        if os.path.dirname(path) == folder:
            self._door = os.open(path, os.O_PATH | os.O_CLOEXEC)
            path = f"/proc/self/fd/{self._door}"
        self._forkserver_address = path


def _runs(pid: int) -> bool:
    """Whether a child of this process is still there."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:  # reaped by somebody else, or SIGCHLD is ignored
        return os.path.exists(f"/proc/{pid}")


def _after_fork() -> None:
    """In a forked child: the server is the parent's, which could not end while we held its pipe."""
    global _server, _starting
    _server.disown()
    _server = _ForkServer()
    _starting = threading.RLock()


def end() -> None:
    """Start no more workers from other threads; one that is being started gets all it needs."""
    global _ending
    with _starting:
        _ending = True


def stop_server() -> None:
    """End the fork server."""
    _server.stop()


_server = _ForkServer()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
