"""The backends on which one contract is tested, and the checks that nothing is left behind.

``pool`` is a factory: ``pool(chunksize=1)`` gives a Pool of two workers on the backend of this run of the test.
"""

import contextlib
import itertools
import shutil
import signal
import tempfile
import threading
from pathlib import Path

import engines
import helpers
import left_out
import psutil
import pytest
from backends import BACKENDS, CONCURRENT, EITHER, OTHER_START_METHODS, PROCESSES, START_METHODS
from hypothesis import settings
from running import run_script

import parallelkit as pk

# The same examples in every run: a suite that is red now and then is red for nobody.
settings.register_profile("contract", derandomize=True, database=None, deadline=None)
settings.load_profile("contract")
settings.register_profile("fuzz", database=None, deadline=None)  # other ones each time: `make fuzz`

# A shell has what it runs in the background ignore Ctrl-C, and so would all that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def _factory(options):
    """A maker of pools; afterwards, workers of these options must still answer rightly."""
    if callable(options):
        options = options()
    with contextlib.ExitStack() as stack:

        def make(**more):
            pool = pk.Pool(**{"workers": 2, **options, **more})
            stack.callback(pool.close)
            return pool

        make.backend = options["backend"]
        make.pickles = make.backend not in ("thread", "serial")
        make.elsewhere = make.backend not in ("process", "thread", "serial")
        make.start_method = options.get("start_method")
        yield make
        assert make().map(helpers.increment, range(8)) == list(range(1, 9)), (
            "the workers did not survive this test"
        )


def pytest_generate_tests(metafunc):
    """Each case runs once for each thing that can differ.

    A module whose cases have nothing to do with how processes start says ONE_START_METHOD = True, and marks
    those that have with ``each_start_method``.
    """
    here = {
        "pool": BACKENDS,
        "concurrent_pool": CONCURRENT,
        "process_pool": PROCESSES,
        "either_pool": EITHER,
    }
    for fixture in here.keys() & set(metafunc.fixturenames):
        names = list(here[fixture])
        one = getattr(metafunc.module, "ONE_START_METHOD", False)
        if one and metafunc.definition.get_closest_marker("each_start_method") is None:
            names = [name for name in names if name not in OTHER_START_METHODS]
        metafunc.parametrize(fixture, names, indirect=True)


def pytest_collection_modifyitems(items):
    """Skip what this system has not, and tell why."""
    reasons = left_out.reasons()
    for item in items:
        name = item.path.stem.removeprefix("test_"), getattr(item, "originalname", None)
        if name in reasons:
            item.add_marker(pytest.mark.skip(reason=reasons[name]))


@pytest.fixture
def pool(request):
    """Pools on every backend and start method."""
    with _factory(BACKENDS[request.param]) as make:
        yield make


@pytest.fixture
def concurrent_pool(request):
    """Pools that run two items at a time."""
    with _factory(CONCURRENT[request.param]) as make:
        yield make


@pytest.fixture
def either_pool(request):
    """Pools of two kinds: items are pickled, or stay what they are."""
    with _factory(BACKENDS[request.param]) as make:
        yield make


@pytest.fixture
def process_pool(request):
    """Pools of processes, under each start method."""
    with _factory(PROCESSES[request.param]) as make:
        yield make


@pytest.fixture
def thread_pool():
    """Pools of threads."""
    with _factory(BACKENDS["thread"]) as make:
        yield make


@pytest.fixture(params=START_METHODS)
def start_method(request):
    return request.param


@pytest.fixture
def folder(tmp_path):
    """An empty folder for the files by which items talk to a test."""
    path = tmp_path / "files"
    path.mkdir()
    return path


# ---- nothing left --------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def temp_folder(tmp_path_factory):
    """The temporary folder of this session: whatever lies in it after a shutdown was left behind."""
    tmp_path_factory.getbasetemp()  # pytest's own files stay where they are
    with tempfile.TemporaryDirectory(prefix="pk-") as path, pytest.MonkeyPatch.context() as patch:
        for name in ("TMPDIR", "TEMP", "TMP"):
            patch.setenv(name, path)
        patch.setattr(tempfile, "tempdir", path)
        yield Path(path)


def _children():
    """Processes below this one, but for the standard library's tracker, which lives as long as its owner."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "resource_tracker" not in " ".join(child.cmdline()):
                found.append(child)
    return found


@pytest.fixture(scope="module", autouse=True)
def nothing_left(temp_folder):
    """After the tests of a file, shutdown leaves no process, no thread that keeps Python alive, and no file."""
    before = set(threading.enumerate())
    yield
    pk.shutdown()
    engines.end()
    helpers.wait_until(lambda: not _children(), f"the end of {_children()}")
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon and not thread.name.startswith("pytest_timeout"):
            thread.join(10)
            assert not thread.is_alive(), f"{thread} was left behind"
    for theirs in ("dask-scratch-space", "ray"):  # which they keep
        shutil.rmtree(temp_folder / theirs, ignore_errors=True)
    assert sorted(temp_folder.rglob("*")) == []


# ---- scripts -------------------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path):
    """Write a source to a file and run it as a script."""
    numbers = itertools.count()

    def run(source, *args, **options):
        path = tmp_path / f"script_{next(numbers)}.py"
        path.write_text(source)
        return run_script([path, *args], **options)

    return run


@pytest.fixture(scope="session")
def command():
    """Run ``python`` with the given arguments and standard input."""
    return run_script
