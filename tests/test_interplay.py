"""Calls in other libraries' workers, and other libraries in ours: right answers, a share of the cores, no hang."""

import asyncio
import importlib
import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import theirs
from backends import START_METHODS
from helpers import meet, wait_until

import parallelkit as pk

if os.name == "posix":
    pass


def check(found, cores, here=True):
    """What calls of ours gave in each of other libraries' workers."""
    for x, told in enumerate(found):
        assert told["results"] == [y * y for y in range(x, x + 5)]
        assert told["lazily"] == [0, 1, 4]
        assert told["here"] is here
        if here:
            assert told["level"] == 1
            assert told["threads"] <= told["cores"] <= cores


# A fork server of the standard library outlives a test, so that one is tried further below.
METHODS = [method for method in START_METHODS if method != "forkserver"]
HALF = max(1, pk.cpu_count() // 2)


def kinship(folder, module):
    """What a multiprocessing module says of who runs this, when two workers do so at a time."""
    meet(os.getpid(), folder, 2)
    theirs = importlib.import_module(module)
    own, parent = theirs.current_process(), theirs.parent_process()
    child = theirs.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    told = own.name, own.ident, own._identity, len(theirs.active_children()), child.name
    child.kill()
    child.join()
    return told, (parent.name, parent.pid, parent.is_alive())


@pytest.mark.parametrize("module", ["multiprocessing", "multiprocess"])
def test_workers_to_multiprocessing(process_pool, folder, module):
    """To both multiprocessing modules a worker is a child: it has a name, a number and a parent."""
    running = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    running.start()
    try:
        pool = process_pool(
            chunksize=1, tasks_per_worker=7
        )  # workers that come to know of the child
        told, parents = zip(*pool.map(kinship, [folder] * 2, module=module), strict=True)
        names, pids, numbers, children, grandchildren = zip(*told, strict=True)
        assert sorted(names) == ["parallelkit-worker-1", "parallelkit-worker-2"]
        assert sorted(numbers) == [(1,), (2,)]
        assert len({*pids, os.getpid()}) == 3
        assert children == (1, 1)
        assert [name.rpartition("-")[2][:2] for name in grandchildren] == [
            f"{number}:" for (number,) in numbers
        ]
        assert set(parents) == {("MainProcess", os.getpid(), True)}
        assert running.is_alive()
    finally:
        running.kill()
        running.join()


def test_workers_that_replace_others(process_pool, folder):
    """One that replaces another has its number, also where that had died while nobody waited for it."""
    pool = process_pool(chunksize=1)
    numbered = dict(pool.map(number, [folder] * 2))
    os.kill(numbered[1], signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(numbered[1]), "the end of worker 1")
    for name in os.listdir(folder):
        os.unlink(folder / name)
    again = dict(pool.map(number, [folder] * 2))
    assert set(again) == {1, 2}
    assert again[2] == numbered[2]


def number(folder):
    meet(os.getpid(), folder, 2)
    return multiprocessing.current_process()._identity[0], os.getpid()


ZIPPED = """
import os, sys, zipfile
import multiprocess
folder = os.path.dirname(multiprocess.__file__)
with zipfile.ZipFile("theirs.zip", "w") as archive:
    for name in os.listdir(folder):
        if name.endswith(".py"):
            archive.write(os.path.join(folder, name), f"multiprocess/{name}")
for name in [name for name in sys.modules if name.startswith("multiprocess.")]:
    del sys.modules[name]
del sys.modules["multiprocess"]
sys.path.insert(0, os.path.abspath("theirs.zip"))
import parallelkit as pk
def item(x):
    import multiprocess.pool
    return "zip" in multiprocess.__file__, multiprocess.current_process().name
print(pk.Pool(1, start_method="spawn").map(item, [1]))
os.unlink("theirs.zip")
"""


def test_modules_in_an_archive(script):
    """A worker imports multiprocess from a zip file as from a folder."""
    assert script(ZIPPED).out == "[(True, 'parallelkit-worker-1')]\n"


@pytest.mark.parametrize("method", METHODS)
def test_in_a_pool_of_daemons(method):
    """In the daemonic processes of multiprocessing.Pool, which may have no children, calls run on threads."""
    with multiprocessing.get_context(method).Pool(2) as pool:
        check(pool.map(theirs.ours, range(4), chunksize=1), HALF)
        assert pool.map(theirs.ours_with_workers, [3]) == [[9, 16, 25, 36, 49]]
        pool.close()
        pool.join()


@pytest.mark.parametrize("method", METHODS)
def test_in_a_process_executor(method):
    """Two workers of a ProcessPoolExecutor share the cores between their calls."""
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        list(executor.map(theirs.square, range(20)))  # both have been started
        check(executor.map(theirs.ours, range(4)), pk.cpu_count())
        assert executor.submit(theirs.ours_with_workers, 3).result() == [9, 16, 25, 36, 49]


def test_in_a_lone_process():
    """A single child process that may have children is a main process to us: it has workers of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        told = executor.submit(theirs.ours, 0).result()
    assert (told["level"], told["here"], told["cores"]) == (0, False, pk.cpu_count())


def test_in_pathos_workers():
    """In raw pathos workers, daemonic too, calls run on threads."""
    from pathos.pools import ProcessPool

    pool = ProcessPool(2, id="theirs")
    try:
        check(pool.map(theirs.ours, range(4), chunksize=1), HALF)
    finally:
        pool.close()
        pool.join()
        pool.clear()


def test_in_thread_executors():
    """Calls from many threads share one set of worker processes, as many as there are cores."""
    with ThreadPoolExecutor(4) as executor:
        found = list(executor.map(theirs.ours, range(8)))
        check(found, pk.cpu_count(), here=False)
        pids = executor.map(lambda _: set(pk.map(theirs.where, range(20))), range(8))
        assert len({pid for one in pids for pid, _, _ in one}) <= pk.cpu_count()


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_in_joblib(backend):
    """Calls in joblib's workers take what joblib left to each."""
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config(backend=backend):
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(theirs.ours)(x) for x in range(4))
    check(found, HALF, here=backend != "threading")
    if backend == "loky":
        _end_loky()


