"""How a worker ends: with what its items have started, or, when it may, by its exit handlers."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time

from ..place import system

__all__ = [
    "PATIENCE",
    "end_now",
    "forget_exit_handlers",
    "kill_below",
    "kill_with_children",
    "leave",
]

PATIENCE = 0.5  # seconds for the exit handlers of what items have used
# In the command of a process that removes what others have left behind, as it is started by
# multiprocessing, multiprocess and loky. It ends by itself when those have ended.
_TRACKER = "resource_tracker import main"


def kill_with_children(pid: int) -> None:
    """Kill a process that is stopped for it, and what runs below it (on Linux)."""
    try:
        os.kill(pid, signal.SIGSTOP)  # it shall start no more
        kill_below(pid)
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def end_now() -> None:
    """End this process and what it has started; on Windows its job does the latter."""
    if system.WINDOWS:
        os._exit(1)
    kill_below(os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


def kill_below(pid: int) -> None:
    """Kill what a process has started, but for what has been given a session of its own.

    Nor what removes the files of those that are killed, and then ends.
    """
    if system.WINDOWS:
        return  # its job does
    for child in _children(pid):
        try:
            if os.getsid(child) == os.getsid(pid):
                kill_with_children(child)
        except (ProcessLookupError, PermissionError):
            pass


def _children(pid: int) -> list[int]:
    """Processes that the threads of a process have started, but for trackers."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"{system.PROC}/{pid}/task"):
            with open(f"{system.PROC}/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        pass
    except OSError:  # not Linux
        return _listed_below(pid)
    return [child for child in found if _TRACKER not in _command(child)]


def _command(pid: int) -> str:
    """What a process was started with, on Linux."""
    try:
        with open(f"{system.PROC}/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:  # it has ended
        return ""


def _listed_below(pid: int) -> list[int]:
    """The same, as `ps` tells it."""
    command = ["ps", "-A", "-ww", "-o", "pid=", "-o", "ppid=", "-o", "command="]
    try:
        import subprocess  # which cannot be read where too many files are open

        with subprocess.Popen(  # noqa: S603 - our own command
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as ps:
            try:
                listed, _ = ps.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                ps.kill()
                return []
    except OSError:
        return []
    lines = [line.split(None, 2) for line in listed.splitlines() if _TRACKER.encode() not in line]
    pairs = [(int(line[0]), int(line[1])) for line in lines]
    return [child for child, parent in pairs if parent == pid and child != ps.pid]


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
