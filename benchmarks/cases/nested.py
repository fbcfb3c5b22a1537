"""Tasks that make parallel calls themselves, by the library that runs them.

The innermost tasks keep a core busy for a known time, so the ideal is known too: their sum over the cores. Those of
numpy hold no lock meanwhile; those of pure Python do.

Where a library has no way to nest (multiprocessing.Pool and mpire in daemonic workers, ProcessPoolExecutor by
default), the inner loop is a plain one. "inner threads": ProcessPoolExecutor with a ThreadPoolExecutor inside.
"""

import importlib.util

import numpy as np

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


HANDED = {"nested auto": ("parallelkit",), "nested processes": ("parallelkit",)}


def hand_over(case):
    """Ours, asked to hand inner tasks to idle workers: where threads do not help, or always."""
    nested = {"nested auto": "auto", "nested processes": "process"}.get(case.variant)
    if nested:
        case.peer.options = {"nested": nested}


class _Nested(Case):
    """``widths``: how many inner tasks each outer task has, or a tree of such numbers."""

    group = "nested"
    unit = "% of ideal"
    numpy = True
    peers = PROCESSES + SENSIBLE_THREADS
    tuned = {"inner threads": ("executor",)}
    sizes = {"full": {"ms": 3}, "quick": {"ms": 1}, "tiny": {"ms": 0.05}}
    widths = ()
    rounds = (7, 2)
    leaf = "crunch"

    def setup(self):
        self.inner = (
            "executor" if self.variant == "inner threads" else INNER.get(self.peer.name, "serial")
        )
        self.inputs = [_tree(width, self.size.ms / 1e3) for width in self.widths]
        sums = [work.tree_total(tree) for tree in self.inputs]
        self.items = round(sum(sums) / (self.size.ms / 1e3))
        self.ideal = sum(sums) / self.peer.workers
        self.expected = [round(total, 6) for total in sums]

    def run(self):
        return self.peer.map(work.nest, self.inputs, inner=self.inner, leaf=self.leaf)

    def check(self, result):
        assert result == self.expected, "wrong results"

    def settings(self):
        return f"inner level: {self.inner}"


def _tree(width, seconds):
    if isinstance(width, int):
        return [seconds] * width
    return [_tree(each, seconds) for each in width]


class Wide(_Nested):
    name = "nested-8x16"
    title = "8 outer × 16 inner numpy tasks of {ms} ms"
    widths = (16,) * 8
    quick = True


class Few(_Nested):
    name = "nested-2x64"
    title = "2 outer × 64 inner numpy tasks of {ms} ms"
    widths = (64,) * 2


class Many(_Nested):
    name = "nested-64x2"
    title = "64 outer × 2 inner numpy tasks of {ms} ms"
    widths = (2,) * 64


class Deep(_Nested):
    name = "nested-deep"
    title = "three levels, 4 × 4 × 8 numpy tasks of {ms} ms"
    widths = ((8,) * 4,) * 4


class Uneven(_Nested):
    """Half of the machine stands idle unless the inner tasks of the longer call find a way to it."""

    name = "nested-uneven"
    title = "2 outer calls of 4 and 36 inner numpy tasks of {ms} ms"
    widths = (4, 36)
    tuned = {**HANDED, "inner threads": ("executor",)}

    def setup(self):
        super().setup()
        hand_over(self)


class UnevenMany(Uneven):
    name = "nested-uneven-many"
    title = "8 outer calls of 4 inner numpy tasks of {ms} ms, and one of 36"
    widths = (*(4,) * 8, 36)


class Pure(Uneven):
    """The same with tasks that hold Python's lock: threads cannot help."""

    name = "nested-python"
    title = "2 outer calls of 4 and 36 inner tasks in pure Python of {ms} ms"
    leaf = "churn"


class Call(Case):
    """What opening an inner level costs, by the clock of the worker. "share of one": no core is left for it."""

    name = "nested-call"
    title = "an inner call of 2 trivial items inside a worker"
    group = "nested"
    sizes = {"full": {"calls": 200}, "quick": {"calls": 20}, "tiny": {"calls": 2}}
    peers = ("serial", "parallelkit", "pathos", "joblib")
    tuned = {"share of one": ("parallelkit",), "inner threads": ("executor",)}
    rounds = (5, 1)

    def measure(self):
        inner = (
            "executor" if self.variant == "inner threads" else INNER.get(self.peer.name, "serial")
        )
        outer = self.peer.workers if self.variant == "share of one" else 1
        seconds = self.peer.map(work.inner_cost, [self.size.calls] * outer, inner=inner)
        return {"seconds": min(seconds), "items": 1, "ideal": None}


class Validation(Case):
    """How good a search for the best setting is: the fits of a search take 1 to 16 times as long as each other.

    joblib by its default has both levels in parallel; its splits of the cores by hand are "outer only" and "inner only".
    """

    name = "nested-validation"
    title = "nested cross-validation: {folds} folds, in each a search of {settings} settings in {folds} folds"
    group = "nested"
    numpy = True
    sizes = {
        "full": {"rows": 1000, "folds": 5, "settings": 12},
        "quick": {"rows": 300, "folds": 5, "settings": 12},
        "tiny": {"rows": 60, "folds": 2, "settings": 2},
    }
    peers = ("serial", "parallelkit", "joblib")
    tuned = {**HANDED, "outer only": ("joblib",), "inner only": ("joblib",)}
    rounds = (5, 1)

    def setup(self):
        hand_over(self)
        plain = self.variant == "outer only" or self.peer.name == "serial"
        self.inner = "serial" if plain else self.peer.name
        self.folds = range(self.size.folds)
        self.expected = self.serially("serial")

    def serially(self, inner):
        return [work.validated(fold, inner=inner, **vars(self.size)) for fold in self.folds]

    def run(self):
        if self.variant == "inner only":
            return self.serially(self.inner)
        return self.peer.map(work.validated, self.folds, inner=self.inner, **vars(self.size))

    def check(self, result):
        assert result == self.expected, "wrong results"


class Quicksort(Case):
    """A call within a call for each part, down to parts that are sorted as they are."""

    name = "nested-quicksort"
    title = (
        "quicksort of {n} numbers by a nested call for the two halves of each part above {cutoff}"
    )
    group = "nested"
    sizes = {
        "full": {"n": 100_000, "cutoff": 1000},
        "quick": {"n": 20_000, "cutoff": 1000},
        "tiny": {"n": 100, "cutoff": 30},
    }
    peers = ("serial", "parallelkit", "parallelkit-threads")
    rounds = (5, 1)

    def setup(self):
        self.numbers = np.random.default_rng(0).permutation(self.size.n).tolist()
        self.inner = INNER.get(self.peer.name, "serial")

    def run(self):
        inner = {"cutoff": self.size.cutoff, "inner": self.inner}
        return self.peer.map(work.quicksort, [self.numbers], **inner)[0]

    def check(self, result):
        assert result == sorted(self.numbers), "wrong results"


CASES = (
    Wide,
    Few,
    Many,
    Deep,
    Uneven,
    UnevenMany,
    Pure,
    Call,
    *([Validation] if importlib.util.find_spec("sklearn") else []),
    Quicksort,
)
