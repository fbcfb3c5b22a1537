"""A worker process as the parent talks to it: its channel, its segments, what it knows."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ...transport.channel import Closed, take_all
from ...transport.pickling import Pickled
from ...transport.script import Sent, script
from ...transport.segments import Inbox, Outbox, control_block
from ...values.source import Chunk
from ...worker.protocol import CONTROL_BYTES, Forget, Run, encode
from . import family
from .state import Assignment, Call, WorkerState
from .tasks import Holder, Tasks, forgotten

__all__ = ["Handle", "exit_code", "obituary"]


class Handle(WorkerState, Holder):
    """Sends one worker what it is to do. Any thread may; one message at a time.

    Parameters
    ----------
    process : Process
    sock : socket
        Our end of the worker's socket pair.
    rank : int
    folder : str or None
        Where segments lie that need a file.
    """

    def __init__(self, process: Any, sock: socket.socket, rank: int, folder: str | None) -> None:
        super().__init__(rank)
        # Told when messages have been read that no descriptor tells of.
        self.on_unread: Callable[[Handle], None] | None = None
        self.process = process
        self.sentinel: int = process.sentinel
        self.pid: int = process.pid
        self.channel = family.channel(sock, self.sentinel)
        self.outbox, self.inbox = Outbox(folder=folder), Inbox()
        self.freed: list[int] = []  # segments of ours that it needs no more
        self.known = set()
        self.script_sent = Sent()  # what it has of the script
        self.over = []
        self.sharing = False
        self._sent = 0  # segments known to it, by the highest id
        self.sending = threading.RLock()  # held while a message to it is packed and sent
        self.control_fd, control = control_block(CONTROL_BYTES)
        self.words, self.times = control.cast("Q"), control.cast("d")

    def run(
        self, call: Call, assignment: Assignment, chunk: Chunk, pickled: Pickled, tasks: Tasks
    ) -> None:
        """Send a chunk, with what of its task and surroundings the worker has not got."""
        assert call.task is not None
        with self.sending:
            (packet, *segments), fds = self._packed(pickled)
            if call.task.pickled.shared:
                self.sharing = True
            environment = None
            if self.environment is not call.environment and self.environment != call.environment:
                if call.environment is not None and self.environment is not None:
                    environment = call.environment.since(self.environment)
                self.environment = call.environment
            state = tasks.for_worker(call.task, self, fds)
            news = script.news(self.script_sent, call.task.script, pickled.needs)
            told = None if news is None else tasks.news_for_worker(news, self, fds)
            self._send(
                Run(
                    *(call.number, call.task.key, assignment.number, self.rank),
                    *(chunk.start, chunk.size, call.timeout, call.nested),
                    *(packet, *segments, environment, state, forgotten(self), told, call.traced),
                ),
                fds,
            )

    def post(self, kind: Any, head: Sequence[Any] = (), pickled: Pickled | None = None) -> None:
        """Send ``kind(*head)``, or with a pickle ``kind(*head, packet, ...)``."""
        with self.sending:
            if self.dead:
                return
            if pickled is None:
                self._send(kind(*head), [])
            else:
                packed, fds = self._packed(pickled)
                self._send(kind(*head, *packed), fds)

    def let_forget(self) -> None:
        """Tell the worker at once which tasks it is to forget, and to let go of shared memory."""
        with self.sending:
            self._send(Forget(forgotten(self)), [])

    def _send(self, message: tuple[Any, ...], fds: list[int]) -> None:
        try:
            self.channel.send(encode(message), fds)
        except Closed:
            pass  # its end is seen elsewhere, and what it had is then lost or given back
        if self.channel.pending and self.on_unread is not None:
            self.on_unread(self)  # read while the message waited to be sent

    def _packed(self, pickled: Pickled) -> tuple[tuple[Any, ...], list[int]]:
        """What a message says of a pickle and of segments, and the descriptors it needs."""
        if self.freed:
            self.outbox.free(take_all(self.freed))
        packet, segment = self.outbox.pack(pickled)
        fds = []
        if segment is not None and segment.id > self._sent:
            self._sent = segment.id
            fds.append(segment.fd)
        fresh = bool(fds)
        if pickled.shared:
            fds += [memory.fd for memory in pickled.shared]
            self.sharing = True
        released, lost = self.inbox.released, self.outbox.forgotten
        return (
            packet,
            fresh,
            take_all(released) if released else [],
            take_all(lost) if lost else [],
        ), fds

    def hang_up(self) -> None:
        """Let the process end by itself if it has nothing to do, else end it."""
        if self.assignments or not self.ready:
            self.kill()
        else:
            self.channel.hang_up()

    def kill(self) -> None:
        """End the process, whatever it does."""
        if not self.dead:
            self.process.kill()

    def close(self) -> None:
        """Let go of the channel and of what was sent; what has come can still be read."""
        self.channel.close()
        self.outbox.close()


# What Windows ends a process with when it has crashed.
_CRASHES = {
    0xC0000005: "an access violation",
    0xC00000FD: "a stack overflow",
    0xC0000374: "a damaged heap",
    0xC0000409: "a failed check of the C runtime",
}


def obituary(pid: int, code: int | None) -> str:
    """How a worker ended, and what that may mean."""
    if code is not None and code < 0:
        try:
            how = f"signal {signal.Signals(-code).name}"
        except ValueError:
            how = f"signal {-code}"
    elif code in _CRASHES:
        how = f"{_CRASHES[code]} (exit code {code:#x})"
    else:
        how = f"exit code {code}"
    advice = ""
    if code == -int(getattr(signal, "SIGKILL", 0)) != 0:
        advice = "; out of memory? (memory_limit= makes that a MemoryError of the item)"
    elif code == -signal.SIGSEGV or code in _CRASHES:
        advice = "; a crash in compiled code, or a recursion too deep for the C stack"
    elif code == 0:
        advice = "; os._exit, or an item that closed descriptors that are not its own?"
    return f"worker process {pid} ended by {how}{advice}"


def exit_code(process: Any) -> int | None:
    """Exit code of a process that has hung up. It may still be on its way out."""
    for patience in (1.0, 1.0):
        deadline = time.monotonic() + patience
        family.wait_for([process.sentinel], patience)
        while True:
            code: int | None = process.exitcode
            if code is not None:
                return code
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)
        process.kill()  # it lives on without us
    return None
