"""The fork server that is a copy of the caller: when it is, and that nothing of the caller is used twice.

Scripts tell by the package's log which server they got.
"""

import os

import pytest
from running import run_script

from parallelkit.place import system

pytestmark = pytest.mark.skipif(
    not (system.FORKS_WELL and os.path.isdir(system.PROC)), reason="it is a matter of Linux"
)

HEAD = """
import json, logging, os, sys
import parallelkit as pk

told = []

class Told(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())

logging.getLogger("parallelkit").addHandler(Told())
logging.getLogger("parallelkit").setLevel(logging.DEBUG)

def server():
    return [text.partition(" is ")[2] for text in told if text.startswith("the fork server")]

def pid(x):
    return os.getpid()

FORKED = ["forked from this process"]
"""


@pytest.fixture(autouse=True)
def unforced(monkeypatch):
    """Each test says itself which server it wants, also in `make test-forked`."""
    monkeypatch.delenv("PARALLELKIT_FORK_SERVER", raising=False)


def forked(source, **options):
    """What a script prints that gets a server forked from it."""
    return run_script(["-"], HEAD + source + "\nassert server() == FORKED, server()\n", **options)


# ---- which one it is ------------------------------------------------------------------------------


def test_a_script_has_one_forked_from_itself():
    """Workers hold what the script has imported, and import nothing of it again."""
    source = """
import decimal, xml.dom.minidom
here = id(xml.dom.minidom)

def same(x):
    return "xml.dom.minidom" in sys.modules and id(sys.modules["xml.dom.minidom"])

assert pk.Pool(2).map(same, [1, 2]) == [here, here]
"""
    forked(source)


REASONS = {
    "a thread": (
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "other threads",
    ),
    "another thread": ("", "another thread than the main one"),
    "a thread of compiled code": (
        "import faulthandler; faulthandler.dump_traceback_later(600)",
        "compiled code runs 1 threads",
    ),
    "a module of the program": ("import own", "the module own of the program"),
    "large": ("large = bytearray(1 << 30); large[::4096] = bytes(1 << 18)", "MB of memory"),
    "a database": (
        "import sqlite3; base = sqlite3.connect('base.db'); base.execute('begin immediate')",
        "base.db open, which may be a matter of _sqlite3",
    ),
    "a class that its base knows": (
        "import string\nclass Own(string.Template): pass",
        "the class Own of the program",
    ),
    "a builtin": ("import builtins; builtins.own = pid", "the program has set builtins.own"),
    "a window": (
        "import types; sys.modules['_tkinter'] = types.ModuleType('_tkinter')",
        "a window system",
    ),
    "an error": ("", "an exception is being handled"),
    "a lock": (
        "import string, threading\n"
        "string.threading, string.own = threading, threading.RLock(); string.own.acquire()",
        "the program holds the lock string.own",
    ),
    "a GPU": (
        "import types; cuda = sys.modules['torch.cuda'] = types.ModuleType('torch.cuda')\n"
        "cuda.is_initialized = lambda: True",
        "torch.cuda is initialised",
    ),
    "a logger's thread": (
        "import logging.handlers, queue\n"
        "listener = logging.handlers.QueueListener(queue.Queue())\n"
        "listener.start()",
        "other threads",
    ),
    "h5py": (
        "import h5py; file = h5py.File('own.h5', 'w')",
        "own.h5 open, which may be a matter of",
    ),
}
NEEDED = {"h5py": "h5py"}  # for these a library has to be there
CALLS = {
    "another thread": "import concurrent.futures as f\nfound = f.ThreadPoolExecutor().submit(pk.Pool(2).map, abs, [-1, 2]).result()",
    "an error": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    found = pk.Pool(2).map(abs, [-1, 2])",
}


