"""How a worker ends: with what its items have started, or, when it may, by its exit handlers."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time

__all__ = ["PATIENCE", "forget_exit_handlers", "kill_below", "kill_with_children", "leave"]

PATIENCE = 0.5  # seconds for the exit handlers of what items have used


def kill_with_children(pid: int) -> None:
    """Kill a process that is stopped for it, and what runs below it (on Linux)."""
    try:
        os.kill(pid, signal.SIGSTOP)  # it shall start no more
        kill_below(pid)
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def kill_below(pid: int) -> None:
    """Kill what a process has started, but for what has been given a session of its own."""
    for child in _children(pid):
        try:
            if os.getsid(child) == os.getsid(pid):
                kill_with_children(child)
        except (ProcessLookupError, PermissionError):
            pass


def _children(pid: int) -> list[int]:
    """Processes that the threads of a process have started, as far as the system tells."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    except OSError:  # not Linux, or it has ended
        pass
    return found


def forget_exit_handlers() -> None:
    """In a forked worker: what the parent has registered is the parent's."""
    atexit._clear()
    getattr(threading, "_threading_atexits", []).clear()


def leave() -> None:
    """End this worker: after a moment for what items have used to clean up, and at once."""
    threading.Thread(target=_end_late, name="parallelkit-end", daemon=True).start()
    try:
        threading._shutdown()  # type: ignore[attr-defined] # executors register themselves there
        atexit._run_exitfuncs()
    finally:
        os._exit(0)


def _end_late() -> None:
    time.sleep(PATIENCE)
    kill_below(os.getpid())
    os._exit(0)
