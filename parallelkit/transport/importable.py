"""What the other side finds by an import, and what has to go by value.

It is asked of nearly everything that is pickled, so answers are kept for as long as a module and
its spec are the same.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from ..place.sigint import pass_on

__all__ = [
    "CLOUDPICKLE",
    "IMPORTED",
    "MAIN",
    "NewModules",
    "find_spec",
    "importable",
    "in_library",
    "is_imported",
    "is_named",
    "is_reachable",
    "module_that_has",
]

MAIN = "__main__"
IMPORTED = "#imported"  # ends the key of a module of the user's that the other side imports
CLOUDPICKLE = "cloudpickle.cloudpickle"
_importable: dict[str, tuple[Any, Any, bool]] = {}
_imports: dict[str, tuple[Any, bool]] = {}
_STANDARD = os.path.dirname(os.__file__)
# By these most modules are told apart, without a library of paths that takes an import.
_USUAL_LIBRARIES = (
    _STANDARD + os.sep,
    os.path.join(sys.prefix, "lib", os.path.basename(_STANDARD), "site-packages") + os.sep,
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,  # installed or not
)


@functools.cache
def _libraries() -> tuple[str, ...]:
    """Folders of Python and of packages, this one's too, which need not be installed."""
    import sysconfig

    folders = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    return tuple(folder + os.sep for folder in {*folders, *map(os.path.realpath, folders)})


def in_library(module: ModuleType) -> bool:
    """Whether a module belongs to Python or to an installed package."""
    spec = module.__dict__.get("__spec__")
    origin = getattr(spec, "origin", None)
    if not isinstance(origin, str):
        return True
    if origin.startswith(_USUAL_LIBRARIES) or not os.path.isabs(origin):  # built in, or frozen
        return True
    return origin.startswith(_libraries())


def importable(name: str) -> bool:
    """Whether the other side finds the module `name`, as far as it is loaded here."""
    if name in (MAIN, "__mp_main__"):
        return False
    module = sys.modules.get(name)
    if module is None or _is_registered(module):
        return False
    spec = getattr(module, "__spec__", None)
    known = _importable.get(name)
    if known is not None and known[0] is module and known[1] is spec:
        return known[2]
    if spec is None:  # made by hand, as by ``runpy.run_path``: nobody else could
        found = not isinstance(module, ModuleType)
    elif not in_library(module):
        found = _is_found(name, spec)
    else:
        found = True
    _importable[name] = module, spec, found
    return found


def _is_registered(module: ModuleType) -> bool:
    """Whether the user has told cloudpickle that what is in a module goes by value."""
    cloudpickle = sys.modules.get(CLOUDPICKLE)
    if cloudpickle is None or not getattr(cloudpickle, "_PICKLE_BY_VALUE_MODULES", None):
        return False
    return bool(cloudpickle._is_registered_pickle_by_value(module))


def _is_found(name: str, spec: Any) -> bool:
    """Whether an import of `name` finds the file that is loaded."""
    found = find_spec(name)
    return found is not None and bool(found.origin == spec.origin)


def is_imported(name: str) -> bool:
    """Whether the other side has the module `name` by an import, of itself or of its package.

    A library may make modules by hand as it is imported.
    """
    module = sys.modules[name]
    if name == MAIN or importable(name):
        return name != MAIN
    if getattr(module, "__spec__", None) is not None or _is_registered(module):
        return False
    known = _imports.get(name)
    if known is None or known[0] is not module:
        parent = name.rpartition(".")[0]
        found = (parent in sys.modules and is_imported(parent)) or find_spec(name) is not None
        known = _imports[name] = module, found
    return known[1]


def is_reachable(obj: Any) -> bool:
    """Whether the other side finds a function or class by importing it."""
    module = getattr(obj, "__module__", None)
    if not isinstance(module, str):
        return False
    name = getattr(obj, "__qualname__", None) or obj.__name__
    if not importable(module):
        return module not in sys.modules and isinstance(obj, type) and _imported(obj)
    found: Any = sys.modules[module]
    if "." not in name:
        return getattr(found, name, None) is obj
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is obj


_homes: WeakKeyDictionary[type, str | None] = WeakKeyDictionary()


def module_that_has(cls: type) -> ModuleType | None:
    """Return the module of a class that names itself by another one, as pytest's outcomes do."""
    compiled = "__module__" not in cls.__dict__  # a type of Python's own, say
    if compiled or "." in cls.__qualname__ or not importable(cls.__module__):
        return None
    if type(cls).__hash__ is not type.__hash__:
        name = _home(cls)
    elif cls in _homes:
        name = _homes[cls]
    else:
        name = _homes[cls] = _home(cls)
    return None if name is None else sys.modules.get(name)


def _home(cls: type) -> str | None:
    for name, module in list(sys.modules.items()):
        content = getattr(module, "__dict__", None) or {}
        if content.get(cls.__name__) is cls and importable(name):
            return name
    return None


def _imported(cls: type) -> bool:
    """Import the module that a class names itself by, if it is there, as pickle does.

    A package may load that module only when it is asked for (``numpy.rec``); cloudpickle takes
    what is not loaded for something that cannot be imported.
    """
    found: Any
    try:
        found = importlib.import_module(cls.__module__)
        for name in cls.__qualname__.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError, TypeError, ValueError):
        return False
    return found is cls


def is_found(obj: Any) -> bool:
    """Whether the module of a function or class has it under its own name, whoever imports it."""
    found: Any = sys.modules.get(obj.__module__)
    for part in obj.__qualname__.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found is obj


def is_named(func: Any) -> bool:
    """Whether a function is found in its globals under its own name."""
    found: Any = func.__globals__.get(func.__qualname__)
    return found is func


class NewModules:
    """Looks for modules that were loaded since it looked last.

    It looks at the latest alone, where no others are gone: after a fork, each module that is
    looked at costs a page of memory, which its count of references is written to.
    """

    def __init__(self) -> None:
        self.count = 0  # modules, at the last look
        self._latest = ""

    def names(self) -> list[str]:
        """Names of those that are new, the latest last; of all, where some are gone."""
        grown, self.count = len(sys.modules) - self.count, len(sys.modules)
        found: list[str] = []
        if grown > 0:
            with suppress(RuntimeError):  # another thread imports
                found = list(itertools.islice(reversed(sys.modules), grown + 1))
        if not found or found.pop() != self._latest:
            found = list(reversed(list(sys.modules)))
        self._latest = found[0]
        return found[::-1]


def find_spec(name: str) -> Any:
    """Spec that an import of a module would find, whatever is loaded under its name; or None."""
    parent = name.rpartition(".")[0]
    path = None
    if parent:
        path = getattr(sys.modules.get(parent), "__path__", None)
        if path is None:
            return None
    for finder in sys.meta_path:
        try:
            found = finder.find_spec(name, path, None)
        except Exception as error:  # noqa: BLE001 - somebody else's finder
            pass_on(error)
            continue
        if found is not None:
            return found
    return None
