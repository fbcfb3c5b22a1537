"""CPython's own tests of executors, bound to `PoolExecutor` on each backend: ``make accept-futures``."""

import functools
import importlib
import os
import sys

import runner

import parallelkit as pk

PACKAGE = "test.test_concurrent_futures"
MODULES = ("executor", "util", "test_init", "test_shutdown", "test_wait", "test_as_completed")

try:
    THEIRS = [importlib.import_module(PACKAGE)]
    if hasattr(THEIRS[0], "__path__"):  # one module until 3.11
        THEIRS = [importlib.import_module(f"{PACKAGE}.{name}") for name in MODULES]
except ModuleNotFoundError:
    runner.missing(PACKAGE)


def theirs(name):
    return next(getattr(module, name) for module in THEIRS if hasattr(module, name))


# ---- ours ----------------------------------------------------------------------------------------

BACKENDS = {
    "process": {"backend": "process"},
    "spawn": {"backend": "process", "start_method": "spawn"},
    "fork": {"backend": "process", "start_method": "fork"},
    "thread": {"backend": "thread"},
}


class EndWorkers:
    """Workers are kept warm; these tests look for leftovers."""

    def tearDown(self):
        pk.shutdown()
        super().tearDown()


def mixin(options):
    class PoolExecutor(pk.PoolExecutor):
        def __init__(self, *args, **more):
            super().__init__(*args, **{**options, **more})

    kind = type("Mixin", (theirs("ExecutorMixin"),), {"executor_type": PoolExecutor})
    kind.pk_options = options
    return kind


def in_script(original):
    """Their scripts import the executor from the standard library: let them import ours."""

    @functools.wraps(original)
    def assert_python_ok(*args, **env):
        options = CURRENT[0].pk_options
        source = args[-1].replace(
            "from concurrent.futures import PoolExecutor",
            "from functools import partial; import parallelkit; "
            f"PoolExecutor = partial(parallelkit.PoolExecutor, **{options!r})",
        )
        path = os.pathsep.join(
            filter(None, [os.path.dirname(os.path.dirname(pk.__file__)), *sys.path])
        )
        return original(*args[:-1], source, **{"PYTHONPATH": path, **env})

    return assert_python_ok


CURRENT = []


class Current:
    def run(self, result=None):
        CURRENT[:] = [self]
        return super().run(result)


for module in THEIRS:
    if hasattr(module, "assert_python_ok"):
        module.assert_python_ok = in_script(module.assert_python_ok)

CASES = runner.bind(
    [
        theirs(name)
        for name in (
            "ExecutorTest",
            "ExecutorShutdownTest",
            "WaitTests",
            "AsCompletedTests",
        )
    ],
    {name: mixin(options) for name, options in BACKENDS.items()},
    (EndWorkers, Current, theirs("BaseTestCase")),
    globals(),
)

EXCLUDED = {}

if __name__ == "__main__":
    sys.exit(runner.run(CASES, EXCLUDED))
