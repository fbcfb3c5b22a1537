"""What goes to workers beside the words: pickles in segments, the tasks of calls, what is over.

A call's task is packed once, for all workers that get a chunk of it; its segment is free again
when the call is over and the last of them has let go of it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import current_process
from typing import Any

from ...transport import pickling
from ...transport.channel import Closed
from ...transport.segments import Outbox, take_all
from ...worker import loop as protocol
from . import launch
from .handle import Call, Worker

__all__ = ["Packing"]

KEPT = 512 << 20  # bytes of free segments


class Packing:
    """Segments of a crew, and what each of its workers has been sent.

    Parameters
    ----------
    lock : RLock
        The crew's.
    workers : list of Worker
        Those of the crew, as they come and go.
    settings : Mapping
        What a new worker is told, beside the initializer.
    initializer, initargs
        Run in each worker before its first item.
    """

    def __init__(
        self,
        lock: threading.RLock,
        workers: list[Worker],
        settings: Mapping[str, Any],
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
    ) -> None:
        self._lock = lock
        self._workers = workers
        self._settings = dict(settings)
        self._tasks = Outbox(cap=KEPT, folder=settings["temp_folder"])
        self._used: dict[int, Call] = {}  # by segment: calls whose segment some worker may have
        self._over: set[int] = set()  # of these, what waits for its last user
        try:
            hello = pickling.dumps((initializer, initargs))
        except Exception as error:
            raise pickling.refusal(
                "initializer or initargs", (initializer, initargs), error
            ) from error
        self._hello, segment = self._tasks.pack(hello)
        self._hello_fds = [] if segment is None else [segment.fd]
        self._hello_fds += [memory.fd for memory in hello.shared]

    def greet(self, worker: Worker) -> None:
        """Send a new worker its first message."""
        assert worker.around is not None
        parentage = worker.rank + 1, current_process().name, os.getpid()
        origin = sys.argv, tempfile.tempdir, launch.standard_modules(), parentage
        body = protocol.HELLO, self._hello, tuple(worker.around), self._settings, origin
        try:
            worker.channel.send(body, [worker.control_fd, *self._hello_fds])
        except Closed:
            pass  # it is dead already; the selector will tell

    def packed(
        self, worker: Worker, pickled: pickling.Pickled
    ) -> tuple[tuple[Any, ...], list[int]]:
        """What a message says of a pickle and of segments, and the descriptors it needs."""
        packet, segment = worker.outbox.pack(pickled)
        fds = []
        if segment is not None and segment.id > worker.sent:
            worker.sent = segment.id
            fds.append(segment.fd)
        fresh = bool(fds)
        fds += [memory.fd for memory in pickled.shared]
        worker.sharing |= bool(pickled.shared)
        released, forgotten = take_all(worker.inbox.released), take_all(worker.outbox.forgotten)
        return (packet, fresh, released, forgotten), fds

    def task_for(self, call: Call, worker: Worker, fds: list[int]) -> tuple[Any, ...] | None:
        """What goes with the first chunk of a call to a worker; may add to `fds`."""
        if call.number in worker.calls:
            return None
        worker.calls.add(call.number)
        with self._lock:
            if call.packet is None:
                call.packet, call.segment = self._tasks.pack(call.pickled)
                if call.segment is not None:
                    self._used[call.segment.id] = call
            if call.segment is not None:
                call.users.add(worker)
                fds.append(call.segment.fd)
            fds += [memory.fd for memory in call.pickled.shared]
        return call.packet, take_all(worker.over)

    def around_for(self, call: Call, worker: Worker) -> tuple[Any, ...] | None:
        """What goes with a chunk of a call to a worker that was last told of other surroundings."""
        if worker.around is call.around or worker.around == call.around:
            return None
        worker.around = call.around
        return tuple(call.around)

    def let_forget(self, call: Call) -> None:
        """Tell the workers that have the task of a call that it is over."""
        with self._lock:
            if call.segment is not None:
                self._over.add(call.segment.id)
                self._free_if_unused(call, call.segment.id)
            for worker in self._workers:
                if call.number in worker.calls:
                    worker.calls.discard(call.number)
                    worker.over.append(call.number)
                    if call.segment is not None or worker.sharing:
                        _forget(worker)

    def free(
        self, worker: Worker, chunks: list[int], tasks: list[int], forgotten: Sequence[int] = ()
    ) -> None:
        """Take note of what a worker says of segments: which are free, and which are gone."""
        worker.outbox.free(chunks)
        worker.inbox.forget(forgotten)
        for number in tasks:
            call = self._used.get(number)
            if call is not None:
                call.users.discard(worker)
                self._free_if_unused(call, number)

    def bury(self, worker: Worker) -> None:
        """Take note that a worker uses nothing any more."""
        for number, call in list(self._used.items()):
            call.users.discard(worker)
            self._free_if_unused(call, number)

    def _free_if_unused(self, call: Call, number: int) -> None:
        if number in self._over and not call.users:
            self._over.discard(number)
            del self._used[number]
            self._tasks.free([number])

    def close(self) -> None:
        """Give the memory back."""
        self._tasks.close()


def _forget(worker: Worker) -> None:
    """Tell a worker which calls are over. Small ones wait for the next call to be sent."""
    over = take_all(worker.over)
    worker.sharing = False
    if over:
        try:
            worker.channel.send((protocol.FORGET, over))
        except Closed:
            pass
