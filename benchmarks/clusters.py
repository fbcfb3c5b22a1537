"""Each engine beside its own map, in one run: ``python -m benchmarks.clusters [executor] [dask] [ray]``.

Results of ours and of theirs are asserted to be equal. ``simulated`` runs the dispatcher alone, on clusters of 10, 100
and 1 000 slots that sleep: where one caller ends, beyond the machines that are here. ``pruned`` runs sweeps with a pruner.
"""

import contextlib
import functools
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from heapq import heappop, heappush
from pathlib import Path

import numpy as np
import psutil

import parallelkit as pk
from parallelkit.backends import executors
from parallelkit.backends.ray_start import patience
from parallelkit.transport import pickling
from parallelkit.worker.parcel import Parcel

TINY, MANY, NAPS, LARGE = 2_000, 100_000, 200, 25_000_000
REPEATS = 5


def tiny(x):
    return x + 1


def nap(x):
    time.sleep(0.01)
    return x


def entry(i, table):
    return float(table[i])


def once_killed(x, folder):
    time.sleep(0.005)
    if x == 50:
        with contextlib.suppress(FileExistsError), open(Path(folder, "killed"), "x"):
            os.kill(os.getpid(), signal.SIGKILL)
    return x


def seconds(expected, *calls, repeats=REPEATS):
    """Median of a few runs of each call, which take turns: the load of the machine is the same for all."""
    found = [[] for _ in calls]
    for _ in range(repeats):
        for call, times in zip(calls, found, strict=True):
            begin = time.perf_counter()
            assert call() == expected
            times.append(time.perf_counter() - begin)
    return [statistics.median(times) for times in found]


@contextlib.contextmanager
def executor():
    with ProcessPoolExecutor(2) as own:
        yield (
            own,
            {
                "map": lambda f, xs: list(own.map(f, xs)),
                "frozen": lambda f, xs, t: list(own.map(functools.partial(f, table=t), xs)),
            },
        )


@contextlib.contextmanager
def dask():
    import distributed

    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as own,
        distributed.Client(own) as client,
    ):

        def frozen(f, xs, t):
            [there] = client.scatter([t], hash=False)
            return client.gather(client.map(f, xs, table=there, pure=False))

        yield (
            "dask",
            {
                "map": lambda f, xs: client.gather(client.map(f, xs, pure=False)),
                "frozen": frozen,
                "killed": lambda f, xs, folder: client.gather(
                    client.map(f, xs, folder=folder, pure=False)
                ),
            },
        )


@contextlib.contextmanager
def ray():
    import ray
    from ray.util.multiprocessing import Pool

    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    with patience(ray):
        ray.init("local", num_cpus=2, **quiet)
    pool = Pool(2)

    def frozen(f, xs, t):
        there, task = ray.put(t), ray.remote(f)
        return ray.get([task.remote(x, there) for x in xs])

    def killed(f, xs, folder):
        task = ray.remote(f)
        return ray.get([task.remote(x, folder) for x in xs])

    native = {"map": pool.map, "frozen": frozen, "killed": killed}

    class Lazy(dict):
        """Its pool holds both CPUs with actors: it ends before ours begins."""

        def end(self):
            pool.terminate()

    try:
        yield "ray", Lazy(native)
    finally:
        ray.shutdown()


def measured(name, engine):
    """Rows of one engine: what was done, ours, and the engine's own way, as text."""
    with engine() as (backend, native):
        pool = pk.Pool(backend=backend)
        rows = maps(name, pool, native) | frozen(pool, native) | lazy(pool)
        rows["killed"] = ["-", "-"] if name == "executor" else killed(pool, native)
        pk.shutdown()
    return rows


