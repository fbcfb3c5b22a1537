"""Memory of the caller and of everything that it started.

Counted is PSS: each process's own memory, and its part of what it shares with others. So forked workers are not
charged twice for the pages that they have in common with the caller.
"""

import threading
import time

from benchmarks import work
from benchmarks.cases.arrays import In
from benchmarks.cases.base import Case, sizes
from benchmarks.memory import of_caller, of_workers, resident
from benchmarks.peers import EVERYONE


class _Memory(Case):
    group = "memory"
    unit = "MB"
    rounds = (2, 1)


class Idle(_Memory):
    """After a call has been made, while nothing runs: what a pool that is kept warm costs."""

    name = "memory-idle"
    title = "the caller and its warm workers at rest, numpy imported in all"
    numpy = True
    peers = EVERYONE
    quick = True

    def measure(self):
        self.peer.map(work.warm_up, [True] * (4 * self.peer.workers))
        time.sleep(0.1)
        mine, theirs = of_caller(), of_workers()
        return {
            "seconds": mine + theirs,
            "items": 1,
            "ideal": None,
            "note": f"caller {mine / 1e6:.0f} MB, the rest {theirs / 1e6:.0f} MB",
        }


class Arrays(In):
    """The peak while arrays go in, the arrays themselves among it."""

    name = "memory-arrays"
    title = "peak of caller and workers, {n} fresh arrays of {mb} MB in"
    group = "memory"
    unit = "MB"
    rounds = (2, 1)
    quick = False

    def measure(self):
        self.prepare()
        peaks, over = [], threading.Event()

        def watch():
            while not over.wait(0.01):
                peaks.append(of_caller() + of_workers())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            result = self.run()
        finally:
            peaks.append(of_caller() + of_workers())
            over.set()
            watcher.join()
        self.check(result)
        return {"seconds": max(peaks), "items": self.items, "ideal": None}


class Flat(_Memory):
    """How far the caller's memory grows during the call, from before it starts to its peak."""

    name = "memory-stream"
    title = "{n} items through `uimap` from a generator: growth of the caller's memory"
    sizes = sizes(10_000_000, 500_000, 1_000)
    peers = ("parallelkit",)
    rounds = (1, 1)

    def measure(self):
        before = peak = resident()
        total = 0
        start = time.perf_counter()
        results = self.peer.uimap(work.increment, (x for x in range(self.items)))
        for count, value in enumerate(results):
            total += value
            if count % 50_000 == 0:
                peak = max(peak, resident())
        seconds = time.perf_counter() - start
        assert total == self.items * (self.items + 1) // 2, "wrong results"
        note = f"{seconds / self.items * 1e6:.2f} µs per item; peak {peak / 1e6:.0f} MB"
        return {"seconds": peak - before, "items": self.items, "ideal": None, "note": note}
