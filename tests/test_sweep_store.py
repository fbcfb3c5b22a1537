"""Sweeps in a store: what survives, what is refused, what comes back."""

import datetime as dt
import decimal
import enum
import functools
import gc
import json
import math
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from helpers import wait_until

import parallelkit as pk
from parallelkit.sweeps import database, show
from parallelkit.sweeps import store as stores

SERIAL = {"backend": "serial"}
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, signals and limits of POSIX")


class Pair(NamedTuple):
    a: int
    b: int


def square(x, log=None):
    if log is not None:
        with open(log, "a") as file:
            file.write(f"{x}\n")
    if x == 13:
        raise ValueError("thirteen")
    return x * x


def cube(x):
    return x**3


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "run.db")


@pytest.fixture
def log(tmp_path):
    """A file to which points write when they run; ``log()`` are the points, in order."""

    class Log(str):
        __slots__ = ()

        def __call__(self):
            return [int(x) for x in Path(self).read_text().split()] if Path(self).exists() else []

    return Log(tmp_path / "log")


def sweep(path, **options):
    return pk.Sweep(store=path, **{**SERIAL, **options})


def told(table):
    """What a table says, without times and places."""
    left_out = ("seconds", "started", "worker", "code")
    return [{k: v for k, v in row.items() if k not in left_out} for row in table]


# ---- going on ------------------------------------------------------------------------------------


def test_what_is_stored_is_not_run_again(path, log):
    """The same sweep again runs nothing; a larger grid runs what is new, in the grid's order."""
    first = sweep(path).run(square, pk.grid(x=[1, 2]), log=str(log))
    again = sweep(path).run(square, pk.grid(x=[1, 2]), log=str(log))
    assert again.rows == first.rows
    assert len(again) == 2
    larger = sweep(path).run(square, pk.grid(x=[3, 2, 1, 0]), log=str(log))
    assert log() == [1, 2, 3, 0]
    assert [r["value"] for r in larger] == [9, 4, 1, 0]
    smaller = sweep(path).run(square, pk.grid(x=[2]), log=str(log))
    assert [r["x"] for r in smaller] == [2]
    assert [r["x"] for r in first] == [1, 2]
    assert len(pk.open_sweep(path)) == 4


def test_more_repeats_go_on(path, log):
    """Repeats are points of their own: more of them run what is new."""
    sweep(path, seed=1).run(square, pk.grid(x=[1, 2]), log=str(log))
    table = sweep(path, seed=1, repeats=2).run(square, pk.grid(x=[1, 2]), log=str(log))
    assert log() == [1, 2, 1, 2]
    assert [(r["x"], r["repeat"]) for r in table] == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_failed_points(path, log):
    """They are stored as failed, run again if that is asked for, and their attempts are counted."""
    for retry, attempt in ((False, 1), (False, 1), (True, 2)):
        table = sweep(path, retry_failed=retry).run(square, pk.grid(x=[1, 13]), log=str(log))
        (row,) = table.failed
        assert (row["error"], row["attempt"]) == ("ValueError: thirteen", attempt)
        assert "square" in row["traceback"]
    assert log() == [1, 13, 13]


def test_an_error_that_is_raised_keeps_what_was_finished(path, log):
    """on_error="raise" stores what is finished, not the failure, which is tried again next time."""
    for _ in range(2):
        with pytest.raises(ValueError, match="thirteen"):
            sweep(path, on_error="raise").run(square, pk.grid(x=[1, 13, 2]), log=str(log))
    assert log() == [1, 13, 13]
    assert [r["x"] for r in pk.open_sweep(path)] == [1]


def test_ctrl_c_keeps_what_was_finished(path):
    """After Ctrl-C the finished points are in the file, and the same sweep goes on."""

    def work(x, stop):
        if x == 2 and stop:
            signal.raise_signal(signal.SIGINT)
            time.sleep(0)
        return x

    options = {"name": "work", "version": 1}
    with pytest.raises(pk.SweepInterrupted, match=r"stored in.*run the same again") as caught:
        sweep(path, **options).run(work, pk.grid(x=range(4)), stop=True)
    assert caught.value.table.interrupted
    assert caught.value.table["x"] == [0, 1]
    with pytest.raises(pk.ParallelError, match="stop changed"):
        sweep(path, **options).run(work, pk.grid(x=range(4)), stop=False)


