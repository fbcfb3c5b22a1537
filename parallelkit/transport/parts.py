"""Parts that two globals, functions or classes of the script share: one list in two dicts.

What is sent together shares them in the receiver too, for it is one pickle. Where just one of the
two is sent, because the other has not changed, this finds where the other has the same parts; the
receiver then puts those in the place of the copies that have come, and goes on sharing them.

A part is named by its root, which is the globals of a module, a function or a class, and a path:
keys of dicts, numbers within lists and tuples, names of attributes, each by the kind of what it is
looked up in. What a bound method, a read-only view of a dict or a `functools.partial` is made of
counts as its parts.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from copyreg import _slotnames  # type: ignore[attr-defined] # names of slots, as pickle knows them
from types import BuiltinFunctionType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

__all__ = ["ATOMS", "Path", "find", "part", "place", "shared_outside"]

MOST = 20_000  # objects that are looked at below one root: what is beyond arrives as a copy

Path = tuple[Any, ...]
# What has no parts, and cannot change.
ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, type(...), range})
_METHODS = (MethodType, BuiltinFunctionType)
_MADE_ANEW = (tuple, *_METHODS, MappingProxyType)  # to have other parts
_OF_PARTIAL = ("func", "args", "keywords")
_NOT_SHARED = (type, ModuleType, FunctionType, frozenset, *_MADE_ANEW)


# --- where there are shared parts ----------------------------------------------------------------


def shared_outside(root: Any, names: Iterable[str] | None = None) -> dict[int, tuple[Any, ...]]:
    """Parts of what is below a root that something else refers to as well: by id, their paths.

    Found by their counts of references, which most often tell that there are none.
    """
    found = _parts(root, names)
    return {
        number: tuple(paths)
        for number, (obj, paths) in found.items()
        if _others(obj, paths) > _OF_OURSELVES
    }


def _others(obj: Any, paths: list[Path]) -> int:
    return sys.getrefcount(obj) - len(paths)


def find(root: Any, names: Iterable[str] | None, wanted: Collection[int]) -> dict[int, Path]:
    """Where those parts that are `wanted`, by id, are below a root."""
    return {
        number: paths[0] for number, (_, paths) in _parts(root, names).items() if number in wanted
    }


def _parts(root: Any, names: Iterable[str] | None) -> dict[int, tuple[Any, list[Path]]]:
    """All that can be shared below a root, by id, with the paths that lead to it."""
    found: dict[int, tuple[Any, list[Path]]] = {}
    left = MOST
    wanted = None if names is None else frozenset(names)
    waiting: deque[tuple[Path, Iterator[tuple[Any, Any]]]] = deque()
    waiting.append(((), ((key, o) for key, o in _inner(root, wanted))))
    seen = set()
    while waiting:
        above, inner = waiting.popleft()
        for key, obj in inner:
            kind = type(obj)  # what a proxy says of its class is another matter
            if kind in ATOMS:
                continue
            number = id(obj)
            if not issubclass(kind, _NOT_SHARED):
                if number in found:
                    found[number][1].append((*above, key))
                    continue
                found[number] = obj, [(*above, key)]
            elif not issubclass(kind, _MADE_ANEW) or number in seen:
                continue
            seen.add(number)
            left -= 1 + (len(obj) if issubclass(kind, _SIZED) else 0)
            if left > 0:
                waiting.append(((*above, key), _inner(obj, None)))
    return found


_SIZED = (dict, list, tuple, deque)


def _inner(obj: Any, names: Collection[str] | None) -> Iterator[tuple[Any, Any]]:
    """What an object refers to, with what it is called there; of a root what has these names."""
    kind = type(obj)
    if issubclass(kind, dict):
        for key in list(obj) if names is None else names:
            if type(key) in ATOMS or (type(key) is tuple and all(type(k) in ATOMS for k in key)):
                yield key, dict.get(obj, key)
    elif issubclass(kind, (list, tuple, deque)):
        yield from enumerate(list(obj))
    elif issubclass(kind, _METHODS):
        yield "__self__", obj.__self__
    elif kind is MappingProxyType:
        yield "mapping", _mapping(obj)
    elif issubclass(kind, (type, FunctionType)):
        if names is None and issubclass(kind, FunctionType):
            yield from _inner_of_function(obj)
        yield from ((k, o) for k, o in list(vars(obj).items()) if names is None or k in names)
    else:
        yield from _inner_of_object(obj)


def _inner_of_object(obj: Any) -> Iterator[tuple[Any, Any]]:
    kind = type(obj)
    if issubclass(kind, functools.partial):
        yield from ((name, getattr(obj, name)) for name in _OF_PARTIAL)
    yield from list(_attributes(obj).items())
    for name in _slotnames(kind):
        with suppress(AttributeError):  # it is not set
            yield name, object.__getattribute__(obj, name)


def _inner_of_function(func: FunctionType) -> Iterator[tuple[Any, Any]]:
    yield "__defaults__", func.__defaults__
    yield "__kwdefaults__", func.__kwdefaults__
    for number, cell in enumerate(func.__closure__ or ()):
        with suppress(ValueError):  # it is empty
            yield number, cell.cell_contents


def _mapping(proxy: MappingProxyType[Any, Any]) -> Any:
    return gc.get_referents(proxy)[0]


def _attributes(obj: Any) -> dict[str, Any]:
    try:
        found = object.__getattribute__(obj, "__dict__")
    except AttributeError:
        return {}
    return found if type(found) is dict else {}


# --- at the receiver -----------------------------------------------------------------------------


def part(root: Any, path: Path) -> Any:
    """Part that a path leads to; some error where none does."""
    for key in path:
        root = _part(root, key)
    return root


def _part(obj: Any, key: Any) -> Any:
    kind = type(obj)
    if issubclass(kind, dict):
        return dict.__getitem__(obj, key)
    if issubclass(kind, (list, tuple, deque)):
        return obj[key]
    if issubclass(kind, FunctionType):
        if isinstance(key, int):
            return (obj.__closure__ or ())[key].cell_contents
        return getattr(obj, key)
    if issubclass(kind, type):
        return vars(obj)[key]
    if kind is MappingProxyType:
        return _mapping(obj)
    return object.__getattribute__(obj, key)


def place(root: Any, path: Path, new: Any) -> Any:
    """Put something in the place that a path leads to; return the root, or one made anew."""
    if not path:
        return new
    kind, (key, *rest) = type(root), path
    before = _part(root, key)
    inner = place(before, tuple(rest), new)
    if inner is before:
        return root
    if issubclass(kind, _MADE_ANEW):
        return _made_anew(root, key, inner)
    _put(root, key, inner)
    return root


def _made_anew(obj: Any, key: Any, inner: Any) -> Any:
    if isinstance(obj, MethodType):
        return MethodType(obj.__func__, inner)
    if isinstance(obj, BuiltinFunctionType):
        return getattr(inner, obj.__name__)
    if isinstance(obj, MappingProxyType):
        return MappingProxyType(inner)
    return tuple.__new__(type(obj), [*obj[:key], inner, *obj[key + 1 :]])


def _put(obj: Any, key: Any, inner: Any) -> None:
    kind = type(obj)
    if issubclass(kind, dict):
        dict.__setitem__(obj, key, inner)
    elif issubclass(kind, (list, deque)):
        obj[key] = inner
    elif issubclass(kind, FunctionType):
        if isinstance(key, int):
            (obj.__closure__ or ())[key].cell_contents = inner
        else:
            setattr(obj, key, inner)
    elif issubclass(kind, type):
        type.__setattr__(obj, key, inner)
    elif issubclass(kind, functools.partial) and key in _OF_PARTIAL:
        state = [inner if name == key else getattr(obj, name) for name in _OF_PARTIAL]
        obj.__setstate__((*state, obj.__dict__ or None))
    elif key in _attributes(obj):
        _attributes(obj)[key] = inner
    else:
        object.__setattr__(obj, key, inner)


def _references_of_ourselves() -> int:
    """How many references a part has, beside those by which it was found, when it is looked at."""
    found = _parts({"alone": []}, None)
    return max([_others(obj, paths) for obj, paths in found.values()])


_OF_OURSELVES = _references_of_ourselves()
