"""How near a peer comes to keeping all workers busy to the end, as a share of the ideal schedule."""

import random

from benchmarks import work
from benchmarks.cases.base import Case


def ideal_schedule(durations, workers):
    """Length of the schedule that gives the longest task left to the worker that is free first (LPT)."""
    load = [0.0] * workers
    for duration in sorted(durations, reverse=True):
        load[load.index(min(load))] += duration
    return max(load)


class _Schedule(Case):
    """Tasks that keep a core busy for a given time. "tuned": one item per message."""

    unit = "% of ideal"
    rounds = (7, 1)
    peers = ("parallelkit", "pathos", "pool", "executor", "joblib", "mpire")
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
    title = "1 000 tasks of 1 ms"

    quickly = "300"

    def durations(self):
        return [0.001] * (300 if self.quick else 1_000)


class _Mix(_Schedule):
    quickly = "100 and 4 of 50 ms"

    def mix(self):
        return [0.001] * 100 + [0.05] * 4 if self.quick else [0.001] * 600 + [0.2] * 8


class SkewedEnd(_Mix):
    """The worst order for whoever makes large chunks: all long tasks stand together, at the end."""

    name = "skewed-end"
    title = "600 tasks of 1 ms, then 8 of 200 ms"

    def durations(self):
        return self.mix()


class SkewedScattered(_Mix):
    """Long tasks anywhere, in an order drawn once and for all."""

    name = "skewed-scattered"
    title = "600 tasks of 1 ms and 8 of 200 ms, shuffled"

    def durations(self):
        durations = self.mix()
        random.Random(1).shuffle(durations)
        return durations
