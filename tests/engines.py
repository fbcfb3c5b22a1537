"""Executors and clusters for the tests: started at the first use, ended with the tests of a file.

``CLUSTERS=dask,ray make test-clusters`` runs the whole contract on them; otherwise it runs on one
executor, which stands for all, and what is an engine's own in `test_dask`, `test_ray`, ...
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from left_out import WINE

WANTED = [name for name in os.environ.get("CLUSTERS", "").split(",") if name]
_running = {}


def context():
    """How processes start that are nobody's copies."""
    return multiprocessing.get_context("spawn")


def executor():
    """Options of a pool on two processes of the standard library, made anew where these are broken."""
    if WINE:
        pytest.skip("Python's own executor hangs in Wine")
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


def mpi():
    """Options of a pool on the other ranks: only where the tests themselves run as `-m mpi4py.futures`."""
    from mpi4py.futures import MPIPoolExecutor

    if "mpi" not in _running:
        _running["mpi"] = MPIPoolExecutor()
    return {"backend": _running["mpi"]}


def under_mpi(ranks, words):
    """Arguments of Python that run a script as the first of some ranks; None where there is no launcher."""
    beside = Path(sys.executable).with_name("mpiexec")  # as the wheel of MPICH has it
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    if launcher is None:
        return None
    command = (launcher, "-n", str(ranks), sys.executable, "-m", "mpi4py.futures", *map(str, words))
    return ["-c", f"import subprocess; raise SystemExit(subprocess.run({command!r}).returncode)"]


ENGINES = {"executor": executor, "loky": loky, "dask": dask, "ray": ray, "mpi": mpi}


def end():
    """End all that runs."""
    while _running:
        _, engine = _running.popitem()
        for process in list((getattr(engine, "_processes", None) or {}).values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)  # one that is stuck would be waited for
        with contextlib.suppress(Exception):
            engine.shutdown(wait=True)
