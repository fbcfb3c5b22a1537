"""Where chunks run: one table of backends, and what each of them can do.

A backend is a module with two functions, and one line here::

    pool_for(options, workers, level, wished) -> base.Pool      # for one call
    prepare(options, func)        # once, before its first call; may return the module of `pool_for`

``shutdown()`` is called, where it is there, to end what the backend keeps warm. Nobody else
compares the names of backends, but for `engine.plan`, which chooses one.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from ..place.records import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..options import Options

__all__ = ["TABLE", "Backend", "end_all", "prepare", "reach"]


class Backend(NamedTuple):
    """What can be relied on.

    Attributes
    ----------
    module : str
    inline : bool
        Chunks run in the thread that asks for them, one at a time: it draws the input itself.
    alone : bool
        One item at a time runs in a process, so that it may have `random` to itself.
    shares_memory : bool
        Items see the caller's own objects.
    elsewhere : bool
        Workers are another engine's: the module has a third function, ``reach(options)``, which
        tells how many there are, how far away, and whether they are threads of this process.
    """

    module: str
    inline: bool = False
    alone: bool = False
    shares_memory: bool = False
    elsewhere: bool = False


TABLE = {
    "process": Backend("parallelkit.backends.processes", alone=True),
    "outer": Backend("parallelkit.backends.helpers", alone=True),  # and idle workers of its pool
    "thread": Backend("parallelkit.backends.threads", shares_memory=True),
    "serial": Backend("parallelkit.backends.serial", inline=True, alone=True, shares_memory=True),
    "executor": Backend("parallelkit.backends.executors", alone=True, elsewhere=True),
    "executor-threads": Backend(
        "parallelkit.backends.executors", shares_memory=True, elsewhere=True
    ),
    "dask": Backend("parallelkit.backends.dask", alone=True, elsewhere=True),
    "ray": Backend("parallelkit.backends.ray", alone=True, elsewhere=True),
}


def reach(name: str, options: Options) -> tuple[int, float, bool]:
    """Tell how many slots another engine has, how far away, and whether they are threads here."""
    found: tuple[int, float, bool] = importlib.import_module(TABLE[name].module).reach(options)
    return found


def prepare(name: str, options: Options, func: Callable[..., Any] | None) -> Any:
    """Import what a backend needs for its first call, of `func`; return the module of its pools."""
    module: Any = importlib.import_module(TABLE[name].module)
    return module.prepare(options, func) or module


def end_all() -> None:
    """End all that backends keep warm."""
    for backend in TABLE.values():
        module = sys.modules.get(backend.module)
        end = getattr(module, "shutdown", None)  # a thread may be importing it at this moment
        if end is not None:
            end()