STUBBORN = """
import os, signal, sys, time
import parallelkit as pk
def work(x, pid):
    if x == 0:
        return x
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with open(pid + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(pid + ".new", pid)
    while True:
        time.sleep(0.01)
pk.Sweep(store=sys.argv[1], workers=1, backend="process").run(work, pk.grid(x=[0, 1]), pid=sys.argv[2])
"""


@posix
def test_a_second_ctrl_c_ends_a_sweep(path, tmp_path):
    """A point that ignores Ctrl-C holds nothing up, and what was finished stays."""
    script, pid = tmp_path / "program.py", tmp_path / "pid"
    script.write_text(STUBBORN)
    home = str(Path(pk.__file__).parents[1])
    child = subprocess.Popen(
        [sys.executable, script, path, pid],
        env={**os.environ, "PYTHONPATH": home},
        stderr=subprocess.DEVNULL,
    )
    wait_until(pid.exists, "the second point")
    wait_until(lambda: len(pk.open_sweep(path)) == 1, "the stored point")
    worker = psutil.Process(int(pid.read_text()))
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=60) != 0
    worker.wait(timeout=60)
    assert pk.open_sweep(path)["x"] == [0]


THREADS = """
import sys, threading
import parallelkit as pk
def work(x, path):
    if x:
        open(path, "w").close()
        threading.Event().wait(600)
    return x
sweep = pk.Sweep(store=sys.argv[1], workers=2, backend="thread")
try:
    sweep.run(work, pk.grid(x=[0, 1]), path=sys.argv[2])
except pk.SweepInterrupted as stopped:
    print(stopped, stopped.table["x"])
"""


@posix
def test_ctrl_c_does_not_wait_for_threads(path, tmp_path):
    """A point that runs in a thread holds up neither the table nor the end of the script."""
    script, begun = tmp_path / "program.py", tmp_path / "begun"
    script.write_text(THREADS)
    home = str(Path(pk.__file__).parents[1])
    child = subprocess.Popen(
        [sys.executable, script, path, begun],
        env={**os.environ, "PYTHONPATH": home},
        stdout=subprocess.PIPE,
    )
    wait_until(begun.exists, "the second point")
    wait_until(lambda: len(pk.open_sweep(path)) == 1, "the stored point")
    child.send_signal(signal.SIGINT)
    said, _ = child.communicate(timeout=60)  # the point would run for ten minutes
    assert b"1 point finished" in said
    assert b"in threads cannot be stopped" in said
    assert said.endswith(b"[0]\n")


@pytest.mark.parametrize("backend", ["process", "thread"])
def test_one_table_with_and_without_a_store(path, backend):
    """A stored table says what one in memory says."""
    grid = pk.grid(x=[1, 13, 3])
    options = {"seed": 1, "workers": 2, "backend": backend}
    kept = pk.Sweep(**options).run(square, grid)
    assert told(sweep(path, **options).run(square, grid)) == told(kept)
    assert told(pk.open_sweep(path)) == told(kept)


def test_a_finished_store_is_one_plain_file(path):
    """Beside it lies neither a lock nor a journal, and it is read where nothing may be written."""
    sweep(path).run(square, pk.grid(x=[1, 2]))
    assert os.listdir(os.path.dirname(path)) == ["run.db"]
    os.chmod(path, 0o400)
    assert len(pk.open_sweep(path)) == 2
    assert os.listdir(os.path.dirname(path)) == ["run.db"]


def test_a_table_is_read_while_the_sweep_runs(path):
    """Another connection sees finished points while others run, soon after they finish."""

    def work(x, path):
        if x == 1:
            wait_until(lambda: [r["x"] for r in pk.open_sweep(path)] == [0], "the stored point")
        return x

    table = sweep(path, backend="thread", workers=2).run(work, pk.grid(x=[0, 1]), path=path)
    assert table.failed == []


# ---- kill -9 -------------------------------------------------------------------------------------

