"""What people type, on every backend: map, imap, uimap, starmap, run, parallel, Pool and its futures."""

import functools
import os
import sys
import threading
import types
from concurrent import futures

import faults
import pytest
from backends import START_METHODS
from helpers import (
    add,
    add_all,
    call_with,
    fail_on,
    first_waits,
    hold,
    identity,
    increment,
    mark,
    meet,
    pid,
    wait_for,
    wait_until,
)

import parallelkit as pk


class Model:
    """Methods that call parallel again, as the functions of the reference do."""

    def __init__(self, thread):
        self.thread = thread

    def part(self, y, offset=0):
        return y + offset

    def single(self, x):
        return x + sum(pk.parallel(self.part, [2, 3, 4], thread=self.thread))

    def frozen(self, x):
        return x + sum(pk.parallel(self.part, [2, 3, 4], offset=2, thread=self.thread))


def test_map_is_a_list_in_input_order(pool):
    """map gives what the builtin map gives, as a list."""
    assert pool().map(increment, range(1000)) == list(range(1, 1001))


def test_map_takes_several_iterables(pool):
    """Iterables vary together, as with the builtin."""
    assert pool().map(add_all, [1, 2], [10, 20], [100, 200]) == [111, 222]


def test_keywords_are_frozen(pool):
    """A keyword of a call is given to every item unchanged."""
    assert pool().map(add_all, [1, 2], [3, 4], p=200) == [204, 206]


RESERVED_NOWHERE = [
    "func",
    "self",
    "iterables",
    "rows",
    "chunksize",
    "workers",
    "timeout",
    "progress",
    "show",
    "args",
]


@pytest.mark.filterwarnings("ignore:(workers|timeout|progress)= goes to the function:UserWarning")
@pytest.mark.parametrize("name", RESERVED_NOWHERE)
def test_every_keyword_belongs_to_the_function(either_pool, name):
    """No keyword of a call is taken by the library, whatever its name."""
    own, expected = either_pool(), [((1,), [(name, "mine")])]
    assert own.map(call_with, [1], **{name: "mine"}) == expected
    assert list(own.imap(call_with, [1], **{name: "mine"})) == expected
    assert list(own.uimap(call_with, [1], **{name: "mine"})) == expected
    assert own.starmap(call_with, [(1,)], **{name: "mine"}) == expected
    assert own.amap(call_with, [1], **{name: "mine"}).result(60) == expected
    assert own.submit(call_with, 1, **{name: "mine"}).result(60) == expected[0]


def test_imap_keeps_the_order(pool):
    """imap iterates over the results in input order."""
    results = pool().imap(add_all, range(500), p=1)
    assert iter(results) is results
    assert list(results) == list(range(1, 501))


def test_uimap_gives_every_result_once(pool):
    """uimap loses and repeats nothing."""
    assert sorted(pool().uimap(increment, range(500))) == list(range(1, 501))


def test_uimap_does_not_wait_for_slow_items(concurrent_pool, tmp_path):
    """uimap gives item 1 while item 0 is still running."""
    results = concurrent_pool(chunksize=1).uimap(first_waits, [0, 1], gate=tmp_path / "gate")
    assert next(results) == 1
    (tmp_path / "gate").touch()
    assert list(results) == [0]


def test_starmap_takes_tuples_and_dicts(pool):
    """A row is positional arguments or keyword arguments, and frozen keywords join both."""
    assert pool().starmap(add, [(1, 2), (3, 4)]) == [3, 7]
    rows = [{"x": 1, "y": 2}, {"y": 3, "x": 4}]
    seen = [((), [("x", 1), ("y", 2), ("z", 0)]), ((), [("x", 4), ("y", 3), ("z", 0)])]
    assert pool().starmap(call_with, rows, z=0) == seen
    assert pool().starmap(add_all, (row for row in [(1, 2), (3,), ()]), p=10) == [13, 13, 10]


def test_run_takes_delayed_calls(pool):
    """Calls of different functions, some with keywords, give a list in their order."""
    calls = [pk.delayed(increment)(1), pk.delayed(add_all)(1, 2, p=3), pk.delayed(str.upper)("a")]
    assert pool().run(calls) == [2, 6, "A"]
    assert pool().run(pk.delayed(increment)(i) for i in range(100)) == list(range(1, 101))


