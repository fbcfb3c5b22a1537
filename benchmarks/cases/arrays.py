"""numpy arrays on their way in, on their way out, and as constants."""

import functools

from benchmarks import work
from benchmarks.cases.base import Case
from benchmarks.peers import PROCESSES, SENSIBLE_THREADS

MILLION = 1_000_000  # floats: 8 MB


class _Arrays(Case):
    numpy = True
    peers = PROCESSES + SENSIBLE_THREADS

    rounds = (7, 2)
    quickly = "20 arrays"

    def setup(self):
        import numpy as np

        self.np = np
        self.items = 20 if self.quick else 40


class In(_Arrays):
    """Arrays that no peer has seen before, made anew before each round."""

    name = "arrays-in"
    title = "40 fresh arrays of 8 MB in, summed"

    def prepare(self):
        self.arrays = [self.np.full(MILLION, float(i)) for i in range(self.items)]

    def run(self):
        return self.peer.map(work.array_total, self.arrays)

    def check(self, result):
        self.arrays = None
        assert result == [i * 1e6 for i in range(self.items)], "wrong results"


class OutKept(_Arrays):
    """All results are held, and one float of each page is read: memory that is only promised does not count."""

    name = "arrays-out-kept"
    title = "40 arrays of 8 MB out, kept and read"

    def run(self):
        arrays = self.peer.map(
            functools.partial(work.filled, size=MILLION), list(range(self.items))
        )
        return arrays, [float(array[::512].mean()) for array in arrays]

    def check(self, result):
        arrays, means = result
        assert means == list(range(self.items)), "wrong results"
        assert all(array.shape == (MILLION,) for array in arrays), "wrong shapes"


class OutDropped(_Arrays):
    name = "arrays-out-dropped"
    title = "40 arrays of 8 MB out, read and dropped one by one"

    def run(self):
        func = functools.partial(work.filled, size=MILLION)
        return [
            float(array[::512].mean()) for array in self.peer.imap(func, list(range(self.items)))
        ]

    def check(self, result):
        assert result == list(range(self.items)), "wrong results"


class Frozen(_Arrays):
    """A constant that no peer has seen before. "inherited": new workers that get it by fork."""

    name = "array-frozen"
    title = "one frozen array of 200 MB, 40 light tasks"
    quickly = "50 MB, 10 tasks"
    tuned = {"inherited": ("pathos", "pool", "executor", "mpire")}
    fork_only = frozenset((peer, "inherited") for peer in tuned["inherited"])

    def prepare(self):
        self.items = 10 if self.quick else 40
        self.data = self.np.arange((6 if self.quick else 25) * MILLION, dtype=float)

    def run(self):
        mapper = self.peer.map_inherited if self.variant == "inherited" else self.peer.map
        return mapper(work.pick, list(range(self.items)), data=self.data)

    def check(self, result):
        self.data = None
        assert result == [i * 1e3 for i in range(self.items)], "wrong results"

    def settings(self):
        return (
            "new workers that inherit the array by fork"
            if self.variant == "inherited"
            else super().settings()
        )


class Small(_Arrays):
    name = "arrays-small"
    title = "50 000 arrays of 100 floats, summed"
    unit = "us/item"
    quickly = "4 000"
    tuned = {"tuned": ("executor", "mpire")}

    def setup(self):
        super().setup()
        self.items = 4_000 if self.quick else 50_000
        self.inputs = [self.np.full(100, float(i)) for i in range(self.items)]
        self.expected = [i * 100.0 for i in range(self.items)]
        if self.variant == "tuned":
            self.peer.chunksize = 500

    def run(self):
        return self.peer.map(work.array_total, self.inputs)

    def check(self, result):
        assert result == self.expected, "wrong results"
