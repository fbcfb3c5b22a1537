"""Process and thread pools behind one ``map``: never a hang, nothing shipped twice, nothing lost.

>>> import parallelkit as pk
>>> pk.map(lambda x, y, p: x + y + p, [1, 2, 3], [4, 5, 6], p=200)
[205, 207, 209]

Names are loaded when they are first used, so that importing this package costs next to nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import Pool, imap, map, parallel, run, starmap, uimap
    from .blocks import map_blocks
    from .engine.run import shutdown
    from .errors import (
        ParallelError,
        Pruned,
        StoreError,
        SweepInterrupted,
        TaskTimeout,
        TransportError,
        WorkerDied,
    )
    from .integrations.executor import PoolExecutor
    from .options import UNSET, configure
    from .place.host import cpu_count
    from .place.nesting import nesting
    from .sweeps.grid import grid, sample
    from .sweeps.pruning import Halving, Median
    from .sweeps.report import report
    from .sweeps.run import Sweep, sweep
    from .sweeps.table import open_sweep
    from .traces.trace import trace
    from .transport.shared import is_shared, share, shared_empty
    from .values.call import delayed
    from .values.outcome import Failure

__version__ = "0.1.0"

_HOME = {
    "Failure": "values.outcome",
    "Halving": "sweeps.pruning",
    "Median": "sweeps.pruning",
    "ParallelError": "errors",
    "Pool": "api",
    "PoolExecutor": "integrations.executor",
    "Pruned": "errors",
    "StoreError": "errors",
    "Sweep": "sweeps.run",
    "SweepInterrupted": "errors",
    "TaskTimeout": "errors",
    "TransportError": "errors",
    "UNSET": "options",
    "WorkerDied": "errors",
    "configure": "options",
    "cpu_count": "place.host",
    "delayed": "values.call",
    "grid": "sweeps.grid",
    "imap": "api",
    "is_shared": "transport.shared",
    "map": "api",
    "map_blocks": "blocks",
    "nesting": "place.nesting",
    "open_sweep": "sweeps.table",
    "parallel": "api",
    "report": "sweeps.report",
    "run": "api",
    "sample": "sweeps.grid",
    "share": "transport.shared",
    "shared_empty": "transport.shared",
    "shutdown": "engine.run",
    "starmap": "api",
    "sweep": "sweeps.run",
    "trace": "traces.trace",
    "uimap": "api",
}

__all__ = [
    "UNSET",
    "Failure",
    "Halving",
    "Median",
    "ParallelError",
    "Pool",
    "PoolExecutor",
    "Pruned",
    "StoreError",
    "Sweep",
    "SweepInterrupted",
    "TaskTimeout",
    "TransportError",
    "WorkerDied",
    "configure",
    "cpu_count",
    "delayed",
    "grid",
    "imap",
    "is_shared",
    "map",
    "map_blocks",
    "nesting",
    "open_sweep",
    "parallel",
    "report",
    "run",
    "sample",
    "share",
    "shared_empty",
    "shutdown",
    "starmap",
    "sweep",
    "trace",
    "uimap",
]


if "PARALLELKIT_TRACE" in os.environ:
    from .traces import environment

    environment.begin()


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = _found(name, _HOME[name])
    return value


def _found(name: str, home: str) -> object:
    """Import what a name stands for.

    A signal handler that makes a call in the middle of that would find a module half made.
    """
    from importlib import import_module

    if home == "errors":  # which an `except` clause of that handler asks for
        return getattr(import_module(".errors", __name__), name)
    try:
        from .place.sigint import Shield
    except ImportError:
        from .errors import ParallelError

        raise ParallelError(
            "parallelkit is being imported by what this signal handler has interrupted: let it "
            "set a flag, and make the call later"
        ) from None
    from .place.importing import uncollected

    with Shield(), uncollected():
        return getattr(import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
