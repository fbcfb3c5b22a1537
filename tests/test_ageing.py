"""Ageing: hundreds of calls, pools and deaths later nothing has grown, here or in the workers."""

import contextlib
import functools
import gc
import os
import threading

import faults
import numpy as np
import psutil
import pytest
from backends import START_METHODS
from helpers import identity, increment, mark, pid, refuse

import parallelkit as pk
from parallelkit.place import system

MARGIN = 24 << 20  # bytes that a process may have grown by; a leak of 25 KB a call would be more
SEGMENTS = 8  # that came to be recycled; how many are in use at a time is a matter of chance
pytestmark = pytest.mark.timeout(360)  # hundreds of pools take their time on a busy machine
CALLS, POOLS = (200, 10) if system.WINDOWS else (1000, 60)


def _open(number):
    """What the descriptors of a process refer to."""
    for name in os.listdir(f"/proc/{number}/fd"):
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(f"/proc/{number}/fd/{name}")


class Age:
    """What a process holds, to be compared later."""

    def __init__(self, number=None):
        gc.collect()
        process = psutil.Process(number)
        if system.WINDOWS:  # which does not tell what a handle is of
            self.segments, self.fds = 0, process.num_handles()
        else:
            self.segments = sum("parallelkit" in target for target in _open(process.pid))
            self.fds = process.num_fds() - self.segments
        self.threads = process.num_threads()
        self.children = len(process.children(recursive=True))
        self.maps = 0 if system.WINDOWS else len(process.memory_maps(grouped=False))
        self.memory = process.memory_info().rss

    def check(self, older, spare=0):
        """Nothing may have grown but memory, by its margin, and `spare` of whatever is counted."""
        for name in ("fds", "threads", "children"):
            now, before = getattr(older, name), getattr(self, name)
            assert now <= before + spare, f"{name} grew from {before} to {now}"
        assert older.segments <= self.segments + SEGMENTS, (
            f"segments grew from {self.segments} to {older.segments}"
        )
        assert older.maps <= self.maps + 60, f"mappings grew from {self.maps} to {older.maps}"
        assert older.memory <= self.memory + MARGIN, (
            f"memory grew by {(older.memory - self.memory) >> 20} MB"
        )


def calls(pool, count):
    """Calls of all kinds, right ones and wrong ones."""
    small, large = list(range(10)), [np.ones(20_000), np.zeros(20_000)]
    for k in range(count):
        kind = k % 8
        if kind == 0:
            assert pool.map(increment, small) == list(range(1, 11))
        elif kind == 1:
            assert list(pool.uimap(identity, iter([k]))) == [k]
        elif kind == 2:
            assert next(pool.imap(identity, small)) == 0  # and drop it
        elif kind == 3:
            assert pool.submit(increment, k).result(60) == k + 1
        elif kind == 4:
            assert [array[0] for array in pool.map(np.negative, large)] == [-1, 0]
        elif kind == 5:
            with pytest.raises(ZeroDivisionError):
                pool.map(lambda x: 1 // x, [0, 1])
        elif kind == 6:
            with pytest.raises((pk.TransportError, RuntimeError)):
                pool.map(refuse, [threading.Lock()])
        else:
            assert pool.map(lambda x, table: table[x], [k % 100], table=large[0]) == [1]


def test_many_calls_on_one_pool(concurrent_pool):
    """1 000 calls later there is no more of anything, in the parent and in each worker, than after the first 400."""
    own = concurrent_pool()
    calls(own, 400)
    numbers = {worker.pid for worker in faults.workers()} & {*own.map(pid, range(100))}
    here, there = Age(), [Age(number) for number in sorted(numbers)]
    calls(own, CALLS)
    here.check(Age(), spare=1)
    for number, age in zip(sorted(numbers), there, strict=True):
        age.check(Age(number), spare=1)


def memory(_, data):
    assert data
    return psutil.Process().memory_info().rss


def test_large_keywords_of_calls_that_are_over(process_pool):
    """Of the frozen keywords of 60 calls, 4 MB each, a worker keeps 64 MB at the most."""
    own = process_pool()
    found = [max(own.map(memory, range(4), data=os.urandom(4 << 20))) for _ in range(60)]
    assert max(found) <= found[0] + (110 << 20)


def test_many_deaths(process_pool):
    """Workers that are replaced a dozens of times leave nothing in the parent."""
    own = process_pool(on_error="return", chunksize=1)

    def deaths(count):
        for _ in range(count):
            assert len(own.map(faults.run_bad, range(4), fault="os._exit")) == 4

    deaths(5)
    before = Age()
    deaths(15)
    own.map(identity, range(10))
    before.check(
        Age(), spare=6
    )  # a replacement may be on its way, or its predecessor on its way out


def use(pool, k):
    assert pool.map(increment, [k, k + 1]) == [k + 1, k + 2]


@pytest.mark.parametrize("start_method", START_METHODS[:1])
def test_many_pools(start_method):
    """60 pools, opened and closed, with the same settings: they share their workers and leave nothing."""

    def pools(count):
        for k in range(count):
            with pk.Pool(2, start_method=start_method) as pool:
                use(pool, k)
                assert pool.submit(increment, k).result(60) == k + 1

    pools(20)
    before = Age()
    pools(POOLS)
    before.check(Age(), spare=1)


def test_many_pools_with_settings_of_their_own(folder):
    """60 pools with an initializer each: their workers go when others come, and everything they held with them."""

    def pools(count):
        for k in range(count):
            begin = functools.partial(mark, str(folder))
            with pk.Pool(1, initializer=begin, initargs=(f"{k}-{count}",)) as pool:
                use(pool, k)

    pools(20)
    before = Age()
    pools(POOLS)
    assert len(os.listdir(folder)) == POOLS + 20
    before.check(Age(), spare=4)


def test_many_shutdowns():
    """Shut down and started again many times, nothing is left but the standard library's own."""

    def lives(count):
        for k in range(count):
            use(pk.Pool(2), k)
            pk.shutdown()

    pk.shutdown()
    others = {child.pid for child in psutil.Process().children(recursive=True)}
    lives(5)
    before = Age()
    lives(10)
    before.check(Age(), spare=1)
    # The resource trackers of multiprocessing and multiprocess.
    assert len({child.pid for child in psutil.Process().children(recursive=True)} - others) <= 2
