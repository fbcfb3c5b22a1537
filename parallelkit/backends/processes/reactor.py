"""Who waits, drives: the loop that reads what all workers of a crew send.

A thread that waits for its own call reads for everybody, and routes what comes to the calls that
it belongs to. One thread drives at a time; whoever stops waiting sees to it that another one that
still waits drives on. So there is no thread between a worker's answer and the caller.

::

    worker sockets ─┐                       ┌─► call A's inbox   (A drives)
    process ends   ─┼─► selector ─► route ──┤
    wake pipe      ─┘                       └─► call B's inbox, B's event
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable

from .handle import Call, Worker

__all__ = ["Driver"]


class Driver:
    """Waits for workers on behalf of calls.

    Parameters
    ----------
    lock : RLock
        The crew's.
    on_message, on_end : callable
        Called with the worker that has sent something, or whose process has ended; by the thread
        that drives, without the lock.
    """

    def __init__(
        self,
        lock: threading.RLock,
        on_message: Callable[[Worker], None],
        on_end: Callable[[Worker], None],
    ) -> None:
        self._lock = lock
        self._on_message = on_message
        self._on_end = on_end
        self._leader: Call | None = None
        self._thread = 0  # that of the leader
        self._this_thread = threading.get_ident  # found here even while Python takes modules apart
        self._waiting: list[Call] = []
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        self._selector.register(self._wake_out, selectors.EVENT_READ, None)

    def add(self, worker: Worker) -> None:
        """Listen to a worker."""
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)
        self._selector.register(worker.sentinel, selectors.EVENT_READ, worker)

    def remove(self, worker: Worker) -> None:
        """Listen to it no more."""
        for end in (worker.channel, worker.sentinel):
            try:
                self._selector.unregister(end)
            except (KeyError, ValueError, RuntimeError):
                pass  # closed already

    def wait(self, call: Call, timeout: float | None = None) -> None:
        """Wait until something may have come for `call`, driving if nobody else does."""
        try:
            with self._lock:
                leads = self._leader is None
                if leads:
                    self._lead(call)  # before the look: who pokes has no lock
                self._waiting.append(call)
                if call.event.is_set() or call.inbox or call.poked or call.failed or call.told:
                    call.event.clear()
                    return
            if leads:
                self._drive(timeout)
            else:
                call.event.wait(timeout)
                call.event.clear()
        finally:  # also where Ctrl-C strikes in between
            self.leave(call)

    def leave(self, call: Call) -> None:
        """See to it that somebody else drives, if there is one, where `call` waits no more."""
        with self._lock:
            self._waiting = [other for other in self._waiting if other is not call]
            call.poked = False
            if self._leader is call:
                self._leader = None
            if self._leader is None and self._waiting:
                # It may turn out to stop waiting too, and then wakes the next one.
                self._waiting[0].event.set()

    def _lead(self, call: Call) -> None:
        self._thread = self._this_thread()
        self._leader = call

    def poke(self, call: Call) -> None:
        """Have `call` look whether there is something to do for it."""
        call.poked = True
        self.wake(call)

    def wake(self, call: Call) -> None:
        """End the wait of `call`; its own thread, where that drives just now, looks afterwards."""
        if self._leader is not call:
            call.event.set()
        elif self._thread != self._this_thread():
            self.nudge()

    def nudge(self) -> None:
        """End the wait of the thread that drives."""
        try:
            self._wake_in.send(b"x")
        except (BlockingIOError, OSError):
            pass  # full: it will wake; closed: nobody waits

    def look(self, call: Call) -> None:
        """Take in what has already come, on behalf of `call`, if nobody drives."""
        try:
            with self._lock:
                if self._leader is not None:
                    return
                self._lead(call)
            self._drive(0)  # without the lock: what comes may have to be passed on
        finally:
            self.leave(call)

    def close(self) -> None:
        """Let go of the descriptors."""
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    def _drive(self, timeout: float | None) -> None:
        try:
            events = self._selector.select(timeout)
        except (OSError, ValueError):  # closed under a call that Python's end has cut off
            return
        for key, _ in events:
            worker = key.data
            if worker is None:
                try:
                    self._wake_out.recv(4096)
                except BlockingIOError:
                    pass
            elif key.fileobj is worker.channel:
                self._on_message(worker)
            else:
                self._on_end(worker)
