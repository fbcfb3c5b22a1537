"""What is noted while a trace is open, by any process that runs something of it.

A trace has a folder. Each process appends what it notes to a file of its own in there, a record at
a time, and whoever opened the trace reads them all at the end. So nothing of a trace crosses in
messages, and what a worker has noted outlives it. All times are by ``time.perf_counter``, which is
one clock for all processes of a machine. A worker on another machine sends its records along with
its answers, and the time of its own clock.
"""

from __future__ import annotations

import functools
import itertools
import marshal
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar, Token
from typing import Any

from .foreign import in_event_loop
from .nesting import nesting
from .records import NamedTuple

__all__ = [
    "Here",
    "Traced",
    "arrived",
    "begin",
    "called",
    "collect",
    "current",
    "descriptors",
    "end",
    "forget",
    "note",
    "number",
    "read",
    "record",
    "remove",
    "remove_all",
    "targets",
    "told",
]

# Whether this process has anything to do with a trace: all that is looked at where there is none.
on = False
MOST_FILES = 8  # that a process has open
MOST_BYTES = 32 << 20  # that a process notes of one trace; what comes later is left out
MOST_TOGETHER = 512 << 20  # the same of all processes, should there be one for each core
_SUFFIX = ".records"
_PACKAGE = f"{__name__.partition('.')[0]}."


class Traced(NamedTuple):
    """A call that is traced: its number, unlike any other's, and the folders of its traces."""

    call: str
    folders: tuple[str, ...]


class Here(NamedTuple):
    """An item of a traced call, for the calls that it makes."""

    traced: Traced
    lap: Any  # what measures its chunk, and knows which item runs


Records = list[tuple[tuple[str, ...], tuple[Any, ...]]]  # and the folders that they are for

_begun: set[str] = set()  # folders of the traces that this process has open
_with_main: list[str] = []  # those of the main thread, which hold for all threads
_with_here: ContextVar[tuple[str, ...]] = ContextVar("parallelkit_traces", default=())
current: ContextVar[Here | None] = ContextVar("parallelkit_traced_item", default=None)
_far: ContextVar[Records | None] = ContextVar("parallelkit_records", default=None)
_numbers = itertools.count(1)
_to_remove: set[str] = set()  # folders of traces that have ended
_lock = threading.RLock()
_files: dict[str, list[int]] = {}  # by folder: descriptor, and bytes that may still be written


def begin(folder: str) -> Token[tuple[str, ...]] | None:
    """Have calls that are made from here on noted in `folder`; return what `end` takes."""
    global on
    on = True
    _begun.add(folder)
    main = threading.current_thread() is threading.main_thread()
    if main and nesting().level == 0 and not in_event_loop():
        _with_main.append(folder)
        return None
    return _with_here.set((*_with_here.get(), folder))


def end(folder: str, token: Token[tuple[str, ...]] | None) -> None:
    """Note no more there."""
    global on
    _begun.discard(folder)
    if folder in _with_main:
        _with_main.remove(folder)
    if token is not None:
        try:
            _with_here.reset(token)
        except ValueError:  # begun in another context
            pass
    with _lock:
        opened = _files.pop(folder, None)
        if opened is not None and opened[0] >= 0:
            os.close(opened[0])
    on = bool(_begun or _files or current.get())


def remove(folder: str) -> None:
    """Remove the folder of a trace, now or when the workers have ended that have it open."""
    _to_remove.add(folder)
    remove_all()


def remove_all() -> None:
    """Remove what could not be removed before: Windows keeps a file that a process has open."""
    if not _to_remove:
        return
    import shutil  # which brings more than a first call has time for

    for folder in list(_to_remove):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            _to_remove.discard(folder)


def descriptors() -> set[int]:
    """Of the files that this process writes."""
    with _lock:
        return {descriptor for descriptor, _ in _files.values()}


def forget() -> None:
    """In a worker that was forked: what its parent has open is told to it with each chunk."""
    global on
    on = False
    _begun.clear()
    _to_remove.clear()
    _with_main.clear()
    _with_here.set(())
    current.set(None)


