"""Messages over a socket pair: framed tuples, with file descriptors beside them.

::

    ┌────────────┬─────────┬──────────────────────┐
    │ length u32 │ fds u32 │ pickle of a tuple    │   + descriptors as ancillary data (SCM_RIGHTS)
    └────────────┴─────────┴──────────────────────┘

The pair is made before the worker starts and handed to it at its birth: there is no address to
connect to, so there is no stranger to keep out and nothing in the file system to clean up. The
death of either side is the end of the file for the other.

Messages are small (what is larger lies in a segment that the message names), so `send` hardly
ever meets a full buffer. Where it does, it takes in what the other side has sent while it waits:
two sides that write to each other at once cannot block each other.

Where a descriptor that is under way may be lost once its sender has closed its own, the sender
keeps a copy until the other side has said that it has come: by a header of length 0, whose second
number says how many have.
"""

from __future__ import annotations

import array
import os
import pickle
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from ..place import system
from ..place.records import NamedTuple
from ..place.sigint import by_a_handler, pass_on

__all__ = ["Channel", "Closed", "Message", "Watch", "take_all"]

_HEADER = struct.Struct("<II")
_HEAD = _HEADER.size
_READ = 1 << 16
_MOST_FDS = 16
_ANCILLARY = socket.CMSG_SPACE(4 * _MOST_FDS) if hasattr(socket, "CMSG_SPACE") else 0


class Closed(Exception):
    """The other side is gone."""


class Message(NamedTuple):
    """A tuple that has arrived, and the descriptors that came with it."""

    body: tuple[Any, ...]
    fds: list[int]


