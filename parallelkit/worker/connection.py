"""A worker's end of the way to its parent: the channel, and the segments of both directions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ..place.records import NamedTuple
from ..transport.channel import Channel, take_all
from ..transport.pickling import Pickled
from ..transport.segments import Inbox, Outbox, Packet
from .protocol import Hello, NestedReply, Released, Run, decode, encode

__all__ = ["Arrived", "Connection"]


class Arrived(NamedTuple):
    """A message that has come, with the descriptors that its reader is to take over."""

    message: Any
    fds: list[int]


class Connection:
    """Sends and receives the messages of `protocol`, and the pickles that go with them.

    Parameters
    ----------
    channel : Channel
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.inbox, self.task_inbox = Inbox(), Inbox()
        self.outbox = Outbox()
        self._sent = 0  # segments known to the parent, by the highest id
        self._sending = threading.Lock()

    def receive(self) -> list[Arrived]:
        """Return the messages that are there; their segments are mapped.

        Raises
        ------
        Closed
            If there is none and the parent is gone.
        """
        return [Arrived(*self._adopted(*arrived)) for arrived in self.channel.receive()]

    def _adopted(self, body: Any, fds: list[int]) -> tuple[Any, list[int]]:
        message = decode(body)
        kind = type(message)
        if kind is Run:
            rest = self._adopt(message, fds) if fds or message.packet[0] is None else fds
            if message.released or message.forgotten:
                self._settle(message)
            if message.state is not None:
                count = int(message.state[0] is None) + len(message.state[4])
                self.task_inbox.adopt(message.state, rest[:count], private=True)
                rest = rest[count:]
            if message.news is not None:
                self.task_inbox.adopt(message.news, rest, private=True)
            return message, []
        if kind is NestedReply:
            self._settle(message)
            self._adopt(message, fds)
            return message, []
        if kind is Hello:
            self.inbox.adopt(message.initializer, fds[1:])
            return message, fds[:1]
        return message, fds

    def _settle(self, message: Run | NestedReply) -> None:
        self.outbox.free(message.released)
        self.inbox.forget(message.forgotten)

    def _adopt(self, message: Run | NestedReply, fds: list[int]) -> list[int]:
        """Take in what came with a packet; return the descriptors that belong to something else."""
        mine = int(message.fresh) + len(message.packet[4])  # shared memory goes with what names it
        self.inbox.adopt(message.packet, fds[:mine])
        return fds[mine:]

    def unpack(self, packet: Packet) -> tuple[Any, list[Any]]:
        """Return the pickle of arguments, and their buffers as views; none of them is copied."""
        data, buffers = self.inbox.unpack(packet, copy=False)
        if not buffers:
            self.inbox.done(packet)
        return data, buffers

    def unpack_task(self, packet: Packet) -> tuple[Any, list[Any]]:
        """The same of a task, or of news."""
        data, buffers = self.task_inbox.unpack(packet, copy=False)
        if not buffers:
            self.task_inbox.done(packet)
        return data, buffers

    def send(self, message: tuple[Any, ...]) -> None:
        """Send a message of plain values.

        Raises
        ------
        Closed
            If the parent is gone.
        """
        self.channel.send(encode(message))

    def send_pickled(
        self, kind: Any, head: Sequence[Any], pickled: Pickled, tail: Sequence[Any] = ()
    ) -> None:
        """Send ``kind(*head, packet, *tail, ...)``, and which segments are free."""
        with self._sending:  # a segment's descriptor goes with the first message that names it
            packet, segment = self.outbox.pack(pickled)
            fds = [memory.fd for memory in pickled.shared]
            if segment is not None and segment.id > self._sent:
                self._sent = segment.id
                fds.insert(0, segment.fd)
            forgotten = take_all(self.outbox.forgotten) if self.outbox.forgotten else []
            message = kind(*head, packet, *tail, *self._released(), forgotten)
            self.channel.send(encode(message), fds)

    def tell_released(self) -> None:
        """Tell which segments of tasks nothing refers to any more, if there are any."""
        if self.task_inbox.released:
            self.send(Released(*self._released()))

    def _released(self) -> tuple[list[int], list[int]]:
        """Ids of the parent's segments that nothing refers to any more: of chunks, of tasks."""
        chunks, tasks = self.inbox.released, self.task_inbox.released
        return take_all(chunks) if chunks else [], take_all(tasks) if tasks else []
