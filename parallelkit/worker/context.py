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
from ..place.records import NamedTuple
from ..transport import context_variables
from ..values.call import apply_parts

__all__ = ["Variables", "enter", "is_refused", "ours", "variables_here", "variables_with", "within"]

Variables = tuple[tuple[str, str, Any], ...]  # module, name and value of each variable

_BY_TOKEN = ""  # in place of a module
_names: dict[contextvars.ContextVar[Any], tuple[str, str] | None] = {}


def variables_here() -> Variables:
    """Variables that are set in this context, as far as they can cross."""
    found: list[tuple[str, str, Any]] = []
    for variable, value in contextvars.copy_context().items():
        if variable not in _names:
            _names[variable] = _find(variable, value)
        name = _names[variable]
        if name is None:
            token = context_variables.token_of(variable)
            if token is None:
                continue
            name = _BY_TOKEN, token
        if name in _COMPILED:
            state = _COMPILED[name](value)
            if state is not None:
                found.append((*name, state))
        elif not is_refused(value):
            found.append((*name, value))
    return tuple(found)


def variables_with(task: Any) -> Variables:
    """Those that go with a task; of single calls, which are one endless call, each has its own."""
    return () if task.func is apply_parts else variables_here()


def within(inline: bool) -> Within | WithinHere | None:
    """What a single call is to be made within, as it is now; None where nothing is set.

    `inline` tells whether it is made in this process.
    """
    if not inline:
        variables = variables_here()
        return Within(variables) if variables else None
    here = contextvars.copy_context().items()
    values = [(variable, value) for variable, value in here if not _is_ours(variable)]
    return WithinHere(values) if values else None


def ours() -> contextvars.Context:
    """A context in which this package's own variables alone are set, as they are here."""
    made = contextvars.Context()
    for variable, value in contextvars.copy_context().items():
        if _is_ours(variable):
            made.run(variable.set, value)
    return made


_PREFIX = f"{__name__.partition('.')[0]}."


@functools.cache
def _is_ours(variable: contextvars.ContextVar[Any]) -> bool:
    """Whether a module of this package defines it: a user's may have a name like ours."""
    if not variable.name.startswith("parallelkit_"):
        return False
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(_PREFIX)]
    return any(variable is value for module in modules for value in list(vars(module).values()))


class WithinHere(NamedTuple):
    """The context of who has submitted a call, in the same process."""

    values: list[tuple[contextvars.ContextVar[Any], Any]]

    def __call__(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Make the call."""
        for variable, value in self.values:
            decimals = variable.name == _DECIMAL_NAME and _is_of_decimal(value)
            variable.set(value.copy() if decimals else value)
        return func(*args, **kwargs)


class Within(NamedTuple):
    """The context of who has submitted a call."""

    variables: Variables

    def __call__(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Make the call."""
        enter(self.variables)
        return func(*args, **kwargs)


def is_refused(value: object) -> bool:
    """Whether a value cannot be pickled."""
    from ..transport import refusals  # nobody needs it where nothing is set

    return refusals.is_refused(value)


def enter(variables: Variables, *, apart: bool = False) -> None:
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
            known = context_variables.variable_of(name)
            if known is not None:
                known.set(value)
            continue
        try:
            variable = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue  # nothing here can ask for it either
        variable.set(value)


def _find(variable: contextvars.ContextVar[Any], value: object) -> tuple[str, str] | None:
    """Module and name of a variable that a worker can import; ours are set by other means."""
    if variable.name == _DECIMAL_NAME and _is_of_decimal(value):
        return _DECIMAL
    if variable.name == _NUMPY_NAME:
        return _NUMPY
    if _is_ours(variable):
        return None
    home = context_variables.home_of(variable)
    if home is None and not nesting.in_worker_process():
        main = getattr(sys.modules.get("__main__"), "__dict__", {})
        if any(value is variable for value in list(main.values())):
            return _BY_TOKEN, context_variables.given_token(variable)
    return home


# --- those of compiled modules, whose values cannot be pickled -----------------------------------

_DECIMAL, _NUMPY = ("decimal", "getcontext"), ("numpy", "geterr")
_DECIMAL_NAME, _NUMPY_NAME = "decimal_context", "numpy.ufunc.extobj"


def _is_of_decimal(value: object) -> bool:
    """Whether a variable with the name of `decimal`'s is that, by what it is set to."""
    return isinstance(value, whole("decimal").Context)


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
    return errors if call is None or is_refused(call) else {**errors, "call": call}


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
