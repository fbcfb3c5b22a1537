"""What every case has in common: get ready, and measure one round at a time."""

import gc
import time

from benchmarks import work
from benchmarks.peers import PROCESSES


class Case:
    """One piece of work, done by one peer.

    A subclass says who takes part and fills in ``setup`` (once), ``prepare`` (before each round, not timed), ``run``
    (timed) and ``check`` (raises AssertionError when the answer is wrong, not timed). Or it overrides ``measure``.

    Attributes
    ----------
    unit : {"ms", "us/item", "% of ideal", "MB"}
        How the figure is shown. Kept are seconds (or bytes), so less is always better.
    peers : tuple of str
        Who takes part at default settings.
    tuned : dict of str to tuple of str
        Who takes part again under another variant, by the variant's name.
    rounds : (int, int)
        In a full and in a quick run; a first round to warm up comes on top.
    quickly : str
        What a quick run does in place of what the title says.
    fork_only : frozenset of (str, str)
        The (peer, variant) pairs whose figure needs the start method "fork".
    """

    name = ""
    title = ""
    group = "processes"
    unit = "ms"
    peers = PROCESSES
    tuned = {}
    rounds = (7, 3)
    quickly = ""
    fork_only = frozenset()
    needs_pool = True
    numpy = False

    def __init__(self, peer, variant, quick):
        self.peer = peer
        self.variant = variant
        self.quick = quick
        self.items = 1
        self.ideal = None

    def setup(self):
        """Make the data, and set ``self.items``."""

    def prepare(self):
        """Get one round ready."""

    def run(self):
        raise NotImplementedError

    def check(self, result):
        raise NotImplementedError

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
        return {"seconds": seconds, "items": self.items, "ideal": self.ideal}
