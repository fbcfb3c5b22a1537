"""Hostile surroundings: few descriptors, no temporary folder, threads, OpenMP and forks."""

import importlib.util
import sys
from pathlib import Path

import pytest

import parallelkit as pk
from parallelkit.place import system

HEAD = """
import os, sys, threading, tempfile, signal
import parallelkit as pk
pk.configure(workers=2, start_method="METHOD")
"""
EVERY_WAY = """
def every_way(pool):
    assert pool.map(lambda x: x + 1, range(100)) == list(range(1, 101))
    assert list(pool.imap(abs, iter([-1, -2]))) == [1, 2]
    assert sorted(pool.uimap(abs, [-1, -2])) == [1, 2]
    assert pool.submit(abs, -3).result() == 3
    assert [a[-1] for a in pool.map(lambda a: a * 2, [bytearray(b"x" * 1_000_000)] * 4)] == [120] * 4
"""
LARGE = """
import numpy as np
arrays = [np.full(1_000_000, k, float) for k in range(4)]
for _ in range(3):
    back = pk.map(lambda a, b: a + b, arrays, b=arrays[0])
    assert all((x == y).all() for x, y in zip(back, arrays))
"""
DONE = "print('done')\n"


@pytest.fixture
def hostile(script, start_method):
    """Run a script that is to end in silence with the word "done"."""

    def run(*parts, **options):
        source = "".join([HEAD, EVERY_WAY, *parts, DONE]).replace("METHOD", start_method)
        ran = script(source, **options)
        assert (ran.out, ran.err) == ("done\n", "")

    return run


# ---- what the system gives -----------------------------------------------------------------------


def test_a_read_only_temporary_folder(hostile):
    """Where the temporary folder cannot be written, calls and large arrays work all the same."""
    hostile("tempfile.tempdir = '/proc'\n", "every_way(pk.Pool())\n", LARGE)


def test_a_temp_folder_that_cannot_be_written(hostile):
    """So they do where the folder that was asked for segments cannot be written."""
    hostile("pk.configure(temp_folder='/proc')\n", "every_way(pk.Pool())\n", LARGE)


def test_no_room_for_segments(hostile):
    """Where shared memory and files are limited to a megabyte, larger arrays still arrive."""
    limit = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
"""
    hostile(limit, "every_way(pk.Pool())\n", LARGE)


def test_64_descriptors(hostile):
    """A parent that may open 64 files has its calls, also with large arrays, and a clear error for too many workers."""
    limit = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
every_way(pk.Pool())
"""
    too_many = """
try:
    pk.Pool(60).map(abs, range(100))
    raise SystemExit("60 workers on 64 descriptors?")
except pk.ParallelError as error:
    assert "ulimit -n" in str(error), error
every_way(pk.Pool())
"""
    hostile(limit, LARGE, too_many)


def test_means_that_are_not_there(hostile):
    """Without the means to start a worker an error of ours names the limit; later the same pool works."""
    hostile("""
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (12, hard))
try:
    pk.map(abs, [-1, -2])
    raise SystemExit("a call with 12 descriptors?")
except pk.ParallelError as error:
    assert "ulimit -n: 12" in str(error), error
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
every_way(pk.Pool())
""")


def test_descriptors_run_out_later(hostile):
    """Warm workers go on when the parent has used up its descriptors; what cannot be done is an error, not a hang."""
    source = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
pool = pk.Pool()
every_way(pool)
every_way(pool)  # by now everything has been imported
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
assert pool.map(abs, range(100)) == list(range(100))
try:
    pool.map(lambda x: os._exit(1), [1, 2])
    raise SystemExit("no death?")
except (OSError, pk.ParallelError):
    pass
for fd in taken:
    os.close(fd)
try:
    every_way(pool)
except OSError:
    every_way(pool)  # that a worker could not be started may be told one call later
"""
    hostile(source)


def test_descriptors_that_the_program_closes(hostile):
    """What closes all descriptors, as daemons do, costs a call that runs an error; the next has new workers."""
    hostile("""
