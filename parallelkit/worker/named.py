"""Classes that settings name: a warning's category, a logger's class.

One that the other side can import goes by its name, and is not imported there for that; any other
one, as of the script, by value.
"""

from __future__ import annotations

import sys
import weakref
from typing import Any

from ..transport import pickling
from ..transport.mirror import current
from ..transport.script import Sent, script

__all__ = ["Named", "find", "named"]

Named = tuple[str, str] | bytes

_by_value: weakref.WeakKeyDictionary[type, bytes] = weakref.WeakKeyDictionary()

_found: dict[bytes, Any] = {}


def named(cls: type) -> Named | None:
    """Return what the other side finds `cls` by; None where it cannot be sent."""
    module = sys.modules.get(cls.__module__)
    importable = cls.__module__ != "__main__" and getattr(module, "__spec__", None) is not None
    if importable and _look(module, cls.__qualname__) is cls:
        return cls.__module__, cls.__qualname__
    data = _by_value.get(cls)
    if data is None:
        try:
            ours = current() is None  # the other side has what is of its own script
            pickled = script.addressed(cls, Sent()) if ours else pickling.dumps(cls)
            data = b"".join(pickled.pieces)
        except Exception:  # noqa: BLE001 - a user's metaclass may raise anything
            return None
        _by_value[cls] = data
    return data


def find(name: Named) -> Any:
    """Return the class; None where it is not there, or its module is not loaded."""
    if isinstance(name, bytes):
        if name not in _found:
            try:
                _found[name] = pickling.loads(name)
            except Exception:  # noqa: BLE001 - a user's metaclass may raise anything
                return None
        return _found[name]
    return _look(sys.modules.get(name[0]), name[1])


def _look(module: Any, qualname: str) -> Any:
    found = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found