def maps(name, pool, native):
    calls = {
        "tiny": (tiny, range(TINY), 1e6 / TINY),
        "many": (tiny, range(MANY), 1e6 / MANY),
        "naps": (nap, range(NAPS), 1),
    }
    expected = {
        what: list(map(f, xs)) if f is tiny else list(xs) for what, (f, xs, _) in calls.items()
    }
    ours = {what: functools.partial(pool.map, f, xs) for what, (f, xs, _) in calls.items()}
    theirs = {what: functools.partial(native["map"], f, xs) for what, (f, xs, _) in calls.items()}
    found = {}
    native["map"](tiny, range(10))
    if hasattr(native, "end"):  # it has the CPUs until it ends
        before = {what: seconds(expected[what], theirs[what]) for what in calls}
        native.end()
        warm(pool)
        found = {what: seconds(expected[what], ours[what]) + before[what] for what in calls}
    else:
        warm(pool)
        found["naps"] = seconds(expected["naps"], ours["naps"], theirs["naps"])
        # Not in turns: thousands of theirs are still being given up while ours run.
        for what in ("tiny", "many"):
            found[what] = seconds(expected[what], ours[what])
        found["tiny"] += seconds(expected["tiny"], theirs["tiny"])
        if name != "dask":  # where it takes minutes
            found["many"] += seconds(expected["many"], theirs["many"], repeats=1)
    return {
        what: [*(number(x * calls[what][2]) for x in times), "-"][:2]
        for what, times in found.items()
    }


def warm(pool):
    """Have both workers there, and what a tiny item takes known."""
    for _ in range(5):
        pool.map(nap, range(20))
        pool.map(tiny, range(TINY))


def frozen(pool, native):
    table = np.arange(LARGE, dtype=float)
    few = range(10)
    ours = functools.partial(pool.map, entry, few, table=table)
    theirs = functools.partial(native["frozen"], entry, few, table)
    return {
        "frozen": [number(x) for x in seconds([float(x) for x in few], ours, theirs, repeats=3)]
    }


def killed(pool, native):
    times = [[], []]
    for _ in range(3):
        for call, found in zip((pool.map, native["killed"]), times, strict=True):
            with tempfile.TemporaryDirectory() as folder:
                begin = time.perf_counter()
                assert list(call(once_killed, range(100), folder=folder)) == list(range(100))
                found.append(time.perf_counter() - begin)
    return [number(statistics.median(found)) for found in times]


