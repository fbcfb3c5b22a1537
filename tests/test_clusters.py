"""What is special where workers are another engine's: what is refused, what is sent, what is lost."""

import concurrent.futures
import contextlib
import functools
import inspect
import os
import pickle
import re
import signal
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import engines
import numpy as np
import pytest
from helpers import add, identity, increment, mark, wait_for, wait_until

import parallelkit as pk
from parallelkit.backends import cluster, executors, orders
from parallelkit.backends.ray_start import patience
from parallelkit.sweeps import judge
from parallelkit.worker import remote, versions

REFUSED = {
    "timeout": 1,
    "memory_limit": "1GB",
    "tasks_per_worker": 5,
    "start_method": "spawn",
    "finalizer": print,
    "devices": [0],
    "nested": "process",
    "address": "tcp://127.0.0.1:1",
    "upload": True,
}


class InPlace(concurrent.futures.Executor):
    """An executor that does the work when it is asked for, through pickles, with troubles on the way."""

    def __init__(self, troubles=()):
        self.troubles = list(troubles)
        self.sent = []

    def submit(self, func, *args):
        future = Future()
        data = pickle.dumps((func, args), 5)
        self.sent.append(len(data))
        if self.troubles:
            future.set_exception(self.troubles.pop(0))
        else:
            func, args = pickle.loads(data)
            future.set_result(func(*args))
        return future


