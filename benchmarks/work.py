"""The functions that the benchmarks run, importable by name so that every peer can send them by reference.

numpy is imported where it is used: the cases about start-up must not pay for it.
"""

import os
import time

# ---- tiny tasks and containers ---------------------------------------------------------------------------------------


def increment(x):
    return x + 1


def total(numbers):
    return sum(numbers)


# ---- tasks of a known length -----------------------------------------------------------------------------------------


def spin(seconds):
    """Keep a core busy for so long by the wall clock, as a computation would, and give the argument back."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return seconds


def nap(seconds):
    time.sleep(seconds)
    return seconds


def pid_after_nap(seconds):
    time.sleep(seconds)
    return os.getpid()


def warm_up(with_numpy):
    """Make a worker ready: it is running, and has imported what the case needs."""
    if with_numpy:
        import numpy as np  # noqa: F401
    time.sleep(0.02)
    return os.getpid()


# ---- arrays ----------------------------------------------------------------------------------------------------------


def array_total(array):
    return float(array.sum())


def filled(value, size):
    import numpy as np

    return np.full(size, float(value))


def pick(index, data):
    return float(data[index * 1000])


def pick_shared(data, index):
    """``pick`` for mpire, which passes its shared objects first."""
    return pick(index, data)


# ---- keywords that forked workers inherit: the fastest way to hand over a large constant without this library ---------

_inherited = {}


def inherit(frozen):
    """Initializer of a pool."""
    _inherited.update(frozen)


def with_inherited(func, item):
    return func(item, **_inherited)


# ---- a library that uses OpenMP -------------------------------------------------------------------------------------------


def fit_with_openmp(seed):
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingClassifier

    x = np.random.default_rng(seed).normal(size=(2_000, 10))
    return (
        float(HistGradientBoostingClassifier(max_iter=5).fit(x, x[:, 0] > 0).score(x, x[:, 0] > 0))
        > 0.5
    )


# ---- nested calls: an outer task that maps its inner tasks by the library that runs it -----------------------------------


def chain(seed, size=100_000, steps=10):
    """A few milliseconds of numpy that holds no lock: ``sqrt(a * a + 1)`` again and again."""
    import numpy as np

    a = np.arange(size, dtype=float) + seed
    for _ in range(steps):
        a = np.sqrt(a * a + 1)
    return float(a[-1])


def nest(seeds, inner):
    """Sum ``chain`` over the seeds; ``inner`` names how this level runs."""
    return round(sum(_INNER[inner](seeds)), 3)


def _inner_serial(seeds):
    return [chain(seed) for seed in seeds]


def _inner_parallelkit(seeds):
    import parallelkit as pk

    return pk.map(chain, seeds)


def _inner_pathos(seeds):
    from pathos.pools import ThreadPool

    return ThreadPool(id=f"inner of {os.getpid()}").map(chain, seeds)


def _inner_executor(seeds):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(chain, seeds))


def _inner_joblib(seeds):
    from joblib import Parallel, delayed

    return Parallel(n_jobs=2)(delayed(chain)(seed) for seed in seeds)


_INNER = {
    "serial": _inner_serial,
    "parallelkit": _inner_parallelkit,
    "pathos": _inner_pathos,
    "executor": _inner_executor,
    "joblib": _inner_joblib,
}
