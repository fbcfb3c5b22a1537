"""Calls within calls: to any depth, in any mix, without a deadlock, on one budget of cores."""

import _thread
import importlib
import itertools
import operator
import os
import queue
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from helpers import divide, identity, increment, mark, meet, pid, place, wait_for, wait_until
from trees import grow

import parallelkit as pk
from parallelkit.place import blas, nesting, system


def inner_map(x, n=5):
    return pk.map(lambda y: x * 100 + y, range(n))


def inner_lazy(x):
    return list(itertools.islice(pk.imap(increment, itertools.count(x)), 20)), sorted(
        pk.uimap(increment, range(x))
    )


def deep(x, levels):
    if levels == 0:
        return [x]
    return [z for part in pk.map(deep, [x, x + 1], levels=levels - 1) for z in part]


def deep_alone(x, levels):
    return [x] if levels == 0 else [z for y in (x, x + 1) for z in deep_alone(y, levels - 1)]


def where(x, levels):
    """Level, cores and process of every level below, from the top."""
    here = [(pk.nesting().level, pk.nesting().cores, os.getpid())]
    return here if levels == 0 else here + pk.map(where, [x], levels=levels - 1)[0]


def inner_places(x, **options):
    with pk.Pool(**options) as own:
        return os.getpid(), own.map(place, range(10))


def inner_meeting(x, folder, **options):
    own = os.path.join(folder, str(x))
    os.mkdir(own)
    with pk.Pool(workers=3, chunksize=1, **options) as pool:
        return pool.map(meet, range(3), folder=own, parties=3)


def test_the_main_process_is_level_zero():
    """Outside of any call the level is zero and the cores are all there are."""
    assert pk.nesting().level == 0
    assert pk.nesting().cores == pk.cpu_count()


def test_inner_maps(pool):
    """An inner call gives what it gives in a loop."""
    assert pool().map(inner_map, range(8)) == [[x * 100 + y for y in range(5)] for x in range(8)]


def test_inner_iterators_are_lazy(pool):
    """A nested imap takes an endless input, and is left early."""
    expected = [(list(range(x + 1, x + 21)), list(range(1, x + 1))) for x in range(6)]
    assert pool().map(inner_lazy, range(6)) == expected


@pytest.mark.parametrize("levels", [2, 5])
def test_any_depth(pool, levels):
    """Calls in calls in calls."""
    assert pool().map(deep, range(4), levels=levels) == [deep_alone(x, levels) for x in range(4)]


def test_levels_count_up(concurrent_pool):
    """Each call goes one level down, whichever backend it becomes, and the main process stays at zero."""
    (levels,) = concurrent_pool().map(where, [0], levels=3)
    assert [level for level, _, _ in levels] == [1, 2, 3, 4]
    assert pk.nesting().level == 0


def where_together(x, folder):
    """What :func:`where` tells while all outer items run."""
    meet(x, folder, 2)
    told = where(x, levels=3)
    meet(2 + x, folder, 4)
    return told


