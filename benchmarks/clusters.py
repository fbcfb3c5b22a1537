"""Each engine beside its own map, in one run: ``python -m benchmarks.clusters [executor] [dask] [ray]``.

Results of ours and of theirs are asserted to be equal. ``simulated`` runs the dispatcher alone, on clusters of 10, 100
and 1 000 slots that sleep: where one caller ends, beyond the machines that are here.
"""

import contextlib
import functools
import os
import resource
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

import parallelkit as pk
from parallelkit.backends import executors
from parallelkit.transport import pickling
from parallelkit.worker.parcel import Parcel

TINY, NAPS, LARGE = 2_000, 200, 25_000_000
REPEATS = 3


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


def seconds(expected, *calls):
    """Median of a few runs of each call, which take turns: the load of the machine is the same for all."""
    found = [[] for _ in calls]
    for _ in range(REPEATS):
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
            },
        )


@contextlib.contextmanager
def ray():
    import ray
    from ray.util.multiprocessing import Pool

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    pool = Pool(2)

    def frozen(f, xs, t):
        there, task = ray.put(t), ray.remote(f)
        return ray.get([task.remote(x, there) for x in xs])

    native = {"map": pool.map, "frozen": frozen}

    class Lazy(dict):
        """Its pool holds both CPUs with actors: it ends before ours begins."""

        def end(self):
            pool.terminate()

    try:
        yield "ray", Lazy(native)
    finally:
        ray.shutdown()


def compare(name, engine):
    xs = list(range(TINY))
    naps = list(range(NAPS))
    table = np.arange(LARGE, dtype=float)
    few = list(range(10))
    with engine() as (backend, native):
        pool = pk.Pool(backend=backend)
        done, floats = [x + 1 for x in xs], [float(x) for x in few]
        native["map"](tiny, xs[:10])
        tiny_calls = [lambda: pool.map(tiny, xs), lambda: native["map"](tiny, xs)]
        nap_calls = [lambda: pool.map(nap, naps), lambda: native["map"](nap, naps)]
        if hasattr(native, "end"):  # it has the CPUs until it ends
            [their_tiny], [their_nap] = seconds(done, tiny_calls[1]), seconds(naps, nap_calls[1])
            native.end()
            pool.map(tiny, xs)
            [our_tiny], [our_nap] = seconds(done, tiny_calls[0]), seconds(naps, nap_calls[0])
        else:
            pool.map(tiny, xs)
            # Not in turns: thousands of theirs are still being given up while the next one runs.
            [our_tiny], [their_tiny] = [seconds(done, call) for call in tiny_calls]
            our_nap, their_nap = seconds(naps, *nap_calls)
        rows = {
            "a tiny item, us": (our_tiny / TINY * 1e6, their_tiny / TINY * 1e6),
            f"{NAPS} items of 10 ms on two workers, s": (our_nap, their_nap),
            "a frozen array of 200 MB, 10 items, s": seconds(
                floats,
                lambda: pool.map(entry, few, table=table),
                lambda: native["frozen"](entry, few, table),
            ),
        }
        if name != "executor":
            with tempfile.TemporaryDirectory() as folder:
                begin = time.perf_counter()
                assert pool.map(once_killed, range(100), folder=folder) == list(range(100))
                rows["100 items, a worker killed in the middle, s"] = (
                    time.perf_counter() - begin,
                    float("nan"),
                )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.perf_counter()
        assert sum(pool.imap(tiny, range(100_000))) == sum(range(100_001))
        taken = time.perf_counter() - begin
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        rows["100 000 items by imap, s; caller's memory grew by MB"] = (taken, more)
        pk.shutdown()
    print(f"\n{name}: ours, theirs (the last row: seconds, MB)")
    for what, (mine, other) in rows.items():
        print(f"  {what:55s} {mine:10.3f} {other:10.3f}")


# ---- a dispatcher alone -------------------------------------------------------------------------


class Sleeping:
    """An engine whose slots sleep: one thread wakes them all, so that thousands cost nothing."""

    shares_memory = False
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


def main(names):
    engines = {"executor": executor, "dask": dask, "ray": ray}
    for name in names or [*engines, "simulated"]:
        if name == "simulated":
            simulated()
        else:
            compare(name, engines[name])


if __name__ == "__main__":
    main(sys.argv[1:])
