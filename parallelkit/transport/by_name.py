"""What an initializer works on: globals of the script go by their names, as the items find them.

A copy of its own would be filled by ``Pool(initializer=STATE.update, initargs=(...,))``, and no
item would see it. So it is with other methods of globals, and with globals among the arguments.
"""

from __future__ import annotations

import functools
import sys
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from . import inheritance
from .byvalue import Global, Needs
from .mirror import MAIN, current
from .parts import ATOMS
from .script import script, second
from .units import Entry

__all__ = ["by_name"]

_NOT_FILLED = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, tuple, frozenset)


def by_name(users: tuple[Any, ...]) -> Any:
    """What is pickled in the place of an initializer, its arguments and a finalizer."""
    if current() is not None:
        return users
    space = sys.modules[MAIN].__dict__
    content = sorted(space.items(), key=lambda one: not one[0].startswith("_"))  # the better ones
    names = {id(value): name for name, value in content if _is_filled(value)}
    found: dict[str, Global] = {}
    named = tuple(_named(part, space, names, found) for part in users)
    if not found:
        return users
    return Entry(second, Needs(script.global_unit(space, name) for name in found), named)


def _is_filled(value: Any) -> bool:
    """Whether it is something that may get other content; what processes share is the same one."""
    kind = type(value)
    return not (kind in ATOMS or issubclass(kind, _NOT_FILLED) or inheritance.made_by(kind))


def _named(obj: Any, space: dict[str, Any], names: dict[int, str], found: dict[str, Global]) -> Any:
    name = names.get(id(obj))
    if name is not None:
        return found.setdefault(name, Global(space, name))
    named = functools.partial(_named, space=space, names=names, found=found)
    kind = type(obj)
    if kind is MethodType and id(obj.__self__) in names:
        return Entry(MethodType, obj.__func__, named(obj.__self__))
    if kind is BuiltinFunctionType and id(obj.__self__) in names:
        return Entry(getattr, named(obj.__self__), obj.__name__)
    if kind is functools.partial:
        keywords = {key: named(value) for key, value in obj.keywords.items()}
        return Entry(_partial, named(obj.func), tuple(map(named, obj.args)), keywords)
    return tuple(map(named, obj)) if kind is tuple else obj


def _partial(func: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return functools.partial(func, *args, **keywords)
