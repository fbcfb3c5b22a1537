"""Nested calls beside those of joblib and raw pathos: ``python -m benchmarks.nested [--quick] [--only PART]``.

Each shape is a tree of equal numpy tasks. The ideal is the same tasks dealt out by hand to as many warm processes as
there are workers, without any library: what the machine gives at that moment. Rounds are interleaved, figures are
medians, results are asserted to be equal. On a machine that is shared with others compare within a line only.
"""

import argparse
import contextlib
import gc
import itertools
import math
import multiprocessing
import os
import signal
import statistics
import sys
import time
from functools import partial

import numpy as np

import parallelkit as pk
from parallelkit import options

WORKERS = 2
LIMIT = 10  # seconds, for one run of a contestant


# ---- the tasks ---------------------------------------------------------------------------------------------------


def leaf(seed):
    """A few milliseconds of numpy in arrays that fit the cache."""
    a = np.arange(50_000, dtype=float) + seed
    b = np.empty_like(a)
    for _ in range(25):
        np.multiply(a, a, out=b)
        np.add(b, 1, out=b)
        np.sqrt(b, out=a)
    return float(a[-1])


def spin(seed):
    """The same in pure Python, which threads cannot run side by side."""
    total = 0
    for i in range(45_000):
        total += i & seed
    return float(total)


def tree(*widths):
    """Nested lists of seeds; an int stands for a leaf, and several widths for children that differ."""
    numbers = itertools.count()

    def grow(width, *below):
        if isinstance(width, tuple):
            return [grow(each, *below) for each in width]
        return [grow(*below) if below else next(numbers) for _ in range(width)]

    return grow(*widths)


SHAPES = {
    "8 × 16": tree(8, 16),
    "2 × 64": tree(2, 64),
    "64 × 2": tree(64, 2),
    "4 × 4 × 8": tree(4, 4, 8),
    "4 and 60": tree((4, 60)),
    "8 of 2 to 30": tree((30, 2, 26, 6, 22, 10, 18, 14)),
}


def leaves(node):
    return [
        seed for child in node for seed in (leaves(child) if isinstance(child, list) else [child])
    ]


# ---- the contestants: each maps at every level with what the library has for it ----------------------------------


def by_parallelkit(node):
    return leaf(node) if isinstance(node, int) else sum(pk.map(by_parallelkit, node))


def by_kind(node, kind):
    if isinstance(node, int):
        return kind(node)
    return sum(pk.map(by_kind, node, kind=kind))


def by_joblib(node):
    from joblib import Parallel, delayed

    if isinstance(node, int):
        return leaf(node)
    return sum(Parallel(n_jobs=WORKERS)(delayed(by_joblib)(child) for child in node))


def by_joblib_outer(node, outermost=True):
    """Only the outer level in parallel."""
    from joblib import Parallel, delayed

    if isinstance(node, int):
        return leaf(node)
    if not outermost:
        return sum(by_joblib_outer(child, False) for child in node)
    return sum(Parallel(n_jobs=WORKERS)(delayed(by_joblib_outer)(child, False) for child in node))


_outer = []


def by_pathos(node, outermost=True):
    """A warm pool of processes outside, and within each task threads of its own."""
    from pathos.pools import ProcessPool, ThreadPool

    if isinstance(node, int):
        return leaf(node)
    if outermost:
        if not _outer:
            _outer.append(ProcessPool(WORKERS, id="outer"))
        return sum(_outer[0].map(by_pathos, node, [False] * len(node), chunksize=1))
    pool = ThreadPool(WORKERS, id=f"{os.getpid()} {id(node)}")
    try:
        return sum(pool.map(by_pathos, node, [False] * len(node), chunksize=1))
    finally:
        pool.close()
        pool.join()
        pool.clear()