class Channel:
    """One end of a socket pair. Sending and receiving may happen in different threads."""

    LATE = 0.0  # seconds within which, after the end of the other side, its last messages come

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._sending = threading.RLock()
        self._receiving = threading.RLock()
        self._filling = False
        self._scratch = memoryview(bytearray(_READ))
        self._buffer = bytearray()
        self._fds: deque[int] = deque()
        self._kept: deque[int] = deque()  # copies of descriptors that are under way
        self._owed: list[int] = []  # how many have come, of which the other side does not know
        self._amid = False  # whether a message has been sent in part
        self._arrived: deque[Message] = deque()
        self._ended = False
        self._poll: select.poll | None = None

    def fileno(self) -> int:
        """Descriptor to wait on."""
        return self._socket.fileno()

    def hang_up(self) -> None:
        """Let the other side see the end of the file; to be closed later."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is gone

    def close(self) -> None:
        """Hang up; the other side sees the end of the file."""
        self._socket.close()
        while self._fds:
            _close_fd(self._fds.popleft())
        for message in self._arrived:
            for fd in message.fds:
                _close_fd(fd)
        self._arrived.clear()
        while self._kept:
            _close_fd(self._kept.popleft())

    def send(self, body: tuple[Any, ...], fds: Sequence[int] = ()) -> None:
        """Send a tuple of plain values.

        Raises
        ------
        Closed
            If the other side is gone; the message is lost then.
        """
        data = pickle.dumps(body, 5)
        head = _HEADER.pack(len(data), len(fds))
        with self._sending:
            if fds and not system.FDS_LAST:
                self._kept.extend(map(_copy, fds))
            self._send(memoryview(head + data), list(fds))
        if self._owed:
            self._acknowledge()

    def _send(self, rest: memoryview, left: list[int]) -> None:
        self._amid = True
        try:
            while rest:
                try:
                    if left:  # a few at a time, each lot with a byte of the message at least
                        lot = array.array("i", left[:_MOST_FDS])
                        part = rest if len(left) <= _MOST_FDS else rest[:1]
                        sent = self._socket.sendmsg(
                            [part], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, lot)]
                        )
                        del left[:_MOST_FDS]
                    else:
                        sent = self._socket.send(rest)
                except BlockingIOError:
                    try:
                        self._wait_to_send()
                    except (OSError, ValueError) as error:  # closed meanwhile
                        raise _closed(error) from None
                except (OSError, ValueError) as error:
                    raise _closed(error) from None
                else:
                    rest = rest[sent:]
        finally:
            self._amid = False

    def _acknowledge(self) -> None:
        """Tell which descriptors have come; whoever is sending does it, when that is done."""
        while self._owed and self._sending.acquire(blocking=False):
            try:
                if self._amid:  # interrupted in the middle of a message of its own
                    return
                self._send(memoryview(_HEADER.pack(0, sum(take_all(self._owed)))), [])
            except Closed:
                return
            finally:
                self._sending.release()

    @property
    def pending(self) -> bool:
        """Whether there are messages that have been read already, which nothing announces."""
        return bool(self._arrived)

    def receive(self) -> list[Message]:
        """Return the messages that are there, without waiting.

        Raises
        ------
        Closed
            If there is none and the other side is gone.
        """
        with self._receiving:
            if self._filling:
                return []  # the garbage collector ends a call in the middle of the below
            self._fill()
            messages = list(self._arrived)
            self._arrived.clear()
        if self._owed:
            self._acknowledge()
        if not messages and self._ended:
            raise Closed("end of file")
        return messages

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is something to receive; tell whether there is."""
        if self._arrived:
            return True
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.fileno(), select.POLLIN)
        return bool(self._poll.poll(None if timeout is None else max(0, timeout) * 1000))

    def watch(self) -> Watch:
        """Return what a thread waits by that others wake."""
        return Watch(self.fileno())

    def wait_with(self, others: Sequence[Channel], timeout: float) -> None:
        """Wait a while for one of these, or the others, to have something."""
        poll = select.poll()
        for channel in (self, *others):
            poll.register(channel.fileno(), select.POLLIN)
        poll.poll(timeout * 1000)

    def _wait_to_send(self) -> None:
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN | select.POLLOUT)
        for _, event in poll.poll(1000):
            if event & (select.POLLIN | select.POLLHUP):
                with self._receiving:
                    self._fill()

    def _fill(self) -> None:
        """Read all that the kernel has, and cut it into messages."""
        if self._filling:
            return
        self._filling = True
        try:
            self._read()
        finally:
            self._filling = False

    def _read(self) -> None:
        while not self._ended:
            try:
                count, ancillary, _, _ = self._socket.recvmsg_into([self._scratch], _ANCILLARY)
            except BlockingIOError:
                break
            except OSError as error:
                pass_on(error)
                count, ancillary = 0, []
            for level, kind, raw in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds = array.array("i")
                    fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
                    self._fds.extend(fds)
            if not count:
                self._ended = True
                break
            if self._buffer:
                self._buffer += self._scratch[:count]
                with memoryview(self._buffer) as whole:
                    used = self._cut(whole)
                del self._buffer[:used]
            else:
                used = self._cut(self._scratch[:count])
                if used < count:
                    self._buffer += self._scratch[used:count]
            if count < _READ and not ancillary:
                break

    def _cut(self, data: memoryview) -> int:
        """Take the messages in `data`; return how many bytes those have that are there whole."""
        at, there = 0, len(data)
        while there - at >= _HEAD:
            length, count = _HEADER.unpack_from(data, at)
            begin, at = at, at + _HEAD + length
            if there < at:
                return begin
            if not length:
                for _ in range(count):
                    _close_fd(self._kept.popleft())
                continue
            fds: list[int] = []
            if count:
                if not system.FDS_LAST:
                    self._owed.append(count)
                fds += [self._fds.popleft() for _ in range(min(count, len(self._fds)))]
            self._arrived.append(Message(pickle.loads(data[begin + _HEAD : at]), fds))
        return at


class Watch:
    """Waits until a channel has something, or somebody wakes it. One thread waits."""

    def __init__(self, fd: int) -> None:
        self._wakes, self._wake = os.pipe()
        for end in (self._wakes, self._wake):
            os.set_blocking(end, False)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._poll.register(self._wakes, select.POLLIN)

    def wait(self) -> None:
        """Wait; a wake since the last time counts."""
        self._poll.poll()
        try:
            os.read(self._wakes, 4096)
        except BlockingIOError:
            pass

    def wake(self) -> None:
        """End the wait, or the next one."""
        try:
            os.write(self._wake, b"x")
        except BlockingIOError:
            pass  # full: it will wake


def take_all(ids: list[int]) -> list[int]:
    """Empty a list to whose end other threads may append meanwhile."""
    taken = ids[:]
    del ids[: len(taken)]
    return taken


def _closed(error: Exception) -> Exception:
    """What to raise where the system refuses; a signal handler's own error goes on its way."""
    return error if by_a_handler(error) else Closed(str(error))


def _copy(fd: int) -> int:
    try:
        return os.dup(fd)
    except OSError:  # there are no more of them
        return -1


def _close_fd(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass
