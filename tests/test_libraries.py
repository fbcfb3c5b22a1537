"""One real call of each library that takes a pool, an executor or a map: what it gives is what it gives alone.

Those that are not installed are left out; `make test-libraries` installs all.
"""

import random

import numpy as np
import pytest

import parallelkit as pk
from parallelkit.integrations import multiprocessing as mp
from parallelkit.integrations import schwimmbad

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # theirs
    pytest.mark.timeout(300),
]


def bowl(x):
    return float(np.sum(np.square(x)))


def log_likelihood(x):
    return -0.5 * bowl(x)


def cube(u):
    return 10 * u - 5


def test_scipy():
    """`workers=` of an optimizer takes the map of a pool."""
    optimize = pytest.importorskip("scipy.optimize")

    def found(workers):
        options = {"seed": 1, "maxiter": 4, "updating": "deferred"}
        return optimize.differential_evolution(
            bowl, [(-5, 5)] * 2, workers=workers, **options
        ).x.tolist()

    assert found(pk.Pool(2).map) == found(pk.map) == found(map)


@pytest.mark.parametrize("kind", [pk.Pool, pk.PoolExecutor, mp.Pool, schwimmbad.MultiPool])
def test_emcee(kind):
    """`pool=` of a sampler takes each kind of pool."""
    emcee = pytest.importorskip("emcee")

    def chain(pool):
        sampler = emcee.EnsembleSampler(8, 2, log_likelihood, pool=pool)
        sampler.random_state = np.random.RandomState(3).get_state()
        sampler.run_mcmc(np.random.RandomState(1).randn(8, 2), 5)
        return sampler.get_chain().tolist()

    with kind(2) as pool:
        assert chain(pool) == chain(None)


def test_dynesty():
    """A nested sampler finds how many workers a pool has, and gives what it gives on threads of Python's own."""
    dynesty = pytest.importorskip("dynesty")
    from multiprocessing.pool import ThreadPool

    def evidence(pool):
        start = {"nlive": 50, "rstate": np.random.default_rng(5), "pool": pool, "queue_size": 2}
        sampler = dynesty.NestedSampler(log_likelihood, cube, 2, **start)
        sampler.run_nested(maxiter=60, print_progress=False)
        return sampler.results.logz.tolist()

    with ThreadPool(2) as threads:
        assert evidence(pk.Pool(2)) == evidence(threads)
    sampler = dynesty.NestedSampler(log_likelihood, cube, 2, nlive=50, pool=pk.Pool(2))
    assert sampler.queue_size == 2


def test_nautilus():
    """A neural nested sampler takes a pool for the likelihood."""
    nautilus = pytest.importorskip("nautilus")
    sampler = nautilus.Sampler(
        cube, log_likelihood, 2, n_live=50, n_networks=0, seed=1, pool=pk.Pool(2)
    )
    sampler.run(n_like_max=200, verbose=False)
    assert np.isfinite(sampler.log_z)


def test_deap():
    """A toolbox of evolution takes a map."""
    pytest.importorskip("deap")
    from deap import algorithms, base, creator, tools

    creator.create("Smallest", base.Fitness, weights=(-1.0,))
    creator.create("Individual", list, fitness=creator.Smallest)

    def best(map_):
        random.seed(1)
        toolbox = base.Toolbox()
        toolbox.register("individual", tools.initRepeat, creator.Individual, random.random, 3)
        toolbox.register("evaluate", lambda individual: (bowl(individual),))
        toolbox.register("mate", tools.cxTwoPoint)
        toolbox.register("mutate", tools.mutGaussian, mu=0, sigma=1, indpb=0.2)
        toolbox.register("select", tools.selTournament, tournsize=3)
        toolbox.register("map", map_)
        people = [toolbox.individual() for _ in range(10)]
        people, _ = algorithms.eaSimple(people, toolbox, 0.5, 0.2, 3, verbose=False)
        return [list(each) for each in people]

    assert best(pk.Pool(2).map) == best(map)


