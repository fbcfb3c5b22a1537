"""What modules keep of the caller in a process that was forked from it, and how that is let go of.

A pool of processes, children to be waited for, a pipe to a tracker, handlers of logs: all these are
the caller's. Objects are kept rather than destroyed, for what they would do at their end (hang up,
flush a buffer, remove a file) is the caller's to do.
"""

# ruff: noqa: SLF001 - what the standard library keeps for itself has no public name

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["forget", "forget_in_worker", "kept", "register_exit_handlers"]

kept: list[Any] = []  # objects of the caller, which are never to end here


def forget() -> None:
    """Let go of what the modules that are loaded keep."""
    for name, let_go in _OF_MODULES.items():
        module = sys.modules.get(name)
        if module is not None:
            with suppress(Exception):  # another version of it, that has no such thing
                let_go(module)


def forget_in_worker() -> None:
    """In a worker that was forked from the caller, whose exit handlers are gone: forget all."""
    forget()
    register_exit_handlers()
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:  # pathos' processes are those of multiprocess, which does this by itself
        util._run_after_forkers()


def register_exit_handlers() -> None:
    """Register anew what modules have registered once for whoever uses them."""
    for name, handler in _AT_EXIT:
        function = getattr(sys.modules.get(name), handler, None)
        if function is not None:
            atexit.register(function)
    ends = getattr(threading, "_threading_atexits", None)
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


# --- module by module ----------------------------------------------------------------------------


def _weakref(module: Any) -> None:
    kept.append(module.finalize._registry)
    module.finalize._registry = {}
    module.finalize._registered_with_atexit = False  # it registers itself with the next one


def _logging(module: Any) -> None:
    """Handlers of the caller: dropped without being closed."""
    loggers = [module.root, *module.root.manager.loggerDict.values()]
    for logger in loggers:
        handlers = getattr(logger, "handlers", None)
        if handlers:
            kept.append(list(handlers))
            handlers.clear()
    kept.append((list(module._handlerList), dict(module._handlers)))
    del module._handlerList[:]
    module._handlers.clear()


def _warnings(module: Any) -> None:
    """How the caller shows warnings is its own matter."""
    kept.append(module.showwarning)
    module.showwarning = getattr(module, "_showwarning_orig", module.showwarning)


def _futures_thread(module: Any) -> None:
    module._shutdown = False
    kept.append(dict(module._threads_queues))
    module._threads_queues.clear()


def _futures_process(module: Any) -> None:
    module._global_shutdown = False
    kept.append(dict(module._threads_wakeups))
    module._threads_wakeups.clear()


def _processes(module: Any) -> None:
    """Children are the caller's; their exit is not waited for here."""
    kept.append(module._children)
    module._children = set()


def _process_util(module: Any) -> None:
    kept.append(dict(module._finalizer_registry))
    module._finalizer_registry.clear()
    module._exiting = False


def _tracker(module: Any) -> None:
    tracker = module._resource_tracker
    kept.append(tracker)
    module._resource_tracker = new = type(tracker)()
    _rebind(module, tracker, new)


def _rebind(module: Any, before: object, new: object) -> None:
    """Let names of a module that stand for methods of one object stand for those of another."""
    for name, value in list(vars(module).items()):
        if getattr(value, "__self__", None) is before:
            setattr(module, name, getattr(new, value.__name__))


def _managers(module: Any) -> None:
    """Connections of the caller to its managers."""
    kept.append(dict(module.BaseProxy._address_to_local))
    module.BaseProxy._address_to_local.clear()


def _recording(module: Any) -> None:
    """Traces that the caller has open are named with the calls that they concern."""
    module.forget()


def _subprocess(module: Any) -> None:
    kept.append(list(module._active))
    module._active.clear()


def _trio(module: Any) -> None:
    kept.append(dict(module.GLOBAL_RUN_CONTEXT.__dict__))
    module.GLOBAL_RUN_CONTEXT.__dict__.clear()


def _forkserver(module: Any) -> None:
    server = module._forkserver
    kept.append(server)
    module._forkserver = new = type(server)()
    _rebind(module, server, new)


def _loky(module: Any) -> None:
    """joblib's own pool of processes: the next call starts another."""
    kept.append(module._executor)
    module._executor = None


def _loky_process(module: Any) -> None:
    """What wakes threads of such pools at the end, registered anew with the next pool."""
    module._global_shutdown = False
    kept.append(dict(module._threads_wakeups))
    module._threads_wakeups.clear()
    module.process_pool_executor_at_exit = None


def _asyncio(module: Any) -> None:
    module._set_running_loop(None)
    kept.append(module._event_loop_policy)
    module._event_loop_policy = None


def _tqdm(module: Any) -> None:
    """Bars are drawn by the caller, and its thread looks after them."""
    bars = module.tqdm
    kept.append((bars.monitor, list(getattr(bars, "_instances", ())), getattr(bars, "_lock", None)))
    bars.monitor = None
    if hasattr(bars, "_instances"):
        bars._instances = type(bars._instances)()
    if "_lock" in vars(bars):
        del bars._lock  # made anew with the next bar
    lock = module.TqdmDefaultWriteLock
    lock.th_lock = threading.RLock()
    if "mp_lock" in vars(lock):
        kept.append(lock.mp_lock)
        del lock.mp_lock


def _pyplot(module: Any) -> None:
    """Figures that the caller has open."""
    kept.append(list(module.Gcf.figs.items()))
    module.Gcf.figs.clear()


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
    "joblib.externals.loky.process_executor": _loky_process,
    "loky.process_executor": _loky_process,
    "asyncio.events": _asyncio,
    "parallelkit.place.recording": _recording,
    "trio._core._run": _trio,
    "subprocess": _subprocess,
    "multiprocessing.managers": _managers,
    "multiprocess.managers": _managers,
    "tqdm.std": _tqdm,
    "matplotlib._pylab_helpers": _pyplot,
}
