"""How a copy of the caller becomes a fork server: it keeps the modules and lets go of the rest.

The copy is made by `os.fork`, where that is safe (see `place.forksafe`). From then on nothing of
the caller may be used a second time: no descriptor, exit handler, buffer, signal handler, loop or
child process. What workers know of the caller comes by its messages, as in a server started anew.

Objects of the caller are not destroyed, for what they would do at their end (remove a file, flush
a buffer, hang up) is the caller's: they are kept, and their descriptors lead to the null device, so
that nobody else gets their numbers.
"""

# ruff: noqa: SLF001 - what the standard library keeps for itself has no public name

from __future__ import annotations

import atexit
import builtins
import copyreg
import ctypes
import gc
import os
import signal
import sys
import threading
import types
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from .. import options
from ..place import blas, forksafe, system
from ..transport import carried
from . import bootstrap, forkserver, leftovers, preload
from .leftovers import kept

__all__ = ["serve"]


def serve(fd: int, names: Sequence[str]) -> NoReturn:
    """In a copy of the caller: be its fork server, once it says that the copy may go on.

    Parameters
    ----------
    fd : int
        Our end of the socket pair; one byte means to go on, its end the opposite.
    names : sequence of str
        Modules to be imported before the first fork, beside those that are there.
    """
    code = 1
    try:
        if not os.read(fd, 1):
            code = 0
        # A library's own handler of forks may have started its thread anew, in here.
        elif threading.active_count() == 1 and forksafe.why_not_after() is None:
            gc.freeze()  # nothing that is here is to be looked through, or to come to an end
            _forget_caller(fd)
            preload.load(names)
            forkserver.prepare()
            blas.look()  # once, rather than in each worker
            gc.freeze()
            forkserver.serve(fd)
    finally:
        os._exit(code)


def _forget_caller(fd: int) -> None:
    """Let go of all that is the caller's; `fd` is the one descriptor to keep, beside 1 and 2."""
    kept.append(sys.stdin)
    with suppress(OSError), open(f"{system.PROC}/self/comm", "w") as file:
        file.write("parallelkit")  # it is no sibling of the caller's own children
    sys.stdin = None  # it is not ours to close
    _forget_hooks()
    _forget_signals()
    bootstrap.settle()
    _forget_descriptors(fd)
    _forget_streams()
    _forget_exit_handlers()
    _forget_script()
    leftovers.forget()
    _forget_watchers()
    options.forget()
    gc.callbacks.clear()
    gc.enable()


def _forget_hooks() -> None:
    """Whoever watches the caller (a debugger, coverage, a profiler) does not watch its workers."""
    sys.settrace(None)
    sys.setprofile(None)
    threading.settrace(None)
    threading.setprofile(None)
    monitoring: Any = getattr(sys, "monitoring", None)
    for tool in range(6) if monitoring is not None else ():
        if monitoring.get_tool(tool) is not None:
            monitoring.set_events(tool, 0)
            monitoring.free_tool_id(tool)
    kept.append((sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook))
    sys.excepthook, sys.displayhook = sys.__excepthook__, sys.__displayhook__
    sys.unraisablehook, sys.breakpointhook = sys.__unraisablehook__, sys.__breakpointhook__
    threading.excepthook = threading.__excepthook__


def _forget_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler) and not isinstance(handler, signal.Handlers):
            kept.append(handler)
            signal.signal(number, signal.SIG_DFL)


def _forget_descriptors(keep: int) -> None:
    """Have all that are open lead to the null device; their numbers stay taken.

    Standard output and error stay, where programs that the caller starts have them too. If it has
    closed them, what it has opened since has their numbers.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir(f"{system.PROC}/self/fd"):
        fd = int(name)
        if fd in (keep, null):
            continue
        with suppress(OSError):  # what listed them is closed by now
            if fd not in (1, 2) or not os.get_inheritable(fd):
                os.fstat(fd)
                os.dup2(null, fd, inheritable=fd <= 2)
    os.close(null)


def _forget_streams() -> None:
    """Standard output and error anew: what the caller has yet to write out is not ours to write."""
    kept.append([getattr(sys, name, None) for name in _STREAMS])
    for fd, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        before = getattr(sys, f"__{name}__")
        stream = None
        with suppress(OSError):
            stream = open(  # noqa: SIM115 - for good
                fd, "w", encoding=getattr(before, "encoding", None), errors=errors, closefd=False
            )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    nothing = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
    sys.stdin = sys.__stdin__ = nothing  # type: ignore[misc]
    with suppress(AttributeError, ValueError, OSError):
        libc = ctypes.CDLL(None)  # which has a buffer of its own
        libc.__fpurge(ctypes.c_void_p.in_dll(libc, "stdout"))  # in glibc and musl


_STREAMS = ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")


def _forget_exit_handlers() -> None:
    """Those of the caller are not run, and not dropped either, for what they hold would end.

    Handlers run from the last to the first: the first of this process ends it.
    Modules whose own handlers are for whoever uses them have theirs registered after that.
    """
    atexit.register(os._exit, 0)
    ends = getattr(threading, "_threading_atexits", None)
    if ends is not None:
        kept.append(list(ends))
        ends.clear()
    leftovers.register_exit_handlers()


def _forget_script() -> None:
    """The script of the caller as it was: what functions need of it comes with them."""
    kept.append([sys.modules.pop(name, None) for name in ("__main__", "__mp_main__")])
    kept.append((list(sys.meta_path), list(sys.path_hooks)))
    sys.meta_path[:] = [finder for finder in sys.meta_path if not _is_of_script(finder)]
    sys.path_hooks[:] = [hook for hook in sys.path_hooks if not _is_of_script(hook)]
    for kind, reduce in list(copyreg.dispatch_table.items()):
        if _is_of_script(reduce):
            kept.append(copyreg.dispatch_table.pop(kind))
    carried.forget()
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main


def _is_of_script(thing: Any) -> bool:
    return "__main__" in (getattr(thing, "__module__", None), type(thing).__module__)


def _forget_watchers() -> None:
    """Of what watches a process, let that stay which a new interpreter would have too."""
    for name, forget in (("faulthandler", _faulthandler), ("tracemalloc", _tracemalloc)):
        module = sys.modules.get(name)
        if module is not None:
            with suppress(Exception):
                forget(module)


def _faulthandler(module: Any) -> None:
    """It would write to a descriptor of the caller's."""
    wanted = "faulthandler" in sys._xoptions or os.environ.get("PYTHONFAULTHANDLER")
    if module.is_enabled():
        module.disable()
        if wanted or sys.flags.dev_mode:  # a new interpreter would have it
            module.enable(file=2)


def _tracemalloc(module: Any) -> None:
    if "tracemalloc" not in sys._xoptions and not os.environ.get("PYTHONTRACEMALLOC"):
        module.stop()
