"""How many workers one dispatcher can keep busy, and from which task length on.

    python -m benchmarks.scaling [--quick] [--output DIR]

A call is dispatched by one thread: it packs a chunk, sends it, takes the answer in. The processor time that this
costs the caller for each message is the ceiling that a machine of any size meets. It is measured here, with workers
that do next to nothing, for 8, 16, 32 (and 64) workers, since a part of it grows with their number::

    cost of a message = fixed + slope × workers          (a least-squares line through what is measured)

Workers that are kept busy for t seconds by each message ask for ``workers / t`` messages a second; the dispatcher
gives ``1 / cost``. So it keeps all of them busy while ``t ≥ workers × cost``. A small discrete-event simulation checks
that rule, and naps in real workers (which need no core) check the simulation.
"""

import argparse
import heapq
import time

from benchmarks import results, work

WORKERS = (8, 16, 32, 64)
LENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
MANY = (64, 256, 1_000, 10_000)
CHUNK = 0.025  # seconds: what an adaptive chunk of short items is made to last


# ---- measured ------------------------------------------------------------------------------------------------------------


def message_cost(workers, messages, rounds=3):
    """Seconds for one message of one item: of the caller's processor time, and by the clock; the best round."""
    import parallelkit as pk

    items = list(range(messages))
    with pk.Pool(workers=workers, chunksize=1) as pool:
        pool.map(work.nap, [0.01] * (4 * workers))
        best = []
        for _ in range(rounds):
            wall, cpu = time.perf_counter(), time.process_time()
            assert pool.map(work.increment, items) == [x + 1 for x in items], "wrong results"
            best.append((time.process_time() - cpu, time.perf_counter() - wall))
    pk.shutdown()
    cpu, wall = (min(figures) / messages for figures in zip(*best, strict=True))
    return {"workers": workers, "cpu": cpu, "wall": wall}


def item_cost(items):
    """Seconds of the caller's processor time for each item within a chunk: packing and unpacking."""
    import parallelkit as pk

    with pk.Pool(workers=2) as pool:
        pool.map(work.increment, range(items))
        cpu = time.process_time()
        pool.map(work.increment, range(items))
        return (time.process_time() - cpu) / items


def nap_efficiency(workers, seconds, rounds):
    """The share of the ideal that real workers reach on naps, which need no core."""
    import parallelkit as pk

    items = [seconds] * (workers * rounds)
    with pk.Pool(workers=workers, chunksize=1) as pool:
        pool.map(work.nap, [0.01] * (4 * workers))
        start = time.perf_counter()
        pool.map(work.nap, items)
        wall = time.perf_counter() - start
    pk.shutdown()
    return rounds * seconds / wall


def line(points):
    """Fixed part and slope of the least-squares line through (workers, cost); neither below zero."""
    xs, ys = zip(*points, strict=True)
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    slope = max(0.0, slope)
    return max(0.0, mean_y - slope * mean_x), slope


# ---- computed, and simulated -----------------------------------------------------------------------------------------------


def cost(fit, workers):
    """Seconds that a message costs the dispatcher of so many workers."""
    fixed, slope = fit
    return fixed + slope * workers


def shortest(fit, workers):
    """The shortest task (or chunk), in seconds, with which all workers are kept busy."""
    return workers * cost(fit, workers)


def most_workers(fit, seconds):
    """The most workers that tasks (or chunks) of a length keep busy: workers × cost(workers) = seconds."""
    fixed, slope = fit
    if slope:
        return ((fixed**2 + 4 * slope * seconds) ** 0.5 - fixed) / (2 * slope)
    return seconds / fixed


def predicted(fit, workers, seconds):
    """The share of the workers' time that is spent on tasks, by the rule above."""
    return min(1.0, seconds / shortest(fit, workers))


def simulate(message, workers, seconds, rounds=20, ahead=1):
    """The same share, from a simulation event by event.

    One dispatcher takes ``message`` seconds for each answer and the chunk that it sends in return; each worker has up
    to ``ahead`` chunks waiting beside the one that it runs, and takes ``seconds`` for each.
    """
    left = workers * rounds
    free_at = [0.0] * workers  # when each worker has run all that it was sent
    dispatcher, answers = 0.0, []  # answers: (when it comes, the worker)
    for _ in range(1 + ahead):
        for worker in range(workers):
            if left:
                left -= 1
                dispatcher += message / 2  # nothing to take in yet
                free_at[worker] = max(free_at[worker], dispatcher) + seconds
                heapq.heappush(answers, (free_at[worker], worker))
    while answers:
        came, worker = heapq.heappop(answers)
        dispatcher = max(dispatcher, came) + message
        if left:
            left -= 1
            free_at[worker] = max(free_at[worker], dispatcher) + seconds
            heapq.heappush(answers, (free_at[worker], worker))
    return rounds * seconds / dispatcher