@pytest.fixture(scope="module")
def executor():
    return engines.executor()["backend"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_by_name(name):
    """An option that an executor cannot do is an error of the pool, before anything runs."""
    with ThreadPoolExecutor(1) as threads, pytest.raises(ValueError, match=f"^{name}="):
        pk.Pool(backend=threads, **{name: REFUSED[name]})


def test_what_is_configured_outside_gives_way():
    """A time limit for all pools does not keep one from running where there is none."""
    with ThreadPoolExecutor(1) as threads, pk.configure(timeout=60):
        assert pk.Pool(backend=threads).map(increment, [1]) == [2]


def test_backends_that_are_none():
    """Neither our own executor nor anything that is no executor."""
    with pytest.raises(TypeError, match="ours"), pk.PoolExecutor(1) as own:
        pk.Pool(backend=own)
    with pytest.raises(TypeError, match="name or an Executor"):
        pk.Pool(backend=3)


def test_calls_of_a_library_obey(executor):
    """What is configured holds for pk.map; what its items call runs on threads there."""
    with pk.configure(backend=executor):
        pids = set(pk.map(lambda _: pk.map(lambda _: os.getpid(), [1, 2]), range(4))[0])
    assert len(pids) == 1
    assert pids != {os.getpid()}


def test_threads_of_an_executor_share_memory():
    """Items in threads of this process get the caller's own objects."""
    thing = object()
    with ThreadPoolExecutor(2) as threads:
        assert pk.Pool(backend=threads).map(identity, [thing]) == [thing]


def test_a_pool_crosses_as_one_of_threads(executor):
    """The executor stays here; a pool that an item gets works with the share of its worker."""
    pool = pk.Pool(backend=executor)
    assert pool.map(lambda x, pool: sum(pool.map(increment, [x, x])), [1, 2], pool=pool) == [4, 6]


def test_a_worker_that_dies_breaks_an_executor(folder):
    """The call ends with an error that says so, and what to do."""
    with ProcessPoolExecutor(2, mp_context=engines.context()) as mortal:
        pool = pk.Pool(backend=mortal)
        with pytest.raises(pk.ParallelError, match="is broken: one of its workers ended"):
            pool.map(lambda x: os.kill(os.getpid(), signal.SIGKILL) if x == 5 else x, range(10))
        with pytest.raises(pk.ParallelError, match="is broken"):
            pool.map(increment, range(10))


def test_an_executor_that_was_shut_down():
    """It is named, and so is what is wrong with it."""
    threads = ThreadPoolExecutor(1)
    threads.shutdown()
    with pytest.raises(pk.ParallelError, match="ThreadPoolExecutor has been shut down"):
        pk.Pool(backend=threads).map(increment, [1])


def test_large_keywords_cross_once_for_each_worker():
    """What is large goes to a worker that asks for it, and not again."""
    here = InPlace()
    table = np.zeros(100_000)
    pool = pk.Pool(workers=1, backend=here, chunksize=1)
    assert pool.map(lambda x, table: x + table[x], range(5), table=table) == list(range(5))
    assert sum(size > table.nbytes for size in here.sent) == 1


def test_what_is_large_is_put_as_soon_as_there_is_a_place(monkeypatch):
    """A call that begins before any worker is there does not send it with the chunks of all that come."""
    asked = []
    monkeypatch.setattr(executors.ExecutorCluster, "put", lambda _, parcel: asked.append(parcel))
    table = np.zeros(100_000)
    pool = pk.Pool(workers=1, backend=InPlace(), chunksize=1)
    assert pool.map(lambda x, table: x + table[x], range(3), table=table) == list(range(3))
    assert len(asked) == 2  # when the call began, and when a worker had not got it


def test_what_was_lost_is_sent_again():
    """A connection that breaks costs no item, unless it breaks again and again."""
    breaks = ConnectionResetError("gone")
    pool = pk.Pool(workers=1, backend=InPlace([breaks] * 3), chunksize=2)
    assert pool.map(increment, range(4)) == [1, 2, 3, 4]
    pool = pk.Pool(workers=1, backend=InPlace([breaks] * 99), chunksize=2)
    with pytest.raises(pk.ParallelError, match="items 0 to 1 were lost 5 times"):
        pool.map(increment, range(4))


class Mortal(InPlace):
    """An executor that takes a chunk with a certain item for the death of a worker, so many times."""

    def __init__(self, item, deaths):
        super().__init__()
        self.item, self.deaths, self.chunks = item, deaths, []

    def submit(self, func, *args):
        start, size = args[1][1:3]
        self.chunks.append((start, size))
        if start <= self.item < start + size and self.deaths:
            self.deaths -= 1
            self.troubles.append(EOFError("a worker is gone"))
        return super().submit(func, *args)


@pytest.mark.parametrize("deaths", [3, 99])
@pytest.mark.parametrize("one_each", [False, True])
def test_who_is_to_blame(monkeypatch, one_each, deaths):
    """A chunk that ends its worker runs again, then in parts; an item is to blame that does so twice, the last time alone."""
    monkeypatch.setattr(executors.ExecutorCluster, "verdict", lambda *_: cluster.PERHAPS)
    monkeypatch.setattr(executors.ExecutorCluster, "one_each", one_each)
    here = Mortal(1, deaths)
    pool = pk.Pool(workers=2, backend=here, chunksize=2, on_error="return")
    results = pool.map(identity, range(8))
    first, others, parts = [(0, 2), (2, 2)], [(4, 2), (6, 2)], [(0, 1), (1, 1), (1, 1)]
    if one_each:  # the chunk runs again beside the third one
        assert here.chunks == [*first, (0, 2), others[0], *parts, others[1]]
    else:
        assert here.chunks == [*first, (0, 2), *parts, *others]
    failed = [i for i, r in enumerate(results) if r != i]
    assert failed == ([1] if deaths > 3 else [])
    assert all(isinstance(results[i].exception, pk.WorkerDied) for i in failed)


def test_workers_without_parallelkit():
    """The error says what to install there."""
    missing = ModuleNotFoundError("No module named 'parallelkit'", name="parallelkit")
    with pytest.raises(pk.ParallelError, match="pip install parallelkit=="):
        pk.Pool(backend=InPlace([missing])).map(increment, [1])


@pytest.mark.parametrize(
    "what", ["Python", "parallelkit", "cloudpickle", "the cluster protocol of parallelkit"]
)
def test_other_versions_are_told_before_work_starts(monkeypatch, folder, what):
    """Nothing of a call is unpickled where functions might not fit."""
    client, *known = versions.head()
    others = tuple((name, "0.0" if name == what else version) for name, version in known)
    monkeypatch.setattr(orders, "head", lambda: (client, *others))
    with pytest.raises(pk.ParallelError, match=rf"{what} .*, while the caller has 0\.0"):
        pk.Pool(backend=InPlace()).map(lambda x: mark(folder, x), range(3))
    assert os.listdir(folder) == []


def test_what_crosses_has_a_version():
    """Whoever changes an order, its arguments or its replies raises the version too."""
    replies = set(re.findall(r'return "(\w+)", ', inspect.getsource(remote)))
    replies |= set(re.findall(r'failed = "(\w+)"', inspect.getsource(remote)))
    assert versions.VERSION == 3
    assert replies == {
        *("behind", "differs", "done", "lacks"),
        *("unlearnt", "unreadable", "unset"),
    }
    assert remote.Order._fields == (
        *("key", "start", "size", "needs", "settings", "setup", "call", "budget", "traced"),
    )
    assert [*inspect.signature(remote.run).parameters] == [
        *("made_by", "order", "columns", "news", "state", "setup"),
    ]


@pytest.mark.parametrize("end", ["error", "closed"])
def test_no_future_is_left(executor, end):
    """After an error, and after an iterator that is dropped, the executor has nothing to do for us."""
    pool = pk.Pool(backend=executor, chunksize=1)
    if end == "error":
        with pytest.raises(ZeroDivisionError):
            pool.map(lambda x: 1 // x, range(20, -20, -1))
    else:
        results = pool.imap(identity, range(10_000))
        next(results)
        results.close()
    wait_until(lambda: not executor._pending_work_items, "the futures that were under way")


def test_ctrl_c(executor, folder):
    """It ends the call at once; what had not begun is cancelled, and the workers are free soon."""

    def interrupt():
        wait_until(lambda: os.listdir(folder), "an item that runs")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        pk.Pool(backend=executor, chunksize=1).map(waits, range(1000), folder=folder)
    Path(folder.parent, "gate").touch()
    wait_until(lambda: not executor._pending_work_items, "the futures that were under way")
    assert len(os.listdir(folder)) < 100


def waits(x, folder):
    mark(folder, x)
    wait_for(Path(folder).parent / "gate")
    return x


class Ringing(TimeoutError):
    """What a handler raises; as an OSError it could be taken for a broken connection."""


class Rings:
    """Something during whose pickling an alarm goes off, once."""

    def __init__(self):
        self.rung = []

    def __reduce__(self):
        if not self.rung:
            self.rung.append(1)
            signal.raise_signal(signal.SIGALRM)
        return int, (3,)


def ring(*_):
    raise Ringing("now")


class Bell:
    """Handlers that are no plain functions."""

    def __call__(self, *_):
        raise Ringing("now")

    def ring(self, *_):
        raise Ringing("now")


class LoudBell(Bell):
    """A handler by what it inherits."""


@pytest.mark.parametrize(
    ("what", "handler"),
    [
        *(("argument", ring), ("keyword", ring), ("submission", ring)),
        *(("submission", Bell()), ("submission", Bell().ring), ("submission", LoudBell())),
        ("submission", functools.partial(ring, "loud")),
    ],
)
def test_an_alarm_is_no_refusal(what, handler):
    """What a signal handler raises while something is pickled or submitted arrives as what it is."""
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(Ringing):
            if what == "argument":
                pk.Pool(backend=InPlace()).map(increment, [Rings()])
            elif what == "keyword":
                pk.Pool(backend=InPlace()).map(identity, [1], y=Rings())
            else:
                pk.Pool(backend=Submitting()).map(increment, [1])
    finally:
        signal.signal(signal.SIGALRM, before)


class Submitting(InPlace):
    """An executor that an alarm interrupts while it takes a call."""

    def submit(self, func, *args):
        signal.raise_signal(signal.SIGALRM)
        return super().submit(func, *args)


def test_no_more_than_workers_at_a_time():
    """`workers=` holds where the executor has more, also where items are short."""
    lock, running, most = threading.Lock(), [], []

    def item(x):
        with lock:
            running.append(x)
            most.append(len(running))
        time.sleep(0.001)
        with lock:
            running.remove(x)

    with ThreadPoolExecutor(4) as threads:
        pk.Pool(workers=2, backend=threads, chunksize=1).map(item, range(100))
    assert max(most) <= 2


def test_several_calls_at_a_time(executor):
    """Threads that call at the same time each get their own results."""
    pool = pk.Pool(backend=executor)
    futures = [pool.amap(add, range(100), [n] * 100) for n in range(8)]
    assert [f.result(60) for f in futures] == [list(range(n, n + 100)) for n in range(8)]


ANEW = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
import parallelkit as pk


class Config:
    rate = 1


fork = multiprocessing.get_context("fork")
pk.configure(workers=2, backend=ProcessPoolExecutor(2, mp_context=fork))
for _ in range(60):
    assert pk.map(lambda x: x * Config.rate, range(8)) == [x * Config.rate for x in range(8)]
    Config.method = lambda self: "new"
    assert pk.map(lambda c: c.method(), [Config()]) == ["new"]
    old, Config = Config, type("Config", (), {"rate": 30})
    assert [type(r) for r in pk.map(lambda c: c(), [old, Config])] == [old, Config]
"""


def test_classes_that_are_defined_anew(script):
    """Whichever worker an order lands on, and whatever that one has of the script: it gets what it lacks."""
    script(ANEW)


class Telling:
    """Something large that tells when a process has let go of it."""

    def __init__(self, folder):
        self.folder = folder
        self.data = np.zeros(1_000_000)

    def __del__(self):
        with contextlib.suppress(OSError):
            (self.folder / f"gone {os.getpid()}").touch()


def use(x, thing):
    return 1 // x + thing.data[0], os.getpid()


@pytest.mark.parametrize("fails", [False, True])
def test_workers_let_go_of_what_is_large(executor, folder, fails):
    """A large keyword is gone from the workers soon after its call, also after an error."""
    pool = pk.Pool(backend=executor, chunksize=1, on_error="return")
    found = pool.map(use, [1, 2, 0 if fails else 3, 4], thing=Telling(folder))
    gone = {f"gone {one[1]}" for one in found if not isinstance(one, pk.Failure)}
    wait_until(lambda: gone <= set(os.listdir(folder)), f"{gone}")


class Helpers:
    """What of Ray starts a node: one that is there when it is asked for the third time, or has ended by then."""

    def __init__(self, ended):
        self.asked, self.ended, self.ports = 0, ended, {}
        self._private = self.services = self

    def start_raylet(
        self,
        session_dir,
        node_id,
        metrics_agent_port=None,
        runtime_env_agent_port=None,
        dashboard_agent_listen_port=52365,
        env_updates=None,
    ):
        given = metrics_agent_port, runtime_env_agent_port, dashboard_agent_listen_port
        self.ports = {path.name: int(path.read_text()) for path in session_dir.iterdir()}
        assert sorted(self.ports.values()) == sorted(given)
        return self

    @property
    def process(self):
        return self

    def poll(self):
        return 1 if self.ended and self.asked == 3 else None

    def get_node(self):
        self.asked += 1
        if self.asked < 3 or self.ended:
            raise RuntimeError("not there")
        return "a node"


def test_a_node_that_starts_slowly(tmp_path):
    """It has its ports from the start, and is waited for while it runs."""
    helpers = Helpers(ended=False)
    with patience(helpers):
        helpers.services.start_raylet(tmp_path, "17", dashboard_agent_listen_port=52365)
        assert helpers.services.get_node() == "a node"
    assert len(set(helpers.ports.values())) == 3
    assert helpers.ports["dashboard_agent_listen_port_17"] == 52365
    assert helpers.start_raylet.__self__ is helpers  # all is as it was


def test_a_node_that_ends_at_its_start(tmp_path):
    """That is told at once."""
    helpers = Helpers(ended=True)
    with patience(helpers), pytest.raises(RuntimeError, match="not there"):
        helpers.services.start_raylet(tmp_path, "17")
        helpers.services.get_node()
    assert helpers.asked == 3


def train(skill):
    for epoch in range(1, 10):
        pk.report(skill * epoch, epoch)
    return skill * epoch


def test_a_sweep_with_a_pruner():
    """Points take the pruner along, and what had been reported when they were sent; the second goes early."""
    sweep = pk.Sweep(pruner=pk.Halving(minimum=1, factor=3), backend=InPlace(), workers=1)
    table = sweep.run(train, pk.grid(skill=[5, 4, 1, 6]))
    assert table["status"] == ["ok", "ok", "pruned", "ok"]
    assert [len(curve["values"]) for curve in table.curves()] == [9, 9, 1, 9]


def test_a_pruner_that_fails_ends_the_sweep():
    """Its error is raised to the caller, as where points can ask."""

    def pruner(report):
        raise LookupError("no history")

    with pytest.raises(LookupError, match="no history"):
        pk.Sweep(pruner=pruner, backend=InPlace()).run(train, pk.grid(skill=[1, 2]))


class Renewed(InPlace):
    """An executor whose worker is another one after each 25 orders: it knows nothing of what was sent before."""

    def submit(self, func, *args):
        if len(self.sent) % 25 == 24:
            judge._places.clear()
        return super().submit(func, *args)


def after_twenty(report):
    """Give up where twenty others have come as far, of which none counts twice."""
    values = report.reached(1)
    assert len(set(values)) == len(values)
    return len(values) >= 20


@pytest.mark.parametrize("where", [InPlace, Renewed, "processes"])
def test_what_others_reported_arrives_once(where, executor):
    """Each point knows all that had ended when it was sent; as many bytes go with the last as with one before."""
    backend = executor if where == "processes" else where()
    sweep = pk.Sweep(pruner=after_twenty, backend=backend, workers=2)
    table = sweep.run(train, pk.grid(skill=range(200)))
    status = table["status"]
    assert status[:20] == ["ok"] * 20
    assert status[30:] == ["pruned"] * 170  # those between were under way, or were sent before
    assert table["value"][30:] == [float(skill) for skill in range(30, 200)]
    if where is InPlace:
        assert backend.sent[-1] < backend.sent[20] * 1.1
