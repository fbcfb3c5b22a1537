"""One program, on processes or threads of this machine, on Dask, on Ray, or on an executor.

    python examples/anywhere.py [process | thread | dask | ray | executor] [ADDRESS]

Only the option of the pool differs. The estimate of pi is the same to the last digit everywhere,
since each batch draws from a random stream of its own.
"""

import argparse
import contextlib
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

import parallelkit as pk


def inside(_: int, points: int, rng: np.random.Generator) -> int:
    """Count random points of the unit square that lie in the quarter of a circle."""
    x, y = rng.random((2, points))
    return int((x * x + y * y < 1).sum())


def main() -> None:
    """Estimate pi where the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    where = ("process", "thread", "dask", "ray", "executor")
    parser.add_argument("where", nargs="?", default="process", choices=where)
    parser.add_argument("address", nargs="?", help="of the cluster, for dask and ray")
    parser.add_argument("--batches", type=int, default=200)
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        backend: Any = given.where
        if backend == "executor":
            backend = stack.enter_context(ProcessPoolExecutor())
        pool = stack.enter_context(pk.Pool(backend=backend, address=given.address, seed=2024))
        points = 100_000
        begin = time.perf_counter()
        counts = pool.map(inside, range(given.batches), points=points)
        seconds = time.perf_counter() - begin
    print(f"pi is about {4 * sum(counts) / (points * given.batches):.6f}")
    print(f"{given.where}: {given.batches} batches in {seconds:.2f} s")


if __name__ == "__main__":
    main()
