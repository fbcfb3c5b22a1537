"""How near a peer comes to keeping all workers busy to the end, as a share of the ideal schedule."""

import random

from benchmarks import work
from benchmarks.cases.base import Case
from benchmarks.peers import CLUSTERS


def ideal_schedule(durations, workers):
    """Length of the schedule that gives the longest task left to the worker that is free first (LPT)."""
    load = [0.0] * workers
    for duration in sorted(durations, reverse=True):
        load[load.index(min(load))] += duration
    return max(load)


class _Schedule(Case):
    """Tasks that keep a core busy for a given time. "tuned": one item per message."""

    group = "schedule"
    unit = "% of ideal"
    rounds = (7, 1)
    peers = ("parallelkit", "pathos", "pool", "executor", "joblib", "mpire", *CLUSTERS)
    tuned = {"tuned": ("pathos", "pool", "joblib", "mpire")}

    def durations(self):
        raise NotImplementedError

    def setup(self):
        self.inputs = self.durations()
        self.items = len(self.inputs)
        self.ideal = ideal_schedule(self.inputs, self.peer.workers)
        if self.variant == "tuned":
            self.peer.chunksize = 1

    def run(self):
        return self.peer.map(work.spin, self.inputs)

    def check(self, result):
        assert result == self.inputs, "wrong results"


class Milliseconds(_Schedule):
    name = "milliseconds"
    title = "{n} tasks of 1 ms"
    sizes = {"full": {"n": 1_000}, "quick": {"n": 300}, "tiny": {"n": 4}}
    quick = True

    def durations(self):
        return [0.001] * self.size.n


class _Mix(_Schedule):
    sizes = {
        "full": {"short": 600, "long": 8, "ms": 200},
        "quick": {"short": 100, "long": 4, "ms": 50},
        "tiny": {"short": 4, "long": 2, "ms": 2},
    }

    def durations(self):
        return [0.001] * self.size.short + [self.size.ms / 1e3] * self.size.long


class SkewedEnd(_Mix):
    """The worst order for whoever makes large chunks: all long tasks stand together, at the end."""

    name = "skewed-end"
    title = "{short} tasks of 1 ms, then {long} of {ms} ms"
    quick = True


class SkewedScattered(_Mix):
    """Long tasks anywhere, in an order drawn once and for all."""

    name = "skewed-scattered"
    title = "{short} tasks of 1 ms and {long} of {ms} ms, shuffled"

    def durations(self):
        durations = super().durations()
        random.Random(1).shuffle(durations)
        return durations
