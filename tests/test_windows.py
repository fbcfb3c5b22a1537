"""What only Windows has: keys of a console, programs without one, jobs, paths of its own."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import left_out
import pytest
from helpers import ended, wait_until

import parallelkit as pk
from parallelkit.place import system

pytestmark = pytest.mark.skipif(not system.WINDOWS, reason="a matter of Windows")

BASE = Path(sys.base_prefix)  # that of no virtual environment
NEW_CONSOLE, DETACHED = 0x10, 0x8
WAITING = """
import os, pathlib, signal, subprocess, sys, threading, time
import parallelkit as pk
FOLDER = pathlib.Path(sys.argv[1])
def wait(x):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (FOLDER / f"{os.getpid()} {child.pid}").touch()
    time.sleep(600)
pool = pk.Pool(2)
"""
PRESSED = """
def press():
    while len(list(FOLDER.iterdir())) < 2:
        time.sleep(0.01)
    os.kill(0, signal.CTRL_C_EVENT)  # as the key: to all that listen in this console
threading.Thread(target=press, daemon=True).start()
try:
    pool.map(wait, range(4))
except KeyboardInterrupt:
    print("interrupted", flush=True)
print(pool.map(abs, [-1, -2]), list(pool.imap(abs, [-3])), pool.submit(abs, -4).result())
"""


@pytest.fixture
def start(tmp_path):
    """Start a program, to which a folder is named where its items leave the numbers of processes."""
    folder = tmp_path / "running"
    folder.mkdir()
    home = str(Path(pk.__file__).parents[1])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    running = []

    def start(source, python=sys.executable, **options):
        (tmp_path / "program.py").write_text(source)
        running.append(
            subprocess.Popen(
                [python, "-B", tmp_path / "program.py", folder],
                env={**os.environ, "PYTHONPATH": path},
                **options,
            )
        )
        return running[-1]

    yield start
    for one in running:
        one.kill()
        one.wait()


def processes(folder):
    """Numbers of the workers that run an item, and of what these items have started."""
    return [int(number) for file in folder.iterdir() for number in file.name.split()]


def test_the_key_ctrl_c(start, tmp_path):
    """It interrupts the call; workers say nothing, what items have started ends, and the pool works again."""
    program = start(
        WAITING + PRESSED,
        creationflags=NEW_CONSOLE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert program.communicate(timeout=90)[0] == "interrupted\n[1, 2] [3] 4\n"
    wait_until(lambda: ended(processes(tmp_path / "running")), "the end of what was interrupted")


def test_a_killed_program_takes_all_along(start, tmp_path):
    """Its workers, and what their items have started."""
    program = start(WAITING + "pool.map(wait, range(2))")
    wait_until(lambda: len(processes(tmp_path / "running")) == 4, "two items")
    program.kill()
    wait_until(lambda: ended(processes(tmp_path / "running")), "the end of the workers")


def test_a_program_without_a_console(start, tmp_path):
    """There is nowhere to print, as in a service; items may print all the same."""
    source = """
import pathlib, sys
import parallelkit as pk
def say(x):
    print(x)
    return x + 1
told = sys.stdout, pk.Pool(2, progress=True).map(say, [1, 2, 3])
pathlib.Path(sys.argv[1], "said").write_text(str(told))
"""
    program = start(source, python=BASE / "pythonw.exe", creationflags=DETACHED)
    assert program.wait(90) == 0
    assert (tmp_path / "running" / "said").read_text() == "(None, [2, 3, 4])"


IN_AN_ENVIRONMENT = """
import multiprocessing, os, sys
sys.path.append(PACKAGES)
import parallelkit as pk
if sys.prefix == sys.base_prefix:
    multiprocessing.set_executable(os.path.join(sys.argv[1], "Scripts", "python.exe"))
prefix = pk.Pool(2).map(lambda x: sys.prefix, [1])[0]
print(os.path.samefile(prefix, sys.argv[1]))
"""


@pytest.mark.skipif(
    left_out.WINE and sys.version_info >= (3, 13), reason="Wine lacks what 3.13 copies files by"
)
@pytest.mark.parametrize("caller", ["its", "another"])
def test_the_python_of_a_virtual_environment(start, tmp_path, caller):
    """It starts another process, which is the worker; of a program that runs in it, or of one that names it."""
    venv.create(tmp_path / "running")
    packages = ascii(sysconfig.get_path("purelib"))
    python = tmp_path / "running/Scripts/python.exe" if caller == "its" else BASE / "python.exe"
    source = IN_AN_ENVIRONMENT.replace("PACKAGES", packages)
    program = start(source, python=python, stdout=subprocess.PIPE, text=True)
    assert program.communicate(timeout=90)[0] == "True\n"


@pytest.mark.parametrize("shape", ["{}", "\\\\?\\{}", "network"])
def test_paths(command, tmp_path, shape):
    """Spaces, letters of other alphabets, long paths and network paths, of a script and what it imports and writes."""
    folder = tmp_path / "a plaçe 漢字"
    folder.mkdir()
    (folder / "nächst.py").write_text("def double(x):\n    return 2 * x\n", encoding="utf-8")
    (folder / "mäin.py").write_text(
        "import os, nächst, parallelkit as pk\n"
        "os.chdir(os.path.dirname(__file__))\n"
        "print(ascii([os.path.basename(f) for f in pk.Pool(2).map(lambda x: os.getcwd(), [1])]))\n"
        "print(pk.Pool(2).map(nächst.double, [1, 2]))\n"
        "sweep = pk.Sweep(store=os.path.abspath('läufe.db'), workers=2)\n"
        "print([r['value'] for r in sweep.run(lambda x: x + 1, pk.grid(x=[1, 2]))])\n",
        encoding="utf-8",
    )
    script = shape.format(folder / "mäin.py")
    if (
        shape == "network"
    ):  # a drive as administrators see it; under Wine, tests/windows/run shares it
        share = f"\\\\localhost\\{folder.drive[0]}$\\"
        if not os.path.exists(share):
            pytest.skip("this machine does not share its drive")
        script = share + os.path.splitdrive(folder / "mäin.py")[1].lstrip("\\")
    ran = command([script])
    assert ran.err == ""
    assert ran.out.splitlines() == [ascii(["a plaçe 漢字"]), "[2, 4]", "[2, 3]"]


SWEPT = """
import os, pathlib, runpy, signal, sys, threading, time
folder = pathlib.Path(sys.argv[1])
os.chdir(folder)
pathlib.Path("train.py").write_text('''
import time
def train(depth):
    if depth == 7:
        open("held", "w").close()
        time.sleep(600)
    return depth
''')
def press():
    while not os.path.exists("held"):
        time.sleep(0.01)
    os.kill(0, signal.CTRL_C_EVENT)
threading.Thread(target=press, daemon=True).start()
sys.argv = ["", "sweep", "train.py:train", "depth=3,7", "--store", "run.db", "--workers", "1"]
runpy.run_module("parallelkit", run_name="__main__")
"""


def test_the_key_ctrl_c_on_the_command_line(start, tmp_path):
    """Exit code 130, what was finished in the store, one line that says so."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    program = start(SWEPT, creationflags=NEW_CONSOLE, **options)
    said, _ = program.communicate(timeout=90)
    assert program.returncode == 130
    assert "interrupted with 1 point finished" in said
    assert "Traceback" not in said
    assert pk.open_sweep(tmp_path / "running" / "run.db")["depth"] == [3]