# Starts sweeps by forking, which takes milliseconds: the imports are done.
PROGRAM = """
import os, sys, time
import numpy.random, sqlite3
import parallelkit as pk
from parallelkit.sweeps import run
path, log, count, parts = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
def work(x, rng):
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.write(out, b"%d " % x)
    os.close(out)
    time.sleep(0.002)
    pk.report(x, 1)
    while hopeless(x):  # a worker hears at a later report that it is given up
        time.sleep(0.0005)
        pk.report(x)
    return {"y": x * x, "z": rng.random(3)}
def hopeless(x):
    return x % 7 == 3
def begin(backend, part):
    sweep = pk.Sweep(store=f"{path}-{part}.db", part=(part, parts), seed=7, backend=backend, workers=2,
                     pruner=lambda report: hopeless(report.params["x"]))
    os._exit(0 if len(sweep.run(work, pk.grid(x=range(count)))) == count // parts else 1)
for line in sys.stdin:
    child = os.fork()
    if not child:
        begin(line.split()[0], int(line.split()[1]))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@posix
@pytest.mark.timeout(300)  # many processes are started, and the machine may be busy
def test_kill_9_at_any_moment(tmp_path, path):
    """Killed thirty times, a sweep in two parts, with pruning, ends as one that was not killed.

    It repeats nothing that was stored, and a copy of its file alone can be read.
    """
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    chance = random.Random(8)
    count, log = 600, tmp_path / "log"
    log.touch()
    home = str(Path(pk.__file__).parents[1])
    (tmp_path / "temp").mkdir()
    env = {**os.environ, "PYTHONPATH": home, "TMPDIR": str(tmp_path / "temp")}
    server = subprocess.Popen(
        [sys.executable, script, path, log, str(count), "2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )

    def ran(begun):
        return {int(x) for x in log.read_bytes()[begun:].split()}

    before, torn = [set(), set()], 0
    with server:
        for killed in range(30):
            part = killed % 2
            backend = "process" if killed % 6 == 5 else "thread" if killed % 2 else "serial"
            begun = log.stat().st_size
            pid = started(server, backend, part)
            points = chance.randrange(30)
            wait_until(lambda: len(ran(begun)) >= points, f"{points} points")  # noqa: B023
            workers = psutil.Process(pid).children(recursive=True)
            os.kill(pid, signal.SIGKILL)
            assert int(server.stdout.readline()) == -signal.SIGKILL
            now, is_torn = stored(f"{path}-{part}.db", before[part])
            torn += is_torn
            psutil.wait_procs(workers, timeout=30)
            assert before[part].isdisjoint(ran(begun)), "a point that was stored ran again"
            assert before[part] <= now, "a point that was stored is gone"
            before[part] = now
        assert all(before), "nothing was stored before a kill"
        # Killed in the very moment in which the file is brought up to date, a copy may be torn.
        assert torn <= 1
        for part in range(2):
            started(server, "serial", part)
            assert int(server.stdout.readline()) == 0
        server.stdin.close()
    files = [f"{path}-{part}.db" for part in range(2)]
    whole = str(tmp_path / "whole.db")
    done = subprocess.run(
        [sys.executable, script, whole, log, str(count), "1"],
        input="serial 0\n",
        text=True,
        env=env,
    )
    assert done.returncode == 0
    assert comparable(files) == comparable(f"{whole}-0.db")
    assert [x for x, *_ in comparable(files)] == list(range(count))
    pruned = [row["x"] for row in pk.open_sweep(files) if row["status"] == "pruned"]
    assert pruned == [x for x in range(count) if x % 7 == 3]


def stored(file, before):
    """Points in a part's file, and whether a copy of it alone is torn."""
    try:
        points = {row["x"] for row in pk.open_sweep(file)}
    except pk.ParallelError:  # killed before it had made its tables
        assert not before
        return set(), False
    copy = shutil.copy(file, f"{file}.copy")
    try:
        assert {row["x"] for row in pk.open_sweep(copy)} <= points
    except pk.ParallelError as error:
        return points, "damaged" in str(error)
    return points, False


