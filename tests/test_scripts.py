"""Ways to start Python: scripts with and without a guard, -c, stdin, -m, notebooks; forks; and how Python ends."""

import importlib.util
import json
import multiprocessing.spawn
import os
import re
import signal
import sys

import psutil
import pytest
from helpers import ended, wait_until

from parallelkit.backends.processes.launch import interpreter
from parallelkit.place.host import start_methods

BODY = """
import os
import parallelkit as pk
print("started")
SCALE = 10
def scale(x):
    return x * SCALE
class Point:
    def __init__(self, x):
        self.x = x
pk.configure(workers=2, start_method="METHOD")
print(pk.map(scale, range(5)))
print([type(p) is Point for p in pk.map(Point, range(3))])
print(os.getpid() in pk.map(lambda _: os.getpid(), range(4)))
SCALE = 20
print(list(pk.imap(scale, (i for i in range(3)))))
"""
EXPECTED = "started\n[0, 10, 20, 30, 40]\n[True, True, True]\nFalse\n[0, 20, 40]\n"
GUARDED = """
import os
import parallelkit as pk
def double(x):
    return 2 * x
if __name__ == "__main__":
    pk.configure(workers=2, start_method="METHOD")
    print(pk.map(double, range(5)))
"""


def with_method(source, start_method):
    return source.replace("METHOD", start_method)


def silent(ran):
    return ran.err == ""


def test_a_script_without_a_guard_runs_once(script, start_method):
    """A script needs no guard: its body runs once, and its functions and classes work."""
    ran = script(with_method(BODY, start_method))
    assert ran.out == EXPECTED
    assert silent(ran)


def test_a_script_with_a_guard(script, start_method):
    """A guard does no harm."""
    ran = script(with_method(GUARDED, start_method))
    assert (ran.out, ran.err) == ("[0, 2, 4, 6, 8]\n", "")


def test_python_c(command, start_method):
    """``python -c`` works as a script does."""
    ran = command(["-c", with_method(BODY, start_method)])
    assert (ran.out, ran.err) == (EXPECTED, "")


def test_python_bb(command):
    """Where to compare bytes with text is an error, functions with bytes in their code work."""
    ran = command(
        ["-bb", "-c", "import parallelkit as pk; print(pk.map(lambda x: b'ab'[x], [0, 1]))"]
    )
    assert (ran.out, ran.err) == ("[97, 98]\n", "")


@pytest.mark.parametrize("arguments", [[], ["-"]], ids=["piped", "dash"])
def test_python_from_stdin(command, start_method, arguments):
    """A program that comes through standard input works as a script does, and workers leave that input alone."""
    ran = command(arguments, with_method(BODY, start_method) + "print('to the end')\n")
    assert (ran.out, ran.err) == (EXPECTED + "to the end\n", "")


@pytest.mark.parametrize("kind", ["module", "package"])
def test_python_m(command, start_method, tmp_path, kind):
    """``python -m`` of a module or a package, with imports of its neighbours."""
    home = tmp_path / "pkg"
    home.mkdir()
    (home / "__init__.py").touch()
    (home / "near.py").write_text("def near(x):\n    return x + 0.5\n")
    main = home / ("__main__.py" if kind == "package" else "work.py")
    main.write_text(
        with_method(BODY, start_method) + "from .near import near\nprint(pk.map(near, [1, 2]))\n"
    )
    ran = command(["-B", "-m", "pkg" if kind == "package" else "pkg.work"], cwd=tmp_path)
    assert (ran.out, ran.err) == (EXPECTED + "[1.5, 2.5]\n", "")


RELATIVE = """
import multiprocessing
import sys
import parallelkit as pk
from .near import near

def put(queue, x):
    from .near import near
    queue.put(near(x))

def inside(x):
    from .near import near
    return near(x)

def started(x, method):
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=put, args=(queue, x))
    process.start()
    process.join()
    return process.exitcode or queue.get()

def name(_):
    return __spec__.name, sys.modules["__main__"].__spec__.parent

if __name__ == "__main__":
    pk.configure(workers=2, start_method="METHOD")
    print(pk.map(inside, [1, 2]))
    print(pk.map(name, [1]), pk.map(name, [1, 2]) == [name(1)] * 2)
    print(pk.map(started, [1, 2], method="spawn"))
    if "forkserver" in multiprocessing.get_all_start_methods():
        assert pk.map(started, [1, 2], method="forkserver") == [1.5, 2.5]
"""


def test_python_m_of_a_module_that_starts_processes(command, start_method, tmp_path):
    """In items, and in processes that these start, imports relative to the package of the module that is run work."""
    home = tmp_path / "pkg"
    home.mkdir()
    (home / "__init__.py").touch()
    (home / "near.py").write_text("def near(x):\n    return x + 0.5\n")
    (home / "work.py").write_text(with_method(RELATIVE, start_method))
    ran = command(["-B", "-m", "pkg.work"], cwd=tmp_path)
    expected = "[1.5, 2.5]\n[('pkg.work', 'pkg')] True\n[1.5, 2.5]\n"
    assert (ran.out, ran.err) == (expected, "")


