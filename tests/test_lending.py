"""Inner calls on idle workers of the outer pool: ``nested="process"``."""

import contextlib
import contextvars
import decimal
import io
import itertools
import os
import threading
import time

import numpy as np
import pytest
from helpers import KILL, divide, increment, mark, meet, pid, record, wait_until

import parallelkit as pk
from parallelkit.backends import locked
from parallelkit.place import system
from parallelkit.worker.environment import altered

ONE_START_METHOD = True


@pytest.fixture
def nested_pool(process_pool):
    """Pools of two processes, chunks of one item, whose inner calls may use both."""

    def make(**options):
        return process_pool(**{"nested": "process", "chunksize": 1, **options})

    return make


def inner_pids(x, n=4, **frozen):
    return pk.map(pid, range(n), **frozen)


def meeting(x, folder):
    """Two inner items at a time, in the outer item that is the last; the processes of both."""
    if x:
        return None
    with pk.Pool(chunksize=1) as own:
        return [where for where, _ in own.map(meet, range(2), folder=folder, parties=2)]


@pytest.mark.each_start_method
def test_idle_workers_help(nested_pool, tmp_path):
    """Items of an inner call run in the worker that has nothing else to do."""
    processes = nested_pool().map(meeting, [0, 1], folder=str(tmp_path))[0]
    assert len(set(processes)) == 2


def test_threads_are_the_default(process_pool):
    """Without being asked for, an inner call stays in its process."""

    def inner(x):
        return os.getpid(), pk.map(pid, range(10))

    for outer, inside in process_pool().map(inner, range(4)):
        assert set(inside) == {outer}


def test_the_inner_call_may_ask_itself(process_pool, tmp_path):
    """The option of the inner pool counts as that of the outer one does."""

    def outer(x, folder):
        with pk.Pool(nested="process", chunksize=1) as own:
            return x or [p for p, _ in own.map(meet, range(2), folder=folder, parties=2)]

    processes = process_pool(chunksize=1).map(outer, [0, 1], folder=str(tmp_path))[0]
    assert len(set(processes)) == 2


def numbers(x, n):
    listed = pk.map(increment, range(x, x + n))
    lazy = list(itertools.islice(pk.imap(increment, itertools.count(x)), n))
    return listed == lazy == sorted(pk.uimap(increment, range(x, x + n))), sum(listed)


@pytest.mark.each_start_method
def test_results_are_those_of_a_loop(nested_pool):
    """Lists, lazy iterators and unordered ones give what they give anywhere."""
    results = nested_pool(chunksize=None).map(numbers, range(12), n=300)
    assert results == [(True, sum(range(x + 1, x + 301))) for x in range(12)]


def deep(x, levels):
    if not levels:
        return [x]
    return list(itertools.chain(*pk.map(deep, [x, x + 1, x + 2], levels=levels - 1)))


def deep_alone(x, levels):
    if not levels:
        return [x]
    return list(itertools.chain(*(deep_alone(y, levels - 1) for y in (x, x + 1, x + 2))))


def test_calls_below_lent_items(nested_pool):
    """Items that were lent may make calls in their turn, to any depth."""
    assert nested_pool().map(deep, range(3), levels=4) == [deep_alone(x, 4) for x in range(3)]


def waiting(x, folder):
    """The first item lends one inner item, whose own inner item needs the first item's worker."""
    if x:
        return None
    with pk.Pool(chunksize=1) as own:
        return own.map(half, range(2), folder=folder)


def half(i, folder):
    if i == 0:
        meet("outer-0", os.path.join(folder, "a"), 2)
        return os.getpid(), None
    meet("outer-1", os.path.join(folder, "a"), 2)
    with pk.Pool(chunksize=1) as own:
        return os.getpid(), own.map(meet, range(2), folder=os.path.join(folder, "b"), parties=2)


def test_who_waits_runs_items_of_others(nested_pool, tmp_path):
    """A worker that waits for a lent item runs items that this item has lent."""
    for name in "ab":
        (tmp_path / name).mkdir()
    (one, _), (other, places) = nested_pool().map(waiting, [0, 1], folder=str(tmp_path))[0]
    assert {one, other} == {where for where, _ in places}


def sets_a_stream(x):
    """Whether the item may run others' items while it waits: with a stream of its own, and without."""
    with contextlib.redirect_stdout(io.StringIO()):
        own = altered(filters=True)
    return own, altered(filters=True)


