"""Numerical libraries hold to the share of cores: seen by the threads that work, not by settings."""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from backends import START_METHODS
from helpers import wait_until

import parallelkit as pk

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc"
)
SOURCE = """
int team(void) {
    int members = 0;
    #pragma omp parallel reduction(+:members)
    members += 1;
    return members;
}
"""


@pytest.fixture(scope="module")
def openmp(tmp_path_factory):
    """Path of a maker of OpenMP libraries: each is a file of its own, which no process has loaded yet."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no compiler")
    folder = tmp_path_factory.mktemp("openmp")
    (folder / "team.c").write_text(SOURCE)
    library = folder / "team.so"
    command = [compiler, "-shared", "-fPIC", "-fopenmp", "team.c", "-o", str(library)]
    if subprocess.run(command, cwd=folder, capture_output=True).returncode:
        pytest.skip("the compiler knows no OpenMP")
    return str(library)


@pytest.fixture
def cores(monkeypatch):
    """Let this process believe that it has so many cores."""
    return lambda n: monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(n)))


def team(library):
    """How many threads run a parallel region of a user's own library."""
    return ctypes.CDLL(library).team()


def team_of_item(_, library):
    return team(library)


def teams_at_a_time(_, library, folder, parties):
    """Teams of items that run at the same time."""
    Path(folder, str(threading.get_ident()) + f"-{os.getpid()}").touch()
    while len(os.listdir(folder)) < parties:
        pass
    return team(library)


def seconds_by_thread():
    """Seconds of computing by each thread of this process, ended ones left out."""
    seconds = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            seconds[task.name] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return seconds


def workers_of(work):
    """How many threads did a notable part of the work, as the kernel counts it."""
    wait_until(others_rest, "threads that wait for work in a loop, as OpenBLAS' do for a while")
    before = seconds_by_thread()
    work()
    spent = [now - before.get(name, 0) for name, now in seconds_by_thread().items()]
    return sum(seconds > max(spent) / 4 for seconds in spent)


def others_rest():
    before = seconds_by_thread()
    threading.Event().wait(0.01)
    now = seconds_by_thread()
    del now[str(threading.get_native_id())]
    return sum(seconds - before.get(name, 0) for name, seconds in now.items()) < 0.001


def multiply(_=None, size=600, times=8):
    a = np.ones((size, size))
    for _ in range(times):
        a = a @ a / size
    return float(a[0, 0])


def fit(seed=0):
    from sklearn.ensemble import HistGradientBoostingRegressor

    x = np.random.default_rng(seed).normal(size=(10_000, 8))
    HistGradientBoostingRegressor(max_iter=5).fit(x, x[:, 0] * x[:, 1])


def workers_of_multiply(_):
    multiply(size=100)  # what is started on the first use has been started
    return workers_of(multiply)


def workers_of_fit(_):
    fit()
    return workers_of(fit)


@needs_proc
@pytest.mark.parametrize("count", [workers_of_multiply, workers_of_fit])
@pytest.mark.parametrize("share", [1, 2])
def test_threads_that_work_in_a_worker(count, share, cores):
    """A worker with a share of n computes a matrix product, and a scikit-learn fit, with n threads."""
    if count is workers_of_fit:
        pytest.importorskip("sklearn")
    cores(share)  # one item has them all: two would spin for each other's cores on a small machine
    with pk.Pool(workers=2) as pool:
        assert pool.map(count, [0]) == [share]


@pytest.mark.parametrize("share", [1, 2, 3])
@pytest.mark.parametrize("start_method", START_METHODS)
def test_own_library_in_a_worker(openmp, share, start_method, cores):
    """A user's own OpenMP library, loaded by the item, runs as many threads as the worker's share."""
    cores(2 * share)
    with pk.Pool(workers=2, start_method=start_method) as pool:
        assert set(pool.map(team_of_item, range(6), library=openmp)) == {share}


