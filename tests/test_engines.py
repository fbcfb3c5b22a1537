"""Executors of other packages: each maps, finds the script as it is now, names an item that fails."""

import importlib.util
from pathlib import Path

import engines
import psutil
import pytest
from running import run_script

pytestmark = pytest.mark.timeout(360)  # engines take their time to start on a busy machine

EXAMPLE = Path(__file__).parents[1] / "examples" / "anywhere.py"
SCRIPT = """
import os
import sys

import parallelkit as pk

{begin}

K = 2


def times(x, p):
    return K * x + p


def divide(x):
    return 6 // (x - 3)


if __name__ == "__main__":
    with make() as executor:
        pool = pk.Pool(backend=executor)
        print(pool.map(times, range(4), p=1))
        K = 5
        print(pool.map(times, range(4), p=1))
        print(sum(pool.imap(lambda x: x, range(1000))))
        print(os.getpid() in pool.map(lambda _: os.getpid(), range(20)))
        try:
            pool.map(divide, range(9))
        except ZeroDivisionError as error:
            print(error.__notes__[0])
"""
PRINTED = """[1, 3, 5, 7]
[1, 6, 11, 16]
499500
False
in item 3 of the input, called with (3)
"""
BEGIN = {
    "mpi4py": "from mpi4py.futures import MPIPoolExecutor as make",
    "loky": "from loky import get_reusable_executor\nmake = lambda: get_reusable_executor(2)",
    "executorlib": (
        "from executorlib import SingleNodeExecutor\n"
        "make = lambda: SingleNodeExecutor(max_workers=2, block_allocation=True)"
    ),
    "ipyparallel": (
        "import contextlib, ipyparallel\n"
        "@contextlib.contextmanager\n"
        "def make():\n"
        "    with ipyparallel.Cluster(n=2, log_level=50) as client:\n"
        "        client.wait_for_engines(2)\n"
        "        yield client.executor()"
    ),
    "distributed": (
        "import contextlib, distributed\n"
        "@contextlib.contextmanager\n"
        "def make():\n"
        "    with distributed.Client(n_workers=2, dashboard_address='127.0.0.1:0') as client:\n"
        "        yield client.get_executor()"
    ),
}


@pytest.mark.parametrize("where", ["process", "thread", "executor", "dask", "ray"])
def test_the_example_runs_anywhere(where):
    """One option says where, and the result is the same to the last digit."""
    package = {"dask": "distributed", "ray": "ray"}.get(where)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    ran = run_script([EXAMPLE, where, "--batches", "10"], files=False, timeout=300)
    assert ran.out.startswith("pi is about 3.140920\n")


@pytest.mark.parametrize("package", BEGIN)
def test_an_executor_of(package, tmp_path):
    """A script with an executor prints what it prints on one machine; under MPI it runs as two ranks."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(begin=BEGIN[package]))
    words = [path]
    if package == "mpi4py":
        words = engines.under_mpi(2, words)
        if words is None:
            pytest.skip("there is no mpiexec")
    assert run_script(words, files=False, timeout=300).out == PRINTED


LEAVES_ONE = """
import subprocess, sys
command = [sys.executable, "-c", "import time; time.sleep(600)"]
print(subprocess.Popen(command, stdout=-3, stderr=-3, start_new_session=True).pid, file=sys.stderr)
raise SystemExit(3)
"""


def test_what_a_script_has_started_goes_with_a_test_that_fails():
    """Ranks of MPI, say, which are not ended with the script that has started them."""
    with pytest.raises(AssertionError, match="exit code 3") as failed:
        run_script(["-"], LEAVES_ONE)
    started = int(str(failed.value).split()[3])
    assert not psutil.pid_exists(started) or psutil.Process(started).status() == "zombie"
