"""Workers that die: their item tells, the others complete, and the pool answers the next call."""

import os
import re
import signal
import sys

import pytest
from backends import START_METHODS
from helpers import (
    deadly_set_up,
    die,
    ended,
    hold,
    identity,
    increment,
    kill,
    leave,
    mark,
    meet,
    wait_for,
    wait_until,
)

import parallelkit as pk
from parallelkit.place import system

DEATHS = {"exit": r"\b3\b", "SIGKILL": "SIGKILL", "SIGSEGV": "SIGSEGV", "SIGTERM": "SIGTERM"}
if system.WINDOWS:  # where a process is not told from outside, but ended with a number
    DEATHS |= {"SIGKILL": r"\b9\b", "SIGSEGV": "access violation", "SIGTERM": r"\b15\b"}
GOOD = [x * 10 for x in range(12) if x != 5]


def told(error):
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


def check_blame(error, how):
    """WorkerDied names the item and how its worker ended."""
    assert isinstance(error, pk.WorkerDied)
    assert isinstance(error, pk.ParallelError)
    assert re.search(DEATHS[how], str(error))
    assert re.search(r"\b5\b", told(error))


@pytest.mark.parametrize("how", DEATHS)
def test_a_death_is_raised(process_pool, how):
    """The call in which a worker dies ends with WorkerDied, at once and not in a hang."""
    own = process_pool()
    with pytest.raises(pk.WorkerDied) as caught:
        own.map(die, range(12), how=how)
    check_blame(caught.value, how)
    assert own.map(increment, range(20)) == list(range(1, 21))


@pytest.mark.parametrize("chunksize", [1, 4, None])
@pytest.mark.parametrize("how", DEATHS)
def test_the_others_complete(process_pool, how, chunksize):
    """A dead worker costs the item that it ran, and no other, whatever shared its chunk."""
    own = process_pool(on_error="return", chunksize=chunksize)
    results = own.map(die, range(12), how=how)
    failure = results.pop(5)
    assert results == GOOD
    assert failure.index == 5
    assert failure.args == (5,)
    assert failure.attempts == 1
    check_blame(failure.exception, how)


@pytest.mark.parametrize("name", ["imap", "uimap"])
def test_a_death_in_an_iterator(process_pool, name):
    """imap raises in its place after the results before it, uimap somewhere; both can go on with "return"."""
    failing = getattr(process_pool(chunksize=1), name)(die, range(12), how="SIGKILL")
    got = []
    with pytest.raises(pk.WorkerDied):
        for result in failing:
            got.append(result)  # noqa: PERF402 (what came before the error counts)
    assert set(got) <= set(GOOD)
    if name == "imap":
        assert got == GOOD[:5]
    results = list(getattr(process_pool(on_error="return"), name)(die, range(12), how="SIGKILL"))
    failures = [r for r in results if isinstance(r, pk.Failure)]
    assert [f.index for f in failures] == [5]
    assert sorted(r for r in results if not isinstance(r, pk.Failure)) == GOOD
    if name == "imap":
        assert results.index(failures[0]) == 5


def close_everything(x, folder):
    """An item that closes what it has not opened, as code that makes itself a daemon does."""
    if x == 5:
        mark(folder, f"ran-{os.getpid()}")
        os.closerange(3, 256)
    return x * 10


def test_an_item_that_closes_descriptors(process_pool, folder):
    """It takes its worker's way to the parent with it, and is to blame for that, and for nothing else."""
    own = process_pool(on_error="return", chunksize=1)
    results = own.map(close_everything, range(12), folder=folder)
    failure = results.pop(5)
    assert results == GOOD
    assert isinstance(failure.exception, pk.WorkerDied)
    assert len(os.listdir(folder)) == 1


