"""imap and uimap: lazy on their input, bounded ahead of the consumer, and easy to leave."""

import contextlib
import gc
import itertools
import queue
import threading
import types

import numpy as np
import pytest
from faults import tally
from helpers import fail_on, hold_at, identity, increment, meet, record, wait_for

import parallelkit as pk
from parallelkit.values import sizer
from parallelkit.worker import task

ONE_START_METHOD = True

LAZY = ("imap", "uimap")
WORKERS = 2
BIGGEST_CHUNK = 8192


class Drawn:
    """An endless input that counts what was drawn from it."""

    def __init__(self):
        self.count = 0

    def __iter__(self):
        for self.count in itertools.count(1):
            yield self.count - 1


def ahead(chunksize):
    """How much may be drawn before it is needed."""
    return max(64 * WORKERS, 4 * WORKERS * chunksize)


@pytest.mark.parametrize("name", LAZY)
def test_results_are_generators(pool, name):
    """The iterators can be closed."""
    results = getattr(pool(), name)(identity, range(3))
    assert iter(results) is results
    assert next(results) in range(3)
    results.close()
    assert list(results) == []


@pytest.mark.parametrize("name", LAZY)
def test_an_endless_input_works(pool, name):
    """Results come from an input that never ends."""
    results = getattr(pool(), name)(increment, itertools.count())
    got = list(itertools.islice(results, 1000))
    results.close()
    assert len(set(got)) == 1000
    if name == "imap":
        assert got == list(range(1, 1001))


@pytest.mark.parametrize("chunksize", [1, 7, 100, 2000])
@pytest.mark.parametrize("name", LAZY)
def test_the_input_is_drawn_within_a_bound(pool, name, chunksize):
    """Never more than the stated window is drawn ahead of what the consumer took."""
    drawn, ahead_of, most = Drawn(), [], 500 if pool.elsewhere else 5000
    results = getattr(pool(chunksize=chunksize), name)(identity, drawn)
    for taken, _ in enumerate(itertools.islice(results, most), 1):
        ahead_of.append(drawn.count - taken)
    results.close()
    assert len(ahead_of) == most
    assert max(ahead_of) <= ahead(chunksize)


@pytest.mark.parametrize("name", LAZY)
def test_adaptive_chunks_are_bounded_too(pool, name):
    """With chunks that grow by themselves the window stays within that of the largest chunk."""
    drawn, ahead_of = Drawn(), []
    results = getattr(pool(), name)(identity, drawn)
    for taken, _ in enumerate(itertools.islice(results, 200_000), 1):
        ahead_of.append(drawn.count - taken)
    results.close()
    assert len(ahead_of) == 200_000
    assert max(ahead_of) <= ahead(BIGGEST_CHUNK)


def in_an_array(x):
    return np.zeros(10_000)


def in_a_list(x):
    return [{"a": np.zeros(10_000)}]


def in_an_object(x):
    return types.SimpleNamespace(a=np.zeros(10_000))


@pytest.mark.parametrize("made", [in_an_array, in_a_list, in_an_object])
@pytest.mark.parametrize("chunksize", [None, 20])
@pytest.mark.parametrize("name", LAZY)
def test_results_that_wait_are_bounded_in_bytes(monkeypatch, name, chunksize, made):
    """Large results of threads wait up to the bound in bytes, which is told when small ones came first."""
    monkeypatch.setattr(sizer, "WINDOW_BYTES", 10 * 80_000)
    monkeypatch.setattr(sizer, "LARGEST_BYTES", 80_000)
    monkeypatch.setattr(task, "LARGEST_BYTES", 80_000)
    done, ahead_of = [], []

    def work(x):
        if x < 300:
            return x
        result = made(x)
        done.append(x)
        return result

    pool = pk.Pool(2, backend="thread", chunksize=chunksize)
    large = (result for result in getattr(pool, name)(work, range(500)) if type(result) is not int)
    for taken, _ in enumerate(large, 1):
        ahead_of.append(len(done) - taken)
    assert len(ahead_of) == 200
    assert max(ahead_of) <= 10 + 2 * WORKERS  # and what threads had begun when they learnt of it


def test_an_item_given_back_is_run_where_large_results_wait_for_it(monkeypatch, tmp_path):
    """The next item in order is run at once, however much there is of what comes after it."""
    monkeypatch.setattr(sizer, "WINDOW_BYTES", 3 * 80_000)

    def work(x):
        if x == 0 and tally(tmp_path, "first") < 4:
            raise OSError
        return np.full(10_000, float(x))

    with pk.Pool(2, retries=9, retry_on=OSError, retry_wait=0.01, backend="thread") as pool:
        got = [array[0] for array in pool.imap(work, range(50))]
    assert got == list(range(50))


@pytest.mark.parametrize("name", LAZY)
def test_an_idle_consumer_stops_the_drawing(pool, name):
    """While the consumer takes nothing, the window fills and no further, however long other calls go on."""
    drawn, own = Drawn(), pool(chunksize=1)
    results = getattr(own, name)(identity, drawn)
    next(results)
    for _ in range(2 if pool.elsewhere else 20):
        assert own.map(increment, range(300)) == list(range(1, 301))
    assert drawn.count <= 1 + ahead(1)
    results.close()


@pytest.mark.parametrize("name", LAZY)
def test_an_input_that_raises_raises_after_the_results_before_it(pool, name):
    """The error of an input iterator comes where it happened, after the results of what it gave."""

    def source():
        yield from range(10)
        raise OSError("the tape is torn")

    results = getattr(pool(), name)(increment, source())
    assert sorted(itertools.islice(results, 10)) == list(range(1, 11))
    with pytest.raises(OSError, match="the tape is torn"):
        next(results)


