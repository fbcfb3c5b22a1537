"""What functions find around them: folder, path, environment, filters, log levels, limits.

::

    parent                                  worker
    current() ── all, with the greeting ──► settle()
                                            keep_own()       what the initializer has set
    current() ── what has changed ────────► change()         before the next chunk
                                            put_back()       what items before have set
                                            keep_imported()  what modules have set that came with it

The rule: each call finds in a worker what its caller has, and over it what is the worker's own.
That is what its initializer has set, and the modules that were imported for the function and its
arguments; it stays until the caller changes the same thing. What an item sets is gone when the next
call begins, and for the next item too, unless that is one of many that take less than `LOOK`.

All this is done with each call, so it is to cost a few microseconds: things are compared before
they are read, copied or set.
"""

from __future__ import annotations

import _locale
import _socket
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from importlib.machinery import PathFinder
from typing import Any

from ..place import blas, system
from ..place.foreign import process_of
from ..place.records import NamedTuple
from ..transport import carried
from . import hooks, output, printing

__all__ = [
    "LOOK",
    "StandardFinder",
    "Surroundings",
    "altered",
    "change",
    "current",
    "hurry",
    "hurry_no_more",
    "keep_imported",
    "keep_own",
    "put_back",
    "settle",
]

_LocaleError: type[Exception] = getattr(_locale, "Error", ValueError)

LOOK = 0.001  # seconds of items after which a worker looks at what they have set

Changes = dict[str, Any]  # fields of `Surroundings`

_raw_environment: Mapping[Any, Any] = getattr(os.environ, "_data", os.environ)


def _key(name: str) -> Any:
    return name if _raw_environment is os.environ else os.environ.encodekey(name)


# How many threads numerical libraries may use is set in each worker by its share; the last one is
# set by threadpoolctl, which does that.
_NOT_SHARED = frozenset(map(_key, (*blas.VARIABLES, "KMP_DUPLICATE_LIB_OK")))
_TZ = _key("TZ")


class Surroundings(NamedTuple):
    """What a caller has around it, as plain values."""

    folder: str | None  # None where it has been removed
    path: list[str]
    environment: dict[Any, Any]
    zone: tuple[Any, ...]
    log_levels: dict[str, int]
    level_names: dict[int, str]
    logger_classes: dict[str, Any]
    log_handlers: dict[str, bool]  # by name of a logger that has some
    warning_filters: list[output.Filter]
    filters_seen: int  # changes whenever the filters do, if only by catch_warnings
    recursion: int
    digits: int  # of whole numbers in text
    umask: int
    locale: str
    socket_timeout: float | None
    switching: float  # seconds that a thread has the interpreter before another one is let in
    printing: tuple[bool, ...]  # whether stdout, and stderr, go by way of the parent
    key: bytes | None  # of the processes of `multiprocessing`
    tracker: tuple[int, int] | None  # its resource tracker: descriptor of which process

    def since(self, before: Surroundings) -> Changes:
        """What has changed since another one."""
        pairs = zip(self._fields, self, before, strict=True)
        return {name: new for name, new, old in pairs if new is not old and new != old}


_OF_LOGGERS = ("log_levels", "level_names", "logger_classes", "log_handlers")  # fields
_BY_NAME = ("environment", *_OF_LOGGERS)


class StandardFinder:
    """Finds those modules in the standard library that the parent has from there.

    A file of the user's that is called like one hides it in the worker only if it does so in the
    parent, where it may have come too late.
    """

    def __init__(self, names: Sequence[str], path: list[str]) -> None:
        self._names = frozenset(names)
        self._path = path  # in an interpreter of its own it begins with the standard library

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:  # noqa: ARG002 - the protocol's
        """Find a module, or leave it to the next finder."""
        return PathFinder.find_spec(name, self._path) if name in self._names else None


# --- what there is -------------------------------------------------------------------------------


class _Seen(NamedTuple):
    """Surroundings, and what they were read from: by that a look tells whether they still hold."""

    surroundings: Surroundings
    environment: dict[Any, Any]  # with what is not shared
    filters: list[Any]  # the list itself: each catch_warnings puts another in its place
    filters_then: list[Any]
    loggers: tuple[Any, ...]


