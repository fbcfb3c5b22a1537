"""How interpreters are started by a command line: nothing of the working directory gets in early.

Python puts the working directory at the head of ``sys.path`` for ``-c``, so a ``socket.py`` that
lies there would be imported for the standard one: by a fork server, a spawned worker, or the
resource tracker of multiprocess. All three begin with the parent's path instead, the standard
library first. A worker takes on the caller's path, in its own order, when it is greeted.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile

from multiprocess import resource_tracker, spawn, util

__all__ = ["command_line", "first_path", "standard_modules", "start_tracker"]

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
    found = []
    for name in sys.stdlib_module_names & sys.modules.keys():
        origin = getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None)
        if origin is not None and _is_standard(origin):
            found.append(name)
    return found


def _is_standard(path: str) -> bool:
    """Whether a file or folder belongs to the standard library."""
    if "site-packages" in path or "dist-packages" in path:
        return False
    return f"{path}{os.sep}".startswith(_STANDARD) or os.path.basename(path) == _ZIPPED


def command_line(code: str, *args: str) -> list[str]:
    """Command that runs `code` in an interpreter with the flags of this one."""
    # -P also keeps 3.13.0 from stumbling over a working directory that has been removed.
    flags = [*util._args_from_interpreter_flags(), "-P"]
    guarded = f"import sys; sys.path[:] = {first_path()!r}; {_temporary_folder()}{code}"
    return [spawn.get_executable(), *flags, "-c", guarded, *args]


def _temporary_folder() -> str:
    """Code that names the folder for temporary files as this process knows it.

    dill asks for it when it is imported, and Python finds out by writing a file there, which stays
    behind where a worker is killed at that moment.
    """
    known = tempfile.gettempdir()
    return f"import tempfile; tempfile.tempdir = {known!r}; "


def start_tracker() -> None:
    """Start multiprocess' resource tracker as it does itself, but for the path."""
    tracker = resource_tracker._resource_tracker
    with tracker._lock:
        if tracker._fd is not None:
            return
        reading, writing = os.pipe()
        fds = [reading]
        try:
            fds.append(sys.stderr.fileno())
        except (AttributeError, OSError, ValueError):
            pass
        signals = {signal.SIGINT, signal.SIGTERM}  # it ignores them, as soon as it has begun
        try:
            command = command_line(
                f"from multiprocess.resource_tracker import main; main({reading})"
            )
            before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
            try:
                # It ends with the last process that holds its pipe. To note its pid would have
                # Python wait for that at its end (from 3.13 on), and a worker for Python's end.
                util.spawnv_passfds(command[0], command, fds)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        tracker._fd = writing
