"""Ctrl-C, SIGTERM and kill -9: the caller is told at once, and no worker, no file and no noise is left."""

import importlib.util
import os
import signal
import threading
import time

import faults
import numpy as np
import pytest
from faults import wait_for_files
from helpers import mark, meet, wait_until
from programs import ITEMS, Program

import parallelkit as pk

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and terminals")

CAUGHT = """
pool = pk.Pool(workers=2, METHOD)
try:
    CALL
except KeyboardInterrupt:
    print("interrupted", flush=True)
print(pool.map(abs, [-1, -2]), list(pool.imap(abs, [-3])), pool.submit(abs, -4).result())
"""
ANSWERS = "[1, 2] [3] 4\n"
AFTER = "interrupted\n" + ANSWERS


@pytest.fixture
def program(tmp_path):
    """Start a program whose items never end."""
    started = []

    def start(source, start_method="forkserver", call="pool.map(wait, range(4))", terminal=False):
        source = source.replace("METHOD", f"start_method={start_method!r}").replace("CALL", call)
        started.append(Program(tmp_path, ITEMS + source, terminal))
        return started[-1]

    yield start
    for one in started:
        one.close()


# ---- Ctrl-C --------------------------------------------------------------------------------------


def test_ctrl_c_while_pathos_takes_over_the_workers(monkeypatch):
    """It waits until that is done, and leaves no pool that is half made."""
    from parallelkit.backends.processes import forkserver, hosting, pathos_host

    class Interrupted(pathos_host.Host):
        def __init__(self, *args):
            os.kill(os.getpid(), signal.SIGINT)
            super().__init__(*args)

    monkeypatch.setattr(pathos_host, "Host", Interrupted)
    host = hosting.EarlyHost(1, "forkserver", lambda process, end: end.close(), pytest.fail)
    with pytest.raises(KeyboardInterrupt):
        host.hand_over()
    assert not host.is_early
    host.replace_no_more()
    host.close()
    forkserver.shutdown()


@pytest.mark.parametrize("item", ["wait", "sleep", "spin", "lock", "defy"])
def test_ctrl_c(program, start_method, item):
    """KeyboardInterrupt reaches the caller whatever the items do, workers say nothing, and the pool works again."""
    run = program(CAUGHT, start_method, f"pool.map({item}, range(4))")
    run.wait_for(2)
    run.ctrl_c()
    assert run.end() == (AFTER, "")


@pytest.mark.parametrize(
    "call",
    [
        "list(pool.imap(wait, range(4)))",
        "list(pk.Pool(2, chunksize=1).uimap(wait, iter(range(4))))",
        "pool.amap(wait, range(4)).result()",
        "pool.starmap(wait, [(0,), (1,), (2,)])",
        "[wait(x) or x for x in pk.Pool(2, 'serial').imap(abs, [1, 2]) if held(x, 'held-too') is None]",
    ],
)
def test_ctrl_c_in_other_calls(program, call):
    """The same for iterators, futures, and between the items of an iterator."""
    run = program(CAUGHT, call=call)
    run.wait_for(2)
    run.ctrl_c()
    if "amap" in call:
        # The call goes on behind the future, which is only not waited for any more: with other workers the
        # next calls are right, and the end of the program ends it.
        assert run.process.stdout.readline() == "interrupted\n"
        run.process.kill()
        return
    assert run.end() == (AFTER, "")


@pytest.mark.parametrize("item", ["wait", "defy"])
def test_ctrl_c_on_a_terminal(program, start_method, item):
    """The key itself: the terminal interrupts parent, workers and fork server at once."""
    run = program(CAUGHT, start_method, f"pool.map({item}, range(4))", terminal=True)
    run.wait_for(2)
    run.ctrl_c()
    assert run.end() == (AFTER, "")


