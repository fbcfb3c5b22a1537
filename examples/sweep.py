"""Sweep depth x learning rate of a gradient boosting model: a table, two pictures, no lost work.

Each point fits a model on a random half of the data, three times with another seed, and tells how
well it does on the other half. Points run in parallel; every result goes into a file as soon as it
is there. The script starts the sweep twice: the second time, as after a crash, nothing is left to
do. Then it runs the same serially, checks that both found the same, and prints what was gained.

Run it where parallelkit, scikit-learn and matplotlib are installed: python examples/sweep.py
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import train_test_split

import parallelkit as pk

if TYPE_CHECKING:
    import numpy as np

GRID = pk.grid(depth=[1, 2, 3, 4, 6], rate=[0.03, 0.1, 0.3])
REPEATS = 3
TREES = 250  # few enough that it takes less than a minute, serial run included
PICTURE = Path("sweep.png")
TIMELINE = Path("sweep.html")
QUIET = 0.1  # of the cores: busier with others, two times say little about what was gained


def score(
    depth: int, rate: float, rng: np.random.Generator, *, features: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Fit on a random half; accuracy on both halves."""
    train_x, test_x, train_y, test_y = train_test_split(
        features, labels, test_size=0.5, random_state=int(rng.integers(2**31))
    )
    model = GradientBoostingClassifier(
        n_estimators=TREES, max_depth=depth, learning_rate=rate, random_state=0
    )
    model.fit(train_x, train_y)
    return {"accuracy": model.score(test_x, test_y), "trained": model.score(train_x, train_y)}


def others_at_work(seconds: float = 0.5) -> float | None:
    """Cores that other programs keep busy now; None where the system does not tell."""

    def busy() -> int:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split()[1:9]]
        return sum(ticks) - ticks[3] - ticks[4]  # idle, and waiting for a disk

    try:
        before = busy()
        time.sleep(seconds)
        return (busy() - before) / os.sysconf("SC_CLK_TCK") / seconds
    except (OSError, ValueError):
        return None


def gained(parallel: float, serial: float, others: list[float | None]) -> str:
    """What running in parallel gained, if that can be told from these two times."""
    times = f"parallel {parallel:.1f} s, start of the workers included; serial {serial:.1f} s; "
    cores = pk.cpu_count()
    if cores == 1:
        return f"{times}same results. One core: nothing can be gained here"
    busiest = max((share for share in others if share is not None), default=0.0)
    if busiest > QUIET * cores:
        return (
            f"{times}same results. What was gained is not told, since other programs kept "
            f"{busiest:.1f} of {cores} cores busy: run it again on a quiet machine"
        )
    return f"{times}same results: {serial / parallel:.2f} times as fast"


def main() -> None:
    """Sweep in parallel, again, and serially."""
    features, labels = load_breast_cancer(return_X_y=True)
    frozen = {"features": features, "labels": labels}
    print(f"{len(GRID)} points x {REPEATS} repeats on {pk.cpu_count()} cores")

    others = [others_at_work()]
    with tempfile.TemporaryDirectory() as folder:
        sweep = pk.Sweep(f"{folder}/run.db", REPEATS, seed=42, progress="parallel")
        began = time.perf_counter()
        with pk.trace() as trace:
            table = sweep.run(score, GRID, **frozen)
        parallel = time.perf_counter() - began

        began = time.perf_counter()
        table = sweep.run(score, GRID, **frozen)
        print(f"\nthe same sweep again, all of it stored: {time.perf_counter() - began:.2f} s\n")

        began = time.perf_counter()
        in_place = pk.Sweep(None, REPEATS, seed=42, backend="serial", progress="  serial")
        serial_table = in_place.run(score, GRID, **frozen)
        serial = time.perf_counter() - began
        found = [row["accuracy"] for row in table]
        assert found == [row["accuracy"] for row in serial_table], "both must find the same"

        print(f"\n{table}\n")
        best = table.best("accuracy")
        print(f"the best: depth {best['depth']}, rate {best['rate']}: {best['accuracy']:.4f}")
        table.plot("rate", "accuracy", hue="depth", path=PICTURE)
        print(f"accuracy over rate, a line for each depth: {PICTURE.resolve()}")
        trace.html(TIMELINE)
        print(f"which worker ran which point, and when: {TIMELINE.resolve()}")
    pk.shutdown()
    others.append(others_at_work())
    print(f"\n{gained(parallel, serial, others)}")


# No `if __name__ == "__main__":` is needed: workers never run the script again.
main()
