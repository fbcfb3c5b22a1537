"""What the caller has set for its process holds in items, and what items set does not outlast their call."""

import contextlib
import decimal
import functools
import gc
import importlib
import io
import locale
import logging
import multiprocessing
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import warnings
from multiprocessing import shared_memory

import numpy as np
import psutil
import pytest
from backends import START_METHODS
from helpers import increment, wait_until
from running import run_script

import parallelkit as pk
from parallelkit import options
from parallelkit.backends import processes
from parallelkit.integrations import multiprocessing as drop_in
from parallelkit.place import system

# ---- settings of the caller ----------------------------------------------------------------------


@contextlib.contextmanager
def in_tokyo():
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    try:
        yield
    finally:
        del os.environ["TZ"]
        if before is not None:
            os.environ["TZ"] = before
        time.tzset()


@contextlib.contextmanager
def setting(setter, value, before):
    setter(value)
    try:
        yield
    finally:
        setter(before)


@contextlib.contextmanager
def c_locale():
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield locale.setlocale(locale.LC_ALL, "C")
    finally:
        locale.setlocale(locale.LC_ALL, before)


def divided(x):
    try:
        return str(np.float64(x) / np.float64(0))
    except FloatingPointError:
        return "raised"


# A context variable from numpy 2 on.
ERRSTATE = {"errstate": (lambda: np.errstate(all="raise"), divided)}
# Windows' Python has no `time.tzset`.
ZONE = {"zone": (in_tokyo, lambda x: time.strftime("%H %Z", time.localtime(x)))}
SETTINGS = {
    "decimal": (lambda: decimal.localcontext(prec=50), lambda x: str(decimal.Decimal(x) / 3)),
    **({} if np.__version__ < "2" else ERRSTATE),
    **({} if system.WINDOWS else ZONE),
    "recursion": (
        lambda: setting(sys.setrecursionlimit, 12345, sys.getrecursionlimit()),
        lambda _: sys.getrecursionlimit(),
    ),
    "digits": (
        lambda: setting(sys.set_int_max_str_digits, 0, sys.get_int_max_str_digits()),
        lambda x: len(str(x + 10**5000)),
    ),
    "locale": (c_locale, lambda _: locale.setlocale(locale.LC_ALL)),
    "umask": (lambda: setting(os.umask, 0o77, 0o22), lambda _: os.umask(0o77)),
    "socket timeout": (
        lambda: setting(socket.setdefaulttimeout, 7, None),
        lambda _: socket.getdefaulttimeout(),
    ),
    "switch interval": (
        lambda: setting(sys.setswitchinterval, 0.25, sys.getswitchinterval()),
        lambda _: sys.getswitchinterval(),
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_settings_of_the_caller(pool, name):
    """They hold in workers that are warm, as long as they do in the caller."""
    enter, ask = SETTINGS[name]
    own = pool()
    own.map(increment, range(4))
    with enter():
        expected = ask(1)
        assert own.map(ask, [1, 1]) == [expected, expected]
    if name not in ("digits", "umask"):
        expected = ask(1)
        assert own.map(ask, [1, 1]) == [expected, expected]


# ---- what items leave behind ----------------------------------------------------------------------


def look(_):
    return (
        os.getcwd(),
        os.environ.get("LEFT"),
        list(sys.path),
        logging.getLogger("tests.settings").level,
        [f[0] for f in warnings.filters if f[2] is ResourceWarning],
        decimal.getcontext().prec,
        os.umask(0o22),
        (sys.getrecursionlimit(), sys.getswitchinterval(), socket.getdefaulttimeout()),
    )


SIGNALS = () if sys.platform == "win32" else (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


def look_at_hooks(_):
    return (
        *(type(sys.stdout).__name__, type(sys.stderr).__name__, sys.stdout.closed),
        *(sys.excepthook is print, threading.excepthook is print, warnings.showwarning is print),
        *(signal.getsignal(number) is signal.SIG_IGN for number in SIGNALS),
        *(gc.isenabled(), signal.getitimer(signal.ITIMER_REAL)[0]),
    )


def leave(_, folder):
    os.chdir(folder)
    os.environ["LEFT"] = "x"
    sys.path.insert(0, folder)
    logging.getLogger("tests.settings").setLevel(3)
    warnings.simplefilter("ignore", ResourceWarning)
    decimal.getcontext().prec = 3
    os.umask(0o77)
    random.seed(0)
    np.random.seed(0)
    sys.setrecursionlimit(2345)
    sys.setswitchinterval(0.5)
    socket.setdefaulttimeout(3)


def leave_hooks(close):
    if close:
        sys.stdout.close()
    sys.stdout = sys.stderr = io.StringIO()
    sys.excepthook = threading.excepthook = warnings.showwarning = print
    gc.disable()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.alarm(60)


def draw(_):
    return random.random(), np.random.random()


def test_what_items_set_is_gone_with_the_next_call(process_pool, tmp_path):
    """Each call finds the caller's folder, environment and so on, and draws that differ."""
    own = process_pool(chunksize=1)
    os.umask(0o22)
    expected = look(0)
    own.map(leave, range(4), folder=str(tmp_path))
    assert own.map(look, range(4)) == [expected] * 4
    own.map(leave, range(4), folder=str(tmp_path))
    draws = own.map(draw, range(4))
    assert len({d[0] for d in draws}) == len({d[1] for d in draws}) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("close", [False, True])
def test_hooks_that_items_leave(process_pool, close):
    """Streams, hooks, signal handlers and a pending alarm of an item are gone with the next call."""
    own = process_pool(workers=1)
    expected = own.map(look_at_hooks, [0])
    own.map(leave_hooks, [close])
    assert own.map(look_at_hooks, [0]) == expected
    own = process_pool(workers=1, initializer=leave_hooks, initargs=(False,))
    its_own = own.map(look_at_hooks, [0])[0]
    assert its_own[0] == "StringIO"
    assert its_own[3:10] == (True, True, True, True, True, True, False)


def test_an_item_after_another(process_pool, tmp_path):
    """What an item sets is gone for the next one in the same worker too."""

    def visit(x, folder):
        before = os.getcwd()
        os.chdir(folder)
        time.sleep(0.002)
        return before

    seen = process_pool(workers=1, chunksize=4).map(visit, range(4), folder=str(tmp_path))
    assert seen == [os.getcwd()] * 4


def test_what_the_initializer_sets_stays(process_pool, tmp_path, monkeypatch):
    """It is the worker's own until the caller changes the same thing."""

    def begin(folder):
        os.chdir(folder)
        os.environ["OWN"] = os.environ["LEFT"] = "initializer"
        np.seterr(all="raise")

    def ask(_):
        return os.getcwd(), os.environ.get("OWN"), os.environ.get("LEFT"), divided(1.0)

    own = process_pool(initializer=begin, initargs=(str(tmp_path),))
    for _ in range(2):
        assert own.map(ask, [0]) == [(str(tmp_path), "initializer", "initializer", "raised")]
    monkeypatch.setenv("LEFT", "caller")
    assert own.map(ask, [0]) == [(str(tmp_path), "initializer", "caller", "raised")]


# ---- filters and records ---------------------------------------------------------------------------


class OwnWarning(UserWarning):
    def __init__(self, text, code):
        super().__init__(text)
        self.code = code


def warn(_):
    warnings.warn(OwnWarning("own", 7), stacklevel=1)


def test_error_for_a_category_raises_in_the_item(pool):
    """Also for one of a module that workers have not loaded when the filter comes to them."""

    def late(_):
        from wsgiref.validate import WSGIWarning

        warnings.warn("late", WSGIWarning, stacklevel=1)

    for function, category in (
        (warn, OwnWarning),
        (late, importlib.import_module("wsgiref.validate").WSGIWarning),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error", category)
            with pytest.raises(category):
                pool().map(function, [1])


def warn_the_caller(_):
    warnings.warn("of who calls", DeprecationWarning, stacklevel=2)


def warn_the_caller_of_two(_, __):
    warnings.warn("of who calls", DeprecationWarning, stacklevel=2)


class WarnsTheCaller:
    def __call__(self, _):
        warnings.warn("of who calls", DeprecationWarning, stacklevel=2)

    def method(self, _):
        warnings.warn("of who calls", DeprecationWarning, stacklevel=2)


@functools.wraps(warn_the_caller)
def wrapped(_):
    warnings.warn("of who calls", DeprecationWarning, stacklevel=2)


@pytest.mark.parametrize(
    ("function", "inputs", "at"),
    [
        (warn_the_caller, 1, warn_the_caller),
        (warn_the_caller_of_two, 2, warn_the_caller_of_two),
        (functools.partial(warn_the_caller_of_two, 1), 1, warn_the_caller_of_two),
        (WarnsTheCaller(), 1, WarnsTheCaller.__call__),
        (WarnsTheCaller().method, 1, WarnsTheCaller.method),
        (wrapped, 1, warn_the_caller),
    ],
    ids=["function", "two inputs", "partial", "object", "method", "decorated"],
)
def test_a_warning_of_who_calls(pool, function, inputs, at):
    """By ``stacklevel=2`` a function warns of the line that calls it: that is its own, of its module, and once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", "of who", DeprecationWarning, re.escape(__name__))
        pool().map(function, *[range(4)] * inputs)
    told = [(one.filename, one.lineno, str(one.message)) for one in caught]
    assert told == [(__file__, at.__code__.co_firstlineno, "of who calls")]


def warn_the_caller_of_a_draw(_, rng):
    warnings.warn(
        f"of who calls {rng.bit_generator.__class__.__name__}", DeprecationWarning, stacklevel=2
    )


def traced(own):
    with pk.trace():
        own.map(warn_the_caller, [1, 2])


WAYS = {
    "starmap": ({}, lambda own: own.starmap(warn_the_caller, [(1,), (2,)])),
    "run": (
        {},
        lambda own: own.run([pk.delayed(warn_the_caller)(1), pk.delayed(warn_the_caller)(2)]),
    ),
    "submit": ({}, lambda own: own.submit(warn_the_caller, 1).result()),
    "seed": ({"seed": 1}, lambda own: own.map(warn_the_caller, [1, 2])),
    "seed and rng": ({"seed": 1}, lambda own: own.map(warn_the_caller_of_a_draw, [1, 2])),
    "seed and starmap": ({"seed": 1}, lambda own: own.starmap(warn_the_caller, [(1,), (2,)])),
    "time limit": ({"timeout": 60}, lambda own: own.map(warn_the_caller, [1, 2])),
    "trace": ({}, traced),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_warning_of_who_calls_in_other_ways(pool, way):
    """What unpacks a row, gives a random stream, measures or limits an item does not stand between."""
    options, call = WAYS[way]
    if "timeout" in options and pool.backend not in ("process", "thread"):
        pytest.skip(
            "there is no time limit for what runs in place, or in workers of another engine"
        )
    at = warn_the_caller_of_a_draw if way == "seed and rng" else warn_the_caller
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(pool(**options))
    told = {(one.filename, one.lineno) for one in caught if "of who calls" in str(one.message)}
    assert told == {(__file__, at.__code__.co_firstlineno)}


def test_default_shows_once_in_each_catch_warnings(pool):
    """Whatever workers have shown before; a warning arrives with what it carries."""
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            pool(chunksize=1).map(warn, range(4))
        assert [(type(w.message), str(w.message), w.message.code) for w in caught] == [
            (OwnWarning, "own", 7)
        ]


class Talkative(logging.Logger):
    def trace(self, text):
        self.log(5, text)


def test_records_have_the_fields_names_and_classes_of_the_caller(pool, caplog):
    """Extra fields that travel, names of levels, loggers of a class of the script."""

    def speak(x):
        log = logging.getLogger("tests.talkative")
        assert type(log) is Talkative
        log.warning("item %s", x, extra={"context": {"run": [x]}})
        log.trace("fine")

    before = logging.getLoggerClass()
    logging.setLoggerClass(Talkative)
    logging.addLevelName(5, "TRACE")
    try:
        logging.getLogger("tests.talkative")
        with caplog.at_level(1):
            pool().map(speak, [1])
    finally:
        logging.setLoggerClass(before)
        logging.addLevelName(5, "Level 5")
    records = [r for r in caplog.records if r.name == "tests.talkative"]
    assert [(r.levelname, r.getMessage()) for r in records] == [
        ("WARNING", "item 1"),
        ("TRACE", "fine"),
    ]
    assert records[0].context == {"run": [1]}
    assert records[0].args == (1,)


def nested(x):
    logging.getLogger("tests.nested").debug("item")
    return pk.map(abs, [x, x])


@pytest.mark.parametrize("asked", [False, True])
def test_what_is_noted_of_calls_in_items(pool, caplog, asked):
    """Who has all loggers tell hears nothing of each call of an item; who asks this one for it does."""
    with caplog.at_level("DEBUG"), caplog.at_level("DEBUG" if asked else 0, "parallelkit"):
        pool().map(nested, [1, 2])
    told = [r.name for r in caplog.records if getattr(r, "item", None) is not None]
    if pool.pickles:
        assert set(told) == {"tests.nested", *(["parallelkit"] if asked else [])}
    else:
        inner = [r for r in caplog.records if "below level 0" in r.getMessage()]
        assert bool(inner) is asked


OF_AN_EXECUTOR = """
import logging, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import parallelkit as pk

def kinds(_):
    loud.Loud
    return [type(logging.getLogger(name)).__name__ for name in ("old", "new")]

if __name__ == "__main__":
    import loud
    logging.setLoggerClass(loud.Loud)
    logging.getLogger("old")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        print(pk.Pool(1, backend=executor).map(kinds, [0]))
"""


def test_loggers_in_an_executor_are_of_a_class_that_comes_with_the_function(tmp_path):
    """Its module is imported by what is learnt, after the loggers were set up."""
    (tmp_path / "loud.py").write_text("import logging\nclass Loud(logging.Logger): pass\n")
    (tmp_path / "main.py").write_text(OF_AN_EXECUTOR)
    ran = run_script(["-B", tmp_path / "main.py"])
    assert ran.out == "[['Loud', 'Loud']]\n"


# ---- what is the caller's ------------------------------------------------------------------------


def attach(_, name):
    block = shared_memory.SharedMemory(name=name)
    value = block.buf[0]
    block.close()
    return value


def test_shared_memory_outlives_workers(process_pool):
    """A `SharedMemory` of the caller that items have attached is there after their workers have ended."""
    block = shared_memory.SharedMemory(create=True, size=10)
    block.buf[0] = 7
    own = process_pool(tasks_per_worker=1, chunksize=1)
    assert own.map(attach, range(4), name=block.name) == [7] * 4
    pk.shutdown()
    assert attach(0, block.name) == 7
    block.close()
    block.unlink()


@pytest.mark.skipif(not system.LINUX, reason="children are found by /proc")
def test_nothing_is_left_of_a_killed_caller(tmp_path):
    """What items have started ends when their caller is killed."""
    script = tmp_path / "script.py"
    script.write_text(
        "import subprocess, sys\nimport parallelkit as pk\n"
        "def start(x):\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "    print(child.pid, flush=True)\n"
        "    child.wait()\n"
        "pk.Pool(2).map(start, [1])\n"
    )
    caller = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(caller.stdout.readline()))
    caller.kill()
    caller.communicate()
    wait_until(lambda: _is_gone(child), "the end of what the item has started")


def _is_gone(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


NO_ZOMBIES = """
import ctypes, json, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)  # orphans come to this process
ended = subprocess.run([sys.executable, "-c", "import parallelkit as pk; pk.Pool(2, start_method='METHOD').map(abs, [1, 2])"])
left = []
try:
    while True:
        left.append(os.waitpid(-1, 0))
except ChildProcessError:
    print(json.dumps([ended.returncode, left]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a subreaper is Linux's")
@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_no_zombies_at_the_end_of_a_script(method):
    """Whoever has started a process waits for it: none is left for init to reap."""
    assert run_script(["-"], NO_ZOMBIES.replace("METHOD", method)).values == [[0, []]]


@pytest.mark.parametrize(
    ("module", "asked"),
    [("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched")],
)
def test_processes_under_monkey_patches(monkeypatch, module, asked):
    """gevent and eventlet replace what processes are waited for with: an error says what to use."""
    patches = types.SimpleNamespace(**{asked: lambda _: True})
    monkeypatch.setitem(sys.modules, module, patches)
    with pytest.raises(pk.ParallelError, match="use backend='thread'"):
        processes.prepare(options.Options(), None)


def keep(*given):
    global counted
    counted = given


def count(x):
    lock, total, queue, event = counted
    with lock:
        total.value += 1
    queue.put(x)
    return event.is_set()


def shared_by(context):
    return (
        *(context.Lock(), context.Value("i", 0, lock=False)),
        *(context.SimpleQueue(), context.Event()),
    )


def came_of(given, calls):
    """What workers have counted, and put into the queue."""
    _, total, queue, _ = given
    assert sorted(queue.get() for _ in range(20 * calls)) == sorted([*range(20)] * calls)
    return total.value


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("make", [pk.Pool, pk.PoolExecutor, drop_in.Pool])
def test_what_multiprocessing_shares(make):
    """Locks, values, queues and events given by `initargs` are the caller's own in workers."""
    given = shared_by(multiprocessing)
    with make(2, initializer=keep, initargs=given) as own:
        assert list(own.map(count, range(20))) == [False] * 20
        given[3].set()
        assert list(own.map(count, range(20))) == [True] * 20
    assert came_of(given, 2) == 40


def count_by(x, **shared):
    keep(*shared.values())
    return count(x)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("made_for", ["spawn"] if system.WINDOWS else ["fork", "spawn"])
@pytest.mark.parametrize("method", [None, *START_METHODS])
def test_what_contexts_of_multiprocessing_share(method, made_for):
    """What the fork context makes is in workers that may be forked, the others' in all; at once, in warm ones too."""
    context = multiprocessing.get_context(made_for)
    own = pk.Pool(2, start_method=method)
    own.map(increment, range(4))
    given = shared_by(context)
    names = dict(zip(("lock", "total", "queue", "event"), given, strict=True))
    if made_for == "fork" and method in ("forkserver", "spawn"):
        with pytest.raises(pk.TransportError, match=r"without start_method="):
            own.map(count_by, range(20), **names)
        with pytest.raises(pk.TransportError, match=r"without start_method="):
            pk.Pool(2, start_method=method, initializer=keep, initargs=given).map(count, range(20))
        with pytest.raises(pk.TransportError, match=r"without start_method="):
            own.submit(count_by, 0, **names).result()
        assert own.submit(increment, 1).result() == 2  # that was an error of the item alone
        return
    assert own.map(count_by, range(20), **names) == [False] * 20
    assert own.map(functools.partial(count_by, **names), range(20)) == [False] * 20
    given[3].set()
    other = pk.Pool(2, start_method=method, initializer=functools.partial(keep, *given))
    assert other.map(count, range(20)) == [True] * 20
    submitted = [own.submit(count_by, x, **names) for x in range(20)]
    assert [future.result() for future in submitted] == [True] * 20
    assert came_of(given, 4) == 80


def signal_and_wait(begun, event):
    begun.set()
    return event.wait(60)


def set_with(lock, event):
    with lock:
        event.set()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("ended", [False, True])
def test_what_runs_when_others_are_forked_for_what_is_submitted(ended):
    """It goes on beside them, may wait for what is submitted after it, and ends with its pool."""
    context = multiprocessing.get_context("spawn")
    begun, event = context.Event(), context.Event()
    own = pk.Pool(2)
    told = threading.Event()
    first = own.submit(signal_and_wait, begun, event)
    first.add_done_callback(lambda _: told.set())
    assert begun.wait(60)
    lock = multiprocessing.get_context("fork").Lock()
    if ended:
        assert own.submit(lambda _: 1, lock).result() == 1
        own.terminate()
        with pytest.raises(pk.ParallelError, match="terminated"):
            first.result()
    else:
        assert own.submit(set_with, lock, event).result() is None
        assert first.result() is True
        own.close()
    assert told.wait(60)


def test_what_multiprocessing_shares_as_an_item(process_pool):
    """A pipe and what has a name may be items; a lock of the fork context may not, and a line says so."""
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    lock = context.Lock()
    assert lock.acquire(timeout=60)
    assert process_pool().map(lambda lock: lock.acquire(block=False), [lock]) == [False]
    process_pool().map(lambda pipe: pipe.send("there"), [writer])
    assert reader.recv() == "there"
    unnamed = context if system.WINDOWS else multiprocessing.get_context("fork")
    for name in () if system.WINDOWS else ("Lock", "Event", "Queue", "SimpleQueue", "Condition"):
        with pytest.raises(pk.TransportError, match=r"initargs=\).*Manager") as caught:
            process_pool().map(repr, [getattr(unnamed, name)()])
        assert "\n" not in str(caught.value)
        assert "._" not in str(caught.value)  # nothing of its insides
    assert process_pool().submit(lambda lock: lock.acquire(block=False), lock).result() is False


GLOBAL_LOCK = """
import multiprocessing
import parallelkit as pk
lock, total = multiprocessing.Lock(), multiprocessing.Value("i", 0)
def take(given):
    global lock
    lock = given
def count(x):
    with lock:
        total.value += 1
for pool in (pk.Pool(2, initializer=take, initargs=(lock,)), pk.Pool(2)):
    for _ in range(2):
        pool.map(count, range(10))
    print(total.value)
"""


def test_a_lock_that_is_a_global_of_the_script():
    """It is the same one in workers, as with multiprocessing.Pool, also where the initializer binds that name."""
    assert run_script(["-"], GLOBAL_LOCK).values == [20, 40]


REBOUND = """
import json
import parallelkit as pk
SEEN, ONE = [], [1]
OTHER = ONE
def seen(i): SEEN.append(i)
def lengths(i): return len(SEEN)
def same(i): return ONE is OTHER
with pk.Pool(2, start_method=METHOD, chunksize=1) as pool:
    pool.map(seen, range(8))
    kept = sum(set(pool.map(lengths, range(8)))) > 0
    SEEN = []
    found = [kept, pool.map(lengths, range(4)), pool.map(same, [0])]
    OTHER = [1]
    print(json.dumps([*found, pool.map(same, [0])]))
"""


@pytest.mark.parametrize("method", START_METHODS)
def test_a_global_that_is_bound_anew_to_what_is_equal(method):
    """It takes the place of what a worker has filled, and is no longer what another name stands for."""
    source = REBOUND.replace("METHOD", repr(method))
    assert run_script(["-"], source).values == [[True, [0] * 4, [True], [False]]]