every_way(pk.Pool())
os.closerange(3, 256)
files = [os.memfd_create('mine') for _ in range(100)]  # these have the numbers now
every_way(pk.Pool())
begun = threading.Event()
threading.Thread(target=lambda: (begun.wait(), os.closerange(3, 256))).start()
def wait(x):
    import time
    time.sleep(x)
results = pk.imap(wait, [0, 60])
next(results)
begun.set()
try:
    list(results)
except pk.ParallelError as error:
    assert "os.closerange" in str(error), error
os.closerange(3, 256)
files = [os.memfd_create('mine') for _ in range(100)]
pk.shutdown()
every_way(pk.Pool())
for file in files:
    assert os.write(file, b"x") == 1 and os.fstat(file).st_size == 1
""")


def test_shared_arrays_whose_descriptors_the_program_closes(hostile):
    """They do not become what has the same number now; they can be read here, and shared again."""
    hostile("""
import numpy as np
one = pk.share(np.arange(100_000))
assert pk.map(np.sum, [one]) == [one.sum()]
os.closerange(3, 256)
other = pk.share(np.arange(100_000) * 2)
mine = [os.memfd_create('mine') for _ in range(100)]
try:
    pk.map(np.sum, [one])
except pk.TransportError as error:
    assert "os.closerange" in str(error), error
else:
    raise AssertionError("it has travelled")
assert pk.map(np.sum, [other, pk.share(one.copy())]) == [other.sum(), one.sum()]
del one
for file in mine:
    assert os.write(file, b"x") == 1
""")


def test_a_parent_that_ignores_its_children(hostile):
    """SIGCHLD may be ignored, as servers do it: children then vanish without an exit code."""
    source = """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
pool = pk.Pool()
every_way(pool)
try:
    pool.map(lambda x: os._exit(1), [1])
    raise SystemExit("no death?")
except pk.WorkerDied:
    pass
every_way(pool)
pk.shutdown()
every_way(pool)
"""
    hostile(source)


def test_a_shower_of_signals(hostile):
    """A timer that interrupts the parent every millisecond does not disturb a call."""
    source = """
seen = []
signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
every_way(pk.Pool())
while not seen:
    every_way(pk.Pool())
signal.setitimer(signal.ITIMER_REAL, 0)
"""
    hostile(source)


STREAMS = {
    "stdin": "sys.stdin and sys.stdin.read()",
    "stdout": "print(x)",
    "stderr": "sys.stderr and print(x, file=sys.stderr)",
}


def test_a_default_timeout_of_sockets(hostile):
    """What the program has set for its own sockets does not concern ours."""
    hostile(
        """
import socket, time
socket.setdefaulttimeout(0.001)
pool = pk.Pool()
every_way(pool)
assert pool.map(lambda x: time.sleep(0.01) or x, range(4)) == list(range(4))
pk.shutdown()
every_way(pk.Pool())
"""
    )


def test_standard_descriptors_that_are_closed(hostile, folder):
    """Sockets are not taken for standard output where 0, 1 and 2 are free, nor is what is printed for an answer."""
    (folder / "sitecustomize.py").write_text("print('hello', flush=True)\n")
    hostile(
        f"""
kept = [os.dup(fd) for fd in range(3)]
for fd in range(3):
    os.close(fd)
os.environ["PYTHONPATH"] = {str(folder)!r} + os.pathsep + os.environ.get("PYTHONPATH", "")
sys.path.insert(0, {str(folder)!r})
def loud(x):
    os.write(1, b"out")
    os.write(2, b"err")
    return x
for _ in range(2):
    assert pk.Pool().map(loud, range(8)) == list(range(8))
    pk.shutdown()
for fd, copy in enumerate(kept):
    os.dup2(copy, fd)
"""
    )


@pytest.mark.parametrize("stream", STREAMS)
def test_without_a_standard_stream(hostile, stream):
    """A closed stream, None as in a windowed application, is not replaced by what our descriptors lead to."""
    source = """