def started(server, backend, part):
    """Begin a part of the sweep in a process of its own."""
    server.stdin.write(f"{backend} {part}\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def comparable(files):
    """What must be the same, however often a sweep was killed."""
    rows = pk.open_sweep(files)
    first = [curve["values"][0] for curve in rows.curves()]
    assert first == rows["x"]
    return [
        (
            r["x"],
            r["y"],
            r["z"] is not None and r["z"].tolist(),
            r["seed"],
            r["status"],
            r["attempt"],
        )
        for r in rows
    ]


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "func", "frozen", "said"),
    [
        ({}, square, {"log": None}, "frozen keywords: log changed.*another file"),
        ({"seed": 1}, square, {}, "another seed=None"),
    ],
)
def test_the_store_of_another_sweep(path, options, func, frozen, said):
    """Another frozen keyword or seed is refused, with what to do; the store stays as it was."""
    before = sweep(path).run(square, pk.grid(x=[1]))
    with pytest.raises(pk.ParallelError, match=said):
        sweep(path, **options).run(func, pk.grid(x=[1, 2]), **frozen)
    assert told(pk.open_sweep(path)) == told(before)
    assert os.listdir(os.path.dirname(path)) == ["run.db"]


def test_another_name_for_the_same_function(path):
    """A function that was renamed goes on under the name that the store knows."""
    name = f"{__name__}:square"
    sweep(path).run(square, pk.grid(x=[1]))
    with pytest.warns(UserWarning, match="lambda"):
        assert len(sweep(path, name=name).run(lambda x: x * x, pk.grid(x=[1, 2]))) == 2


def test_two_lambdas_are_two_functions(path):
    """Functions without a name are told apart by their code."""
    for func in (lambda x: x + 1, lambda x: x + 2):
        table = sweep(path).run(func, pk.grid(x=[1]))
        assert table.rows[0]["value"] == func(1)


def test_frozen_arrays_are_compared(path):
    """A frozen array that changed by one element is noticed."""
    data = np.arange(1000.0)

    def work(x, data):
        return float(data[x])

    sweep(path).run(work, pk.grid(x=[1]), data=data)
    assert len(sweep(path).run(work, pk.grid(x=[2]), data=data.copy())) == 1
    data[7] += 1
    with pytest.raises(pk.ParallelError, match="data changed"):
        sweep(path).run(work, pk.grid(x=[2]), data=data)


def test_frozen_models_are_compared_by_what_they_learned(path):
    """A model that was fitted anew is another frozen value."""
    pytest.importorskip("sklearn")
    from sklearn.linear_model import Ridge

    x = np.arange(4.0).reshape(-1, 1)
    for scale, refused in ((1, False), (1, False), (2, True)):
        model = Ridge().fit(x, x.ravel() * scale)
        with pytest.raises(pk.ParallelError, match="model changed") if refused else nullcontext():
            sweep(path).run(lambda x, model: model.coef_[0] * x, pk.grid(x=[1]), model=model)


class Scaled:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, x):
        return x * self.scale

    def method(self, x):
        return x * self.scale


def closure(scale):
    def inner(x):
        return x * scale

    return inner


def by_default(scale):
    def inner(x, scale=scale):
        return x * scale

    return inner


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (Scaled, "self"),
        (lambda scale: Scaled(scale).method, "self"),
        (closure, "scale"),
        (by_default, "scale"),
        (lambda scale: lambda x, y=scale: x * y, "y"),
        (lambda scale: closure(closure(scale)(2)), "scale"),
        (lambda scale: functools.partial(Scaled(scale).method), "self"),
    ],
)
def test_what_a_function_computes_with_is_compared(path, make, part):
    """State of an object, closure and defaults: another value is told, the same goes on."""
    sweep(path).run(make(2), pk.grid(x=[1]))
    assert len(sweep(path).run(make(2), pk.grid(x=[1, 2]))) == 2
    with pytest.raises(pk.ParallelError, match=rf"{part}.* changed.*version="):
        sweep(path, on_change="error").run(make(3), pk.grid(x=[1]))