def test_who_has_set_a_stream_runs_no_items_of_others(nested_pool):
    """They would find it, or take it away in the middle of the item."""
    assert nested_pool().map(sets_a_stream, range(2)) == [(True, False)] * 2


def calls_in_a_loop(x):
    """Calls while another one is open; whether the item seems to have set something meanwhile."""
    if x:
        return None
    found = []
    for _ in pk.imap(abs, range(4)):
        found.append((altered(), altered(filters=True)))
        with pk.Pool(chunksize=1) as own:
            own.map(abs, range(2))
        found.append((altered(), altered(filters=True)))
    return found


def test_an_open_call_counts_as_nothing_that_an_item_has_set(nested_pool):
    """While a call is open the worker lets its threads in sooner, which is its own doing."""
    found = nested_pool().map(calls_in_a_loop, [0, 1])[0]
    assert found == [(False, False)] * 8


def waiting_for_death(x, folder):
    """As :func:`waiting`; what runs here meanwhile ends the process."""
    if x:
        return x
    record("begun", os.path.join(folder, "c"))
    with pk.Pool(chunksize=1) as own:
        return own.map(half_deadly, range(2), folder=folder, lender=os.getpid())


def half_deadly(i, folder, lender):
    meet(i, os.path.join(folder, "a"), 2)
    if i == 1:
        with pk.Pool(chunksize=1) as own:
            own.map(exits_in, range(2), folder=os.path.join(folder, "b"), process=lender)


def exits_in(i, folder, process):
    meet(i, folder, 2)
    if os.getpid() == process:
        os._exit(3)


@pytest.mark.each_start_method
def test_an_item_that_waits_dies_with_its_worker(nested_pool, tmp_path):
    """An outer item, whose worker ends in another's item meanwhile, is lost and not run again unasked."""
    for name in "abc":
        (tmp_path / name).mkdir()
    own = nested_pool(on_error="return")
    results = own.map(waiting_for_death, [0, 1, 2], folder=str(tmp_path))
    assert isinstance(results[0].exception, pk.WorkerDied)
    assert results[1:] == [1, 2]
    assert os.listdir(tmp_path / "c") == ["ran-begun"]


def leaves_a_helper_behind(x, folder):
    if x:
        return None
    with pk.Pool(chunksize=1) as own, contextlib.suppress(ZeroDivisionError):
        own.map(one_fails_one_stays, range(2), folder=folder, home=os.getpid())
    return x


def one_fails_one_stays(i, folder, home):
    meet(i, folder, 2)
    while os.getpid() != home:
        with contextlib.suppress(BaseException):
            wait_until(lambda: False, "to be killed")
    raise ZeroDivisionError


def test_a_helper_that_does_not_stop_is_ended_with_the_outer_call(nested_pool, tmp_path):
    """Whoever still runs an item of an inner call that is over is free when the outer call is."""
    for name in "ab":
        (tmp_path / name).mkdir()
    own = nested_pool()
    assert own.map(leaves_a_helper_behind, [0, 1], folder=str(tmp_path / "a")) == [0, None]
    places = own.map(meet, range(2), folder=str(tmp_path / "b"), parties=2)
    assert len(set(places)) == 2


def changed_around(x, folder):
    """What an item finds around it before and after a wait in which it may run another's item."""
    before = os.environ["AROUND"], os.getcwd()
    pk.map(increment, range(200))
    return before == (os.environ["AROUND"], os.getcwd()), before[0]


def test_calls_that_help_each_other_keep_their_surroundings(nested_pool, monkeypatch, tmp_path):
    """Two calls under different surroundings at a time, helped by one crew, each see their own."""
    own = nested_pool(chunksize=None)
    monkeypatch.setenv("AROUND", "one")
    first = own.imap(changed_around, range(40), folder="")
    monkeypatch.setenv("AROUND", "two")
    second = own.imap(changed_around, range(40), folder="")
    told = [next(results) for _ in range(40) for results in (first, second)]
    assert told == [(True, "one"), (True, "two")] * 40


def trickling(x):
    return sum(pk.imap(increment, iter(range(200))))


def test_many_nested_streams_at_a_time(nested_pool):
    """Iterators in the main process, each over items that open iterators, get on together."""
    own = nested_pool(workers=3)
    results = [own.imap(trickling, range(30)) for _ in range(3)]
    threads = [threading.Thread(target=lambda one=one: sums.append(sum(one))) for one in results]
    sums = []
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [30 * sum(range(1, 201))] * 3


