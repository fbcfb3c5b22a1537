"""numpy arrays on their way in, on their way out, as constants, and cut into blocks."""

import functools

from benchmarks import work
from benchmarks.cases.base import Case, sizes
from benchmarks.memory import of_workers
from benchmarks.peers import EVERYONE, PROCESSES, SENSIBLE_THREADS

MILLION = 1_000_000  # floats: 8 MB
FORKSERVER = ("pool", "executor", "mpire")


def _of_megabytes(full, quick, tiny):
    """So many arrays (n) of so many megabytes (mb)."""
    pairs = zip(("full", "quick", "tiny"), (full, quick, tiny), strict=True)
    return {size: {"n": n, "mb": mb, "length": round(mb * 125_000)} for size, (n, mb) in pairs}


class _Arrays(Case):
    """Those who fork by default take part again with workers that are not forked."""

    group = "arrays"
    numpy = True
    peers = EVERYONE + SENSIBLE_THREADS
    tuned = {"forkserver": FORKSERVER}
    sizes = _of_megabytes((40, 8), (12, 8), (3, 0.8))
    rounds = (7, 2)

    def setup(self):
        import numpy as np

        self.np = np
        if self.variant == "forkserver":
            self.peer.start_method = "forkserver"


class In(_Arrays):
    """Arrays that no peer has seen before, made anew before each round."""

    name = "arrays-in"
    title = "{n} fresh arrays of {mb} MB in, summed"
    quick = True

    def prepare(self):
        self.arrays = [self.np.full(self.size.length, float(i)) for i in range(self.items)]

    def run(self):
        return self.peer.map(work.array_total, self.arrays)

    def check(self, result):
        self.arrays = None
        assert result == [i * float(self.size.length) for i in range(self.items)], "wrong results"


class Copies(In):
    """What arrays in are compared with: the caller copies them, and nothing else."""

    name = "arrays-copied"
    title = "`[a.copy() for a in arrays]`, {n} of {mb} MB: no workers at all"
    peers = ("serial",)
    tuned = {}
    quick = False

    def run(self):
        return [a.copy() for a in self.arrays]

    def check(self, result):
        super().check([float(a.sum()) for a in result])


class OutKept(_Arrays):
    """All results are held, and one float of each page is read: memory that is only promised does not count."""

    name = "arrays-out-kept"
    title = "{n} arrays of {mb} MB out, kept and read"
    quick = True

    def run(self):
        func = functools.partial(work.filled, size=self.size.length)
        arrays = self.peer.map(func, list(range(self.items)))
        return arrays, [float(array[::512].mean()) for array in arrays]

    def check(self, result):
        arrays, means = result
        assert means == list(range(self.items)), "wrong results"
        assert all(array.shape == (self.size.length,) for array in arrays), "wrong shapes"


class OutDropped(_Arrays):
    name = "arrays-out-dropped"
    title = "{n} arrays of {mb} MB out, read and dropped one by one"

    def run(self):
        func = functools.partial(work.filled, size=self.size.length)
        return [
            float(array[::512].mean()) for array in self.peer.imap(func, list(range(self.items)))
        ]

    def check(self, result):
        assert result == list(range(self.items)), "wrong results"


class Frozen(_Arrays):
    """A constant that no peer has seen before. "inherited": new workers that get it by fork."""

    name = "array-frozen"
    title = "one frozen array of {mb} MB, {n} light tasks, first call"
    tuned = {"forkserver": FORKSERVER, "inherited": ("pathos", *FORKSERVER)}
    sizes = _of_megabytes((40, 200), (10, 24), (3, 1.6))
    quick = True

    first = 0.0  # what the first element is

    def prepare(self):
        self.data = self.np.arange(self.size.length, dtype=float)

    def run(self):
        mapper = self.peer.map_inherited if self.variant == "inherited" else self.peer.map
        return mapper(work.pick, list(range(self.items)), data=self.data)

    def check(self, result):
        assert result == [self.first, *(i * 1e3 for i in range(1, self.items))], "wrong results"

    def settings(self):
        if self.variant == "inherited":
            return "new workers that inherit the array by fork"
        return super().settings()