def _look(seen: _Seen, mark: str) -> tuple[_Seen, Changes]:  # noqa: C901, PLR0912 - one look at each thing
    """Look again. The same object is returned where nothing has changed."""
    then, environment, filters, filters_then, loggers_then = seen
    found: Changes = {}
    if not _outside and (folder := _folder()) != then.folder:
        found["folder"] = folder
    if sys.path != then.path:
        found["path"] = list(sys.path)
    if _raw_environment != environment:
        environment = dict(_raw_environment)
        shared = {name: environment[name] for name in environment.keys() - _NOT_SHARED}
        found["environment"] = shared
    if (loggers := output.watched_loggers(mark, loggers_then)) is not None:
        found["log_levels"] = output.levels()
        found["level_names"] = output.level_names()
        found["logger_classes"] = output.logger_classes()
        found["log_handlers"] = output.handlers()
    if warnings.filters is not filters or filters != filters_then:
        filters = warnings.filters  # type: ignore[assignment]
        filters_then = list(filters)
        found["warning_filters"] = output.filters()
        found["filters_seen"] = then.filters_seen + 1
    if time.tzname is not then.zone[0] and (zone := _zone()) != then.zone:
        found["zone"] = zone
    if (limit := sys.getrecursionlimit()) != then.recursion:
        found["recursion"] = limit
    if (limit := sys.get_int_max_str_digits()) != then.digits:
        found["digits"] = limit
    if (umask := _umask(then.umask)) != then.umask:
        found["umask"] = umask
    # Where nobody has imported it, nobody has set it.
    if ("locale" in sys.modules or not then.locale) and (name := _locale_name()) != then.locale:
        found["locale"] = name
    if (seconds := _socket.getdefaulttimeout()) != then.socket_timeout:
        found["socket_timeout"] = seconds
    interval = sys.getswitchinterval()
    if interval == _hurry:
        interval = _before_hurry
    if interval != then.switching:
        found["switching"] = interval
    if not found and environment is seen.environment:
        return seen, found
    found = {name: new for name, new in found.items() if new != getattr(then, name)}
    now = then._replace(**found) if found else then
    return _Seen(now, environment, filters, filters_then, loggers or loggers_then), found


_NOTHING = _Seen(
    Surroundings(
        None, [], {}, (None,), {}, {}, {}, {}, [], 0, 0, -1, -1, "", -1, 0, (), None, None
    ),
    {},
    [],
    [],
    (),
)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _locale_name() -> str:
    return _locale.setlocale(_locale.LC_ALL, None)


def _zone() -> tuple[Any, ...]:
    return time.tzname, time.timezone, time.altzone


def _umask(expected: int) -> int:
    """Return the umask, which cannot be asked for without being set: to what it was before."""
    if expected < 0:
        file = f"{system.PROC}/self/status"
        with suppress(OSError, ValueError), open(file, encoding="ascii") as lines:
            expected = next(int(line[6:], 8) for line in lines if line.startswith("Umask:"))
    if expected < 0:
        expected = 0o22
    umask = os.umask(expected)
    if umask != expected:
        os.umask(umask)
    return umask


# --- the parent's side ---------------------------------------------------------------------------

_seen = _NOTHING


def current() -> Surroundings:
    """Those of this process, now; the same object as long as nothing changes."""
    global _seen
    seen, _ = _look(_seen, "parallelkit-caller")
    now = seen.surroundings
    printed = printing.by_parent()
    process = process_of(sys.modules.get("multiprocessing.process"))  # a Manager has imported it
    key = None if process is None else process.authkey
    tracker = _tracker()
    if (printed, key, tracker) != (now.printing, now.key, now.tracker):
        told = None if key is None else bytes(key)
        now = now._replace(printing=printed, key=told, tracker=tracker)
        seen = seen._replace(surroundings=now)
    _seen = seen
    return seen.surroundings


def _tracker() -> tuple[int, int] | None:
    module = sys.modules.get("multiprocessing.resource_tracker")
    fd = getattr(getattr(module, "_resource_tracker", None), "_fd", None)
    return None if fd is None else (os.getpid(), fd)


# --- the worker's side ---------------------------------------------------------------------------

