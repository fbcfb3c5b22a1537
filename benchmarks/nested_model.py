"""The rule of nested calls, simulated: ``python -m benchmarks.nested_model``.

An outer call of uneven items, each with an inner call, on more cores than this machine has. An event
is the end of a leaf. What is compared: shares that are decided when a call begins (as it was), and shares
that follow the cores of the moment between two leaves (`parallelkit.place.nesting.room`). Figures are the
share of the ideal, which is all work divided by the cores. `COST` is charged for each leaf and `BEGIN` for each inner
call, in seconds on threads. The lock of the interpreter is not simulated: leaves run side by side.
"""

import heapq
import random

LEAF = 0.003  # seconds of work
COST = 0.00003
BEGIN = 0.0001

SHAPES = {
    "4 and 36": [4, 36],
    "8 of 4 and one of 36": [*(4,) * 8, 36],
    "8 × 16": [16] * 8,
    "2 × 64": [64] * 2,
}


def simulate(items, cores, follows):
    """Seconds that outer items of so many leaves take; with one outer worker for each core."""
    queue = list(enumerate(items))
    workers = min(cores, len(items))
    base, extra = divmod(cores, workers)
    share = [base + (rank < extra) for rank in range(workers)]
    left, active, free = {}, {}, list(range(workers))
    place, events, now, order = {}, [], 0.0, 0

    def allowed(item):
        """How many threads may work on an item now."""
        if not follows or queue or len(left) == workers:
            return share[place[item]]
        base, extra = divmod(cores, len(left))
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

    now = BEGIN
    begin()
    while events:
        now, _, item = heapq.heappop(events)
        active[item] -= 1
        if left[item] == active[item] == 0:
            del left[item], active[item]
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
    print("| shape | cores | decided at the beginning, % | following, % |\n|---|---:|---:|---:|")
    for name, items in SHAPES.items():
        print(
            f"| {name} | 2 | {100 * efficiency(items, 2, False):.0f} | {100 * efficiency(items, 2, True):.0f} |"
        )
    draw = random.Random(1)
    for cores in (2, 8, 16, 64):
        trees = [[draw.choice((4, 8, 16, 64, 256)) for _ in range(3 * cores)] for _ in range(20)]
        before, after = (
            100 * sum(efficiency(tree, cores, follows) for tree in trees) / len(trees)
            for follows in (False, True)
        )
        print(f"| 20 random trees | {cores} | {before:.0f} | {after:.0f} |")


if __name__ == "__main__":
    main()
