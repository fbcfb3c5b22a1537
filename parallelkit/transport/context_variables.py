"""Context variables that go by value: each worker has one copy of each, found by a token."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import suppress
from contextvars import Context, ContextVar, Token
from typing import Any

from ..place.nesting import in_worker_process
from .importable import importable

__all__ = ["forget", "given_token", "home_of", "reduced", "token_of", "variable_of"]


def reduced(pickler: Any, variable: ContextVar[Any]) -> Any:
    """Reduce a variable to its token, with its value and default, for a pickler of ours.

    One of a module that the other side imports goes by its name there. With what is known of the
    script its value does not go, which is another one in each thread: it comes with each call.
    """
    home = home_of(variable)
    if home is not None:
        return _imported, home
    known = in_worker_process() or not (pickler.defining or pickler.comparing)
    args = given_token(variable), variable.name, variable.get(_UNSET) if known else _AS_IT_IS
    try:
        default = Context().run(variable.get)
    except LookupError:
        return _variable, args
    return _variable, (*args, default)


def home_of(variable: ContextVar[Any]) -> tuple[str, str] | None:
    """Module and name by which the other side finds a variable; looked for once."""
    if variable not in _homes:
        _homes[variable] = _look_for(variable)
    return _homes[variable]


def _look_for(variable: ContextVar[Any]) -> tuple[str, str] | None:
    for module_name, module in list(sys.modules.items()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is variable and importable(module_name):
                return module_name, name
    return None


def _imported(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


_homes: dict[ContextVar[Any], tuple[str, str] | None] = {}
_variables: dict[str, ContextVar[Any]] = {}  # worker: copies, by token; parent: the originals
_variable_tokens: dict[ContextVar[Any], str] = {}
_UNSET = "parallelkit: this context variable is not set"
_AS_IT_IS = "parallelkit: this context variable is set by others"


def given_token(variable: ContextVar[Any]) -> str:
    """By what it is known, from now on."""
    token = _variable_tokens.get(variable)
    if token is None:  # several threads may ask at once
        token = _variable_tokens.setdefault(variable, os.urandom(8).hex())
        _variables[token] = variable
    return token


def token_of(variable: ContextVar[Any]) -> str | None:
    """By what a variable that came by value is known, in all workers."""
    return _variable_tokens.get(variable)


def variable_of(token: str) -> ContextVar[Any] | None:
    """Copy of the variable that is known by `token`, if it has come here."""
    return _variables.get(token)


def forget() -> None:
    """Know no variable: in a worker that was forked, those that are known are the caller's."""
    for known in (_variables, _variable_tokens, _before):
        known.clear()


def _variable(token: str, name: str, value: Any, *default: Any) -> ContextVar[Any]:
    """Worker: the copy of a variable of the parent, with the value that it has there."""
    variable = _variables.get(token)
    if variable is None:
        variable = ContextVar(name, default=default[0]) if default else ContextVar(name)
        _variables[token] = variable
        _variable_tokens[variable] = token
    if in_worker_process() and not (type(value) is str and value == _AS_IT_IS):
        if not (type(value) is str and value == _UNSET):
            before = variable.set(value)
            _before.setdefault(variable, before)
        elif variable in _before:
            with suppress(ValueError):  # of another context, which ends with the item
                variable.reset(_before.pop(variable))
    return variable


_before: dict[ContextVar[Any], Token[Any]] = {}  # worker: how to have a variable not set again
