"""Who belongs to a crew: workers, the calls they work for, and the chunks that they have."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import wait as wait_for
from typing import Any, ClassVar

from ...transport import pickling
from ...transport.channel import Channel
from ...transport.segments import Inbox, Outbox, Packet, Segment, control_block
from ...values.outcome import Lost
from ...values.source import Chunk
from ...worker import loop as protocol
from ...worker.environment import Surroundings

__all__ = ["GRACE", "Answer", "Call", "Ticket", "Worker", "exit_code", "interrupt", "obituary"]

GRACE = 0.2  # seconds for a worker to leave the item of a call that was given up


@dataclass(eq=False, slots=True)
class Ticket:
    """A chunk that a worker has."""

    number: int
    call: Call
    chunk: Chunk
    nbytes: int
    done: int = 0  # items answered so far
    waits: bool = False  # its item waits, inside of a call of its own; others may run meanwhile


@dataclass(slots=True)
class Answer:
    """What came for a ticket: part of a reply still to be unpickled, or a loss."""

    chunk: Chunk
    nbytes: int = 0
    worker: Worker | None = None
    packet: Packet | None = None
    seconds: float = 0.0
    final: bool = True
    lost: Lost | None = None


@dataclass(eq=False, slots=True)
class Call:
    """One call's state in the crew."""

    lent: ClassVar[bool] = False  # whether a worker makes it, and not this process
    number: int
    pickled: pickling.Pickled
    around: Surroundings
    timeout: float | None
    cores: int  # what its items have together
    exhausted: bool = False  # no chunk is left to be sent
    inbox: deque[Answer] = field(default_factory=deque)
    tickets: int = 0
    event: threading.Event = field(default_factory=threading.Event)
    feeding: threading.RLock = field(default_factory=threading.RLock)  # one thread at a time
    poked: bool = False
    told: deque[tuple[str, tuple[Any, ...]]] = field(
        default_factory=deque
    )  # logs, warnings, prints
    failed: BaseException | None = None
    packet: Packet | None = None
    segment: Segment | None = None
    users: set[Worker] = field(default_factory=set)  # who has not released the segment


class Worker:
    """A worker process: its channel, its segments, its tickets."""

    def __init__(self, process: Any, sock: socket.socket, rank: int, folder: str | None) -> None:
        self.process = process
        self.sentinel: int = process.sentinel
        self.pid: int = process.pid
        self.channel = Channel(sock)
        self.rank = rank
        self.outbox, self.inbox = Outbox(folder=folder), Inbox()
        self.sent = 0  # segments known to it, by the highest id
        self.tickets: deque[Ticket] = deque()
        self.reserved: list[Call] = []  # a place for each, that a chunk is on its way to
        self.calls: set[int] = set()  # whose task it has
        self.over: list[int] = []  # those among them that have ended, which it has yet to be told
        self.sharing = False  # it may have shared memory mapped for a call
        self.around: Surroundings | None = None
        self.ready = self.retired = self.dead = False
        self.spare = False  # it waits, inside of an item, and may run others meanwhile
        self.given_up = False  # we have ended it, and not what it runs
        self.sending = threading.Lock()
        self.control_fd, control = control_block(protocol.CONTROL_BYTES)
        self.words, self.times = control.cast("Q"), control.cast("d")

    @property
    def load(self) -> int:
        """Chunks that it has or is about to get."""
        return len(self.tickets) + len(self.reserved)

    def serves_only(self, call: Call) -> bool:
        """Whether it has chunks of no other call, and will take more."""
        return not self.retired and all(ticket.call is call for ticket in self.tickets)

    def ticket(self, number: int) -> Ticket | None:
        """Ticket of a chunk that it has; None if that has been settled."""
        return next((ticket for ticket in self.tickets if ticket.number == number), None)

    def hang_up(self) -> None:
        """Let the process end by itself if it has nothing to do, else end it."""
        if self.tickets or not self.ready:
            self.kill()
        else:
            self.channel.hang_up()

    def kill(self) -> None:
        """End the process, whatever it does."""
        if not self.dead:
            self.process.kill()


def obituary(pid: int, code: int | None) -> str:
    """How a worker ended, and what that may mean."""
    if code is not None and code < 0:
        try:
            how = f"signal {signal.Signals(-code).name}"
        except ValueError:
            how = f"signal {-code}"
    else:
        how = f"exit code {code}"
    advice = ""
    if code == -signal.SIGKILL:
        advice = "; out of memory? (memory_limit= makes that a MemoryError of the item)"
    elif code == -signal.SIGSEGV:
        advice = "; a crash in compiled code, or a recursion too deep for the C stack"
    return f"worker process {pid} ended by {how}{advice}"


def exit_code(process: Any) -> int | None:
    """Exit code of a process that has hung up. It may still be on its way out."""
    for patience in (1.0, 1.0):
        deadline = time.monotonic() + patience
        wait_for([process.sentinel], patience)
        while True:
            code: int | None = process.exitcode
            if code is not None:
                return code
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)
        process.kill()  # it lives on without us
    return None


def interrupt(pid: int) -> None:
    """Send SIGINT; a worker takes it as a hint to look for what its parent gave up."""
    try:
        os.kill(pid, signal.SIGINT)
    except ProcessLookupError:
        pass