class ByHand:
    """Processes that are told over pipes which leaves to run: the ideal."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(WORKERS)]
        self._ours = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=_serve, args=(theirs,), daemon=True) for _, theirs in pipes
        ]
        for process in self._processes:
            process.start()

    def __call__(self, node, kind=leaf):
        seeds = leaves(node)
        for i, pipe in enumerate(self._ours):
            pipe.send((kind, seeds[i::WORKERS]))
        return sum(pipe.recv() for pipe in self._ours)

    def close(self):
        for process in self._processes:
            process.terminate()


def _serve(pipe):
    while True:
        kind, seeds = pipe.recv()
        pipe.send(sum(map(kind, seeds)))


# ---- measuring ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def limited():
    """Raise TimeoutError in what takes longer than `LIMIT` seconds."""

    def expire(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def timed(call, check):
    """Seconds that `call` takes; infinitely many where it is given up."""
    gc.collect()
    begin = time.perf_counter()
    try:
        with limited():
            result = call()
    except TimeoutError:
        return math.inf
    seconds = time.perf_counter() - begin
    check(result)
    return seconds


def medians(contestants, rounds, check):
    """Median seconds by name; the order turns from round to round, and who is far behind gets fewer."""
    patience = 5  # times the fastest one's time so far
    names = list(contestants)
    first = {name: timed(contestants[name], check) for name in names}  # and all is warm
    seconds = {name: [] if first[name] < math.inf else [math.inf] for name in names}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            if math.inf in seconds[name] or (
                sum(seconds[name]) > patience * min(map(sum, seconds.values())) > 0
            ):
                continue
            seconds[name].append(timed(contestants[name], check))
    return {name: statistics.median(each) for name, each in seconds.items()}


def microseconds(func, times):
    """Median of single calls."""
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        func()
        seconds.append(time.perf_counter() - begin)
    return 1e6 * statistics.median(seconds)


def shapes(rounds):
    yield "### Trees of numpy tasks, % of the ideal (by hand)"
    yield "| shape | by hand, ms | parallelkit | joblib, both levels | joblib, outer level | pathos, threads inside |"
    yield "|---|---:|---:|---:|---:|---:|"
    by_hand = ByHand()
    pk.configure(workers=WORKERS)
    try:
        for name, node in SHAPES.items():
            expected = sum(leaf(seed) for seed in leaves(node))
            contestants = {
                kind: (lambda call=call, node=node: call(node))
                for kind, call in {
                    "hand": by_hand,
                    "parallelkit": by_parallelkit,
                    "joblib": by_joblib,
                    "joblib outer": by_joblib_outer,
                    "pathos": by_pathos,
                }.items()
            }

            def check(result, expected=expected):
                assert abs(result - expected) < 1e-6 * abs(expected), "wrong results"

            found = medians(contestants, rounds, check)
            ideal = found.pop("hand")
            shares = " | ".join(f"{100 * ideal / seconds:.0f}" for seconds in found.values())
            yield f"| {name} | {1000 * ideal:.0f} | {shares} |"
    finally:
        by_hand.close()


# ---- uneven outer calls ------------------------------------------------------------------------------------------

UNEVEN = {
    "4 and 36": tree((4, 36)),
    "8 of 4 and one of 36": tree((*(4,) * 8, 36)),
    "8 × 16": tree(8, 16),
    "2 × 64": tree(2, 64),
    "4 × 4 × 8": tree(4, 4, 8),
}
NESTED = tuple(name for name in ("thread", "auto", "process") if name in options.NESTED)


def uneven(rounds):
    """Cores that fall free while an inner call runs: who uses them."""
    yield "### Uneven outer calls, % of the ideal (by hand)"
    yield "| tasks | shape | by hand, ms |" + "".join(f" nested={name} |" for name in NESTED)
    yield "|---|---|---:|" + "---:|" * len(NESTED)
    by_hand = ByHand()
    try:
        for kind, (name, node) in itertools.product((leaf, spin), UNEVEN.items()):
            expected = by_hand(node, kind)

            def ours(nested, node=node, kind=kind):
                with pk.Pool(workers=WORKERS, nested=nested) as pool:
                    return sum(pool.map(by_kind, node, kind=kind))

            def check(result, expected=expected):
                assert abs(result - expected) < 1e-6 * abs(expected), "wrong results"

            contestants = {"hand": lambda node=node, kind=kind: by_hand(node, kind)}
            contestants |= {nested: partial(ours, nested) for nested in NESTED}
            found = medians(contestants, rounds, check)
            shares = "".join(f" {100 * found['hand'] / found[nested]:.0f} |" for nested in NESTED)
            what = "numpy" if kind is leaf else "pure Python"
            yield f"| {what} | {name} | {1000 * found['hand']:.0f} |{shares}"
    finally:
        by_hand.close()


# ---- small calls -------------------------------------------------------------------------------------------------


def increment(x):
    return x + 1


def small_calls(_, times):
    """In a worker: a nested call of two items, beside pathos' threads opened for it and beside a loop."""
    from pathos.pools import ThreadPool

    items = [1, 2]

    def by_threads():
        pool = ThreadPool(WORKERS, id="small")
        results = pool.map(increment, items)
        pool.close()
        pool.join()
        pool.clear()
        return results

    share = pk.nesting().cores
    assert pk.map(increment, items) == by_threads() == [2, 3]
    rounds = [
        (
            microseconds(lambda: pk.map(increment, items), times),
            microseconds(lambda: [increment(x) for x in items], times),
            microseconds(by_threads, times // 10),
        )
        for _ in range(5)
    ]
    return share, [statistics.median(column) for column in zip(*rounds, strict=True)]


def trivial(rounds):
    yield "### A nested call of two trivial items in a worker, µs"
    yield "| share | parallelkit | plain loop | pathos ThreadPool, opened and closed | ÷ ours |"
    yield "|---:|---:|---:|---:|---:|"
    for cores in (2, 1):
        # A single item has all the cores, two items have half of them each.
        with pk.Pool(workers=WORKERS, chunksize=1) as pool:
            share, found = pool.map(
                small_calls, [0] * (1 if cores == 2 else WORKERS), times=60 * rounds
            )[0]
        ours, loop, pathos = found
        yield f"| {share} | {ours:.0f} | {loop:.1f} | {pathos:.0f} | {pathos / ours:.1f} |"


# ---- recursion ---------------------------------------------------------------------------------------------------


def quicksort(numbers, cutoff, parallel):
    """Sort by a map over both parts; below `cutoff` the same without one."""
    if len(numbers) < 2:
        return numbers
    pivot = numbers[len(numbers) // 2]
    parts = [x for x in numbers if x < pivot], [x for x in numbers if x > pivot]
    if parallel and len(numbers) >= cutoff:
        below, above = pk.map(quicksort, parts, cutoff=cutoff, parallel=True)
    else:
        below, above = [quicksort(part, cutoff, False) for part in parts]
    return [*below, *(x for x in numbers if x == pivot), *above]


def recursion(rounds):
    yield "### Parallel quicksort of 100 000 numbers, ÷ the same without pk.map"
    yield "| parts below which it is serial | ratio |"
    yield "|---:|---:|"
    numbers = np.random.default_rng(0).permutation(100_000).tolist()
    expected = sorted(numbers)

    def check(result):
        assert result == expected, "wrong results"

    for cutoff in (1000, 32, 0):
        contestants = {
            kind: (lambda cutoff=cutoff, kind=kind: quicksort(numbers, cutoff, kind == "ours"))
            for kind in ("ours", "serial")
        }
        found = medians(contestants, rounds, check)
        yield f"| {cutoff or 'none'} | {found['ours'] / found['serial']:.2f} |"


# ---- model fitting -----------------------------------------------------------------------------------------------


def fold_score(fold, x, y, rate):
    from sklearn.ensemble import HistGradientBoostingRegressor

    train = np.arange(len(x)) % 4 != fold
    model = HistGradientBoostingRegressor(learning_rate=rate, max_iter=10, random_state=0)
    return float(model.fit(x[train], y[train]).score(x[~train], y[~train]))


def validated(rate, x, y, inner):
    folds = range(4)
    if inner == "pk":
        return sum(pk.map(fold_score, folds, x=x, y=y, rate=rate))
    from joblib import Parallel, delayed

    return sum(Parallel(n_jobs=inner)(delayed(fold_score)(fold, x, y, rate) for fold in folds))


def validation(rounds):
    # The last one computes in this process, with two OpenMP threads. GNU's spin at each of their many barriers, and
    # where others keep a core busy, which no thread can know, such a wait may be a hundred times the work.
    yield "### Nested cross-validation of HistGradientBoosting, seconds"
    yield "| contestant | seconds | ÷ ours |"
    yield "|---|---:|---:|"
    from joblib import Parallel, delayed, parallel_config

    rng = np.random.default_rng(0)
    x = rng.normal(size=(6_000, 10))
    y = x[:, 0] * x[:, 1] + rng.normal(size=len(x))
    rates = [0.02, 0.05, 0.1, 0.2, 0.3]

    def ours():
        return pk.map(validated, rates, x=x, y=y, inner="pk")

    def theirs(outer, inner, threads):
        with parallel_config(backend="loky", inner_max_num_threads=threads):
            return Parallel(n_jobs=outer)(delayed(validated)(rate, x, y, inner) for rate in rates)

    contestants = {"parallelkit": ours}
    for outer, inner, threads in [(2, 1, 1), (1, 2, 1), (2, 2, 1), (1, 1, 2)]:
        name = f"joblib n_jobs={outer}, inner n_jobs={inner}, {threads} OpenMP threads in a worker"
        contestants[name] = lambda combination=(outer, inner, threads): theirs(*combination)
    expected = ours()

    def check(result):
        assert np.allclose(result, expected), "wrong results"

    found = medians(contestants, rounds, check)
    for name, seconds in found.items():
        if seconds < math.inf:
            yield f"| {name} | {seconds:.2f} | {seconds / found['parallelkit']:.2f} |"
        else:
            yield f"| {name} | more than {LIMIT} | |"


PARTS = {
    "shapes": shapes,
    "uneven": uneven,
    "trivial": trivial,
    "quicksort": recursion,
    "validation": validation,
}


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nested", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds in place of five")
    parser.add_argument("--only", choices=PARTS, action="append", help="may be repeated")
    chosen = parser.parse_args(argv)
    cores = pk.cpu_count()
    print(
        f"{cores} cores, {WORKERS} workers, CPython {sys.version.split()[0]}, numpy {np.__version__}\n"
    )
    for part in chosen.only or PARTS:
        for line in PARTS[part](3 if chosen.quick else 5):
            print(line, flush=True)
        print()
    for pool in _outer:
        pool.close()
        pool.join()


if __name__ == "__main__":
    main()
