"""How interpreters are started by a command line: nothing of the working directory gets in early.

Python puts the working directory at the head of ``sys.path`` for ``-c``, so a ``socket.py`` that
lies there would be imported for the standard one, by a fork server or a spawned worker. Both begin
with the parent's path instead, the standard library first. A worker takes on the caller's path, in
its own order, when it is greeted.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...errors import ParallelError
from ...place import host, system

if TYPE_CHECKING:
    import subprocess

__all__ = [
    "apart",
    "end",
    "first_path",
    "interpreter",
    "pair",
    "run",
    "see_off",
    "standard_modules",
    "starting",
]

# python3.13t, python_d.exe, pypy3.10, pvpython; but no happy, marathon or python-editor.
_INTERPRETER = re.compile(
    r"(\w*python|pypy|graalpy|mayapy|hython)w?([-_.]?\d[\w.-]*|[-_.]d\w*)?(\.exe)?"
)
_STANDARD = os.path.dirname(os.__file__) + os.sep
_ZIPPED = "python{}{}.zip".format(*sys.version_info)


def first_path() -> list[str]:
    """``sys.path`` to begin with: absolute, and the standard library first."""
    try:
        folder = os.getcwd()
    except OSError:  # it has been removed, and everything in it
        folder = ""
    path = [str(entry) or folder for entry in sys.path]
    return sorted(filter(None, path), key=lambda entry: not _is_standard(entry))


def standard_modules() -> list[str]:
    """Modules that this process has from the standard library, whatever its path says now."""
    global _seen
    here = sys.stdlib_module_names & sys.modules.keys()
    if len(here) != _seen[0]:  # several workers are told of the same ones
        found = []
        for name in here:
            origin = getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None)
            if origin is not None and _is_standard(origin):
                found.append(name)
        _seen = len(here), found
    return _seen[1]


_seen: tuple[int, list[str]] = 0, []


def _is_standard(path: str) -> bool:
    """Whether a file or folder belongs to the standard library."""
    if "site-packages" in path or "dist-packages" in path:
        return False
    return f"{path}{os.sep}".startswith(_STANDARD) or os.path.basename(path) == _ZIPPED


def interpreter() -> str:
    """Return the Python that workers run in: this one, or what was named to multiprocessing.

    A program that embeds Python, or is frozen, is itself `sys.executable`. Started once more with
    the command line of a worker it would do all its work again, and start further ones.

    Raises
    ------
    ParallelError
        If there is none.
    """
    spawn = sys.modules.get("multiprocessing.spawn")
    named = spawn.get_executable() if spawn is not None else sys.executable
    python = os.fsdecode(named or "")
    if _is_interpreter(python):
        return python
    version = "python{}.{}".format(*sys.version_info)
    for name in ("python.exe",) if system.WINDOWS else (f"bin/{version}", "bin/python3"):
        found = os.path.join(sys.base_exec_prefix, name)
        if os.path.isfile(found):
            return found
    raise ParallelError(
        f"worker processes need a Python interpreter, and the program that runs this, {python!r}, "
        "is another one: name a Python with the same packages by multiprocessing.set_executable, "
        "or use backend='thread'"
    )


def _is_interpreter(python: str) -> bool:
    if python != (sys.executable or ""):
        return True  # somebody has named it
    name = os.path.basename(python).lower()
    return _INTERPRETER.fullmatch(name) is not None and not hasattr(sys, "frozen")


def run(code: str, fds: Iterable[int]) -> subprocess.Popen[bytes]:
    """Run `code`, with these descriptors open, in an interpreter with the flags of this one."""
    import subprocess  # a call whose workers are all forked does without

    # -P also keeps 3.13.0 from stumbling over a working directory that has been removed.
    flags = [*subprocess._args_from_interpreter_flags(), "-P"]  # type: ignore[attr-defined]
    guarded = f"import sys; sys.path[:] = {first_path()!r}; {code}"
    # It ignores Ctrl-C as soon as it has begun, and is not to meet it before.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(  # noqa: S603 - our own command
            [interpreter(), *flags, "-c", guarded], env=host.variables(), pass_fds=tuple(fds)
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def see_off(process: Any, patience: float) -> None:
    """Wait for the end of a process that has been asked for it; kill one that takes longer."""
    deadline = time.monotonic() + patience
    pause = 0.0002
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            return
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


_starting = threading.RLock()  # no worker inherits a descriptor meant for another
_ending = False


@contextmanager
def starting() -> Iterator[None]:
    """Within this a worker is started, one at a time.

    Raises
    ------
    ParallelError
        Once Python is ending. Then threads other than the main one may be stopped anywhere; a
        user's exit handlers go on.
    """
    with _starting:
        if _ending and threading.current_thread() is not threading.main_thread():
            raise ParallelError("Python is ending: no more workers are started")
        yield


def end() -> None:
    """Start no more workers from other threads; one that is being started gets all it needs."""
    global _ending
    with _starting:
        _ending = True


def apart(fd: int) -> int:
    """Return a descriptor, or if it is 0, 1 or 2, which may have been closed, another for it."""
    if fd > 2:
        return fd
    import fcntl

    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def pair() -> tuple[socket.socket, socket.socket]:
    """Return a socket pair that no interpreter takes for its standard input or output."""
    one, other = (socket.socket(fileno=apart(end.detach())) for end in socket.socketpair())
    for end in (one, other):
        end.settimeout(None)  # whatever the program has set as default
    return one, other


def _after_fork() -> None:
    """In a forked child: the thread that holds the lock may not exist here."""
    global _starting
    _starting = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