kept, sys.STREAM = sys.STREAM, None
spare = os.dup(kept.fileno())
os.close(kept.fileno())
pool = pk.Pool()
every_way(pool)
def use(x):
    USE
pool.map(use, range(10))
every_way(pool)
pk.shutdown()
os.dup2(spare, kept.fileno())
sys.STREAM = kept
"""
    hostile(source.replace("STREAM", stream).replace("USE", STREAMS[stream]))


# ---- what the parent is --------------------------------------------------------------------------

THREADS = """
locks, stop = [threading.Lock() for _ in range(50)], threading.Event()
def live(lock):
    while not stop.is_set():
        with lock:
            stop.wait(0.001)
threads = [threading.Thread(target=live, args=(lock,)) for lock in locks]
for thread in threads:
    thread.start()
"""


def test_a_parent_with_fifty_threads(hostile):
    """Threads that live in the parent when the workers start, and locks that they hold, are no trouble."""
    hostile(THREADS, "every_way(pk.Pool())\n", LARGE, "stop.set()\n")


OPENMP = """
import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
def fit(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(500, 5))
    return HistGradientBoostingRegressor(max_iter=5).fit(x, x[:, 0]).score(x, x[:, 0]) > 0.1
assert fit(0)
assert pk.map(fit, range(4)) == [True] * 4
"""


def test_a_parent_that_used_openmp(script):
    """OpenMP in the parent and then in the workers does not hang, as it does below a fork of the parent."""
    if importlib.util.find_spec("sklearn") is None:
        pytest.skip("scikit-learn is not installed")
    ran = script(HEAD.replace("METHOD", "forkserver") + OPENMP + DONE)
    assert ran.out == "done\n"


def test_a_child_of_fork_that_ends_like_python(hostile):
    """A forked child that runs to Python's normal end, atexit and all, leaves its parent's workers alone."""
    source = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of os.fork beside threads
pool = pk.Pool()
every_way(pool)
before = set(pool.map(lambda _: os.getpid(), range(100)))
busy = pool.amap(lambda x: sum(range(1000)), range(20_000))
child = os.fork()
if child == 0:
    every_way(pool)
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert len(busy.result()) == 20_000
assert before & set(pool.map(lambda _: os.getpid(), range(100)))
"""
    hostile(source)


def test_a_child_of_fork_goes_on_with_an_iterator(hostile):
    """Results that workers of the parent were to give are refused in a forked child, and come in the parent."""
    source = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of os.fork beside threads
results = pk.Pool(chunksize=1).imap(lambda x: (os.getpid(), x)[1], range(1000))
assert next(results) == 0
child = os.fork()
if child == 0:
    try:
        list(results)
    except pk.ParallelError as error:
        os._exit(7 if "forked" in str(error) else 1)
    os._exit(2)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert list(results) == list(range(1, 1000))
"""
    hostile(source)


# ---- what changes between calls ------------------------------------------------------------------


def test_surroundings_change_between_calls(hostile):
    """Warm workers follow the parent's folder, import path and environment, call by call."""
    source = """
pool = pk.Pool()
def around(x):
    return os.getcwd(), os.environ.get("CHANGED"), "SECOND" in os.environ, sys.path[0]
def here():
    return os.getcwd(), os.environ.get("CHANGED"), "SECOND" in os.environ, sys.path[0]
def check():
    assert set(pool.map(around, range(100))) == {here()}
    assert set(pool.imap(around, range(10))) == {here()}
    assert pool.submit(around, 1).result() == here()
check()
with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
    os.chdir(first); check()
    os.environ["CHANGED"] = "é=1"; check()
    os.environ["SECOND"] = ""; check()
    sys.path.insert(0, second); check()
    with open(os.path.join(second, "newcomer.py"), "w") as file:
        file.write("def double(x):\\n    return 2 * x\\n")
    sys.dont_write_bytecode = True
    import newcomer
    assert pool.map(newcomer.double, [1, 2]) == [2, 4]
    sys.path.remove(second); check()
    del os.environ["CHANGED"], os.environ["SECOND"]; check()
    os.chdir("/"); check()
"""
    hostile(source)


