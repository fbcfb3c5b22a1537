"""What a task costs beyond its own work: tiny functions, small containers, single calls."""

import statistics
import time

from benchmarks import work
from benchmarks.cases.base import Case
from benchmarks.peers import PROCESSES, SENSIBLE_THREADS, THREADS


class Increment(Case):
    """``x + 1``, so many times."""

    full = quick_size = 20_000

    def setup(self):
        self.items = self.quick_size if self.quick else self.full
        self.inputs = list(range(self.items))
        self.expected = list(range(1, self.items + 1))
        if self.variant == "tuned":
            self.peer.chunksize = max(1, min(self.items // (4 * self.peer.workers), 10_000))

    def run(self):
        return self.peer.map(work.increment, self.inputs)

    def check(self, result):
        assert result == self.expected, "wrong results"


class List20k(Increment):
    quick_size = 5_000
    quickly = "5 000"
    name = "list-20k"
    title = "20 000 × `x + 1`, list"
    peers = PROCESSES + SENSIBLE_THREADS
    tuned = {"tuned": ("executor", "mpire")}


class List1M(Increment):
    name = "list-1m"
    title = "1 000 000 × `x + 1`, list"
    full, quick_size = 1_000_000, 100_000
    quickly = "100 000"
    # ProcessPoolExecutor at its default needs more than a minute
    peers = ("serial", "parallelkit", "pathos", "pool", "joblib", "mpire")
    tuned = {"tuned": ("executor", "joblib", "mpire")}


class Stream(Increment):
    """From a generator to an iterator in input order."""

    unit = "us/item"

    def prepare(self):
        self.source = (x for x in range(self.items))

    def run(self):
        return list(self.peer.imap(work.increment, self.source))


class Stream20k(Stream):
    name = "stream-20k"
    title = "20 000 × `x + 1`, stream from a generator, per item"
    quick_size = 2_000
    quickly = "2 000"
    tuned = {"tuned": ("pathos", "pool", "executor", "joblib", "mpire")}


class Stream1M(Stream):
    name = "stream-1m"
    title = "1 000 000 × `x + 1`, stream from a generator, per item"
    full, quick_size = 1_000_000, 50_000
    quickly = "50 000"
    # the others need minutes at their defaults
    peers = ("serial", "parallelkit", "pool", "joblib", "mpire")
    tuned = {"tuned": ("pathos", "pool", "executor", "joblib", "mpire")}


class Containers(Case):
    name = "lists"
    title = "2 000 lists of 1 000 ints, summed"
    quickly = "500"
    peers = PROCESSES + SENSIBLE_THREADS
    tuned = {"tuned": ("executor", "mpire")}

    def setup(self):
        self.items = 500 if self.quick else 2_000
        self.inputs = [list(range(i, i + 1_000)) for i in range(self.items)]
        self.expected = [sum(numbers) for numbers in self.inputs]
        if self.variant == "tuned":
            self.peer.chunksize = 50

    def run(self):
        return self.peer.map(work.total, self.inputs)

    def check(self, result):
        assert result == self.expected, "wrong results"


class Threads(Increment):
    name = "threads"
    title = "20 000 × `x + 1` on threads, per item"
    group = "threads"
    unit = "us/item"
    peers = THREADS


class _Latency(Case):
    """The median over many single calls; one value per round."""

    rounds = (7, 2)
    calls = 200

    def call(self):
        raise NotImplementedError

    def measure(self):
        self.call()
        times = []
        for _ in range(self.calls):
            start = time.perf_counter()
            result = self.call()
            times.append(time.perf_counter() - start)
            self.check(result)
        return {"seconds": statistics.median(times), "items": 1, "ideal": None}


class WarmCall(_Latency):
    name = "warm-call"
    title = "warm call of 2 items"
    calls = 100

    def call(self):
        return self.peer.map(work.increment, [1, 2])

    def check(self, result):
        assert result == [2, 3], "wrong results"


class RoundTrip(_Latency):
    name = "round-trip"
    title = "submit one item and wait for its result"
    peers = ("parallelkit", "pathos", "pool", "executor", "mpire")

    def call(self):
        return self.peer.call(work.increment, 1)

    def check(self, result):
        assert result == 2, "wrong result"


class Memory(Case):
    """How far the caller's memory grows during the call, from before it starts to its peak."""

    name = "memory"
    title = "10 000 000 items through `uimap` from a generator: growth of the caller's memory"
    unit = "MB"
    quickly = "1 000 000 items"
    peers = ("parallelkit",)
    rounds = (1, 1)

    def setup(self):
        self.items = 1_000_000 if self.quick else 10_000_000

    def measure(self):
        before = peak = resident_bytes()
        total = 0
        start = time.perf_counter()
        results = self.peer.uimap(work.increment, (x for x in range(self.items)))
        for count, value in enumerate(results):
            total += value
            if count % 50_000 == 0:
                peak = max(peak, resident_bytes())
        seconds = time.perf_counter() - start
        assert total == self.items * (self.items + 1) // 2, "wrong results"
        note = f"{seconds / self.items * 1e6:.2f} µs per item; peak {peak / 1e6:.0f} MB"
        return {"seconds": peak - before, "items": self.items, "ideal": None, "note": note}


def resident_bytes():
    """Memory of this process now, in bytes."""
    try:
        import psutil
    except ImportError:
        import os

        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return psutil.Process().memory_info().rss