_theirs = _NOTHING.surroundings  # as the parent told it
_standing = _NOTHING  # as it was when it was last set or kept
_own: dict[str, Any] = {}  # what this worker has in place of that: by field, or field and name
_modules = 0  # how many there were then
_hurry: float | None = None  # how soon threads are let in by our doing, and how soon before that
_before_hurry = 0.0
_outside = False  # whether this worker has left the folder for now


def settle(theirs: Surroundings) -> None:
    """In a new worker: take on the surroundings of the parent."""
    global _theirs, _standing
    _own.clear()
    _theirs = theirs
    _standing, _ = _look(_NOTHING, _MARK)
    _enter(theirs.since(_standing.surroundings).keys())


def keep_own() -> None:
    """Let what has changed since stay: it was the initializer's doing."""
    global _standing
    hooks.keep()
    before = _standing.surroundings
    _standing, found = _look(_standing, _MARK)
    for name, new in found.items():
        old = getattr(before, name)
        if name in _BY_NAME:
            own = _own.setdefault(name, {})
            own.update({key: value for key, value in new.items() if old.get(key) != value})
            own.update(dict.fromkeys(old.keys() - new.keys()))
        elif name == "path":
            first = next((i for i, entry in enumerate(new) if entry in old), len(new))
            front, back = _own.get(name, ([], []))
            added = [entry for entry in new[first:] if entry not in old]
            _own[name] = new[:first] + front, back + added
        elif name != "filters_seen":
            _own[name] = new


def keep_imported() -> None:
    """Let it stay where modules have been imported since the last `change`: it was their doing."""
    carried.note()
    if len(sys.modules) == _modules:
        return
    keep_own()
    filters = _own.pop("warning_filters", None)
    if filters is not None:  # a module puts its own first; those of the caller keep their order
        theirs = _theirs.warning_filters
        own = [one for one in filters if one not in theirs]
        if own:
            _own["warning_filters"] = own + theirs
        _enter({"warning_filters"})
    if _theirs.logger_classes:  # they may be of these modules
        _enter({"logger_classes"})


def put_back() -> bool:
    """Undo what has been set since; tell whether there was something."""
    global _standing
    hooked = hooks.put_back()
    seen, found = _look(_standing, _MARK)
    if not found:
        _standing = seen
        return hooked
    levels, handled = found.get("log_levels", {}), seen.surroundings.log_handlers
    for name in handled.keys() & levels.keys() - _standing.surroundings.log_handlers.keys():
        # The handler that an item has given a logger stays there, and so does the logger's level.
        _own.setdefault("log_levels", {})[name] = levels[name]
    _enter(found.keys())
    return True


def change(changes: Changes | None) -> None:
    """Begin with a chunk: take on what the caller has set since."""
    global _theirs, _modules
    if changes:
        before = _theirs
        _theirs = before._replace(**changes)
        for name, new in changes.items():
            if name in _BY_NAME:
                old, own = getattr(before, name), _own.get(name, {})
                for key in [key for key in own if old.get(key) != new.get(key)]:
                    del own[key]
            elif name != "path":
                _own.pop(name, None)
        _enter(changes.keys())
    _modules = len(sys.modules)


def step_out() -> None:
    """Leave the folder until something runs again.

    Windows lets nobody remove a folder as long as a process stands in it.
    """
    global _outside
    if system.WINDOWS:
        _outside = True
        with suppress(OSError):
            os.chdir(sys.exec_prefix)


def step_in() -> None:
    """Be in the folder again, as far as it is there."""
    global _outside
    if _outside:
        _outside = False
        _enter({"folder"})


def hurry(seconds: float) -> None:
    """Let other threads have the interpreter so soon, until `hurry_no_more`. No item has set it."""
    global _hurry, _before_hurry
    _before_hurry = sys.getswitchinterval()
    sys.setswitchinterval(min(seconds, _before_hurry))
    _hurry = sys.getswitchinterval()


def hurry_no_more() -> None:
    """Let them wait for as long as before, if nobody has set anything else since."""
    global _hurry
    if sys.getswitchinterval() == _hurry:
        sys.setswitchinterval(_before_hurry)
    _hurry = None


def altered(*, filters: bool = False) -> bool:
    """Whether the item that runs has set what other workers would not know of.

    Those of warnings and log records, streams and hooks count if they are asked for.
    """
    found = _look(_standing, _MARK)[1].keys()
    return bool(found) or hooks.altered() if filters else not found <= _TOLERATED


