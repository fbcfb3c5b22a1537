"""Which functions and values can travel: each case of the scripts, as ``__main__``, and those of this module.

The scripts in ``scripts/`` define everything in ``__main__``, have no guard, and print one line for each case, so
that one start of Python serves all of them.
"""

import abc
import functools
import importlib
import json
import multiprocessing
import operator
import os
import re
import runpy
import sys
import threading
from collections import namedtuple
from pathlib import Path

import engines
import numpy as np
import pytest
from backends import BACKENDS
from helpers import consume, identity
from running import run_script

import parallelkit as pk
from parallelkit.place import system

SCRIPTS = Path(__file__).parent / "scripts"
CASES = [
    (path.stem, name)
    for path in sorted(SCRIPTS.glob("values_*.py"))
    for name in re.findall(r"^@case\ndef (\w+)", path.read_text(), re.MULTILINE)
]


@pytest.fixture(scope="module")
def outcomes():
    """Run a script of values on a backend once; a dict of its cases with the traceback of what went wrong."""

    @functools.cache
    def run(stem, backend):
        options = BACKENDS[backend]
        told = json.dumps({"backend": backend} if callable(options) else options)
        words = [SCRIPTS / f"{stem}.py", told]
        words = engines.under_mpi(3, words) if backend == "mpi" else words
        ran = run_script(words, timeout=300 if engines.WANTED else 90)
        assert ran.err == ""
        return dict(ran.values)

    return run


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("stem", "name"), CASES)
def test_value_of_main(outcomes, stem, name, backend):
    """A function or class of a script's ``__main__`` works on every backend as it does in a loop."""
    assert outcomes(stem, backend)[name] is None, outcomes(stem, backend)[name]


# ---- of a module ---------------------------------------------------------------------------------

Pair = namedtuple("Pair", "left right")  # noqa: PYI024 (the kind that is tested)


class Scaler:
    """A callable with state, and methods of each kind."""

    unit = 3

    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return x * self.by

    def scale(self, x):
        return x * self.by

    @classmethod
    def scale_unit(cls, x):
        return x * cls.unit

    @staticmethod
    def double(x):
        return 2 * x


def decorated(function):
    @functools.wraps(function)
    def wrapper(x):
        return function(x) + 1

    return wrapper


@decorated
def wrapped(x):
    return x * 100


@functools.lru_cache
def cached(x):
    return x * 7


