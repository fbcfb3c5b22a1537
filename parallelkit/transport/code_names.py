"""What code refers to by name, as its bytecode tells: globals, attributes, modules."""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from collections.abc import Mapping
from contextlib import suppress
from types import CodeType, FunctionType, ModuleType
from typing import Any

from .importable import is_imported
from .mirror import MAIN

__all__ = [
    "closure_variables",
    "global_names",
    "handmade",
    "looks_around",
    "names_of_statement",
    "submodules",
]

_LOADED = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_GLOBALS = _LOADED | {"STORE_GLOBAL", "DELETE_GLOBAL"}
_LOOKS_AROUND = frozenset({"globals", "eval", "exec"})
_OWN_NAME = frozenset({"__name__", MAIN})


@functools.lru_cache(4096)
def global_names(code: CodeType) -> tuple[str, ...]:
    """Names of globals that code refers to, and the code within it."""
    found = {i.argval: None for i in dis.get_instructions(code) if i.opname in _GLOBALS}
    for const in code.co_consts:
        if isinstance(const, CodeType):
            found.update(dict.fromkeys(global_names(const)))
    return tuple(found)


def looks_around(code: CodeType) -> bool:
    """Whether code may ask for globals by names that are made as it runs."""
    names = set(_attribute_names(code))
    return bool(names & _LOOKS_AROUND) or ("modules" in names and bool(names & _OWN_NAME))


@functools.lru_cache(4096)
def _attribute_names(code: CodeType) -> tuple[str, ...]:
    names = dict.fromkeys(code.co_names)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            names.update(dict.fromkeys(_attribute_names(const)))
        elif type(const) is str and const == MAIN:
            names[MAIN] = None
    return tuple(names)


def submodules(code: CodeType, space: Mapping[str, Any]) -> list[str]:
    """Modules within packages that code refers to as their attributes (``scipy.optimize``)."""
    found: list[str] = []
    for name in global_names(code):
        value = space.get(name)
        if isinstance(value, ModuleType) and hasattr(value, "__path__"):
            packages = [value.__name__]
            for package in packages:
                for attribute in _attribute_names(code):
                    inner = f"{package}.{attribute}"
                    if inner in sys.modules and inner not in packages:
                        packages.append(inner)
            found += packages[1:]
    return found


@functools.lru_cache(4096)
def _imported_names(code: CodeType) -> tuple[str, ...]:
    """Modules that code imports, with the packages that they are in."""
    found: dict[str, None] = {}
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            parts = instruction.argval.split(".")
            found.update(dict.fromkeys(".".join(parts[:n]) for n in range(1, len(parts) + 1)))
    for const in code.co_consts:
        if isinstance(const, CodeType):
            found.update(dict.fromkeys(_imported_names(const)))
    return tuple(found)


def handmade(code: CodeType) -> list[str]:
    """Modules that code imports, and that nobody else could."""
    return [
        name
        for name in _imported_names(code)
        if isinstance(sys.modules.get(name), ModuleType) and not is_imported(name)
    ]


def closure_variables(func: FunctionType) -> dict[str, Any]:
    """Variables of the functions around it that a function refers to, as far as they are bound."""
    found = {}
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=True):
        with suppress(ValueError):  # it is empty
            found[name] = cell.cell_contents
    return found


def names_of_statement(code: CodeType) -> list[str]:
    """Globals that a class statement looks up as it runs, and not in its methods."""
    found = {i.argval: None for i in dis.get_instructions(code) if i.opname in _LOADED}
    for const in code.co_consts:
        if isinstance(const, CodeType) and not const.co_flags & inspect.CO_OPTIMIZED:
            found.update(dict.fromkeys(names_of_statement(const)))
    return list(found)
