"""Context variables: what the caller has set holds inside the items, in whatever process.

Threads run in a copy of the caller's context. To a process a variable goes by its name in the
module that defines it, found once by a look through the loaded modules, with its value; one of
``__main__`` goes by value with the function that uses it, and from one worker to another by the
token that it came with. Values that cannot be pickled stay.
"""

from __future__ import annotations

import contextvars
import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

from ..place import nesting
from ..place.importing import whole
from ..transport import byvalue

__all__ = ["Carried", "carried", "enter"]

Carried = tuple[tuple[str, str, Any], ...]  # module, name and value of each variable

_BY_TOKEN = ""  # in place of a module
_names: dict[contextvars.ContextVar[Any], tuple[str, str] | None] = {}


def carried() -> Carried:
    """Variables that are set in this context, as far as they can cross."""
    found: list[tuple[str, str, Any]] = []
    for variable, value in contextvars.copy_context().items():
        if variable not in _names:
            _names[variable] = _find(variable)
        name = _names[variable]
        if name is None:
            continue
        if name in _COMPILED:
            state = _COMPILED[name](value)
            if state is not None:
                found.append((*name, state))
        elif not _is_refused(value):
            found.append((*name, value))
    return tuple(found)


def _is_refused(value: object) -> bool:
    from ..transport.refusals import is_refused  # nobody needs it where nothing is set

    return is_refused(value)


def enter(variables: Carried, *, apart: bool = False) -> None:
    """Set the variables in this context.

    With `apart`, as in a worker, what an item sets in the context of `decimal` is its own.
    """
    if apart and "decimal" in sys.modules:
        decimal = whole("decimal")
        decimal.setcontext(decimal.getcontext().copy())
    for module, name, value in variables:
        if (module, name) in _ENTER:
            _ENTER[module, name](value)
            continue
        if module == _BY_TOKEN:
            known = byvalue.variable_of(name)
            if known is not None:
                known.set(value)
            continue
        try:
            variable = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue  # nothing here can ask for it either
        variable.set(value)


def _find(variable: contextvars.ContextVar[Any]) -> tuple[str, str] | None:
    """Module and name of a variable that a worker can import; ours are set by other means."""
    if variable.name in _COMPILED_NAMES:
        return _COMPILED_NAMES[variable.name]
    if nesting.in_worker_process() and (token := byvalue.token_of(variable)) is not None:
        return _BY_TOKEN, token
    main = sys.modules.get("__main__")  # which may have a second name
    for module_name, module in list(sys.modules.items()):
        if module is main or module_name.partition(".")[0] == "parallelkit":
            continue
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is variable:
                return module_name, name
    return None


# --- those of compiled modules, whose values cannot be pickled -----------------------------------

_DECIMAL, _NUMPY = ("decimal", "getcontext"), ("numpy", "geterr")
_COMPILED_NAMES = {"decimal_context": _DECIMAL, "numpy.ufunc.extobj": _NUMPY}


def _decimal_state(value: Any) -> tuple[Any, ...] | None:
    """Arguments that make a context of `decimal` again; None if it is as at the beginning."""
    *state, _, traps = value.__reduce__()[1]  # without the flags
    *usual, _, usual_traps = _decimal_usual()
    return None if state == usual and traps == usual_traps else (*state, [], traps)


@functools.cache
def _decimal_usual() -> tuple[Any, ...]:
    arguments: tuple[Any, ...] = whole("decimal").Context().__reduce__()[1]
    return arguments


def _enter_decimal(state: tuple[Any, ...]) -> None:
    import decimal

    decimal.setcontext(decimal.Context(*state))


_NUMPY_USUAL = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


def _numpy_errors(_: Any) -> dict[str, Any] | None:
    """What `numpy.seterr` takes, and what it calls; None if it is as at the beginning."""
    numpy = whole("numpy")
    errors: dict[str, Any] = numpy.geterr()
    if errors == _NUMPY_USUAL:
        return None
    call = numpy.geterrcall()
    return errors if call is None or _is_refused(call) else {**errors, "call": call}


def _enter_numpy(errors: dict[str, Any]) -> None:
    import numpy as np

    np.seterr(**{name: how for name, how in errors.items() if name != "call"})
    if "call" in errors:
        np.seterrcall(errors["call"])


_COMPILED: dict[tuple[str, str], Callable[[Any], Any]] = {
    _DECIMAL: _decimal_state,
    _NUMPY: _numpy_errors,
}
_ENTER: dict[tuple[str, str], Callable[[Any], None]] = {
    _DECIMAL: _enter_decimal,
    _NUMPY: _enter_numpy,
}
