"""How pathos hosts worker processes for us.

::

    pathos ProcessPool ── starts, replaces, ends ──► Host.Process ──► worker process
                                                         │ socket pair, made at start
    Workers ◄────────── on_start(process, socket) ───────┘

pathos owns the processes: its pool starts them, notices a dead one and starts another, and ends
them. It never sees a task. Our context gives it a process class whose `start` makes a socket
pair, hands one end to the newborn and the other to us; the worker serves that instead of the
pool's queue. So no worker touches a lock or queue that another one waits for, and the queues
that the pool makes for itself need no semaphores. Workers that run already are taken over by it:
to `start` them does nothing.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from multiprocess import context, queues
from multiprocess import process as mp_process
from pathos.multiprocessing import ProcessPool

from ...errors import ParallelError
from ...place import forksafe, limits
from ...place.descriptors import identity
from ...worker import leftovers
from ...worker.bootstrap import live
from ...worker.ending import PATIENCE, forget_exit_handlers
from . import family, launch
from .forked import OnFailure, OnStart

if TYPE_CHECKING:
    from .forked import Forked

__all__ = ["Host"]

_ids = itertools.count()


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
    started : iterable of Forked
        Workers that run already, to be taken over.
    """

    def __init__(
        self,
        workers: int,
        start_method: str,
        on_start: OnStart,
        on_failure: OnFailure,
        started: Iterable[Forked] = (),
    ) -> None:
        self._pid = os.getpid()
        self.closed = False
        self._context = _Context(start_method, on_start, on_failure, deque(started))
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

        pool = self._pool.__state__[self._pool._id]
        for thread in (pool._worker_handler, pool._task_handler, pool._result_handler):
            forksafe.harmless.add(thread)  # they wait for what never comes, or for a worker's end

    is_early = False  # see `hosting.EarlyHost`

    def replace(self) -> None:
        """Another worker comes for one that has ended: a thread of pathos sees to that."""

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

    def lose(self, processes: list[Any]) -> None:
        """End the processes; touch no descriptor, for they are somebody else's."""
        self.closed = True
        self.replace_no_more()
        pool = self._pool.__state__.get(self._pool._id)
        if pool is not None:
            pool._state = "TERMINATE"
            pool._terminate.cancel()
        for process in processes:
            process.lose()
        self._forget()

    def _forget(self) -> None:
        """Have the exit handler of `multiprocess` leave the processes alone."""
        for process in list(mp_process._children):
            if getattr(process, "_owner", None) is self._context:
                mp_process._children.discard(process)

    def disown(self, _: list[Any]) -> None:
        """In a forked child: see to it that its end does not end the parent's workers."""
        self.closed = True
        self._forget()
        # Not by _serve(), which would start a new pool where there is none any more.
        pool = self._pool.__state__.get(self._pool._id)
        if pool is not None:
            pool._state = "TERMINATE"  # or its __del__ would warn of a running pool


class _Context(context.BaseContext):  # type: ignore[misc]
    """The part of a context that a multiprocess pool uses."""

    def __init__(
        self,
        start_method: str,
        on_start: OnStart,
        on_failure: OnFailure,
        started: deque[Forked],
    ) -> None:
        self.method = start_method
        self.started = started
        self.any_end: Any = None  # see `windows`
        self.on_start = on_start
        self.on_failure = on_failure
        self._creator = threading.current_thread()
        self.deadline: float | None = None  # for the workers to have ended, once that is wanted

    def Process(self, *_: Any, **__: Any) -> _Process:  # noqa: N802 - the base's name
        """A worker; what the pool wants to run in it is of no interest."""
        replaces = threading.current_thread() is not self._creator
        return _Process(self, family.popen(self.method), replaces)

    def SimpleQueue(self) -> _LocalQueue:  # noqa: N802 - the base's name
        """A queue for the pool's own threads."""
        return _LocalQueue()


class _LocalQueue(queues.SimpleQueue):  # type: ignore[misc]
    """A queue between threads, on a pipe because the pool waits on its descriptor."""

    def __init__(self) -> None:
        super().__init__(ctx=_ThreadLocks)
        self._identity = identity(self._reader.fileno())

    def get(self) -> Any:
        """Take an element; a thread whose pipe was closed by somebody ends without a word."""
        if identity(self._reader.fileno()) == self._identity:
            try:
                return super().get()
            except OSError:
                pass
        raise SystemExit

    def put(self, obj: Any) -> None:
        """Put an element in, if there is a pipe."""
        if identity(self._reader.fileno()) == self._identity:
            super().put(obj)


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
        self._forked: Forked | None = None
        self.end: int | None = None  # see `worker.bootstrap.live`
        self.life: int | None = None

    def start(self) -> None:
        """Start the process and pass our end of its socket on; or take one over that runs."""
        if self._owner.started:
            self._forked = self._owner.started.popleft()
            super().start()
            return
        try:
            with launch.starting():
                try:
                    super().start()
                finally:
                    if self._theirs is not None:
                        self._theirs.close()
            assert self._ours is not None
            self._owner.on_start(self._forked or self, self._ours)
        except BaseException as error:
            if self._popen is not None:
                self.kill()
            if self._ours is not None:
                self._ours.close()
            if not self._replaces or not isinstance(error, Exception):
                raise
            self._owner.on_failure(limits.explained(error))
            raise SystemExit from error  # ends the pool's own thread without a word

    @property
    def forked(self) -> Forked:
        """The worker that this is to be: one that runs, or a new one."""
        if self._forked is None:
            self._forked = family.started(self._owner.method)
            self._ours = self._forked.ours
        return self._forked

    def terminate(self) -> None:
        """Wait a moment for the end of a process that was hung up on, and end it if it does not."""
        left = (self._owner.deadline or 0.0) - time.monotonic()
        family.wait_for([self.sentinel], max(0.0, left))
        self.kill()

    def kill(self) -> None:
        """End the process, whatever it does, and what its items have started."""
        if self._popen is not None:
            self._popen.stop()

    def lose(self) -> None:
        """End the process without its descriptors."""
        popen = self._popen
        if popen is None:
            return
        popen.finalizer.cancel()
        mp_process._children.discard(self)
        if popen.returncode is None:
            popen.lose()

    def run(self) -> None:
        """In a forked child: close what belongs to the parent, and serve."""
        assert self._ours is not None
        self._ours.close()
        forget_exit_handlers()
        leftovers.forget_in_worker()
        self._config["daemon"] = False  # pathos', of its own workers; items may start processes
        live(socket.socket(fileno=self.theirs.detach()), self.end, self.life)

    def _Popen(self, process: Any) -> Any:  # noqa: N802 - the base's name
        return self._popen_class(process)

    def connect(self) -> None:
        """Make a pair of ends for it."""
        self._ours, self._theirs = family.pair()

    @property
    def theirs(self) -> socket.socket:
        """The worker's end of its socket, while it is being started."""
        assert self._theirs is not None
        return self._theirs