def test_workers_are_kept_and_their_share_changes(openmp, cores):
    """The same warm workers run other numbers of threads when a later call gives them another share."""
    with pk.Pool(workers=2) as pool:
        for share in (1, 3, 2):
            cores(2 * share)
            assert set(pool.map(team_of_item, range(6), library=openmp)) == {share}


def test_remainders_are_used(openmp, folder, cores):
    """Five cores over two workers: one runs three threads, the other two, on processes and on threads."""
    cores(5)
    team(openmp)  # a library that an item on threads loads begins with the smallest share
    for backend in ("process", "thread"):
        own = folder / backend
        own.mkdir()
        with pk.Pool(workers=2, backend=backend, chunksize=1) as pool:
            teams = pool.map(teams_at_a_time, range(2), library=openmp, folder=str(own), parties=2)
            assert sorted(teams) == [2, 3]


@pytest.mark.parametrize("backend", ["process", "thread", "serial"])
def test_blas_threads_overrides(openmp, backend, cores):
    """blas_threads= counts more than the share, on every backend."""
    cores(4)
    before = team(openmp)
    for threads in (1, 3):
        with pk.Pool(workers=2, backend=backend, blas_threads=threads) as pool:
            assert set(pool.map(team_of_item, range(6), library=openmp)) == {threads}
    assert team(openmp) == before


def teams_below(_, library):
    """Teams of an item, and of those of a call inside it."""
    return team(library), *pk.map(team_of_item, [0], library=library)


@pytest.mark.parametrize("options", [{}, {"workers": 1, "backend": "process"}])
@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "NUMBA_NUM_THREADS"])
def test_variables_of_the_user_are_upper_bounds(openmp, options, name, cores, monkeypatch):
    """A limit that the user has set holds in items and in calls inside them, whatever falls free meanwhile."""
    cores(4)
    with pk.Pool(**{"workers": 2, **options}) as pool:
        share = 4 // pool.workers
        for limit in (1, 2, 3):
            monkeypatch.setenv(name, str(limit))
            teams = pool.map(teams_below, range(2), library=openmp)
            assert set(teams) == {(min(limit, share),) * 2}


@pytest.mark.parametrize("options", [{"workers": 1}, {"backend": "serial"}])
def test_variables_bound_calls_in_place(openmp, options, cores, monkeypatch):
    """They do so too where the library was loaded before they were set, and the caller has its own number again."""
    cores(4)
    before = team(openmp)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pk.Pool(**options) as pool:
        assert pool.map(team_of_item, range(2), library=openmp) == [1, 1]
        assert list(pool.imap(team_of_item, range(2), library=openmp)) == [1, 1]
    assert team(openmp) == before


@needs_proc
@pytest.mark.parametrize(("share", "cores_in_all"), [(1, 2), (2, 4)])
def test_threads_that_work_around_thread_items(share, cores_in_all, cores):
    """Two items on threads, share n each, run 2n threads of matrix products; the caller then has its own again."""
    cores(cores_in_all)
    alone = workers_of(lambda: multiply(times=12))
    with pk.Pool(workers=2, backend="thread", chunksize=1) as pool:
        at_work = workers_of(lambda: pool.map(multiply, range(6)))
    assert at_work <= 2 * share
    assert workers_of(lambda: multiply(times=12)) == alone


def test_own_library_in_thread_items(openmp, cores):
    """Items on threads hold an OpenMP library to the share; the caller has its own number again afterwards."""
    cores(6)
    before = team(openmp)
    with pk.Pool(workers=2, backend="thread") as pool:
        assert set(pool.map(team_of_item, range(8), library=openmp)) == {3}
    assert team(openmp) == before


LOADED_LATER = """
import ctypes, json, os, sys, threading
os.sched_getaffinity = lambda _: set(range(4))
import parallelkit as pk

def team(_):
    return ctypes.CDLL(sys.argv[1]).team()

before = dict(os.environ)
with pk.Pool(2, backend="thread", chunksize=1) as pool:
    print(json.dumps(pool.map(team, range(6))))
print(json.dumps(team(0)))
print(json.dumps(before == dict(os.environ)))
"""