def failing(x, folder):
    if x:
        return None
    with pk.Pool(chunksize=1, on_error="return") as own:
        return [
            repr(r) if isinstance(r, int) else type(r.exception)
            for r in own.map(fails, range(6), folder=folder)
        ]


def fails(i, folder):
    if i < 2:
        meet(i, folder, 2)
    return 1 // (i % 3)


def test_errors_of_lent_items(nested_pool, tmp_path):
    """What a lent item raises is its failure, in its place, as anywhere."""
    expected = [ZeroDivisionError, "1", "0"] * 2
    assert nested_pool().map(failing, [0, 1], folder=str(tmp_path))[0] == expected


def raising(x, folder):
    return x or pk.map(fails, range(2), folder=folder)


def test_the_first_error_ends_both_calls(nested_pool, tmp_path):
    """An inner call that raises ends its item, and that the outer call, with its own error."""
    with pytest.raises(ZeroDivisionError):
        nested_pool().map(raising, [0, 1], folder=str(tmp_path))


def deadly(x, folder):
    if x:
        return None
    with pk.Pool(chunksize=1, on_error="return") as own:
        return os.getpid(), own.map(dies_elsewhere, range(8), folder=folder, home=os.getpid())


def dies_elsewhere(i, folder, home):
    if i < 2:
        meet(i, folder, 2)
    if os.getpid() != home and not os.path.exists(os.path.join(folder, "dead")):
        record("dead", folder)
        os.rename(os.path.join(folder, "ran-dead"), os.path.join(folder, "dead"))
        os.kill(os.getpid(), KILL)
    return i


def test_the_death_of_a_helper_costs_its_item(nested_pool, tmp_path):
    """A helper that dies loses the item it ran; the inner and the outer call get on."""
    _, results = nested_pool().map(deadly, [0, 1], folder=str(tmp_path))[0]
    dead = [r for r in results if isinstance(r, pk.Failure)]
    assert [type(r.exception) for r in dead] == [pk.WorkerDied]
    assert [r for r in results if not isinstance(r, pk.Failure)] == [
        i for i in range(8) if i != dead[0].index
    ]


def impatient(x, folder):
    """Two inner items that meet, each in a process, and then run for too long."""
    if x:
        return None
    with pk.Pool(chunksize=1, timeout=0.5, on_error="return") as own:
        failures = own.map(meets_and_stays, range(2), folder=folder)
    mark(folder, "over")
    return [type(failure.exception) for failure in failures]


def meets_and_stays(i, folder):
    meet(i, folder, 2)
    wait_until(lambda: os.path.exists(os.path.join(folder, "over")), "to be given up")


def test_a_time_limit_of_an_inner_call_holds_in_helpers(nested_pool, tmp_path):
    """Items that take too long are given up, here and in the worker that helps; both are fit for the next call."""
    own = nested_pool()
    found = own.map(impatient, [0, 1], folder=str(tmp_path))[0]
    assert found == [pk.TaskTimeout] * 2
    assert own.map(increment, range(4)) == [1, 2, 3, 4]


def doomed(x, folder):
    if x:
        return x
    with pk.Pool(chunksize=1) as own:
        return own.map(kills_lender, range(2), folder=folder, lender=os.getpid())


def kills_lender(i, folder, lender):
    meet(i, folder, 2)
    if os.getpid() != lender:
        os.kill(lender, KILL)
    else:
        wait_until(lambda: False, "to be killed")


def test_the_death_of_a_lender_costs_its_item(nested_pool, tmp_path):
    """The outer item is lost with its worker; what it had lent is given up."""
    own = nested_pool(on_error="return")
    results = own.map(doomed, [0, 1, 2, 3], folder=str(tmp_path))
    assert isinstance(results[0].exception, pk.WorkerDied)
    assert results[1:] == [1, 2, 3]
    assert own.map(increment, range(10)) == list(range(1, 11))


def generators_inside(x):
    return pk.map(next, [iter_of(i) for i in range(20)])


def iter_of(i):
    return (j for j in (i,))


def frozen_generator(x):
    return pk.map(lambda i, lines: i, range(20), lines=iter_of(x))


def test_what_cannot_be_sent_is_run_in_place(nested_pool):
    """Arguments and keywords that cannot be pickled keep an inner call where it is."""
    assert nested_pool().map(generators_inside, range(4)) == [list(range(20))] * 4
    assert nested_pool().map(frozen_generator, range(4)) == [list(range(20))] * 4


def doubled(i, array, shared, folder):
    meet(i, folder, 2)
    shared[i] = i + 1
    return os.getpid(), array * i


