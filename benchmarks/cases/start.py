"""What a program pays before its first result: whole processes, measured from outside."""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time

from benchmarks.cases.base import Case

_TASK = """
import time

def task(x):
    end = time.perf_counter() + 0.05
    while time.perf_counter() < end:
        pass
    return x + 1

if __name__ == "__main__":
"""

#: The same short program for each library, as its user would write it.
SCRIPTS = {
    "serial": """
    print([task(x) for x in range(8)])
""",
    "parallelkit": """
    import parallelkit as pk
    with pk.Pool(workers={workers}) as pool:
        print(pool.map(task, range(8)))
""",
    "pathos": """
    from pathos.pools import ProcessPool
    print(ProcessPool(nodes={workers}).map(task, range(8)))
""",
    "pool": """
    import multiprocessing
    with multiprocessing.get_context({method!r}).Pool({workers}) as pool:
        print(pool.map(task, range(8)))
""",
    "executor": """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    with ProcessPoolExecutor({workers}, multiprocessing.get_context({method!r})) as pool:
        print(list(pool.map(task, range(8))))
""",
    "joblib": """
    from joblib import Parallel, delayed
    print(Parallel(n_jobs={workers})(delayed(task)(x) for x in range(8)))
""",
    "mpire": """
    from mpire import WorkerPool
    with WorkerPool(n_jobs={workers}) as pool:
        print(pool.map(task, range(8)))
""",
    "dask": """
    from distributed import Client
    with Client(n_workers={workers}, threads_per_worker=1, dashboard_address=None) as client:
        print(client.gather(client.map(task, range(8))))
""",
    "ray": """
    import ray
    ray.init(num_cpus={workers}, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    remote = ray.remote(task)
    print(ray.get([remote.remote(x) for x in range(8)]))
""",
}

IMPORTS = {
    "parallelkit": "import parallelkit",
    "pathos": "from pathos.pools import ProcessPool",
    "pool": "from multiprocessing import Pool",
    "executor": "import concurrent.futures",
    "joblib": "from joblib import Parallel",
    "mpire": "from mpire import WorkerPool",
    "dask": "from distributed import Client",
    "ray": "import ray",
}


class Cold(Case):
    """A script from the start of its interpreter to its exit. The ideal is the interpreter's own start + 200 ms."""

    name = "cold"
    title = "cold script as a whole process, 8 × 50 ms"
    group = "start"
    quick = True
    peers = tuple(SCRIPTS)
    tuned = {"forkserver": ("pool", "executor"), "fork": ("parallelkit",)}
    needs_pool = False

    def setup(self):
        if self.variant:
            self.peer.start_method = self.variant
        self.items = 8
        text = SCRIPTS[self.peer.name]
        if self.peer.name == "parallelkit" and self.variant:
            text = text.replace("workers={workers}", "workers={workers}, start_method={method!r}")
        self.folder = tempfile.TemporaryDirectory()
        self.script = os.path.join(self.folder.name, "script.py")
        with open(self.script, "w") as script:
            script.write(
                _TASK
                + text.lstrip("\n").format(workers=self.peer.workers, method=self.peer.start_method)
            )

    def run(self):
        # a file, not a pipe: helper processes that outlive the script must not prolong it
        with open(os.path.join(self.folder.name, "out"), "w+") as out:
            folder = {"RAY_TMPDIR": self.folder.name, "RAY_USAGE_STATS_ENABLED": "0"}
            _run([sys.executable, self.script], stdout=out, env={**os.environ, **folder})
            out.seek(0)
            return out.read().strip()

    def close(self):
        self.folder.cleanup()

    def check(self, result):
        assert result == str(list(range(1, 9))), "wrong results"


#: A first call of each library, within a script that has imported what its function needs. The pool is kept: one that is
#: dropped ends its workers there and then.
CALLS = {
    "parallelkit": """
    import parallelkit as pk
    pool = pk.Pool(workers={workers}{chosen})
    found = pool.map(task, inputs)
""",
    "pool": """
    import multiprocessing
    pool = multiprocessing.get_context({method!r}).Pool({workers})
    found = pool.map(task, inputs)
""",
    "executor": """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    pool = ProcessPoolExecutor({workers}, multiprocessing.get_context({method!r}))
    found = list(pool.map(task, inputs))
""",
    "joblib": """
    from joblib import Parallel, delayed
    found = Parallel(n_jobs={workers})(delayed(task)(x) for x in inputs)
""",
}


