"""The functions that the benchmarks run, importable by name so that every peer can send them by reference.

numpy is imported where it is used: the cases about start-up must not pay for it.
"""

import functools
import math
import os
import statistics
import time
from dataclasses import dataclass

# ---- tiny tasks and containers ---------------------------------------------------------------------------------------


def increment(x):
    return x + 1


def total(numbers):
    return sum(numbers)


def capitals(text):
    return text.upper()


def doubled(record):
    return {name: 2 * value for name, value in record.items()}


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    label: str


def moved(point):
    return Point(point.x + 1, point.y + 1, point.label)


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


def touch(index, data):
    """``pick``, of an array or of the integer 1."""
    return index * 1e3 * data if isinstance(data, int) else pick(index, data)


def mult(y, x):
    import numpy as np

    rows = np.empty((len(y), len(x)))
    for i, value in enumerate(y):
        rows[i] = value * x
    return rows


def outer_product(y, x):
    return y[:, None] * x


def chain(seed, size, steps):
    """``sqrt(a * a + 1)`` again and again: each step makes temporaries, and holds no lock."""
    import numpy as np

    a = np.arange(size, dtype=float) + seed
    for _ in range(steps):
        a = np.sqrt(a * a + 1)
    return float(a[-1])


def exp_numpy(length):
    import numpy as np

    return float(np.exp(np.ones(length))[-1])


def exp_python(length):
    result = 0.0
    for _ in range(length):
        result = math.exp(1.0)
    return result


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


def crunch(seconds):
    """Keep a core busy with numpy for so much processor time, most of it without Python's lock."""
    import numpy as np

    a = np.ones(20_000)
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        np.sqrt(a, out=a)
    return seconds


def churn(seconds):
    """Keep a core busy with Python for so much processor time, and hold its lock."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(100))
    return seconds


def tree_total(tree):
    return sum(map(tree_total, tree)) if isinstance(tree, list) else tree


def nest(tree, inner, leaf):
    """Work through a tree of durations, each level by ``inner``; gives their sum."""
    func = functools.partial(nest, inner=inner, leaf=leaf)
    if not isinstance(tree[0], list):
        func = {"crunch": crunch, "churn": churn}[leaf]
    return round(sum(_INNER[inner](func, tree)), 6)


def inner_cost(calls, inner):
    """Seconds that one inner call of two trivial items takes here."""
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        assert list(_INNER[inner](increment, [1, 2])) == [2, 3]
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _inner_serial(func, items):
    return [func(item) for item in items]


def _inner_parallelkit(func, items):
    import parallelkit as pk

    return pk.map(func, items)


def _inner_pathos(func, items):
    """A pool of its own for each call, and ended after it: one that is shared between levels deadlocks."""
    from pathos.pools import ThreadPool

    pool = ThreadPool(nodes=2, id=f"{os.getpid()} {time.perf_counter_ns()}")
    try:
        return pool.map(func, items)
    finally:
        pool.close()
        pool.join()
        pool.clear()


def _inner_executor(func, items):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(func, items))


def _inner_joblib(func, items):
    from joblib import Parallel, delayed

    return Parallel(n_jobs=2)(delayed(func)(item) for item in items)


_INNER = {
    "serial": _inner_serial,
    "parallelkit": _inner_parallelkit,
    "pathos": _inner_pathos,
    "executor": _inner_executor,
    "joblib": _inner_joblib,
}


@functools.lru_cache(maxsize=1)
def _validation_data(rows):
    from sklearn.datasets import make_classification

    return make_classification(rows, 20, n_informative=10, random_state=0)


def _fit_and_score(task, fold, rows, folds):
    """A forest of the search within a fold, judged on a part of what is not that fold."""
    import numpy as np
    from sklearn.ensemble import RandomForestClassifier

    trees, depth, part = task
    x, y = _validation_data(rows)
    rest = np.flatnonzero(np.arange(rows) % folds != fold)
    test = np.arange(len(rest)) % folds == part
    model = RandomForestClassifier(trees, max_depth=depth, random_state=0)
    model.fit(x[rest[~test]], y[rest[~test]])
    return float(model.score(x[rest[test]], y[rest[test]]))


def validated(fold, inner, rows, folds, settings):
    """The best of so many settings for what is not the fold, and its mean score."""
    grid = [(trees, depth) for trees in (1, 2, 4, 16) for depth in (2, 5, None)][:settings]
    tasks = [(*setting, part) for setting in grid for part in range(folds)]
    func = functools.partial(_fit_and_score, fold=fold, rows=rows, folds=folds)
    scores = list(_INNER[inner](func, tasks))
    means = [statistics.fmean(scores[i : i + folds]) for i in range(0, len(scores), folds)]
    return grid[means.index(max(means))], round(max(means), 6)


def quicksort(numbers, cutoff, inner):
    """Sort by an inner call for both parts; those below ``cutoff`` are sorted without one."""
    if len(numbers) < 2:
        return numbers
    pivot = numbers[len(numbers) // 2]
    parts = [x for x in numbers if x < pivot], [x for x in numbers if x > pivot]
    kind = inner if len(numbers) >= cutoff else "serial"
    below, above = _INNER[kind](functools.partial(quicksort, cutoff=cutoff, inner=inner), parts)
    return [*below, *(x for x in numbers if x == pivot), *above]


def log_probability(x):
    """Of a normal distribution: a few microseconds."""
    return -0.5 * float(x @ x)


def long_log_probability(x):
    """The same, of 0.3 ms."""
    end = time.perf_counter() + 0.0003
    while time.perf_counter() < end:
        pass
    return -0.5 * float(x @ x)


def prior_transform(u):
    return 10 * u - 5


def rosenbrock(x):
    return float(((x[1:] - x[:-1] ** 2) ** 2).sum() * 100 + ((1 - x[:-1]) ** 2).sum())
