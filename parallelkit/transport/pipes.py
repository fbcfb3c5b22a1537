"""Messages between processes on Windows: over a pair of named pipes, each read by a thread.

Only its two ends are ever connected to a pipe: it has one instance, and the client is opened by
who has made it, at once; had a stranger been faster, that would fail. Nothing is in the file
system, and the death of either side is the end of the file for the other.

A pipe cannot be waited for together with others, not by hundreds. So a thread for each reads, and
rings the bells of those who wait for one of many. It always reads: two sides that write to each
other at once cannot block each other.

Memory goes beside a message as a handle that the sender gives the receiver, with its name: it is
there although the sender should end before the message is read (see `anonymous_windows`).
"""

from __future__ import annotations

import ctypes
import importlib
import pickle
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Pipe
from typing import Any

from ..place import system
from ..place.windows import kernel
from . import anonymous_windows as anonymous
from .channel import Channel, Closed, Message, Watch

# What is there on Windows only; types are checked on other systems too.
_winapi: Any = importlib.import_module("_winapi") if system.WINDOWS else None

__all__ = ["Bell", "PipeChannel", "Poll", "ProcessEnd", "pair"]

_INFINITE = 0xFFFFFFFF
_HANG_UP = b"."  # no pickle
_sources: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def pair() -> tuple[Any, Any]:
    """Return two ends that are connected with each other."""
    return Pipe()


class Bell:
    """What one thread waits for and others ring; Ctrl-C ends the wait in the main thread.

    With `for_one`, whose wait it ends does not have to `hush` it.
    """

    def __init__(self, *, for_one: bool = False) -> None:
        self._changing = threading.RLock()
        self._kernel = kernel()
        self._kernel.CreateEventW.restype = ctypes.c_void_p
        self._handle = self._kernel.CreateEventW(None, not for_one, False, None) or 0
        if not self._handle:
            raise OSError("Windows makes no more events")

    @property
    def handle(self) -> int:
        """What others wait for."""
        return int(self._handle)

    def ring(self) -> None:
        """End the wait, or the next one."""
        with self._changing:
            if self._handle:
                self._kernel.SetEvent(ctypes.c_void_p(self._handle))

    def hush(self) -> None:
        """Forget what has been rung."""
        with self._changing:
            if self._handle:
                self._kernel.ResetEvent(ctypes.c_void_p(self._handle))

    def wait(self, timeout: float | None) -> None:
        """Wait for a ring, for so many seconds at most."""
        if not self._handle:
            raise OSError("the bell is gone")
        wait = _INFINITE if timeout is None else min(int(timeout * 1000) + 1, _INFINITE - 1)
        try:
            _winapi.WaitForMultipleObjects([self._handle], False, wait)
        except InterruptedError:
            pass  # by Ctrl-C, whose handler runs now

    def close(self) -> None:
        """Ring for the last time."""
        with self._changing:
            handle, self._handle = self._handle, 0
            if handle:
                self._kernel.SetEvent(ctypes.c_void_p(handle))
                self._kernel.CloseHandle(ctypes.c_void_p(handle))

    def __del__(self) -> None:
        self.close()


