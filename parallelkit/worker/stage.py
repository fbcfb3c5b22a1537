"""What of the caller's surroundings is put in place in a process that is not ours.

The process has its own life: other clients' items may run beside these, and other people's tasks.
So the script, the settings and the logging of a client are put in place while items of it run, and
taken away when none runs any more.
"""

from __future__ import annotations

import _locale
import contextvars
import importlib
import logging
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from ..place import blas, host, system
from ..place.records import NamedTuple
from ..transport import mirror, pickling
from . import output
from .environment import Surroundings
from .task import Progress

__all__ = ["Said", "Settings", "Stage", "put_main", "saying", "settings"]


class Guest(Protocol):
    """Whose script is put in place."""

    mirror: Any


class Settings(NamedTuple):
    """What of the caller's surroundings makes sense in somebody else's process."""

    host: str
    folder: str | None
    path: list[str]
    variables: dict[str, str | None]  # that the script has set or removed
    log_levels: dict[str, int]
    level_names: dict[int, str]
    logger_classes: dict[str, Any]
    warning_filters: list[output.Filter]
    recursion: int
    digits: int
    umask: int
    locale: str
    socket_timeout: float | None
    switching: float


def settings(now: Surroundings) -> bytes:
    """Settings of a caller with these surroundings, as they travel."""
    own = Settings(
        *(socket.gethostname(), now.folder, [os.path.abspath(p) for p in now.path], _variables()),
        *(now.log_levels, now.level_names, now.logger_classes, now.warning_filters),
        *(now.recursion, now.digits, now.umask, now.locale),
        *(now.socket_timeout, now.switching),
    )
    return b"".join(pickling.dumps(tuple(own), sys.maxsize).pieces)


def _variables() -> dict[str, str | None]:
    """Variables that this process has set or removed since it started."""
    global _started_with
    if _started_with is None:
        try:
            with open(f"{system.PROC}/self/environ", "rb") as file:
                entries = [os.fsdecode(entry) for entry in file.read().split(b"\0") if entry]
            _started_with = dict(entry.split("=", 1) for entry in entries if "=" in entry)
        except OSError:  # not on Linux
            _started_with = host.variables()
    now = host.variables()
    changed: dict[str, str | None] = {
        name: value for name, value in now.items() if _started_with.get(name) != value
    }
    changed |= dict.fromkeys(_started_with.keys() - now.keys())
    return {
        name: value
        for name, value in changed.items()
        if name not in blas.VARIABLES and not name.startswith(_ENGINES_OWN)
    }


# By these an engine tells its worker who it is, which is another one than the caller.
_ENGINES_OWN = ("RAY_", "DASK_", "OMPI_", "PMI", "SLURM_", "CUDA_VISIBLE_DEVICES")
_started_with: dict[str, str] | None = None


class Said:
    """What an item says while it runs, and which one it is."""

    __slots__ = ("messages", "progress", "start")

    def __init__(self, start: int, progress: Progress) -> None:
        self.messages: list[tuple[str, tuple[Any, ...]]] = []
        self.start = start
        self.progress = progress


saying: contextvars.ContextVar[Said | None] = contextvars.ContextVar(
    "parallelkit_saying", default=None
)


def _tell(kind: str, fields: tuple[Any, ...]) -> None:
    said = saying.get()
    if said is not None:
        said.messages.append((kind, fields))


def _index() -> int | None:
    said = saying.get()
    return None if said is None else said.start + len(said.progress.values)


class Stage:
    """The process, set up for the client whose items run in it.

    Where items of several clients run at a time, in several threads, the settings are those of the
    one that began last; each has its own script at all times.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._running = 0
        self._guest: Guest | None = None
        self._settings = b""
        self._logger_classes: dict[str, Any] = {}
        self._undo: list[Callable[[], object]] = []

    @contextmanager
    def of(self, guest: Guest, told: bytes) -> Iterator[None]:
        """Have the stage for a chunk."""
        with self.lock:
            if self._running and (self._settings != told or self._guest is not guest):
                self._clear()
            if not self._undo:
                self._set(guest, told)
            self._running += 1
        try:
            yield
        finally:
            with self.lock:
                self._running -= 1
                if not self._running:
                    self._clear()

    @property
    def alone(self) -> bool:
        """Whether one chunk runs here."""
        return self._running == 1

    @contextmanager
    def script_of(self, guest: Guest) -> Iterator[None]:
        """Pickle or unpickle something of a client."""
        with self.lock:
            here = self._guest
            if here is not guest:
                guest.mirror.enter()
            try:
                yield
            finally:
                if here is not None and here is not guest:
                    here.mirror.enter()

    def again(self) -> None:
        """Put the script of who runs here in place again, after another one's was made."""
        mirror.leave()
        if self._guest is not None:
            self._guest.mirror.enter()

    def imported(self) -> None:
        """Let loggers be of classes whose modules have come since with what was learnt."""
        if self._logger_classes:
            output.set_logger_classes(self._logger_classes)

    def _set(self, guest: Guest, told: bytes) -> None:
        self._guest, self._settings = guest, told
        undo, own = self._undo, Settings(*pickling.loads(told))
        self._logger_classes = own.logger_classes
        main = sys.modules.get(mirror.MAIN)
        undo.append(lambda: put_main(main))
        undo.append(mirror.leave)
        guest.mirror.enter()
        undo.append(_enter_path(own.path))
        undo.append(_enter_variables(own.variables))
        if own.host == socket.gethostname():
            if own.folder is not None:
                undo.append(_enter_folder(own.folder))
            umask = os.umask(own.umask)
            undo.append(lambda: os.umask(umask))
        undo.append(_enter_limits(own))
        undo.append(_enter_levels(own))
        undo.append(_enter_warnings(own))

    def _clear(self) -> None:
        while self._undo:
            with suppress(Exception):
                self._undo.pop()()
        self._guest = None


