"""Modules that no worker could import, made by hand or from a file outside the path; no guard."""

import importlib
import importlib.util
import inspect
import math
import multiprocessing
import os
import sys
import types
import xml
from pathlib import Path

import bookkeeping
import cloudpickle
from cases import case, run_cases

import __main__
import parallelkit as pk

ITEMS = [0, 1]


def module(name, source):
    made = sys.modules[name] = types.ModuleType(name)
    exec(source, made.__dict__)
    return made


ghost = module("ghost", "K = 1\n__version__ = '7'\ndef f(_): return K\nclass C: z = 1\n")
package = module("package", "__path__ = []\n")
package.inner = module("package.inner", "V = 1\n")
unlisted = types.ModuleType("unlisted")
unlisted.V = 1
LIMIT = 1


def knows_its_part(_):
    try:
        return xml.dom.__name__
    except AttributeError:
        return None


class Documents:
    def part(self, _):
        try:
            return xml.dom.__name__
        except AttributeError:
            return None


@case
def a_part_of_a_package_that_is_imported_later():
    """Functions and methods that name it find it in workers as soon as the caller does."""
    part = Documents().part
    assert pk.map(knows_its_part, ITEMS) == pk.map(part, ITEMS) == [None] * 2
    importlib.import_module("xml.dom")
    assert pk.map(knows_its_part, ITEMS) == pk.map(part, ITEMS) == ["xml.dom"] * 2


def imports(_):
    import ghost as again
    from package import inner

    return again.K, again.C.z, inner.V


@case
def members_and_what_changes_of_them():
    assert pk.map(ghost.f, ITEMS) == [1, 1]
    assert pk.map(imports, ITEMS) == [(1, 1, 1)] * 2
    ghost.K, ghost.C.z, package.inner.V, ghost.new = 2, 3, 4, len
    assert pk.map(imports, ITEMS) == [(2, 3, 4)] * 2
    assert pk.map(lambda _: (ghost.K, ghost.__version__), ITEMS) == [(2, "7")] * 2
    assert (
        pk.map(lambda _: (ghost.f(0), package.inner.V, ghost.new("ab")), ITEMS) == [(2, 4, 2)] * 2
    )
    del ghost.new
    assert pk.map(lambda _: hasattr(ghost, "new"), ITEMS) == [False] * 2


@case
def modules_there_and_back():
    assert pk.map(lambda _: unlisted.V, ITEMS) == [1, 1]
    unlisted.V = 2
    assert pk.map(lambda m: (m.__name__, m.V), [unlisted, unlisted]) == [("unlisted", 2)] * 2
    assert all(
        pk.map(lambda m: m, [ghost, unlisted])[i] is m for i, m in enumerate([ghost, unlisted])
    )


@case
def closures_of_an_imported_module_run_on_that_module():
    if not {"process", "thread", "serial"} & set(sys.argv[1].split('"')):
        return  # workers of others have copies
    found, state = bookkeeping.rememberer(), bookkeeping.state
    with pk.Pool(1, initializer=bookkeeping.remember, initargs=("worker",)) as pool:
        assert pool.map(found, ["item"]) == [(True, 1, ["worker", "item"])]
        bookkeeping.LEVEL = 2
        assert pool.map(found, ["more"]) == [(True, 2, ["worker", "item", "more"])]
        bookkeeping.LEVEL = 1
        assert pool.map(state, [0]) == [(1, ["worker", "item", "more"])]
        bookkeeping.SEEN = ["caller"]
        assert pool.map(found, ["item"]) == [(True, 1, ["caller", "item"])]
        bookkeeping.state = lambda: 0
        assert pool.map(found, ["item"])[0][0] is False
        bookkeeping.state = state
        assert pool.map(found, ["item"])[0][0] is True
    bookkeeping.LEVEL, bookkeeping.SEEN = 3, ["changed"]
    with pk.Pool(1) as pool:  # of which nothing is known yet
        assert pool.map(found, ["item"]) == [(True, 3, ["changed", "item"])]


