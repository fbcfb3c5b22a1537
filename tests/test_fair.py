"""workers="fair": programs of one user that share the cores of a machine."""

import os
import signal
import subprocess
import sys

import pytest
from helpers import place

import parallelkit as pk
from parallelkit.place import fair

pytest.importorskip("fcntl")

BESIDE = """
import sys
from parallelkit.place import fair
print(fair.share(8), flush=True)
sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, temp_folder):
    """Nobody is there yet, and each look is a new one."""
    monkeypatch.setattr(fair, "OFTEN", 0)
    yield
    fair.share(8)  # whoever looks removes what others have left
    fair.leave()
    assert not (temp_folder / f"parallelkit-fair-{os.getuid()}").exists()


@pytest.fixture
def beside():
    """Start another program, and tell its share of eight cores."""
    started = []

    def start():
        program = subprocess.Popen(
            [sys.executable, "-c", BESIDE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(program)
        return program, int(program.stdout.readline())

    yield start
    for program in started:
        end(program)


def end(program):
    program.stdin.close()
    program.wait()
    program.stdout.close()


def test_alone():
    """A program that is alone has all cores."""
    assert [fair.share(8), fair.share(1)] == [8, 1]


def test_programs_share_the_cores(beside):
    """Eight cores for three programs are 3, 3 and 2; a single core is everybody's."""
    assert fair.share(8) == 8
    beside()
    beside()
    assert fair.share(8) in (2, 3)
    assert fair.share(1) == 1


@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_a_program_that_is_gone_counts_no_more(beside, how):
    """Its share is the others' again, whatever ended it."""
    program, share = beside()
    assert (share, fair.share(8)) == (8, 4)
    if how == "ends":
        end(program)
    else:
        program.send_signal(signal.SIGKILL)
        program.wait()
    assert fair.share(8) == 8


def test_after_a_shutdown_it_counts_no_more(beside):
    """A program is counted from its first fair call until it shuts down."""
    fair.share(8)
    fair.leave()
    assert beside()[1] == 8


def test_a_fork_is_a_program_of_its_own():
    """A forked child counts beside its parent, and its end takes nothing from that."""
    fair.share(8)
    child = os.fork()
    if not child:
        os._exit(fair.share(8))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    assert fair.share(8) == 8


def test_a_folder_that_is_not_ours_alone(temp_folder):
    """Where others could write, nobody is asked, and the program has all cores."""
    folder = temp_folder / f"parallelkit-fair-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    assert fair.share(8) == 8
    folder.rmdir()


def test_calls_take_the_fair_share(monkeypatch):
    """A call has as many workers as its share; calls in its items have theirs of that."""
    monkeypatch.setattr(fair, "share", lambda cores: 1)
    with pk.Pool("fair") as own:
        assert own.workers == 1
        assert len({pid for pid, _ in own.map(place, range(10))}) == 1
    with pk.configure(workers="fair"):
        assert pk.Pool(backend="thread").workers == 1
        assert pk.map(lambda _: pk.map(abs, [-1, -2]), range(2)) == [[1, 2], [1, 2]]
