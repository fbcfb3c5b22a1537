"""What a trace costs: the same calls with and without one, in turn.

``python -m benchmarks.tracing`` prints, for each kind of call, the median of the rounds without a
trace and with one, and what it is more. Results are asserted to be equal. A minute on a quiet machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import parallelkit as pk

ROUNDS = 9


def work(x: int) -> int:
    """Compute for a millisecond."""
    end = time.perf_counter() + 0.001
    while time.perf_counter() < end:
        pass
    return x


def wait(x: int) -> int:
    """Wait for a millisecond."""
    time.sleep(0.001)
    return x


def short(pool: pk.Pool) -> list[Any]:
    """Make calls of two items that take no time."""
    return [pool.map(abs, [1, 2]) for _ in range(1000)]


CASES: dict[str, tuple[dict[str, Any], Callable[[pk.Pool], list[Any]]]] = {
    "1 000 tasks of 1 ms, processes": ({}, lambda pool: pool.map(work, range(1000))),
    "1 000 naps of 1 ms, threads": (
        {"backend": "thread"},
        lambda pool: pool.map(wait, range(1000)),
    ),
    "1 000 tasks of 1 ms, serial": (
        {"backend": "serial"},
        lambda pool: pool.map(work, range(1000)),
    ),
    "1 000 000 x abs, processes": ({}, lambda pool: pool.map(abs, range(1_000_000))),
    "1 000 calls of two items": ({}, short),
}


def timed(pool: pk.Pool, call: Callable[[pk.Pool], list[Any]]) -> tuple[float, list[Any]]:
    """Seconds, and the results."""
    begin = time.perf_counter()
    results = call(pool)
    return time.perf_counter() - begin, results


def main(rounds: int = ROUNDS) -> None:
    """Measure all cases."""
    for name, (options, call) in CASES.items():
        without: list[float] = []
        with_one: list[float] = []
        with pk.Pool(2, **options) as pool:
            _, expected = timed(pool, call)  # warm
            for _ in range(rounds):
                seconds, results = timed(pool, call)
                assert results == expected
                without.append(seconds)
                with pk.trace():
                    seconds, results = timed(pool, call)
                assert results == expected
                with_one.append(seconds)
        off, on = statistics.median(without), statistics.median(with_one)
        print(f"{name:32} {1e3 * off:8.1f} ms {1e3 * on:8.1f} ms  {on / off - 1:+7.2%}")


if __name__ == "__main__":
    main()
