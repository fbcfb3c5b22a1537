"""Functions of ``__main__`` that depend on what may change: modules, loggers, classes, folders; no guard."""

import contextlib
import functools
import logging
import math as mathematics
import os
import shutil
import sys
import warnings
from pathlib import Path

from cases import case, run_cases

import parallelkit as pk

ITEMS = list(range(8))


def check(function, expected=None):
    """The parallel call gives what the loop gives."""
    assert pk.map(function, ITEMS) == (expected or [function(x) for x in ITEMS])


@case
def modules_as_globals():
    check(lambda x: mathematics.sqrt(x**2) + len(os.sep))


log = logging.getLogger("cases")


def logs(x):
    log.debug("item %s", x)
    return x, log.name


@case
def logger_as_a_global():
    check(logs)


@case
def logger_as_an_argument():
    assert pk.map(lambda x, log: log.name, ITEMS, log=log) == ["cases"] * 8
    both = [log, logging.getLogger("cases.deep")]
    assert pk.map(lambda log: log, both) == both


class Careful(UserWarning):
    pass


def warns(x):
    warnings.warn(Careful("careful", x), stacklevel=1)
    warnings.warn("very careful", Careful, stacklevel=1)
    return x


@case
def warnings_of_a_category_of_the_script():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check(warns)
    assert {warning.category for warning in caught} == {Careful}
    assert len(caught) == 4 * len(ITEMS)


class Config:
    rate = 1


@case
def attributes_of_classes_as_they_are_now():
    assert pk.map(lambda x: x * Config.rate, ITEMS) == ITEMS
    Config.rate = 2
    assert pk.map(lambda x: x * Config.rate, ITEMS) == [2 * x for x in ITEMS]
    Config.method = lambda self: "new"
    assert pk.map(lambda c: c.method(), [Config()]) == ["new"]


@case
def a_class_defined_anew():
    global Config
    old, Config = Config, type("Config", (), {"rate": 30})
    assert pk.map(lambda x: x * Config.rate, ITEMS) == [30 * x for x in ITEMS]
    assert [type(r) for r in pk.map(lambda c: c(), [old, Config])] == [old, Config]


@case
def what_another_call_has_seen_before():
    global Config
    pool = pk.Pool(chunksize=1)
    for rate in range(4):
        assert pool.map(lambda _: Config.rate, ITEMS) == [Config.rate] * 8  # noqa: B023 - a global
        old, Config = Config, type("Config", (), {"rate": rate})
        assert pool.map(lambda c: c.rate, [old]) == [old.rate]


@contextlib.contextmanager
def module_in_a_new_folder(name, source):
    """A folder with a module; afterwards it is gone, with the byte code that a worker may have written."""
    folder = Path(os.environ["TMPDIR"], f"of-{name}")
    folder.mkdir()
    (folder / f"{name}.py").write_text(source)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@case
def a_module_on_a_path_added_later():
    with module_in_a_new_folder("came_later", "def triple(x):\n    return 3 * x\n") as folder:
        sys.path.insert(0, str(folder))
        import came_later

        check(came_later.triple)
        sys.path.remove(str(folder))


@case
def a_module_of_the_working_directory():
    home = Path.cwd()
    with module_in_a_new_folder("lies_here", "def sixfold(x):\n    return 6 * x\n") as folder:
        os.chdir(folder)
        sys.path.insert(0, "")
        try:
            import lies_here

            check(lies_here.sixfold)
        finally:
            os.chdir(home)
            sys.path.remove("")


@case
def the_working_directory_is_that_of_the_caller():
    home = Path.cwd()
    check(lambda _: os.getcwd())
    os.chdir("/")
    try:
        check(lambda _: os.getcwd(), [os.path.abspath("/")] * len(ITEMS))
    finally:
        os.chdir(home)
    check(lambda _: os.getcwd())


class Client:
    def __init__(self):
        self.name = None

    def connect(self, name):
        self.name = name


def fill(where, name):
    where["name"] = name


STATE, NAMES, ARGUMENT, CLIENT = {}, [], {}, Client()


@case
def an_initializer_is_a_method_of_a_global_or_fills_one():
    """What it fills is what items find; of threads several may have filled the same one."""
    with pk.Pool(2, initializer=STATE.update, initargs=({"a": 1},)) as pool:
        assert pool.map(lambda _: dict(STATE), ITEMS) == [{"a": 1}] * 8
    with pk.Pool(2, initializer=NAMES.append, initargs=("name",)) as pool:
        assert pool.map(lambda _: NAMES[0], ITEMS) == ["name"] * 8
    with pk.Pool(2, initializer=CLIENT.connect, initargs=("name",)) as pool:
        assert pool.map(lambda _: CLIENT.name, ITEMS) == ["name"] * 8
    with pk.Pool(2, initializer=functools.partial(STATE.update, b=2)) as pool:
        assert pool.map(lambda _: STATE["b"], ITEMS) == [2] * 8
    with pk.Pool(2, initializer=fill, initargs=(ARGUMENT, "name")) as pool:
        assert pool.map(lambda _: ARGUMENT["name"], ITEMS) == ["name"] * 8


LEVEL, SEEN = 0, {}


def see():
    SEEN["level"] = LEVEL


@case
def an_initializer_runs_anew_for_each_pool():
    """What it reads of the script is what that is when the pool makes its first call."""
    global LEVEL
    for LEVEL in (1, 2, 3):
        with pk.Pool(2, initializer=see) as pool:
            assert pool.map(lambda _: SEEN["level"], ITEMS) == [LEVEL] * 8


run_cases()
