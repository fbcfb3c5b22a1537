"""A storm: workers are killed at random all the time, and every result is right."""

import contextlib
import random
import threading

import faults
import pytest
from faults import square_slowly

import parallelkit as pk
from parallelkit.place import system

ITEMS = 5_000
SECONDS = 0.0002  # of computing for each item: a second in all, and so a dozen deaths or two
CALM = {
    "forkserver": 0.05,
    "fork": 0.05,
    "spawn": 0.25,
}  # seconds from death to death; a start by spawn takes 0.2
DEATHS = 20  # at most: on a machine that is busy otherwise, workers start slower than they die
if system.WINDOWS:  # under Wine a start takes seconds
    CALM["spawn"], DEATHS = 0.5, 6
SQUARES = [x * x for x in range(ITEMS)]


@pytest.fixture
def own(process_pool):
    """Makes a pool whose workers are there, and are the only ones."""

    def make(**options):
        pk.shutdown()
        pool = process_pool(**options)
        pool.map(abs, range(10))
        return pool

    make.calm = CALM[process_pool.start_method]
    return make


@contextlib.contextmanager
def storm(calm):
    """Kill a random worker every now and then; tells which ones it were."""
    over, killed, choice = threading.Event(), [], random.Random(20)

    def blow():
        while len(killed) < DEATHS and not over.wait(calm):
            alive = [worker for worker in faults.workers() if worker.ready]
            if alive:
                victim = choice.choice(alive)
                victim.process.kill()
                killed.append(victim.pid)

    thread = threading.Thread(target=blow)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def test_a_call_in_a_storm(own):
    """A call of 5 000 items ends with every result right, while a worker dies every 50 ms."""
    pool = own(retries=10**6)
    with storm(own.calm) as killed:
        results = pool.map(square_slowly, range(ITEMS), seconds=SECONDS)
    assert results == SQUARES
    assert killed


def test_futures_in_a_storm(own):
    """Calls that were submitted one by one are all right."""
    pool = own(retries=10**6)
    with storm(own.calm) as killed:
        tasks = [pool.submit(square_slowly, x, seconds=SECONDS * 5) for x in range(300)]
        assert [task.result(60) for task in tasks] == SQUARES[:300]
    assert killed


def test_twenty_calls_in_a_storm(own):
    """Twenty threads with a call each, on the same workers: each gets its own results, all of them right."""
    pool = own(retries=10**6)
    count = ITEMS // 20
    results = [None] * 20

    def call(k):
        begin = k * count
        results[k] = pool.map(square_slowly, range(begin, begin + count), seconds=SECONDS)

    threads = [threading.Thread(target=call, args=(k,)) for k in range(20)]
    with storm(own.calm) as killed:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [square for part in results for square in part or ["none"]] == SQUARES
    assert killed


def test_a_storm_without_retries(own):
    """Where nothing is tried again each death costs one item at most, and all others are right."""
    pool = own(on_error="return")
    with storm(own.calm) as killed:
        results = pool.map(square_slowly, range(ITEMS), seconds=SECONDS)
    lost = [r for r in results if isinstance(r, pk.Failure)]
    assert {type(failure.exception) for failure in lost} <= {pk.WorkerDied}
    assert len(lost) <= len(killed)
    assert all(
        r == x * x or isinstance(r, pk.Failure) for x, r in zip(range(ITEMS), results, strict=True)
    )
