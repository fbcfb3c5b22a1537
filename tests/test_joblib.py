"""joblib and scikit-learn on our workers: the contract of the backend, beside joblib's own tests (`make accept-joblib`)."""

import concurrent.futures.process
import math
import multiprocessing
import os
import pickle
import signal
import time
import traceback

import helpers
import joblib
import numpy as np
import pytest
from helpers import set_up, setting
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

import parallelkit as pk
from parallelkit.integrations import joblib as ours
from parallelkit.transport import anonymous

LARGE = 300_000  # doubles: more than the megabyte from which joblib shares arrays


@pytest.fixture(params=["parallelkit", "parallelkit-threads"])
def backend(request):
    """Both backends, with two workers, as people switch to them."""
    with parallel_config(backend=request.param, n_jobs=2):
        yield request.param


@pytest.fixture
def processes():
    """The backend of processes, with two workers."""
    with parallel_config(backend="parallelkit", n_jobs=2):
        yield


OF_A_SCRIPT = """
import joblib
import parallelkit.integrations.joblib

K = 2

def times(x):
    return K * x

with joblib.parallel_config("parallelkit", n_jobs=2):
    print(joblib.Parallel()(joblib.delayed(times)(x) for x in range(4)))
    K = 3
    print(joblib.Parallel()(joblib.delayed(times)(x) for x in range(4)))
"""


def test_functions_of_a_script(script):
    """They are found by name in a worker, which is told of them, and of their globals as they are now."""
    assert script(OF_A_SCRIPT).out == "[0, 2, 4, 6]\n[0, 3, 6, 9]\n"


# ---- results -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
@pytest.mark.parametrize("pre_dispatch", ["2 * n_jobs", "all", 1])
def test_results_are_those_of_a_loop(backend, batch_size, pre_dispatch):
    """Whatever the batches, a list in the order of the tasks; lambdas and keywords cross too."""
    tasks = (delayed(lambda x, k=0: x * x + k)(i, k=i) for i in range(100))
    results = Parallel(batch_size=batch_size, pre_dispatch=pre_dispatch)(tasks)
    assert results == [i * i + i for i in range(100)]


@pytest.mark.parametrize("kind", [ours.ParallelkitBackend, ours.ParallelkitThreadsBackend])
def test_batches_that_are_done_before_joblib_hears_of_them(kind):
    """A chain of batches, each done as soon as it is submitted, is no recursion."""

    class Prompt(kind):
        def _started(self, func):
            future = super()._started(func)
            concurrent.futures.wait([future])
            return future

    with parallel_config(backend=Prompt(), n_jobs=2):
        results = Parallel(pre_dispatch=1, batch_size=1)(delayed(abs)(-i) for i in range(500))
    assert results == list(range(500))


def test_where_tasks_run(backend):
    """Tasks of the one run in other processes, those of the other in threads of this one."""
    pids = set(Parallel()(delayed(os.getpid)() for _ in range(8)))
    assert (os.getpid() in pids) == (backend == "parallelkit-threads")


def test_no_tasks(backend):
    """An iterator that gives nothing gives an empty list."""
    assert Parallel()(iter([])) == []


def test_one_job_runs_in_place(backend):
    """n_jobs=1 needs no worker."""
    place = helpers.place()
    assert Parallel(n_jobs=1)(delayed(helpers.place)() for _ in range(3)) == [place] * 3


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_generators(backend, return_as):
    """Results come one by one, in order if that is asked for."""
    results = Parallel(return_as=return_as)(delayed(math.sqrt)(i) for i in range(50))
    assert next(results) is not None
    rest = list(results)
    assert len(rest) == 49
    if return_as == "generator":
        assert rest == [math.sqrt(i) for i in range(1, 50)]


