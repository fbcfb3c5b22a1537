"""Tasks that make parallel calls themselves, by the library that runs them, on two cores.

Where a library has no way to nest (multiprocessing.Pool and mpire in daemonic workers, ProcessPoolExecutor by
default), the inner loop is a plain one. "inner threads": ProcessPoolExecutor with a ThreadPoolExecutor inside.
"""

from benchmarks import work
from benchmarks.cases.base import Case
from benchmarks.peers import PROCESSES, SENSIBLE_THREADS

INNER = {
    "parallelkit": "parallelkit",
    "parallelkit-threads": "parallelkit",
    "pathos": "pathos",
    "joblib": "joblib",
    "joblib-threads": "joblib",
    "thread-executor": "executor",
}


class _Nested(Case):
    numpy = True
    peers = PROCESSES + SENSIBLE_THREADS
    tuned = {"inner threads": ("executor",)}
    quickly = "half as many inner tasks"
    widths = ()
    rounds = (7, 2)

    def setup(self):
        if self.quick:
            self.widths = tuple(width // 2 for width in self.widths)
        self.items = sum(self.widths)
        self.inner = (
            "executor" if self.variant == "inner threads" else INNER.get(self.peer.name, "serial")
        )
        self.inputs = [
            [100 * outer + i for i in range(width)] for outer, width in enumerate(self.widths)
        ]
        self.expected = [work.nest(seeds, "serial") for seeds in self.inputs]

    def run(self):
        return self.peer.map(work.nest, self.inputs, inner=self.inner)

    def check(self, result):
        assert result == self.expected, "wrong results"

    def settings(self):
        return f"inner level: {self.inner}"


class Wide(_Nested):
    name = "nested-wide"
    title = "8 outer × 16 inner numpy tasks"
    widths = (16,) * 8


class Uneven(_Nested):
    """Half of the machine stands idle unless the inner tasks of the longer call find a way to it."""

    name = "nested-uneven"
    title = "2 outer calls of 4 and 36 inner numpy tasks"
    widths = (4, 36)
