"""What the system refuses: errors of ours that name the limit and say what to do."""

from __future__ import annotations

import errno
import threading
from typing import Any, NoReturn

from ..errors import ParallelError
from . import system

__all__ = [
    "OF_SEGMENTS",
    "explain",
    "explained",
    "is_denied",
    "like_ours",
    "ours",
    "refused",
    "start",
    "told",
]

_DENIED = errno.EPERM, errno.EACCES, errno.ENOSYS
_OPEN, _PROCESSES, _MEMORY = "open files", "processes and threads", "memory"
OF_SEGMENTS = [_OPEN, _MEMORY]
_KINDS = {
    errno.EMFILE: _OPEN,
    errno.ENFILE: _OPEN,
    errno.EAGAIN: _PROCESSES,
    errno.ENOMEM: _MEMORY,
}
_NAMES = {_OPEN: ("NOFILE", "n"), _PROCESSES: ("NPROC", "u"), _MEMORY: ("AS", "v")}


def explain(error: BaseException) -> NoReturn:
    """Raise what a start of workers has met: as an error of ours, where a limit was the reason."""
    raise explained(error)


def explained(error: BaseException) -> BaseException:
    """What a start of workers has met: as an error of ours, where a limit was the reason."""
    ours = None
    if isinstance(error, RuntimeError) and "subinterpreter" in str(error):
        ours = ParallelError(
            "a subinterpreter cannot start processes: use backend='thread' or backend='serial'"
        )
    elif is_denied(error):
        ours = ParallelError(
            f"the system lets this process start no others, or not talk to them ({error}): use "
            "backend='thread' or backend='serial'"
        )
    elif (kind := _kind(error)) is not None:
        ours = refused(kind)
    if ours is None:
        return error
    ours.__cause__ = error
    return ours


def is_denied(error: BaseException) -> bool:
    """Whether an error is the word of a sandbox, which is not going to change its mind."""
    return isinstance(error, OSError) and error.errno in _DENIED


def start(thread: threading.Thread) -> None:
    """Start a thread; where there are no more of them, the error says so."""
    try:
        thread.start()
    except RuntimeError as error:
        explain(error)


def refused(kind: str) -> ParallelError:
    """Error that says what there is too little of."""
    kinds = [kind, _MEMORY] if kind == _PROCESSES else [kind]  # threads need room for their stacks
    advice = f"use fewer workers (workers=), or raise the limit{told(kinds)}"
    if kind == _PROCESSES:
        advice += "; a container may have one of its own. backend='serial' needs none"
    return ParallelError(f"the system gives no more {kind}, which workers need: {advice}")


def _kind(error: BaseException) -> str | None:
    if isinstance(error, ParallelError):
        return None
    if isinstance(error, MemoryError):
        return _MEMORY
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return _PROCESSES
    return _KINDS.get(error.errno or 0) if isinstance(error, OSError) else None


def told(kinds: list[str] | None = None) -> str:
    """The limits that are set, for a message."""
    if system.WINDOWS:
        return ""
    import resource

    found = []
    for kind in kinds or _NAMES:
        name, letter = _NAMES[kind]
        limit = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0]
        if limit not in (resource.RLIM_INFINITY, -1):
            found.append(f"ulimit -{letter}: {limit // 1024 if letter == 'v' else limit}")
    return f" ({', '.join(found)})" if found else ""


def ours() -> tuple[Any, ...]:
    """The limits of this process, to be compared."""
    if not system.LINUX:
        return ()
    import resource

    return tuple(resource.getrlimit(getattr(resource, f"RLIMIT_{n}")) for n, _ in _NAMES.values())


def like_ours(pid: int) -> None:
    """Give a process that was started under other limits those of this one, if possible."""
    if not system.LINUX:
        return
    import resource

    for name, _ in _NAMES.values():
        kind = getattr(resource, f"RLIMIT_{name}")
        try:
            resource.prlimit(pid, kind, resource.getrlimit(kind))
        except (OSError, ValueError):
            pass