def test_unordered_results_do_not_wait_for_a_slow_task(backend, folder):
    """All others are there while the first one runs."""
    gate = folder / "gate"
    tasks = (delayed(helpers.first_waits)(i, gate) for i in range(10))
    results = Parallel(return_as="generator_unordered", batch_size=1)(tasks)
    assert sorted(next(results) for _ in range(9)) == list(range(1, 10))
    gate.touch()
    assert list(results) == [0]


def test_two_generators_at_a_time(backend):
    """Calls that overlap under one parallel_config do not get in each other's way."""
    one = Parallel(return_as="generator")(delayed(math.sqrt)(i) for i in range(20))
    other = Parallel(return_as="generator")(delayed(abs)(-i) for i in range(20))
    assert next(one) == 0.0
    assert list(other) == list(range(20))
    assert list(one) == [math.sqrt(i) for i in range(1, 20)]


def test_input_is_drawn_as_it_is_needed(backend, folder):
    """No more tasks are drawn than pre_dispatch says until one is done."""
    gate, drawn = folder / "gate", []

    def tasks():
        for i in range(6):
            drawn.append(i)
            yield delayed(helpers.first_waits)(0, gate)

    results = Parallel(return_as="generator", pre_dispatch=2, batch_size=1)(tasks())
    assert drawn == [0, 1]
    gate.touch()
    assert list(results) == [0] * 6


def test_batches_grow_and_are_forgotten(processes):
    """Short tasks travel together; the next call begins anew."""
    with Parallel() as parallel:
        parallel(delayed(abs)(i) for i in range(2000))
        assert parallel.n_dispatched_batches < 2000
    assert parallel._backend.compute_batch_size() == 1


def test_verbose_tells_the_backend(backend, capsys):
    """joblib's own report names it."""
    Parallel(verbose=11)(delayed(abs)(i) for i in range(4))
    name = {"parallelkit": "ParallelkitBackend", "parallelkit-threads": "ParallelkitThreadsBackend"}
    assert f"Using backend {name[backend]} with 2 concurrent workers" in capsys.readouterr().err


def test_a_short_call_is_not_held_up(backend):
    """joblib's loop looks for results every 10 ms; a list does not wait for that."""
    Parallel()(delayed(abs)(i) for i in range(2))
    looks, sleep = [], time.sleep
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joblib.parallel.time, "sleep", lambda s: (looks.append(s), sleep(s)))
        assert Parallel()(delayed(abs)(-i) for i in range(2)) == [0, 1]
    assert looks == []


# ---- errors --------------------------------------------------------------------------------------


def divide(x, by):
    return x / by


def test_error_is_the_tasks_own_and_names_it(backend):
    """It comes as what it is, with the call that raised it and the worker's traceback."""
    with pytest.raises(ZeroDivisionError) as caught:
        Parallel()(delayed(divide)(x, by=3 - x) for x in range(100))
    assert caught.value.__notes__ == ["in the task divide(3, by=0)"]
    report = "".join(traceback.format_exception(caught.value))
    assert "return x / by" in report


def test_error_in_the_input(backend):
    """What the generator of tasks raises is raised, also long after the beginning."""

    def tasks(last):
        for i in range(last):
            yield delayed(abs)(i)
        raise ValueError("no more")

    for last in (0, 3, 100):
        with pytest.raises(ValueError, match="no more"):
            Parallel(batch_size=1)(tasks(last))


def test_unpicklable_task(processes):
    """It is a PicklingError, as of joblib's processes, and names what cannot cross."""
    with pytest.raises(pickle.PicklingError, match="Could not pickle the task") as caught:
        Parallel()(delayed(id)(i for i in "ab") for _ in range(4))
    assert isinstance(caught.value, pk.TransportError)
    assert "generator" in str(caught.value)
    assert Parallel()(delayed(abs)(i) for i in range(3)) == [0, 1, 2]


def test_timeout(backend, folder):
    """Parallel(timeout=...) ends the call; the next one has the workers."""
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=0.1)(delayed(helpers.wait_for)(folder / "gate") for _ in range(4))
    assert Parallel(timeout=60)(delayed(abs)(i) for i in range(3)) == [0, 1, 2]
    (folder / "gate").touch()


