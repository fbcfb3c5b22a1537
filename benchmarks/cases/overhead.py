"""What a task costs beyond its own work: ``x + 1`` from a thousand times to ten million, and single calls."""

import statistics
import time

from benchmarks import work
from benchmarks.cases.base import Case, Mapped, sizes, spaced
from benchmarks.peers import CLUSTERS, EVERYONE, PROCESSES, SENSIBLE_THREADS, THREADS

THOUSAND, MILLION = 1_000, 1_000_000


class List(Mapped):
    """A list, as long as it says. Cases of one length each: the cost of an item must not depend on it."""

    unit = "us/item"
    func = work.increment
    sizes = sizes(None, None, None)

    def inputs_of(self, n):
        return list(range(n))


class Stream(List):
    """From a generator to an iterator in input order."""

    def prepare(self):
        self.source = (x for x in range(self.items))

    def run(self):
        return list(self.peer.imap(work.increment, self.source))


_SLOW_ONES = ("serial", "parallelkit", "pathos", "pool", "joblib", "mpire")
_ALL_TUNED = {"tuned": ("pathos", "pool", "executor", "joblib", "mpire")}
_TUNED = {"tuned": ("executor", "joblib", "mpire")}
#: By length: who takes part at defaults, and tuned. Whoever is missing would need minutes.
LISTS = {
    1 * THOUSAND: (
        EVERYONE + SENSIBLE_THREADS,
        {"tuned": ("executor", "joblib", "mpire", *CLUSTERS)},
    ),
    10 * THOUSAND: (
        PROCESSES + SENSIBLE_THREADS,
        {"tuned": ("executor", "joblib", "mpire", *CLUSTERS)},
    ),
    100 * THOUSAND: (_SLOW_ONES, {"tuned": ("executor", "joblib", "mpire", *CLUSTERS)}),
    MILLION: (_SLOW_ONES, _TUNED),
    10 * MILLION: (("serial", "parallelkit", "pool"), {"tuned": ("executor",)}),
}
STREAMS = {
    1 * THOUSAND: (EVERYONE, _ALL_TUNED),
    10 * THOUSAND: (PROCESSES, _ALL_TUNED),
    100 * THOUSAND: (("serial", "parallelkit", "pool", "joblib", "mpire"), _ALL_TUNED),
    MILLION: (("serial", "parallelkit", "pool", "joblib", "mpire"), _ALL_TUNED),
    10 * MILLION: (("serial", "parallelkit"), {"tuned": ("pool", "executor")}),
}


def _short(n):
    return f"{n // THOUSAND}k" if n < MILLION else f"{n // MILLION}m"


def _of_lengths(base, what, title, table, quick):
    """One case for each length."""
    return [
        type(
            f"{base.__name__}{_short(n)}",
            (base,),
            {
                "name": f"{what}-{_short(n)}",
                "title": f"{spaced(n)} × `x + 1`, {title}",
                "sizes": sizes(n, n, 200),
                "peers": peers,
                "tuned": tuned,
                "quick": n in quick,
                "rounds": (7, 3) if n <= MILLION else (3, 1),
            },
        )
        for n, (peers, tuned) in table.items()
    ]


LIST_CASES = _of_lengths(List, "list", "list", LISTS, (100 * THOUSAND,))
STREAM_CASES = _of_lengths(Stream, "stream", "stream", STREAMS, (10 * THOUSAND,))


class Threads(List):
    name = "threads"
    title = "{n} × `x + 1` on threads"
    group = "threads"
    sizes = sizes(20_000, 5_000, 200)
    peers = THREADS
    quick = True


class _Latency(Case):
    """The median over many single calls; one value per round."""

    rounds = (7, 2)
    group = "latency"
    quick = True

    def call(self):
        raise NotImplementedError

    def measure(self):
        self.call()
        times = []
        for _ in range(self.size.calls):
            start = time.perf_counter()
            result = self.call()
            times.append(time.perf_counter() - start)
            self.check(result)
        return {"seconds": statistics.median(times), "items": 1, "ideal": None}


class WarmCall(_Latency):
    name = "warm-call"
    title = "warm call of 2 items"
    sizes = {"full": {"calls": 200}, "quick": {"calls": 30}, "tiny": {"calls": 2}}
    peers = EVERYONE

    def call(self):
        return self.peer.map(work.increment, [1, 2])

    def check(self, result):
        assert result == [2, 3], "wrong results"


class RoundTrip(_Latency):
    name = "round-trip"
    title = "submit one item and wait for its result"
    sizes = {"full": {"calls": 400}, "quick": {"calls": 100}, "tiny": {"calls": 2}}
    peers = ("parallelkit", "pathos", "pool", "executor", "mpire", *CLUSTERS)

    def call(self):
        return self.peer.submit(work.increment, 1)()

    def check(self, result):
        assert result == 2, "wrong result"


class Submit(List):
    """Futures by the thousand: all are submitted, then all are waited for."""

    name = "submit"
    title = "{n} items submitted one by one"
    group = "latency"
    sizes = sizes(2_000, 500, 20)
    peers = RoundTrip.peers
    tuned = {}

    def run(self):
        return [wait() for wait in [self.peer.submit(work.increment, x) for x in self.inputs]]


class _Crowd(List):
    """More workers than cores, one item a message: how many messages a second one caller can send and take."""

    group = "many workers"
    workers = 0
    rounds = (5, 2)
    sizes = sizes(20_000, 2_000, 40)

    def setup(self):
        super().setup()
        self.peer.workers = self.workers
        self.peer.chunksize = 1

    def run(self):
        return self.peer.map(work.increment, self.inputs)

    def settings(self):
        return f"workers={self.workers}, chunksize=1"


CROWDS = [
    type(
        f"Crowd{workers}",
        (_Crowd,),
        {
            "name": f"workers-{workers}",
            "title": "{n} × `x + 1` on " + f"{workers} workers, one item a message",
            "workers": workers,
            "quick": workers == 16,
            "peers": ("parallelkit", "pathos", "pool", "executor", "joblib", "mpire"),
        },
    )
    for workers in (8, 16, 32)
]
