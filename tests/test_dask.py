"""Items on Dask: the part of the contract that is its own, and what happens when parts of it are lost."""

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    PATIENCE,
    PlainError,
    ended,
    fail_from,
    identity,
    increment,
    mark,
    wait_for,
    wait_until,
)

import parallelkit as pk
from parallelkit.backends import dask_clients
from parallelkit.options import Options

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.timeout(360)  # engines take their time to start on a busy machine


SETTING = "as it was"


@pytest.fixture(scope="module")
def cluster():
    """Two workers of one thread, and the client that is there."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    dask.config.set({"distributed.scheduler.allowed-failures": 0})  # each costs a start of Python
    dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"})  # 15 s, on a busy machine
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as own,
        distributed.Client(own) as client,
    ):
        yield client


@pytest.fixture
def on_dask(cluster):
    """A pool on these; afterwards they answer, and nothing of the test is left with the client."""
    yield lambda **options: pk.Pool(backend="dask", **options)
    cluster.wait_for_workers(1, timeout=120)
    assert pk.Pool(backend="dask").map(increment, range(8)) == list(range(1, 9))
    wait_until(lambda: not cluster.futures, f"the end of {cluster.futures}")


class Point:
    def __init__(self, x):
        self.x = x


def test_the_calls(on_dask):
    """map, imap, uimap, starmap, run, submit, amap: as anywhere."""
    own = on_dask()
    assert own.workers == 2
    assert own.map(lambda x, y, p: x + y + p, [1, 2], [10, 20], p=100) == [111, 122]
    assert list(own.imap(increment, iter(range(1000)))) == list(range(1, 1001))
    assert sorted(own.uimap(increment, range(100))) == list(range(1, 101))
    assert own.starmap(pow, [(2, 3), {"base": 3, "exp": 2}]) == [8, 9]
    assert own.run([pk.delayed(pow)(2, 5), pk.delayed(len)("abc")]) == [32, 3]
    assert own.submit(pow, 2, 5).result(60) == 32
    assert own.amap(increment, [1]).result(60) == [2]
    assert own.map(increment, []) == []
    assert set(own.map(lambda _: os.getpid(), range(40))).isdisjoint({os.getpid()})


def test_the_script_and_its_classes(on_dask):
    """What is defined here is found there, as it is at the call; classes are the same on the way back."""
    global SETTING
    assert on_dask().map(lambda _: SETTING, range(2)) == ["as it was"] * 2
    SETTING = "changed"
    assert on_dask().map(lambda _: SETTING, range(2)) == ["changed"] * 2
    assert type(on_dask().map(Point, [1])[0]) is Point


def test_errors_and_what_is_said(on_dask, caplog):
    """Errors have their notes and causes; records and warnings arrive here."""
    with pytest.raises(PlainError, match="no luck") as caught:
        on_dask().map(fail_from, [7])
    assert any("item 0" in note for note in caught.value.__notes__)

    def talk(x):
        logging.getLogger("theirs").warning("item %d", x)
        warnings.warn("careful", stacklevel=1)

    with pytest.warns(UserWarning, match="careful"), caplog.at_level(logging.INFO):
        on_dask().map(talk, [3])
    assert "item 3" in caplog.messages


def test_fields_of_errors(on_dask):
    """Dask has exceptions pickled by tblib, which leaves out what lies beside their arguments."""

    def leave(x):
        if x == 1:
            raise ImportError("gone", name="somewhere")
        sys.exit(7)

    left, lacking = (r.exception for r in on_dask(on_error="return").map(leave, range(2)))
    assert left.code == 7
    assert lacking.name == "somewhere"


BARE_SCRIPT = """
import os, random
import parallelkit as pk

pool = pk.Pool(backend="dask")
random.seed(1)
expected = random.random()
random.seed(1)
print(pool.map(lambda x: x + 1, range(3)), random.random() == expected)
left = pk.Pool(backend="dask", chunksize=1).imap(abs, range(10**6))
next(left)
if {killed}:
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_cluster_of_our_own(script, killed):
    """It needs no guard, draws none of the script's random numbers, and ends with it however that ends, in silence."""
    code = -9 if killed else 0
    ran = script(BARE_SCRIPT.format(killed=killed), code=code, files=not killed, timeout=300)
    assert killed or (ran.out, ran.err) == ("[1, 2, 3] True\n", "")


