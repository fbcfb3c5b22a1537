"""What classes consist of, and the statements that made them."""

from __future__ import annotations
import __future__

import abc
import ast
import enum
import linecache
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

from .mirror import MAIN

__all__ = [
    "NOT_ATTRIBUTES",
    "bound_as",
    "class_attributes",
    "class_statement",
    "home",
    "is_compiled",
    "member_attributes",
    "registered",
    "take_members",
]

NOT_ATTRIBUTES = frozenset(
    {"__dict__", "__weakref__", "__slots__", "__slotnames__", "_abc_impl", "__annotate_func__"}
)
_OF_ENUMS = frozenset(
    {
        *("_member_names_", "_member_map_", "_value2member_map_"),
        *("_unhashable_values_", "_hashable_values_", "_unhashable_values_map_"),
    }
)


def class_attributes(cls: type) -> dict[str, Any]:
    """What stands in a class, without what Python itself puts there."""
    return {
        name: value
        for name, value in list(cls.__dict__.items())
        if name not in NOT_ATTRIBUTES
        and not (isinstance(value, types.MemberDescriptorType) and value.__objclass__ is cls)
    }


def is_compiled(metaclass: type) -> bool:
    """Whether a metaclass makes classes in compiled code, which nothing else can do for it."""
    for base in metaclass.__mro__:
        if base is type:
            return False
        new = base.__dict__.get("__new__")
        if new is not None and not isinstance(new, (staticmethod, FunctionType)):
            return True
    return False


def class_statement(cls: type) -> CodeType | None:
    """Code of the statement that made a class of a module, where its source is there.

    It is a class statement, or an assignment of what a library has made for that name.
    """
    module = home(cls)
    file = getattr(module, "__file__", None)
    files = [file] if isinstance(file, str) else []
    functions = [value for value in cls.__dict__.values() if isinstance(value, FunctionType)]
    files += [function.__code__.co_filename for function in functions]
    for file in dict.fromkeys(files):
        try:
            tree = ast.parse("".join(linecache.getlines(file)))
        except (SyntaxError, ValueError):
            continue
        found = [node for node in _statements(tree.body) if _makes(node, cls, module)]
        if found:
            future = getattr(module, "annotations", None) is __future__.annotations
            flags = __future__.annotations.compiler_flag if future else 0
            whole = ast.Module([found[-1]], [])
            code: CodeType = compile(whole, file, "exec", flags=flags, dont_inherit=True)
            return code
    return None


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that a module runs itself, those of ``if``, ``try`` and ``with`` included."""
    for statement in body:
        yield statement
        if isinstance(statement, (ast.If, ast.Try, ast.With, ast.ExceptHandler)):
            for part in ("body", "handlers", "orelse", "finalbody"):
                yield from _statements(getattr(statement, part, ()))


def _makes(statement: ast.stmt, cls: type, module: Any) -> bool:
    """Whether it is the statement of a class, or binds what a call has made (``Base = f()``)."""
    if isinstance(statement, ast.ClassDef):
        return statement.name == cls.__qualname__ and cls.__module__ == getattr(
            module, "__name__", cls.__module__
        )
    return (
        isinstance(statement, ast.Assign)
        and isinstance(statement.value, ast.Call)
        and isinstance(statement.targets[0], ast.Name)
        and getattr(module, "__dict__", {}).get(statement.targets[0].id) is cls
    )


def take_members(cls: Any, attributes: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Take the members of an Enum out of its attributes; how each is made, without its making."""
    for name in (*_OF_ENUMS, *cls._member_map_):
        attributes.pop(name, None)
    members: list[tuple[Any, ...]] = []
    listed = set(cls._member_names_)
    for name, member in cls._member_map_.items():
        if member._name_ != name:
            members.append((name, None, (member._name_,), None))
            continue
        maker = cls._member_type_
        args: tuple[Any, ...] = ()
        if maker is not object:
            reduced: Any = object.__reduce_ex__(member, 2)
            args = reduced[1][1:]
            if not args and maker.__reduce__ is not object.__reduce__:
                args = maker.__reduce__(member)[1]
        state = {k: v for k, v in vars(member).copy().items() if k != "__objclass__"}
        if name not in listed:
            state["__listed__"] = False
        members.append((name, maker, args, state))
    for value, member in _composites(cls).items():
        given = {k: v for k, v in vars(member).copy().items() if k not in _OF_EACH_MEMBER}
        if given:
            members.append((value, None, (), given))
    return members


def member_attributes(cls: Any) -> dict[tuple[str | int, str], Any]:
    """What has been given to members of an Enum, by the names of the member and of that.

    What has no name of its own, as ``Flag.A | Flag.B``, is called by its value.
    """
    members = {name: one for name, one in cls._member_map_.items() if one._name_ == name}
    return {
        (name, key): value
        for name, member in (members | _composites(cls)).items()
        if len(vars(member)) > 2
        for key, value in vars(member).copy().items()
        if key not in _OF_EACH_MEMBER
    }


def _composites(cls: Any) -> dict[int, Any]:
    """Combinations of members of a Flag that have been made so far, and are kept, by values."""
    if not issubclass(cls, enum.Flag):
        return {}
    made = [one for one in list(cls._value2member_map_.values()) if isinstance(one._value_, int)]
    return {one._value_: one for one in made if one._name_ not in cls._member_map_}


_OF_EACH_MEMBER = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_"})


def home(cls: type) -> Any:
    """Module of a class; the script, where that has got it of a library by a call."""
    main: Any = sys.modules[MAIN]
    if cls.__module__ != MAIN and any(value is cls for value in list(vars(main).values())):
        return main
    return sys.modules.get(cls.__module__)


def bound_as(cls: type, space: Mapping[str, Any]) -> str:
    """Name of a class in its module, which need not be its own."""
    names = [name for name, value in list(space.items()) if value is cls]
    return cls.__name__ if cls.__name__ in names or not names else names[0]


def registered(cls: Any) -> list[type]:
    """Classes that an abstract class was told of by ``register``."""
    if "_abc_impl" not in cls.__dict__:
        return []
    registry = abc._get_dump(cls)[0]  # type: ignore[attr-defined]
    return [found for found in (ref() for ref in registry) if found is not None]
