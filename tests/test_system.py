"""The ways of systems that have less than Linux; `make test-without` runs whole suites on them."""

import gc
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import left_out
import numpy as np
import pytest
from running import run_script

import parallelkit as pk
from parallelkit.place import system
from parallelkit.transport.channel import Channel, Closed

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a matter of POSIX")


def test_what_is_left_out_elsewhere_is_there():
    """Each test that Windows leaves out is found by its name."""
    for table in (left_out.ON_WINDOWS, left_out.UNDER_WINE):
        for files in table.values():
            for file, tests in files.items():
                source = Path(__file__).with_name(f"test_{file}.py").read_text()
                assert [test for test in tests if f"def {test}(" not in source] == []


@pytest.mark.parametrize("missing", [*system.SWITCHES, "all"])
def test_without(missing):
    """Arrays both ways, a worker that dies, one that is overdue and the children of its item."""
    methods = (
        ["forkserver", "spawn", "fork"] if missing in ("pipe-signal", "all") else ["forkserver"]
    )
    done = run_script(["-", *methods], SOME_OF_ALL, env={"PARALLELKIT_WITHOUT": missing})
    assert done.values == ["right"]


SOME_OF_ALL = """
import json, os, subprocess, sys, time
import numpy as np
import parallelkit as pk
from parallelkit import TaskTimeout, WorkerDied

def large(x, weights):
    return np.full(300_000, x) * weights

def dies(x):
    if x == 1:
        os._exit(3)
    return x

def lasts(x):
    if x == 1:
        child = subprocess.Popen(["sleep", "1000"])
        with open("child", "w") as file:
            file.write(str(child.pid))
        child.wait()
    return x

def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

def writes(block):
    return block + 1

weights = np.full(300_000, 2.0)
for method in sys.argv[1:]:
    with pk.Pool(2, start_method=method, on_error="return", chunksize=1) as pool:
        for _ in range(3):
            arrays = pool.map(large, (np.float64(x) for x in range(4)), weights=weights)
            assert [array[-1] for array in arrays] == [0, 2, 4, 6]
        failure = pool.map(dies, range(4))[1]
        assert type(failure.exception) is WorkerDied, failure
    with pk.Pool(2, start_method=method, on_error="return", timeout=0.5) as pool:
        assert type(pool.map(lasts, range(3))[1].exception) is TaskTimeout
        pid = int(open("child").read())
        while is_there(pid):
            time.sleep(0.01)
    array = pk.share(np.zeros(100_000))
    with pk.Pool(2, start_method=method) as pool:
        assert pk.map_blocks(writes, array, blocks=10, out=array) is array
    assert array.sum() == 100_000
os.unlink("child")
print(json.dumps("right"))
"""


def test_a_switch_that_is_not_there():
    """A misspelt name is told, with those that there are."""
    done = subprocess.run(
        [sys.executable, "-c", "import parallelkit; parallelkit.map(abs, [1])"],
        env={**os.environ, "PARALLELKIT_WITHOUT": "procc"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode
    assert "'procc'" in done.stderr
    assert "pipe-signal" in done.stderr


@pytest.fixture
def ends(monkeypatch):
    """Two ends of a channel where descriptors that are under way may be lost."""
    monkeypatch.setattr(system, "FDS_LAST", False)
    one, other = map(Channel, socket.socketpair())
    yield one, other
    one.close()
    other.close()


def _opened(fds):
    """How many descriptors of the files that these are of this process has."""
    here = [os.fstat(fd).st_ino for fd in fds]
    found = 0
    for fd in range(3, 1024):
        try:
            found += os.fstat(fd).st_ino in here
        except OSError:
            pass
    return found


def test_descriptors_are_kept_until_they_have_come(ends):
    """The sender may close its own at once; the copies are closed when the other side has them."""
    one, other = ends
    pipes = [os.pipe() for _ in range(20)]  # more than go with one byte
    sent = [reading for reading, _ in pipes]
    one.send(("twenty",), sent)
    assert _opened(sent) == 20 + 20 + 20  # the pipes' other ends, ours, the copies
    (message,) = other.receive()
    assert message.body == ("twenty",)
    assert one.receive() == []  # that they have come
    assert _opened(sent) == 20 + 20 + 20  # the other side's are here as well, in this test
    for fd in message.fds:
        os.close(fd)
    assert _opened(sent) == 20 + 20
    for pair in pipes:
        for fd in pair:
            os.close(fd)


def test_what_has_come_is_told_between_messages(ends):
    """Also when both sides send at the same time, more than the system holds for them."""
    one, other = ends
    reading, writing = os.pipe()

    def talk(channel, mine, heard):
        for number in range(300):
            channel.send((number, b"x" * 1000), [mine])
        while len(heard) < 300 and channel.wait(60):
            heard += channel.receive()

    sides = [(one, reading, []), (other, writing, [])]
    threads = [threading.Thread(target=talk, args=side, daemon=True) for side in sides]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for (_, _, heard), theirs in zip(sides, (writing, reading), strict=True):
        assert [message.body for message in heard] == [(n, b"x" * 1000) for n in range(300)]
        for message in heard:
            (fd,) = message.fds
            assert os.path.sameopenfile(fd, theirs)
            os.close(fd)
    assert (one.receive(), other.receive()) == ([], [])
    assert _opened([reading]) == 2
    os.close(reading)
    os.close(writing)


def test_copies_are_closed_with_their_channel(ends):
    """Nobody will say that they have come."""
    one, other = ends
    reading, writing = os.pipe()
    one.send(("lost",), [reading])
    other.close()
    with pytest.raises(Closed):
        one.send(("more",), [reading])
    one.close()
    gc.collect()
    assert _opened([reading]) == 2
    os.close(reading)
    os.close(writing)


def test_room_is_had_page_by_page(monkeypatch):
    """Where no call reserves it, what is in a shared array stays while room for more is had."""
    monkeypatch.setattr(system, "ALLOCATES", False)
    array = pk.share(np.arange(10_000))
    with pk.Pool(2, backend="thread") as pool:
        assert pool.map_blocks(lambda block: block + 1, array, blocks=9, out=array) is array
    assert array.tolist() == list(range(1, 10_001))
