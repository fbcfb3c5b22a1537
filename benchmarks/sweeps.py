"""What a store, a digest of code and a report cost, and the memory of a long sweep: ``python -m benchmarks.sweeps``.

The same points run in place twice, into memory and into a store, so that the difference is the
store's. What counts is the time of the processor (of the sweeping process, all its threads), which
other programs on the machine do not lengthen. Memory is that of a process of its own, above what it has when it begins.

A digest is that of fifty functions of which each calls the next: of code that was not read before, and again, as at the
next sweep of a script. A report is one of a point on processes whose pruner never gives up.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types

import parallelkit as pk
from parallelkit.sweeps import code


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


FUNCTIONS = 50
STEPS = 5000
CHAIN = """
import math
import numpy as np
LIMIT, TABLE = 3, {"a": 1, "b": [1, 2, 3]}
def last(x):
    return x
"""
LINK = """
def f{0}(x, k={0}):
    total = 0.0
    for j in range(LIMIT):
        if j % 2:
            total += math.sqrt(abs(x)) * k
        else:
            total -= np.abs(x) + TABLE.get("a", 0)
    return total + {1}(x - 1)
"""


def digests(rounds=50):
    """Milliseconds of a digest of code that is read for the first time, and of one after that."""
    script = types.ModuleType("script")
    sys.modules["script"] = script
    names = [*(f"f{number}" for number in range(FUNCTIONS)), "last"]
    source = CHAIN + "".join(LINK.format(i, names[i + 1]) for i in range(FUNCTIONS))
    first, again = [], []
    for _ in range(rounds):
        exec(compile(source, "<script>", "exec"), vars(script))
        for times in (first, again):
            begin = time.process_time()
            found = code.code_of(script.f0)
            times.append((time.process_time() - begin) * 1e3)
        assert "f49()" in found.parts
    return statistics.median(first), statistics.median(again)


def reporting(x, steps):
    begin = time.process_time()
    for step in range(1, steps + 1):
        pk.report(x, step)
    return {"worker": (time.process_time() - begin) / steps * 1e6}


def never(_report):
    return False


def reports():
    """Microseconds of the processor for a report, in the worker and in the sweeping process."""
    sweep = pk.Sweep(pruner=never, backend="process", workers=2)
    sweep.run(reporting, pk.grid(x=[0.0, 1.0]), steps=10)  # starts the workers
    begin = time.process_time()
    table = sweep.run(reporting, pk.grid(x=[0.0, 1.0]), steps=STEPS)
    seconds = time.process_time() - begin
    assert [len(curve["steps"]) for curve in table.curves()] == [STEPS, STEPS]
    return statistics.mean(table["worker"]), seconds / (2 * STEPS) * 1e6


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
    first, again = digests()
    print(f"digest of {FUNCTIONS} functions: {first:.2f} ms, again {again:.2f} ms")
    worker, sweeping = reports()
    print(f"a report: {worker:.1f} µs in the worker, {sweeping:.1f} µs in the sweeping process")
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
