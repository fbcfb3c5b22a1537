"""Who waits, drives: the loop that reads what all workers of a pool send.

A thread that waits for its own call reads for everybody, and hands on what comes. One thread
drives at a time; whoever stops waiting sees to it that another one that still waits drives on. So
there is no thread between a worker's answer and the caller.

::

    worker sockets ─┐                            ┌─► call A's inbox   (A drives)
    process ends   ─┼─► poll ─► on_message ──────┤
    wake pipe      ─┘                            └─► call B's inbox, B's event

A signal handler or a finalizer may make a call in the very thread that drives: that call drives
in its place until it is done.

The results of one call may be waited for by many, each for a future: whoever of them drives takes
in what comes for the others. Such a call has a thread of its own, which drives where none of them
does: it attends.
"""

from __future__ import annotations

import select
import threading
from _queue import Empty, SimpleQueue  # `queue` has others, which take imports
from collections import deque
from collections.abc import Callable
from typing import Any

from ...place.descriptors import identity
from ...place.sigint import pass_on
from . import family
from .handle import Handle
from .state import Call, Waiter

__all__ = ["Reactor"]

LOOK = 2.0  # seconds of silence after which it is seen to that there is something to listen to
PATIENCE = 0.01  # seconds in which somebody may begin to wait, before a call's own thread drives
_IN = getattr(select, "POLLIN", 1)
QUIET = 100  # times that, after which it sleeps until it is woken


