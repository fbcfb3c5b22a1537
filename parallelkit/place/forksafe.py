"""Whether a copy of this process, made by `os.fork`, may go on by itself.

A fork copies memory and the one thread that forks. What other threads were doing stays half done
in the copy for ever: a lock of OpenMP's, a queue of a GPU driver's. So a copy is safe where there
was no other thread, and that can be seen exactly if it is looked at *after* the fork: libraries
that know of forks, OpenBLAS above all, end their threads in a handler of it.

A copy is also to give the same answers as a new process. There the modules of the project itself
are as they were imported; here the program may have changed what they hold. So they count as a
reason against it, and libraries, which programs as a rule leave as they are, do not.

Nothing is imported here: a library that is not loaded has left nothing behind.
"""

from __future__ import annotations

import builtins
import os
import stat
import sys
import threading
import weakref
from contextlib import suppress
from typing import Any

from . import recording, system
from .nesting import in_worker_process

__all__ = ["LARGEST", "REFUSED", "harmless", "memory", "why_not", "why_not_after"]

LARGEST = 1 << 30  # bytes of its own that a process may have: the copy holds on to them
REFUSED = 3  # exit code of a fork server in which other threads run
DEEPEST = 150  # frames of calls; what items need for themselves comes on top

harmless: weakref.WeakSet[threading.Thread] = weakref.WeakSet()  # ours: a fork may cut them off
_EXITING = 0x4  # PF_EXITING of the kernel: a thread that has done all that it had to do
_HARMLESS = ("jemalloc_bg_thd",)  # jemalloc's handler of forks starts it anew
# Of processes that have one of these loaded, something outside knows: a window system, other ranks
# of a program, a loop that has taken the place of threads. Some say themselves that they bear no
# fork.
_CONNECTED = {
    "_tkinter": "a window system",
    "PyQt5.QtGui": "a window system",
    "PyQt6.QtGui": "a window system",
    "PySide2.QtGui": "a window system",
    "PySide6.QtGui": "a window system",
    "wx._core": "a window system",
    "gi.repository.Gtk": "a window system",
    "gi.repository.Gdk": "a window system",
    "pygame.display": "a window system",
    "mpi4py.MPI": "MPI",
    "gevent": "gevent's loop",
    "eventlet": "eventlet's loop",
    "jax": "XLA",
    "tensorflow": "the threads of TensorFlow",
    "grpc._cython.cygrpc": "gRPC",
}
# These keep for the whole process what they have open, by file or address, and would take what is
# opened anew in the copy for the same: https://www.sqlite.org/howtocorrupt.html, 2.6.
_WITH_TABLES = (
    *("_sqlite3", "apsw", "h5py", "tables", "netCDF4", "lmdb", "_gdbm", "_dbm", "osgeo._gdal"),
    *("rasterio._base", "pyodbc", "cx_Oracle", "ibm_db"),
)
_LOCK: Any = type(threading.Lock())
_RLOCK: Any = type(threading.RLock())  # which tells whether it is locked from 3.14 on
_MADE_ANEW = ("__main__", "threading", "logging")  # whose locks are made anew, or stay here
_DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri/", "/dev/accel", "/dev/davinci", "/dev/dxg")
_STANDARD = os.path.dirname(os.__file__) + os.sep
_INSTALLED = ("site-packages", "dist-packages")
_OF_COMPILERS = ("_cython_", "cython_runtime")  # modules that compiled ones make for themselves
_QUIET = ("builtins", "abc", "enum", "typing", "__main__")  # do not remember classes by name
_PACKAGE = __name__.partition(".")[0]
# Each interpreter imports them by itself, or knows them from elsewhere.
_OF_EACH = ("__main__", "__mp_main__", "sitecustomize", "usercustomize", _PACKAGE)


def why_not(*, strictly: bool = True, again: bool = False) -> str | None:
    """Return what speaks against a fork, as far as it can be seen before; None if nothing does.

    Without `strictly` only what could hang or crash counts. A look `again`, a moment after one that
    has found nothing, is only at what begins by itself: the others go through all modules.
    """
    if again:
        return _threads()
    if not os.path.exists(system.PROC):
        return "whether a fork is safe is not known here"
    reason = _threads() or _open() or _locks()
    if reason is None and strictly:
        reason = _place() or _modules() or _script()
    return reason


def why_not_after() -> str | None:
    """Return what made the fork that has just been done unsafe; None if nothing did."""
    # In a fork the main thread still has the number that it had in the parent.
    mine = {threading.get_native_id(), *(thread.native_id for thread in threading.enumerate())}
    names = []
    for task in os.listdir(f"{system.PROC}/self/task"):
        if int(task) in mine:
            continue
        try:
            with open(f"{system.PROC}/self/task/{task}/stat", "rb") as file:
                head, _, rest = file.read().rpartition(b")")
        except OSError:  # it has ended
            continue
        name = head.partition(b"(")[2].decode(errors="replace")
        if name not in _HARMLESS and not int(rest.split()[6]) & _EXITING:
            names.append(name)
    if names:
        return f"compiled code runs {len(names)} threads (such as {min(names)!r})"
    return None


