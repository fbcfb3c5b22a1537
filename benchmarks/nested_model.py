"""The rule of nested calls, simulated: ``python -m benchmarks.nested_model [bench-results]``.

With a folder in which the nested cases have been measured, the two stand side by side.

An outer call of uneven items, each with an inner call, on more cores than this machine has. An event
is the end of a leaf. What is compared: shares that are decided when a call begins (as it was), and shares
that follow the cores of the moment between two leaves (`parallelkit.place.nesting.room`). Figures are the
share of the ideal, which is all work divided by the cores. `COST` is charged for each leaf, `START` for the outer call,
`BEGIN` for each of its items, and it takes `NOTICE` until other items may use the cores of one that has ended. The
lock of the interpreter is not simulated: leaves run side by side.
"""

import heapq
import pathlib
import random
import sys

from benchmarks import results

LEAF = 0.003  # seconds of work
COST = 0.00003  # these four were measured on two cores: gaps between items, by their own clock
BEGIN = 0.0002
START = 0.0005
NOTICE = 0.0005

SHAPES = {  # the case of the benchmark, and the leaves of each outer item
    "4 and 36": ("nested-uneven", [4, 36]),
    "8 of 4 and one of 36": ("nested-uneven-many", [*(4,) * 8, 36]),
    "8 × 16": ("nested-8x16", [16] * 8),
    "2 × 64": ("nested-2x64", [64] * 2),
    "64 × 2": ("nested-64x2", [2] * 64),
}


def simulate(items, cores, follows):
    """Seconds that outer items of so many leaves take; with one outer worker for each core."""
    queue = list(enumerate(items))
    workers = min(cores, len(items))
    base, extra = divmod(cores, workers)
    share = [base + (rank < extra) for rank in range(workers)]
    left, active, free = {}, {}, list(range(workers))
    ended = []  # when it is seen of items that they have
    place, events, now, order = {}, [], 0.0, 0

    def allowed(item):
        """How many threads may work on an item now."""
        running = len(left) + sum(seen > now for seen in ended)
        if not follows or queue or running >= workers:
            return share[place[item]]
        base, extra = divmod(cores, running)
        return max(share[place[item]], base + (sorted(left).index(item) < extra))

    def start(item):
        """Let threads that may work on an item take its next leaves."""
        nonlocal order
        while left[item] > 0 and active[item] < allowed(item):
            left[item] -= 1
            active[item] += 1
            order += 1
            heapq.heappush(events, (now + LEAF + COST, order, item))

    def begin():
        while queue and free:
            item, leaves = queue.pop(0)
            left[item], active[item], place[item] = leaves, 0, free.pop(0)
            start(item)

    now = START + BEGIN
    begin()
    while events:
        now, _, item = heapq.heappop(events)
        active[item] -= 1
        if left[item] == active[item] == 0:
            del left[item], active[item]
            ended.append(now + NOTICE)
            free.append(place.pop(item))
            now += BEGIN if queue else 0
            begin()
        else:
            start(item)
        # The others see it between two leaves of their own: the caller engages helpers then.
    return now


def efficiency(items, cores, follows):
    """The share of the ideal."""
    return sum(items) * LEAF / cores / simulate(items, cores, follows)


def main():
    found = results.Results([])
    if len(sys.argv) > 1:
        found = results.read(pathlib.Path(sys.argv[1]) / "benchmarks.json")
    print("| shape | cores | decided at the beginning, % | following, % | measured, % |")
    print("|---|---:|---:|---:|---:|")
    for name, (case, items) in SHAPES.items():
        for cores in (2, 8, 16, 64):
            shares = [100 * efficiency(items, cores, follows) for follows in (False, True)]
            ours = found.get(case, "parallelkit") if cores == found.workers else None
            measured = f"{100 * ours.ideal / ours.seconds:.0f}" if ours else ""
            print(f"| {name} | {cores} | {shares[0]:.0f} | {shares[1]:.0f} | {measured} |")
    draw = random.Random(1)
    for cores in (2, 8, 16, 64):
        trees = [[draw.choice((4, 8, 16, 64, 256)) for _ in range(3 * cores)] for _ in range(20)]
        before, after = (
            100 * sum(efficiency(tree, cores, follows) for tree in trees) / len(trees)
            for follows in (False, True)
        )
        print(f"| 20 random calls | {cores} | {before:.0f} | {after:.0f} | |")


if __name__ == "__main__":
    main()
