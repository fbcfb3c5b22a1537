"""Context variables: what the caller has set holds inside the items, in whatever process.

Threads run in a copy of the caller's context. To a process a variable goes by its name in the
module that defines it, found once by a look through the loaded modules, with its value; one of
``__main__`` goes by value with the function that uses it. Values that cannot be pickled stay.
"""

from __future__ import annotations

import contextvars
import importlib
import sys
from typing import Any

from ..transport import pickling

__all__ = ["carried", "enter"]

Carried = tuple[tuple[str, str, Any], ...]  # module, name and value of each variable

_names: dict[contextvars.ContextVar[Any], tuple[str, str] | None] = {}


def carried() -> Carried:
    """Variables that are set in this context, as far as they can cross."""
    found = []
    for variable, value in contextvars.copy_context().items():
        if variable not in _names:
            _names[variable] = _find(variable)
        name = _names[variable]
        if name is not None and _crosses(value):
            found.append((*name, value))
    return tuple(found)


def enter(variables: Carried) -> None:
    """Set the variables in this context."""
    for module, name, value in variables:
        try:
            variable = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue  # nothing here can ask for it either
        variable.set(value)


def _find(variable: contextvars.ContextVar[Any]) -> tuple[str, str] | None:
    """Module and name of a variable that a worker can import; ours are set by other means."""
    main = sys.modules.get("__main__")  # which may have a second name
    for module_name, module in list(sys.modules.items()):
        if module is main or module_name.partition(".")[0] == "parallelkit":
            continue
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is variable:
                return module_name, name
    return None


def _crosses(value: object) -> bool:
    try:
        pickling.dumps(value)
    except Exception:  # noqa: BLE001 - a user's __reduce__ may raise anything
        return False
    return True