class Reactor:
    """Waits for workers on behalf of calls.

    Parameters
    ----------
    on_message, on_end : callable
        Called with the worker that has sent something, or whose process has ended; by the thread
        that drives, without a lock.
    """

    def __init__(
        self, on_message: Callable[[Handle], None], on_end: Callable[[Handle], None]
    ) -> None:
        self.lock = threading.RLock()
        self._on_message = on_message
        self._on_end = on_end
        self._leader: Call | Waiter | None = None
        self._thread = 0  # that of the leader
        self._this_thread = threading.get_ident  # found here even while Python takes modules apart
        self._waiting: list[Call | Waiter] = []
        self._unread: deque[Handle] = deque()
        self._turns = 0  # how often somebody has waited
        self._poll: Any = family.poll()
        self._sources: dict[int, tuple[Callable[[Handle], None], Handle]] = {}
        self._wake_in, self._wake_out = family.wakers(self._poll)
        self._wake_fd = self._wake_out.fileno()
        self._identity = identity(self._wake_fd)
        self.lost = False  # whether somebody has closed our descriptors

    def is_open(self) -> bool:
        """Whether our descriptors are still ours; not so after `os.closerange`."""
        if not self.lost and identity(self._wake_fd) != self._identity:
            self.lost = True
        return not self.lost

    def add(self, worker: Handle) -> None:
        """Listen to a worker."""
        for fd, then in self._ends(worker):
            self._sources[fd] = then, worker
            self._poll.register(fd, _IN)
        self.nudge()

    def remove(self, worker: Handle) -> None:
        """Listen to it no more."""
        for fd, _ in self._ends(worker):
            if self._sources.get(fd, (None, None))[1] is worker:
                del self._sources[fd]
                try:
                    self._poll.unregister(fd)
                except (KeyError, ValueError, OSError):
                    pass  # closed already

    def _ends(self, worker: Handle) -> list[tuple[int, Callable[[Handle], None]]]:
        return [(worker.channel.fileno(), self._on_message), (worker.sentinel, self._on_end)]

    def wait(self, call: Call | Waiter, timeout: float | None = None) -> None:
        """Wait until something may have come for `call`, driving if nobody else does."""
        before = None
        self._turns += 1
        try:
            with self.lock:
                me = self._this_thread()
                leads = self._leader is None or self._thread == me
                if leads:  # before the look: who pokes has no lock
                    before, self._leader, self._thread = self._leader, call, me
                elif call.wakes is None:
                    call.wakes = SimpleQueue()
                self._waiting.append(call)
                if call.ready():
                    return
            if leads:
                self._drive(timeout)
            elif call.wakes is not None:
                _wait_for(call.wakes, timeout)
        finally:  # also where Ctrl-C strikes in between
            self.leave(call, before)

    def attend(self, call: Call, hurried: bool, queued: bool) -> None:
        """Wait for a call on behalf of all who wait for results of it; drive if none of them does.

        Unless somebody is `hurried`, it is left to them for a moment, and for good where nothing
        is under way. What is `queued` waits for a worker, and so for what others have sent them.
        """
        if call.wakes is None:
            call.wakes = SimpleQueue()
        stirred = self._turns + call.pushed  # who submits looks for results as well
        nobody = self._leader is None and stirred == call.turns
        call.turns = stirred
        busy = queued or bool(call.assignments)
        call.quiet = 0 if busy else call.quiet + 1
        try:
            call.asleep = call.quiet > QUIET and not call.held
            if call.ready() or (call.asleep and call.assignments):
                return
            if busy and (hurried or nobody):
                self.wait(call, PATIENCE if call.held else None)
                call.turns = self._turns + call.pushed
            elif hurried and not call.asleep:
                self.wait(call, PATIENCE)
            else:
                _wait_for(call.wakes, None if call.asleep else PATIENCE)
        finally:
            call.asleep = False
            self.leave(call)

    def leave(self, call: Call | Waiter, before: Call | Waiter | None = None) -> None:
        """See to it that somebody else drives, if there is one, where `call` waits no more.

        `before` is who drove in this thread until then.
        """
        with self.lock:
            call.poked = False
            if call in self._waiting:
                self._waiting.remove(call)
            if self._leader is call:
                self._leader = before
                if before is not None:  # what came for it meanwhile, it is to look at
                    self.nudge()
            if self._leader is None and self._waiting:
                # It may turn out to stop waiting too, and then wakes the next one.
                wakes = self._waiting[0].wakes
                if wakes is not None:
                    wakes.put(None)

    def poke(self, call: Call) -> None:
        """Have `call` look whether there is something to do for it."""
        call.poked = True
        call.news += 1
        self.wake(call)

    def wake(self, call: Call) -> None:
        """Have somebody look at what has come for `call`: who drives, if that is for the call.

        In this thread he looks afterwards. Else one who waits for a result of it, or the call's own
        thread.
        """
        leader = self._leader
        if leader is not None and leader.call is call:
            if self._thread != self._this_thread():
                self.nudge()
            return
        for waiter in list(self._waiting):
            if waiter.call is call:
                self.rouse(waiter)
                return
        self.rouse(call)

    def rouse(self, waiter: Call | Waiter) -> None:
        """End the wait of just this one."""
        if self._leader is not waiter:
            if waiter.wakes is not None:
                waiter.wakes.put(None)
        elif self._thread != self._this_thread():
            self.nudge()

    def nudge(self) -> None:
        """End the wait of the thread that drives."""
        if self.lost:
            return
        try:
            self._wake_in.send(b"x")
        except OSError as error:
            pass_on(error)  # else it is full, and will wake, or closed, and nobody waits

    def look(self, call: Call) -> None:
        """Take in what has already come, on behalf of `call`, if nobody drives."""
        me = Waiter(call, call.ready)  # the call's own thread may begin to wait meanwhile
        try:
            with self.lock:
                if self._leader is not None:
                    return
                self._leader, self._thread = me, self._this_thread()
            self._drive(0)  # without the lock: what comes may have to be passed on
        finally:
            self.leave(me)

    def close(self) -> None:
        """Let go of the descriptors."""
        self._poll.close()
        self._wake_in.close()
        self._wake_out.close()

    def recall(self, worker: Handle) -> None:
        """Have messages taken in that have been read already, of which no descriptor tells."""
        self._unread.append(worker)
        self.nudge()

    def _drive(self, timeout: float | None) -> None:
        if self._unread:
            while self._unread:
                worker = self._unread.popleft()
                if not worker.dead:
                    self._on_message(worker)
            return
        try:
            events = self._poll.poll(LOOK if timeout is None else timeout)
        except (OSError, ValueError) as error:
            pass_on(error)
            self.is_open()  # closed, also under a call that Python's end has cut off
            return
        if not events and timeout is None:
            self.is_open()
        sources = self._sources
        for fd, _ in events:
            found = sources.get(fd)
            if found is not None:
                found[0](found[1])
            elif fd == self._wake_fd:
                try:
                    self._wake_out.recv(4096)
                except OSError as error:
                    pass_on(error)


def _wait_for(wakes: SimpleQueue[None], timeout: float | None) -> None:
    """Wait for a wake; take those that have come before or with it."""
    try:
        wakes.get(timeout=timeout)
        while True:
            wakes.get_nowait()
    except Empty:
        pass
