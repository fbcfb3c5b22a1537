"""Search depth x learning rate of a gradient boosting model, cross-validating each point.

Two parallel calls lie inside each other, each written as if the other were not there: the search
hands its points to processes, and each point hands its five folds to `pk.map` once more. Inside a
worker that call becomes threads, with the share of the cores that is left to it, so the machine is
full and never overfull. The same search then runs serially; the script checks that both found the
same, and prints how much faster the parallel one was.

Run it with `make demo`, or by itself where parallelkit and scikit-learn are installed.
"""

from __future__ import annotations

import itertools
import statistics
import time
from typing import TYPE_CHECKING, Literal, NamedTuple

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold

import parallelkit as pk

if TYPE_CHECKING:
    import numpy as np

DEPTHS = (6, 5, 4, 3, 2, 1)  # the slowest first, so that no worker is left with one at the end
RATES = (0.03, 0.05, 0.1, 0.2, 0.3)
FOLDS = 5
TREES = 60  # few, so that the demo, serial run included, takes less than a minute on two cores


class Point(NamedTuple):
    """One point of the search; its accuracy over the folds, mean and standard deviation."""

    depth: int
    rate: float
    accuracy: float
    spread: float


def score_fold(
    train: np.ndarray,
    test: np.ndarray,
    *,
    depth: int,
    rate: float,
    features: np.ndarray,
    labels: np.ndarray,
) -> float:
    """Fit on the rows `train`, return the accuracy on the rows `test`."""
    model = GradientBoostingClassifier(
        n_estimators=TREES, max_depth=depth, learning_rate=rate, random_state=0
    )
    model.fit(features[train], labels[train])
    return float(model.score(features[test], labels[test]))


def score_point(depth: int, rate: float, *, features: np.ndarray, labels: np.ndarray) -> Point:
    """Cross-validate one point by a parallel call of its own."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(features, labels)
    train, test = zip(*folds, strict=True)
    scores = pk.map(
        score_fold, train, test, depth=depth, rate=rate, features=features, labels=labels
    )
    return Point(depth, rate, statistics.mean(scores), statistics.stdev(scores))


def search(
    backend: Literal["process", "serial"], features: np.ndarray, labels: np.ndarray
) -> tuple[list[Point], float]:
    """Score every point; return the points and the seconds, start of the workers included."""
    depths, rates = zip(*itertools.product(DEPTHS, RATES), strict=True)
    started = time.perf_counter()
    # The backend is configured for both levels; the bar is the outer pool's alone.
    with pk.configure(backend=backend), pk.Pool(progress=f"{backend:>7}") as pool:
        points = pool.map(score_point, depths, rates, features=features, labels=labels)
    return points, time.perf_counter() - started


def print_ranking(points: list[Point], top: int = 10) -> None:
    """Print the best points; of equals, first the steadier, then the shallower one."""
    ranked = sorted(points, key=lambda p: (-p.accuracy, p.spread, p.depth, p.rate))
    print(f"\n{'rank':>4}  {'depth':>5}  {'rate':>5}  accuracy")
    for rank, point in enumerate(ranked[:top], start=1):
        scores = f"{point.accuracy:.4f} ± {point.spread:.4f}"
        print(f"{rank:>4}  {point.depth:>5}  {point.rate:>5}  {scores}")


def main() -> None:
    """Search in parallel, then serially; compare."""
    features, labels = load_breast_cancer(return_X_y=True)
    count = len(DEPTHS) * len(RATES)
    print(f"{count} points x {FOLDS} folds, {TREES} trees a fit, on {pk.cpu_count()} cores")

    points, parallel_seconds = search("process", features, labels)
    same_points, serial_seconds = search("serial", features, labels)
    assert points == same_points, "the parallel and the serial search must find exactly the same"

    print_ranking(points)
    print(
        f"\nparallel {parallel_seconds:.1f} s, serial {serial_seconds:.1f} s, same results: "
        f"{serial_seconds / parallel_seconds:.2f} times as fast"
    )


# No `if __name__ == "__main__":` is needed: workers never run the script again.
main()
