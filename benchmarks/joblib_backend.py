"""joblib and scikit-learn on our workers beside joblib's own: the same code, another name of a backend.

    python -m benchmarks.joblib_backend [--quick] [--only grid] [--rounds 7] [--backends A,B]

All backends run in this process, warm, in turns (A B C, B C A, ...); a figure is the median over the rounds. Each
round's result is compared with that of one job. Needs scikit-learn.
"""

import argparse
import statistics
import time
from math import sqrt

import joblib
import numpy as np
from joblib import Parallel, delayed
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.tree import DecisionTreeClassifier

import parallelkit.integrations.joblib  # noqa: F401

BACKENDS = ("parallelkit", "loky", "parallelkit-threads", "threading")
JOBS = 2


def nap(seconds):
    time.sleep(seconds)
    return seconds


def total(array, i):
    return float(array.sum()) + i


def element(array, i):
    return float(array[i])


class Cases:
    """Each method is a case: it takes the number of jobs, and gives what all backends must agree on."""

    def __init__(self, quick):
        self.quick = quick
        self.small = make_classification(500, 20, random_state=0)
        self.wide = make_classification(2_000 if quick else 5_000, 200, random_state=0)
        self.array = np.arange(1e6)
        self.large = np.ones(25_000_000)

    def grid_search_of_small_fits(self, n_jobs):
        """GridSearchCV, 60 fits of a few ms"""
        grid = {"C": np.logspace(-3, 2, 12)}
        search = GridSearchCV(LogisticRegression(max_iter=50, tol=0.1), grid, cv=5, n_jobs=n_jobs)
        return search.fit(*self.small).cv_results_["mean_test_score"]

    def grid_search_of_tiny_fits(self, n_jobs):
        """GridSearchCV, 200 fits of less than a ms"""
        grid = {"alpha": np.logspace(-3, 2, 40)}
        search = GridSearchCV(Ridge(), grid, cv=5, n_jobs=n_jobs)
        return search.fit(*self.small).cv_results_["mean_test_score"]

    def grid_search_on_more_data(self, n_jobs):
        """GridSearchCV, 16 trees on 8 MB"""
        grid = {"max_depth": [2, 3, 4, 5]}
        search = GridSearchCV(DecisionTreeClassifier(random_state=0), grid, cv=4, n_jobs=n_jobs)
        return search.fit(*self.wide).cv_results_["mean_test_score"]

    def cross_validation(self, n_jobs):
        """cross_validate, 5 fits of a few ms"""
        return cross_validate(LogisticRegression(), *self.small, cv=5, n_jobs=n_jobs)["test_score"]

    def forest(self, n_jobs):
        """RandomForestClassifier.fit, 40 trees"""
        forest = RandomForestClassifier(40, max_depth=6, random_state=0, n_jobs=n_jobs)
        return forest.fit(*self.small).feature_importances_

    def short_call(self, n_jobs):
        """a call of 2 tasks"""
        return Parallel(n_jobs)(delayed(sqrt)(i) for i in range(2))

    def naps(self, n_jobs):
        """500 tasks of 1 ms (ideal: 250)"""
        return Parallel(n_jobs)(delayed(nap)(0.001) for _ in range(500))

    def trivial(self, n_jobs):
        """20 000 tasks of nothing"""
        return Parallel(n_jobs)(delayed(sqrt)(i) for i in range(2_000 if self.quick else 20_000))

    def same_array(self, n_jobs):
        """40 sums of one array of 8 MB"""
        return Parallel(n_jobs)(delayed(total)(self.array, i) for i in range(40))

    def large_array(self, n_jobs):
        """40 looks at one array of 200 MB"""
        return Parallel(n_jobs)(delayed(element)(self.large, i) for i in range(40))

    def arrays_in(self, n_jobs):
        """40 arrays of 8 MB in, summed"""
        return Parallel(n_jobs)(delayed(total)(self.array + i, i) for i in range(40))

    def arrays_out(self, n_jobs):
        """40 arrays of 8 MB out"""
        results = Parallel(n_jobs)(delayed(np.ones)(1_000_000) for _ in range(40))
        return [result[-1] for result in results]


def names():
    return [name for name in vars(Cases) if not name.startswith("_")]


def measure(case, backends, rounds, expected):
    seconds = {backend: [] for backend in backends}
    for turn in range(-1, rounds):  # the first one warms up
        for place in range(len(backends)):
            backend = backends[(turn + place) % len(backends)]
            with joblib.parallel_config(backend=backend):
                start = time.perf_counter()
                result = case(JOBS)
                took = time.perf_counter() - start
            np.testing.assert_array_equal(result, expected)
            if turn >= 0:
                seconds[backend].append(took)
    return {backend: 1e3 * statistics.median(times) for backend, times in seconds.items()}


def figure(ms):
    return f"{ms:.3g}" if ms < 1000 else f"{ms:.0f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer rounds")
    parser.add_argument("--only", help="cases with this in their names")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--backends", default=",".join(BACKENDS))
    arguments = parser.parse_args()
    backends = arguments.backends.split(",")
    rounds = arguments.rounds or (3 if arguments.quick else 7)
    cases = Cases(arguments.quick)
    print(
        f"| ms, median of {rounds}, {JOBS} jobs |", *(f"{b} |" for b in backends), "ours ÷ loky |"
    )
    print("|---|", *("---:|" for _ in backends), "---:|")
    for name in names():
        if arguments.only and arguments.only not in name:
            continue
        case = getattr(cases, name)
        found = measure(case, backends, rounds, case(1))
        ratio = found["parallelkit"] / found["loky"] if {"parallelkit", "loky"} <= {*found} else 1.0
        told = (f"{figure(found[backend])} |" for backend in backends)
        print(f"| {case.__doc__} |", *told, f"{ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
