"""What is known of workers that other libraries started: a call made in one takes a share too.

Nothing is imported here: a library that is not loaded has started no worker that we could be in.
What a library tells is taken; of a multiprocessing child the siblings are counted.
"""

from __future__ import annotations

import os
import re
import sys
import time
from typing import Any

from . import system
from .host import cpu_count

__all__ = ["granted", "green", "in_event_loop", "may_have_children", "process_of"]

_RAY_WORKER = 1  # ray's WORKER_MODE; a driver has another one
_COUNTED_FOR = 1.0  # seconds; pools start their workers one by one

_counted: tuple[int, float, int] = 0, 0.0, 0  # process, time, siblings
_mains: dict[str, Any] = {}  # processes seen to be nobody's worker, by the module that has them


def granted() -> int | None:
    """Cores for who calls from a worker of another library; None where this is no such worker.

    =================================  ============================================================
    Dask                               threads of the worker, by the tasks that it runs
    Ray                                CPUs of the task (its OMP_NUM_THREADS)
    joblib (loky)                      what joblib left to each worker (its OMP_NUM_THREADS)
    multiprocessing, pathos,           cores by children of the same kind; a lone child that may
    ProcessPoolExecutor                have children itself counts as a main process
    =================================  ============================================================
    """
    modules = sys.modules
    if "distributed.worker" in modules and (cores := _by_dask()):
        return cores
    if "ray._private.worker" in modules and (cores := _by_ray()):
        return cores
    return _by_multiprocessing()


def _by_dask() -> int | None:
    dask = sys.modules.get("distributed.worker")
    if dask is None:
        return None
    try:
        state = dask.get_worker().state
        return max(1, int(state.nthreads) // max(1, int(state.executing_count)))
    except (AttributeError, ValueError):  # not in a task
        return None


def _by_ray() -> int | None:
    ray = sys.modules.get("ray._private.worker")
    worker = getattr(ray, "global_worker", None)
    return _openmp() or 1 if getattr(worker, "mode", None) == _RAY_WORKER else None


def _by_multiprocessing() -> int | None:
    for name in ("multiprocessing.process", "multiprocess.process"):
        module: Any = sys.modules.get(name)
        process = process_of(module)
        if process is None or process is _mains.get(name):
            continue
        if module.parent_process() is None and not process.daemon:
            _mains[name] = process
            continue
        if type(process).__name__ == "LokyProcess" and _openmp():
            return _openmp()
        siblings = _siblings()
        if siblings > 1 or process.daemon:
            return max(1, _cores() // (siblings or cpu_count()))
    return None


def process_of(module: Any) -> Any:
    """Process that this is, to the `process` of a multiprocessing; None where that is not there."""
    try:
        return None if module is None else module.current_process()
    except (AttributeError, NameError):  # another thread is importing it
        return None


def may_have_children() -> bool:
    """Whether this worker of another library may start worker processes of ours if asked to.

    Not in a Dask or Ray task or in loky's workers, whose processes those schedule; and not in a
    daemon, such as a worker of `multiprocessing.Pool`, which may have no children.
    """
    if _by_dask() or _by_ray():
        return False
    for name in ("multiprocessing.process", "multiprocess.process"):
        module = sys.modules.get(name)
        process = process_of(module)
        if process is not None and (process.daemon or type(process).__name__ == "LokyProcess"):
            return False
    return True


def _openmp() -> int | None:
    return _number("OMP_NUM_THREADS")


def _cores() -> int:
    """Cores of this machine, or of the worker of ours further up, which left word of its share."""
    return min(cpu_count(), _number("LOKY_MAX_CPU_COUNT") or sys.maxsize)


def _number(variable: str) -> int | None:
    text = os.environ.get(variable, "")
    return int(text) or None if text.isdecimal() else None


def _siblings() -> int:
    """Children of this process' parent that were started as this one was; 0 if unknown."""
    global _counted
    pid, when, siblings = _counted
    if pid != os.getpid() or time.monotonic() - when > _COUNTED_FOR:
        siblings = _count_siblings()
        _counted = os.getpid(), time.monotonic(), siblings
    return siblings


def _count_siblings() -> int:
    if not os.path.exists(system.PROC):
        return 0  # and Wine ends a process of Python 3.12 that asks for its parent
    try:
        from pathlib import Path

        tasks = Path(f"{system.PROC}/{os.getppid()}/task").glob("*/children")
        children = [pid for task in tasks for pid in task.read_text().split()]
        return sum(_command(pid) == _command("self") for pid in children)
    except OSError:
        return 0


def _command(pid: str) -> bytes:
    """Command line without numbers: descriptors, and counts in names.

    The name of the process comes first: a fork server of ours that is forked has another one.
    """
    try:
        of = f"{system.PROC}/{pid}"
        with open(f"{of}/comm", "rb") as name, open(f"{of}/cmdline", "rb") as file:
            return re.sub(rb"\d+", b"", name.read() + file.read())
    except OSError:  # it has ended meanwhile
        return b""


def in_event_loop() -> bool:
    """Whether a coroutine runs in this thread; a thread's blocks are then not one's own."""
    asyncio = sys.modules.get("asyncio")
    running = getattr(asyncio, "_get_running_loop", None)  # another thread may be importing it
    return running is not None and running() is not None


def green() -> str | None:
    """Name of the library that has made greenlets of this process's threads, if one has."""
    patches = sys.modules.get("gevent.monkey")
    if patches is not None and patches.is_module_patched("threading"):
        return "gevent"
    patches = sys.modules.get("eventlet.patcher")
    if patches is not None and patches.is_monkey_patched("thread"):
        return "eventlet"
    return None
