"""PoolExecutor: what `concurrent.futures` promises, and what is promised beyond."""

import gc
import itertools
import multiprocessing
import os
import pickle
import threading
import time
import weakref
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from helpers import (
    PlainError,
    add,
    add_all,
    broken_set_up,
    die,
    fail_on,
    identity,
    increment,
    mark,
    pid,
    record,
    set_up,
    setting,
    two_parts,
    wait_at,
    wait_for,
    wait_until,
)

import parallelkit as pk
from parallelkit.place import system

ONE_START_METHOD = True


def inverse(x):
    return 1 / x


@pytest.fixture
def executor(concurrent_pool):
    """A maker of executors of two workers, on every backend that runs two items at a time."""
    made = []

    def make(workers=2, **options):
        own = {"backend": concurrent_pool.backend, "start_method": concurrent_pool.start_method}
        made.append(pk.PoolExecutor(workers, **{**own, **options}))
        return made[-1]

    yield make
    for each in made:
        each.shutdown(wait=True, cancel_futures=True)


def fill(executor, gate, workers=2):
    """Give every worker an item that waits for the gate."""
    busy = [executor.submit(wait_at, gate, i) for i in range(workers)]
    for i in range(workers):
        wait_for(gate.with_name(f"{gate.name}-{i}"))
    assert all(future.running() for future in busy)
    return busy


# ---- calls ---------------------------------------------------------------------------------------


@pytest.mark.each_start_method
def test_submit_and_map(executor):
    """Calls with arguments and keywords, maps over the shortest of several inputs, errors as they are."""
    with executor() as own:
        assert own.submit(add_all, 1, 2, p=3).result() == 6
        assert own.submit(lambda: os.sep).result() == os.sep
        assert list(own.map(add, range(5), itertools.count(10))) == [10, 12, 14, 16, 18]
        assert list(own.map(increment, range(1000))) == list(range(1, 1001))
        assert list(own.map(increment, range(10), chunksize=3)) == list(range(1, 11))
        assert list(own.map(increment)) == list(own.map(increment, [])) == []
        assert isinstance(own.submit(fail_on, 1, [1]).exception(), ValueError)