def test_joblib_says_how_many():
    """inner_max_num_threads of joblib is what a call there takes."""
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config(backend="loky", inner_max_num_threads=3):
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(theirs.ours)(x) for x in range(2))
    assert {told["cores"] for told in found} == {3}
    _end_loky()


def _end_loky():
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor(max_workers=1).shutdown(wait=True, kill_workers=True)


@pytest.mark.parametrize("start_method", START_METHODS)
@pytest.mark.parametrize(
    ("func", "options"),
    [
        (theirs.multiprocessing_inside, {"method": "fork"}),
        (theirs.multiprocessing_inside, {"method": "spawn"}),
        (theirs.executor_inside, {"method": "fork"}),
        (theirs.executor_inside, {"method": "spawn"}),
        (theirs.thread_executor_inside, {}),
        (theirs.pathos_inside, {}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "-".join(value.values()),
)
def test_pools_in_our_workers(func, options, start_method):
    """Pools of the standard library and of pathos work in our worker processes."""
    with pk.Pool(workers=2, start_method=start_method, chunksize=1) as pool:
        assert pool.map(func, [3, 4], **options) == [[0, 1, 4], [0, 1, 4, 9]]


@pytest.mark.parametrize(
    "func", [theirs.thread_executor_inside, theirs.pathos_inside], ids=lambda func: func.__name__
)
def test_pools_in_our_threads(func):
    """The same in items on threads."""
    with pk.Pool(workers=2, backend="thread", chunksize=1) as pool:
        assert pool.map(func, [3, 4]) == [[0, 1, 4], [0, 1, 4, 9]]


@pytest.mark.parametrize("start_method", START_METHODS)
def test_joblib_in_our_workers(start_method, monkeypatch):
    """joblib's n_jobs=-1 within an item is the worker's share."""
    pytest.importorskip("joblib")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(2)))
    with pk.Pool(workers=2, start_method=start_method, chunksize=1) as pool:
        assert pool.map(theirs.joblib_inside, [3, 4]) == [(1, [0, 1, 4]), (1, [0, 1, 4, 9])]


