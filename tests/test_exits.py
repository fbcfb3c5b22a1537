"""An interpreter on its way out: functions that Python calls at its end, and daemon threads that still map."""

import atexit
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from faults import wait_for_files
from helpers import kill, mark, wait_until

import parallelkit as pk
from parallelkit.backends import threads
from parallelkit.place import system

HEAD = """
import os, sys, threading
import parallelkit as pk
pk.configure(workers=2, start_method="METHOD")
"""


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("warm", [True, False])
def test_calls_at_exit(script, start_method, order, warm):
    """Functions that Python calls at its end may map, also after our own clean-up; where 3.12 allows it no new workers, it says so."""
    import_ = HEAD.replace("METHOD", start_method)
    register = """
import atexit
def last():
    print(pk.Pool(2).map(abs, [-1, -2]), flush=True)
atexit.register(last)
"""
    parts = [register, import_] if order == "before" else [import_, register]
    ran = script("".join([*parts, "pk.map(abs, [-1])\n" if warm else ""]))
    if sys.version_info[:2] == (3, 12) and start_method != "forkserver":
        assert "ParallelError: Python is ending" in ran.err
    else:
        assert (ran.out, ran.err) == ("[1, 2]\n", "")


LOOPS = {
    "map": "pool.map(abs, range(100))",
    "imap": "next(pool.imap(abs, range(100)))",
    "submit": "pool.submit(abs, 1).result()",
    "start": "pk.Pool(2).map(abs, range(10)); pk.shutdown()",
    "hold": "pool.map(lambda x: threading.Event().wait(x), [600])",
}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_daemon_thread_that_maps_to_the_end(script, start_method, loop):
    """A daemon thread in the middle of a call does not keep Python from ending; all that is said is what its call met."""
    source = """
pool = pk.Pool()
pool.map(abs, [1])
begun = threading.Event()
def work():
    while True:
        begun.set()
        LOOP
threading.Thread(target=work, daemon=True).start()
begun.wait()
sys.exit(3)
"""
    ran = script(
        (HEAD + source).replace("METHOD", start_method).replace("LOOP", LOOPS[loop]), code=3
    )
    assert ran.out == ""
    assert "Fatal" not in ran.err
    assert "ignored" not in ran.err
    said = [line for line in ran.err.splitlines() if not line.startswith((" ", "Traceback"))]
    assert not said or re.fullmatch(
        r"Exception in thread .*(parallelkit.errors.ParallelError: .*)?", "".join(said)
    )


# ---- what items have started ---------------------------------------------------------------------


def start_sleeper(folder, apart=False):
    """An item that starts a program, leaves its pid, and does not end."""
    if system.WINDOWS:
        breakaway = 0x1000000 if apart else 0
        program = [sys.executable, "-c", "import time; time.sleep(600)"]
        pid = subprocess.Popen(program, creationflags=breakaway).pid
    else:
        pid = os.posix_spawnp("sleep", ["sleep", "600"], os.environ, setsid=apart)
    mark(folder, f"held-{pid}")
    return pid


def start_sleeper_and_hang(folder):
    start_sleeper(folder)
    threading.Event().wait(600)


def ran_below(folder):
    (path,) = Path(folder).glob("held-*")
    return int(path.name.removeprefix("held-"))


def test_programs_of_an_item_end_with_it(process_pool, folder):
    """Workers that are ended in the middle of an item take with them what the item has started."""
    running = process_pool().amap(start_sleeper_and_hang, [folder])
    wait_for_files(folder, 1)
    pk.shutdown()
    assert isinstance(running.exception(60), pk.ParallelError)
    wait_until(lambda: not is_running(ran_below(folder)), "the end of the program")


def test_programs_of_an_item_end_at_its_time_limit(process_pool, folder):
    """So does a worker whose item has lasted too long."""
    limit = 10 if system.WINDOWS else 2  # there a program takes its time to start
    with pytest.raises(pk.TaskTimeout):
        process_pool(timeout=limit).map(start_sleeper_and_hang, [folder])
    wait_until(lambda: not is_running(ran_below(folder)), "the end of the program")


def test_a_program_in_a_session_of_its_own_is_spared(process_pool, folder):
    """What an item has meant to outlive it does."""
    running = process_pool().amap(
        lambda f: [start_sleeper(f, apart=True), start_sleeper_and_hang(f)], [folder]
    )
    wait_for_files(folder, 2)
    pk.shutdown()
    assert isinstance(running.exception(60), pk.ParallelError)
    pids = [int(path.name.removeprefix("held-")) for path in folder.glob("held-*")]
    wait_until(lambda: sum(map(is_running, pids)) == 1, "the end of the other program")
    for pid in filter(is_running, pids):
        kill(pid)


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_exit_handlers_of_items_run(process_pool, folder):
    """What a library registers in an item for Python's end is called when an idle worker is ended."""

    def register(x):
        atexit.register(mark, folder, f"ended-{os.getpid()}")
        return os.getpid()

    pids = set(process_pool().map(register, range(4)))
    pk.shutdown()
    assert {path.name for path in folder.glob("ended-*")} == {f"ended-{pid}" for pid in pids}


def test_a_worker_that_will_not_end_is_ended(process_pool):
    """Neither a thread that goes on nor a handler that hangs keeps the program."""

    def never(x):
        threading.Thread(target=threading.Event().wait, args=(600,)).start()
        atexit.register(threading.Event().wait, 600)
        return os.getpid()

    pids = set(process_pool().map(never, range(4)))
    pk.shutdown()
    assert not any(map(is_running, pids))


JOBLIB = """
import joblib
def work(x):
    return sum(joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(-k) for k in range(x)))
print(pk.Pool(2).map(work, [3, 4]))
"""


def test_processes_of_joblib_in_items_end_with_the_program(script, start_method):
    """Workers that an item has started through joblib do not outlive the program."""
    pytest.importorskip("joblib")
    ran = script(HEAD.replace("METHOD", start_method) + JOBLIB, files=False)
    assert ran.out == "[3, 6]\n"


MODEL = """
import os
class Model:
    def __del__(self):
        print("ended with", os.path.join("its", "module"), flush=True)
"""
WAYS = {
    "map": "pk.map(score, [1, 2])",
    "submit": "pk.Pool(2).submit(score, 1).result()",
    "imap": "next(iter(pk.imap(score, range(100))))",
    "thread": 'pk.Pool(2, "thread").map(score, [1, 2])',
    "executor": "list(pk.PoolExecutor(2).map(score, [1, 2]))",
}


@pytest.mark.parametrize("way", WAYS)
def test_finalizers_of_the_script_run_before_its_modules_are_taken_apart(script, tmp_path, way):
    """An object that a script keeps to its end still finds there what its module has imported, as without us."""
    (tmp_path / "models.py").write_text(MODEL)
    head = "import parallelkit as pk\nfrom models import Model\nmodel = Model()\n"
    work = "def score(x):\n    return model is None\n"
    ran = script(f"{head}{work}{WAYS[way]}\n")
    assert (ran.out, ran.err) == (f"ended with {os.path.join('its', 'module')}\n", "")


class Changing(set):
    """A set that another thread adds to while it is gone through, the first time."""

    def __iter__(self):
        if self:
            self.clear()
            raise RuntimeError("Set changed size during iteration")
        return super().__iter__()


def test_a_call_may_be_left_while_threads_are_ended():
    """Whoever ends them goes through the calls that were left early, once more if need be."""
    helpers = threads._Helpers(1, False)
    helpers.left = Changing([None])
    helpers.close()
    assert not helpers.left