@pytest.mark.parametrize("buffersize", [None, 1, 3])
def test_an_error_in_a_map(executor, buffersize):
    """Results before the item that failed come first; its error ends the iterator."""
    results = executor().map(fail_on, range(6), [[4]] * 6, chunksize=1, buffersize=buffersize)
    assert [next(results) for _ in range(4)] == [0, 10, 20, 30]
    with pytest.raises(ValueError, match="bad item 4"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_a_map_with_a_timeout(executor, folder):
    """The results that are there come; then TimeoutError, and items that were not begun are not run."""
    gate = folder / "gate"
    own = executor()
    busy = fill(own, gate)
    results = own.map(record, range(10), [folder] * 10, timeout=0.05, chunksize=1)
    with pytest.raises(TimeoutError):
        next(results)
    mark(folder, "gate")
    futures.wait(busy)
    own.shutdown()
    assert not (folder / "ran-9").exists()


def test_a_buffer_bounds_what_is_drawn(executor):
    """With buffersize an endless input is drawn only as far ahead of the results as that."""
    drawn = itertools.count()
    results = executor().map(increment, drawn, buffersize=3)
    assert [next(results) for _ in range(10)] == list(range(1, 11))
    results.close()
    assert next(drawn) <= 14


def test_the_input_is_drawn_at_once(executor):
    """What becomes of an input after map() does not change the results."""
    inputs = [1, 2, 3]
    results = executor().map(increment, inputs)
    inputs.clear()
    assert list(results) == [2, 3, 4]


def test_a_map_is_done_though_nobody_looks(executor, folder):
    """Items of a map whose iterator is dropped are run before shutdown returns."""
    with executor() as own:
        own.map(record, range(30), [folder] * 30)
    assert len(os.listdir(folder)) == 30


def test_bad_arguments():
    """Bad sizes, functions and options are told at once."""
    for number in (0, -1):
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            pk.PoolExecutor(number)
    with pytest.raises(TypeError, match="unknown option 'worker'"):
        pk.PoolExecutor(worker=2)
    with pk.PoolExecutor(2, "thread") as own:
        with pytest.raises(TypeError, match="must be callable"):
            own.submit(5)
        with pytest.raises(TypeError, match="must be callable"):
            own.map(5, [1])
        for name in ("chunksize", "buffersize"):
            with pytest.raises(ValueError, match=f"{name} must be at least 1"):
                own.map(abs, [1], **{name: 0})
            with pytest.raises(TypeError, match=f"{name} must be a whole number"):
                own.map(abs, [1], **{name: "2"})
        with pytest.raises(TypeError, match="cannot be sent to a worker"):
            pickle.dumps(own)


# ---- futures -------------------------------------------------------------------------------------


@pytest.mark.each_start_method
def test_states_and_cancelling(executor, folder):
    """A future that waits for a worker is pending and can be cancelled; one that runs cannot."""
    own, gate = executor(), folder / "gate"
    busy = fill(own, gate)
    queued, heard = own.submit(record, 1, folder), []
    queued.add_done_callback(heard.append)
    assert not queued.running()
    assert not busy[0].cancel()
    assert queued.cancel()
    assert heard == [queued]
    mark(folder, "gate")
    assert futures.wait([queued, *busy]).not_done == set()
    own.shutdown()
    assert not (folder / "ran-1").exists()


def test_waiting_for_several(executor):
    """as_completed and wait serve these futures as any."""
    own = executor()
    tasks = [own.submit(fail_on, i, [3]) for i in range(6)]
    assert set(futures.as_completed(tasks)) == set(tasks)
    done, _ = futures.wait(tasks, return_when=futures.FIRST_EXCEPTION)
    assert tasks[3] in done


def test_results_come_while_others_run(executor, folder):
    """A result is told at once, whatever else is running."""
    own, gate = executor(), folder / "gate"
    long = own.submit(wait_for, gate)
    assert [own.submit(increment, i).result(60) for i in range(20)] == list(range(1, 21))
    assert not long.done()
    mark(folder, "gate")
    long.result(60)


def test_calls_that_wait_for_later_ones(executor, folder):
    """A call that waits for one submitted after it does not keep that from running."""
    own = executor()
    for i in range(20):  # short ones, from which one might learn to send in advance
        own.submit(increment, i).result()
    first = own.submit(wait_for, folder / "third")
    own.submit(increment, 1)
    third = own.submit(mark, folder, "third")
    assert third.result(60)
    first.result(60)


def only_once(i, folder):
    """Fail where the same item runs a second time; one of ten takes long enough to be overtaken."""
    Path(folder, f"item-{i}").touch(exist_ok=False)
    if i % 10 == 0:
        time.sleep(0.012)
    return i


def test_a_call_beside_an_iterator_that_is_not_read_on(process_pool, folder):
    """It gets a worker though nobody waits for it, and nobody takes what the workers have sent."""
    pool = process_pool(chunksize=1)
    results = pool.imap(increment, range(1000))
    assert next(results) == 1
    pool.submit(mark, folder, "ran")
    wait_for(folder / "ran")
    results.close()


def test_each_call_runs_once_whoever_runs_it(executor, folder):
    """Short calls are sent in advance, and taken back behind long ones: none is lost or run twice."""
    own = executor()
    for i in range(20):
        own.submit(increment, i).result()
    tasks = [own.submit(only_once, i, folder) for i in range(300)]
    assert [task.result(60) for task in tasks] == list(range(300))


def test_what_is_sent_in_advance_is_taken_back(executor, folder):
    """Of many short calls one waits for the last: others behind it are run by who is free."""
    own = executor()
    for turn in range(5):
        tasks = [own.submit(increment, i) for i in range(20)]
        first = own.submit(wait_for, folder / f"last-{turn}")
        tasks += [own.submit(increment, i) for i in range(20)]
        last = own.submit(mark, folder, f"last-{turn}")
        assert [task.result(60) for task in tasks] == [*range(1, 21), *range(1, 21)]
        last.result(60)
        first.result(60)


def test_a_callback_runs_though_the_waiting_thread_holds_its_lock(executor, concurrent_pool):
    """Who waits for a result settles others, but runs no callbacks of theirs."""
    if concurrent_pool.elsewhere:
        pytest.skip("one thread takes in all results, and runs the callbacks")
    own, lock, told = executor(), threading.Lock(), threading.Event()

    def callback(_):
        with lock:
            told.set()

    with lock:
        own.submit(increment, 1).add_done_callback(callback)
        assert [own.submit(increment, i).result(60) for i in range(5)] == [1, 2, 3, 4, 5]
    assert told.wait(60)


def test_executors_do_not_wait_for_each_other(executor, concurrent_pool, folder):
    """Items of one executor that wait for those of another find it with workers of its own."""
    if concurrent_pool.elsewhere:
        pytest.skip("both would run on the one engine that they are given")
    one, other = executor(), executor(initializer=increment, initargs=(1,))
    busy = fill(one, folder / "gate")
    other.submit(mark, folder, "gate").result(60)
    futures.wait(busy)


def test_one_thread_is_one_thread():
    """With one worker, calls and maps run one at a time, as a lock would have it."""
    lock = threading.Lock()

    def alone(_):
        assert lock.acquire(blocking=False)
        threading.Event().wait(0.001)
        lock.release()

    with pk.PoolExecutor(1, "thread") as own:
        tasks = [own.submit(alone, i) for i in range(10)]
        maps = [own.map(alone, range(10)) for _ in range(3)]
        assert {task.result() for task in tasks} == {None}
        assert set(itertools.chain(*maps)) == {None}


def test_errors_travel(executor):
    """An exception with a signature of its own comes back whole, with its traceback as the cause."""
    error = executor().submit(two_parts, 2).exception()
    assert (error.code, error.reason) == (404, "not found")
    assert error.__cause__ is not None or error.__traceback__ is not None


class Thing:
    def call(self):
        return None


def test_nothing_refers_to_what_is_done(executor):
    """Neither arguments nor results are kept when the future is gone."""
    own, thing = executor(), Thing()
    gone = weakref.ref(thing)
    own.submit(thing.call).result()
    del thing
    wait_until(lambda: gc.collect() < 0 or gone() is None, "the end of an argument")
    for result in own.map(identity, [Thing() for _ in range(10)], chunksize=1):
        gone = weakref.ref(result)
        del result
        wait_until(lambda: gone() is None, "the end of a result")  # noqa: B023 - called at once


# ---- the end -------------------------------------------------------------------------------------


def test_after_shutdown(executor, folder):
    """shutdown takes no more and waits for what there is, or not; it may be called again."""
    own = executor()
    busy = fill(own, folder / "gate")
    queued = [own.submit(increment, i) for i in range(5)]
    own.shutdown(wait=False)
    for call in (own.submit, own.map):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            call(increment, [1])
    assert not any(task.done() for task in queued)
    mark(folder, "gate")
    own.shutdown()
    assert [task.result(0) for task in queued] == list(range(1, 6))
    assert all(task.done() for task in busy)


def test_shutdown_cancels(executor, folder):
    """cancel_futures cancels what has not been begun, single calls and maps, and lets the rest end."""
    own = executor()
    busy = fill(own, folder / "gate")
    queued = [own.submit(increment, i) for i in range(5)]
    mapped = own.map(increment, range(5))
    own.shutdown(wait=False, cancel_futures=True)
    assert all(task.cancelled() for task in queued)
    assert futures.wait(queued, 60).not_done == set()
    mark(folder, "gate")
    own.shutdown()
    with pytest.raises(futures.CancelledError):
        list(mapped)
    assert [task.result(60) for task in busy] == [None, None]


def callback_waits(own):
    """Whether a callback may submit to its own executor, or map with it, and wait for what comes of that."""
    found = []

    def go_on(task):
        found.append(own.submit(increment, task.result()).result(60))
        found.extend(own.map(increment, found))

    first = own.submit(increment, 1)
    first.add_done_callback(go_on)
    wait_until(lambda: len(found) == 2, "the callback")
    return found == [3, 4]


def test_a_callback_waits_for_other_calls(executor, concurrent_pool):
    """Other workers, or who waits, see to what it waits for."""
    if concurrent_pool.elsewhere:
        pytest.skip("one thread takes in all results, and runs the callbacks")
    assert callback_waits(executor())


def test_a_callback_waits_for_other_calls_in_place():
    """The one thread that there is runs them meanwhile."""
    with pk.PoolExecutor(backend="serial") as own:
        assert callback_waits(own)


def test_shutdown_ends_trying_again(executor):
    """With cancel_futures a call that waits for another attempt has one at once, and ends with its error."""
    own = executor(retries=20, retry_on=(ZeroDivisionError,), retry_wait=600)
    failing = own.submit(inverse, 0)
    wait_until(failing.running, "the first attempt")
    own.shutdown(cancel_futures=True)
    with pytest.raises(ZeroDivisionError):
        failing.result(60)


def test_shutdown_while_somebody_waits_for_the_next_attempt(executor):
    """It returns when the last attempt is over, for which another thread has done the waiting."""
    own = executor(retries=1, retry_on=(ZeroDivisionError,), retry_wait=2)
    failing = own.submit(inverse, 0)
    waiting = threading.Thread(target=failing.exception)
    waiting.start()
    ending = threading.Thread(target=own.shutdown)
    ending.start()
    waiting.join()
    ending.join(60)
    assert not ending.is_alive()


def test_an_executor_that_is_dropped(executor, folder):
    """What was submitted is done though nothing refers to the executor any more."""
    own = pk.PoolExecutor(2, "thread")
    busy = fill(own, folder / "gate")
    queued, mapped = own.submit(increment, 1), own.map(increment, [1, 2])
    del own
    gc.collect()
    mark(folder, "gate")
    assert [queued.result(60), *mapped] == [2, 2, 3]
    futures.wait(busy)


@pytest.mark.parametrize("backend", ["process", "thread"])
def test_the_end_of_python(script, backend):
    """Python ends when what was submitted is done; nothing can be submitted after that."""
    source = f"""
import atexit, time
import parallelkit as pk

def late():
    try:
        executor.submit(abs, 1)
    except RuntimeError as error:
        print(error, flush=True)

def slowly(text):
    time.sleep(0.05)
    print(text + "\\n", end="", flush=True)

atexit.register(late)
executor = pk.PoolExecutor(2, {backend!r})
futures = [executor.submit(slowly, "call") for _ in range(4)]
executor.map(slowly, ["map"] * 4)
pk.PoolExecutor(2, {backend!r}).submit(slowly, "dropped")
print("main", flush=True)
"""
    said = script(source).out.splitlines()
    assert said[-1] == "cannot schedule new futures after interpreter shutdown"
    assert sorted(said[1:-1]) == ["call"] * 4 + ["dropped"] + ["map"] * 4


# ---- workers -------------------------------------------------------------------------------------


def test_an_initializer(executor, folder):
    """The initializer runs in each worker before its first call."""
    own = executor(initializer=set_up, initargs=(folder, "mine"))
    assert {task.result() for task in [own.submit(setting, 1) for _ in range(6)]} == {(1, "mine")}
    assert 1 <= len(os.listdir(folder)) <= 2


def test_an_initializer_that_fails(executor, folder):
    """Futures get a BrokenExecutor that says why, and so does whoever submits after that."""
    own = executor(initializer=broken_set_up, initargs=(folder,))
    with pytest.raises(futures.BrokenExecutor, match="no device") as caught:
        own.submit(increment, 1).result(60)
    assert isinstance(caught.value.__cause__, PlainError)
    with pytest.raises(BrokenProcessPool, match="no device"):
        own.submit(increment, 1).result(60)
    with pytest.raises(futures.BrokenExecutor, match="no device"):
        list(own.map(increment, [1]))


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"][system.WINDOWS :])
def test_a_worker_that_dies(start_method):
    """It costs the future that it ran, which gets a BrokenProcessPool; the others are done."""
    with pk.PoolExecutor(2, start_method=start_method) as own:
        tasks = [own.submit(die, x, how="exit") for x in range(12)]
        assert isinstance(tasks[5].exception(60), BrokenProcessPool)
        assert isinstance(tasks[5].exception(), pk.WorkerDied)
        assert [t.result(60) for x, t in enumerate(tasks) if x != 5] == [
            x * 10 for x in range(12) if x != 5
        ]
        with pytest.raises(BrokenProcessPool):
            list(own.map(die, [5], ["exit"]))


def test_names_of_the_standard_library():
    """mp_context and max_tasks_per_child mean what they mean for ProcessPoolExecutor."""
    context = multiprocessing.get_context("spawn")
    with pk.PoolExecutor(1, mp_context=context, max_tasks_per_child=2) as own:
        pids = [own.submit(pid).result() for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_within_items(executor):
    """An executor that is made inside an item works there, on threads."""

    def inner(n):
        with pk.PoolExecutor(2) as own:
            return sum(own.map(abs, range(n))), own.submit(abs, -n).result()

    assert list(executor().map(inner, [3, 4], chunksize=1)) == [(3, 3), (6, 4)]


def test_items_that_submit_to_their_own_executor(thread_pool):
    """A call may wait for calls that it submits to the executor that runs it."""
    with pk.PoolExecutor(2, "thread") as own:
        tasks = [own.submit(lambda: own.submit(increment, 1).result(60)) for _ in range(4)]
        assert [task.result(60) for task in tasks] == [2] * 4


def test_where_the_gate_is(folder):
    """Paths cross as they are (what the gates of these tests are made of)."""
    with pk.PoolExecutor(1) as own:
        assert own.submit(identity, Path(folder)).result() == folder


def test_an_executor_in_its_own_items_is_refused_with_advice():
    """What is sent along by mistake is named by what to do instead."""
    with pk.PoolExecutor(2, "process") as executor:
        future = executor.submit(lambda: executor.submit(abs, 1))
        with pytest.raises(pk.TransportError, match=r"use pk\.map inside"):
            future.result()


@pytest.mark.parametrize("backend", ["process", "thread"])
def test_timeout_of_map_tells_the_number_that_was_given(backend):
    """Not what was left of it when the wait began."""
    with pk.PoolExecutor(2, backend) as executor:
        results = executor.map(time.sleep, [0.3], timeout=0.01)
        with pytest.raises(TimeoutError, match=r"within 0\.01 seconds"):
            next(results)