def test_map_raises_the_error_of_its_input(pool):
    """A list cannot be half there: map raises the error of the iterator."""

    def source():
        yield 1
        raise OSError("the tape is torn")

    with pytest.raises(OSError, match="the tape is torn"):
        pool().map(increment, source())


def test_imap_raises_at_the_item_that_failed(pool):
    """With imap the results before the failed item arrive first."""
    results = pool(chunksize=1).imap(fail_on, range(10), bad=[4])
    assert [next(results) for _ in range(4)] == [0, 10, 20, 30]
    with pytest.raises(ValueError, match="bad item 4"):
        next(results)
    assert list(results) == []


@pytest.mark.parametrize("name", LAZY)
def test_a_live_input_is_answered_at_once(pool, name):
    """An item of a queue gives its result before the next item is fed."""
    feed = queue.Queue()
    results = getattr(pool(), name)(increment, iter(feed.get, None))
    for i in range(20):
        feed.put(i)
        assert next(results) == i + 1
    feed.put(None)
    assert list(results) == []


@pytest.mark.parametrize("name", LAZY)
def test_leaving_a_live_input_does_not_wait_for_it(concurrent_pool, name):
    """close returns while the input is still waiting for its next item."""
    feed = queue.Queue()
    results = getattr(concurrent_pool(), name)(increment, iter(feed.get, None))
    feed.put(1)
    assert next(results) == 2
    closing = threading.Thread(target=results.close, daemon=True)
    closing.start()
    closing.join(30)
    feed.put(None)
    assert not closing.is_alive()


@pytest.mark.parametrize("leave", ["close", "drop"])
@pytest.mark.parametrize("name", LAZY)
def test_leaving_early_drops_what_is_queued(pool, folder, name, leave):
    """Items that have not begun when the iterator is closed or dropped never run, and the pool is free."""
    own = pool(chunksize=1)
    results = getattr(own, name)(record, range(100_000), folder=folder)
    next(results)
    if leave == "close":
        results.close()
    del results
    gc.collect()
    assert own.map(increment, range(100)) == list(range(1, 101))
    assert 1 <= sum(1 for _ in folder.iterdir()) <= ahead(1) + 1


@pytest.mark.parametrize("leave", ["close", "drop"])
@pytest.mark.parametrize(("name", "stuck"), [("imap", 1), ("uimap", 0)])
def test_leaving_early_frees_busy_workers(process_pool, tmp_path, folder, name, stuck, leave):
    """An item that would never end is given up when the iterator is left, and both workers take new items."""
    own = process_pool(chunksize=1)
    results = getattr(own, name)(hold_at, itertools.count(), at=stuck, folder=tmp_path)
    assert next(results) != stuck
    wait_for(tmp_path / f"held-{stuck}")
    if leave == "close":
        results.close()
    del results
    gc.collect()
    assert len(set(own.map(meet, range(2), folder=folder, parties=2))) == 2


@pytest.mark.parametrize("name", LAZY)
def test_nothing_is_drawn_twice_or_skipped_by_a_slow_start(pool, name):
    """An input that gives its items in bursts is drawn to its end, each item once."""

    def bursts():
        for size in (1, 500, 2, 1000, 1):
            yield from range(size)

    expected = [i for size in (1, 500, 2, 1000, 1) for i in range(size)]
    assert sorted(getattr(pool(), name)(identity, bursts())) == sorted(expected)


@pytest.mark.parametrize("name", LAZY)
def test_pipelines_on_one_pool(pool, name):
    """The results of one iterator are the input of the next, on the same workers."""
    own = pool()
    first = getattr(own, name)(increment, range(500))
    second = getattr(own, name)(increment, first)
    third = getattr(own, name)(increment, second)
    assert sorted(third) == list(range(3, 503))


@pytest.mark.parametrize("name", LAZY)
def test_two_iterators_side_by_side(pool, name):
    """Two iterators of one pool may be consumed by turns."""
    own = pool()
    one, two = (
        getattr(own, name)(identity, range(300)),
        getattr(own, name)(identity, range(300, 600)),
    )
    pairs = list(zip(one, two, strict=True))
    assert sorted(a for a, _ in pairs) == list(range(300))
    assert sorted(b for _, b in pairs) == list(range(300, 600))


def test_an_iterator_outlives_the_name_of_its_pool(pool):
    """An iterator that is under way needs no reference to the pool that made it."""
    results = pool().imap(increment, range(1000))
    gc.collect()
    assert list(results) == list(range(1, 1001))


def test_iterators_are_consumed_in_another_thread(pool):
    """The thread that consumes need not be the one that made the call."""
    results, got = pool().imap(increment, range(200)), []
    consumer = threading.Thread(target=lambda: got.extend(results))
    consumer.start()
    consumer.join(60)
    assert got == list(range(1, 201))


def test_an_iterator_that_nobody_reads_yet_holds_up_no_other_call(concurrent_pool):
    """An iterator that was opened and not begun, with more work than workers, leaves others their turn."""
    own = concurrent_pool(chunksize=1)
    with contextlib.closing(own.imap(abs, itertools.count())) as unread:
        assert own.map(abs, range(9)) == list(range(9))
        assert next(unread) == 0


def test_large_items_are_drawn_a_few_at_a_time(pool):
    """What waits is bounded in bytes: of inputs with 32 MB each, 256 MB and an item a worker at the most."""
    numpy = pytest.importorskip("numpy")
    drawn = []

    def inputs():
        for i in range(200):
            drawn.append(i)
            yield numpy.zeros(4 << 20)

    results = pool(workers=2).imap(len, inputs())
    assert next(results) == 4 << 20
    assert len(drawn) <= 8 + 2 + 1
    results.close()
