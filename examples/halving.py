"""Search settings of a gradient boosting model twice: every point to its end, and with halving.

64 points, drawn at random, fit 256 trees each and report after every 4 trees how well they
do on data that they have not seen. The first search runs all of them to the end. The second one
gives up, at 4, 16 and 64 trees, what is not among the best quarter that has come so far. The script
tells what both took, how many trees they fitted, and whether the second one found a point that is
as good as the first one's best, within one standard error of its score.

Run it where parallelkit and scikit-learn are installed: python examples/halving.py
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from sklearn.datasets import make_classification
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import train_test_split

import parallelkit as pk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parallelkit.sweeps.table import Table

POINTS = pk.sample(
    64,
    7,
    depth=[1, 2, 3, 4, 5, 6],
    rate=lambda rng: float(10 ** rng.uniform(-3, 0)),
    part=lambda rng: float(rng.uniform(0.3, 1)),
)
TREES, STEP = 256, 4


def fit(
    depth: int, rate: float, part: float, *, data: tuple[NDArray[np.floating], ...]
) -> dict[str, float]:
    """Fit on one half, a few trees at a time; tell the accuracy on the other half."""
    train_x, test_x, train_y, test_y = data
    model = GradientBoostingClassifier(
        max_depth=depth, learning_rate=rate, subsample=part, warm_start=True, random_state=0
    )
    score = 0.0
    for trees in range(STEP, TREES + 1, STEP):
        model.set_params(n_estimators=trees).fit(train_x, train_y)
        score = float(model.score(test_x, test_y))
        pk.report(score, trees)
    # Of a share of right answers among so many.
    return {"score": score, "error": float(np.sqrt(score * (1 - score) / len(test_y)))}


def search(
    pruner: pk.Halving | None, data: tuple[NDArray[np.floating], ...]
) -> tuple[Table, float]:
    """The table of a search, and the seconds that it took."""
    begun = time.perf_counter()
    table = pk.Sweep(pruner=pruner).run(fit, POINTS, data=data)
    return table, time.perf_counter() - begun


def trees(table: Table) -> int:
    """How many were fitted in a search."""
    return sum(curve["steps"][-1] for curve in table.curves())


def main() -> None:
    """Search twice, and compare."""
    features, labels = make_classification(
        1000, 20, n_informative=8, n_redundant=4, flip_y=0.05, random_state=1
    )
    data = tuple(train_test_split(features, labels, test_size=0.5, random_state=1))
    pk.map(abs, [1, 2])  # the workers are there, for both

    whole, whole_seconds = search(None, data)
    halved, halved_seconds = search(pk.Halving(minimum=STEP, factor=4), data)

    best, found = whole.best("score"), halved.best("score")
    print(halved)
    print(
        f"every point to its end: {best['score']:.4f} ± {best['error']:.4f}, "
        f"{trees(whole)} trees, {whole_seconds:.1f} s"
    )
    print(
        f"halving:                {found['score']:.4f}, {trees(halved)} trees "
        f"({trees(halved) / trees(whole):.0%}), {halved_seconds:.1f} s "
        f"({halved_seconds / whole_seconds:.0%})"
    )
    if found["score"] < best["score"] - best["error"]:
        raise SystemExit("halving missed the best by more than one standard error")
    print("the same best, within one standard error")


if __name__ == "__main__":
    main()
