"""Draws the timeline of the documentation: a sweep whose points make calls of their own.

    python examples/timeline.py docs/timeline.svg

Points take longer the deeper they are. Workers that have no point any more help with the folds of
others (``nested="process"``).
"""

import sys
import time

import parallelkit as pk


def fold(number: int, depth: int) -> float:
    """Fit one fold; the work is pure Python, and takes longer with `depth`."""
    end = time.perf_counter() + 0.03 * depth + 0.01 * (number % 3)
    score = 0.0
    while time.perf_counter() < end:
        score = sum(n % (number + 2) for n in range(500)) / 500
    return score


def validate(depth: int) -> float:
    """Mean over folds of one point of the sweep."""
    return sum(pk.map(fold, range(6), depth=depth)) / 6


def main(path: str) -> None:
    """Run the sweep on four workers, and draw it."""
    with pk.Pool(workers=4, nested="process") as pool:
        pool.map(abs, range(100))  # workers are there
        with pk.trace() as trace:
            pool.map(validate, [1, 2, 1, 3, 2, 6])
    figure = trace.plot()
    figure.set_size_inches(8, 3)
    figure.savefig(path)
    print(trace.summary())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "timeline.png")