FUNCTIONS = {
    "lambda": lambda x: x + 0.5,
    "partial": functools.partial(operator.sub, 100),
    "partial of a lambda": functools.partial(lambda a, x: a - x, 100),
    "callable with state": Scaler(4),
    "bound method": Scaler(5).scale,
    "class method": Scaler.scale_unit,
    "static method": Scaler.double,
    "unbound method": functools.partial(Scaler.scale, Scaler(2)),
    "wraps": wrapped,
    "lru_cache": cached,
    "builtin": abs,
    "method of a builtin type": int.bit_length,
    "method of a builtin object": {i: -i for i in range(20)}.get,
    "class": str,
    "ufunc": np.negative,
    "uses a generator function": consume,
    "operator": operator.neg,
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_function_of_a_module(either_pool, kind):
    """Every kind of callable gives what it gives in a loop."""
    function = FUNCTIONS[kind]
    assert either_pool().map(function, range(12)) == [function(x) for x in range(12)]


class Odd:
    """Whatever it is asked for beside what it has, it raises no AttributeError."""

    def __getattr__(self, name):
        raise KeyError(name)

    def __reduce__(self):
        return Odd, ()

    def __call__(self, x, y=1):
        return x + y


def test_an_object_that_has_attributes_of_its_own_making(pool):
    """What a callable answers when it is asked for attributes does not matter, as in a loop."""
    own = pool()
    assert own.map(Odd(), range(3)) == [1, 2, 3]
    assert list(own.imap(Odd(), range(3), y=2)) == [2, 3, 4]
    assert own.starmap(Odd(), [(1, 2)]) == [3]
    assert own.submit(Odd(), 1).result() == 2


def test_closures_and_local_classes(pool):
    """A local function sees its surroundings, and results of a local class are of that very class."""
    offset = 5

    class Local:
        def __init__(self, x):
            self.x = x + offset

    def build(x):
        return Local(x)

    results = pool().map(build, range(4))
    assert [type(r) for r in results] == [Local] * 4
    assert [r.x for r in results] == [5, 6, 7, 8]


def test_local_errors_are_caught(pool):
    """``except`` catches an error of a class that was made in a function."""

    class LocalError(Exception):
        pass

    def fail(x):
        raise LocalError(x)

    with pytest.raises(LocalError):
        pool().map(fail, [1])


def test_a_closure_is_as_it_is_now(pool):
    """A variable of a closure that changes between two calls is seen by the second."""
    factor, own = 2, pool()

    def scale(x):
        return x * factor

    first = own.map(scale, range(4))
    factor = 3
    assert (first, own.map(scale, range(4))) == ([0, 2, 4, 6], [0, 3, 6, 9])


SHARED = [1, 2]
VALUES = {
    "namedtuple": Pair(1, Pair(2, 3)),
    "function": wrapped,
    "class": Scaler,
    "module": np,
    "deep": functools.reduce(lambda inner, _: [inner], range(100), 0),
    "huge integer": 7**5000,
    "nothing": None,
    "ellipsis": ...,
    "bytes": bytes(range(256)),
    "path": Path("a/b"),
    "pattern": re.compile("a+"),
    "exception class": KeyError,
}


@pytest.mark.parametrize("kind", VALUES)
def test_value_there_and_back(either_pool, kind):
    """A value comes back equal and of the same type."""
    value = VALUES[kind]
    results = either_pool().map(identity, [value] * 3)
    assert results == [value] * 3
    assert {type(r) for r in results} == {type(value)}


def test_shared_references_within_an_item_stay_shared(pool):
    """Two references to one object within an item are two references to one object in the worker."""
    assert pool().map(lambda pair: pair[0] is pair[1], [(SHARED, SHARED)] * 3) == [True] * 3


def test_a_module_on_a_path_that_was_added_later(pool, tmp_path, monkeypatch):
    """Functions of a module are found by workers that started before its folder was on the path."""
    own = pool()
    assert own.map(identity, range(4)) == [0, 1, 2, 3]
    name = f"later_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text("def triple(x):\n    return 3 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__(name)
    try:
        assert own.map(module.triple, range(4)) == [0, 3, 6, 9]
    finally:
        del sys.modules[name]


RUN_BY_HAND = """
import abc
import functools
import parallelkit as pk
START = 3
class Thing:
    pass
class OwnError(Exception):
    pass
def add(x):
    return x + START
def make(x):
    return Thing()
def fail(x):
    raise OwnError
@functools.lru_cache
def remember(x):
    return x + START
def use(pool):
    found = [pool.map(func, [1, 2]) for func in (add, remember)]
    try:
        pool.map(fail, [1])
    except OwnError:
        found.append([type(thing) is Thing for thing in pool.map(make, [1])])
    return found
if POOL is not None:
    FOUND = use(POOL)
"""


def test_modules_that_are_reloaded(process_pool, tmp_path, monkeypatch):
    """What is run of a module that was edited and reloaded, or imported anew, is the new code."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    name = f"edited_{process_pool.start_method}"
    path = tmp_path / f"{name}.py"

    def write(step):
        path.write_text(
            f"step = {step}\ndef add(x): return x + {step}\ndef by_name(x): return x + step\n"
        )
        os.utime(path, (step, step))  # a file of the same second is taken for the same

    def calls(module):
        functions = module.add, module.by_name, lambda x: importlib.import_module(name).add(x)
        return [process_pool().map(function, [0, 0]) for function in functions]

    write(1)
    module = importlib.import_module(name)
    assert calls(module) == [[1, 1]] * 3
    write(20)
    importlib.reload(module)
    assert calls(module) == [[20, 20]] * 3
    write(300)
    del sys.modules[name]
    assert calls(importlib.import_module(name)) == [[300, 300]] * 3


@pytest.mark.parametrize("name", [None, "made_by_hand", "__main__"])
def test_modules_that_were_run_and_not_imported(process_pool, tmp_path, name):
    """Functions and classes of what runpy runs, while it runs and after it, whatever it is called."""
    path = tmp_path / "run_by_hand.py"
    path.write_text(RUN_BY_HAND)
    pool = process_pool()
    space = runpy.run_path(str(path), {"POOL": pool}, name)
    assert space["FOUND"] == space["use"](pool) == [[4, 5], [4, 5], [True]]


ITS_OWN = """
import abc, json, sys
import parallelkit as pk

options = json.loads(sys.argv[1])
pool = pk.Pool(1, **options)

class Count(abc.ABC):
    n, told = 0, "before"

    def name(self):
        return type(self).__name__

    @classmethod
    def up(cls):
        cls.n += 1
        cls.by_items = cls.n
        return cls.n, cls.by_items, cls.told, issubclass(int, cls), getattr(cls, "more", None)

class Inner(Count):
    def name(self):
        return "inner of " + super().name()

def calls(x, seen=[]):
    seen.append(x)
    calls.n = getattr(calls, "n", 0) + 1
    return list(seen), calls.n, getattr(calls, "told", None)

def say(function, x=0):
    print(json.dumps(pool.map(function, [x])))

def both(_):
    return Count.up(), calls(1), Inner().name()

say(both)
Count.more, calls.told = 1, "told"
say(both)
del Count.more
Count.told = "after"
Count.register(int)
say(both)
Inner.name = lambda self: super(Inner, self).name() + " within"
say(both)
say(len, "ab")
say(lambda x: len(x), "ab")
len = lambda x: "of the script"
say(lambda x: len(x), "ab")
measure = lambda x: abs(x)
say(measure, -1)
abs = str
say(measure, -1)
del abs
say(measure, -1)
"""


def test_what_a_worker_has_of_its_own_stays(script, start_method):
    """What items have changed of a class or function stays, whatever else the caller changes of it."""
    told = [
        script(ITS_OWN, json.dumps(options))
        for options in ({"backend": "serial"}, {"start_method": start_method})
    ]
    assert [ran.err for ran in told] == ["", ""]
    assert told[1].values == told[0].values
    assert len(told[0].values) == 10


GUARDED = """
import json, multiprocessing
from concurrent.futures import ProcessPoolExecutor
import parallelkit as pk

class Number:
    def __init__(self, value):
        self.value = value

def square(x):
    return Number(x.value**2)

def starts(x, method):
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(square, Number(x)).result().value

if __name__ == "__main__":
    print("begins")
    for method in multiprocessing.get_all_start_methods():
        print(json.dumps(pk.Pool(2, backend="process").map(starts, [3], method=method)))
"""


def test_processes_that_an_item_starts_find_a_script_with_a_guard(script):
    """As in a loop, they run the script once more, and have its functions."""
    ran = script(GUARDED)
    assert ran.out.split() == ["begins", *["[9]"] * len(multiprocessing.get_all_start_methods())]
    assert ran.err == ""


def test_ufuncs_of_a_users_own(process_pool):
    """numpy.frompyfunc makes functions that numpy itself can only find by their names."""
    halve, join = (
        np.frompyfunc(lambda x: x / 2, 1, 1),
        np.frompyfunc(operator.add, 2, 1, identity=0),
    )
    pool = process_pool()
    assert pool.map(halve, [2, 4]) == [1, 2]
    assert pool.map(lambda x: (join.reduce([x, x]), join.identity), [1, 2]) == [(2, 0), (4, 0)]
    assert pool.map(np.add, [1, 2], [3, 4]) == [4, 6]


def test_what_cloudpickle_knows_is_asked_of_it():
    """It is imported when the first of these is sent, so a newer one must not know of kinds that are not named."""
    from cloudpickle.cloudpickle import Pickler

    from parallelkit.transport import byvalue

    own = {*byvalue._OWN, type(os), abc.abstractmethod}
    asked = byvalue._FOR_CLOUDPICKLE | own
    modules = byvalue._MODULES_FOR_CLOUDPICKLE
    assert {k for k in Pickler._dispatch_table if k.__module__ not in modules} <= asked


@pytest.mark.skipif(sys.version_info < (3, 12), reason="such classes are newer")
def test_bases_of_a_generic_class_within_a_class():
    """They are looked up by an operation of their own, and are globals that a function needs all the same."""
    ran = run_script(
        ["-"],
        "import parallelkit as pk\n"
        "class Base: pass\n"
        "def related(x):\n"
        "    class Outer:\n"
        "        class Inner[T](Base): pass\n"
        "    return Outer.Inner.__bases__[0].__name__\n"
        "print(pk.Pool(2, backend='process').map(related, [1]))\n",
    )
    assert ran.out == "['Base']\n"


def test_a_number_of_more_digits_than_can_be_printed():
    """A global is compared with what was sent before, an argument is part of a failure; neither is printed."""
    ran = run_script(
        ["-"],
        "import parallelkit as pk\n"
        "pool = pk.Pool(2, backend='process', on_error='return')\n"
        "for number in (10**5000, 10**5000 + 1):\n"
        "    print(*pool.map(lambda x: number % 7 // x, [1, 0]))\n"
        "print(pool.map(lambda x: x // 0, [number]))\n",
    )
    lines = ran.out.splitlines()
    assert [line[0] for line in lines] == ["2", "3", "["]
    assert "args=<tuple>" in lines[2]


def test_a_closure_that_cannot_be_sent_and_has_a_variable_that_is_not_bound(process_pool):
    """The error names the other variable."""
    lock = threading.Lock()

    def locked(_):
        return lock, later

    with lock, pytest.raises(pk.TransportError, match="its variable 'lock'"):
        process_pool().map(locked, [1])
    later = None


def test_a_named_function_needs_no_cloudpickle():
    """Its import takes as long as to fork a worker."""
    ran = run_script(
        ["-"],
        "import sys, parallelkit as pk\n"
        "print(pk.Pool(2).map(abs, [-1, 2]), 'cloudpickle' in sys.modules, 'pathos' in sys.modules)\n",
    )
    assert ran.out.startswith("[1, 2] False ")
    # pathos takes the workers over some time later, which may have come where a start takes long.
    assert not system.FORKS_WELL or ran.out.endswith(" False\n")


def test_a_class_that_names_itself_by_another_module(pool):
    """A failure or skip of pytest arrives as that, though it says that it is one of Python's own."""
    for told in (pytest.fail, pytest.skip):
        with pytest.raises(told.Exception, match="within"):
            pool().map(lambda x, told=told: told("within"), [1])
    (failure,) = pool(on_error="return").map(lambda x: pytest.fail("within"), [1])
    assert type(failure.exception) is pytest.fail.Exception
