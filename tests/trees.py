"""Random trees of nested work: the sum of each is known, and how many of its leaves ran at a time is seen."""

import itertools
import time

import parallelkit as pk

KINDS = [*({"backend": b} for b in ("thread", "process", "serial")), {}, {"chunksize": 1}]
KINDS += [{"nested": "process"}, {"nested": "auto"}]
WAYS = "map", "imap", "uimap", "starmap", "amap", "submit", "stream"


def random_tree(random, depth):
    """A tree of calls: how each is made and runs, and its children; an int stands for a leaf."""
    if depth == 0 or random.random() < 0.2:
        return random.randrange(1000)
    children = [random_tree(random, depth - 1) for _ in range(random.randrange(5))]
    return random.choice(KINDS), random.choice(WAYS), children


def total_of(tree):
    return tree if isinstance(tree, int) else sum(map(total_of, tree[2]))


def results_of(way, pool, func, items):
    """What a call gives, in any order, however it is made."""
    if way == "submit":
        return [future.result() for future in [pool.submit(func, item) for item in items]]
    if way == "amap":
        return pool.amap(func, items).result()
    if way == "starmap":
        return pool.starmap(func, zip(items))
    return list(
        pool.imap(func, iter(items)) if way == "stream" else getattr(pool, way)(func, items)
    )


def walk(tree):
    """The sum of a tree, and when its leaves ran."""
    if isinstance(tree, int):
        begin = time.monotonic()
        time.sleep(0.0003)
        return tree, [(begin, time.monotonic())]
    options, way, children = tree
    with pk.Pool(**options) as own:
        found = results_of(way, own, walk, children)
    return sum(value for value, _ in found), [one for _, times in found for one in times]


def grow(random, **options):
    """Work through a tree whose outermost call has `options`; the most leaves that ran at a time."""
    children = [random_tree(random, 3) for _ in range(random.randrange(1, 6))]
    with pk.Pool(**options) as own:
        found = own.map(walk, children)
    assert sum(value for value, _ in found) == sum(map(total_of, children))
    events = [
        (at, step)
        for _, times in found
        for pair in times
        for at, step in zip(pair, (1, -1), strict=True)
    ]
    return max(itertools.accumulate(step for _, step in sorted(events)), default=0)
