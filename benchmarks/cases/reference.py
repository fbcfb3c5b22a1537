"""The reference table: the same function on a plain loop, on two threads, on two processes.

numpy lets go of Python's lock, pure Python holds it: what that costs is the second row.
"""

from benchmarks import work
from benchmarks.cases.base import Mapped


class _Reference(Mapped):
    group = "reference"
    peers = (
        "serial",
        "parallelkit",
        "pathos",
        "pool",
        "parallelkit-threads",
        "thread-executor",
        "pathos-threads",
    )
    rounds = (1, 1)

    def inputs_of(self, n):
        return [self.size.length] * n

    def setup(self):
        self.inputs = self.inputs_of(self.items)
        self.expected = [
            type(self).func(2)
        ] * self.items  # the last element: the same for any length


class Numpy(_Reference):
    name = "reference-numpy"
    title = "{n} × numpy `exp` on {length} ones"
    func = work.exp_numpy
    numpy = True
    sizes = {
        "full": {"n": 100, "length": 10_000_000},
        "quick": {"n": 10, "length": 1_000_000},
        "tiny": {"n": 3, "length": 1_000},
    }


class Python(_Reference):
    name = "reference-python"
    title = "{n} × `exp` on {length} ones in pure Python"
    func = work.exp_python
    sizes = {
        "full": {"n": 10, "length": 10_000_000},
        "quick": {"n": 4, "length": 300_000},
        "tiny": {"n": 3, "length": 1_000},
    }
