"""One budget of cores at every depth: how many items run at once, and how many threads there are."""

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import increment, mark, wait_until

import parallelkit as pk


@pytest.fixture
def cores(monkeypatch):
    """Let this process believe that it has so many cores."""
    return lambda n: monkeypatch.setattr("parallelkit.place.nesting.cpu_count", lambda: n)


class Meter:
    """How many items run at once in this process, at most."""

    def __init__(self):
        self.lock = threading.Lock()
        self.now = self.most = 0

    def __enter__(self):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_):
        with self.lock:
            self.now -= 1


def leaf(_, meter, meeting=None, parties=1):
    """An item that lets others run; at a meeting it ends when so many have come."""
    with meter:
        if meeting is not None:
            mark(meeting, f"{threading.get_ident()}")
            wait_until(lambda: len(os.listdir(meeting)) >= parties, f"{parties} threads")
        else:
            time.sleep(0.0005)


def come(folder, name, parties=2):
    """Wait for the others: an item that ended would leave its cores to them."""
    mark(folder, name)
    wait_until(lambda: len(os.listdir(folder)) >= parties, f"{parties} to come")


def threads():
    return len(threading.enumerate())


def test_a_share_of_n_gives_n_busy_threads(folder, cores):
    """Items of an inner call run on n threads at once, that of the outer item among them, in a worker and below."""

    def inner(own, depth, end):
        if depth:
            (found,) = pk.map(inner, [own], depth=depth - 1, end=end)
            return found
        meter, caller = Meter(), threading.get_ident()
        pk.map(leaf, range(50), meter=meter, meeting=own, parties=3)
        come(end, os.path.basename(own))
        return meter.most, str(caller) in os.listdir(own)

    cores(6)
    with pk.Pool(workers=2, chunksize=1) as pool:
        for depth in (0, 2):
            folders = [folder / f"{depth}-{name}" for name in ("a", "b", "end")]
            for one in folders:
                one.mkdir()
            *own, end = map(str, folders)
            assert pool.map(inner, own, depth=depth, end=end) == [(3, True)] * 2


def test_shares_beside_each_other(folder, cores):
    """Two items on threads with a share of three each: six inner items run at once, and never a seventh."""
    meter = Meter()

    def inner(_):
        pk.map(leaf, range(30), meter=meter, meeting=str(folder), parties=6)

    cores(6)
    with pk.Pool(workers=2, backend="thread", chunksize=1) as pool:
        pool.map(inner, range(2))
    assert meter.most == 6


@pytest.mark.parametrize(
    ("cores_in_all", "workers", "items", "shares"),
    [
        (5, 2, 2, [2, 3]),
        (7, 3, 3, [2, 2, 3]),
        (8, 4, 2, [4, 4]),
        (8, 4, 3, [2, 3, 3]),
        (3, 8, 3, [1] * 3),
    ],
)
@pytest.mark.parametrize("backend", ["process", "thread"])
def test_shares_leave_nothing_over(backend, cores_in_all, workers, items, shares, folder, cores):
    """Remainders are used, and fewer items than workers leave more cores for each."""

    def share(i):
        before = pk.nesting().cores  # the others have begun, or will: no tail yet
        come(folder, i, items)
        return before

    cores(cores_in_all)
    with pk.Pool(workers=workers, backend=backend, chunksize=1) as pool:
        found = sorted(pool.map(share, range(items)))
    # The last item to begin may find the cores of workers that got none.
    assert all(a >= b for a, b in zip(found, shares, strict=True))
    assert len(found) == items


def test_a_thousand_inner_calls_at_a_time(folder, cores):
    """A thousand open iterators, and as many calls from many threads, need no more helpers than cores."""

    def inner(i):
        pk.map(increment, range(3))
        before, meter = threads(), Meter()
        streams = [pk.imap(leaf, range(3), meter=meter) for _ in range(1000)]
        for stream in streams:
            next(stream)
        opened = threads() - before
        assert sum(len(list(stream)) for stream in streams) == 2000
        come(folder, i)
        return opened, meter.most

    cores(6)
    with pk.Pool(workers=2, chunksize=1) as pool:
        for opened, most in pool.map(inner, range(2)):
            assert opened <= 3 + 3  # helpers, and the threads of the pool that hosts them
            assert most <= 3


