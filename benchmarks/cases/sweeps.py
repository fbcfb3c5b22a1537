"""What a store costs a sweep, how much memory a long one takes, and what a digest of code and a report cost.

The figures are processor time, which other programs do not lengthen.
"""

import contextlib
import os
import statistics
import sys
import tempfile
import time
import types

from benchmarks.cases.base import Case, sizes
from benchmarks.memory import resident


def score(x, y):
    return {"score": x * y, "loss": x - y}


class Sweep(Case):
    """Points of a grid, kept in memory or, as a variant, in a store; the same table comes of both.

    The figure is that of the sweeping process.
    """

    name = "sweep"
    title = "a sweep of {n} points: processor time"
    group = "sweeps"
    unit = "us/item"
    sizes = sizes(100_000, 5_000, 200)
    peers = ("parallelkit",)
    tuned = {
        "store": ("parallelkit",),
        "serial": ("parallelkit",),
        "serial, store": ("parallelkit",),
    }
    rounds = (3, 1)

    def setup(self):
        import parallelkit as pk

        self.grid = pk.grid(x=range(self.items // 100), y=[i / 7 for i in range(100)])
        self.options = {"backend": "serial"} if "serial" in self.variant else {"workers": 2}
        pk.Sweep(**self.options).run(score, pk.grid(x=[1], y=[2.0]))

    def measure(self):
        import parallelkit as pk

        with contextlib.ExitStack() as stack:
            store = None
            if "store" in self.variant:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                store = os.path.join(folder, "run.db")
            sweep = pk.Sweep(store=store, **self.options)
            before, begin = resident(), time.process_time()
            table = sweep.run(score, self.grid)
            seconds = time.process_time() - begin
            grown = (resident() - before) / 1e6
            assert len(table) == self.items, "rows are missing"
            found = sum(table["score"])
        expected = sum(x * (y / 7) for x in range(self.items // 100) for y in range(100))
        assert abs(found - expected) < 1e-6 * expected, "wrong results"
        note = f"memory grew by {grown:.0f} MB"
        return {"seconds": seconds, "items": self.items, "ideal": None, "note": note}


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


class Digest(Case):
    """A digest of functions of which each calls the next, read for the first time or, as a variant, once more."""

    name = "digest"
    title = "a digest of the code of {n} functions: processor time"
    group = "sweeps"
    unit = "ms"
    sizes = sizes(50, 50, 5)
    peers = ("parallelkit",)
    tuned = {"again": ("parallelkit",)}

    def setup(self):
        self.script = types.ModuleType("script_of_a_benchmark")
        sys.modules[self.script.__name__] = self.script
        names = [*(f"f{number}" for number in range(self.items)), "last"]
        links = (LINK.format(i, names[i + 1]) for i in range(self.items))
        self.source = CHAIN + "".join(links)

    def measure(self):
        from parallelkit.sweeps import code

        found = []
        for _ in range(20):
            exec(compile(self.source, "<script>", "exec"), vars(self.script))
            if self.variant:
                code.code_of(self.script.f0)
            begin = time.process_time()
            parts = code.code_of(self.script.f0).parts
            found.append(time.process_time() - begin)
            assert f"f{self.items - 1}()" in parts, "a function is missing"
        return {"seconds": statistics.median(found), "items": 1, "ideal": None}

    def close(self):
        del sys.modules[self.script.__name__]


def reporting(x, steps):
    import parallelkit as pk

    begin = time.process_time()
    for step in range(1, steps + 1):
        pk.report(x, step)
    return {"worker": (time.process_time() - begin) / steps * 1e6}


def never(_report):
    return False


class Reports(Case):
    """Two points that report at every step to a pruner that never gives them up; the figure is the sweeping process's."""

    name = "reports"
    title = "{n} reports to a pruner: processor time"
    group = "sweeps"
    unit = "us/item"
    sizes = sizes(10_000, 10_000, 200)
    peers = ("parallelkit",)
    rounds = (3, 1)

    def setup(self):
        import parallelkit as pk

        self.sweep = pk.Sweep(pruner=never, backend="process", workers=2)
        self.grid = pk.grid(x=[0.0, 1.0])
        self.sweep.run(reporting, self.grid, steps=10)  # starts the workers

    def measure(self):
        steps = self.items // 2
        begin = time.process_time()
        table = self.sweep.run(reporting, self.grid, steps=steps)
        seconds = time.process_time() - begin
        assert [len(curve["steps"]) for curve in table.curves()] == [steps, steps], (
            "reports missing"
        )
        note = f"{statistics.mean(table['worker']):.1f} µs in the worker"
        return {"seconds": seconds, "items": self.items, "ideal": None, "note": note}


CASES = (Sweep, Digest, Reports)
