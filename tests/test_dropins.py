"""The names of multiprocessing and pathos on our workers: what they mean, and where we do better."""

import builtins
import itertools
import multiprocessing
import os
import threading
import weakref
from queue import Queue

import multiprocess
import numpy as np
import pytest
from helpers import (
    add,
    die,
    fail_on,
    hold,
    increment,
    mark,
    pid,
    record,
    set_up,
    setting,
    wait_for,
    wait_until,
)

import parallelkit as pk
from parallelkit.background.futures import as_it_is
from parallelkit.background.jobs import Job
from parallelkit.integrations import multiprocessing as mp
from parallelkit.integrations import pathos

KINDS = {"process": mp.Pool, "thread": mp.ThreadPool}
PATHOS = {"process": pathos.ProcessPool, "thread": pathos.ThreadPool}
HERE = threading.local()


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(params=PATHOS)
def shared(request):
    """A class of pathos; what its pools share is cleared away afterwards."""
    yield PATHOS[request.param]
    PATHOS[request.param].__state__.clear()


# ---- multiprocessing -----------------------------------------------------------------------------


def test_every_call(kind):
    """All ways to call give what the function gives."""
    with kind(2) as pool:
        assert pool.apply(add, (1, 2)) == 3
        assert pool.apply(add, (1,), {"y": 2}) == 3
        assert pool.apply_async(add, (1, 2)).get(60) == 3
        assert pool.map(increment, range(50)) == list(range(1, 51))
        assert pool.map(increment, iter(range(5)), 2) == list(range(1, 6))
        assert pool.map_async(increment, range(5), 2).get(60) == list(range(1, 6))
        assert pool.starmap(add, zip(range(5), range(5), strict=True)) == [0, 2, 4, 6, 8]
        assert pool.starmap_async(add, [(1, 2)]).get(60) == [3]
        assert list(pool.imap(increment, range(50))) == list(range(1, 51))
        assert sorted(pool.imap_unordered(increment, range(50), 3)) == list(range(1, 51))
        assert pool.map(lambda x: x * 2, [1, 2]) == [2, 4]
        assert pool.map(increment, []) == list(pool.imap(increment, [])) == []


def test_results_that_nobody_can_take_any_more_are_not_kept():
    """Once the iterator is dropped, the items are run all the same, but their results go at once."""

    class Large:
        pass

    made, gate = [], threading.Event()

    def make(x):
        if x == 5:
            gate.wait(60)
        large = Large()
        made.append(weakref.ref(large))
        return large

    with mp.ThreadPool(2) as pool:
        results = pool.imap(make, range(6))
        next(results)
        del results
        wait_until(lambda: len(made) == 5 and not any(ref() for ref in made), "no results")
        gate.set()
        pool.close()
        pool.join()
        assert len(made) == 6


def test_results_that_come_while_the_iterator_is_dropped_are_not_kept():
    """Whoever drops it looks neither before nor after they have come, but in the middle of that."""
    job = Job(True, as_it_is)

    def dropped_meanwhile():
        yield "early"
        job.leave()
        yield "late"

    job.give(dropped_meanwhile())
    with pytest.raises(TimeoutError):
        job.next(timeout=0)


def test_callbacks_come_before_the_result(kind):
    """Whoever waits for a result finds that its callback has been called."""
    heard = []
    with kind(2) as pool:
        pool.apply_async(increment, (1,), callback=heard.append).wait()
        pool.map_async(increment, [1, 2], callback=heard.append).wait()
        failing = pool.apply_async(fail_on, (1, [1]), error_callback=heard.append)
        failing.wait()
        assert failing.ready()
        assert not failing.successful()
        assert heard[:2] == [2, [2, 3]]
        assert isinstance(heard[2], ValueError)
        with pytest.raises(ValueError, match="bad item 1"):
            failing.get()


def test_what_is_not_ready(kind, folder):
    """A result that is not there yet says so, and a TimeoutError of whichever kind one expects is raised."""
    with kind(2) as pool:
        result = pool.apply_async(wait_for, (folder / "gate",))
        results = pool.imap(wait_for, [folder / "gate"])
        for error in (multiprocessing.TimeoutError, multiprocess.TimeoutError, TimeoutError):
            with pytest.raises(error):
                result.get(0.01)
            with pytest.raises(error):
                results.next(0.01)
        assert mp.TimeoutError.__mro__[-1] is builtins.object
        assert not result.ready()
        with pytest.raises(ValueError, match="not ready"):
            result.successful()
        mark(folder, "gate")
        assert result.get(60) is results.next(60) is None
        with pytest.raises(StopIteration):
            results.next()


def test_all_items_are_run_though_one_fails(kind, folder):
    """map raises the error of the first item that failed, when all have been run."""
    with kind(2) as pool:
        with pytest.raises(ZeroDivisionError):
            pool.starmap(record_or_fail, [(x, folder) for x in range(8)], 1)
        assert len(os.listdir(folder)) == 7


def record_or_fail(x, folder):
    return 1 / x, record(x, folder)