def test_a_lambda_is_the_same_in_another_process(path, tmp_path, command):
    """Its code is compared by content, also that of functions within it."""
    (tmp_path / "same.py").write_text(
        "import parallelkit as pk\n"
        "f = lambda x: sum(y for y in [x]) if x in {'a', 'b', 1} else [z for z in (x,)]\n"
        f"print(len(pk.Sweep(store={path!r}, backend='serial').run(f, pk.grid(x=[1]))))\n"
    )
    for _ in range(2):
        assert command(["same.py"], cwd=tmp_path, files=False).out.split() == ["1"]


def test_a_second_writer(path):
    """While a sweep writes, another one on the same file is refused, and the first goes on."""

    def work(x, path):
        with pytest.raises(pk.ParallelError, match="being written by another sweep"):
            sweep(path).run(square, pk.grid(x=[1]))
        return x

    table = sweep(path).run(work, pk.grid(x=[1, 2]), path=path)
    assert table.failed == []
    assert os.listdir(os.path.dirname(path)) == ["run.db"]


def test_a_second_writer_in_another_process(path, script):
    """The lock holds between processes."""
    source = (
        "import sys, parallelkit as pk\n"
        "try: pk.Sweep(store=sys.argv[1], backend='serial').run(abs, [])\n"
        "except pk.ParallelError as error: print('another sweep' in str(error))\n"
    )

    def work(x):
        return script(source, path).out.strip()

    assert sweep(path).run(work, pk.grid(x=[1])).rows[0]["value"] == "True"


@pytest.mark.parametrize("content", [b"hello, this is no database at all\n" * 100, b"SQLite for"])
def test_a_file_that_is_no_store(path, content):
    """What is no database is refused and left as it was, by readers and writers."""
    Path(path).write_bytes(content)
    with pytest.raises(pk.ParallelError, match="not the store"):
        sweep(path).run(square, pk.grid(x=[1]))
    with pytest.raises(pk.ParallelError, match="not the store"):
        pk.open_sweep(path)
    assert Path(path).read_bytes() == content
    assert os.listdir(os.path.dirname(path)) == ["run.db"]


def test_the_database_of_another_program(path):
    """A SQLite file with other tables is refused and left as it was."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (a)")
    connection.close()
    before = Path(path).read_bytes()
    for use in (lambda: sweep(path).run(square, pk.grid(x=[1])), lambda: pk.open_sweep(path)):
        with pytest.raises(pk.ParallelError, match="not the store of a sweep"):
            use()
    assert Path(path).read_bytes() == before


def test_a_damaged_store(path):
    """Overwritten pages are a clear error, not a table with holes."""
    sweep(path).run(square, pk.grid(x=range(2000)))
    with open(path, "r+b") as file:
        file.seek(8192)
        file.write(os.urandom(os.path.getsize(path) - 20000))
    with pytest.raises(pk.ParallelError, match="damaged"):
        list(pk.open_sweep(path))


def test_an_empty_file_becomes_a_store(path):
    """A file that tempfile has just made is as good as none."""
    Path(path).touch()
    with pytest.raises(pk.ParallelError, match="empty"):
        pk.open_sweep(path)
    assert len(sweep(path).run(square, pk.grid(x=[1]))) == 1


@pytest.mark.parametrize("place", ["missing/run.db", "."])
def test_a_place_where_no_file_can_be(tmp_path, place):
    """A folder that does not exist, or is the folder itself, is a clear error."""
    with pytest.raises(pk.ParallelError, match="folder"):
        sweep(tmp_path / place).run(square, pk.grid(x=[1]))
    with pytest.raises(pk.ParallelError, match=r"no file|folder"):
        pk.open_sweep(tmp_path / place)


def test_a_store_that_may_not_be_written(path, monkeypatch):
    """A read-only store can be read; to go on with it is a clear error."""
    sweep(path).run(square, pk.grid(x=[1]))
    connect = sqlite3.connect

    def readonly(name, **options):
        if name == path:
            return connect(f"file:{path}?mode=ro", uri=True, **options)
        return connect(name, **options)

    monkeypatch.setattr(database.sqlite3, "connect", readonly)
    with pytest.raises(pk.ParallelError, match="may not be written"):
        sweep(path).run(square, pk.grid(x=[1, 2]))
    monkeypatch.undo()
    assert len(pk.open_sweep(path)) == 1


FULL_DISK = """
import resource, signal, sys
import parallelkit as pk
def work(x):
    return {"x2": x * x, "text": "y" * 2000}