def test_abort_frees_the_workers_at_once(processes, folder):
    """A failure ends tasks that would run for ever, and one Parallel can be used again."""
    with Parallel(batch_size=1) as parallel:
        for _ in range(2):
            with pytest.raises(ValueError, match="item 0 is bad"):
                parallel(delayed(helpers.fail_then_hold)(i, folder) for i in range(2))
            for file in folder.iterdir():
                file.unlink()
            assert parallel(delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]


def test_dropped_generator_ends_its_tasks(processes, folder):
    """Tasks of a generator that nobody has any more are ended."""
    results = Parallel(return_as="generator", batch_size=1)(
        delayed(helpers.hold_at)(i, 1, folder) for i in range(2)
    )
    assert next(results) == 0
    helpers.wait_for(folder / "held-1")
    with pytest.warns(UserWarning, match="cancelled"):
        del results
    assert Parallel()(delayed(abs)(i) for i in range(8)) == list(range(8))


def die(folder, i):
    if i == 1 and helpers.mark(folder, "died"):
        os.kill(os.getpid(), signal.SIGKILL)
    return i


def test_worker_that_dies(processes, folder):
    """The error is one of both libraries; the workers are there for the next call."""
    with pytest.raises(pk.WorkerDied, match="SIGKILL") as caught:
        Parallel(batch_size=1)(delayed(die)(folder, i) for i in range(8))
    assert isinstance(caught.value, TerminatedWorkerError)
    assert isinstance(caught.value, concurrent.futures.process.BrokenProcessPool)
    assert Parallel()(delayed(die)(folder, i) for i in range(8)) == list(range(8))


def test_worker_that_dies_with_retries(folder):
    """Options of a Pool are options of the backend: with retries= the call survives."""
    with parallel_config(backend="parallelkit", n_jobs=2, retries=1):
        assert Parallel()(delayed(die)(folder, i) for i in range(8)) == list(range(8))


# ---- arrays --------------------------------------------------------------------------------------


def add_in_place(array, value):
    array += value
    return float(array[0]), float(array[-1])


def test_tasks_have_arrays_of_their_own(processes):
    """A large array that all tasks get can be written to, and no task sees what another one wrote."""
    array = np.arange(float(LARGE))
    results = Parallel(batch_size=1)(delayed(add_in_place)(array, i) for i in range(12))
    assert results == [(float(i), LARGE - 1.0 + i) for i in range(12)]
    assert array[0] == 0.0


@pytest.mark.parametrize("batch_size", [2, 5])
def test_tasks_of_a_batch_have_arrays_of_their_own(processes, batch_size):
    """Nor does a task see what another one of its own batch wrote, wherever the array lies."""
    array = np.ones(LARGE)

    def use(thing, i):
        thing["a"][i] = 5
        return thing["a"].sum() - thing["a"].size

    results = Parallel(batch_size=batch_size)(delayed(use)({"a": array}, i) for i in range(6))
    assert results == [4.0] * 6


