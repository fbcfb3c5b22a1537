"""Globals of the user's modules that a worker imports: its own, or the caller's.

::

    import of a module ── note() ─► what it has before anything of the caller's ran
                                        │
    the caller's value of a global ── is_news() ─► bound, or the worker's own stays

A function that such a module has made, and that the worker cannot find by its name, runs on the
worker's own module. What that has filled by itself stays. What the caller has changed since the
import takes its place: at first, where the caller's value is another one than an import gives, and
later whenever the caller changes it again.
"""

from __future__ import annotations

import itertools
import pickle
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any, cast

from ..place.sigint import pass_on
from .importable import MAIN, NewModules, in_library
from .parts import ATOMS

__all__ = ["forget", "is_news", "may_change", "note", "note_again", "original"]

MOST_PARTS = 2000  # of a value that is kept in mind by all of its parts
MOST_BYTES = 1 << 16  # of an array that is
_ABSENT = object()
_ATOMS = ATOMS | {CodeType}
_SETS = frozenset({set, frozenset})
_CONTAINERS = frozenset({list, tuple, deque, *_SETS})
_MAPPINGS = frozenset({dict, OrderedDict, defaultdict})


class _Note:
    """What a module had when it had been imported."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.pictures: dict[str, Any] = {}
        self.objects: dict[str, Any] = {}  # functions and classes of its own
        self.met: set[str] = set()  # globals of which the caller's value has come before
        for name, value in list(vars(module).items()):
            if not name.startswith("__"):
                self.pictures[name] = _picture(value)
                if issubclass(type(value), (FunctionType, type)):
                    self.objects[name] = value


class _Other:
    """In place of a picture: of an object that no picture can be made of."""

    def __init__(self, value: Any) -> None:
        self.kind = type(value)
        self.identity = id(value)


_notes: dict[str, _Note] = {}
_modules = NewModules()


def note() -> None:
    """Keep in mind what modules of the user have that were imported since the last time."""
    if len(sys.modules) == _modules.count:
        return
    for name in _modules.names():
        module = sys.modules.get(name)
        if isinstance(module, ModuleType) and name != MAIN and not in_library(module):
            known = _notes.get(name)
            if known is None or known.module is not module:
                _notes[name] = _Note(module)


def forget() -> None:
    """Know nothing of any module, as a worker does that was forked from another one."""
    global _modules
    _notes.clear()
    _modules = NewModules()


def note_again(name: str) -> None:
    """Take a new note of a module that has been run again."""
    if _notes.pop(name, None) is not None and name in sys.modules:
        _notes[name] = _Note(sys.modules[name])


def original(module: str, name: str) -> Any:
    """Function or class that a module had under a name when it had been imported, or None."""
    known = _notes.get(module)
    return None if known is None else known.objects.get(name)


def is_news(module: str, name: str, value: Any) -> bool:
    """Whether the caller's value of a global takes the place of what this process has there."""
    known = _notes.get(module)
    there = vars(sys.modules[module]).get(name, _ABSENT)
    if known is None or known.module is not sys.modules[module] or name in known.met:
        return there is not value
    known.met.add(name)
    if there is value:
        return False
    before = known.pictures.get(name, _ABSENT)
    if type(before) is not _Other:
        return before is _ABSENT or _picture(value) != before
    if type(value) is not before.kind or there is _ABSENT:
        return True
    # Nobody knows whether the caller's is still what an import gives: this process's own stays
    # where it has been bound to another object here, or where that is as good as the caller's.
    return id(there) == before.identity and _differ(there, value)


def may_change(value: Any) -> bool:
    """Whether a value can change in place, and its pickle tells of that and runs nobody's code."""
    if type(value) in _ATOMS or issubclass(type(value), (FunctionType, type, ModuleType)):
        return False
    return type(_picture(value)) is not _Other


def _differ(there: Any, value: Any) -> bool:
    """Whether two objects differ, as far as their pickles tell."""
    try:
        return pickle.dumps(there, 5) != pickle.dumps(value, 5)
    except Exception as error:  # noqa: BLE001 - a user's __reduce__ may raise anything
        pass_on(error)
        return False


class _Unknown(Exception):
    """No picture can be made of this."""


def _picture(value: Any) -> Any:
    """What is equal for an equal value of a plain kind, at any depth."""
    try:
        return _part(value, itertools.count(), ())
    except Exception as error:  # noqa: BLE001 - objects of the user may raise anything
        pass_on(error)
        return _Other(value)


def _part(value: Any, parts: itertools.count[int], around: tuple[int, ...]) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return kind, repr(value) if kind in (float, complex) else value
    if issubclass(kind, (type, ModuleType, BuiltinFunctionType)):  # and no proxy of one
        return kind, id(value)
    if next(parts) > MOST_PARTS or id(value) in around:
        raise _Unknown
    around = (*around, id(value))
    held = (_part(one, parts, around) for one in _held(value))
    return kind, frozenset(held) if kind in _SETS else tuple(held)


def _held(value: Any) -> Iterable[Any]:
    """What an object consists of."""
    kind = type(value)
    if kind in _CONTAINERS:
        return cast(Iterable[Any], value)
    if kind in _MAPPINGS:
        return itertools.chain(value, value.values())
    if kind is FunctionType:
        return value.__code__, *(value.__closure__ or ())
    if kind is CellType:
        try:
            return (value.cell_contents,)
        except ValueError:
            return ()
    return (vars(value),) if _has_only_attributes(kind) else _buffer(value)


def _has_only_attributes(kind: type) -> bool:
    """Whether all that an instance holds is in its ``__dict__``, and it is pickled so."""
    own = ("__reduce_ex__", "__reduce__", "__getstate__")
    size = ("__basicsize__", "__dictoffset__")
    return all(getattr(kind, name) == getattr(_Plain, name) for name in size) and all(
        getattr(kind, name) is getattr(_Plain, name) for name in own
    )


class _Plain:
    """As a class is without slots or content of its own."""


def _buffer(value: Any) -> Any:
    """What an array holds, where that is not much."""
    try:
        view = memoryview(value)
    except (TypeError, ValueError, BufferError):
        raise _Unknown from None
    if view.nbytes > MOST_BYTES or "O" in view.format:
        raise _Unknown
    return view.format, view.shape, view.tobytes()