@pytest.mark.parametrize("reason", REASONS)
def test_where_a_fork_is_not_safe_it_is_a_new_one(reason, tmp_path):
    """The log says why."""
    if reason in NEEDED:
        pytest.importorskip(NEEDED[reason])
    (tmp_path / "own.py").write_text("")
    before, why = REASONS[reason]
    call = CALLS.get(reason, "found = pk.Pool(2).map(abs, [-1, 2])")
    source = f"{HEAD}sys.path.append({str(tmp_path)!r})\n{before}\n{call}\nprint(json.dumps([found, server()]))"
    ran = run_script(["-"], source, files=False)
    [[found, told]] = ran.values
    assert found == [1, 2]
    assert len(told) == 1
    assert told[0].startswith("started anew: ")
    assert why in told[0]


# ---- what a new one imports -------------------------------------------------------------------------

NEW = """
import json, sys
import parallelkit as pk
import colorsys as colours, xml.sax.saxutils, xml.dom.minidom

def first(x):
    return xml.sax.saxutils.escape("<"), colours.rgb_to_hls(x, x, x)

def there(x):
    return [name in sys.modules for name in ("xml.sax.saxutils", "colorsys", "xml.dom.minidom")]

options = {"start_method": "forkserver", **OPTIONS}
if sys.argv[1:] == ["sweep"]:
    pk.Sweep(workers=2, **options).run(first, pk.grid(x=[0, 1]))
else:
    pk.Pool(2, **options).map(first, [0, 1])
print(json.dumps(pk.Pool(3, **options).map(there, [0])[0]))  # other workers, which have run nothing yet
"""


@pytest.mark.parametrize(
    ("options", "there"),
    [
        ({}, [True, True, False]),  # what the first function refers to
        ("sweep", [True, True, False]),
        ({"preload": ()}, [False, False, False]),
        ({"preload": ("xml.dom.minidom", "no.such.module")}, [True, True, True]),
    ],
)
def test_what_is_imported_before_the_first_fork(options, there):
    """A new server imports what the first function needs and what `preload=` names, as far as it is there."""
    arguments, options = (["-", options], {}) if options == "sweep" else (["-"], options)
    ran = run_script(arguments, NEW.replace("OPTIONS", repr(options)))
    assert ran.values == [there]


def test_a_module_that_is_preloaded_is_imported_once(tmp_path):
    """By the server, and by no worker; where it starts a thread, by each worker as always."""
    source = """
import json, os, sys
sys.path.append(FOLDER)
import parallelkit as pk

def parent(x):
    import counted
    return counted.imported_by == os.getpid()

for starts in ("", "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"):
    with open(os.path.join(FOLDER, "counted.py"), "w") as file:
        file.write("import os; imported_by = os.getpid()\\n" + starts)
    print(json.dumps(pk.Pool(2, start_method="forkserver", preload=("counted",)).map(parent, [1, 2])))
    pk.shutdown()
"""
    ran = run_script(["-"], source.replace("FOLDER", repr(str(tmp_path))), files=False)
    assert ran.values == [[False, False], [True, True]]