def with_arrays(x, folder):
    if x:
        return None
    shared = pk.shared_empty(2, float)
    shared[:] = 0
    array = np.arange(100_000.0)
    with pk.Pool(chunksize=1) as own:
        results = own.map(doubled, range(2), [array, array], shared=shared, folder=folder)
    equal = [np.array_equal(result, array * i) for i, (_, result) in enumerate(results)]
    return len({where for where, _ in results}), equal, shared.tolist()


def test_large_arrays_cross(nested_pool, tmp_path):
    """Arrays go both ways whole, and shared memory is one for three processes."""
    result = nested_pool().map(with_arrays, [0, 1], folder=str(tmp_path))[0]
    assert result == (2, [True, True], [1.0, 2.0])


def left_open(x):
    global _kept
    _kept = pk.imap(increment, range(1000))
    return next(_kept)


def test_an_iterator_that_is_left_open(nested_pool):
    """An inner iterator that outlives its item holds nothing up, and goes on alone."""
    own = nested_pool()
    assert own.map(left_open, range(6)) == [1] * 6
    assert own.map(numbers, range(4), n=50)


def closed_early(x, folder):
    if x:
        return None
    with pk.Pool(chunksize=1) as own:
        results = own.uimap(record, range(10_000), folder=folder)
        first = list(itertools.islice(results, 3))
        results.close()
    return len(first)


def test_inner_iterators_closed_early(nested_pool, tmp_path):
    """Closing an inner iterator gives up what was lent; the pool is fit for the next call."""
    own = nested_pool()
    assert own.map(closed_early, [0, 1], folder=str(tmp_path))[0] == 3
    assert own.map(increment, range(10)) == list(range(1, 11))


def endless(x, folder):
    if x:
        return None
    with pk.Pool(chunksize=1) as own:
        return own.map(runs_on, range(2), folder=folder)


def runs_on(i, folder):
    meet(i, folder, 2)
    wait_until(lambda: False, "to be given up")


def test_giving_the_outer_call_up_frees_the_helpers(nested_pool, tmp_path):
    """An outer call that is closed ends the inner items in all workers."""
    own = nested_pool()
    results = own.imap(endless, [0, 1, 1, 1], folder=str(tmp_path))
    waiting_for_it = threading.Thread(target=_first, args=[results])
    waiting_for_it.start()
    wait_until(lambda: len(os.listdir(tmp_path)) == 2, "both items to run")
    own.terminate()
    waiting_for_it.join()
    with pk.Pool(2) as other:
        assert other.map(increment, range(10)) == list(range(1, 11))


def _first(results):
    with pytest.raises(pk.ParallelError):
        next(results)


def in_a_thread(call):
    results = []
    thread = threading.Thread(target=lambda: results.extend(call()))
    thread.start()
    thread.join()
    return results


def submitted(folder):
    with pk.Pool() as own:
        tasks = [own.submit(meet, i, folder=folder, parties=2) for i in range(2)]
        return [task.result()[0] for task in tasks]


def mapped_behind(folder):
    with pk.Pool(chunksize=1) as own:
        return [where for where, _ in own.amap(meet, range(2), folder=folder, parties=2).result()]


def otherwise(x, way, folder):
    """The processes of two inner items that must run at a time, however their call is made."""
    if x:
        return None
    if way == "thread":
        return in_a_thread(lambda: meeting(0, folder))
    return {"submit": submitted, "amap": mapped_behind}[way](folder)


@pytest.mark.parametrize("way", ["thread", "submit", "amap"])
def test_calls_that_the_main_thread_does_not_make(nested_pool, tmp_path, way):
    """Idle workers help a call in a thread of an item, too, and calls that nobody waits for."""
    found = nested_pool().map(otherwise, [0, 1], way=way, folder=str(tmp_path))[0]
    assert len(set(found)) == 2


def configured_in_a_thread(x):
    return in_a_thread(lambda: pk.map(divide, [0, x]))


def test_threads_of_an_item_see_what_is_configured(nested_pool):
    """What is configured around the outer call holds in threads that an item starts."""
    own = nested_pool()
    with pk.configure(on_error="skip"):
        assert own.map(configured_in_a_thread, [3, 4]) == [[4], [3]]


VARIABLE = contextvars.ContextVar("VARIABLE", default=0)


def settings_of_a_half(i, folder):
    meet(i, folder, 2)
    return VARIABLE.get(), decimal.getcontext().prec


