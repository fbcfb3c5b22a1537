"""The warden: ends what is left of workers that no fork server has started, without a caller.

::

    caller ── ids of its workers ──► warden, which holds a pipe open ──► workers
    (killed) ──── end of the file ───► kills workers with what their items have started; then the
                                       pipe closes, by which the kernel ends a worker that is left

A worker alone could not do that: the kernel ends it at once, and its children go on without it.
"""

from __future__ import annotations

import os
import signal

from ..place import system
from .ending import kill_with_children

__all__ = ["NUMBER", "main"]

NUMBER = 8  # bytes of a process id on its way


def main(fd: int) -> None:
    """Take ids of workers until the caller is gone; who has an id is known by its birth."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    workers: dict[int, str] = {}
    while data := os.read(fd, NUMBER):
        workers = {pid: born for pid, born in workers.items() if _born(pid) == born}
        pid = int.from_bytes(data, "little")
        workers[pid] = _born(pid)
    for pid, born in workers.items():
        if born and _born(pid) == born:
            kill_with_children(pid)


def _born(pid: int) -> str:
    """When a process has begun, in ticks of the system; empty if it has ended."""
    try:
        with open(f"{system.PROC}/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