class FirstCall(Cold):
    """The import of the library and its first call, timed by the script itself, in a process of its own."""

    name = "first-call"
    title = "first call of a script: `abs` over two items, numpy imported"
    group = "first-call"
    peers = tuple(CALLS)
    tuned = {"forkserver": ("pool", "parallelkit")}
    rounds = (15, 5)
    head = "import numpy"
    task = "task = abs"
    ready = ""
    told = "time.perf_counter() - began"

    def setup(self):
        if self.variant:
            self.peer.start_method = self.variant
        self.items = 2
        chosen = f", start_method={self.variant!r}" if self.variant else ""
        call = CALLS[self.peer.name].format(
            workers=self.peer.workers, method=self.peer.start_method, chosen=chosen
        )
        self.folder = tempfile.TemporaryDirectory()
        self.script = os.path.join(self.folder.name, "script.py")
        with open(self.script, "w") as script:
            script.write(
                f"import time\n{self.head}\n{self.task}\ninputs = [-1, 2]\n"
                f"if __name__ == '__main__':\n{self.ready}\n    began = time.perf_counter()\n{call}"
                f"    print({self.told})\n    assert found == list(map(task, inputs))\n"
            )

    def measure(self):
        seconds = float(self.run())
        return {"seconds": seconds, "items": self.items, "ideal": None}


class FirstLibrary(FirstCall):
    name = "first-call-library"
    title = "first call of a script: a small fit of scikit-learn, imported by the script"
    head = "import numpy\nfrom sklearn.linear_model import LinearRegression"
    task = (
        "def task(x):\n"
        "    return round(float(LinearRegression().fit(numpy.eye(3), [x, 0, 0]).coef_[0]), 6)"
    )


class FirstSampler(FirstCall):
    name = "first-call-sampler"
    title = "first call of a script: a function of zeus, imported by the script"
    package = "zeus"
    head = "import numpy\nimport zeus"
    task = (
        "chain = numpy.arange(600.0).reshape(50, 4, 3) % 7\n"
        "def task(x):\n    return round(float(zeus.autocorr.AutoCorrTime(x * chain)[0]), 6)"
    )

    @classmethod
    def available(cls):
        return importlib.util.find_spec(cls.package) is not None


class FirstEmcee(FirstSampler):
    name = "first-call-emcee"
    title = "first call of a script: a function of emcee, imported by the script"
    package = "emcee"
    head = "import numpy\nimport emcee"
    task = (
        "chain = numpy.arange(600.0) % 7\n"
        "def task(x):\n    return round(float(emcee.autocorr.function_1d(x * chain)[7]), 6)"
    )


class FirstPyABC(FirstSampler):
    """Of many megabytes of packages, and so not in the extra ``bench``: measured where it is installed."""

    name = "first-call-pyabc"
    title = "first call of a script: a function of pyABC, imported by the script"
    package = "pyabc"
    head = "import pyabc"
    task = (
        "prior = pyabc.Distribution(a=pyabc.RV('uniform', 0, 1))\n"
        "def task(x):\n    return float(prior.pdf({'a': abs(x) / 4}))"
    )


SAMPLERS = FirstSampler, FirstEmcee, FirstPyABC


class AtRest(FirstLibrary):
    """After such a call: memory of the script and of everything that it started, each page counted once."""

    name = "memory-library"
    title = "a script and its workers at rest, scikit-learn imported"
    group = "memory"
    unit = "MB"
    rounds = (3, 1)
    head = f"""{FirstLibrary.head}
def rest():
    import psutil
    time.sleep(0.5)
    us = psutil.Process()
    return sum(one.memory_full_info().pss for one in [us, *us.children(recursive=True)])
"""
    told = "rest()"


class FirstOpenMP(FirstLibrary):
    """Those that fork hang where items use OpenMP too, so they have no part in this."""

    name = "first-call-openmp"
    title = "the same after OpenMP was used in the script"
    peers = ("parallelkit", "joblib")
    tuned = {"forkserver": ("pool",)}
    head = f"{FirstLibrary.head}\nfrom sklearn.ensemble import HistGradientBoostingClassifier"
    ready = "    HistGradientBoostingClassifier(max_iter=2).fit(numpy.eye(40), [0, 1] * 20)\n"


class Import(Case):
    """Against a bare interpreter that is started right before it."""

    name = "import"
    title = "import, over a bare interpreter (ProcessPoolExecutor: `import concurrent.futures`)"
    group = "start"
    quick = True
    peers = tuple(IMPORTS)
    tuned = {"with processes": ("executor",)}
    rounds = (40, 6)
    needs_pool = False

    def setup(self):
        self.statement = IMPORTS[self.peer.name]
        if self.variant == "with processes":
            self.statement = "from concurrent.futures import ProcessPoolExecutor"
        self._wall(self.statement)

    def measure(self):
        bare = self._wall("pass")
        return {"seconds": self._wall(self.statement) - bare, "items": 1, "ideal": None}

    def settings(self):
        return self.statement

    @staticmethod
    def _wall(statement):
        start = time.perf_counter()
        _run([sys.executable, "-c", statement])
        return time.perf_counter() - start


def _run(command, **options):
    """Run it to its end; what it printed last says why it failed."""
    with tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.run(command, check=False, stderr=stderr, **options)
        if process.returncode:
            stderr.seek(0)
            last = (stderr.read().splitlines() or [""])[-1]
            raise RuntimeError(f"exit code {process.returncode}: {last}")