def test_pymoo():
    """A runner of pymoo takes the starmap of a pool."""
    pytest.importorskip("pymoo")
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.core.problem import ElementwiseProblem
    from pymoo.optimize import minimize
    from pymoo.parallelization.starmap import StarmapParallelization

    class Bowl(ElementwiseProblem):
        def __init__(self, **options):
            super().__init__(n_var=3, n_obj=1, xl=-5, xu=5, **options)

        def _evaluate(self, x, out, *_, **__):
            out["F"] = bowl(x)

    def found(**options):
        return minimize(Bowl(**options), GA(pop_size=10), ("n_gen", 3), seed=1).X.tolist()

    assert found(elementwise_runner=StarmapParallelization(pk.Pool(2).starmap)) == found()


def test_nevergrad():
    """An optimizer takes an executor."""
    nevergrad = pytest.importorskip("nevergrad")
    optimizer = nevergrad.optimizers.OnePlusOne(parametrization=2, budget=20, num_workers=2)
    with pk.PoolExecutor(2) as executor:
        best = optimizer.minimize(bowl, executor=executor, batch_mode=True)
    assert best.value.shape == (2,)


def test_dask():
    """The local schedulers of Dask take an executor."""
    dask = pytest.importorskip("dask")
    total = dask.delayed(sum)([dask.delayed(bowl)([i]) for i in range(5)])
    with pk.PoolExecutor(2) as processes, pk.PoolExecutor(2, backend="thread") as threads:
        assert total.compute(scheduler="processes", pool=processes) == 30
        assert total.compute(scheduler="threads", pool=threads) == 30


def test_tqdm():
    """tqdm shows what an executor and `imap` give."""
    tqdm = pytest.importorskip("tqdm")
    with pk.PoolExecutor(2) as executor:
        assert list(tqdm.tqdm(executor.map(bowl, [[1], [2]]), total=2, disable=True)) == [1, 4]
    assert list(tqdm.tqdm(pk.imap(bowl, [[1], [2]]), total=2, disable=True)) == [1, 4]


def test_numba():
    """A function that numba compiles is compiled in workers too."""
    numba = pytest.importorskip("numba")
    assert pk.map(numba.njit(lambda x: x + 1), [1, 2]) == [2, 3]


def test_threads_of_numba():
    """They are held to the share of an item from the first parallel function on, and are free afterwards."""
    numba = pytest.importorskip("numba")

    def threads(n):
        @numba.njit(parallel=True)
        def total(values):
            result = 0.0
            for i in numba.prange(len(values)):
                result += values[i]
            return result

        assert total(np.ones(n)) == n
        return numba.get_num_threads()

    for backend in ("process", "serial", "thread"):
        with pk.Pool(2, backend, blas_threads=1) as pool:
            assert pool.map(threads, [3]) == pool.map(threads, [4]) == [1]
    assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS


def test_gensim(monkeypatch):
    """A model whose pool is never called, but serves queues from its initializer, is trained as it is on theirs."""
    models = pytest.importorskip("gensim.models")
    from gensim.models import ldamulticore

    texts = [[(word, 1 + (word + n) % 3) for word in range(6)] for n in range(12)]
    names = {word: str(word) for word in range(6)}

    def topics():
        model = models.LdaMulticore(
            texts, num_topics=2, id2word=names, workers=2, random_state=1, batch=True
        )
        return model.get_topics()

    theirs = topics()
    monkeypatch.setattr(ldamulticore, "Pool", mp.Pool)
    assert np.allclose(topics(), theirs)


def test_schwimmbad():
    """A script for schwimmbad's pools runs as it is: it asks who it is, and has each result told."""
    told = []
    with schwimmbad.MultiPool(2) as pool:
        assert (pool.is_master(), pool.is_worker(), pool.rank, pool.size) == (True, False, 0, 2)
        assert pool.wait() is None
        assert pool.map(bowl, [[1], [2]], callback=told.append) == told == [1, 4]