def test_a_script_with_a_neighbour(command, start_method, tmp_path):
    """A script started from elsewhere imports modules of its own folder, and so do its workers."""
    (tmp_path / "neighbour.py").write_text(
        "class Tool:\n    def use(self, x):\n        return -x\n"
    )
    source = (
        "from neighbour import Tool\n"
        + with_method(BODY, start_method)
        + "print(pk.map(Tool().use, [1, 2]))\n"
    )
    (tmp_path / "main.py").write_text(source)
    ran = command(["-B", tmp_path / "main.py"])
    assert (ran.out, ran.err) == (EXPECTED + "[-1, -2]\n", "")


CELLS = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(history_load_length=0)
shell.history_manager.enabled = False
for cell in CELLS:
    shell.run_cell(cell).raise_error()
"""


def test_cells_of_a_notebook(script, start_method, tmp_path):
    """Cells of IPython: functions and classes of one cell are used by the next, and may be written anew."""
    if importlib.util.find_spec("IPython") is None:
        pytest.skip("IPython is not installed")
    cells = [
        *with_method(BODY, start_method).split("\nSCALE = 20\n"),
        "class Point:\n    new = True\n    def __init__(self, x):\n        self.x = x\n",
        "print([type(p) is Point and p.new for p in pk.map(Point, range(2))])",
        "def scale(x):\n    return -x\n",
        "print(pk.map(scale, [1, 2]))",
        "try:\n    pk.map(lambda x: 1 / x, [0])\nexcept ZeroDivisionError:\n    print('caught')",
    ]
    cells[1] = "SCALE = 20\n" + cells[1]
    ran = script(CELLS.replace("CELLS", repr(cells)), env={"IPYTHONDIR": str(tmp_path / "ipython")})
    assert ran.out == EXPECTED + "[True, True]\n[-1, -2]\ncaught\n"


AUTORELOADED = """
import os, sys
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
os.chdir(os.environ["TMPDIR"])
sys.path.insert(0, "")
sys.dont_write_bytecode = True
shell = InteractiveShell.instance(history_load_length=0)
shell.history_manager.enabled = False

def run(cell):
    shell.run_cell(cell).raise_error()

def write(second, source):
    Path("edited.py").write_text(source)
    os.utime("edited.py", (second, second))  # a file of the same time is taken for the same

write(1, "V = 1\\nSEEN = []\\ndef f(i): SEEN.append(i); return V, len(SEEN)\\nclass C:\\n    def m(self, i): return i\\n")
run("%load_ext autoreload")
run("%autoreload 2")
run("import edited, parallelkit as pk\\nfrom edited import f, C")
run("pool = pk.Pool(1, start_method='METHOD')")
run("print(pool.map(edited.f, [0]), pool.map(f, [0]), pool.map(C().m, [1]))")
write(2, "V = 2\\nSEEN = []\\ndef f(i): SEEN.append(i); return V, -len(SEEN)\\nclass C:\\n    def m(self, i): return -i\\n")
run("print(pool.map(edited.f, [0]), pool.map(f, [0]), pool.map(C().m, [1]))")
run("print(pool.map(lambda _: edited.V, [0]), pk.Pool(2, start_method='METHOD').map(edited.f, [0]))")
Path("edited.py").unlink()
"""


def test_autoreload(script, start_method, tmp_path):
    """What IPython changes in a module in place is changed in workers too, whose state stays."""
    if importlib.util.find_spec("IPython") is None:
        pytest.skip("IPython is not installed")
    ran = script(
        with_method(AUTORELOADED, start_method), env={"IPYTHONDIR": str(tmp_path / "ipython")}
    )
    assert ran.out.splitlines() == [
        "[(1, 1)] [(1, 2)] [1]",
        "[(2, -3)] [(2, -4)] [-1]",
        "[2] [(2, -1)]",
    ]


# ---- fork ----------------------------------------------------------------------------------------

FORKED = """
import os, sys, warnings
import parallelkit as pk
warnings.simplefilter("ignore", DeprecationWarning)  # of os.fork beside threads
OPTIONS = %r
pool = pk.Pool(workers=2, **OPTIONS)
unfinished = pool.imap(abs, range(100_000))
assert next(unfinished) == 0
assert pool.map(lambda x: x + 1, range(5)) == [1, 2, 3, 4, 5]
child = os.fork()
if child == 0:
    code = 1
    try:
        assert pool.map(lambda x: x + 2, range(5)) == [2, 3, 4, 5, 6]
        assert pk.map(lambda x: x + 3, range(5)) == [3, 4, 5, 6, 7]
        assert pk.nesting().level == 0
        pk.shutdown()
        code = 0
    finally:
        if sys.exc_info()[0]:
            sys.excepthook(*sys.exc_info())
        os._exit(code)