def large_on_loky(x, folder):
    joblib, np = importlib.import_module("joblib"), importlib.import_module("numpy")
    data = np.full(300_000, x)
    own = joblib.Parallel(n_jobs=2, backend="loky", temp_folder=os.path.join(folder, "joblib"))
    return own(joblib.delayed(np.sum)(data) for _ in range(2))


@pytest.mark.parametrize("start_method", START_METHODS)
def test_what_joblib_has_in_files_goes_with_a_worker(start_method, folder):
    """Arrays that an item has given to joblib's own workers are gone when ours have ended."""
    pytest.importorskip("joblib")
    with pk.Pool(workers=2, start_method=start_method, chunksize=1) as pool:
        assert pool.map(large_on_loky, [1, 2], folder=str(folder)) == [[300_000] * 2, [600_000] * 2]
    pk.shutdown()
    wait_until(lambda: not list((folder / "joblib").glob("*")), "the end of joblib's files")


KEPT = """
import os, sys, time
from multiprocessing import shared_memory
from pathlib import Path
import _posixshmem
import parallelkit as pk

folder = Path(sys.argv[1])

def keep_in_memory(x):
    segment = shared_memory.SharedMemory(create=True, size=1)
    (folder / f"{x}.part").write_text(segment.name)
    (folder / f"{x}.part").rename(folder / f"segment-{x}")
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass

def is_gone(name):  # looked at without a tracker of our own
    try:
        os.close(_posixshmem.shm_open("/" + name, os.O_RDONLY, mode=0o600))
    except FileNotFoundError:
        return True
    return False

def wait_until(condition):
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()

with pk.Pool(workers=2, start_method=sys.argv[2], chunksize=1) as pool:
    results = pool.imap(keep_in_memory, range(2))
    wait_until(lambda: len(list(folder.glob("segment-*"))) == 2)
    results.close()
names = [file.read_text() for file in folder.glob("segment-*")]
print(len(names), wait_until(lambda: all(map(is_gone, names))))
"""


@pytest.mark.skipif(os.name != "posix", reason="a segment goes with its last user")
def test_trackers_outlive_a_worker_that_is_killed(script, start_method, folder):
    """What removes the resources of a process that has died is not killed with it.

    A program of its own has no tracker yet: workers would share that of this one, which goes on.
    """
    assert script(KEPT, folder, start_method).out == "2 True\n"


USED_BEFORE = """
import multiprocessing, os, psutil, sys
from concurrent.futures import ProcessPoolExecutor
from joblib.externals.loky import get_reusable_executor
import parallelkit as pk

def by_loky(x):
    return list(get_reusable_executor(1).map(abs, range(-x, 0)))

def by_a_fork_server(x):
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        return pool.map(abs, range(-x, 0))

def by_an_executor(x):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        parents = {psutil.Process(p.pid).ppid() for p in multiprocessing.active_children()}
        return parents - {os.getpid()}, list(pool.map(abs, range(-x, 0)))

def later(x, queue):
    queue.put(x)

if __name__ == "__main__":
    ways = by_loky, by_a_fork_server, by_an_executor
    queue = multiprocessing.Queue()
    queue.put("before")
    open_one = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    open_one.submit(abs, 1).result()
    expected = [way(2) for way in ways[:2]]
    with pk.Pool(1, start_method=sys.argv[1]) as pool:
        assert [pool.map(way, [2])[0] for way in ways[:2]] == expected
        print(pool.map(by_an_executor, [2]))
        if sys.argv[1] == "fork":
            pool.map(later, ["after"], queue=queue)
            assert [queue.get(), queue.get()] == ["before", "after"]
    open_one.shutdown()
"""


def test_what_the_caller_has_used_before(script, start_method):
    """Pools, servers and children of the caller are not taken for the worker's own, however that is started."""
    pytest.importorskip("joblib")
    ran = script(USED_BEFORE, start_method, files=False)
    assert ran.out == "[(set(), [2, 1])]\n"