def _threads() -> str | None:
    """Name what runs beside this thread, or is taken for that."""
    if threading.current_thread() is not threading.main_thread():
        return "the call is made by another thread than the main one"
    others = [
        thread for thread in threading.enumerate() if thread not in harmless and not _is_bar(thread)
    ]
    if len(others) > 1:
        names = sorted(t.name for t in others if t is not threading.current_thread())
        return f"the program runs other threads ({', '.join(names[:3])})"
    for name, what in _CONNECTED.items():
        if name in sys.modules:
            return f"the program is connected to {what} ({name} is imported)"
    return None


def _is_bar(thread: threading.Thread) -> bool:
    """Whether it is the thread of tqdm that looks after bars: it sleeps, and starts anew."""
    kind = type(thread)
    return kind.__name__ == "TMonitor" and kind.__module__.startswith("tqdm")


def _place() -> str | None:
    """Tell what items would have around them that belongs to the call."""
    if in_worker_process():
        return "the call is made in a worker"
    if sys.exc_info()[1] is not None:
        return "an exception is being handled, which errors of items would have as their context"
    if _is_deep():
        return f"the call is made more than {DEEPEST} calls deep, which items would do without"
    nbytes = memory()
    if nbytes > LARGEST:
        return f"the program has {nbytes >> 20} MB of memory, and a copy would hold on to them"
    return None


def _is_deep() -> bool:
    depth, frame = 0, sys._getframe()  # noqa: SLF001 - there is no other way to count
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    return depth > DEEPEST


def _open() -> str | None:
    """Name what is open that a copy must not have: its owner knows this process, and not the copy.

    GPUs and their like, and files of libraries that keep tables of them.
    """
    tables = next((name for name in _WITH_TABLES if name in sys.modules), None)
    ours = recording.descriptors() if recording.on else ()
    for name in os.listdir(f"{system.PROC}/self/fd"):
        fd = int(name)
        try:
            path = os.readlink(f"{system.PROC}/self/fd/{fd}")
            mode = os.fstat(fd).st_mode
        except OSError:  # that by which they are listed
            continue
        if path.startswith(_DEVICES):
            return f"the program uses a device ({path})"
        if not tables or fd <= 2 or fd in ours:
            continue
        if stat.S_ISREG(mode) or (stat.S_ISSOCK(mode) and _is_named(fd)):
            return f"the program has {path} open, which may be a matter of {tables}"
    cuda = sys.modules.get("torch.cuda")
    if cuda is not None and getattr(cuda, "is_initialized", bool)():
        return "the program uses a device (torch.cuda is initialised)"
    return None


def _is_named(fd: int) -> bool:
    """Whether a socket is at an address; pairs, such as those of our workers and loops, are not."""
    import socket  # the standard library's, which whoever has sockets has loaded

    with suppress(OSError), socket.socket(fileno=os.dup(fd)) as own:
        return own.family != socket.AF_UNIX or bool(own.getsockname() or own.getpeername())
    return True


def _locks() -> str | None:
    """Name a lock of a library that the caller holds: in the copy nobody would ever let go of it.

    Looked at are those that modules keep as such, where a module makes locks at all.
    """
    for name, module in list(sys.modules.items()):
        space = getattr(module, "__dict__", {})
        if "threading" not in space and "Lock" not in space and "RLock" not in space:
            continue
        if name in _MADE_ANEW or name.partition(".")[0] == _PACKAGE:
            continue
        for key, value in list(space.items()):
            kind = type(value)
            if (kind is _LOCK and value.locked()) or (
                kind is _RLOCK and value._is_owned()  # noqa: SLF001 - see there
            ):
                return f"the program holds the lock {name}.{key}"
    return None


def memory() -> int:
    """Bytes that this process has for itself, beside its libraries; 0 where nobody tells."""
    try:
        with open(f"{system.PROC}/self/status", "rb") as file:
            lines = [line.split() for line in file]
    except OSError:
        return 0
    return sum(int(line[1]) << 10 for line in lines if line[0] in (b"RssAnon:", b"RssShmem:"))


def _modules() -> str | None:
    """Name a module that belongs to the program itself, or is half imported."""
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if getattr(spec, "_initializing", False) and name not in _OF_EACH:
            return f"{name} is being imported"
        if "." not in name and name not in _OF_EACH and not _is_installed(module, spec):
            return f"the module {name} of the program is imported, which may have been changed"
    return None


def _script() -> str | None:
    """Name what the script has made known in modules other than its own."""
    for name, value in vars(builtins).items():
        if getattr(value, "__module__", None) == "__main__":
            return f"the program has set builtins.{name}"
    for name, value in list(vars(sys.modules["__main__"]).items()):
        if isinstance(value, type) and value.__module__ == "__main__" and _is_known(value):
            return f"the class {name} of the program may be known to its base, which is told twice"
    return None


def _is_known(cls: type) -> bool:
    """Whether a class of a library hears of each class that is derived from it."""
    return type(cls).__module__ not in _QUIET or any(
        "__init_subclass__" in vars(base) and base.__module__ not in _QUIET
        for base in cls.__mro__[1:]
    )


def _is_installed(module: Any, spec: Any) -> bool:
    """Whether a module belongs to Python or to an installed library."""
    origin = getattr(spec, "origin", None)
    if origin in ("built-in", "frozen"):
        return True
    if origin is None:
        origin = getattr(module, "__file__", None)
    if origin is None:
        origin = next(iter(getattr(spec, "submodule_search_locations", None) or ()), None)
    if origin is not None:
        return str(origin).startswith(_STANDARD) or any(part in origin for part in _INSTALLED)
    return str(getattr(module, "__name__", "")).startswith(_OF_COMPILERS)
