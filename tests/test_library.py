"""What a library that uses the pools can count on: hints, its user's options, contexts, copies."""

import asyncio
import contextvars
import copy
import multiprocessing.pool
import os
import pickle
import threading

import numpy as np
import pytest
from helpers import increment, pid

import parallelkit as pk
from parallelkit.integrations.multiprocessing import Pool as TheirPool
from parallelkit.place import host

HERE = [os.getpid()]


def backend():
    return pk.api._default._resolve().backend


def fails(x):
    raise ValueError(x)


def inside(_):
    return pk.map(increment, [1, "two"])


# ---- whose options count -------------------------------------------------------------------------


def test_a_hint_is_weaker_than_the_user(monkeypatch):
    """prefer= counts where nobody says anything; configure and the environment come before it."""
    with pk.Pool(prefer="serial") as pool:
        assert pool.map(pid, [1]) == HERE
        with pk.configure(backend="process"):
            assert pool.map(pid, [1]) != HERE
        monkeypatch.setenv("PARALLELKIT_BACKEND", "process")
        assert pool.map(pid, [1]) != HERE


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_only_resources_reach_a_library(kind, monkeypatch):
    """on_error and retries of the user leave a library's pool, and calls in its items, alone."""
    monkeypatch.setenv("PARALLELKIT_ON_ERROR", "skip")
    with pk.configure(on_error="skip", backend=kind, workers=2):
        with pk.Pool(library=True) as pool:
            with pytest.raises(ValueError, match="3"):
                pool.map(fails, [3])
            with pytest.raises(TypeError):
                pool.map(inside, [1, 2])
        with pk.configure(library=True), pytest.raises(ValueError, match="3"):
            pk.map(fails, [3])
        assert pk.map(fails, [3]) == []


def test_a_time_limit_from_outside_is_left_out_where_it_cannot_hold(monkeypatch):
    """configure(timeout=) over a thread pool, or a pool with one run in place by its user, is no error."""
    with pk.configure(timeout=5), pk.Pool(2, "thread") as pool:
        assert pool.map(increment, [1]) == [2]
    monkeypatch.setenv("PARALLELKIT_BACKEND", "serial")
    with pk.Pool(timeout=5) as pool:
        assert pool.map(pid, [1]) == HERE


def test_unset_is_left_out_and_none_is_the_default():
    """UNSET takes what is configured; None is the option's default, whatever is configured."""
    with pk.configure(backend="serial", on_error="skip", workers=3):
        assert pk.Pool(backend=pk.UNSET, on_error=pk.UNSET).map(fails, [1]) == []
        with pytest.raises(ValueError, match="1"):
            pk.Pool(on_error=None).map(fails, [1])
    with pk.configure(workers=3, backend="thread"):
        assert (pk.Pool(pk.UNSET).workers, pk.Pool(None).workers) == (3, pk.nesting().cores)


# ---- contexts ------------------------------------------------------------------------------------


def test_tasks_have_blocks_of_their_own():
    """A block of one asyncio task does not act in another one, nor after it."""

    async def main():
        entered, seen = asyncio.Event(), asyncio.Event()

        async def one():
            with pk.configure(backend="serial"):
                entered.set()
                await seen.wait()
                return backend()

        async def other():
            await entered.wait()
            found = backend()
            seen.set()
            return found

        return [*await asyncio.gather(one(), other()), backend()]

    assert asyncio.run(main()) == ["serial", "process", "process"]


def test_a_block_may_be_left_in_another_context():
    """Entered in one context and left in another it neither raises nor stays in either."""
    one, other, block = contextvars.copy_context(), contextvars.copy_context(), pk.configure
    block = block(backend="serial")
    one.run(block.__enter__)
    assert one.run(backend) == "serial"
    other.run(block.__exit__, None, None, None)
    assert (one.run(backend), other.run(backend), backend()) == ("process",) * 3


def test_a_block_may_be_entered_again():
    """One object serves several blocks, also one within the other."""
    block = pk.configure(backend="serial")
    for _ in range(2):
        with block, block:
            assert backend() == "serial"
        assert backend() == "process"


def test_threads_have_blocks_of_their_own():
    """A block that a thread enters does not act in the main thread."""
    entered, seen, found = threading.Event(), threading.Event(), []

    def work():
        with pk.configure(backend="serial"):
            entered.set()
            seen.wait(60)
            found.append(backend())

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait(60)
    found.append(backend())
    seen.set()
    thread.join()
    assert found == ["process", "serial"]


