"""Modules that no worker could import, made by hand or from a file outside the path; no guard."""

import importlib.util
import inspect
import math
import multiprocessing
import os
import sys
import types
from pathlib import Path

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