sweep = pk.Sweep(store=sys.argv[1], backend=sys.argv[2], workers=2)
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
try:
    print(len(sweep.run(work, pk.grid(x=range(500)))))
except pk.ParallelError as error:
    print(error)
"""


@posix
@pytest.mark.parametrize("backend", ["serial", "thread"])
def test_a_full_disk(path, tmp_path, command, backend):
    """When no more can be written that is told, what was stored is there, and with room it goes on."""
    program = tmp_path / "program.py"
    program.write_text(FULL_DISK)
    assert "disk full" in command([program, path, backend, 300_000]).out
    stored = len(pk.open_sweep(path))
    assert 0 < stored < 500
    assert command([program, path, backend]).out.split() == ["500"]
    assert sorted(r["x"] for r in pk.open_sweep(path)) == list(range(500))


# ---- what comes back -----------------------------------------------------------------------------

PLAIN = [
    *(None, True, 3, 10**40, -0.5, 1e-320, "tëxt \udcff", b"\0\xff", 2 + 3j, math.inf, -math.inf),
    *([1, [2.0, "3"]], (1, (2,)), {"a": {"b": [1]}}, {1: 2, (1, 2): "x"}, {1, 2}, frozenset("a")),
    *({"~t": 1}, dt.datetime.fromisoformat("2026-01-02T03:04:05.000006"), dt.date(2026, 1, 2)),
    *(dt.datetime(2026, 1, 2, tzinfo=dt.UTC), dt.timedelta(1, 2, 3)),
    *(decimal.Decimal("1.10"), pathlib.Path("a/b"), uuid.UUID(int=7), range(2, 9, 3), {}, [], ()),
]


def test_plain_results_come_back(path):
    """What a point returns is in the table as it was, types of containers included."""
    table = sweep(path).run(lambda x: [PLAIN[x]], pk.grid(x=range(len(PLAIN))))
    values = [r["value"][0] for r in table]
    assert values == PLAIN
    assert [type(v) for v in values] == [type(v) for v in PLAIN]


def test_numpy_results_come_back(path):
    """Arrays come back whole, numpy's scalars as Python's, NaN as NaN."""
    arrays = [
        *(np.arange(6).reshape(2, 3), np.array([]), np.array(3.5), np.zeros((2, 0)), np.eye(2).T),
        *(np.array(["2026-01-01"], "M8[D]"), np.array([(1, 2.0)], "i4,f8"), np.array(["a", "bc"])),
    ]
    table = sweep(path).run(
        lambda x: {"a": arrays[x], "deep": [{"b": arrays[x]}]}, pk.grid(x=range(len(arrays)))
    )
    for row, array in zip(table, arrays, strict=True):
        for found in (row["a"], row["deep"][0]["b"]):
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            assert found.tobytes() == np.ascontiguousarray(array).tobytes()
    scalars = [np.float64(0.1), np.int32(3), np.bool_(True), np.str_("a"), np.datetime64("2026")]
    name = f"{path}-2"
    table = sweep(name).run(lambda x: scalars[x], pk.grid(x=range(5)))
    assert [r["value"] for r in table] == scalars
    assert [type(r["value"]) for r in table][:4] == [float, int, bool, str]
    assert math.isnan(sweep(f"{path}-3").run(lambda x: np.nan, pk.grid(x=[1])).rows[0]["value"])


def test_times_of_pandas_come_back(path):
    """As parameters and results they are Python's, which equal them; missing ones are refused."""
    pandas = pytest.importorskip("pandas")
    times = list(pandas.date_range("2026-01-01", periods=2, tz="UTC"))
    table = sweep(path).run(lambda t: {"t2": t, "d": t - times[0]}, pk.grid(t=times))
    assert [r["t"] for r in table] == [r["t2"] for r in table] == times
    assert table.rows[1]["d"] == dt.timedelta(days=1)
    with pytest.raises(TypeError, match="cannot be stored"):
        sweep(f"{path}-2").run(lambda x: pandas.NaT, pk.grid(x=[1]))