def test_each_server_imports_what_its_own_pool_names():
    """Also a later one, with another `preload=`; the first function is not held on to for it."""
    source = """
import json, sys, weakref
import parallelkit as pk

class Large:
    pass

def there(x):
    return [name in sys.modules for name in ("colorsys", "wave")]

large = Large()
gone = weakref.ref(large)
first = lambda x, large=large: x
pk.Pool(2, start_method="forkserver", preload=("colorsys",)).map(first, [0, 1])
del first, large
pk.Pool(3, start_method="forkserver").map(abs, [0])
assert gone() is None
found = [pk.Pool(2, start_method="forkserver", preload=("colorsys",)).map(there, [0])[0]]
pk.shutdown()
found += pk.Pool(2, start_method="forkserver", preload=("wave",)).map(there, [0])
found += pk.Pool(2, preload=("colorsys", "wave")).map(there, [0])
print(json.dumps(found))
"""
    ran = run_script(["-"], source)
    assert ran.values == [[[True, False], [False, True], [True, True]]]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_start_method_that_is_named_is_not_a_fork_of_the_caller(method):
    """What the caller has imported is not there."""
    source = f"""
import xml.dom.minidom
print(json.dumps([pk.Pool(1, start_method={method!r}).map(lambda x: 'xml.dom.minidom' in sys.modules, [1]), server()]))
"""
    assert run_script(["-"], HEAD + source).values == [[[False], []]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_python_does_not_warn_of_the_fork():
    """Since 3.12 Python warns of forks beside threads; that is looked at, and no news for users."""
    source = """
import faulthandler, warnings
warnings.simplefilter("error")
faulthandler.dump_traceback_later(600)
assert pk.Pool(2).map(abs, [-1]) == [1]
"""
    ran = run_script(["-"], HEAD + source)
    assert ran.err == ""


def test_what_was_forked_is_gone_when_it_was_not_safe():
    """No process is left of a copy that was dropped, and the caller has no child that it must wait for."""
    source = """
import faulthandler
faulthandler.dump_traceback_later(600)
pk.Pool(2).map(abs, [-1])
pk.shutdown()
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("none")
"""
    assert run_script(["-"], HEAD + source).out == "none\n"


UNFIT = {
    "an error": "import parallelkit.worker.snapshot as snapshot; snapshot._forget_script = None",
    "a thread": "os.register_at_fork(after_in_child=lambda: threading.Timer(600, print).start())",
    "an end": "os.register_at_fork(after_in_child=lambda: os._exit(0))",
}


@pytest.mark.parametrize("reason", UNFIT)
def test_a_copy_that_cannot_become_a_server_has_a_successor(reason):
    """It met an error while it let go of what is the caller's, or a library's handler of forks spoils it."""
    source = f"""
import threading
{UNFIT[reason]}
print(json.dumps([pk.Pool(20).map(abs, [-1, 2]), server()]))
"""
    ran = run_script(["-"], HEAD + source)
    [[found, told]] = ran.values
    assert found == [1, 2]
    assert told == [
        "forked from this process",
        "started anew: a copy of this process could not become one",
    ]


def test_a_library_of_databases_that_is_only_loaded():
    """It keeps nothing yet; pairs of sockets, and what a trace is written to, are nobody's database."""
    source = """
import asyncio, sqlite3
loop = asyncio.new_event_loop()
with pk.trace():
    assert pk.Pool(2).map(abs, [-1, 2]) == [1, 2]
loop.close()
"""
    forked(source)


FROM_THREADS = {
    "submit": "assert pk.Pool(2).submit(abs, -1).result() == 1",
    "amap": "assert pk.Pool(2).amap(abs, [-1, 2]).result() == [1, 2]",
    "executor": """
with pk.PoolExecutor(2) as executor:
    assert executor.submit(abs, -1).result() == 1
""",
    "map_blocks": """
import numpy as np
assert pk.map_blocks(np.abs, -np.arange(10)).sum() == 45
""",
}


@pytest.mark.parametrize("way", FROM_THREADS)
def test_calls_that_are_run_by_a_thread_are_prepared_before(way):
    """So their workers begin with what the script has, as those of other calls do."""
    forked(FROM_THREADS[way])


@pytest.mark.parametrize("there", ["new", "begun"])
def test_workers_of_a_sweep_start_before_its_store_is_open(there):
    """A store is a database, and has a thread: workers that begin with what the script has come first."""
    source = f"""
if {there == "begun"}:
    pk.Sweep(store="run.db", backend="serial").run(lambda x: x, pk.grid(x=[1]))
def double(x):
    return 2 * x
table = pk.Sweep(store="run.db", workers=2).run(double, pk.grid(x=[1, 2, 3]))
assert [row["value"] for row in table] == [2, 4, 6]
os.remove("run.db")
"""
    forked(source)


def test_a_sweep_that_is_finished_starts_no_workers():
    """Its rows come from the store."""
    source = """
for backend in "serial", "process":
    table = pk.Sweep(store="run.db", name="s", backend=backend).run(lambda x: x, pk.grid(x=[1, 2]))
    assert [row["value"] for row in table] == [1, 2]
assert server() == [], server()
os.remove("run.db")
"""
    run_script(["-"], HEAD + source)


# ---- nothing of the caller is used twice ----------------------------------------------------------

ONCE = """
import asyncio, atexit, contextvars, select, signal, socket, subprocess, tempfile, weakref
import multiprocessing, threading

log = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

def note(text):
    os.write(os.open("log", os.O_WRONLY | os.O_APPEND), f"{text}\\n".encode())

class Noisy:
    def __del__(self):
        note("deleted")
    def close(self):
        note("closed at exit")

sleeper = subprocess.Popen(
    [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
)
child = multiprocessing.get_context("fork").Process(target=sleeper.stdin.fileno)
child.start()
atexit.register(Noisy().close)
kept = Noisy()
weakref.finalize(kept, note, "finalized")
folder = tempfile.TemporaryDirectory()
open(os.path.join(folder.name, "inside"), "w").close()
unflushed = open("unflushed", "w")
unflushed.write("once\\n")
print("printed once", end="")
near, far = socket.socketpair()
poll = select.epoll()
poll.register(near, select.EPOLLIN)
signal.signal(signal.SIGUSR1, lambda *_: note("signal"))
signal.signal(signal.SIGTERM, lambda *_: note("terminated"))
handler = logging.FileHandler("records", delay=True)
logging.getLogger("mine").addHandler(handler)
logging.getLogger("mine").setLevel(logging.INFO)
number = contextvars.ContextVar("number", default=0)
number.set(5)

def look(x):
    # What belongs to the caller cannot be reached: all its descriptors lead to nothing.
    left = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if "unflushed" in path or path.endswith("/log"):
            left.append(path)
    logging.getLogger("mine").info("record %d", x)
    os.kill(os.getpid(), signal.SIGCONT)
    return (
        left, signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL,
        signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, len(multiprocessing.active_children()),
        threading.active_count() - WATCHES, sys.stdin.read(),
    )

# Where no signal tells of the caller's end, a thread of each worker waits for it.
from parallelkit.place import system
WATCHES = int(not system.PARENT_SIGNAL)

async def main():
    # Within a running loop, which a worker must not take for its own.
    found = pk.Pool(2, chunksize=1).map(look, range(4))
    assert found == [([], True, True, 0, 1, "")] * 4, found
    def loop(x):
        async def seven():
            return 7
        return asyncio.run(seven())
    assert pk.Pool(2).map(loop, [1, 2]) == [7, 7]

asyncio.run(main())
far.send(b"x")
assert poll.poll(5) and near.recv(1) == b"x"
pk.shutdown()
near.close()
assert far.recv(1) == b""        # nobody else holds the other end
sleeper.stdin.close()
sleeper.wait(30)                 # nor this one, by which it sees its end
child.join()
unflushed.close()
assert open("unflushed").read() == "once\\n"
assert open("log").read() == "", open("log").read()
assert sorted(open("records").read().split()) == sorted("record 0 record 1 record 2 record 3".split())
assert os.path.exists(os.path.join(folder.name, "inside"))
del kept
assert open("log").read().split() == ["deleted", "finalized"] or open("log").read().split() == ["finalized", "deleted"]
"""


def test_nothing_of_the_caller_is_used_twice(tmp_path):
    """Files, sockets, pipes, handlers of exits and signals, finalizers, buffers, records."""
    ran = forked(ONCE, cwd=tmp_path)
    assert ran.out == "printed once"
    assert ran.err == ""
    log = (tmp_path / "log").read_text().split("\n")
    assert log.count("closed at exit") == 1


SHARED_BEFORE = """
import numpy as np

table = pk.share(np.zeros(4))
pool = pk.Pool(2, backend="process", nested="process")
same = lambda x: x
back = pool.map(same, [table, table[1:3]])
print(json.dumps([pk.is_shared(each) for each in back]))

def fill(i, row):
    row[i] = i

def inner(k):
    pk.map(fill, range(4), row=table)
    return table

deeper = pool.map(inner, range(2))
print(json.dumps([each.tolist() for each in (table, *deeper)]))
"""


def test_what_was_shared_before_the_first_call(tmp_path):
    """It is the caller's memory in each worker, and travels on from there, into nested calls and back."""
    ran = forked(SHARED_BEFORE, cwd=tmp_path)
    assert ran.values == [[True, True], [[0.0, 1.0, 2.0, 3.0]] * 3]


def test_numbers_of_standard_output_that_are_those_of_something_else(tmp_path):
    """Where the program has closed them, what it has opened since is its own, as for programs that it starts."""
    source = """
kept = os.dup(1)
os.close(1)
assert os.open("log", os.O_CREAT | os.O_WRONLY) == 1
assert pk.Pool(1, backend="process").map(lambda x: [os.readlink("/proc/self/fd/1"), os.write(1, b"x")], [0]) == [["/dev/null", 1]]
os.dup2(kept, 1)
print(os.stat("log").st_size)
"""
    assert forked(source, cwd=tmp_path).values == [0]


OF_OTHERS = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

def negated(x):
    from joblib import Parallel, delayed
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        found = list(executor.map(abs, [-x]))
    return found + Parallel(n_jobs=2, backend="loky")(delayed(abs)(y) for y in [-x])

if __name__ == "__main__":
    assert negated(3) == [3, 3]
    from joblib.externals.loky import get_reusable_executor
    get_reusable_executor().shutdown()  # whose threads speak against a fork
    assert pk.Pool(2, backend="process").map(negated, [1]) == [[1, 1]]
    assert server() == FORKED, server()
"""


def test_processes_of_others_that_the_caller_has_used(script):
    """A fork server of multiprocessing's and joblib's own workers are the caller's; items start others."""
    assert script(HEAD + OF_OTHERS).err == ""


def test_what_multiprocessing_keeps_for_the_caller(tmp_path):
    """Managers and shared memory of the caller work in items, and stay the caller's."""
    source = """
import multiprocessing
from multiprocessing import shared_memory

manager = multiprocessing.get_context("fork").Manager()
noted = manager.dict()
shared = shared_memory.SharedMemory(create=True, size=8)

def item(x):
    noted[x] = os.getppid()
    there = shared_memory.SharedMemory(shared.name)
    there.buf[x] = x
    there.close()
    return len(multiprocessing.active_children())

assert pk.Pool(2, backend="process").map(item, [1, 2]) == [0, 0]
pk.shutdown()
assert sorted(noted) == [1, 2] and len(set(noted.values())) == 1
assert bytes(shared.buf[:3]) == bytes([0, 1, 2])
shared_memory.SharedMemory(shared.name).close()   # it is there still
assert len(multiprocessing.active_children()) == 1
shared.close()
shared.unlink()
manager.shutdown()
"""
    assert forked(source, cwd=tmp_path).err == ""


def test_a_loop_of_trio():
    """A call within a running loop of trio's; items run loops of their own."""
    pytest.importorskip("trio")
    source = """
import trio

async def seven():
    return 7

async def main():
    assert pk.Pool(1, backend="process").map(lambda x: trio.run(seven), [1]) == [7]

trio.run(main)
"""
    forked(source)


@pytest.mark.skipif(
    not system.MEMFD, reason="files in its place load a library, and all are looked at anew"
)
def test_numerical_libraries_are_looked_for_once():
    """The server looks for them, and workers know them from it."""
    pytest.importorskip("numpy")
    source = """
import numpy, threadpoolctl
threadpoolctl.looks = []

class Counted(threadpoolctl.ThreadpoolController):
    def __init__(self):
        threadpoolctl.looks.append(os.getpid())
        super().__init__()

threadpoolctl.ThreadpoolController = Counted
looked = pk.Pool(1, backend="process").map(lambda x: threadpoolctl.looks == [os.getppid()], [1])
assert looked == [True]
"""
    forked(source)


def test_workers_end_by_their_own_handlers(tmp_path):
    """What items register runs at the end of their worker; what the caller has registered does not."""
    source = """
import atexit

def note(text):
    with open("log", "a") as file:
        file.write(text)

atexit.register(note, "caller ")

def item(x):
    atexit.register(note, "worker ")

pk.Pool(1, backend="process").map(item, [1])
pk.shutdown()
"""
    forked(source, cwd=tmp_path)
    assert (tmp_path / "log").read_text() == "worker caller "


def test_a_bar_of_the_caller(tmp_path):
    """An open bar, and the thread that looks after bars, are the caller's; items have bars of their own."""
    source = """
import tqdm

def item(x):
    assert not tqdm.tqdm._instances and tqdm.tqdm.monitor is None
    return sum(tqdm.tqdm(range(3), disable=False, file=open(os.devnull, "w")))

with tqdm.tqdm(total=2, file=open(os.devnull, "w")) as bar:
    assert pk.Pool(2).map(item, [1, 2]) == [3, 3]
"""
    forked(source)


def test_plots_of_the_caller():
    """Figures that are open are the caller's."""
    pytest.importorskip("matplotlib")
    source = """
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
plt.figure()
assert pk.Pool(1, backend="process").map(lambda x: plt.get_fignums(), [1]) == [[]]
assert plt.get_fignums() == [1]
"""
    forked(source)


# ---- the same answers -----------------------------------------------------------------------------

SAME = """
import decimal, locale, random, warnings
import numpy as np

pk.configure(workers=2)
SCALE, TABLE = 2, {}

class Point:
    def __init__(self, x):
        self.x = x

def scaled(x):
    return SCALE * x, dict(TABLE), type(Point(x)).__module__

def around(x):
    return (os.getcwd() == "/", os.environ.get("ADDED"), sys.getrecursionlimit(),
            decimal.getcontext().prec, np.geterr()["divide"], warnings.filters[0][0],
            logging.getLogger("other").level, logging.getLogger("other").disabled, sys.argv)

SCALE = 3
TABLE["key"] = [1]
random.seed(1)
np.random.seed(1)
os.chdir("/")
os.environ["ADDED"] = "yes"
sys.setrecursionlimit(2345)
decimal.getcontext().prec = 5
np.seterr(divide="raise")
warnings.simplefilter("error", RuntimeWarning)
logging.getLogger("other").setLevel(17)
found = [pk.map(scaled, [1, 2]), pk.map(around, [1]), [around(1)]]
random.seed(1)
np.random.seed(1)
drawn = pk.map(lambda x: (random.random(), np.random.random()), range(4))
found.append(len({draw for pair in drawn for draw in pair}))
SCALE, TABLE["more"] = 4, 2
del os.environ["ADDED"]
logging.getLogger("other").setLevel(0)
found += [pk.map(scaled, [1]), pk.map(around, [1]), [around(1)]]
found.append(pk.Pool(2).submit(scaled, 1).result())
found.append(pk.nesting().level)
found.append(pk.map(lambda x: (pk.nesting().level, pk.map(abs, [-x])), [3]))
print(json.dumps(found))
"""


def test_the_same_answers_from_either_server():
    """What workers know comes with the calls, and not from what the copy happens to hold."""
    found = [
        run_script(["-"], HEAD + SAME, env={"PARALLELKIT_FORK_SERVER": kind}).values
        for kind in ("forked", "new")
    ]
    assert found[0] == found[1]
    plain = found[0][0]
    assert plain[1] == plain[2]
    assert plain[3] == 8


def test_configuration_of_the_caller_is_told_with_each_call():
    """A plain `configure` before the fork that is taken back later does not live on in workers."""
    source = """
from parallelkit.options import configured
block = pk.configure(retries=3)
below = lambda x: configured().get("retries")
assert pk.Pool(1, backend="process").map(below, [1]) == [3]
with block:
    pass
assert pk.Pool(1, backend="process").map(below, [1]) == [None]
"""
    forked(source)


@pytest.mark.parametrize("kind", ["forked", "new"])
def test_killed_servers_and_callers(kind):
    """A server that is killed has a successor; workers end with a caller that is killed."""
    source = """
import select, signal
pool = pk.Pool(2, tasks_per_worker=1, chunksize=1, retries=5)
seen = pool.map(lambda x: os.getppid(), range(4))
end = os.pidfd_open(seen[0])
os.kill(seen[0], signal.SIGKILL)
select.select([end], [], [])
again = pool.map(lambda x: os.getppid(), range(4))
assert seen[0] not in again
os.kill(os.getpid(), signal.SIGKILL)
"""
    run_script(["-"], HEAD + source, code=-9, env={"PARALLELKIT_FORK_SERVER": kind}, files=False)


def test_later_workers_know_what_the_caller_knew_then():
    """Workers started later come from the same copy, whatever threads the caller has by then."""
    source = """
import threading
first = pk.Pool(2).map(lambda x: os.getppid(), [1])
threading.Thread(target=threading.Event().wait, daemon=True).start()
assert pk.Pool(3).map(lambda x: os.getppid(), [1]) == first
"""
    forked(source)


RENEWED = """
large = bytearray(600 << 20) if MUCH == "memory" else None
if large:
    large[::4096] = bytes(600 << 8)

def where(x):
    return os.getppid(), "xmlrpc.client" in sys.modules

old = pk.Pool(2)
first, _ = old.map(where, [1])[0]
if MUCH == "modules":
    before = len(sys.modules)
    import asyncio, concurrent.futures.process, email.mime.text, unittest.mock, xml.dom.minidom, xmlrpc.server
    import multiprocessing.managers, multiprocessing.pool, wsgiref.simple_server
    assert len(sys.modules) > before + 100
elif MUCH == "memory":
    del large
if THREAD:
    import threading
    threading.Thread(target=threading.Event().wait, daemon=True).start()
if MUCH == "time":  # for pathos to be imported
    import time
    from parallelkit.backends.processes import workers
    workers.IDLE = 0.1
    old.map(time.sleep, [0.5])
    assert "pathos" in sys.modules
second, there = pk.Pool(3).map(where, [1])[0]
print(json.dumps([second != first, there, old.map(where, [1])[0][0] == first]))
assert pk.Pool(4).map(where, [1])[0][0] == second
pk.shutdown()
for pid in {first, second}:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        pass
    else:
        raise AssertionError("a server lives on")
"""


@pytest.mark.parametrize(
    ("much", "thread", "told"),
    [
        ("modules", False, [True, True, True]),
        (
            "modules",
            True,
            [False, False, True],
        ),  # another copy cannot be made, and the old one serves
        ("memory", False, [True, False, True]),
        ("memory", True, [True, False, True]),
        ("nothing", False, [False, False, True]),
        ("time", False, [False, False, True]),
    ],
)
def test_a_copy_of_what_the_caller_was_is_replaced(much, thread, told):
    """After much was imported or let go of, workers come from another server; older ones live on."""
    source = RENEWED.replace("MUCH", repr(much)).replace("THREAD", str(thread))
    assert run_script(["-"], HEAD + source).values == [told]


def test_a_server_that_is_replaced_ends_with_workers_that_are_lost():
    """A worker whose descriptor somebody has closed is counted off like any other."""
    source = """
from parallelkit.backends.processes import forked, forkserver

server = forkserver._servers["forkserver"]
worker = forked.Forked("forkserver")
server.retire()
assert server.runs
worker.lose()
assert not server.runs
"""
    run_script(["-"], HEAD + source)


def test_info_tells_which_one(command):
    """`python -m parallelkit info` says what a call would get here, and why."""
    lines = command(["-m", "parallelkit", "info"]).out.splitlines()
    [line] = [line for line in lines if line.startswith("fork server")]
    assert line.split(maxsplit=2)[2] == "forked from the caller, which would be safe here"
    lines = command(["-m", "parallelkit", "info"], env={"PARALLELKIT_FORK_SERVER": "new"}).out
    assert "started anew: PARALLELKIT_FORK_SERVER says so" in lines