def test_an_imap_goes_on_behind_an_error(kind):
    """next() raises what an item raised, and then gives the results of the others."""
    with kind(2) as pool:
        results = pool.imap(fail_on_two, range(4))
        assert [next(results), next(results)] == [0, 10]
        with pytest.raises(ValueError, match="bad item 2"):
            next(results)
        assert list(results) == [30]


def fail_on_two(x):
    return fail_on(x, [2])


def test_close_and_join_finish_everything(kind, folder):
    """What was asked for is done by join(), whether or not anybody has looked."""
    pool = kind(2)
    pool.imap(recorder(folder, "imap"), range(20))
    pool.imap_unordered(recorder(folder, "any"), range(20), chunksize=2)
    pool.map_async(recorder(folder, "map"), range(20))
    pool.apply_async(record, ("apply", folder))
    pool.close()
    pool.join()
    assert len(os.listdir(folder)) == 61


def recorder(folder, name):
    return lambda x: record(f"{name}-{x}", folder)


def test_endless_inputs_flow(kind):
    """imap draws an input that does not end, at the pace of the workers."""
    with kind(2) as pool:
        results = pool.imap(increment, itertools.count())
        assert [next(results) for _ in range(100)] == list(range(1, 101))


def test_states(kind):
    """A closed pool takes nothing; join() before that, and bad arguments, are errors."""
    pool = kind(1)
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    pool.close()
    for call in (pool.apply, pool.map, pool.imap, pool.map_async, pool.apply_async):
        with pytest.raises(ValueError, match="not running"):
            call(increment, [1])
    with pytest.raises(ValueError, match="not running"), pool:
        pass
    pool.join()
    for bad in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            kind(bad)
        with pytest.raises(ValueError, match="positive int"):
            kind(1, maxtasksperchild=bad)
    with pytest.raises(TypeError, match="initializer must be callable"):
        kind(1, initializer=5)


def test_leaving_the_block_ends_what_runs(folder):
    """As in the original, a with block ends with terminate(): items that would never end are given up."""
    with mp.Pool(2) as pool:
        results = [pool.apply_async(hold, (0, folder)), pool.map_async(increment, range(5))]
        wait_until((folder / "held-0").exists, "an item that runs")
    pool.join()
    with pytest.raises(pk.ParallelError, match="terminated"):
        results[0].get(60)


def serve(jobs, results):
    for number in iter(jobs.get, None):
        results.put(number * number)


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_workers_that_only_serve_a_queue(end):
    """With an initializer the workers start with the pool; `close` lets them finish, `terminate` does not."""
    jobs, results = multiprocessing.Queue(), multiprocessing.Queue()
    pool = mp.Pool(2, serve, (jobs, results))
    jobs.put(2)
    assert results.get(timeout=60) == 4
    getattr(pool, end)()
    if end == "close":
        for number in (3, None, None):
            jobs.put(number)
    pool.join()
    for queue in (jobs, results):
        if end == "close" and queue is results:
            assert queue.get(timeout=60) == 9
        queue.cancel_join_thread()
        queue.close()


def test_an_initializer_that_cannot_be_sent():
    """What the workers would wait for in vain is told when the pool is made."""
    with pytest.raises(pk.TransportError, match="initargs"):
        mp.Pool(1, serve, (iter(()), (x for x in ())))


def test_initializer_and_lifetime(folder):
    """The initializer runs in each worker; maxtasksperchild replaces workers."""
    with mp.Pool(1, set_up, (folder, "mine"), maxtasksperchild=2) as pool:
        assert pool.apply(setting, (1,)) == (1, "mine")
        assert len({pool.apply(pid) for _ in range(5)}) == 3


def test_a_dead_worker_costs_one_item():
    """Where the original would hang, one item fails and the others are done."""
    with mp.Pool(2) as pool:
        results = pool.imap(die_at_five, range(8), chunksize=1)
        assert [next(results) for _ in range(5)] == [0, 10, 20, 30, 40]
        with pytest.raises(pk.WorkerDied):
            next(results)
        assert list(results) == [60, 70]
        with pytest.raises(pk.WorkerDied):
            pool.map(die_at_five, range(8))


def die_at_five(x):
    return die(x, "exit")


def test_no_more_threads_than_asked_for():
    """Calls and maps of one thread pool run in its threads, however many there are of them."""
    running, most = [], []

    def watched(x):
        running.append(x)
        most.append(len(running))
        running.remove(x)
        return x

    with mp.ThreadPool(2) as pool:
        results = [pool.map_async(watched, range(50), 5) for _ in range(4)]
        results += [pool.apply_async(watched, (i,)) for i in range(50)]
        assert [result.get(60) for result in results] == [list(range(50))] * 4 + list(range(50))
    assert max(most) <= 2


def test_threads_with_an_initializer_start_with_the_pool():
    """They run it once each before any call, and calls run in these very threads."""
    ran, local, both = [], threading.local(), threading.Barrier(3)

    def begin(factor):
        ran.append(threading.get_ident())
        local.factor = factor
        both.wait(60)

    with mp.ThreadPool(2, begin, (7,)) as pool:
        both.wait(60)  # no call was made
        times = lambda x: (x * local.factor, threading.get_ident())
        results = [*pool.map(times, [1, 2]), *pool.imap(times, [3]), pool.apply(times, (4,))]
    assert [value for value, _ in results] == [7, 14, 21, 28]
    assert len(ran) == 2
    assert {thread for _, thread in results} <= set(ran)