def test_a_delayed_call_can_be_read():
    """Its text tells what it will call, in the order of the constructor."""
    assert (
        repr(pk.delayed(abs)(-1)) == "Delayed(func=<built-in function abs>, args=(-1,), kwargs={})"
    )


def test_run_refuses_what_is_not_delayed(pool):
    """A plain value among the calls is an error, not a result."""
    with pytest.raises(TypeError, match="delayed"):
        pool().run([pk.delayed(increment)(1), 2])


@pytest.mark.parametrize("thread", [False, True])
def test_the_functions_of_the_reference(thread):
    """The six cases of parallel: one list, two, a frozen keyword, a bar, methods with inner calls."""
    assert pk.parallel(increment, [1, 2, 3], thread=thread) == [2, 3, 4]
    assert pk.parallel(add, [1, 2, 3], [4, 5, 6], thread=thread) == [5, 7, 9]
    assert pk.parallel(add_all, [1, 2, 3], [4, 5, 6], p=200, thread=thread) == [205, 207, 209]
    assert pk.parallel(increment, range(100), thread=thread) == list(range(1, 101))
    model = Model(thread)
    assert pk.parallel(model.single, range(10)) == [x + 9 for x in range(10)]
    assert pk.parallel(model.frozen, range(10)) == [x + 15 for x in range(10)]


def test_parallel_chooses_processes_or_threads():
    """parallel runs in other processes, and with thread=True in this one."""
    assert os.getpid() not in pk.parallel(pid, range(4))
    assert set(pk.parallel(pid, range(4), thread=True)) == {os.getpid()}


def test_parallel_raises():
    """An error is raised, not printed and swallowed."""
    with pytest.raises(ValueError, match="bad item 2"):
        pk.parallel(fail_on, range(4), bad=[2])


def test_two_items_run_at_a_time(concurrent_pool, folder):
    """Two workers run two items at the same moment: each item waits for the other."""
    places = concurrent_pool(chunksize=1).map(meet, range(2), folder=folder, parties=2)
    assert len(set(places)) == 2


def test_serial_runs_in_place():
    """The serial backend calls the function in the thread of the caller."""
    with pk.Pool(backend="serial") as serial:
        assert set(serial.map(lambda _: threading.get_ident(), range(3))) == {threading.get_ident()}


def test_processes_run_elsewhere(process_pool):
    """No item of a process pool runs in the process of the caller."""
    assert os.getpid() not in process_pool().map(pid, range(20))


def test_workers_stay_warm(process_pool, folder):
    """A second pool with the same settings is served by the same processes."""
    (one := folder / "1").mkdir(), (two := folder / "2").mkdir()
    first = process_pool(chunksize=1).map(meet, range(2), folder=one, parties=2)
    second = process_pool(chunksize=1).map(meet, range(2), folder=two, parties=2)
    assert {p for p, _ in first} == {p for p, _ in second}


# ---- futures -------------------------------------------------------------------------------------


def test_submit_gives_futures(pool):
    """submit gives futures that the standard library can wait for."""
    tasks = [pool().submit(add, i, y=1) for i in range(50)]
    assert all(isinstance(task, futures.Future) for task in tasks)
    done, pending = futures.wait(tasks, timeout=60)
    assert (len(done), pending) == (50, set())
    assert [task.result() for task in tasks] == list(range(1, 51))


def test_submit_while_asyncio_is_being_imported(pool, monkeypatch):
    """What another thread has imported half-way is not relied on."""
    monkeypatch.setitem(sys.modules, "asyncio", types.ModuleType("asyncio"))
    assert pool().submit(increment, 1).result(60) == 2


def test_amap_gives_the_future_of_the_list(pool):
    """amap returns at once; its future holds what map would have returned."""
    task = pool().amap(add_all, range(100), [1] * 100, p=1)
    assert isinstance(task, futures.Future)
    assert task.result(60) == list(range(2, 102))


def test_futures_hold_errors(pool):
    """A failure is in the future, with its own type."""
    assert isinstance(pool().submit(fail_on, 1, bad=[1]).exception(60), ValueError)
    assert isinstance(pool().amap(fail_on, [0, 1], bad=[1]).exception(60), ValueError)


def test_futures_call_back(pool):
    """A callback is called once the result is there."""
    called, results = threading.Event(), []
    task = pool().submit(increment, 1)
    task.add_done_callback(lambda future: (results.append(future.result()), called.set()))
    assert called.wait(60)
    assert results == [2]