def test_a_thousand_calls_from_threads_of_an_item(folder, cores):
    """Threads that an item starts by itself share the helpers of its calls."""

    def inner(i):
        before = threads()
        with ThreadPoolExecutor(20) as executor:
            calls = [executor.submit(pk.map, increment, range(4)) for _ in range(1000)]
            most = max(threads() for call in calls if call.result() == [1, 2, 3, 4])
        come(folder, i)  # an item that is alone has more cores
        return most - before

    cores(6)
    with pk.Pool(workers=2, chunksize=1) as pool:
        assert max(pool.map(inner, range(2))) <= 20 + 3 + 3


def test_a_thousand_background_calls_in_an_item(folder, cores):
    """A thousand amaps within an item run on no more threads than its share."""

    def inner(i):
        before, meter = threads(), Meter()
        with pk.Pool() as own:
            calls = [own.amap(leaf, range(2), meter=meter) for _ in range(1000)]
            opened = threads() - before
            assert all(call.result() == [None, None] for call in calls)
        come(folder, i)
        return opened, meter.most

    cores(6)
    with pk.Pool(workers=2, chunksize=1) as pool:
        for opened, most in pool.map(inner, range(2)):
            assert opened <= 3 + 3 + 3
            assert most <= 2 * 3


def mixed(x, backends):
    """A call in a call in a call, each on the next backend, with workers asked for."""
    if not backends:
        return 1
    with pk.Pool(workers=2, backend=backends[0]) as pool:
        return sum(pool.map(mixed, [x, x + 1], backends=backends[1:]))


@pytest.mark.parametrize(
    "backends",
    [
        ["process"] * 6,
        ["thread"] * 6,
        ["process", "thread", "serial", "process", "thread", "thread"],
        ["thread", "process", "thread", "serial", "thread", "process"],
        ["serial", "serial", "process", "thread", "process", "serial"],
    ],
    ids="-".join,
)
def test_no_deadlock_at_depth_six(backends):
    """Six levels of pools with two workers each, in any mixture, end with the right answer."""
    assert mixed(0, backends) == 2 ** len(backends)


def quicksort(numbers):
    """A parallel quicksort without any limit to its recursion."""
    if len(numbers) < 2:
        return numbers
    pivot = numbers[len(numbers) // 2]
    parts = [x for x in numbers if x < pivot], [x for x in numbers if x > pivot]
    below, above = pk.map(quicksort, parts)
    return [*below, *(x for x in numbers if x == pivot), *above]


@pytest.mark.parametrize("backend", ["process", "thread", "serial"])
def test_recursion_ends(backend, cores):
    """A quicksort that calls pk.map for both halves sorts, on few cores and on many."""
    numbers = [i * 7919 % 1009 for i in range(600)]
    for n in (2, 8):
        cores(n)
        with pk.configure(backend=backend):
            assert quicksort(numbers) == sorted(numbers)


def test_serial_pools_pass_the_share_on(folder, cores):
    """A serial level in between costs no core: below it the call has the same share."""
    cores(4)

    def inner(_):
        with pk.Pool(backend="serial") as pool:
            return pool.map(lambda _: pk.nesting(), [0])[0]

    with pk.Pool(workers=2, chunksize=1) as pool:
        for nesting in pool.map(inner, range(2)):
            assert nesting.level == 2
            assert nesting.cores >= 2


def test_auto_takes_threads_where_there_is_no_lock(monkeypatch):
    """backend="auto" is processes under a lock of the interpreter, and threads without one."""
    with pk.Pool(workers=2, backend="auto") as pool:
        for locked in (True, False):
            monkeypatch.setattr(sys, "_is_gil_enabled", lambda locked=locked: locked, raising=False)
            pids = set(pool.map(lambda _: os.getpid(), range(4)))
            assert (os.getpid() in pids) is not locked