def lazy(pool):
    def taken():
        return deque(enumerate(pool.imap(tiny, range(MANY))), maxlen=1).pop()

    [median] = seconds((MANY - 1, MANY), taken, repeats=3)
    before, most = memory(), 0
    for i, value in enumerate(pool.imap(tiny, range(MANY))):
        assert value == i + 1
        if i % (MANY // 20) == 0:  # in a pass of its own: to ask takes as long as the call
            most = max(most, memory())
    return {"lazy": [number(median), "-"], "memory": [f"{max(0, most - before):.0f}", "-"]}


def number(x):
    """Three digits, or all before the point; two below 1."""
    return f"{x:,.0f}".replace(",", " ") if x >= 100 else f"{x:.{3 if x >= 1 else 2}g}"


def memory():
    """MB of this process and of the engine's schedulers: all that has not to do with an item."""
    me = psutil.Process()
    others = [p for p in me.children(recursive=True) if p.name() in ("gcs_server", "raylet")]
    return sum(p.memory_full_info().uss for p in (me, *others)) / 2**20


WHAT = {
    "tiny": "a tiny item of 2 000, µs",
    "many": "a tiny item of 100 000, µs",
    "naps": f"{NAPS} items of 10 ms on two workers, s",
    "frozen": "a frozen array of 200 MB, 10 items, s",
    "killed": "100 items of 5 ms, a worker killed in the middle, s",
    "lazy": "100 000 items by `imap`, s",
    "memory": "meanwhile caller and scheduler grew by, MB",
}


def compare(engines):
    """Print a table: each engine, ours and theirs."""
    load = os.getloadavg()[0]
    columns = [measured(name, engine) for name, engine in engines.items()]
    print(f"\nload before: {load:.0f}, after: {os.getloadavg()[0]:.0f}\n")
    print("| |", " | ".join(f"{name}: parallelkit | its own" for name in engines), "|")
    print("|---|" + "---:|" * 2 * len(engines))
    for what, told in WHAT.items():
        print("|", told, "|", " | ".join(cell for rows in columns for cell in rows[what]), "|")


# ---- a dispatcher alone -------------------------------------------------------------------------


class Sleeping:
    """An engine whose slots sleep: one thread wakes them all, so that thousands cost nothing."""

    shares_memory = one_each = False
    demand = 0.0
    name = "a simulated cluster"

    def __init__(self, slots, latency):
        self._slots = slots
        self._latency = latency
        self._free = slots
        self._waiting = deque()
        self._due = []
        self._changed = threading.Condition()
        self._count = 0
        self._ended = False
        threading.Thread(target=self._serve, daemon=True).start()

    def slots(self):
        return self._slots

    def put(self, _):
        return None

    def there(self, _):
        return True

    def submit(self, _, __, *args):
        future = Future()
        with self._changed:
            self._waiting.append((future, args))
            self._changed.notify()
        return future

    def collect(self, futures):
        return [future.result() for future in futures]

    def cancel(self, futures):
        pass

    def check(self):
        pass

    def verdict(self, error):
        return error

    def close(self):
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _serve(self):
        while True:
            with self._changed:
                now = time.monotonic()
                while self._waiting and self._free:
                    future, args = self._waiting.popleft()
                    self._free -= 1
                    self._count += 1
                    columns = args[2].open()
                    length = sum(columns[0])
                    heappush(self._due, (now + length, self._count, future, columns[0], length))
                if self._ended:
                    return
                if not self._due or self._due[0][0] > now:
                    self._changed.wait(self._due[0][0] - now if self._due else None)
                    continue
                _, _, future, values, length = heappop(self._due)
                self._free += 1
            pickled = Parcel.of(pickling.dumps((list(values), [])))
            future.set_result(("done", pickled, length, []))


def simulated():
    print("\nsimulated: slots, length of an item, share of the slots' time that is work")
    for slots in (10, 100, 1000):
        for length in (0.01, 0.1, 1.0):
            items = int(slots * max(5, 5 / length))
            cluster = Sleeping(slots, 0.001)
            executors.reach = lambda _, slots=slots: (slots, 10.0, False)
            executors.ExecutorCluster = lambda _, cluster=cluster: cluster
            with ProcessPoolExecutor(1) as name_only:
                pool = pk.Pool(backend=name_only)
                begin, used = time.perf_counter(), time.process_time()
                assert len(pool.map(float, [length] * items)) == items
                taken, used = time.perf_counter() - begin, time.process_time() - used
            cluster.close()
            share = items * length / slots / taken
            print(f"  {slots:5d} {length:6.2f} s {share:8.1%}   caller {used / taken:6.1%} busy")


# ---- a sweep with a pruner ----------------------------------------------------------------------


def reporting(skill):
    for step in range(1, 101):
        pk.report(skill * step, step)
    return skill


def pruned():
    """What a point costs where each is compared with all others, of which none is given up."""
    print("\npruned: points of 100 reports, ms of the caller for each, ms in all")
    with ProcessPoolExecutor(2) as two:
        for points in (250, 1000, 4000):
            sweep = pk.Sweep(pruner=pk.Median(startup=points), backend=two)
            begin, used = time.perf_counter(), time.process_time()
            table = sweep.run(reporting, [{"skill": skill} for skill in range(points)])
            taken, used = time.perf_counter() - begin, time.process_time() - used
            assert table["value"] == list(range(points))
            print(f"  {points:6d} {used / points * 1e3:8.2f} {taken / points * 1e3:8.2f}")


def main(names):
    engines = {"executor": executor, "dask": dask, "ray": ray}
    chosen = {name: engines[name] for name in names or engines if name in engines}
    if chosen:
        compare(chosen)
    if not names or "simulated" in names:
        simulated()
    if not names or "pruned" in names:
        pruned()


if __name__ == "__main__":
    main(sys.argv[1:])
