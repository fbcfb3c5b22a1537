"""The public names, and what importing them costs."""

import __future__

import inspect
import sys
import types

import pytest

import parallelkit as pk

NAMES = {
    "Failure",
    "Halving",
    "Median",
    "ParallelError",
    "Pool",
    "PoolExecutor",
    "Pruned",
    "StoreError",
    "Sweep",
    "SweepInterrupted",
    "TaskTimeout",
    "TransportError",
    "UNSET",
    "WorkerDied",
    "configure",
    "cpu_count",
    "delayed",
    "grid",
    "imap",
    "is_shared",
    "map",
    "map_blocks",
    "nesting",
    "open_sweep",
    "parallel",
    "report",
    "run",
    "sample",
    "share",
    "shared_empty",
    "shutdown",
    "starmap",
    "sweep",
    "trace",
    "uimap",
}
HEAVY = {
    "cloudpickle",
    "dill",
    "joblib",
    "multiprocess",
    "numpy",
    "pathos",
    "psutil",
    "threadpoolctl",
    "tqdm",
}
FUNCTIONS = ("map", "imap", "uimap", "starmap", "run")


def public(module):
    """What a reader of the module would take for public: no modules, no future flags."""
    hidden = (types.ModuleType, type(__future__.annotations))
    return {
        name
        for name in dir(module)
        if not name.startswith("_") and not isinstance(getattr(module, name), hidden)
    }


def test_the_public_names_are_these():
    """Adding, removing or renaming a public name takes a change of this list."""
    assert set(pk.__all__) - {"__version__"} == NAMES
    assert len(pk.__all__) == len(set(pk.__all__))


def test_everything_public_is_listed():
    """Nothing that looks public is missing from ``__all__``, and every listed name exists."""
    assert public(pk) - set(pk.__all__) == set()
    assert all(getattr(pk, name) is not None for name in pk.__all__)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_public_name_says_what_it_is(name):
    """Each public object has a docstring."""
    assert (inspect.getdoc(getattr(pk, name)) or "").strip()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_pool_offers_what_the_module_offers(name):
    """Each function of the module is a method of Pool too."""
    assert callable(getattr(pk.Pool, name))


@pytest.mark.parametrize("name", ["amap", "submit", "close", "terminate", "__enter__", "__exit__"])
def test_pool_has_its_own_methods(name):
    """Pool adds futures and an end of life."""
    assert callable(getattr(pk.Pool, name))


@pytest.mark.parametrize("name", ["WorkerDied", "TaskTimeout", "TransportError"])
def test_one_error_tree(name):
    """Every error of the library is caught as ParallelError, which is a plain Exception."""
    assert issubclass(getattr(pk, name), pk.ParallelError)
    assert issubclass(pk.ParallelError, Exception)


def test_parallel_reserves_two_keywords():
    """``parallel`` takes show and thread, both off by default, and leaves every other keyword to the function."""
    parameters = inspect.signature(pk.parallel).parameters
    assert parameters["show"].default is False
    assert parameters["thread"].default is False
    kinds = [p.kind for p in parameters.values()]
    assert kinds[-1] is inspect.Parameter.VAR_KEYWORD
    assert inspect.Parameter.VAR_POSITIONAL in kinds


def test_import_loads_nothing_heavy(command):
    """``import parallelkit`` leaves numpy, pathos, tqdm, dill and their like for the first use."""
    ran = command(
        ["-c", "import sys, parallelkit; print(*(m.partition('.')[0] for m in sys.modules))"]
    )
    assert "parallelkit" in ran.out.split()
    assert set(ran.out.split()) & HEAVY == set()


def test_a_serial_call_needs_no_process_machinery(command):
    """A pool can be described without loading what starts workers."""
    source = "import sys, parallelkit; parallelkit.Pool(workers=2); print(*sys.modules)"
    assert set(command(["-c", source]).out.split()) & {"multiprocess", "pathos", "numpy"} == set()


def test_a_call_loads_no_numpy(command):
    """A caller that has no use for numpy does not load it, however much comes back at a time."""
    source = """if True:
        import sys, parallelkit as pk
        assert len(pk.Pool(workers=2, chunksize=50_000).map(abs, range(200_000))) == 200_000
        print("numpy" in sys.modules)
        """
    assert command(["-c", source]).out == "False\n"


def test_import_starts_nothing(command):
    """Importing the library and describing a pool starts neither a process nor a thread."""
    source = (
        "import parallelkit, threading, os; parallelkit.Pool(workers=2)\n"
        "print(threading.active_count(), *os.listdir(os.environ['TMPDIR']))"
    )
    assert command(["-c", source]).out.split() == ["1"]


def test_the_package_is_typed():
    """Type checkers find the marker file next to the package."""
    folder = sys.modules["parallelkit"].__path__[0]
    with open(f"{folder}/py.typed") as marker:
        assert marker.readable()