def with_settings(x, folder):
    if x:
        return None
    VARIABLE.set(3)
    decimal.getcontext().prec = 9
    with pk.Pool(chunksize=1) as own:
        return own.map(settings_of_a_half, range(2), folder=folder)


@pytest.mark.each_start_method
def test_helpers_find_the_context_of_the_call(nested_pool, tmp_path):
    """What an outer item sets in its context holds in its inner items, also in another process."""
    assert nested_pool().map(with_settings, [0, 1], folder=str(tmp_path))[0] == [(3, 9), (3, 9)]


VARIABLE_IN_A_SCRIPT = """
import contextvars, sys
import parallelkit as pk

sys.path.append(sys.argv[2])
from helpers import meet

VARIABLE = contextvars.ContextVar("VARIABLE", default=0)

def inner(i):
    meet(i, sys.argv[1], 2)
    return VARIABLE.get()

def outer(x):
    if x:
        return None
    VARIABLE.set(3)
    with pk.Pool(chunksize=1) as own:
        return own.map(inner, range(2))

if __name__ == "__main__":
    with pk.Pool(2, "process", nested="process", chunksize=1) as own:
        print(own.map(outer, [0, 1])[0])
"""


def test_helpers_find_context_variables_of_the_script(script, folder):
    """The same for a variable that the script itself defines."""
    tests = os.path.dirname(os.path.abspath(__file__))
    assert script(VARIABLE_IN_A_SCRIPT, folder, tests).out == "[3, 3]\n"


def draw(x, rng):
    return rng.random()


def draws(x, rng):
    return [rng.random(), *pk.map(draw, range(5))]


def test_seeded_nests_do_not_depend_on_who_runs_them(nested_pool):
    """Inner items draw the same in any worker."""
    with pk.Pool(backend="serial", seed=3) as alone:
        expected = alone.map(draws, range(6))
    assert nested_pool(seed=3).map(draws, range(6)) == expected


def on_threads_that_wait(x, folder):
    """The processes of inner items whose function is known to be kept waiting by the lock."""
    if x:
        return None
    locked.Lock(meet).learn(1.0, 0.5, 500)
    while pk.nesting().cores < 2:  # a time limit ends a test that fails
        time.sleep(0.001)
    return meeting(x, folder)


def test_threads_that_wait_for_the_lock_hand_their_items_over(process_pool, tmp_path):
    """With nested="auto" two inner items run in two processes, where threads are known not to help."""
    own = process_pool(nested="auto", chunksize=1, workers=2)
    found = own.map(on_threads_that_wait, range(2), folder=str(tmp_path))[0]
    assert len(set(found)) == 2


def test_seeded_nests_are_the_same_wherever_they_go_on(process_pool):
    """With nested="auto" seeded inner items draw what they draw in a loop."""
    with pk.Pool(backend="serial", seed=3) as alone:
        expected = alone.map(draws, range(6))
    assert process_pool(nested="auto", chunksize=1, seed=3).map(draws, range(6)) == expected


@pytest.mark.parametrize(
    ("elapsed", "computed", "sleeps", "waits"),
    [
        (0.1, 0.05, 20, True),
        (0.1, 0.095, 20, False),  # side by side
        pytest.param(  # another program has the core
            *(0.1, 0.05, 0, False),
            marks=pytest.mark.skipif(
                not system.SLEEPS, reason="nobody counts the sleeps of a thread here"
            ),
        ),
        (0.1, 0.001, 20, False),  # a network, a disk
        (0.001, 0.0005, 1, False),  # not seen for long enough
    ],
)
def test_who_waits_for_the_lock(elapsed, computed, sleeps, waits):
    """Threads wait for it that compute for a part of the time, and go to sleep often."""

    def func():
        pass

    lock = locked.Lock(func)
    lock.learn(elapsed, computed, sleeps)
    assert lock.found is locked.Lock(func).known is waits


def test_an_unknown_way_of_nesting_is_refused():
    """``nested`` names one of two ways."""
    with pytest.raises(ValueError, match="nested"):
        pk.Pool(nested="fork")


def calls_of_threads(x):
    """Threads of an item make many short calls at the same time, the very first ones too."""
    if x:
        return []
    found = []

    def calls():
        found.extend(pk.map(increment, range(8)) for _ in range(100))

    threads = [threading.Thread(target=calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_calls_of_many_threads_of_an_item(process_pool):
    """None of them is left without an answer."""
    own = process_pool(workers=4, nested="process", chunksize=1)
    found, *_ = own.map(calls_of_threads, range(4))
    assert found == [[x + 1 for x in range(8)]] * 400
