"""Dask on this machine, where no other is given: ended with this process.

Scheduler and workers live in a process beside this one, which ends when its input does: also where
this process is killed. So scripts need no ``if __name__ == "__main__"``, Dask's own threads take no
time from the script, and what Dask writes lies in a folder that goes with it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ..errors import ParallelError
from ..place.host import cpu_count, variables

__all__ = ["Local"]

START = 60.0  # seconds that it may take to start
END = 10.0  # seconds that it may take to end

# A chunk whose worker dies comes back at once, and is looked into: no worker more is risked. A
# worker that is not back soon, where items keep ending it on a busy machine, is awaited.
SCRIPT = """
import json
import logging
import os
import sys

told = json.loads(sys.stdin.readline())
sys.path[:] = told["path"]

import dask

dask.config.set({"temporary-directory": told["folder"]})
dask.config.set({"distributed.scheduler.allowed-failures": 0})
dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"})
dask.config.set({"distributed.worker.daemon": False})  # items may start processes

from distributed import LocalCluster

with LocalCluster(
    n_workers=told["workers"], threads_per_worker=1, dashboard_address="127.0.0.1:0"
) as cluster:
    with open(told["address"] + ".new", "w") as file:
        file.write(cluster.scheduler_address)
    os.replace(told["address"] + ".new", told["address"])
    sys.stdin.read()
    # On a busy machine workers do not end in time; nobody is to be told how they are ended then.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
"""


class Local:
    """A scheduler of Dask and a worker for each core.

    Attributes
    ----------
    address : str
        Of the scheduler.
    """

    def __init__(self) -> None:
        import dask

        wished = dask.config.get("temporary-directory", None)
        self._folder = Path(tempfile.mkdtemp(prefix="parallelkit-dask-", dir=wished))
        # As Dask's own nannies hand down what a script has configured.
        inherited = {"DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(dask.config.config)}
        self._process = subprocess.Popen(  # noqa: S603 - a script of ours
            [sys.executable, "-c", SCRIPT],
            stdin=subprocess.PIPE,
            text=True,
            env=variables() | inherited,
            start_new_session=True,  # Ctrl-C is for the script alone
        )
        try:
            self.address = self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> str:
        path = self._folder / "address"
        told = {
            "path": [os.path.abspath(entry) for entry in sys.path],
            "folder": str(self._folder),
            "address": str(path),
            "workers": cpu_count(),
        }
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(OSError):  # it has ended, which is told below
            stdin.write(json.dumps(told) + "\n")
            stdin.flush()
        end = time.monotonic() + START
        while not path.exists():
            code = self._process.poll()
            if code is not None or time.monotonic() > end:
                what = "did not start in time" if code is None else f"ended with the code {code}"
                raise ParallelError(
                    f"Dask on this machine {what}; what it printed tells why. Does "
                    "`python -c 'import distributed; distributed.LocalCluster()'` work?"
                )
            time.sleep(0.01)
        return path.read_text()

    @property
    def running(self) -> bool:
        """Whether it is there."""
        return self._process.poll() is None

    def leave(self) -> None:
        """In a forked child: it is the parent's, and ends with that one."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.returncode = 0  # nobody waits for it here

    def close(self) -> None:
        """End it."""
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