class _Source:
    """Something that becomes ready, and tells those who wait for it."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._bells: list[Callable[[], None]] = []
        _sources[number] = self

    def is_ready(self) -> bool:
        """Whether there is something for who waits."""
        raise NotImplementedError

    def tell(self) -> None:
        """Ring for all who wait."""
        for ring in list(self._bells):
            ring()


class Poll:
    """Waits for any of many sources, with the face of `select.epoll`, and is its own waker."""

    def __init__(self) -> None:
        self._bell = Bell()
        self._heard: dict[int, _Source] = {}
        self._number = -1

    def fileno(self) -> int:
        """No source has this number."""
        return self._number

    def register(self, source: int, mask: int) -> None:  # noqa: ARG002 - the face
        """Listen to what has this number."""
        found = _sources[source]
        self._heard[source] = found
        found._bells.append(self._bell.ring)  # noqa: SLF001 - of this module
        self._bell.ring()

    def unregister(self, source: int) -> None:
        """Listen to it no more."""
        found = self._heard.pop(source)
        found._bells.remove(self._bell.ring)  # noqa: SLF001 - of this module

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        """Wait; return the numbers of those that are ready, if any are."""
        self._bell.hush()
        ready = self._ready()
        if not ready and timeout != 0:
            self._bell.wait(timeout)
            ready = self._ready()
        return ready

    def _ready(self) -> list[tuple[int, int]]:
        return [(number, 1) for number, it in self._heard.copy().items() if it.is_ready()]

    def send(self, _: bytes) -> None:
        """End the wait of whoever waits."""
        self._bell.ring()

    def close(self) -> None:
        """Listen to nothing."""
        for number in list(self._heard):
            self.unregister(number)
        self._bell.close()


class ProcessEnd(_Source):
    """The end of a process, as a source; `owner` has the handle and is kept until then.

    What comes `then` is done before anybody is told.
    """

    def __init__(self, handle: int, owner: object, then: Callable[[], None]) -> None:
        super().__init__(handle)
        self._owner = owner
        self._handle = handle
        self._then = then
        self.ended = False
        threading.Thread(target=self._watch, name="parallelkit-end", daemon=True).start()

    def _watch(self) -> None:
        _winapi.WaitForSingleObject(self._handle, _INFINITE)
        self._then()
        self.ended = True
        self.tell()

    def is_ready(self) -> bool:
        """Whether it has ended."""
        return self.ended

    def tell_too(self, bell: Bell) -> None:
        """Ring it at the end, or at once if that has come."""
        self._bells.append(bell.ring)
        if self.ended:
            bell.ring()


class PipeChannel(Channel, _Source):
    """One end of a pair of pipes.

    Parameters
    ----------
    pipe : PipeConnection
    peer : int
        Handle of the process at the other end.
    on_message : callable, optional
        Called by the thread that reads, with each message as it arrives.
    """

    LATE = 2.0  # the thread that reads may have its turn late

    def __init__(
        self, pipe: Any, peer: int, on_message: Callable[[Message], None] | None = None
    ) -> None:
        _Source.__init__(self, pipe.fileno())
        self._pipe = pipe
        self._peer = peer
        self._on_message = on_message
        self._sending = threading.RLock()
        self._receiving = threading.RLock()
        self._arrived: deque[Message] = deque()
        self._ended = self._closed = False
        self._bell: Bell | None = None
        self._reader = threading.Thread(
            target=self._read_all, name="parallelkit-reader", daemon=True
        )
        self._reader.start()

    def fileno(self) -> int:
        """Return the number under which `Poll` finds it."""
        return self._number

    def is_ready(self) -> bool:
        """Whether there is a message, or the end."""
        return bool(self._arrived) or self._ended

    def _read_all(self) -> None:
        try:
            while (data := self._pipe.recv_bytes()) != _HANG_UP:
                body, given = pickle.loads(data)
                message = Message(body, [anonymous.Descriptor(*pair) for pair in given])
                self._arrived.append(message)
                self.tell()
                if self._on_message is not None:
                    self._on_message(message)
        except (OSError, EOFError):
            pass
        self._ended = True
        self.tell()
        with self._sending:
            if self._closed:
                self._pipe.close()

    def hang_up(self) -> None:
        """Let the other side see the end."""
        try:
            self._write(_HANG_UP)
        except Closed:
            pass

    def close(self) -> None:
        """Let go of the pipe; the thread does it where it still reads."""
        with self._sending:
            self._closed = True
            if self._ended:
                self._pipe.close()
        while self._arrived:
            for fd in self._arrived.popleft().fds:
                anonymous.close(fd)

    def send(self, body: tuple[Any, ...], fds: Sequence[int] = ()) -> None:
        """Send a tuple of plain values, and memory."""
        try:
            given = [self._give(fd) for fd in fds]
        except OSError as failed:  # that process has ended
            raise Closed(str(failed)) from None
        self._write(pickle.dumps((body, given), 5))

    def _give(self, fd: int) -> tuple[int, str | None]:
        assert isinstance(fd, anonymous.Descriptor)
        return anonymous.given(fd, self._peer), fd.name

    def _write(self, data: bytes) -> None:
        with self._sending:
            if self._closed or self._pipe.closed:
                raise Closed("closed")
            try:
                # Not by send_bytes, which Ctrl-C would end in the middle.
                over, _ = _winapi.WriteFile(self._pipe.fileno(), data, overlapped=True)
                _, error = over.GetOverlappedResult(True)
            except OSError as failed:
                raise Closed(str(failed)) from None
            if error:
                raise Closed(f"error {error}")

    def receive(self) -> list[Message]:
        """Return the messages that are there, without waiting."""
        with self._receiving:
            ended = self._ended
            messages = []
            while self._arrived:
                messages.append(self._arrived.popleft())
        if ended and not messages:
            raise Closed("end of file")
        return messages

    def watch(self) -> _Watch:
        """Return what a thread waits by that others wake."""
        watch = _Watch(self)
        self._bells.append(watch.wake)
        return watch

    def wait_with(self, others: Sequence[Channel], timeout: float) -> None:  # noqa: ARG002
        """Wait a while for the first; the others have their turn then."""
        self.wait(timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is something to receive; tell whether there is."""
        if self.is_ready():
            return True
        if self._bell is None:
            self._bell = Bell()
            self._bells.append(self._bell.ring)
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            self._bell.hush()
            if self.is_ready():
                return True
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return False
            self._bell.wait(left)


class _Watch(Watch):
    """Waits until a channel has something, or somebody wakes it. One thread waits."""

    def __init__(self, channel: PipeChannel) -> None:
        self._channel = channel
        self._bell = Bell()

    def wait(self) -> None:
        """Wait; a wake since the last time counts."""
        if not self._channel.is_ready():
            self._bell.wait(None)
        self._bell.hush()

    def wake(self) -> None:
        """End the wait, or the next one."""
        self._bell.ring()