def test_ctrl_c_while_nothing_runs(program, start_method):
    """Warm workers that have nothing to do neither say a word nor end."""
    source = """
pool = pk.Pool(workers=2, METHOD)
def here(_):
    return os.getpid()
before = set(pool.map(here, range(50)))
try:
    held(0)
    threading.Event().wait(600)
except KeyboardInterrupt:
    print("interrupted", flush=True)
print(set(pool.map(here, range(50))) <= before | set(pool.map(here, range(50))), bool(before))
"""
    run = program(source, start_method)
    run.wait_for(1)
    run.ctrl_c()
    assert run.end() == ("interrupted\nTrue True\n", "")


def test_ctrl_c_that_nobody_catches(program, start_method):
    """The program ends as Python does, with its own traceback and no other."""
    run = program("pk.Pool(workers=2, METHOD).map(wait, range(4))\n", start_method)
    run.wait_for(2)
    run.ctrl_c()
    out, err = run.end(-signal.SIGINT)
    assert out == ""
    assert err.count("Traceback (most recent call last)") == 1
    assert err.endswith("KeyboardInterrupt\n")


INTERRUPTED_IMPORTS = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {"process": "parallelkit.transport.mirror", "thread": "dill.__info__"}[sys.argv[1]]:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
import parallelkit as pk
pool = pk.Pool(2, backend=sys.argv[1])
try:
    pool.map(lambda x: -x, [-1, -2])
except KeyboardInterrupt:
    print("interrupted")
print(pool.map(abs, [-1, -2]))
"""


@pytest.mark.parametrize("backend", ["process", "thread"])
def test_ctrl_c_during_imports(script, backend):
    """Struck while the first call imports what it needs, the caller is told, and the next call finds all of it."""
    ran = script(INTERRUPTED_IMPORTS, backend)
    assert (ran.out, ran.err) == ("interrupted\n[1, 2]\n", "")


def test_ctrl_c_inside_with(program, start_method):
    """A pool that is used as a context manager is ended by the interrupt, and does not wait for its items."""
    source = """
try:
    with pk.Pool(workers=2, METHOD) as pool:
        tasks = [pool.submit(wait, x) for x in range(4)]
        tasks[0].result()
except KeyboardInterrupt:
    print("interrupted", [type(task.exception(60)).__name__ for task in tasks], flush=True)
print(pk.Pool(workers=2, METHOD).map(abs, [-1]))
"""
    run = program(source, start_method)
    run.wait_for(2)
    run.ctrl_c()
    assert run.end() == (f"interrupted {['ParallelError'] * 4}\n[1]\n", "")


def test_ctrl_c_again_and_again(program, start_method):
    """One pool survives many interrupts."""
    source = """
pool = pk.Pool(workers=2, METHOD)
for k in range(5):
    try:
        pool.map(wait, [f"{k}{x}" for x in range(4)])
    except KeyboardInterrupt:
        print(pool.map(abs, [-1, -2]), flush=True)
"""
    run = program(source, start_method)
    for k in range(5):
        run.wait_for(2, f"held-{k}*")
        run.ctrl_c()
        assert run.process.stdout.readline() == "[1, 2]\n"
    assert run.end() == ("", "")


TWICE = """
pool = pk.Pool(workers=2, METHOD)
count = 0
def interrupt(*_):
    global count
    count += 1
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, interrupt)
try:
    try:
        pool.map(defy, range(4))
    finally:
        held(0, "cleaned")
        while count < 2:
            threading.Event().wait(600)
except KeyboardInterrupt:
    print("interrupted", flush=True)
print(pool.map(abs, [-1, -2]), list(pool.imap(abs, [-3])), pool.submit(abs, -4).result())
"""


def test_a_second_ctrl_c_during_clean_up(program, start_method):
    """An impatient second interrupt, while workers are given their moment to leave, does no harm."""
    run = program(TWICE, start_method)
    run.wait_for(2)
    run.ctrl_c()
    run.wait_for(
        1, "[dc]*-*"
    )  # the first one has come to an item, which defies it: clean-up is under way
    run.ctrl_c()
    assert run.end() == (AFTER, "")


# ---- what Ctrl-C must not cut in two -----------------------------------------------------------


HANDLERS = {
    "Ctrl-C": """