@pytest.mark.parametrize(
    "array",
    [
        np.ones((LARGE // 100, 100)),
        np.ones((LARGE // 100, 100), order="F"),
        np.ones(LARGE, dtype=">f8"),
        np.broadcast_to(np.ones(1), (LARGE,)).copy(),
        np.ones((LARGE, 2))[:, 0],
    ],
)
@pytest.mark.parametrize("writeable", [True, False])
@pytest.mark.parametrize("inside", [False, True])
def test_arrays_arrive_as_they_are(processes, array, writeable, inside):
    """Order, byte order and writability hold; inside other objects too."""
    array.flags.writeable = writeable

    def look(thing):
        array = thing["x"] if inside else thing
        return array.dtype.str, array.shape, array.flags.writeable, float(array.sum())

    thing = {"x": array} if inside else array
    seen = Parallel(batch_size=1)(delayed(look)(thing) for _ in range(6))
    assert seen == [(array.dtype.str, array.shape, writeable, float(array.sum()))] * 6


def test_large_arrays_cross_once(processes):
    """From the third task on only the name of an array travels."""
    array = np.ones(LARGE)
    messages = []

    class Seen(ours.Packed):
        def __init__(self, task, once):
            super().__init__(task, once)
            _, buffers, shared, _ = self._state
            messages.append((sum(buffer.raw().nbytes for buffer in buffers), len(shared)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, "Packed", Seen)
        Parallel(batch_size=1)(delayed(np.sum)(array) for _ in range(6))
        Parallel(batch_size=1, max_nbytes=None)(delayed(np.sum)(array) for _ in range(2))
    assert messages == [(array.nbytes, 0)] + [(0, 1)] * 5 + [(array.nbytes, 0)] * 2


def test_large_arrays_cross_where_memory_is_filled_by_a_map(processes, monkeypatch):
    """As on Windows, where shared memory is no file that can be written to."""
    monkeypatch.setattr(anonymous, "WRITES", False)
    array = np.arange(LARGE, dtype=float).reshape(2, -1).T
    seen = Parallel(batch_size=1)(delayed(np.sum)(array[:, column]) for column in (0, 1, 0, 1))
    assert seen == [array[:, column].sum() for column in (0, 1, 0, 1)]
    seen = Parallel(batch_size=1)(delayed(np.sum)(array, 0) for _ in range(4))
    assert np.array_equal(seen, [array.sum(0)] * 4)


# ---- nesting -------------------------------------------------------------------------------------


def inner(n_jobs=None):
    """What a call inside a task gets: its backend and workers, and where its tasks run."""
    parallel = Parallel(n_jobs=n_jobs)
    here = joblib.parallel.get_active_backend()[0]
    places = parallel(delayed(os.getpid)() for _ in range(4))
    return type(here).__name__, here.nesting_level, set(places) == {os.getpid()}


def test_calls_inside_tasks_are_threads(backend):
    """They run in our threads, in the process of the task."""
    seen = Parallel()(delayed(inner)(n_jobs) for n_jobs in (None, 1, 2, -1))
    assert seen == [("ParallelkitThreadsBackend", 1, True)] * 4


def share():
    return joblib.effective_n_jobs(-1), pk.nesting().cores, pk.nesting().level


def test_share_of_the_cores(backend):
    """n_jobs=-1 inside a task means its share of the cores."""
    seen = Parallel(batch_size=1)(delayed(share)() for _ in range(6))
    assert {jobs == cores and level == 1 for jobs, cores, level in seen} == {True}
    assert sum(cores for _, cores, _ in seen[:2]) <= max(2, pk.cpu_count())


def deeper(level):
    granted = joblib.effective_n_jobs(4)
    if level == 3:
        return [granted]
    return [granted, *Parallel(n_jobs=2)(delayed(deeper)(level + 1) for _ in range(2))[0]]


def test_threads_of_threads_do_not_multiply(processes):
    """From the second level on a call gets no more than its share."""
    first, second, *rest = Parallel()(delayed(deeper)(0) for _ in range(2))[0]
    assert first == 4
    assert {second, *rest} == {min(4, pk.cpu_count() // 4 or 1)}


def joblib_call(n):
    with parallel_config(backend="parallelkit", n_jobs=2):
        return Parallel()(delayed(helpers.pid)() for _ in range(n))


def test_joblib_inside_our_worker():
    """A call of joblib inside an item of ours becomes threads of that worker."""
    with pk.Pool(2) as pool:
        seen = pool.map(lambda n: set(joblib_call(n)) == {os.getpid()}, [2, 3])
    assert seen == [True, True]


def uneven(x, folder, backend):
    """A call that begins on one core; when the other item is done, its tasks must meet to get on."""
    if not x:
        helpers.wait_until((folder / "item-begun").exists, "the other item to begin")
        return None
    with parallel_config(backend=backend):
        return Parallel(n_jobs=-1, batch_size=1)(delayed(meets)(y, folder) for y in range(12))


def meets(y, folder):
    if y == 0:
        helpers.mark(str(folder), "item-begun")
        helpers.wait_until(lambda: pk.nesting().cores == 2, "the core of the other item")
    elif y > 8:
        helpers.meet(y, str(folder), 3)  # the file from the beginning is there
    return y


@pytest.mark.parametrize("name", ["parallelkit", "parallelkit-threads"])
def test_a_call_inside_uses_cores_that_fall_free(name, monkeypatch, tmp_path):
    """joblib's call inside an item of ours has more threads when the other items are done."""
    monkeypatch.setattr("parallelkit.place.nesting.cpu_count", lambda: 2)
    with pk.Pool(2, chunksize=1) as pool:
        found = pool.map(uneven, range(2), folder=tmp_path, backend=name)
    assert found == [None, list(range(12))]


OF_A_SCRIPT_BELOW = """
import joblib
import parallelkit as pk
import parallelkit.integrations.joblib

def times(x):
    return 2 * x

def item(n):
    with joblib.parallel_config("parallelkit", n_jobs=2):
        return joblib.Parallel()(joblib.delayed(times)(x) for x in range(n))

with pk.Pool(2, start_method="forkserver") as pool:
    print(pool.map(item, [1, 2]))
"""


def test_workers_know_the_backends(script):
    """What the script imports to register the backends need not be imported again inside an item."""
    assert script(OF_A_SCRIPT_BELOW).out == "[[0], [0, 2]]\n"


def our_call(n):
    return pk.map(helpers.increment, range(n)), pk.nesting().level


def test_our_call_inside_a_worker_of_joblib():
    """pk.map works in joblib's own processes, and in ours."""
    try:
        for name in ("parallelkit", "loky"):
            seen = Parallel(n_jobs=2, backend=name)(delayed(our_call)(n) for n in (2, 3))
            assert [result for result, _ in seen] == [[1, 2], [1, 2, 3]]
            assert {level for _, level in seen} == {1}
    finally:
        get_reusable_executor().shutdown(wait=True, kill_workers=True)


def blas_threads():
    import threadpoolctl

    np.ones((50, 50)) @ np.ones((50, 50))
    return {library["num_threads"] for library in threadpoolctl.threadpool_info()}


@pytest.mark.parametrize("threads", [1, 2])
def test_inner_max_num_threads(threads):
    """BLAS and OpenMP use as many threads inside a task as was asked for."""
    with parallel_config(backend="parallelkit", n_jobs=2, inner_max_num_threads=threads):
        assert Parallel()(delayed(blas_threads)() for _ in range(2)) == [{threads}] * 2


def test_threads_of_the_environment(processes, monkeypatch):
    """Where the user's environment says a number, it holds in the workers too."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert Parallel()(delayed(blas_threads)() for _ in range(2)) == [{2}] * 2


# ---- options, and classes of others --------------------------------------------------------------


session = None


def open_session(name):
    global session
    session = name


def current_session():
    return session


def test_initializer():
    """Each worker runs it before its first task."""
    with parallel_config(
        backend="parallelkit", n_jobs=2, initializer=open_session, initargs=("mine",)
    ):
        assert Parallel()(delayed(current_session)() for _ in range(4)) == ["mine"] * 4


def test_workers_with_an_initializer_stay_warm(folder):
    """One Parallel after the other finds those of the block around them."""
    with parallel_config(
        backend="parallelkit", n_jobs=2, initializer=set_up, initargs=(str(folder), "mine")
    ):
        for _ in range(3):
            found = Parallel()(delayed(setting)(i) for i in range(4))
            assert found == [(i, "mine") for i in range(4)]
    assert 1 <= len(os.listdir(folder)) <= 2


@pytest.mark.parametrize("option", [*ours._REFUSED])
def test_options_that_joblib_has_its_own_way_for(option):
    """They are refused, with what to write instead."""
    parallel = Parallel(backend=ours.ParallelkitBackend(**{option: 1}), n_jobs=2)
    with pytest.raises(TypeError, match=f"{option}= is no option of this backend: "):
        parallel([delayed(abs)(1)])


class Counting(ours.ParallelkitBackend):
    """A third party's backend."""

    def __init__(self, label="none", **kwargs):
        super().__init__(**kwargs)
        self.label = label
        self.calls = []

    def configure(self, n_jobs=1, parallel=None, **kwargs):
        self.calls.append("configure")
        return super().configure(n_jobs=n_jobs, parallel=parallel, **kwargs)

    def submit(self, func, callback=None):
        self.calls.append("submit")
        return super().submit(func, callback)

    def get_nested_backend(self):
        return super().get_nested_backend()[0]  # the way of older versions of joblib


def test_subclass():
    """A class of a third party is a backend, by a name or as an object."""
    joblib.register_parallel_backend("counting", Counting)
    try:
        with parallel_config(backend="counting", n_jobs=2, label="mine") as config:
            assert Parallel(batch_size=1)(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
            assert config["backend"].label == "mine"
            assert config["backend"].calls == ["configure", "submit", "submit", "submit"]
        assert Parallel(n_jobs=2, backend=Counting())(delayed(abs)(i) for i in (1, -1)) == [1, 1]
    finally:
        del joblib.parallel.BACKENDS["counting"]


def test_without_joblib(command):
    """Its absence is an error with the command that mends it."""
    code = "import sys; sys.modules['joblib'] = None; import parallelkit.integrations.joblib"
    done = command(["-c", code], code=1)
    assert "pip install 'parallelkit[joblib]'" in done.err


# ---- scikit-learn --------------------------------------------------------------------------------


def data():
    from sklearn.datasets import make_classification

    return make_classification(200, 8, random_state=0)


def grid_search(n_jobs):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    search = GridSearchCV(LogisticRegression(), {"C": [0.01, 1.0, 10.0]}, cv=3, n_jobs=n_jobs)
    return search.fit(*data()).cv_results_["mean_test_score"]


def forest(n_jobs):
    from sklearn.ensemble import RandomForestClassifier

    x, y = data()
    return RandomForestClassifier(10, random_state=0, n_jobs=n_jobs).fit(x, y).predict_proba(x)


def cross_validation(n_jobs):
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import cross_validate

    model = HistGradientBoostingClassifier(max_iter=5, random_state=0)
    return cross_validate(model, *data(), cv=4, n_jobs=n_jobs, return_train_score=True)[
        "train_score"
    ]


def importance(n_jobs):
    from sklearn.inspection import permutation_importance
    from sklearn.tree import DecisionTreeClassifier

    x, y = data()
    model = DecisionTreeClassifier(random_state=0).fit(x, y)
    found = permutation_importance(model, x, y, n_repeats=3, random_state=0, n_jobs=n_jobs)
    return found.importances


@pytest.mark.parametrize("work", [grid_search, forest, cross_validation, importance])
def test_scikit_learn(backend, work):
    """Numbers are those of one job, to the last digit."""
    pytest.importorskip("sklearn")
    np.testing.assert_array_equal(work(2), work(1))


def test_search_in_a_search(processes):
    """A search of forests with jobs of their own: the inner jobs are threads of the workers."""
    pytest.importorskip("sklearn")
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV

    def scores(outer, inner):
        model = RandomForestClassifier(5, random_state=0, n_jobs=inner)
        search = GridSearchCV(model, {"max_depth": [2, 4]}, cv=2, n_jobs=outer)
        return search.fit(*data()).cv_results_["mean_test_score"]

    np.testing.assert_array_equal(scores(2, 2), scores(1, 1))
