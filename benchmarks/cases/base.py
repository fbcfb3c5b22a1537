"""What every case has in common: get ready, and measure one round at a time."""

import gc
import time
import types

from benchmarks import work
from benchmarks.peers import PROCESSES

SIZES = ("full", "quick", "tiny")


class Case:
    """One piece of work, done by one peer.

    A subclass says who takes part and fills in ``setup`` (once), ``prepare`` (before each round, not timed), ``run``
    (timed) and ``check`` (raises AssertionError when the answer is wrong, not timed). Or it overrides ``measure``.

    Attributes
    ----------
    title : str
        With the names of ``sizes`` in braces.
    group : str
        The table and the part of the chart that it belongs to.
    unit : {"ms", "us/item", "% of ideal", "MB"}
        How the figure is shown. Kept are seconds (or bytes), so less is always better.
    sizes : dict of str to dict
        How much of it is done in a full, a quick and a tiny run; becomes ``self.size``.
    quick : bool
        Whether quick runs have it.
    peers : tuple of str
        Who takes part at default settings.
    tuned : dict of str to tuple of str
        Who takes part again under another variant, by the variant's name.
    rounds : (int, int)
        In a full and in a quick run; a first round to warm up comes on top.
    """

    name = ""
    title = ""
    group = "overhead"
    unit = "ms"
    sizes = {"full": {}, "quick": {}, "tiny": {}}
    quick = False
    peers = PROCESSES
    tuned = {}
    rounds = (7, 3)
    needs_pool = True
    numpy = False

    def __init__(self, peer, variant, size):
        self.peer = peer
        self.variant = variant
        self.size = types.SimpleNamespace(**self.sizes[size])
        self.items = getattr(self.size, "n", 1)
        self.ideal = None

    @classmethod
    def heading(cls, size):
        """The title with the figures of this size in it."""
        return cls.title.format(
            **{
                name: f"{value:,}".replace(",", " ") if isinstance(value, int) else value
                for name, value in cls.sizes[size].items()
            }
        )

    def setup(self):
        """Make the data, and set ``self.items`` if it is not the size's ``n``."""

    def prepare(self):
        """Get one round ready."""

    def run(self):
        raise NotImplementedError

    def check(self, result):
        raise NotImplementedError

    def close(self):
        """Leave nothing behind."""

    def note(self):
        """Whatever else is worth a word, after a round."""
        return ""

    def settings(self):
        """What differs from the peer's defaults, in words."""
        chosen = {"chunksize": self.peer.chunksize, "start_method": self.peer.start_method}
        return ", ".join(f"{key}={value}" for key, value in chosen.items() if value)

    def warm(self):
        self.peer.map(work.warm_up, [self.numpy] * (4 * self.peer.workers))

    def measure(self):
        self.prepare()
        gc.collect()
        start = time.perf_counter()
        result = self.run()
        seconds = time.perf_counter() - start
        self.check(result)
        return {
            "seconds": seconds,
            "items": self.items,
            "ideal": self.ideal,
            "note": self.note(),
        }


class Mapped(Case):
    """A function of ``work`` over inputs: most cases are no more than this."""

    func = None

    def inputs_of(self, n):
        raise NotImplementedError

    def setup(self):
        self.inputs = self.inputs_of(self.items)
        self.expected = [type(self).func(item) for item in self.inputs]
        if self.variant == "tuned":
            self.peer.chunksize = self.chunksize()
        if self.variant == "forkserver":
            self.peer.start_method = "forkserver"

    def chunksize(self):
        """The tuned one: four chunks for each worker, which serves even work best."""
        return max(1, min(self.items // (4 * self.peer.workers), 10_000))

    def run(self):
        return self.peer.map(type(self).func, self.inputs)

    def check(self, result):
        assert result == self.expected, "wrong results"


def sizes(full, quick, tiny):
    """The sizes of a case that has one number."""
    return {"full": {"n": full}, "quick": {"n": quick}, "tiny": {"n": tiny}}


def spaced(number):
    return f"{number:,}".replace(",", " ")
