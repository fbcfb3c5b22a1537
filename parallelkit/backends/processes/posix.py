"""How workers are talked to where processes can be forked."""

from __future__ import annotations

import importlib
import os
import select
import signal
import socket
from collections.abc import Sequence
from typing import Any

from ...place import system
from ...transport.channel import Channel
from . import forkserver
from .launch import pair

__all__ = [
    "EARLY",
    "channel",
    "interrupt",
    "pair",
    "poll",
    "popen",
    "started",
    "wait_for",
    "wakers",
]

EARLY = forkserver.METHODS


def started(start_method: str) -> Any:
    """Start a worker by a fork server."""
    return importlib.import_module(".forked", __package__).Forked(start_method)


def popen(start_method: str) -> Any:
    """Return what starts a process; it is built on multiprocess, which takes long to import."""
    return importlib.import_module(".posix_popen", __package__).POPEN[start_method]


def channel(end: socket.socket, sentinel: int) -> Channel:  # noqa: ARG001 - its end tells
    """Return what talks to a worker by our end of a pair."""
    return Channel(end)


def interrupt(pid: int) -> None:
    """Send SIGINT; a worker takes it as a hint to look for what its parent gave up."""
    try:
        os.kill(pid, signal.SIGINT)
    except ProcessLookupError:
        pass


def wait_for(ends: Sequence[int], timeout: float | None = None) -> bool:
    """Wait until there is something at one of these descriptors; return whether there is."""
    waiting = select.poll()
    for end in ends:
        waiting.register(end, select.POLLIN)
    return bool(waiting.poll(None if timeout is None else timeout * 1000))


def poll() -> Any:
    """Return what waits for many descriptors."""
    return select.epoll() if system.EPOLL else _Poll()


def wakers(poll: Any) -> tuple[Any, Any]:
    """Return something to send a byte to that wakes who polls, and what reads it."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    poll.register(ends[1], select.POLLIN)
    return ends


class _Poll:
    """`select.poll` with the face of `select.epoll`, where there is none; for several threads."""

    def __init__(self) -> None:
        self._masks: dict[int, int] = {}

    def register(self, source: Any, mask: int) -> None:
        """Listen to a descriptor, or what has one, from the next time on that somebody waits."""
        self._masks[source if isinstance(source, int) else source.fileno()] = mask

    def unregister(self, fd: int) -> None:
        """Listen to it no more."""
        del self._masks[fd]

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait for seconds."""
        poll = select.poll()
        for fd, mask in self._masks.copy().items():
            poll.register(fd, mask)
        return poll.poll(None if timeout is None else timeout * 1000)

    def close(self) -> None:
        """Nothing is open."""