def test_seeds_are_the_same(on_dask):
    """Draws do not depend on where they are made, in the second call of a pool neither."""

    def draw(_):
        return np.random.random()

    local, there = pk.Pool(2, seed=5), on_dask(seed=5)
    for _ in range(2):
        assert there.map(draw, range(30)) == local.map(draw, range(30))


def test_blocks_and_sweeps(on_dask, tmp_path):
    """map_blocks makes an array, and a sweep with a store has its table."""
    table = np.arange(1000.0)
    assert np.array_equal(pk.map_blocks(np.sqrt, table), np.sqrt(table))
    with pk.configure(backend="dask"):
        assert np.array_equal(pk.map_blocks(np.sqrt, table), np.sqrt(table))
        sweep = pk.Sweep(store=tmp_path / "s.db")
        assert sweep.run(lambda a: {"square": a * a}, pk.grid(a=[1, 2, 3]))["square"] == [1, 4, 9]


def test_large_things_go_once(on_dask, cluster, monkeypatch):
    """A large keyword goes to a worker, past the scheduler and with no chunk; large results come from there."""
    scattered, sent, gathered = [], [], []

    def scatter(self, data, *, direct, **how):
        scattered.append((data.nbytes // table.nbytes, direct))
        return scatters(self, data, direct=direct, **how)

    def submit(self, func, source, around, known, **how):
        sent.append(len(known["data"]))
        return submits(self, func, source, around, known, **how)

    def gather(self, futures, *, direct=None, **how):
        gathered.append(direct)
        return gathers(self, futures, direct=direct, **how)

    kind, table = type(cluster), np.ones(2_000_000)
    scatters, submits, gathers = kind.scatter, kind.submit, kind.gather
    for name, instead in {"scatter": scatter, "submit": submit, "gather": gather}.items():
        monkeypatch.setattr(kind, name, instead)
    own = on_dask(chunksize=1)
    assert own.map(lambda i, t: t[i] + i, range(20), t=table) == [i + 1 for i in range(20)]
    assert scattered == [(1, True)]
    assert sum(sent) < table.nbytes / 10
    assert set(gathered) == {None}
    assert [len(own) for own in on_dask(chunksize=1).map(np.ones, [100_000] * 9)] == [100_000] * 9
    assert gathered[-1]
    wait_until(lambda: not cluster.who_has(), "the end of what was scattered")


def test_a_worker_that_is_killed_costs_nothing(on_dask, folder):
    """An item whose worker is killed from outside runs again; the call does not notice."""

    def once_killed(x, folder):
        if x == 17 and mark(folder, "killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    assert on_dask().map(once_killed, range(60), folder=folder) == list(range(60))


def test_the_item_that_kills_is_named_and_no_other(on_dask):
    """An item that takes its workers along is a WorkerDied, and its neighbours have their results."""

    def deadly(x):
        if x == 5:
            os._exit(3)
        return x

    results = on_dask(on_error="return", chunksize=1).map(deadly, range(8))
    assert [r for i, r in enumerate(results) if i != 5] == [0, 1, 2, 3, 4, 6, 7]
    assert isinstance(results[5].exception, pk.WorkerDied)
    assert "item 5" in str(results[5].exception)


def test_an_iterator_that_is_dropped(on_dask, cluster):
    """What was under way is cancelled; the workers are free for others."""
    results = on_dask(chunksize=1).imap(increment, range(100_000))
    assert next(results) == 1
    results.close()


def test_ctrl_c(on_dask, folder):
    """It ends the call at once; what had not begun is cancelled."""

    def waits(x, folder):
        mark(folder, x)
        wait_for(Path(folder).parent / "gate")

    def interrupt():
        wait_until(lambda: os.listdir(folder), "an item that runs")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        on_dask(chunksize=1).map(waits, range(1000), folder=folder)
    Path(folder.parent, "gate").touch()
    assert len(os.listdir(folder)) < 100


# ---- clusters that are lost ----------------------------------------------------------------------


BARE = """
import importlib.machinery, sys

there = sys.path[:]

class Without:
    \"\"\"Finds parallelkit only where it comes later, however it is installed.\"\"\"

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "parallelkit":
            return None
        came = [entry for entry in sys.path if entry not in there]
        found = importlib.machinery.PathFinder.find_spec(name, came)
        if found is None:
            raise ModuleNotFoundError("No module named 'parallelkit'", name="parallelkit")
        return found

sys.meta_path.insert(0, Without)
from distributed.cli.NAME import main
sys.exit(main())
"""


def bare(name):
    """How Python runs a command of Dask where there is no parallelkit."""
    return [sys.executable, "-P", "-c", BARE.replace("NAME", name)]


@contextlib.contextmanager
def scheduler_and_workers(workers, threads=1):
    """Processes of Dask's own commands, as on a real cluster; the address, and what starts workers.

    The scheduler has no parallelkit, and needs none.
    """
    begun = []

    def begin(*command):
        begun.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))

    def worker(how=(sys.executable, "-m", "distributed.cli.dask_worker")):
        local = ("--no-dashboard", "--no-nanny", "--host", "127.0.0.1")
        begin(*how, address, "--nthreads", str(threads), *local)

    try:
        told = Path(os.environ["TMPDIR"], f"scheduler-{time.monotonic_ns()}.json")
        where = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        begin(*bare("dask_scheduler"), *where, "--scheduler-file", str(told))
        wait_until(lambda: told.exists() and told.read_text().strip().endswith("}"), "a scheduler")
        address = __import__("json").loads(told.read_text())["address"]
        for _ in range(workers):
            worker()
        yield address, begun, worker
    finally:
        for process in reversed(begun):
            process.kill()
            process.communicate()
        told.unlink(missing_ok=True)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_the_scheduler_is_lost(monkeypatch, how):
    """Whether it is gone or silent, the call ends with an error that names it, and soon."""
    with scheduler_and_workers(1) as (address, begun, _):
        pool = pk.Pool(backend="dask", address=address, chunksize=1)
        results = pool.imap(increment, range(1_000_000))
        assert next(results) == 1
        monkeypatch.setattr("parallelkit.backends.dask_clients.CONNECT", 1)
        monkeypatch.setattr("parallelkit.backends.dask_clients.SILENT", 2)
        begun[0].send_signal(how)
        with pytest.raises(pk.ParallelError, match=f"Dask .scheduler {address}. was lost"):
            for _ in results:
                pass
        with pytest.raises(pk.ParallelError, match=r"no Dask scheduler answers|was lost"):
            pool.map(increment, [1])
        pk.shutdown()


def test_a_client_that_is_closed():
    """A call that is under way ends with an error, and the next one connects anew."""
    with scheduler_and_workers(1) as (address, _, _):
        pool = pk.Pool(backend="dask", address=address, chunksize=1)
        results = pool.imap(increment, range(1_000_000))
        next(results)
        pk.shutdown()
        with pytest.raises(pk.ParallelError, match=f"Dask .scheduler {address}. was lost"):
            list(results)
        assert pool.map(increment, [1]) == [2]
        pk.shutdown()


def test_workers_without_parallelkit():
    """It is told before anything runs, also of one that joins a call; by upload= they get it."""
    with scheduler_and_workers(0) as (address, _, worker):
        early = pk.Pool(backend="dask", address=address).amap(increment, [1])
        worker(bare("dask_worker"))
        with pytest.raises(pk.ParallelError, match=r"have no parallelkit: .*upload=True"):
            early.result(PATIENCE)
        with pytest.raises(pk.ParallelError, match=r"have no parallelkit: .*upload=True"):
            pk.Pool(backend="dask", address=address).map(increment, [1])
        for _ in range(2):  # by another client once more
            sent = pk.Pool(backend="dask", address=address, upload=True)
            assert sent.map(lambda x: x + 1, range(4)) == [1, 2, 3, 4]
            pk.shutdown()


def test_what_is_uploaded_waits_for_no_worker(monkeypatch):
    """It goes to those that come later too, so it is sent where there are none, and once."""

    class Client:
        pass

    client, sent = Client(), []
    monkeypatch.setattr(dask_clients, "workers_of", lambda _: {})
    monkeypatch.setattr(dask_clients, "_upload", sent.append)
    for _ in range(2):
        dask_clients.check(client, Options(upload=True))
    assert sent == [client]


def test_workers_come_and_go(folder):
    """One that joins in the middle gets work; one that leaves costs none. A share is its threads."""
    with scheduler_and_workers(1, threads=2) as (address, begun, worker):
        pool = pk.Pool(backend="dask", address=address, chunksize=1)
        assert pool.map(lambda _: pk.nesting().cores, [1]) == [2]

        def place(x, folder):
            mark(folder, os.getpid())
            wait_for(folder / "gate")
            return os.getpid()

        def open_gate():
            wait_until(lambda: len(os.listdir(folder)) == 2, "a second worker")
            (folder / "gate").touch()

        results = pool.uimap(place, range(30), folder=folder)
        worker()
        threading.Thread(target=open_gate).start()
        pids = set(results)
        assert len(pids) == 2
        gone = begun[1].pid
        results = pool.uimap(identity, range(300))
        next(results)
        begun[1].kill()
        assert len(list(results)) == 299
        assert ended([gone])
        pk.shutdown()


def test_an_adaptive_cluster_grows(folder):
    """It sees that more work is waiting than its worker has begun, before an item has ended; also by its address alone."""

    def place(x, folder):
        mark(folder, os.getpid())
        wait_until(lambda: len(os.listdir(folder)) >= 2, "a second worker")

    with distributed.LocalCluster(1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as own:
        own.adapt(minimum=1, maximum=2, interval="0.1s", target_duration="0.1s")
        for where in ("client", "address"):
            (folder / where).mkdir()
            if where == "client":
                with distributed.Client(own):
                    pk.Pool(backend="dask", chunksize=1).map(
                        place, range(10), folder=folder / where
                    )
                own.scale(1)
                wait_until(lambda: len(own.scheduler.workers) == 1, "one worker")
            else:
                pool = pk.Pool(backend="dask", address=own.scheduler_address, chunksize=1)
                pool.map(place, range(10), folder=folder / where)
                pk.shutdown()


ALONE = (
    "unshare",
    *(() if os.geteuid() == 0 else ("-Ur",)),
    "-nmpf",
    "--mount-proc",
    "--kill-child",
)
THREE_HOSTS = """('host2', False, '/', False) ('host3', False, '/', False)
True
[(2, [True])]
True
a keyword or the function lies in memory of pk.share, which workers
True
"""


@pytest.mark.skipif(
    not (shutil.which("unshare") and shutil.which("ip")),
    reason="network namespaces need unshare, ip",
)
def test_three_hosts(tmp_path):
    """Workers on machines with no file, memory or name in common with this one; one of them leaves."""
    if subprocess.run(
        [*ALONE, "ip", "link", "add", "switch", "type", "bridge"], check=False
    ).returncode:
        pytest.skip("no network namespaces here")
    path = tmp_path / "script.py"  # not to be seen by the workers
    path.write_text((Path(__file__).parent / "scripts" / "three_hosts.py").read_text())
    command = [*ALONE, sys.executable, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.stdout == THREE_HOSTS, ran.stderr


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_an_engine_that_is_not_installed(monkeypatch, name):
    """The error names the command."""
    for module in ("distributed", "ray"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(pk.ParallelError, match=rf"pip install 'parallelkit\[{name}\]'"):
        pk.Pool(backend=name).map(increment, [1])


def test_an_address_where_nobody_is(monkeypatch):
    """It is named, within the time that is given to connect."""
    monkeypatch.setattr("parallelkit.backends.dask_clients.CONNECT", 1)
    with pytest.raises(pk.ParallelError, match=r"tcp://127\.0\.0\.1:9"):
        pk.Pool(backend="dask", address="tcp://127.0.0.1:9").map(increment, [1])
