"""The package in the hands of others: their workers, event loops, threads and test runners."""

import asyncio
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from multiprocessing import get_context
from urllib.request import urlopen

import numpy as np
import psutil
import pytest
import smallstats

import parallelkit as pk

try:
    INSTALLED = metadata.version("smallstats")
except metadata.PackageNotFoundError:
    INSTALLED = ""
# Those that start the workers of others take seconds each.
long = pytest.mark.skipif(not INSTALLED, reason="run by make test-library")

SAMPLE = np.arange(20.0)


def median(numbers):
    return float(np.median(numbers))


def values(seed):
    return smallstats.bootstrap(median, SAMPLE, 6, seed=seed)


def children():
    return [p for p in psutil.Process().children(recursive=True) if p.is_running()]


@pytest.fixture(scope="module")
def expected():
    with pk.configure(backend="serial"):
        return [values(seed) for seed in range(4)]


# ---- test runners --------------------------------------------------------------------------------


def test_workers_of_xdist_share_the_machine(monkeypatch):
    """Each has its part of the cores; without them, or alone, it is all."""
    here = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    monkeypatch.delenv("PYTEST_XDIST_WORKER_COUNT", raising=False)
    cores = pk.cpu_count()
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", here or "2")
    assert pk.cpu_count() == max(1, cores // int(here or 2))


# ---- other pools ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["threading", pytest.param("loky", marks=long)])
def test_joblib(backend, expected):
    """In its workers all stays in the worker, and draws the same."""
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config(backend, n_jobs=2):
        assert joblib.Parallel()(joblib.delayed(values)(n) for n in range(4)) == expected
        places = joblib.Parallel()(joblib.delayed(smallstats.where)(3) for _ in range(4))
    if backend == "loky":
        for place in places:
            assert len({process for process, _ in place}) == 1


@long
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # what Python thinks of it
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_executors(method, expected):
    """Workers of the standard library, also forked beside warm ones of ours."""
    values(0)
    with ProcessPoolExecutor(2, get_context(method)) as executor:
        assert list(executor.map(values, range(4))) == expected


@long
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_scikit_learn(backend):
    """An estimator that trains its members in parallel is searched over, scored, cloned and pickled."""
    pytest.importorskip("sklearn")
    import joblib
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.tree import DecisionTreeRegressor
    from smallstats.bagging import Bagged

    rng = np.random.default_rng(0)
    X, y = rng.random((60, 3)), rng.random(60)
    bagged = Bagged(DecisionTreeRegressor(max_depth=2, random_state=0), seed=1)

    def found(jobs):
        search = GridSearchCV(bagged, {"size": [2, 3]}, cv=2, n_jobs=jobs).fit(X, y)
        scores = cross_val_score(clone(bagged), X, y, cv=2, n_jobs=jobs)
        best = search.best_estimator_
        return search.cv_results_["mean_test_score"].tolist(), scores.tolist(), best

    *alone, best = found(1)
    with joblib.parallel_config(backend):
        *there, _ = found(2)
    assert there == alone
    assert np.array_equal(pickle.loads(pickle.dumps(best)).predict(X), best.predict(X))


# ---- event loops and servers ---------------------------------------------------------------------


def test_asyncio(expected):
    """Tasks configure for themselves, and hold nothing up."""

    async def one(seed, backend):
        with pk.configure(backend=backend, workers=2):
            return await asyncio.to_thread(values, seed)

    async def main():
        kinds = ["process", "thread", "serial", "process"]
        beats = 0

        async def beat():
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.001)

        heart = asyncio.create_task(beat())
        found = await asyncio.gather(*(one(seed, kind) for seed, kind in enumerate(kinds)))
        heart.cancel()
        return found, beats

    found, beats = asyncio.run(main())
    assert found == expected
    assert beats > 1


class Handler(BaseHTTPRequestHandler):
    """Answers with what a seed gives, as the request wants it run."""

    def do_GET(self):
        _, backend, seed = self.path.split("/")
        with pk.configure(backend=backend, workers=2):
            body = repr(values(int(seed))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 64


def test_threads_of_a_server(expected):
    """Requests at the same time get what they ask for, where they ask for it; no processes pile up."""
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            _ask(server, 4)
            before = len(children())
            answers = _ask(server, 40)
            assert len(children()) <= before + 1
        finally:
            server.shutdown()
    assert answers == [repr(expected[n % 4]) for n in range(40)]


def _ask(server, requests):
    kinds = ["process", "thread", "process", "serial", "thread"]

    def ask(n):
        url = f"http://127.0.0.1:{server.server_port}/{kinds[n % 5]}/{n % 4}"
        with urlopen(url, timeout=100) as answer:
            return answer.read().decode()

    with ThreadPoolExecutor(8) as clients:
        return list(clients.map(ask, range(requests)))


# ---- the process around it -----------------------------------------------------------------------


def run(source, **variables):
    """What a script prints that uses the package, and what it says on the side."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    command = [sys.executable, "-W", "always", "-c", "import os, sys, smallstats\n" + source]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


DENIED = """
def deny(event, _):
    if event in ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec"):
        raise PermissionError(13, "not in this sandbox")
sys.addaudithook(deny)
print({pid for pid, _ in smallstats.where(3)} == {os.getpid()})
print(len(smallstats.bootstrap(max, [1.0, 2.0], 3)))
import parallelkit
try:
    smallstats.where(3, backend="process")
except parallelkit.ParallelError as error:
    print("not in this sandbox" in str(error))
"""


def test_where_processes_are_denied():
    """By default it runs on threads and says so once; asked for, it is an error that tells why."""
    out, err = run(DENIED)
    assert out == ["True", "3", "True"]
    assert err.count("lets no processes be started") == 1


LIMITED = """
import numpy, threadpoolctl
def threads(_):
    return float(max(library["num_threads"] for library in threadpoolctl.threadpool_info()))
print({*smallstats.bootstrap(threads, [1.0], 3)})
"""


@long
@pytest.mark.parametrize("backend", ["process", "thread", "serial"])
def test_limits_of_the_user_hold(backend):
    """One thread for numpy is one for each item, wherever it runs."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    assert run(LIMITED, PARALLELKIT_BACKEND=backend, **limits)[0] == ["{1.0}"]


def test_a_bad_variable_is_an_error_of_the_call():
    """The import of the package does not fail for it."""
    source = (
        "try:\n smallstats.where(1)\nexcept ValueError as error:\n print('WORKERS' in str(error))"
    )
    assert run(source, PARALLELKIT_WORKERS="many")[0] == ["True"]


IDLE = """
import psutil, time
import parallelkit as pk
with pk.configure(idle=0.2, workers=2):
    smallstats.where(4)
    while psutil.Process().children():
        time.sleep(0.02)
"""


@long
def test_idle_workers_end():
    """What has had nothing to do for a while has no children, though it goes on."""
    run(IDLE)


@long
def test_nothing_is_left_at_the_end():
    """Nor has a script that has ended."""
    out, _ = run("print(*{pid for pid, _ in smallstats.where(4, backend='process')})")
    assert out
    end = time.monotonic() + 60
    while any(psutil.pid_exists(int(pid)) for pid in out):
        assert time.monotonic() < end
        time.sleep(0.02)