@pytest.mark.parametrize("deaths", [0, 1, 2])
def test_a_fork_server_that_is_stopped(script, deaths):
    """Somebody has stopped it: workers that die are replaced all the same, and the program ends."""
    source = f"""
import glob, os, signal, time
import parallelkit as pk
def meet(folder):
    open(f"here-{{os.getpid()}}", "x").close()
    while len(glob.glob("here-*", root_dir=folder)) < 2:
        time.sleep(0.001)
    return os.getpid(), os.getppid()
with pk.Pool(2, start_method="forkserver") as pool:
    workers, servers = zip(*pool.map(meet, ["."] * 2), strict=True)
    for worker in workers:
        os.unlink(f"here-{{worker}}")
    os.kill(servers[0], signal.SIGSTOP)
    for worker in workers[:{deaths}]:
        os.kill(worker, signal.SIGKILL)
    print(pool.map(abs, [-1, -2]))
"""
    assert script(source).out == "[1, 2]\n"


def fork_and_exit(x):
    child = os.fork()
    if not child:
        sys.exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_an_item_has_forked_exits(process_pool, capfd):
    """It ends without a word: it is no worker."""
    assert process_pool().map(fork_and_exit, range(3)) == [0] * 3
    assert capfd.readouterr() == ("", "")


def leave_a_child(x, folder, how):
    """An item whose worker dies while a process that it has forked lives on."""
    child = os.fork()
    if not child:
        signal.pause()
    mark(folder, f"child-{child}")
    return die(x, how)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_death_is_seen_while_a_child_lives(process_pool, folder):
    """What a worker has forked does not keep its end from being noticed."""
    own = process_pool(chunksize=1)
    try:
        with pytest.raises(pk.WorkerDied):
            own.map(leave_a_child, [5], folder=folder, how="SIGKILL")
        (name,) = os.listdir(folder)
        os.kill(int(name.removeprefix("child-")), 0)  # it is still there
    finally:
        for name in os.listdir(folder):
            os.kill(int(name.removeprefix("child-")), signal.SIGKILL)


def test_a_death_is_skipped(process_pool):
    """on_error="skip" leaves out the item whose worker died."""
    assert process_pool(on_error="skip").map(die, range(12), how="exit") == GOOD


def test_a_death_in_a_future(process_pool):
    """The future of the item holds WorkerDied; the others hold their results."""
    own = process_pool()
    tasks = [own.submit(die, x, how="exit") for x in range(12)]
    check = tasks.pop(5).exception(60)
    assert isinstance(check, pk.WorkerDied)
    assert [task.result(60) for task in tasks] == GOOD


def test_a_worker_that_is_killed_from_outside(process_pool, folder):
    """The signal need not come from the item itself."""
    own = process_pool()
    task = own.submit(hold, 0, folder)
    wait_for(folder / "held-0")
    kill(int((folder / "held-0").read_text()))
    error = task.exception(60)
    assert isinstance(error, pk.WorkerDied)
    assert re.search(DEATHS["SIGKILL"], str(error))


def test_idle_workers_that_died_are_replaced(process_pool, folder):
    """Nobody's item is lost when the workers die between two calls."""
    own = process_pool(chunksize=1)
    (before := folder / "before").mkdir()
    (after := folder / "after").mkdir()
    numbers = {number for number, _ in own.map(meet, range(2), folder=before, parties=2)}
    for number in numbers:
        kill(number)
    wait_until(lambda: ended(numbers), "the death of the workers")
    places = own.map(meet, range(2), folder=after, parties=2)
    assert len({number for number, _ in places} - numbers) == 2


def test_every_worker_may_die_again_and_again(process_pool):
    """More deaths than workers in one call, and several such calls."""
    own = process_pool(on_error="return", chunksize=1)
    for _ in range(2):
        results = own.map(die, [5, 1, 5, 2, 5, 3, 5], how="exit")
        assert [type(r) is pk.Failure for r in results] == [True, False] * 3 + [True]
        assert results[1::2] == [10, 20, 30]


def test_a_death_in_one_call_spares_another(process_pool):
    """Calls that share the workers: a death in one is not an error of the other."""
    own = process_pool()
    good = own.amap(increment, range(5000))
    bad = own.amap(die, range(12), how="SIGKILL")
    assert isinstance(bad.exception(60), pk.WorkerDied)
    assert good.result(60) == list(range(1, 5001))