assert os.waitpid(child, 0)[1] == 0
assert pool.map(lambda x: x + 4, range(5)) == [4, 5, 6, 7, 8]
assert next(unfinished) == 1
unfinished.close()
print("both")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.parametrize("backend", ["forkserver", "spawn", "fork", "thread", "serial"])
def test_a_child_of_fork_uses_a_pool(script, backend):
    """A pool that was used before a fork works in the child, and goes on working in the parent."""
    options = {"backend": backend} if backend in ("thread", "serial") else {"start_method": backend}
    ran = script(FORKED % options)
    assert (ran.out, ran.err) == ("both\n", "")


APPLICATION = """
import os, sys
sys.executable = os.path.abspath("application")  # with a Python in it; it would open its window once more
import parallelkit as pk
print(pk.Pool(2, start_method="spawn").map(lambda x: x + 1, [1, 2]))
pk.shutdown()
sys.frozen = True
sys.base_exec_prefix = os.getcwd()
try:
    pk.Pool(2, start_method="spawn").map(abs, [1, 2])
except pk.ParallelError as error:
    print("application" in str(error), "set_executable" in str(error))
"""


def test_a_program_that_embeds_python(script):
    """Its workers are those of the Python that belongs to it; where there is none, an error says what to do."""
    ran = script(APPLICATION)
    assert (ran.out, ran.err) == ("[2, 3]\nTrue True\n", "")


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        *(
            (name, True)
            for name in ("python", "Python", "python3.13t", "python3-dbg", "pythonw.exe")
        ),
        *(
            (name, True)
            for name in ("python_d.exe", "python3.12-intel64", "pypy3", "pvpython", "mayapy.exe")
        ),
        *(
            (name, False)
            for name in ("happy", "copyq", "marathon", "python-editor", "spyder.exe", "")
        ),
    ],
)
def test_programs_that_are_interpreters(monkeypatch, name, is_one):
    """Where the name says otherwise, the program that runs this is not started once more as a worker."""
    program = os.path.abspath(os.path.join("somewhere", name)) if name else ""
    monkeypatch.setattr(sys, "executable", program)
    monkeypatch.setattr(multiprocessing.spawn, "get_executable", lambda: program)
    assert (interpreter() == program) == is_one


# ---- the end of Python ---------------------------------------------------------------------------

START = """
import os, sys, threading
import parallelkit as pk
pool = pk.Pool(workers=2, OPTION)
print(sorted(set(pool.map(lambda _: os.getpid(), range(20)))), flush=True)
"""
ENDINGS = {
    "the end of the script": ("", 0, ""),
    "sys.exit": ("sys.exit(3)", 3, ""),
    "an error": ("raise KeyError('at the end')", 1, "KeyError: 'at the end'"),
    "an iterator under way": ("it = pool.imap(abs, iter(int, 1)); next(it)", 0, ""),
    "an iterator of a live input": (
        "it = pk.uimap(abs, iter(int, 1)); next(it); sys.exit(4)",
        4,
        "",
    ),
    "inside with": ("with pool: raise SystemExit(5)", 5, ""),
    "after shutdown": ("pk.shutdown()", 0, ""),
    "a failed call": ("pool.map(lambda x: 1 // x, [0])", 1, "ZeroDivisionError"),
    "a thread that maps last": (
        "threading.Thread(target=lambda: print(pool.map(abs, [-1, -2]))).start()",
        0,
        "",
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "option",
    ["backend='thread'", *(f"start_method={method!r}" for method in start_methods())],
)
def test_python_ends_and_leaves_nothing(script, option, ending):
    """However a script ends: its exit code, its own traceback only, and no worker that outlives it."""
    last, code, last_line = ENDINGS[ending]
    ran = script(START.replace("OPTION", option) + last + "\n", code=code)
    assert ended(json.loads(ran.out.splitlines()[0]))
    if last_line:
        assert any(last_line in line for line in ran.err.splitlines())
        assert "Exception ignored" not in ran.err
    else:
        assert ran.err == ""


STAY = """import subprocess, time
def start_and_stay(seconds):
    child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(os.getpid(), child.pid, flush=True)
    open("begun", "w").close()
    time.sleep(seconds)
results = pool.imap(start_and_stay, [600])
while not os.path.exists("begun"):
    time.sleep(0.01)
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
def test_workers_do_not_outlive_a_killed_parent(script, start_method):
    """A parent that is killed takes its workers along, and what their items have started."""
    source = START.replace("OPTION", f"start_method={start_method!r}")
    ran = script(source + STAY, code=-9, files=False)
    numbers = [int(n) for n in re.findall(r"\d+", ran.out)]
    assert len(numbers) >= 3
    wait_until(lambda: ended(numbers), f"the end of {[n for n in numbers if psutil.pid_exists(n)]}")