Struck = KeyboardInterrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
""",
    "an alarm": """
class Struck(Exception):
    pass
def strike(*_):
    raise Struck
signal.signal(signal.SIGALRM, strike)
""",
}
STRUCK = """
import signal, threading
import parallelkit as pk
pool, got, over = pk.Pool(2, start_method=METHOD), [], threading.Event()
assert pool.map(abs, [-4, -5]) == [4, 5]
def others():
    while not over.is_set():
        got.append(pool.map(abs, [-1, -2, -3]))
thread = threading.Thread(target=others)
thread.start()
HANDLERS
struck = 0
for microseconds in range(200, 10_200, 500):
    try:
        # Again and again: Python ignores what is raised in the callback of a weak reference.
        signal.setitimer(signal.ITIMER_REAL, microseconds / 1e6, 0.2)
        while True:  # this thread drives, as often as not
            pool.map(abs, [-4, -5])
    except Struck:
        signal.setitimer(signal.ITIMER_REAL, 0)
        struck += 1
over.set()
thread.join(60)
print(struck, thread.is_alive(), bool(got), all(each == [1, 2, 3] for each in got), pool.map(abs, [-4, -5]))
"""


@pytest.mark.parametrize("kind", HANDLERS)
def test_an_interrupt_while_replies_are_read_for_another_thread(script, start_method, kind):
    """Who drives may be struck at any moment; what was for others arrives all the same.

    In a program of its own: pytest's plugins have callbacks, in which Python only reports an interrupt.
    """
    source = STRUCK.replace("HANDLERS", HANDLERS[kind])
    ran = script(source.replace("METHOD", repr(start_method)))
    assert ran.out == "20 False True True [4, 5]\n"


STRUCK_SUBMITTING = """
import signal
import parallelkit as pk
pool = pk.Pool(2, start_method=METHOD)
assert pool.submit(abs, -4).result() == 4
HANDLERS
struck, lost, futures = 0, 0, []
for microseconds in range(200, 10_200, 250):
    try:
        signal.setitimer(signal.ITIMER_REAL, microseconds / 1e6, 0.2)
        while True:
            futures = [pool.submit(abs, -i) for i in range(3)]
            assert [future.result() for future in futures] == [0, 1, 2]
    except Struck:
        signal.setitimer(signal.ITIMER_REAL, 0)
        struck += 1
        lost += [future.result(60) for future in futures] != list(range(len(futures)))
print(struck, lost, pool.submit(abs, -4).result(60))
"""


@pytest.mark.parametrize("kind", HANDLERS)
def test_an_interrupt_while_calls_are_submitted_and_waited_for(script, start_method, kind):
    """Every future that somebody has got is settled, wherever in between an interrupt comes."""
    source = STRUCK_SUBMITTING.replace("HANDLERS", HANDLERS[kind])
    ran = script(source.replace("METHOD", repr(start_method)))
    assert ran.out == "40 0 4\n"


def held(folder, big=None):
    """An item that lets nothing that is raised in it end it."""
    mark(folder, "held-1")
    while True:
        try:
            threading.Event().wait(600)
        except BaseException:
            continue


def test_a_second_ctrl_c_leaves_nothing_of_the_call(process_pool, folder):
    """An interrupt while the call is being given up skips nothing: workers are told and freed, memory is released."""
    pool = process_pool(max_nbytes=1)
    results = pool.imap(held, [folder] * 2, big=bytearray(1000))
    wait_for_files(folder, 1)
    before = {worker.pid for worker in faults.workers()}
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 0.05)  # of the 0.2 seconds that workers have to leave
    with pytest.raises(KeyboardInterrupt):
        results.close()
    assert pool.map(abs, range(-50, 0)) == list(range(50, 0, -1))
    assert not [call for each in faults.warm() for call in each.scheduler.calls]
    wait_until(  # a worker that was killed is taken out by a call that comes later
        lambda: (
            pool.map(abs, [1])
            and not before & {worker.pid for worker in faults.workers() if worker.assignments}
        ),
        "the end of the call's items",
    )


CELLS = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(history_load_length=0)
shell.history_manager.enabled = False
shell.push({"pool": pk.Pool(workers=2, METHOD), "wait": wait})
result = shell.run_cell("pool.map(wait, range(4))")
print(type(result.error_in_exec).__name__, result.result)
shell.run_cell("answer = pool.map(abs, [-1, -2])").raise_error()
print(shell.user_ns["answer"])
"""