def test_named_tuples_come_back_as_tuples(path):
    """They equal what was returned."""
    assert sweep(path).run(lambda x: Pair(x, 2), pk.grid(x=[1])).rows[0]["value"] == Pair(1, 2)


def test_parameters_come_back(path):
    """Parameters are in the table as they were; arrays and functions by their description."""
    points = [{"x": value} for value in (1, "a", (1, 2), None, math.inf, np.float64(2))]
    table = sweep(path).run(lambda x: 0, [*points, {"x": np.arange(3, dtype="i8")}, {"x": len}])
    *plain, array, function = [r["x"] for r in table]
    assert plain == [1, "a", (1, 2), None, math.inf, 2.0]
    assert "array <i8 3" in array
    assert function == "builtins:len"


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@pytest.mark.parametrize("stored", [True, False])
def test_rows_are_found_by_their_parameters(path, stored):
    """By equal ones, be they numbers, models or arrays; True is not 1, and 1.0 is."""
    pytest.importorskip("sklearn")
    from sklearn.linear_model import Lasso, Ridge
    from sklearn.pipeline import make_pipeline

    pipelines = [make_pipeline(Ridge(alpha)) for alpha in (1.0, 2.0)]
    others = [Ridge(1.0), Ridge(2.0), Lasso(), np.zeros(3), np.zeros(3, int), math.sin, np.mean]
    others += [*pipelines, Color.RED, Color.BLUE, (1, 2), [1, 2], math.nan, None, "1", True]
    values = [1, 1.0, *others]
    table = sweep(path if stored else None).run(lambda x: 0, pk.grid(x=values))
    assert [len(table.filter(x=value)) for value in values] == [2, 2, *[1] * len(others)]
    assert len(table.filter(x=Ridge(3.0))) == 0
    told = [" ".join(cells) for cells in show.cells(["x"], list(table))]
    assert told[2:5] == ["Ridge(alpha=1)", "Ridge(alpha=2)", "Lasso()"]
    assert told[7:13] == [
        *("sin", "mean", "Pipeline(ridge__alpha=1)", "Pipeline(ridge__alpha=2)"),
        *("Color.RED", "Color.BLUE"),
    ]
    assert len(set(told)) == len(values)


def test_a_result_that_cannot_be_stored(path):
    """The first one ends the sweep before time is wasted; a later one is a failed point."""
    with pytest.raises(TypeError, match=r"x=0.*pickle=True"):
        sweep(path).run(lambda x: object(), pk.grid(x=range(3)))
    table = sweep(f"{path}-2").run(lambda x: object() if x == 1 else x, pk.grid(x=range(3)))
    assert [r["status"] for r in table] == ["ok", "failed", "ok"]
    assert "cannot be stored" in table.failed[0]["error"]


def test_a_result_whose_name_cannot_be_stored(path):
    """A name with half a character is refused like a value that has no form."""
    with pytest.raises(TypeError, match="half a character"):
        sweep(path).run(lambda x: {"\udcff": x}, pk.grid(x=[1]))


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


def test_pickles_are_read_only_if_that_is_asked_for(path, tmp_path, monkeypatch):
    """Opening a stranger's store runs nothing: pickles need pickle=True on both sides."""
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    sweep(path, pickle=True).run(lambda x: {"model": Evil(), "y": x}, pk.grid(x=[1]))
    for use in (
        lambda: pk.open_sweep(path),
        lambda: sweep(path).run(lambda x: {"model": Evil(), "y": x}, pk.grid(x=[1])),
    ):
        with pytest.raises(pk.ParallelError, match="pickle"):
            use()
    connection = sqlite3.connect(path)  # a store that lies about itself
    connection.execute("UPDATE meta SET value = '0' WHERE name = 'pickle'")
    connection.commit()
    connection.close()
    assert "pickled" in str(pk.open_sweep(path).rows[0]["model"])
    assert not (tmp_path / "evil").exists()
    assert pk.open_sweep(path, pickle=True).rows[0]["y"] == 1
    assert (tmp_path / "evil").exists()