def test_cores_are_shared_out(concurrent_pool, tmp_path):
    """Two workers have half of the cores each, and no level has less than one or more than the level above."""
    if concurrent_pool.elsewhere and not os.path.isdir(system.PROC):
        pytest.skip("how many children a process has cannot be seen here")
    own = concurrent_pool(chunksize=1)
    levels, _ = own.map(where_together, [0, 1], folder=str(tmp_path))
    cores = [share for _, share, _ in levels]
    assert cores[0] == max(1, pk.cpu_count() // 2)
    assert all(1 <= below <= above for above, below in itertools.pairwise(cores))


def test_calls_in_workers_stay_in_their_process(concurrent_pool):
    """Below a worker everything runs on threads of that worker."""
    (levels,) = concurrent_pool().map(where, [0], levels=3)
    assert len({number for _, _, number in levels}) == 1


@pytest.mark.parametrize(
    "options",
    [{}, {"backend": "process"}, {"backend": "process", "start_method": "spawn"}],
    ids=str,
)
def test_processes_in_workers_become_threads(process_pool, options):
    """Even when processes are asked for, inner calls run in the worker's own process, and it is no error."""
    for outer, places in process_pool().map(inner_places, range(4), **options):
        assert {number for number, _ in places} == {outer}


def inner_of_one(x, folder, parties):
    """Threads of an inner call, made while every worker is busy, so that the share is one."""
    meet(x, folder, parties)
    seen = (
        threading.get_ident(),
        pk.map(lambda _: threading.get_ident(), range(5)),
        pk.nesting().cores,
    )
    meet(parties + x, folder, 2 * parties)
    return seen


def test_a_share_of_one_runs_in_place(process_pool, tmp_path):
    """A worker with a single core starts no thread for an inner call."""
    many = max(2, pk.cpu_count())
    own = process_pool(workers=many, chunksize=1)
    for outer, inside, cores in own.map(
        inner_of_one, range(many), folder=str(tmp_path), parties=many
    ):
        assert (cores, set(inside)) == (1, {outer})


@pytest.mark.parametrize("options", [{}, {"backend": "thread"}, {"backend": "process"}], ids=str)
def test_workers_asked_for_are_given_at_every_level(concurrent_pool, folder, options):
    """An inner call with workers=3 runs three items at a time, whatever the share."""
    for places in concurrent_pool().map(inner_meeting, range(4), folder=str(folder), **options):
        assert len(set(places)) == 3


def test_inner_calls_do_not_multiply_threads(concurrent_pool):
    """Without a wish of its own an inner call takes its worker's share and no more."""

    def inner(_):
        return pk.nesting().cores, len(set(pk.map(lambda _: threading.get_ident(), range(50))))

    assert all(used <= share for share, used in concurrent_pool().map(inner, range(8)))


@pytest.mark.parametrize("backend", ["thread", "serial"])
def test_a_pool_in_itself(backend):
    """A pool that is used by its own items does not wait for itself."""
    with pk.Pool(workers=2, backend=backend) as own:
        results = own.map(
            lambda x: own.map(lambda y: own.map(increment, [x + y]), range(3)), range(4)
        )
    assert results == [[[x + y + 1] for y in range(3)] for x in range(4)]


def test_threads_that_use_processes():
    """A pool of processes that is asked for within a pool of threads answers rightly, whatever it becomes."""

    def inner(x):
        with pk.Pool(workers=2, backend="process") as own:
            return own.map(increment, range(x))

    with pk.Pool(workers=2, backend="thread") as threads:
        assert threads.map(inner, range(6)) == [list(range(1, x + 1)) for x in range(6)]


def test_inner_errors_come_through(pool):
    """An error of an inner item arrives with its own type, and tells the inner and the outer item."""

    def inner(x):
        return pk.map(divide, [1, 2, 3, x])

    with pytest.raises(ZeroDivisionError) as caught:
        pool().map(inner, [5, 0])
    assert len(caught.value.__notes__) == 2


def test_inner_futures(pool):
    """submit and amap work within an item."""

    def inner(x):
        with pk.Pool(workers=2) as own:
            tasks = [own.submit(increment, x), own.amap(increment, [x])]
            return [task.result(60) for task in tasks]

    assert pool().map(inner, range(5)) == [[x + 1, [x + 1]] for x in range(5)]


def test_inner_options_are_inherited(pool):
    """What configure sets around a call holds within its items, but for the bar and the backend."""
    with pk.configure(on_error="skip"):
        assert pool().map(lambda x: pk.map(divide, [0, x]), [3, 4]) == [[4], [3]]


def test_inner_configure_stays_inside(pool):
    """configure within an item does not leak into items that follow."""

    def inner(x):
        with pk.configure(on_error="skip"):
            return pk.map(divide, [x, 0])

    own = pool()
    assert own.map(inner, [3, 4]) == [[4], [3]]
    with pytest.raises(ZeroDivisionError):
        own.map(lambda x: pk.map(divide, [x, 0]), [3])


def test_arithmetic_libraries_get_the_share(concurrent_pool):
    """BLAS and OpenMP use no more threads within an item than the worker's share of the cores."""
    pytest.importorskip("numpy")

    def threads(_):
        import numpy as np
        import threadpoolctl

        np.ones((50, 50)) @ np.ones((50, 50))
        return pk.nesting().cores, [info["num_threads"] for info in threadpoolctl.threadpool_info()]

    own = concurrent_pool(workers=max(2, pk.cpu_count()))
    for share, counts in own.map(threads, range(4)):
        assert all(count <= share for count in counts)
        assert counts


def test_arithmetic_libraries_are_given_back(thread_pool):
    """After a call on threads the caller's BLAS has the threads it had before."""
    import numpy as np
    import threadpoolctl

    np.ones((50, 50)) @ np.ones((50, 50))
    before = [info["num_threads"] for info in threadpoolctl.threadpool_info()]
    thread_pool().map(identity, range(10))
    assert before and [info["num_threads"] for info in threadpoolctl.threadpool_info()] == before


def test_workers_of_workers_are_none(process_pool):
    """However deep the nest, the processes that did the work are the two workers."""
    own = process_pool()
    numbers = own.map(
        lambda _: [n for part in pk.map(lambda _: pk.map(pid, range(3)), range(3)) for n in part],
        range(8),
    )
    assert len({n for part in numbers for n in part}) <= 2


def cores_at_the_end(x):
    """The cores that the first item has when it is the last one that runs, and of its inner call."""
    if x:
        return None
    while (cores := pk.nesting().cores) < 5:  # a time limit ends a test that fails
        time.sleep(0.001)
    with pk.Pool() as own:
        return cores, own.map(level_and_cores, range(2))


def level_and_cores(_):
    return tuple(pk.nesting())


def test_the_tail_of_a_call_has_all_the_cores(concurrent_pool, monkeypatch):
    """An item that still runs when the others are done may use the cores of all."""
    if concurrent_pool.elsewhere:
        pytest.skip("other engines do not lend the cores of idle workers")
    monkeypatch.setattr("parallelkit.place.nesting.cpu_count", lambda: 5)
    results = concurrent_pool(workers=2, chunksize=1).map(cores_at_the_end, range(6))
    cores, inner = results[0]
    assert cores == 5
    assert {(2, 2), (2, 3)} & set(inner)  # the one that ends last may be the tail of that call


def cores_in_the_middle(x, folder):
    """Cores of the first two items, asked for while both run and others are to come."""
    if x < 2:
        meet(x, folder, 2)
        cores = pk.nesting().cores
        meet(x + 2, folder, 4)
        return cores
    return None


def test_the_tail_of_one_call_is_not_lent_to_the_next(concurrent_pool, monkeypatch, tmp_path):
    """A call that begins after such a tail has the shares that any call has."""
    if concurrent_pool.elsewhere:
        pytest.skip("other engines do not lend the cores of idle workers")
    monkeypatch.setattr("parallelkit.place.nesting.cpu_count", lambda: 5)
    own = concurrent_pool(workers=2, chunksize=1)
    own.map(cores_at_the_end, range(3))
    assert sorted(own.map(cores_in_the_middle, range(6), folder=str(tmp_path))[:2]) == [2, 3]


def grows(x, folder):
    """An inner call that begins on one core; its other items must meet to get on."""
    if not x:
        wait_for(os.path.join(folder, "begun"))
        return [0]
    with pk.Pool(chunksize=1) as own:
        return own.map(waits_for_cores, range(40), folder=folder)


def waits_for_cores(y, folder):
    if y == 0:
        mark(folder, "begun")
        while pk.nesting().cores < 2:  # a time limit ends a test that fails
            time.sleep(0.001)
    elif y in (1, 2):
        meet(y, folder, 2)
    return y


def test_a_call_that_runs_uses_cores_that_fall_free(concurrent_pool, monkeypatch, tmp_path):
    """An inner call that began in place goes on with threads when the other outer item is done."""
    if concurrent_pool.elsewhere:
        pytest.skip("other engines do not lend the cores of idle workers")
    monkeypatch.setattr("parallelkit.place.nesting.cpu_count", lambda: 2)
    own = concurrent_pool(workers=2, chunksize=1)
    expected = [[0], list(range(40))]
    assert own.map(grows, range(2), folder=str(tmp_path)) == expected


def gives_back(y, folder):
    """Thread of an item that began when the other call was there; before that two threads meet."""
    there = os.path.exists(os.path.join(folder, "other"))
    if y < 2:
        meet(y, folder, 2)
        mark(folder, "grown")
    wait_for(os.path.join(folder, "other" if y >= 2 else "grown"))
    if y == 39:
        mark(folder, "over")
    return threading.get_ident() if there else None


def grown(x, folder):
    if not x:  # the other item has a share of one for good, and this one's core when it is done
        return []
    while pk.nesting().cores < 2:  # a time limit ends a test that fails
        time.sleep(0.001)
    with pk.Pool(chunksize=1) as own:
        return own.map(gives_back, range(40), folder=folder)


def other_call(_, folder):
    mark(folder, "other")
    wait_for(os.path.join(folder, "over"))


def test_a_call_that_runs_gives_cores_back(process_pool, monkeypatch, tmp_path):
    """When a new outer call begins, the inner call that had its core goes on with one thread."""
    monkeypatch.setattr("parallelkit.place.nesting.cpu_count", lambda: 2)
    own, folder = process_pool(workers=2, chunksize=1), str(tmp_path)
    first = own.amap(grown, range(2), folder=folder)
    wait_for(os.path.join(folder, "grown"))
    own.map(other_call, [0], folder=folder)
    assert len({thread for thread in first.result()[1] if thread}) == 1


@pytest.mark.parametrize(
    ("cores", "options"),
    [
        (3, {"workers": 3}),
        (3, {"workers": 3, "nested": "process"}),
        (3, {"workers": 3, "nested": "auto"}),
        (4, {"workers": 2}),  # whose items have two cores each
        (3, {"workers": 3, "backend": "thread"}),
    ],
    ids=str,
)
def test_random_trees_keep_the_budget(cores, options, monkeypatch):
    """Whatever the tree and the mix of backends: a loop's sum, and no more leaves at a time than cores."""
    monkeypatch.setattr("parallelkit.place.nesting.cpu_count", lambda: cores)
    monkeypatch.setattr("parallelkit.backends.processes.scheduler.HOLD", 5.0)  # on a busy machine
    random = Random(f"{cores} {options}")
    for _ in range(12):
        assert grow(random, **options) <= cores


def cores_while_all_run(x, folder):
    meet(x, folder, 4)
    cores = os.getpid(), pk.nesting().cores
    meet(4 + x, folder, 8)
    return cores


def calls_on_two_threads(x, folder):
    """Each thread makes a call whose item might be handed to another process, were one idle."""

    def on_a_thread(y):
        with pk.Pool(nested="process") as own:
            return own.map(cores_while_all_run, [2 * x + y], folder=folder)[0]

    return [(pid == os.getpid(), cores) for pid, cores in pk.map(on_a_thread, range(2))]


def test_items_on_processes_have_no_more_cores_than_who_calls(process_pool, monkeypatch, tmp_path):
    """On one of two cores of a worker, such an item has one; in another worker it would have two."""
    monkeypatch.setattr("parallelkit.place.nesting.cpu_count", lambda: 4)
    found = process_pool(workers=2, chunksize=1).map(
        calls_on_two_threads, range(2), folder=str(tmp_path)
    )
    assert [one for both in found for one in both] == [(True, 1)] * 4


def arithmetic(x, folder):
    np, threadpoolctl = importlib.import_module("numpy"), importlib.import_module("threadpoolctl")
    np.ones((50, 50)) @ np.ones((50, 50))
    meet(x, folder, 2)
    return os.getpid(), {info["num_threads"] for info in threadpoolctl.threadpool_info()}


@pytest.mark.skipif(pk.cpu_count() < 2, reason="one core cannot be shared out")
def test_arithmetic_libraries_of_items_that_are_handed_out(process_pool, tmp_path):
    """They have a worker's part everywhere, also in an item that has all cores, being the only one of its call."""

    def outer(_):
        return (
            pk.cpu_count(),
            pk.nesting().cores,
            pk.map(arithmetic, range(2), folder=str(tmp_path)),
        )

    own = process_pool(workers=2, nested="process", chunksize=1)
    ((cores, mine, found),) = own.map(outer, [0])
    assert mine == cores
    assert len({number for number, _ in found}) == 2
    assert all(threads and max(threads) <= cores // 2 for _, threads in found)


class Library:
    """A numerical library as threadpoolctl shows it, with one number of threads."""

    def __init__(self, api):
        self.user_api = self.filepath = api
        self.threads = 8

    def get_num_threads(self):
        return self.threads

    def set_num_threads(self, threads):
        self.threads = threads


@pytest.mark.parametrize("first", ["outer", "inner"])
def test_iterators_that_end_in_any_order_give_threads_back(monkeypatch, first):
    """Two calls in one thread, the one begun within the other: libraries have in the end what they had."""
    libraries = [Library("openmp"), Library("blas")]
    monkeypatch.setattr(blas, "_libraries", lambda: libraries)
    outer, inner = blas.lent(4, 4), blas.lent(1, 1)
    outer.__enter__()
    inner.__enter__()
    assert libraries[0].threads == 1
    (outer if first == "outer" else inner).__exit__(None, None, None)
    assert libraries[0].threads == (1 if first == "outer" else 4)
    (inner if first == "outer" else outer).__exit__(None, None, None)
    assert [library.threads for library in libraries] == [8, 8]


def lengths(x):
    """Inner calls of nothing, of one item, of many; what they raise, and where."""
    with pytest.raises(ZeroDivisionError) as caught:
        pk.map(divide, [1, 2, 0, x + 1])
    return (
        [len(pk.map(increment, range(n))) for n in (0, 1, 300)],
        pk.map(lambda a, b: a + b, [x], (1,)),
        list(pk.imap(increment, [x])),
        caught.value.__notes__[0],
    )


def test_short_inner_calls(pool):
    """Whatever their length, inner calls give what a loop gives, and an error tells its item."""
    for x, (counts, added, lazy, note) in enumerate(pool().map(lengths, range(4))):
        assert (counts, added, lazy) == ([0, 1, 300], [x + 1], [x + 1])
        assert note.startswith("in item 2 of the input")


def test_quick_inner_calls_wake_no_thread(thread_pool, monkeypatch):
    """Where items are known to take next to nothing, they run in the thread that makes the call."""
    monkeypatch.setattr("parallelkit.place.nesting.cpu_count", lambda: 5)
    monkeypatch.setattr("parallelkit.engine.run._costs.of", lambda _: 1e-6)

    def inner(_):
        return pk.nesting().cores, threading.get_ident(), set(pk.map(in_thread, range(9)))

    ((cores, outer, inside),) = thread_pool().map(inner, [0])
    assert cores == 5
    assert inside == {outer}


def in_thread(_):
    return threading.get_ident()


def threads_after(calls):
    with pk.Pool(2, "thread", chunksize=1) as own:
        for _ in range(calls):
            assert own.map(operator.neg, (1, 2)) == [-1, -2]
    return threading.active_count()


def test_threads_that_have_not_woken_up_serve_the_next_call(process_pool):
    """A call that asks for threads of its own finds those of the one before, even if they slept through that.

    One that is just awake is busy, so some calls start others; each that did would leave hundreds.
    """
    own = process_pool(workers=1)
    assert own.map(threads_after, [500])[0] <= 40


def test_a_pool_that_ends_while_a_short_inner_call_runs():
    """The call in place ends with the pool, after the item that runs."""
    own = pk.Pool(backend="thread", workers=1)
    ran = []

    def ending(x):
        ran.append(x)
        own.terminate()

    def inner(_):
        with pytest.raises(pk.ParallelError, match="terminated"):
            own.map(ending, range(5))
        return len(ran)

    with pk.Pool(backend="serial") as outer:
        assert outer.map(inner, [0]) == [1]


# ---- items that nobody waits for any more --------------------------------------------------------


def on_joblib(leaf):
    joblib = pytest.importorskip("joblib")
    pytest.importorskip("parallelkit.integrations.joblib")
    with joblib.parallel_config(backend="parallelkit"):
        joblib.Parallel(n_jobs=2)(joblib.delayed(leaf)(x) for x in range(50))


INNER = {
    "map": lambda leaf: pk.map(leaf, range(50)),
    "in place": lambda leaf: pk.Pool(backend="serial").map(leaf, range(50)),
    "imap": lambda leaf: list(pk.imap(leaf, iter(range(50)))),
    "a level further": lambda leaf: pk.map(lambda x: pk.map(leaf, range(50)), range(2)),
    "amap": lambda leaf: pk.Pool().amap(leaf, range(50)).result(),
    "submit": lambda leaf: [f.result() for f in [pk.Pool().submit(leaf, x) for x in range(50)]],
    "executor": lambda leaf: list(pk.PoolExecutor(2).map(leaf, range(50))),
    "joblib": on_joblib,
}


class Abandoned:
    """Items of an outer call that make an inner one, whose items wait until they are told to go on."""

    def __init__(self, inner):
        self.inner = inner
        self.begun = queue.SimpleQueue()
        self.going = False
        self.go = threading.Event()
        self.ended = queue.SimpleQueue()

    def __call__(self, x):
        def leaf(_):
            self.begun.put(x)
            assert self.going or self.go.wait(60)

        try:
            self.inner(leaf)
        except BaseException as error:
            self.ended.put(type(error))
            raise
        self.ended.put(None)

    def wait_for(self, *items):
        missing = set(items)
        while missing:
            missing.discard(self.begun.get(timeout=60))

    def finish(self, items):
        """Let them go on: how many inner items are begun from now on, and how the outer ones end."""
        before = self.begun.qsize()
        self.go.set()
        ends = [self.ended.get(timeout=60) for _ in range(items)]
        return self.begun.qsize() - before, ends


@pytest.mark.parametrize("inner", INNER)
def test_inner_calls_end_with_their_outer_call(thread_pool, monkeypatch, inner):
    """When an item on a thread is given up, the call that it makes begins no item more, whatever kind of call it is."""
    monkeypatch.setattr("parallelkit.place.nesting.cpu_count", lambda: 5)
    outer = Abandoned(INNER[inner])
    results = thread_pool().imap(outer, range(2))
    outer.wait_for(0, 1)
    results.close()
    begun, ends = outer.finish(2)
    assert begun < 10  # threads that were about to begin one
    assert ends == [nesting.GivenUp] * 2


def test_what_a_given_up_item_has_submitted_does_not_begin_after_its_end(thread_pool):
    """Calls that wait for a worker are given up with the item that has submitted them, also once that has returned."""
    go, begun, closed = (threading.Event() for _ in range(3))
    futures, ran, objects = [], [], []

    class Local:
        """What an item has until it ends."""

    def leaf(x):
        ran.append(x)
        begun.set()
        assert go.wait(60)

    def item(_):
        own = Local()
        objects.append(weakref.ref(own))
        inner = pk.Pool(1, backend="thread")
        futures.extend(inner.submit(leaf, x) for x in range(5))
        assert closed.wait(60)

    results = thread_pool().imap(item, range(1))
    assert begun.wait(60)
    results.close()
    closed.set()
    wait_until(lambda: objects[0]() is None, "the end of the item")
    go.set()
    assert [type(future.exception(60)) for future in futures] == [type(None)] + [
        nesting.GivenUp
    ] * 4
    assert ran == [0]


def endless(leaf):
    for _ in pk.imap(leaf, itertools.count()):
        pass


@pytest.mark.parametrize("backend", ["thread", "executor"])
def test_inner_calls_end_with_an_item_that_fails(backend):
    """When an item fails, calls of later items end, though nothing else would end them; those of earlier ones go on."""
    begun = threading.Barrier(3)

    def item(x):
        if x == 1:
            begun.wait(60)
            raise KeyError(x)
        first = threading.Lock()

        def leaf(y):
            if first.acquire(blocking=False):
                begun.wait(60)
            return y

        return pk.map(leaf, range(5)) if x == 0 else endless(leaf)

    with ThreadPoolExecutor(3) as threads:
        own = pk.Pool(3, backend=threads if backend == "executor" else backend, chunksize=1)
        results = own.imap(item, range(3))
        assert next(results) == [0, 1, 2, 3, 4]
        with pytest.raises(KeyError):
            next(results)
        with pytest.raises(KeyError):
            own.map(item, range(3))


@pytest.mark.parametrize("backend", ["thread", "executor"])
def test_inner_calls_end_at_ctrl_c(backend):
    """All that is left of a call after Ctrl-C comes to its end, whichever thread runs it."""
    outer = Abandoned(endless)
    outer.going = True  # without the event, whose lock Ctrl-C can leave locked for all threads

    def interrupting(x):
        if x == 2:
            outer.wait_for(0, 1)
            _thread.interrupt_main()
        else:
            outer(x)

    with ThreadPoolExecutor(3) as threads:
        own = pk.Pool(3, backend=threads if backend == "executor" else backend, chunksize=1)
        with pytest.raises(KeyboardInterrupt):
            own.map(interrupting, range(3))
        ends = {outer.ended.get(timeout=60) for _ in range(2)}
    assert ends <= {nesting.GivenUp, KeyboardInterrupt}


def test_what_an_item_leaves_behind_is_not_given_up_with_its_call():
    """An iterator that an item has returned goes on when the other items are given up; so does a pool that it has made."""
    made = []

    def item(x):
        if x == 0:
            made.append(pk.Pool(2))
            assert made[0].submit(increment, 1).result() == 2
            return pk.imap(increment, range(3))
        return endless(identity)

    results = pk.Pool(2, backend="thread", chunksize=1).imap(item, range(2))
    inner = next(results)
    results.close()
    assert list(inner) == [1, 2, 3]
    assert pk.Pool(2, backend="thread").map(
        lambda x: made[0].submit(increment, x).result(), range(3)
    ) == [1, 2, 3]