def test_ctrl_c_in_ipython(program, start_method, monkeypatch, tmp_path):
    """A cell is interrupted, and the next one maps."""
    if importlib.util.find_spec("IPython") is None:
        pytest.skip("IPython is not installed")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    run = program(CELLS, start_method)
    run.wait_for(2)
    run.ctrl_c()
    out, _ = run.end()
    assert out.endswith("KeyboardInterrupt None\n[1, 2]\n")


# ---- the end of the parent -----------------------------------------------------------------------


@pytest.mark.parametrize("item", ["wait", "spin"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_the_end_of_the_parent(program, start_method, number, item):
    """A signal that ends the parent ends its workers and its fork server, and leaves no file and not a word."""
    source = """
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored
pk.Pool(workers=2, METHOD).map(CALL, range(4))
"""
    run = program(source, start_method, item)
    run.wait_for(2)
    run.kill(number)
    assert run.end(-number) == ("", "")


def test_the_end_of_the_parent_while_an_item_holds_the_lock(program, start_method):
    """Not even C code that never gives the interpreter lock back keeps a worker alive."""
    run = program("pk.Pool(workers=2, METHOD).map(lock, range(4))\n", start_method)
    run.wait_for(2)
    run.kill(signal.SIGKILL)
    run.end(-signal.SIGKILL)


def test_a_program_that_handles_sigterm(program, start_method):
    """A handler that leaves by sys.exit keeps its exit code, and its workers go."""
    source = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(21))
pk.Pool(workers=2, METHOD).map(defy, range(4))
"""
    run = program(source, start_method)
    run.wait_for(2)
    run.kill(signal.SIGTERM)
    assert run.end(21) == ("", "")


def test_idle_workers_go_with_the_parent(program, start_method):
    """kill -9 of a parent whose workers wait for work: all go, with arrays in shared memory and all."""
    source = """
import numpy as np
pool = pk.Pool(workers=2, METHOD)
big = pool.map(np.ones, [1_000_000] * 4)
pool.map(np.sum, big)
held(0)
threading.Event().wait(600)
"""
    run = program(source, start_method)
    run.wait_for(1)
    run.kill(signal.SIGKILL)
    assert run.end(-signal.SIGKILL) == ("", "")


# ---- what other handlers raise -------------------------------------------------------------------


class Late(Exception):
    pass


RAISED = [Late, ValueError, TimeoutError]  # that of time is an OSError too
WAYS = {
    "map": lambda pool, items, pid: pool.map(strike, items, pid=pid),
    "imap": lambda pool, items, pid: list(pool.imap(strike, items, pid=pid)),
    "a future": lambda pool, items, pid: pool.submit(strike, 0, pid).result(),
    "an executor": lambda pool, items, pid: list(pk.PoolExecutor(2).map(strike, items, [pid] * 2)),
}


def strike(x, pid):
    """An item that has a handler of the caller run while that waits for it."""
    if x == 0:
        os.kill(pid, signal.SIGUSR1)
        threading.Event().wait(10)
    return x


@pytest.mark.parametrize("kind", RAISED)
@pytest.mark.parametrize("way", WAYS)
def test_what_a_handler_raises_ends_the_wait(process_pool, way, kind):
    """A handler's error is raised where the call waits, also if the system's own look like it: the time limit by alarm()."""
    error = kind("of the handler")

    def handler(*_):
        raise error

    pool = process_pool()
    assert pool.map(abs, [-1, -2]) == [1, 2]
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(kind) as caught:
            WAYS[way](pool, range(2), os.getpid())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert caught.value is error
    pk.shutdown()  # what a future waits for goes on, as with any executor
    assert pool.map(abs, [-1, -2]) == [1, 2]


AT_ANY_MOMENT = """
import json, random, signal
import parallelkit as pk

class TooLate(TimeoutError):
    pass

def handler(*_):
    raise TooLate

class Struck:
    # A global that has the handler run while it is looked at.
    armed = False
    def __getstate__(self):
        if STATE["armed"]:
            STATE["armed"] = False
            signal.raise_signal(signal.SIGALRM)
        return {}

STATE = {"armed": False}
STRUCK = Struck()
TABLE = [{"id": 0} for _ in range(600)]
SMALL = {"v": 0}

def struck(x):
    return STRUCK is not None

def found(x):
    return TABLE[0]["id"], SMALL["v"]

signal.signal(signal.SIGALRM, handler)
pool = pk.Pool(2, backend="process")
pool.map(struck, range(2)), pool.map(found, range(2))
STATE["armed"] = True
try:
    pool.map(struck, range(2))
    told = "nothing"
except TooLate:
    told = "TooLate"
assert pool.map(struck, range(2)) == [True, True]

moments, wrong = random.Random(3), []
for i in range(60):
    TABLE[0]["id"] = SMALL["v"] = i
    try:
        signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-5, 4e-3))
        try:
            pool.map(found, range(2))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except TooLate:
        pass
    if (now := pool.map(found, range(2))) != [(i, i)] * 2:
        wrong.append([i, now])