@case
def a_module_that_is_registered_to_go_by_value():
    """What cloudpickle is told of a module counts for it, also after its globals have been sent."""
    pk.map(bookkeeping.rememberer(), ITEMS)
    cloudpickle.register_pickle_by_value(bookkeeping)
    try:
        bookkeeping.LEVEL = 7
        assert pk.map(lambda _: bookkeeping.LEVEL, ITEMS) == [7] * 2
    finally:
        cloudpickle.unregister_pickle_by_value(bookkeeping)


class Lazy(types.ModuleType):
    """A module that makes what it is asked for."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{name} {self.mark}"

    def __call__(self, x):
        return x + 1

    @property
    def all(self):
        return sorted(n for n in vars(self) if not n.startswith("_"))


lazy, of_nobody = Lazy("lazy"), Lazy("of_nobody")
sys.modules["lazy"] = lazy
lazy.mark, of_nobody.mark = 1, 2


@case
def modules_of_a_class_of_their_own():
    def ask(x):
        import lazy as again

        return again.name, again(x), again.all, type(again) is Lazy, again is lazy

    assert pk.map(ask, ITEMS) == [ask(x) for x in ITEMS]
    lazy.mark = 3
    assert pk.map(ask, ITEMS) == [ask(x) for x in ITEMS]
    assert pk.map(lambda m: (m.name, m(1), type(m) is Lazy), [of_nobody]) == [("name 2", 2, True)]
    assert pk.map(lambda _: of_nobody, [0])[0] is of_nobody
    __main__.__class__ = Lazy
    assert pk.map(lambda _: (__main__(1), __main__.LIMIT), [0]) == [(2, LIMIT)]
    __main__.__class__ = types.ModuleType
    assert pk.map(lambda _: callable(__main__), [0]) == [False]


def with_a_file(_):
    file = __main__.__file__
    __main__.__file__ = "another"
    found = [__main__.__file__, __file__]
    del __main__.__file__
    found.append(hasattr(__main__, "__file__"))
    __main__.__file__ = file
    return found, __file__ == file


@case
def the_file_of_the_script_may_be_set():
    assert pk.map(with_a_file, [0]) == [with_a_file(0)]


@case
def a_module_from_a_file_outside_the_path():
    file = Path(os.environ["TMPDIR"], "outside.py")
    file.write_text("K = 1\nL = []\ndef f(_): return K, L\n")
    spec = importlib.util.spec_from_file_location("outside", file)
    outside = sys.modules["outside"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(outside)
    file.unlink()

    def both(_):
        import outside as again

        return again.f(0), outside.K, Path(outside.__file__).name

    assert pk.map(both, ITEMS) == [((1, []), 1, "outside.py")] * 2
    outside.K = 2
    outside.L.append(3)
    assert pk.map(both, ITEMS) == [((2, [3]), 2, "outside.py")] * 2


@case
def the_script_as_a_module():
    global LIMIT
    for LIMIT in (5, 6):
        assert pk.map(lambda _: __main__.LIMIT, ITEMS) == [LIMIT] * 2
        assert pk.map(lambda _: sys.modules["__main__"].LIMIT, ITEMS) == [LIMIT] * 2


class Outer:
    class Inner:
        value = 1


def exit_code(_):
    process = multiprocessing.get_context("spawn").Process(target=math.sqrt, args=(4,))
    process.start()
    process.join()
    return process.exitcode


@case
def the_source_of_the_script():
    for of in (Outer, Outer.Inner, exit_code, __main__, lambda _: 1):
        assert pk.map(lambda _: inspect.getsource(of), [0]) == [inspect.getsource(of)]  # noqa: B023
    assert pk.map(lambda _: __file__, [0]) == [__file__]
    if (
        "executor" not in sys.argv[1]
        and "thread" not in sys.argv[1]
        and "loky" not in sys.argv[1]  # in whose workers no process can be spawned, also without us
        and "serial" not in sys.argv[1]
    ):
        assert pk.map(exit_code, [0]) == [0]  # it does not run this script again


run_cases()