def test_joblib_in_our_threads():
    """joblib within an item on threads counts the share, and outside of it all cores again."""
    joblib = pytest.importorskip("joblib")
    workers = max(2, pk.cpu_count())
    with pk.Pool(workers=workers, backend="thread", chunksize=1) as pool:
        found = pool.map(theirs.joblib_inside, [3, 4], backend="threading")
    assert found == [(1, [0, 1, 4]), (1, [0, 1, 4, 9])]
    assert joblib.cpu_count() == pk.cpu_count()


def test_in_an_event_loop(concurrent_pool):
    """A coroutine awaits what it submitted while others run, and items may have event loops of their own."""

    async def one(pool, x):
        return await asyncio.wrap_future(pool.submit(loop_inside, x))

    async def everything(pool):
        return await asyncio.gather(*(one(pool, x) for x in range(6)))

    def loop_inside(x):
        async def work():
            with pk.Pool(workers=2) as own:
                return await asyncio.wrap_future(own.amap(theirs.square, [x, x + 1]))

        return asyncio.run(work())

    pool = concurrent_pool()
    assert asyncio.run(everything(pool)) == [[x * x, (x + 1) ** 2] for x in range(6)]


# These run in a Python of their own, for they leave threads, files or a fork server to its end.

DASK = """
import json, os, sys, theirs
import parallelkit as pk
from distributed import Client, LocalCluster

if __name__ == "__main__":
    found = {}
    quiet = {"dashboard_address": ":0", "local_directory": sys.argv[1]}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, **quiet) as cluster,
        Client(cluster) as client,
    ):
        found["processes"] = client.gather(client.map(theirs.ours, range(4), pure=False))
        found["wish"] = client.submit(theirs.ours_with_workers, 3).result()
        for backend in ("process", "thread"):
            with pk.Pool(workers=2, backend=backend, chunksize=1) as pool:
                address = cluster.scheduler_address
                found[backend] = pool.map(theirs.dask_inside, [3, 4], address=address)
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, **quiet) as cluster,
        Client(cluster) as client,
    ):
        found["threads"] = client.gather(client.map(theirs.ours, range(4), pure=False))
    found["after"] = pk.nesting()
    pk.shutdown()
    print(json.dumps(found))
"""

RAY = """
import json, os, theirs
import ray
import parallelkit as pk

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
         runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}})
ours = ray.remote(theirs.ours)
found = [ray.get([ours.remote(x) for x in range(2)]), ray.get([ours.options(num_cpus=2).remote(0)])]
ray.shutdown()
print(json.dumps(found))
"""

FORK_SERVER = """
import json, multiprocessing, theirs
from concurrent.futures import ProcessPoolExecutor

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    with context.Pool(2) as pool:
        print(json.dumps(pool.map(theirs.ours, range(4), chunksize=1)))
        pool.close()
        pool.join()
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        print(json.dumps(executor.submit(theirs.ours, 0).result()))
"""


@pytest.fixture
def where_theirs_is():
    tests = Path(theirs.__file__).parent
    return {"PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])}


def test_dask(script, tmp_path, where_theirs_is):
    """Calls in Dask tasks take the threads that their worker has for them; an item may be a client of Dask."""
    pytest.importorskip("distributed")
    scratch = str(tmp_path / "scratch")
    (found,) = script(DASK, scratch, env=where_theirs_is, files=False).values
    check(found["processes"], 1)
    check(found["threads"], 2)
    assert found["wish"] == [9, 16, 25, 36, 49]
    assert found["process"] == found["thread"] == [[0, 1, 4], [0, 1, 4, 9]]
    assert found["after"] == [0, pk.cpu_count()]


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_ray(script, where_theirs_is):
    """Calls in Ray tasks take the CPUs of the task."""
    one_each, two = script(RAY, env=where_theirs_is, files=False).values[-1]
    check(one_each, 1)
    check(two, 2)


@pytest.mark.skipif("forkserver" not in START_METHODS, reason="there is none")
def test_in_children_of_a_fork_server(script, where_theirs_is):
    """Workers of the standard library's fork server count each other, too."""
    pool, lone = script(FORK_SERVER, env=where_theirs_is).values
    check(pool, HALF)
    assert (lone["level"], lone["here"]) == (0, False)
