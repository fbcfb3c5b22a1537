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
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from .. import options
from ..place import blas, forksafe, system
from . import bootstrap, forkserver, preload

__all__ = ["serve"]

_kept: list[Any] = []  # objects of the caller, which are never to end here


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
    _kept.append(sys.stdin)
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
    for name, forget in _OF_MODULES.items():
        module = sys.modules.get(name)
        if module is not None:
            with suppress(Exception):  # another version of it, that has no such thing
                forget(module)
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
    _kept.append((sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook))
    sys.excepthook, sys.displayhook = sys.__excepthook__, sys.__displayhook__
    sys.unraisablehook, sys.breakpointhook = sys.__unraisablehook__, sys.__breakpointhook__
    threading.excepthook = threading.__excepthook__


def _forget_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler) and not isinstance(handler, signal.Handlers):
            _kept.append(handler)
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
    _kept.append([getattr(sys, name, None) for name in _STREAMS])
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
        _kept.append(list(ends))
        ends.clear()
    for name, handler in _AT_EXIT:
        function = getattr(sys.modules.get(name), handler, None)
        if function is not None:
            atexit.register(function)
    for name, handler in _AT_THREADS_END:
        function = getattr(sys.modules.get(name), handler, None)
        if function is not None and ends is not None:
            threading._register_atexit(function)  # type: ignore[attr-defined]


_AT_EXIT = (
    ("logging", "shutdown"),
    ("multiprocessing.util", "_exit_function"),
    ("multiprocess.util", "_exit_function"),
    ("parallelkit.engine.run", "_at_exit"),
)
_AT_THREADS_END = (
    ("concurrent.futures.thread", "_python_exit"),
    ("concurrent.futures.process", "_python_exit"),
    ("parallelkit.integrations.executor", "_finish"),
)


def _forget_script() -> None:
    """The script of the caller as it was: what functions need of it comes with them."""
    _kept.append([sys.modules.pop(name, None) for name in ("__main__", "__mp_main__")])
    _kept.append((list(sys.meta_path), list(sys.path_hooks)))
    sys.meta_path[:] = [finder for finder in sys.meta_path if not _is_of_script(finder)]
    sys.path_hooks[:] = [hook for hook in sys.path_hooks if not _is_of_script(hook)]
    for kind, reduce in list(copyreg.dispatch_table.items()):
        if _is_of_script(reduce):
            _kept.append(copyreg.dispatch_table.pop(kind))
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main


def _is_of_script(thing: Any) -> bool:
    return "__main__" in (getattr(thing, "__module__", None), type(thing).__module__)


# --- modules that keep something of the process that they are in -------------------------------


def _weakref(module: Any) -> None:
    _kept.append(module.finalize._registry)
    module.finalize._registry = {}
    module.finalize._registered_with_atexit = False  # it registers itself with the next one


def _logging(module: Any) -> None:
    """Handlers of the caller: dropped without being closed."""
    loggers = [module.root, *module.root.manager.loggerDict.values()]
    for logger in loggers:
        handlers = getattr(logger, "handlers", None)
        if handlers:
            _kept.append(list(handlers))
            handlers.clear()
    _kept.append((list(module._handlerList), dict(module._handlers)))
    del module._handlerList[:]
    module._handlers.clear()


def _warnings(module: Any) -> None:
    """How the caller shows warnings is its own matter."""
    _kept.append(module.showwarning)
    module.showwarning = getattr(module, "_showwarning_orig", module.showwarning)


def _futures_thread(module: Any) -> None:
    module._shutdown = False
    _kept.append(dict(module._threads_queues))
    module._threads_queues.clear()


def _futures_process(module: Any) -> None:
    module._global_shutdown = False
    _kept.append(dict(module._threads_wakeups))
    module._threads_wakeups.clear()


def _processes(module: Any) -> None:
    """Children are the caller's; their exit is not waited for here."""
    _kept.append(module._children)
    module._children = set()


