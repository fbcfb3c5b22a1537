"""Models, functions and arrays in print: live ones, and those of which a store has a description.

A description is what canonical.py makes of them. Nothing of it is imported or run: a class that it
names is looked up only where it is loaded, for the defaults of its settings.
"""

from __future__ import annotations

import enum
import inspect
import re
import sys
from typing import Any, NamedTuple

from .row import is_model
from .values import Described, decode

__all__ = ["Named", "Settings", "brief", "settings_of"]

_MODEL = re.compile(r"([\w.]+):([\w.<>]+) (\{.*\}) #([0-9a-f]{32})", re.DOTALL)
_NAMED = re.compile(r"[\w.]+:([\w.<>]+)")
_ARRAY = re.compile(r"((?:\w+ )?)array (\S+) ([\d × ]*) ?#[0-9a-f]{32}")
_FRAME = re.compile(r"(DataFrame|Series|\w*Index) [0-9a-f]{32}")
_KINDS = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex"}


class Settings(NamedTuple):
    """What a model is: its class, and its settings, also those of the models in it, by name."""

    kind: str
    values: dict[str, Any]
    defaults: dict[str, Any]  # as far as they are known


def settings_of(value: Any) -> Settings | None:
    """Settings of a model, or of the description of one; None for anything else."""
    found = _own(value)
    if found is None:
        return None
    kind, own, defaults = found
    values: dict[str, Any] = {}
    for name, one in own.items():
        _add(values, name, one)
    return Settings(kind, values, defaults)


def _add(values: dict[str, Any], name: str, value: Any) -> None:
    """A setting; of a model its class and its settings, of a list of named ones each of them."""
    inner = _own(value)
    if inner is not None:
        values[name] = Named(inner[0])
        for below, one in inner[1].items():
            _add(values, f"{name}__{below}", one)
    elif isinstance(value, list) and value and all(map(_is_step, value)):
        for step, one in value:
            _add(values, f"{name}.{step}" if step in values else step, one)
    else:
        values[name] = value


def _is_step(value: Any) -> bool:
    """Whether something is a named step of a pipeline."""
    return (
        isinstance(value, tuple)
        and len(value) >= 2
        and isinstance(value[0], str)
        and (_own(value[1]) is not None or value[1] == "passthrough")
    )


class Named(str):
    """The name of a class, which is shown without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _own(value: Any) -> tuple[str, dict[str, Any], dict[str, Any]] | None:
    if is_model(value):
        try:
            return type(value).__qualname__, value.get_params(deep=False), _defaults(type(value))
        except Exception:  # noqa: BLE001 - a user's own may raise anything
            return None
    found = _MODEL.fullmatch(value) if isinstance(value, Described) else None
    if found is None:
        return None
    module, kind, told, _ = found.groups()
    try:
        params = decode(told, {})
    except (ValueError, TypeError, LookupError, RecursionError, ArithmeticError):
        return None
    if not isinstance(params, dict):
        return None
    loaded = getattr(sys.modules.get(module), "__dict__", {})
    return kind, params, _defaults(loaded.get(kind))


def _defaults(kind: Any) -> dict[str, Any]:
    """Defaults of the settings of a class."""
    if not isinstance(kind, type):
        return {}
    try:
        known = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {one.name: one.default for one in known if one.default is not one.empty}


def brief(value: Any) -> str | None:
    """A function, a class, a member of an enum, or a description, in short; None for others."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if not isinstance(value, Described):
        name = getattr(value, "__qualname__", None) if callable(value) else None
        return name if isinstance(name, str) else None
    if (array := _ARRAY.fullmatch(value)) is not None:
        kind, dtype, shape = array.groups()
        return f"{kind}array {_dtype(dtype)} {shape.replace(' × ', '×')}".strip()
    for form in (_NAMED, _FRAME):
        if (found := form.fullmatch(value)) is not None:
            return found.group(1)
    return str(value)


def _dtype(told: str) -> str:
    """``float64`` of ``<f8``."""
    kind, size = told[1:2], told[2:]
    if told[:1] in "<>|=" and kind in _KINDS and size.isdigit():
        return _KINDS[kind] + ("" if kind == "b" else str(8 * int(size)))
    return told
