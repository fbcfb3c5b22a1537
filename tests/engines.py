"""Executors and clusters for the tests: started at the first use, ended with the tests of a file.

``CLUSTERS=dask,ray make test-clusters`` runs the whole contract on them; otherwise it runs on one
executor, which stands for all, and what is an engine's own in `test_dask`, `test_ray`, ...
"""

import contextlib
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor

WANTED = [name for name in os.environ.get("CLUSTERS", "").split(",") if name]
_running = {}


def context():
    """How processes start that are nobody's copies."""
    return multiprocessing.get_context("spawn")


def executor():
    """Options of a pool on two processes of the standard library, made anew where these are broken."""
    found = _running.get("executor")
    if found is None or found._broken or found._shutdown_thread:
        found = _running["executor"] = ProcessPoolExecutor(2, mp_context=context())
    return {"backend": found}


def loky():
    from loky import get_reusable_executor

    _running["loky"] = get_reusable_executor(2, timeout=600)
    return {"backend": _running["loky"]}


def dask():
    """Options of a pool on the LocalCluster that parallelkit starts where there is no client."""
    return {"backend": "dask"}


def ray():
    return {"backend": "ray"}


ENGINES = {"executor": executor, "loky": loky, "dask": dask, "ray": ray}


def end():
    """End all that runs."""
    while _running:
        _, engine = _running.popitem()
        for process in list((getattr(engine, "_processes", None) or {}).values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)  # one that is stuck would be waited for
        with contextlib.suppress(Exception):
            engine.shutdown(wait=True)
