"""What IPython's autoreload does to modules of the caller, done to those of the workers too.

Since version 9 it does not reload a module whose functions were edited: it compares the old source
with the new one, and changes what differs in the module that is there. Nothing of the module tells
of that but the source that IPython keeps, so that is what is looked at. A worker does with its own
module what IPython did with the caller's.
"""

from __future__ import annotations

import importlib
import sys
import tokenize
from collections.abc import Mapping
from types import ModuleType
from typing import Any

__all__ = ["patch", "source_of", "sources"]


def sources() -> Mapping[str, str]:
    """Sources that IPython has taken for those of the loaded modules, by name; most often none."""
    if "IPython.extensions.autoreload" not in sys.modules:
        return _NONE
    try:
        getipython: Any = sys.modules["IPython.core.getipython"]
        magics = getipython.get_ipython().magics_manager.registry["AutoreloadMagics"]
        found: Mapping[str, str] = magics._reloader.deduper_reloader.source_by_modname  # noqa: SLF001
    except (AttributeError, KeyError):  # another version of IPython, that reloads all
        return _NONE
    return found


_NONE: Mapping[str, str] = {}


def source_of(module: ModuleType) -> str | None:
    """Source of a module as IPython would read it, where it is there to do so."""
    file = getattr(module, "__file__", None)
    if "IPython" not in sys.modules or not isinstance(file, str):
        return None
    try:
        with tokenize.open(file) as text:
            return text.read()
    except (OSError, SyntaxError, UnicodeError):
        return None


def patch(name: str, before: str) -> None:
    """In a worker: change a module whose source was `before` as the caller's was changed."""
    importlib.invalidate_caches()
    module = sys.modules.get(name)
    if module is None:
        return
    try:
        from IPython.extensions.deduperreload.deduperreload import DeduperReloader
    except ImportError:  # not installed here: with a reload its functions are other objects
        importlib.reload(module)
        return
    reloader = DeduperReloader()
    reloader.source_by_modname[name] = before
    if not reloader.maybe_reload_module(module):
        importlib.reload(module)