print(json.dumps([told, wrong]))
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no such timer")
def test_what_a_handler_raises_while_globals_are_looked_at(script):
    """It comes to the caller whatever is looked at, and what was about to be sent is sent with the next call."""
    assert script(AT_ANY_MOMENT).values == [["TooLate", []]]


@pytest.mark.parametrize("kind", [OSError, TimeoutError])
def test_what_a_handler_raises_while_large_things_are_written(process_pool, monkeypatch, kind):
    """It is no sign that there is no room for a segment."""
    from parallelkit.transport import segments

    write, error = segments.Segment.write, kind("of the handler")

    def handler(*_):
        raise error

    def struck(*args):
        signal.raise_signal(signal.SIGUSR1)
        write(*args)

    pool = process_pool(max_nbytes=1)
    assert pool.map(abs, [-1, -2]) == [1, 2]
    before = signal.signal(signal.SIGUSR1, handler)
    monkeypatch.setattr(segments.Segment, "write", struck)
    try:
        with pytest.raises(kind) as caught:
            pool.map(len, [np.zeros(100)])
    finally:
        monkeypatch.undo()
        signal.signal(signal.SIGUSR1, before)
    assert caught.value is error
    assert pool.map(len, [np.zeros(100)] * 2) == [100, 100]


def closing(folder):
    """An iterator that is in the middle of its end when the call that it belongs to is given up."""
    try:
        yield
    finally:
        mark(folder, "closing")
        until = time.monotonic() + 30
        while time.monotonic() < until:
            time.sleep(0.001)


def drops_an_iterator(i, folder):
    if i:
        wait_until(lambda: os.path.exists(os.path.join(folder, "closing")), "the other item")
        raise ZeroDivisionError
    iterator = closing(folder)
    next(iterator)
    del iterator
    until = time.monotonic() + 30
    while time.monotonic() < until:
        time.sleep(0.001)


def test_an_item_that_is_given_up_while_an_iterator_of_it_ends(process_pool, tmp_path, capfd):
    """It ends at once and without noise, though what is raised within a finalizer goes nowhere."""
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    own = process_pool(chunksize=1)
    before = set(own.map(meet, range(2), folder=str(tmp_path / "before"), parties=2))
    with pytest.raises(ZeroDivisionError):
        own.map(drops_an_iterator, range(2), folder=str(tmp_path))
    after = set(own.map(meet, range(2), folder=str(tmp_path / "after"), parties=2))
    assert after == before  # the worker has not been ended
    assert capfd.readouterr().err == ""