@pytest.mark.skipif(system.WINDOWS, reason="there a process has a table of its own")
def test_variables_that_a_thread_sets_while_workers_start(script):
    """Interpreters start whatever another thread makes of the environment, whose table moves as it grows."""
    ran = script("""
import os, threading
from parallelkit.backends.processes import launch

def change():
    number = 0
    while not over.is_set():
        number += 1
        os.environ[f"VARIABLE_{number % 3000}"] = "1" * 50
        os.environ.pop(f"VARIABLE_{number * 7 % 3000}", None)

over = threading.Event()
thread = threading.Thread(target=change)
thread.start()
try:
    for _ in range(30):
        assert launch.run("pass", []).wait() == 0
finally:
    over.set()
    thread.join()
print('"done"')
""")
    assert ran.values == ["done"]


def test_a_working_directory_that_is_gone(hostile):
    """The folder in which the program stands may be removed while it runs."""
    source = """
folder = tempfile.mkdtemp()
os.chdir(folder)
os.rmdir(folder)
every_way(pk.Pool())
os.chdir("/")
every_way(pk.Pool())
"""
    hostile(source)


TRAPS = "socket random json queue pickle struct selectors statistics colorsys logging"


@pytest.mark.parametrize("path", ["as it is", "working directory first"])
def test_a_working_directory_full_of_traps(hostile, folder, path):
    """Files called like standard modules are imported by workers only where the parent would import them."""
    for name in TRAPS.split():
        (folder / f"{name}.py").write_text(f"raise SystemExit('trapped by {name}.py')\n")
    (folder / "friend.py").write_text("def double(x):\n    return 2 * x\n")
    source = """
import random, statistics
sys.dont_write_bytecode = True
if FIRST:  # as in a notebook: what was imported before stays what it is
    every_way(pk.Pool())
    pk.shutdown()
    sys.path.insert(0, "")
    import friend
    assert pk.map(friend.double, range(3)) == [0, 2, 4]
every_way(pk.Pool())
def late(x):
    import random, statistics
    return statistics.mean([x, x]) + random.random() >= x
assert pk.map(late, range(4)) == [True] * 4
def own(x):
    import colorsys
with pk.configure(on_error="return"):
    if FIRST:  # the parent would meet that one too
        assert [str(f.exception) for f in pk.map(own, [1])] == ["trapped by colorsys.py"]
    else:
        assert pk.map(own, [1]) == [None]
"""
    hostile(source.replace("FIRST", str(path != "as it is")), cwd=folder)


# ---- how Python was started -------------------------------------------------------------------


@pytest.mark.parametrize("flags", [["-X", "dev"], ["-I"], ["-OO"], ["-W", "error"]])
def test_flags_of_python(command, start_method, flags):
    """Under Python's development mode, isolated, optimized, and with warnings as errors nothing is said."""
    source = f"{HEAD}{EVERY_WAY}every_way(pk.Pool())\n{DONE}".replace("METHOD", start_method)
    home = f"import sys; sys.path.insert(0, {str(Path(pk.__file__).parents[1])!r})\n"
    ran = command([*flags, "-c", home + source])
    assert (ran.out, ran.err) == ("done\n", "")


@pytest.mark.skipif(
    not importlib.util.find_spec("_xxsubinterpreters"), reason="3.13 has another module"
)
@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="there the import of hashlib ends the process"
)
def test_in_a_subinterpreter(command):
    """There threads and the serial backend work, and an error says so where processes are asked for."""
    inside = """
import parallelkit as pk
for backend in ("serial", "thread"):
    assert pk.Pool(2, backend=backend).map(abs, [-1, -2]) == [1, 2]
try:
    pk.map(abs, [-1, -2])
except pk.ParallelError as error:
    assert "backend='thread'" in str(error), error
else:
    raise SystemExit("processes?")
print("done", flush=True)
"""
    source = f"import _xxsubinterpreters as them\nthem.run_string(them.create(), {inside!r})\n"
    ran = command(["-c", source])
    assert ran.out == "done\n"