# A library may make its own calls within `catch_warnings`; they are to be helped nevertheless.
_TOLERATED = {"warning_filters", "filters_seen", *_OF_LOGGERS}


def _target(name: str) -> Any:
    theirs, own = getattr(_theirs, name), _own.get(name)
    if own is None:
        return theirs
    if name in _BY_NAME:
        return {key: value for key, value in {**theirs, **own}.items() if value is not None}
    if name == "path":
        front, back = own
        return [*front, *theirs, *back]
    return own


def _enter(names: AbstractSet[str]) -> None:
    """Set what is named here; then, what there is stands."""
    global _standing
    zone = _raw_environment.get(_TZ)
    for name, enter in _ENTER.items():
        if name in names:
            with suppress(OSError, ValueError, RecursionError, _LocaleError):
                enter(_target(name))
    if "zone" in names or _raw_environment.get(_TZ) != zone:
        _enter_zone(_target("zone"), zone)
    if "filters_seen" in names and "warning_filters" not in names:
        output.set_filters(_target("warning_filters"))
    _standing, _ = _look(_standing, _MARK)


def _enter_path(path: list[str]) -> None:
    sys.path[:] = path
    # What has come into these folders meanwhile is seen. Finders of packages are left alone: they
    # are hundreds, and to write to them would copy the pages in which a fork has them.
    for folder in path:
        known = folder or _folder() or ""
        finder = sys.path_importer_cache.get(known)
        if finder is None:  # it was not there
            sys.path_importer_cache.pop(known, None)
        elif hasattr(finder, "invalidate_caches"):
            finder.invalidate_caches()


def _enter_environment(wanted: dict[Any, Any]) -> None:
    for name in _raw_environment.keys() - wanted.keys() - _NOT_SHARED:
        del os.environ[os.fsdecode(name)]
    for name, value in wanted.items():
        if _raw_environment.get(name) != value:
            os.environ[os.fsdecode(name)] = os.fsdecode(value)


def _enter_zone(wanted: tuple[Any, ...], before: Any) -> None:
    """Set the time zone by TZ, or by what TZ was `before` where the caller has not set it since."""
    if not hasattr(time, "tzset"):
        return
    time.tzset()
    now = _raw_environment.get(_TZ)
    if _zone() != wanted and before is not None and before != now:
        os.environ["TZ"] = os.fsdecode(before)
        time.tzset()
        _enter_environment(_target("environment"))


def _enter_key(key: bytes | None) -> None:
    if key is not None:  # with it the proxies of a multiprocessing.Manager can connect
        import multiprocessing

        multiprocessing.current_process().authkey = key


def _enter_tracker(tracker: tuple[int, int] | None) -> None:
    """Use the resource tracker of the caller.

    One of the worker's own would unlink the caller's `SharedMemory`, once attached, at its end.
    """
    if tracker is not None:
        from multiprocessing import resource_tracker

        try:
            fd = os.open("{}/{}/fd/{}".format(system.PROC, *tracker), os.O_WRONLY)
        except OSError:  # not Linux, or the caller has ended it: nothing is unlinked from here
            fd = os.open(os.devnull, os.O_WRONLY)
        resource_tracker._resource_tracker._fd = fd  # type: ignore[attr-defined] # noqa: SLF001


def _enter_folder(folder: str | None) -> None:
    if folder is not None and not _outside:
        os.chdir(folder)  # if it is removed meanwhile, the function will tell if it needs it


_MARK = "parallelkit-worker"
_ENTER: dict[str, Callable[[Any], object]] = {
    "path": _enter_path,
    "environment": _enter_environment,
    "level_names": output.set_level_names,
    "logger_classes": output.set_logger_classes,
    "log_handlers": output.set_handlers,
    "log_levels": output.set_levels,
    "warning_filters": output.set_filters,
    "recursion": sys.setrecursionlimit,
    "digits": sys.set_int_max_str_digits,
    "umask": os.umask,
    "socket_timeout": _socket.setdefaulttimeout,
    "switching": sys.setswitchinterval,
    "locale": lambda name: _locale.setlocale(_locale.LC_ALL, name),
    "printing": printing.set_by_parent,
    "key": _enter_key,
    "tracker": _enter_tracker,
    "folder": _enter_folder,
}