def _process_util(module: Any) -> None:
    _kept.append(dict(module._finalizer_registry))
    module._finalizer_registry.clear()
    module._exiting = False


def _tracker(module: Any) -> None:
    tracker = module._resource_tracker
    _kept.append(tracker)
    module._resource_tracker = new = type(tracker)()
    for name in ("ensure_running", "register", "unregister", "getfd"):
        setattr(module, name, getattr(new, name))


def _managers(module: Any) -> None:
    """Connections of the caller to its managers."""
    _kept.append(dict(module.BaseProxy._address_to_local))
    module.BaseProxy._address_to_local.clear()


def _recording(module: Any) -> None:
    """Traces that the caller has open are named with the calls that they concern."""
    module.forget()


def _subprocess(module: Any) -> None:
    _kept.append(list(module._active))
    module._active.clear()


def _trio(module: Any) -> None:
    _kept.append(dict(module.GLOBAL_RUN_CONTEXT.__dict__))
    module.GLOBAL_RUN_CONTEXT.__dict__.clear()


def _forkserver(module: Any) -> None:
    _kept.append(module._forkserver)
    module._forkserver = new = type(module._forkserver)()
    for name in _OF_FORKSERVER:
        setattr(module, name, getattr(new, name))


_OF_FORKSERVER = (
    *("ensure_running", "get_inherited_fds"),
    *("connect_to_new_process", "set_forkserver_preload"),
)


def _loky(module: Any) -> None:
    """joblib's own pool of processes: the next call starts another."""
    _kept.append(module._executor)
    module._executor = None


def _asyncio(module: Any) -> None:
    module._set_running_loop(None)
    _kept.append(module._event_loop_policy)
    module._event_loop_policy = None


def _tqdm(module: Any) -> None:
    """Bars are drawn by the caller, and its thread looks after them."""
    bars = module.tqdm
    _kept.append(
        (bars.monitor, list(getattr(bars, "_instances", ())), getattr(bars, "_lock", None))
    )
    bars.monitor = None
    if hasattr(bars, "_instances"):
        bars._instances = type(bars._instances)()
    if "_lock" in vars(bars):
        del bars._lock  # made anew with the next bar
    lock = module.TqdmDefaultWriteLock
    lock.th_lock = threading.RLock()
    if "mp_lock" in vars(lock):
        _kept.append(lock.mp_lock)
        del lock.mp_lock


def _pyplot(module: Any) -> None:
    """Figures that the caller has open."""
    _kept.append(list(module.Gcf.figs.items()))
    module.Gcf.figs.clear()


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


_OF_MODULES: dict[str, Callable[[Any], None]] = {
    "weakref": _weakref,
    "logging": _logging,
    "warnings": _warnings,
    "concurrent.futures.thread": _futures_thread,
    "concurrent.futures.process": _futures_process,
    "multiprocessing.process": _processes,
    "multiprocess.process": _processes,
    "multiprocessing.util": _process_util,
    "multiprocess.util": _process_util,
    "multiprocessing.resource_tracker": _tracker,
    "multiprocess.resource_tracker": _tracker,
    "joblib.externals.loky.backend.resource_tracker": _tracker,
    "loky.backend.resource_tracker": _tracker,
    "multiprocessing.forkserver": _forkserver,
    "multiprocess.forkserver": _forkserver,
    "joblib.externals.loky.reusable_executor": _loky,
    "loky.reusable_executor": _loky,
    "asyncio.events": _asyncio,
    "parallelkit.place.recording": _recording,
    "trio._core._run": _trio,
    "subprocess": _subprocess,
    "multiprocessing.managers": _managers,
    "multiprocess.managers": _managers,
    "tqdm.std": _tqdm,
    "matplotlib._pylab_helpers": _pyplot,
    "faulthandler": _faulthandler,
    "tracemalloc": _tracemalloc,
}