def test_importing_reads_nothing(command):
    """A bad variable is an error of the first call, not of the import or of making a pool."""
    source = """
import parallelkit as pk
pk.map, pk.Pool(2), pk.configure
try:
    pk.map(abs, [1])
except ValueError as error:
    print("PARALLELKIT_WORKERS" in str(error))
"""
    assert command(["-c", source], env={"PARALLELKIT_WORKERS": "many"}).out == "True\n"


# ---- pools as objects ----------------------------------------------------------------------------


class Analysis:
    """An object that has a pool, and whose method is mapped by it."""

    def __init__(self, pool):
        self.pool = pool

    def step(self, x):
        return x + 1

    def run(self):
        return self.pool.map(self.step, [1, 2])


def test_a_pool_is_copied_as_its_options(pool):
    """Methods of an object that has a pool can be mapped; a copy is a pool with the same options."""
    own = pool(chunksize=1)
    assert Analysis(own).run() == [2, 3]
    for twin in (copy.copy(own), pickle.loads(pickle.dumps(own))):
        assert twin.map(increment, [1]) == [2]
        assert twin.workers == own.workers


def test_the_number_of_workers_stands_where_others_look(thread_pool):
    """Libraries ask for it by these names."""
    pool, executor = thread_pool(workers=3), pk.PoolExecutor(3, "thread")
    assert [pool.workers, pool.size, pool._max_workers, pool._processes] == [3] * 4
    assert [executor.workers, executor.size, executor._max_workers, executor._processes] == [3] * 4
    with TheirPool(2) as theirs:
        assert theirs._processes == 2
    executor.shutdown()


def test_the_stand_in_has_the_names_of_its_original_alone():
    """A library that tells an executor by its ``submit`` does not take the stand-in for one."""
    own = {name for name in dir(TheirPool) if name[0] != "_"}
    assert own <= set(dir(multiprocessing.pool.Pool))


def test_what_cannot_be_sent_is_a_pickling_error(process_pool):
    """As who catches it from another executor expects."""
    with pytest.raises(pickle.PicklingError):
        process_pool().map(increment, [(x for x in ())])


def test_options_among_the_keywords_of_a_call_are_told(thread_pool):
    """workers= for a function that has none says where it belongs; what the function takes is its own."""
    with pytest.raises(TypeError, match=r"pk\.Pool\(workers"):
        thread_pool().map(increment, [1], workers=2)
    with pytest.warns(UserWarning, match=r"progress= goes to the function .*pk\.Pool\(progress"):
        assert thread_pool().map(lambda x, **more: more, [1], progress=2) == [{"progress": 2}]
    assert thread_pool().map(lambda x, timeout: x + timeout, [1], timeout=2) == [3]


# ---- cores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["PYTHON_CPU_COUNT", "SLURM_CPUS_PER_TASK", "NCPUS", "PBS_NP", "LSB_DJOB_NUMPROC"]
)
def test_cores_that_the_user_has_limited(name, monkeypatch):
    """cpu_count takes what a batch system or the user says for an upper bound, and tells which."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(host, "_cgroup_quota", lambda: None)
    monkeypatch.setattr(host, "_loky", {})
    monkeypatch.setenv(name, "3")
    assert host.limit() == (3, name)
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "2")
    assert pk.cpu_count() == 1


# ---- random streams, blocks ----------------------------------------------------------------------


def draw(x, rng):
    return x, float(rng.random())


def test_a_required_rng_is_fresh_without_a_seed(pool):
    """A function that cannot do without gets streams that no other call has."""
    values = [value for _ in range(2) for _, value in pool().map(draw, range(3))]
    assert len(set(values)) == 6


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState])
def test_a_generator_is_a_seed(make, pool):
    """Each call draws from it: calls differ, and the same generator gives the same calls again."""
    calls = [
        [own.map(draw, range(2)) for _ in range(2)]
        for own in (pool(seed=make(1)), pool(seed=make(1)))
    ]
    assert calls[0] == calls[1]
    assert calls[0][0] != calls[0][1]


def noisy(x, rng):
    return x + rng.random(x.shape)


def test_blocks_of_a_pool(pool):
    """map_blocks takes the options of its pool, and streams that do not depend on the workers."""
    array = np.zeros(300)
    alone = pk.Pool(backend="serial", seed=3).map_blocks(noisy, array)
    assert np.array_equal(pool(seed=3, workers=3).map_blocks(noisy, array), alone)
    assert len(np.unique(alone)) == 300
    assert np.array_equal(pool().map_blocks(np.sqrt, array + 4, blocks=3), array + 2)
    assert pool().map_blocks(noisy, array).shape == (300,)
