"""What a store costs, and how much memory a long sweep takes: ``python -m benchmarks.sweeps``.

The same points run in place twice, into memory and into a store, so that the difference is the
store's. What counts is the time of the processor (of the sweeping process, all its threads), which
other programs on the machine do not lengthen. Memory is that of a process of its own, above what it has when it begins.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import parallelkit as pk


def score(x, y):
    return {"score": x * y, "loss": x - y}


def run(points, store, backend):
    """Seconds of the processor for a sweep, growth of the memory in MiB, and a checksum of the table."""
    import psutil

    grid = pk.grid(x=range(max(1, points // 100)), y=[i / 7 for i in range(100)])
    sweep = pk.Sweep(store=store, backend=backend, workers=1 if backend == "serial" else 2)
    sweep.run(score, []) if store is None else None
    before = psutil.Process().memory_info().rss
    begin = time.process_time()
    table = sweep.run(score, grid)
    seconds = time.process_time() - begin
    after = psutil.Process().memory_info().rss
    checksum = sum(row["score"] for row in table)
    return seconds, (after - before) / 2**20, round(checksum, 3), len(table)


def measured(points, stored, backend):
    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "run.db") if stored else None
        command = [sys.executable, "-m", "benchmarks.sweeps", "--one", str(points), backend]
        command += [store] if store else []
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        points, backend, *store = options.one
        print(json.dumps(run(int(points), store[0] if store else None, backend)))
        return
    points = options.points
    print("backend    store   seconds   µs per point   MiB more")
    for backend in ("serial", "process"):
        costs, sums = {}, set()
        for stored in (False, True):
            rounds = [measured(points, stored, backend) for _ in range(options.rounds)]
            seconds = statistics.median(r[0] for r in rounds)
            memory = statistics.median(r[1] for r in rounds)
            sums |= {tuple(r[2:]) for r in rounds}
            costs[stored] = seconds / points * 1e6
            name = "yes" if stored else "no"
            print(f"{backend:10} {name:5} {seconds:9.2f} {costs[stored]:14.1f} {memory:10.1f}")
        assert len(sums) == 1, sums
        print(f"{backend:10} the store costs {costs[True] - costs[False]:.1f} µs per point")


if __name__ == "__main__":
    main()
