"""How a worker process comes to life on Windows, on its own side; see `bootstrap` for elsewhere."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing import connection

from ..place.windows import kernel
from ..transport.channel import Message
from ..transport.pipes import PipeChannel
from . import ending
from .process import serve
from .protocol import Abort, decode

__all__ = ["spawned"]

_NO_WINDOWS = 0x1 | 0x2  # SEM_FAILCRITICALERRORS, SEM_NOGPFAULTERRORBOX


def spawned() -> None:
    """Be the worker that a fresh interpreter was started for; its input has its handles."""
    handle, parent = map(int, sys.stdin.readline().split())
    sys.stdin.close()
    if sys.stdin is sys.__stdin__:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - for good
    # What is pressed in the console is the parent's, who may have something against Ctrl-Break.
    for number in (signal.SIGINT, getattr(signal, "SIGBREAK", signal.SIGINT)):
        signal.signal(number, signal.SIG_IGN)
    # Who waits for this worker tells of its crash; no window is to ask somebody who is not there.
    kernel().SetErrorMode(_NO_WINDOWS)
    pipe = connection.PipeConnection(handle)  # type: ignore[attr-defined,unused-ignore]
    serve(PipeChannel(pipe, parent, _heed))
    ending.leave()


def _heed(message: Message) -> None:
    """A call was given up: interrupt the main thread, which looks whether it runs an item of it."""
    if type(decode(message.body)) is Abort:
        signal.raise_signal(signal.SIGINT)
