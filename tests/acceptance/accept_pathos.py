"""The own tests of pathos, run on our pools: ``make accept-pathos``."""

import importlib
import sys
import unittest

import pathos.pools
import runner

import parallelkit as pk
from parallelkit.integrations import multiprocessing as plain
from parallelkit.integrations import pathos as ours

MODULES = ("decorate", "join", "map", "mp", "random", "star", "with")
NOT_OURS = "about ParallelPool, which is none of ours"
OURS = {name: getattr(ours, name) for name in ("ProcessPool", "ThreadPool", "SerialPool")}


class Instead:
    """In the place of ParallelPool, where a test uses it beside the others: another of ours."""

    def __new__(cls, *args, **options):
        return OURS["ProcessPool"](*args, **options)


def bind():
    """Let the names by which their tests find a pool mean ours."""
    # Only here: our own helpers are threads of pathos.threading, our processes of its sibling.
    vars(pathos.pools).update(OURS, ParallelPool=Instead)
    vars(pathos.pools).update(_ProcessPool=plain.Pool, _ThreadPool=plain.ThreadPool)
    # A private name of theirs, by which a test asks for the number of nodes.
    for name, kind in OURS.items():
        setattr(kind, f"_{name}__nodes", kind.nodes)


def cases():
    bind()
    made = []
    for name in MODULES:
        module = importlib.import_module(f"pathos.tests.test_{name}")
        if name == "join":  # this one looks for them where they are defined
            vars(module).update(OURS, ParallelPool=Instead)
        methods = {
            "setUp": lambda self: [pool.__state__.clear() for pool in OURS.values()],
        }
        methods |= {
            test: (lambda self, function=function: function())
            for test, function in vars(module).items()
            if test.startswith("test_")
        }
        made.append(type(f"pathos_{name}", (unittest.TestCase,), methods))
    return made


EXCLUDED = {
    "map.test_pp": NOT_OURS,
    "star.test_pp": NOT_OURS,
    "with.test_with_pp": NOT_OURS,
}

if __name__ == "__main__":
    code = runner.run(cases(), EXCLUDED)
    pk.shutdown()
    sys.exit(code)