class FrozenAgain(Frozen):
    """The array of the round before, changed in one element, which one of the tasks reads.

    joblib's ``with Parallel(...)`` hands out the copy that it made the first time: its answer is wrong then. "new
    Parallel": an object for each call, which sees the change.
    """

    name = "array-frozen-again"
    title = "the same array of {mb} MB with one element changed, {n} light tasks, following calls"
    tuned = {**Frozen.tuned, "new Parallel": ("joblib",)}
    quick = False

    def setup(self):
        super().setup()
        self.data = self.np.arange(self.size.length, dtype=float)

    def prepare(self):
        self.first += 1.0
        self.data[0] = self.first

    def run(self):
        if self.variant == "new Parallel":
            return self.peer.map_anew(work.pick, list(range(self.items)), data=self.data)
        return super().run()


class Shared(FrozenAgain):
    """``pk.share``: an array that workers see under its name. "frozen integer": the same call without any array."""

    name = "array-share"
    title = "`pk.share` of {mb} MB, one element changed, {n} light tasks, following calls"
    peers = ("parallelkit",)
    tuned = {"frozen integer": ("parallelkit",)}

    def setup(self):
        super().setup()
        import parallelkit as pk

        self.data = 1 if self.variant else pk.share(self.data)

    def prepare(self):
        if not self.variant:
            super().prepare()

    def run(self):
        return self.peer.map(work.touch, list(range(self.items)), data=self.data)

    def settings(self):
        return ""


class Small(_Arrays):
    name = "arrays-small"
    title = "{n} arrays of 100 floats, summed"
    unit = "us/item"
    sizes = sizes(50_000, 4_000, 50)
    peers = PROCESSES + SENSIBLE_THREADS
    tuned = {"tuned": ("executor", "mpire"), "as lists": ("parallelkit",)}

    def setup(self):
        super().setup()
        self.inputs = [self.np.full(100, float(i)) for i in range(self.items)]
        self.expected = [i * 100.0 for i in range(self.items)]
        self.func = work.array_total
        if self.variant == "as lists":
            self.inputs = [array.tolist() for array in self.inputs]
            self.func = work.total
        if self.variant == "tuned":
            self.peer.chunksize = 500

    def run(self):
        return self.peer.map(self.func, self.inputs)

    def check(self, result):
        assert result == self.expected, "wrong results"


class Blocks(_Arrays):
    """The reference question: ``mult(y, x)``, an M × N array made row by row in a Python loop.

    Peers map it over slices and concatenate. "broadcasting": ``y[:, None] * x``, no loop and no workers.
    """

    name = "map-blocks"
    title = "`mult(y, x)` row by row, {n} × {columns}"
    sizes = {
        "full": {"n": 100_000, "columns": 1_000},
        "quick": {"n": 10_000, "columns": 1_000},
        "tiny": {"n": 64, "columns": 8},
    }
    peers = PROCESSES + SENSIBLE_THREADS
    tuned = {"broadcasting": ("serial",)}
    rounds = (3, 2)

    def setup(self):
        super().setup()
        self.y = self.np.arange(self.items, dtype=float)
        self.x = self.np.arange(self.size.columns, dtype=float)
        self.func = work.outer_product if self.variant == "broadcasting" else work.mult

    def run(self):
        return self.peer.map_blocks(self.func, self.y, x=self.x)

    def check(self, result):
        assert result.shape == (self.items, self.size.columns), "wrong shape"
        some = slice(None, None, max(1, self.items // 100))
        assert self.np.array_equal(result[some], self.y[some, None] * self.x), "wrong results"


class _Temporaries(_Arrays):
    """Chains of ``sqrt(a * a + 1)``: each step takes memory for two new arrays and gives it back.

    "malloc left alone": ours without what it does about that in its workers.
    """

    title = "{n} tasks of numpy on temporaries of {mb} MB"
    peers = EVERYONE
    tuned = {"malloc left alone": ("parallelkit",)}
    group = "temporaries"

    def setup(self):
        super().setup()
        if self.variant == "malloc left alone":
            import os

            os.environ["PARALLELKIT_MALLOC"] = "0"
        steps = max(2, 2_500_000 // self.size.length)
        self.func = functools.partial(work.chain, size=self.size.length, steps=steps)
        self.expected = [self.func(seed) for seed in range(self.items)]

    def run(self):
        return self.peer.map(self.func, list(range(self.items)))

    def check(self, result):
        assert result == self.expected, "wrong results"

    def note(self):
        return f"workers hold {of_workers() / 1e6:.0f} MB" if self.peer.kind == "process" else ""


TEMPORARIES = [
    type(
        f"Temporaries{mb}",
        (_Temporaries,),
        {
            "name": f"temporaries-{mb}",
            "sizes": _of_megabytes((40, mb), (20, mb), (2, mb / 10)),
            "quick": mb == 1,
        },
    )
    for mb in (0.2, 1, 4, 16)
]
