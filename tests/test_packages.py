"""A package that calls pk.map inside obeys what its user configures around it."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import analysis
import pytest

import parallelkit as pk


@pytest.mark.parametrize("func", analysis.EVERYTHING, ids=lambda func: func.__name__)
def test_two_threads(func):
    """Under workers=2 and backend="thread" all calls of the package stay in this process, two threads a level."""
    with pk.configure(workers=2, backend="thread"):
        places = func()
    assert {pid for pid, _ in places} == {os.getpid()}
    if func is not analysis.places_behind:
        assert len({thread for _, thread in places}) <= 2


@pytest.mark.parametrize("func", analysis.EVERYTHING, ids=lambda func: func.__name__)
def test_two_processes(func):
    """Under workers=2 and backend="process" they run in two workers."""
    with pk.configure(workers=2, backend="process"):
        pids = {pid for pid, _ in func()}
    assert os.getpid() not in pids
    assert len(pids) <= 2


def test_serial():
    """Under backend="serial" the package runs in the thread that called it: for debugging."""
    with pk.configure(backend="serial"):
        for func in analysis.EVERYTHING:
            assert set(func()) == {(os.getpid(), threading.get_ident())}


def test_across_threads_of_the_user():
    """The block holds in threads that its user, or somebody else's executor, starts within it."""
    found = []
    with pk.configure(workers=2, backend="thread"):
        thread = threading.Thread(target=lambda: found.extend(analysis.places()))
        thread.start()
        thread.join()
        with ThreadPoolExecutor(3) as executor:
            for places in executor.map(lambda _: analysis.places(), range(6)):
                found.extend(places)
    assert {pid for pid, _ in found} == {os.getpid()}


def test_a_block_in_one_thread_is_not_another_threads():
    """What a thread that is not the main one configures for itself holds there only."""
    begun, go = threading.Event(), threading.Event()

    def other():
        with pk.configure(backend="thread", workers=2):
            begun.set()
            go.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    begun.wait(60)
    with pk.configure(backend="process", workers=2):
        pids = {pid for pid, _ in analysis.places()}
    go.set()
    thread.join()
    assert os.getpid() not in pids


@pytest.mark.parametrize("backend", ["process", "thread"])
def test_into_workers(backend):
    """What is configured around a call of the user's own holds for the package inside its items."""

    def item(_):
        return os.getpid(), analysis.places_behind(), analysis.options()

    with pk.configure(on_error="skip", workers=2, backend=backend):
        found = pk.map(item, range(4))
    for pid, places, (_, results) in found:
        assert {inner for inner, _ in places} == {pid}
        assert results == [0.5]


def test_inner_blocks_win():
    """A package that configures for itself is heard within, and its user's block holds again afterwards."""

    def item(x):
        with pk.configure(on_error="return"):
            kept = pk.map(analysis.reciprocal, [0, x])
        return len(kept), pk.map(analysis.reciprocal, [0, x])

    with pk.configure(on_error="skip", workers=2):
        assert pk.map(item, [1, 2]) == [(2, [1.0]), (2, [0.5])]
    with pytest.raises(ZeroDivisionError):
        analysis.options()