def test_amap_does_not_hold_the_caller(concurrent_pool, tmp_path):
    """Other calls on the pool are answered while an amap is under way."""
    own = concurrent_pool(chunksize=1)
    task = own.amap(first_waits, [0, 1], gate=tmp_path / "gate")
    assert own.map(increment, range(20)) == list(range(1, 21))
    assert not task.done()
    (tmp_path / "gate").touch()
    assert task.result(60) == [0, 1]


def test_many_threads_share_a_pool(pool):
    """Calls from several threads at the same time each get their own answers."""
    own, start = pool(), threading.Barrier(6)

    def use(k):
        start.wait(60)
        return [
            own.map(add_all, range(200), p=k),
            list(own.imap(add_all, range(200), p=k)),
            sorted(own.uimap(add_all, range(200), p=k)),
        ]

    with futures.ThreadPoolExecutor(6) as callers:
        answers = list(callers.map(use, range(6)))
    assert answers == [[list(range(k, 200 + k))] * 3 for k in range(6)]


# ---- lives ---------------------------------------------------------------------------------------

USES = {
    "map": lambda own: own.map(identity, [1]),
    "imap": lambda own: list(own.imap(identity, [1])),
    "uimap": lambda own: list(own.uimap(identity, [1])),
    "starmap": lambda own: own.starmap(identity, [(1,)]),
    "run": lambda own: own.run([pk.delayed(identity)(1)]),
    "amap": lambda own: own.amap(identity, [1]).result(60),
    "submit": lambda own: own.submit(identity, 1).result(60),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("end", ["close", "with", "terminate"])
def test_a_closed_pool_says_so(use, end):
    """After close, after leaving ``with`` and after terminate every call is a ValueError; ending twice is harmless."""
    own = pk.Pool()
    if end == "with":
        with own as entered:
            assert entered is own
    else:
        getattr(own, end)()
    own.close()
    with pytest.raises(ValueError, match="closed"):
        USES[use](own)


def test_terminate_ends_what_runs(process_pool, folder):
    """terminate does not wait for items, and the futures of what it ended are finished."""
    own = process_pool()
    task = own.submit(hold, 0, folder)
    wait_for(folder / "held-0")
    own.terminate()
    with pytest.raises((pk.ParallelError, futures.CancelledError)):
        task.result(60)


def test_shutdown_ends_workers_and_the_next_call_starts_new_ones(process_pool):
    """shutdown ends the processes that are kept warm; pools that are still open go on with new ones."""
    own = process_pool()
    before = set(own.map(pid, range(20)))
    pk.shutdown()
    after = set(own.map(pid, range(20)))
    assert before and after and not before & after


def test_a_call_that_begins_during_a_shutdown(folder):
    """Workers that another thread starts while shutdown waits for running items are left to its call."""
    pk.Pool(2, start_method=START_METHODS[0]).map(identity, [1])
    busy = threading.Thread(target=pk.Pool(2, backend="thread").map, args=(hold_here, [folder] * 2))
    busy.start()
    wait_until(lambda: len(os.listdir(folder)) == 2, "two threads at work")
    ending = threading.Thread(target=pk.shutdown)
    ending.start()
    wait_until(lambda: not faults.warm(), "the end of the workers")
    task = pk.Pool(2, start_method=START_METHODS[0]).submit(hold_here, folder)
    wait_until(lambda: len(os.listdir(folder)) == 3, "a worker at work")
    mark(folder, "go")
    for thread in (busy, ending):
        thread.join()
    assert task.result(60) == "released"


def hold_here(folder):
    mark(folder, f"held-{threading.get_ident()}-{os.getpid()}")
    wait_for(folder / "go")
    return "released"


def test_shutdown_twice_is_harmless():
    """shutdown with nothing to end does nothing."""
    pk.shutdown()
    assert pk.shutdown() is None


def keeps_timeout(func):
    @functools.wraps(func)
    def around(*args, timeout, **kwargs):
        return func(*args, **kwargs), timeout

    return around


@keeps_timeout
def plain(x):
    return x


def test_a_decorator_may_take_what_its_function_does_not():
    """What is called is asked, not what it wraps."""
    assert pk.Pool(backend="serial").map(plain, [1], timeout=5) == [(1, 5)]