def test_threads_that_serve_a_queue_keep_no_other_from_work():
    """An initializer may be all that they are for; it goes on while the pool is terminated."""
    jobs, results = Queue(), Queue()

    def serve():
        while (job := jobs.get()) is not None:
            results.put(job + 1)

    for threads in (1, 2):
        with mp.ThreadPool(threads, serve):
            jobs.put(threads)
            assert results.get(timeout=60) == threads + 1
            assert pk.Pool(2, backend="thread").map(increment, [1, 2]) == [2, 3]
    for _ in range(3):
        jobs.put(None)


# ---- pathos --------------------------------------------------------------------------------------


def test_pathos_calls(shared):
    """All ways to call give what the function gives, cut at the shortest input."""
    pool = shared(2)
    assert pool.map(add, [1, 2], [10, 20, 30]) == [11, 22]
    assert list(pool.imap(add, [1, 2], iter([10, 20, 30]), chunksize=1)) == [11, 22]
    assert sorted(pool.uimap(increment, range(30))) == list(range(1, 31))
    assert pool.pipe(add, 1, y=2) == 3
    assert pool.apipe(add, 1, y=2).get() == 3
    result = pool.amap(increment, [1, 2])
    result.wait()
    assert result.ready()
    assert result.successful()
    assert result.get() == [2, 3]
    assert pool.map(lambda x: x * 2, [1, 2]) == [2, 4]
    with pytest.raises(TypeError, match="at least two args"):
        pool.map(increment)


def set_array(array):
    HERE.array = array


def given_array(_):
    return HERE.array.tolist()


def test_pathos_pools_are_shared(shared):
    """Pools with the same id are one pool: closing one closes the other, restart opens both."""
    one, other = shared(2), shared(2)
    one.close()
    with pytest.raises(ValueError, match="not running"):
        other.map(increment, [1])
    other.restart()
    assert one.map(increment, [1]) == [2]
    with pytest.raises(AssertionError):
        one.restart()
    one.restart(force=True)
    with pytest.raises(ValueError, match="still running"):
        one.join()
    one.close()
    one.join()
    one.clear()
    assert shared.__state__ == {}
    assert one.map(increment, [1]) == [2]
    one.terminate()
    one.clear()
    apart = shared(2, id="apart")
    one.restart()
    assert apart.map(increment, [1]) == [2]
    apart.close()
    assert one.map(increment, [1]) == [2]


def test_pathos_nodes(shared):
    """nodes and ncpus name the number of workers, and may be set."""
    assert shared(nodes=3).nodes == shared(ncpus=3).ncpus == shared(processes=3).nodes == 3
    pool = shared()
    assert pool.nodes == pk.cpu_count()
    pool.nodes = 3
    assert pool.ncpus == 3
    assert pool.map(increment, [1]) == [2]
    assert repr(pool) == f"<pool {shared.__name__}(ncpus=3)>"
    with pytest.raises(TypeError, match="multiple values"):
        shared(2, nodes=2)


def test_pathos_settings_that_cannot_be_compared(shared):
    """An initializer's arrays do not compare as a whole: pools that are given others are made anew."""
    for wanted in ([1, 2], [3, 4]):
        pool = shared(2, initializer=set_array, initargs=(np.array(wanted),))
        assert pool.map(given_array, range(3)) == [wanted] * 3


def test_pathos_blocks_close_nothing(shared):
    """Results may be asked for after the with block, as in pathos."""
    with shared(2) as pool:
        result = pool.amap(increment, [1, 2])
    assert result.get() == [2, 3]
    assert pool.map(increment, [1]) == [2]


def test_pathos_initializer(folder):
    """Options of the pool are options of ours, under the names of pathos too."""
    pool = pathos.ProcessPool(1, initializer=set_up, initargs=(folder, "mine"), maxtasksperchild=1)
    assert pool.pipe(setting, 1) == (1, "mine")
    assert len({pool.pipe(pid) for _ in range(3)}) == 3
    pathos.ProcessPool.__state__.clear()


def test_pathos_serial():
    """SerialPool runs in place, and lazily."""
    pool, ran = pathos.SerialPool(), []
    results = pool.map(ran.append, [1, 2])
    assert ran == []
    assert list(results) == [None, None]
    assert list(pool.imap(add, [1], [2])) == [3]
    assert pool.pipe(add, 1, y=2) == 3
    with pytest.raises(AssertionError):
        pool.join()
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.map(increment, [1])
    pool.join()
    pool.restart()
    assert pool.nodes == len(list(pool.map(increment, [1]))) == 1


def test_within_items(shared):
    """Pools inside the items of pools work, also under the same id."""

    def inner(n):
        return shared(2).map(increment, range(n))

    assert shared(2).map(inner, [1, 2]) == [[1], [1, 2]]
