"""What workers that are spawned or forked learn the end of this process by; see `worker.warden`.

On Linux a small process of its own, on other systems a pipe that closes with this process.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from ...place import system
from ...place.descriptors import identity, keep
from ...worker.warden import NUMBER
from . import launch

if TYPE_CHECKING:
    import subprocess

__all__ = ["life", "shutdown", "watch"]

PATIENCE = 1.0  # seconds for its end


class _Warden:
    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._life = self._requests = -1
        self._identity: tuple[int, int] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def life(self) -> int:
        """Return the reading end of a pipe that is closed when this process is over."""
        with self._lock:
            if self._life >= 0 and identity(self._life) != self._identity:
                self.forget()  # somebody has closed it
            if self._process is not None and self._process.poll() is not None:
                self.disown()  # it was killed, and the workers with it
            if self._life < 0:
                self._life, held = _pipe()
                self._identity = identity(self._life)
                if system.PIPE_SIGNAL:
                    try:
                        self._start(held)
                    except BaseException:
                        self.disown()
                        raise
                else:
                    self._requests = held  # nobody else has it
            return self._life

    def _start(self, held: int) -> None:
        theirs, self._requests = _pipe()
        try:
            code = f"from parallelkit.worker.warden import main; main({theirs})"
            self._process = launch.run(code, [theirs, held])
        finally:
            os.close(theirs)
            os.close(held)

    def watch(self, pid: int) -> None:
        """Have a worker ended that outlives this process."""
        with self._lock:
            if self._process is not None:
                try:
                    os.write(self._requests, pid.to_bytes(NUMBER, "little"))
                except OSError:  # it was killed, and so are the workers
                    pass

    def shutdown(self) -> None:
        """End it. It must have no workers any more."""
        with self._lock:
            process = self._process
            if self._life >= 0 and identity(self._life) != self._identity:
                self.forget()
            else:
                self.disown()
        if process is not None:
            launch.see_off(process, PATIENCE)

    def disown(self) -> None:
        """Close our ends of the pipes."""
        for fd in (self._life, self._requests):
            if fd >= 0:
                os.close(fd)
        self._life = self._requests = -1
        self._process = None

    def let_go(self) -> None:
        """In a forked child: keep nothing of it but what a worker needs."""
        if self._process is not None:
            self._process.returncode = 0  # or it would warn that it still runs
        self._life = -1
        self.disown()

    def forget(self) -> None:
        """End one whose pipes are somebody else's by now."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        keep((self._life, self._requests))
        self._life = self._requests = -1
        self._process = None


def _pipe() -> tuple[int, int]:
    one, other = os.pipe()
    return launch.apart(one), launch.apart(other)


def life() -> int:
    """Return the reading end of a pipe that is closed when this process is over."""
    return _warden.life()


def watch(pid: int) -> None:
    """Have a worker ended, with what its items have started, that outlives this process."""
    _warden.watch(pid)


def shutdown() -> None:
    """End the warden, where there is one."""
    _warden.shutdown()


def _after_fork() -> None:
    """In a forked child: the warden is the parent's, whose ends must not be held here."""
    global _warden
    _warden.let_go()
    _warden = _Warden()


_warden = _Warden()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