def test_a_store_without_pickles_needs_no_trust(path):
    """That pickles were allowed is no pickle; files beside the store ask when they are loaded."""
    sweep(path, pickle=True).run(lambda x: {"y": x, "a": np.arange(x)}, pk.grid(x=[1, 2]))
    assert pk.open_sweep(path)["y"] == [1, 2]
    sweep(path, name="other").run(lambda x: x, pk.grid(x=[1]))
    sweep(path, name="pickled", pickle=True).run(decimal.Context, pk.grid(prec=[1]))
    with pytest.raises(pk.StoreError, match="pickled results"):
        pk.open_sweep(path)


def test_a_damaged_store_is_not_touched(path):
    """Going on with it is an error, after which not a byte is different."""
    sweep(path).run(lambda x: x, pk.grid(x=range(200)))
    whole = Path(path).read_bytes()
    damaged = whole[:6000] + b"\xff" * 4000 + whole[10000:]
    Path(path).write_bytes(damaged)
    with pytest.raises(pk.StoreError, match="nothing in it was changed"):
        sweep(path).run(lambda x: x, pk.grid(x=range(3)))
    assert Path(path).read_bytes() == damaged
    assert os.listdir(os.path.dirname(path)) == ["run.db"]


def test_pickled_results_come_back(path):
    """With pickle=True anything that can be pickled is a result, also among plain ones."""
    table = sweep(path, pickle=True).run(lambda x: {"c": decimal.Context(x), "y": x}, {"x": [3]})
    assert table.rows[0]["c"].prec == 3
    assert pk.open_sweep(path, pickle=True).rows[0]["y"] == 3


# ---- when it is written --------------------------------------------------------------------------


def test_nothing_waits_for_long(path, monkeypatch):
    """A finished point is in the file although the next one never ends."""
    monkeypatch.setattr(stores, "INTERVAL", 0.01)

    def work(x, path):
        if x == 2:  # in place: the loop that stores is in this very call
            wait_until(lambda: len(pk.open_sweep(path)) == 2, "two stored points")
        return x

    assert sweep(path).run(work, pk.grid(x=[0, 1, 2]), path=path).failed == []


def test_a_copy_of_the_file_alone(path, monkeypatch):
    """While a sweep runs, its file alone gets what is finished, also when nothing more comes."""
    monkeypatch.setattr(stores, "INTERVAL", 0.01)
    monkeypatch.setattr(stores, "CHECKED", 0.01)

    def in_a_copy():
        try:
            return len(pk.open_sweep(shutil.copy(path, f"{path}.copy")))
        except pk.ParallelError:  # it has none of the tables yet
            return 0

    def work(x):
        if x == 2:
            wait_until(lambda: in_a_copy() == 2, "two points in a copy")
        return x

    assert sweep(path).run(work, pk.grid(x=[0, 1, 2])).failed == []


def test_points_are_stored_in_batches(path, monkeypatch):
    """Quick points share a transaction."""
    monkeypatch.setattr(stores, "INTERVAL", 1000)
    flushed = []
    flush = stores.Store.flush
    monkeypatch.setattr(
        stores.Store, "flush", lambda self: (flushed.append(len(self._rows)), flush(self))[1]
    )
    sweep(path).run(square, pk.grid(x=range(5000)))
    assert max(flushed) == stores.LARGEST_BATCH
    assert sum(flushed) == 5000


def test_a_sweep_of_many_points_keeps_none(path):
    """While points run, those that are finished are not in memory."""
    seen = []

    def there():
        return sum(type(o) is stores.Record for o in gc.get_objects())

    def work(x):
        if x % 500 == 499:
            seen.append(there())
        return x

    before = there()  # of tables that other tests have made
    sweep(path).run(work, pk.grid(x=range(2000)))
    assert max(seen) - before < 50


def test_what_the_store_remembers(path):
    """The identity is JSON that says what was swept."""
    sweep(path, version="a", seed=3).run(square, pk.grid(x=[1]))
    connection = sqlite3.connect(path)
    ((identity,),) = connection.execute("SELECT identity FROM sweeps")
    connection.close()
    identity = json.loads(identity)
    assert identity["function"].endswith(":square")
    assert identity["version"] == '"a"'