def targets() -> tuple[str, ...]:
    """Folders of the traces around the caller."""
    item, here = current.get(), _with_here.get()
    inherited = () if item is None else item.traced.folders
    return tuple(dict.fromkeys((*_with_main, *inherited, *here)))


def called(func: Any, among: Iterable[Any] = ()) -> str:
    """Name of a function, as short as it can be told; empty where it has none.

    Where it is one of ours that calls the user's, that one's is told: it is bound to it, or among
    the arguments of the call.
    """
    try:
        while isinstance(func, functools.partial):
            among = (*func.args, *among)
            func = func.func
        if str(getattr(func, "__module__", "")).startswith(_PACKAGE):
            for one in (getattr(func, "_func", None), *among):
                items = getattr(one, "items", None)  # joblib's batches
                inner = items[0][0] if isinstance(items, list) and items else one
                if callable(inner) and (name := called(inner)):
                    return name
        return str(getattr(func, "__qualname__", "")).rpartition("<locals>.")[2]
    except Exception:  # noqa: BLE001 - a callable may be anything
        return ""


def told(error: BaseException) -> str:
    """An error in one line, or two."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        text = type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def number() -> str:
    """A number for a call that no other call of any process has."""
    return f"{os.getpid()}.{next(_numbers)}"


def note(*fields: Any) -> None:
    """Note what concerns no call, such as the end of a worker, in all traces of this process."""
    record(tuple(_begun), fields)


def record(folders: tuple[str, ...], fields: tuple[Any, ...]) -> None:
    """Append a record of plain values to this process's file in each of `folders`."""
    far = _far.get()
    if far is not None:
        far.append((folders, fields))
        return
    try:
        data = marshal.dumps(fields)
    except ValueError:  # something that is not what it should be: no reason for a call to fail
        return
    for folder in folders:
        with _lock:
            opened = _files.get(folder) or _open(folder)
            if opened[1] <= 0:
                continue
            opened[1] -= len(data)
            full = opened[1] <= 0
            try:
                os.write(opened[0], _full() if full else data)
            except OSError:  # a full disk: the trace has what came before
                opened[1] = 0


def collect() -> Records:
    """In a worker on another machine: keep what is noted in this context, to be sent along."""
    global on
    on = True
    kept: Records = []
    _far.set(kept)
    return kept


def arrived(host: str, pid: int, now: float, records: Records) -> None:
    """Note what a worker on another machine has kept; `now` was its clock when it sent that.

    How far its clock is ahead of this one is known up to the time that the message took.
    """
    behind = time.perf_counter() - now
    for folders, fields in records:
        record(folders, ("far", host, pid, behind, fields))


def _full() -> bytes:
    """The record that says that no more will come."""
    return marshal.dumps(("full", "", time.perf_counter()))


def _open(folder: str) -> list[int]:
    global on
    path = os.path.join(folder, f"{os.getpid()}-{time.time_ns()}{_SUFFIX}")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:  # the trace is over
        opened = [-1, 0]
    else:
        opened = [fd, min(MOST_BYTES, MOST_TOGETHER // (os.cpu_count() or 1))]
        on = True
    if len(_files) >= MOST_FILES:  # those of traces that have ended, in a worker that lives on
        old = _files.pop(next(iter(_files)))
        if old[0] >= 0:
            os.close(old[0])
    _files[folder] = opened
    return opened


def read(folder: str) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
    """All that was noted in `folder`: for each process its id and its records."""
    for name in sorted(os.listdir(folder)):
        if not name.endswith(_SUFFIX):
            continue
        records = []
        with open(os.path.join(folder, name), "rb") as file:
            while True:
                try:
                    records.append(marshal.load(file))  # noqa: S302 - this user's own folder
                except (EOFError, ValueError, TypeError):  # the end, or where a kill cut it short
                    break
        yield int(name.partition("-")[0]), records


def _after_fork() -> None:
    """In a forked child: it writes a file of its own."""
    global _lock
    _lock = threading.RLock()
    for fd, _ in _files.values():
        if fd >= 0:
            os.close(fd)
    _files.clear()
    _to_remove.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