def test_libraries_that_an_item_on_threads_loads(openmp, script):
    """An OpenMP library that is loaded by the first item holds to the share at once, and not afterwards."""
    ran = script(LOADED_LATER, openmp)
    assert ran.values == [[2] * 6, 4, True]


def test_nested_calls_on_threads(openmp, folder, cores):
    """Below a worker with a share of four, two threads run teams of two, and afterwards the item has four again."""

    def item(i):
        with pk.Pool(workers=2, backend="thread", chunksize=1) as pool:
            before, below = team(openmp), set(pool.map(team_of_item, range(4), library=openmp))
        Path(folder, str(i)).touch()  # who ends first would leave its cores to the other
        wait_until(lambda: len(os.listdir(folder)) == 2, "the other item")
        return before, below, team(openmp)

    cores(8)
    with pk.Pool(workers=2, chunksize=1) as pool:
        assert pool.map(item, range(2)) == [(4, {2}, 4)] * 2


@pytest.mark.parametrize("order", [[0, 1], [1, 0]], ids=["first first", "last first"])
def test_overlapping_iterators_give_everything_back(openmp, order, cores):
    """Two open imaps, ended in either order, leave OpenMP, BLAS and the environment as they were."""
    cores(6)
    before = team(openmp), blas_threads(), dict(os.environ)
    streams = [
        pk.Pool(workers=n, backend="thread").imap(team_of_item, range(100), library=openmp)
        for n in (2, 3)
    ]
    assert [next(stream) for stream in streams] == [3, 2]
    for i in order:
        streams[i].close()
    assert (team(openmp), blas_threads(), dict(os.environ)) == before


def test_an_open_iterator_leaves_the_consumer_alone(openmp, cores):
    """The thread that takes from an imap runs no items: its own OpenMP calls keep their threads."""
    cores(6)
    before = team(openmp)
    stream = pk.Pool(workers=2, backend="thread").imap(team_of_item, range(10), library=openmp)
    next(stream)
    assert team(openmp) == before
    stream.close()


def test_an_iterator_ended_by_another_thread(openmp, cores):
    """An imap within an item that another thread closes does not leave the item's thread limited for good."""
    cores(4)
    before = team(openmp)

    def item(_):
        inner = pk.imap(team_of_item, range(100), library=openmp)
        next(inner)
        closer = threading.Thread(target=inner.close)
        closer.start()
        closer.join()
        both.wait()  # no core falls free before the other one is done
        teams = pk.map(team_of_item, range(2), library=openmp)
        both.wait()
        return teams

    both = threading.Barrier(2, timeout=60)
    with pk.Pool(workers=2, backend="thread", chunksize=1) as pool:
        assert {n for teams in pool.map(item, range(2)) for n in teams} <= {1, 2}
    assert team(openmp) == before


def blas_threads():
    import threadpoolctl

    return [info["num_threads"] for info in threadpoolctl.threadpool_info()]


def test_the_environment_of_items():
    """Programs and libraries that an item starts find its share in the environment."""
    many = max(2, pk.cpu_count())
    names = ("OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT")
    for backend in ("process", "thread"):
        with pk.Pool(workers=many, backend=backend) as pool:
            found = pool.map(lambda _: [os.environ.get(name) for name in names], range(many))
        assert found == [["1", "1"]] * many


def test_import_costs_no_look():
    """Nothing looks for numerical libraries before a call needs it."""
    code = "import parallelkit, sys; print('threadpoolctl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_the_parent_may_still_limit_its_libraries():
    """After calls on threads, submitted ones too, what the parent tells its libraries counts."""
    import threadpoolctl

    before = blas_threads()
    with pk.Pool(2, backend="thread") as pool:
        assert [pool.submit(abs, -x).result() for x in range(4)] == [0, 1, 2, 3]
        assert pool.map(abs, range(4)) == [0, 1, 2, 3]
        with threadpoolctl.threadpool_limits(1):
            assert set(blas_threads()) == {1}
    assert blas_threads() == before
