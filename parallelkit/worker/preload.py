"""Imports that a fork server makes, so that no worker has to.

A fork server must have no threads. The BLAS that comes with numpy starts its own when it is loaded,
unless it is told to have none; workers set the number that their share allows later. Where another
library starts threads, the server ends, and one that does without takes its place.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
from collections.abc import Sequence

from ..place import forksafe, system

__all__ = ["load"]

PATIENCE = 60  # seconds after which it is ended: an import may wait for something
_NAMES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def load(names: Sequence[str]) -> None:
    """Import modules, as far as they are there; end the process if they start threads."""
    if not names:
        return
    before = {name: os.environ.get(name) for name in _NAMES}
    os.environ.update(dict.fromkeys(_NAMES, "1"))
    signal.alarm(PATIENCE)
    for name in names:
        try:
            importlib.import_module(name)
        except BaseException:  # noqa: BLE001 - a worker that needs it will tell why
            pass
    signal.alarm(0)
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    crowded = threading.active_count() > 1
    if not crowded and os.path.exists(system.PROC):
        crowded = forksafe.why_not_after() is not None
    if crowded:
        os._exit(forksafe.REFUSED)