def test_sys_exit_is_no_death(process_pool):
    """sys.exit ends the item, not its worker."""
    own = process_pool(on_error="return")
    failure = own.map(leave, range(6))[3]
    assert isinstance(failure.exception, SystemExit)
    assert not isinstance(failure.exception, pk.WorkerDied)


def test_a_death_within_a_nest(process_pool):
    """A worker that dies in an inner call costs the outer item."""
    own = process_pool(on_error="return", chunksize=1)
    results = own.map(lambda x: pk.map(die, [x, 1], how="exit"), [0, 5, 2])
    assert [results[0], results[2]] == [[0, 10], [20, 10]]
    assert isinstance(results[1].exception, pk.WorkerDied)


def test_an_initializer_that_dies(process_pool, folder):
    """Workers that die in their initializer end the call with an error, and are not started for ever."""
    own = process_pool(initializer=deadly_set_up, initargs=(str(folder),))
    with pytest.raises(pk.ParallelError, match=r"\b9\b"):
        own.map(identity, range(10))
    assert 1 <= len(os.listdir(folder)) <= 12


def test_a_death_while_an_argument_is_loaded(process_pool):
    """An argument that kills the worker that unpickles it costs its own place only."""
    own = process_pool(on_error="return", chunksize=1)
    results = own.map(identity, [0, 1, Deadly(), 3, 4])
    assert isinstance(results.pop(2).exception, pk.WorkerDied)
    assert results == [0, 1, 3, 4]


class Deadly:
    def __reduce__(self):
        return os._exit, (4,)


@pytest.mark.skipif("forkserver" not in START_METHODS, reason="there is none")
@pytest.mark.skipif(not system.PARENT_SIGNAL, reason="workers see its end half a second later")
def test_a_fork_server_that_is_killed():
    """A fork server takes its workers along; the calls after that find others, of another server."""
    with pk.configure(workers=2, start_method="forkserver"):
        server, *_ = pk.map(lambda _: os.getppid(), range(4))
        assert server != os.getpid()
        os.kill(server, signal.SIGKILL)
        wait_until(lambda: ended([server]), "the end of the fork server")
        assert server not in pk.map(lambda _: os.getppid(), range(4))


def test_a_cold_call_starts_the_workers_and_little_else(script, start_method):
    """Beside the workers of a first call there is a fork server, or what sees to their end, and no other process."""
    ran = script(
        f"""
import psutil
import parallelkit as pk
with pk.configure(workers=2, start_method={start_method!r}):
    pk.map(abs, range(4))
names = [child.name() for child in psutil.Process().children(recursive=True)]
print(sum(name != "conhost.exe" for name in names))  # Windows' own, for a console
"""
    )
    watched = start_method == "forkserver" or system.PIPE_SIGNAL
    assert ran.out == ("3\n" if watched else "2\n")


STARTS_A_PROGRAM = """
import os, signal, subprocess, sys, time
import parallelkit as pk

pool = pk.Pool(2, start_method="fork")
workers = set(pool.map(lambda _: os.getpid(), range(8)))
real = subprocess._fork_exec

def waits():
    frames = list(sys._current_frames().values())
    while frames:
        frame = frames.pop()
        if frame.f_code.co_name == "_wait_for_programs":
            return True
        if frame.f_back is not None:
            frames.append(frame.f_back)

def started(*args):
    found = real(*args)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while not waits() and time.monotonic() < deadline:
        time.sleep(0.001)
    return found

subprocess._fork_exec = started
subprocess.run([sys.executable, "-c", ""], check=True)
print(len(workers & set(pool.map(lambda _: os.getpid(), range(8)))))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")
def test_a_worker_is_replaced_while_a_program_is_started(script):
    """One that is forked in that moment keeps no pipe whose end tells that the program has begun."""
    assert script(STARTS_A_PROGRAM).out == "0\n"