def put_main(module: Any) -> None:
    """Let a module be `__main__`, if there was one."""
    if module is not None:
        sys.modules[mirror.MAIN] = module


def _enter_path(path: list[str]) -> Callable[[], object]:
    """Find what the caller finds, after all that is found here."""
    more = [entry for entry in path if entry not in sys.path and os.path.isdir(entry)]
    if more:
        importlib.invalidate_caches()
    sys.path.extend(more)  # it stays: modules may be imported later, by threads of an item
    return lambda: None


def _enter_variables(wanted: dict[str, str | None]) -> Callable[[], object]:
    before = {name: os.environ.get(name) for name in wanted}
    _set_variables({name: value for name, value in wanted.items() if value != before[name]})
    return lambda: _set_variables(before)


def _set_variables(wanted: dict[str, str | None]) -> None:
    for name, value in wanted.items():
        if value is None:
            os.environ.pop(name, None)
        elif os.environ.get(name) != value:
            os.environ[name] = value
    if "TZ" in wanted and hasattr(time, "tzset"):
        time.tzset()


def _enter_folder(folder: str) -> Callable[[], object]:
    try:
        before = os.getcwd()
        if before != folder:
            os.chdir(folder)
            return lambda: os.chdir(before)
    except OSError:  # it is not there: the function will tell if it needs it
        pass
    return lambda: None


def _enter_limits(own: Settings) -> Callable[[], object]:
    before = sys.getrecursionlimit(), sys.get_int_max_str_digits()
    timing = socket.getdefaulttimeout(), sys.getswitchinterval()
    socket.setdefaulttimeout(own.socket_timeout)
    sys.setswitchinterval(own.switching)
    with suppress(RecursionError):
        sys.setrecursionlimit(max(own.recursion, before[0]))
    sys.set_int_max_str_digits(own.digits)
    there = _locale.setlocale(_locale.LC_ALL, None)
    if there != own.locale:
        with suppress(Exception):  # not every machine has it
            _locale.setlocale(_locale.LC_ALL, own.locale)

    def undo() -> None:
        with suppress(Exception):
            if there != own.locale:
                _locale.setlocale(_locale.LC_ALL, there)
        sys.setswitchinterval(timing[1])
        socket.setdefaulttimeout(timing[0])
        sys.set_int_max_str_digits(before[1])
        sys.setrecursionlimit(before[0])

    return undo


def _enter_levels(own: Settings) -> Callable[[], object]:
    """Let records of items go to the caller, made as its loggers would make them."""
    levels, classes = output.levels(), output.logger_classes()
    usual = logging.Logger.callHandlers
    forward = output.forwarder(_tell, _index)

    def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
        if saying.get() is None:
            usual(logger, record)
        else:
            forward.handle(record)

    logger_class: Any = logging.Logger
    logger_class.callHandlers = call_handlers
    said = output.say_by(_tell)
    output.set_level_names(own.level_names)
    output.set_logger_classes(own.logger_classes)
    output.set_levels(own.log_levels)

    def undo() -> None:
        logger_class.callHandlers = usual
        output.set_levels(levels)
        output.set_logger_classes(classes)
        output.say_by(said)

    return undo


def _enter_warnings(own: Settings) -> Callable[[], object]:
    kept = warnings.catch_warnings()
    kept.__enter__()
    output.set_filters(own.warning_filters)
    usual: Any = warnings.showwarning
    tell = output.warnings_to(_tell)

    def show(*args: Any, **keywords: Any) -> None:
        (usual if saying.get() is None else tell)(*args, **keywords)

    warnings.showwarning = show
    return lambda: kept.__exit__(None, None, None)
