"""How worker processes are started, talked to and ended: each family of systems has its own way.

===============  ==================================================================================
``started``      start a worker, by one of the start methods that need no pathos for it (``EARLY``)
``popen``        of a start method: starts a process for pathos; ``stop`` ends it with what it has
                 started, as does ``lose`` where its descriptors are not ours any more
``pair``         two ends of a way between processes
``channel``      what talks to a worker by our end of the pair; it is told by what, besides, to see
                 that the worker has ended
``interrupt``    have a worker look for what its parent gave up
``wait_for``     wait for one of a few processes to end, by their sentinels
``poll``         what waits for many channels and processes at once, as `select.epoll` does
``wakers``       something to send a byte to that wakes who polls, and what reads it
===============  ==================================================================================
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from ...place import system
from ...transport.channel import Channel

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

_family: Any = importlib.import_module(".windows" if system.WINDOWS else ".posix", __package__)

EARLY: Sequence[str] = _family.EARLY
channel: Callable[[Any, int], Channel] = _family.channel
interrupt: Callable[[int], None] = _family.interrupt
pair: Callable[[], tuple[Any, Any]] = _family.pair
poll: Callable[[], Any] = _family.poll
popen: Callable[[str], Any] = _family.popen
started: Callable[[str], Any] = _family.started
wait_for: Callable[[Sequence[int], float | None], bool] = _family.wait_for
wakers: Callable[[Any], tuple[Any, Any]] = _family.wakers