# ---- the command -------------------------------------------------------------------------------------------------------------


def measure(quick, tell=print):
    messages, lengths = (2_000, (0.002, 0.02)) if quick else (20_000, (0.001, 0.002, 0.005, 0.02))
    costs = []
    for workers in WORKERS[: 3 if quick else 4]:
        costs.append(message_cost(workers, messages))
        tell(f"{workers} workers: {1e6 * costs[-1]['cpu']:.0f} µs a message")
    fit = line([(each["workers"], each["cpu"]) for each in costs])
    naps = []
    for seconds in lengths:
        rounds = max(5, int((0.3 if quick else 2.0) / seconds / 4))
        measured = nap_efficiency(32, seconds, rounds)
        # the workers share the cores with the dispatcher here: what a message costs by the clock counts
        message = next(each["wall"] for each in costs if each["workers"] == 32)
        naps.append(
            {
                "seconds": seconds,
                "measured": measured,
                "simulated": simulate(message, 32, seconds, rounds, ahead=1),
            }
        )
    return {
        "machine": results.machine(),
        "costs": costs,
        "fixed": fit[0],
        "slope": fit[1],
        "item": item_cost(50_000 if quick else 1_000_000),
        "naps": naps,
    }


def markdown(found):
    """The figures of a run as Markdown."""
    fit = found["fixed"], found["slope"]
    where = found["machine"]
    rows = [
        f"| {c['workers']} | {1e6 * c['cpu']:.0f} | {_spaced(1 / c['cpu'])} | {_spaced(1 / c['wall'])} |"
        for c in found["costs"]
    ]
    lengths = [f"| {_length(t)} | {_spaced(most_workers(fit, t))} |" for t in LENGTHS]
    grid = []
    for workers in MANY:
        cells = []
        for seconds in LENGTHS:
            rule = predicted(fit, workers, seconds)
            simulated = simulate(cost(fit, workers), workers, seconds, rounds=10)
            cells.append(f"{100 * rule:.0f} / {100 * simulated:.0f}")
        grid.append(
            f"| {_spaced(workers)} | {_length(shortest(fit, workers))} | "
            + " | ".join(cells)
            + " |"
        )
    naps = [
        f"| {_length(n['seconds'])} | {100 * n['measured']:.0f} % | {100 * n['simulated']:.0f} % |"
        for n in found["naps"]
    ]
    item = found["item"]
    parts = [
        f"{where['processor']}, {where['cores']} cores, {where['system']}, {where['python']}; load before: "
        f"{where['load_before']:.1f}.",
        "One message for each item (`chunksize=1`), workers that do next to nothing:",
        "| workers | caller's processor time, µs a message | messages a second: the ceiling | seen here by the clock, "
        "cores shared |\n|---:|---:|---:|---:|\n" + "\n".join(rows),
        f"The line through them: {1e6 * fit[0]:.1f} µs + {1e6 * fit[1]:.2f} µs × workers. An item within a chunk costs "
        f"the caller {1e6 * item:.2f} µs more, so that no number of workers does more than {_spaced(1 / item)} trivial "
        "items a second.",
        "The most workers that one dispatcher keeps busy, by the length of a message's work:",
        "| a message's work | workers |\n|---:|---:|\n" + "\n".join(lengths),
        f"Short items travel in chunks of about {_length(CHUNK)}, which keep "
        f"**{_spaced(most_workers(fit, CHUNK))} workers** busy, however short the items are.",
        "Share of the workers' time that goes into work, in percent, by the rule / by the simulation:",
        "| workers | shortest work that keeps all busy | "
        + " | ".join(_length(t) for t in LENGTHS)
        + " |\n|"
        + "---:|" * (2 + len(LENGTHS))
        + "\n"
        + "\n".join(grid),
        "The simulation beside real workers: naps on 32 workers, which need no core, so that a small machine can stand "
        "for a large one:",
        "| nap | measured | simulated |\n|---:|---:|---:|\n" + "\n".join(naps),
    ]
    return "\n\n".join(parts)


def _spaced(number):
    return f"{float(f'{number:.3g}'):,.0f}".replace(",", " ")


def _length(seconds):
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling")
    parser.add_argument("--quick", action="store_true", help="about ten seconds")
    parser.add_argument("--output", default="bench-results", metavar="DIR")
    options = parser.parse_args(argv)
    found = measure(options.quick)
    results.publish(options.output, "scaling", found, markdown(found))


if __name__ == "__main__":
    main()
