"""What a row was computed with: which changes of the code are told, and what is done about them."""

import importlib
import sys
import textwrap
import warnings

import numpy as np
import pytest

import parallelkit as pk
from parallelkit.sweeps.code import changes, code_of

SCRIPT = '''
import functools
import math
import assistants
import numpy as np
from assistants import clean

LIMIT = 3
STEPS = {"first": clean, "names": ["a", "b"]}

class Model:
    """A model."""
    rate = 0.5

    def __init__(self, k):
        self.k = k

    def fit(self, x):
        return math.sqrt(x) * self.k * self.rate

class Deeper(Model):
    @property
    def half(self):
        return self.k / 2

def logged(func):
    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        return func(*args, **kwargs)
    return wrapper

@logged
def step(x):
    return x + 1

@functools.lru_cache
def cached(x):
    return x * 2

def score(x, scale=1.0):
    """A score."""
    import late
    total = sum(clean(v) for v in range(x) if v < LIMIT)  # of all
    model = Deeper(x)
    return total + assistants.deep.far(x) + STEPS["first"](x) + step(x) + cached(x) + late.now(x)

def other(x):
    return x
'''
HELPERS = """
from assistants import deep

FACTOR = 2
UNUSED = 1

def clean(x):
    return x * FACTOR

def unused(x):
    return x
"""
DEEP = """
def far(x):
    return near(x)

def near(x):
    return x - 1
"""
LATE = '''
"""Imported within a function."""
def now(x):
    return x
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of four modules; ``project(old, new)`` is its function, with a text replaced."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "assistants").mkdir()
    files = {
        "a_script": SCRIPT,
        "assistants/__init__": HELPERS,
        "assistants/deep": DEEP,
        "late": LATE,
    }

    def make(old="", new="", imported=False):
        assert not old or sum(old in text for text in files.values()) >= 1, old
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text.replace(old, new) if old else text)
        for name in ("a_script", "assistants", "assistants.deep", "late"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        if imported:
            importlib.import_module("late")
        return importlib.import_module("a_script").score

    yield make
    for name in ("a_script", "assistants", "assistants.deep", "late"):
        sys.modules.pop(name, None)


def changed(project, old, new):
    before = code_of(project())
    after = code_of(project(old, new))
    assert (before.digest == after.digest) == (before.parts == after.parts)
    return changes(before.parts, after.parts)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("if v < LIMIT)", "if v <= LIMIT)", ["score()"]),
        ("scale=1.0", "scale=2.0", ["scale (default of score())"]),
        ("LIMIT = 3", "LIMIT = 4", ["LIMIT"]),
        ('["a", "b"]', '["a", "c"]', ["STEPS"]),
        ("x * FACTOR", "x + FACTOR", ["assistants.clean()"]),
        ("FACTOR = 2", "FACTOR = 5", ["assistants.FACTOR"]),
        ("return x - 1", "return x - 2", ["assistants.deep.near()"]),
        ("return near(x)", "return near(x) + 1", ["assistants.deep.far()"]),
        ("self.k * self.rate", "self.k + self.rate", ["Model.fit()"]),
        ("rate = 0.5", "rate = 0.6", ["Model.rate"]),
        ("self.k / 2", "self.k / 3", ["Deeper.half()"]),
        ("return x + 1", "return x + 2", ["step()"]),
        ("func(*args, **kwargs)", "func(*args)", ["logged.wrapper()"]),
        ("return x * 2", "return x * 3", ["cached()"]),
        ("def now(x):\n    return x", "def now(x):\n    return -x", ["the module late"]),
    ],
)
def test_a_change_is_told_by_its_name(project, old, new, told):
    """Each part that a function reaches is seen to change, and named, and nothing else is."""
    assert changed(project, old, new) == told


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# of all", "# of some, really"),
        ("LIMIT = 3", "# a comment\n\n\nLIMIT = 3"),
        ('"""A score."""', '"""Another text."""'),
        ('"""A score."""', ""),
        ('"""A model."""', '"""Another text."""'),
        ('"""Imported within a function."""', '"""A text."""\n\n'),
        ("def now(x):", "def now(x):\n    # a comment"),
        ("def near(x):", 'def near(x):\n    """Now with a text."""'),
        ("def other(x):\n    return x", "def other(x):\n    return x * 7"),
        ("UNUSED = 1", "UNUSED = 2"),
        ("def unused(x):\n    return x", "def unused(x):\n    return x * 7"),
    ],
)
def test_what_is_no_change(project, old, new):
    """Comments, lines, doc strings and what the function does not reach do not count."""
    assert changed(project, old, new) == []


def test_what_is_imported_by_now_does_not_matter(project):
    """A module that a function imports itself is the same whether that has happened or not."""
    assert code_of(project()).parts == code_of(project(imported=True)).parts


def test_a_file_may_move(project, tmp_path):
    """Names of files and folders do not count."""
    before = code_of(project())
    space = {"__name__": "a_script"}
    sys.modules.pop("a_script")
    exec(compile(SCRIPT, "/elsewhere/script.py", "exec"), space)
    assert code_of(space["score"]).parts["score()"] == before.parts["score()"]


def test_packages_are_known(project):
    """Installed packages that the function names are listed, those of the project are not."""
    text = project("math.sqrt(x)", "np.sqrt(x)")
    assert code_of(text).packages == ["numpy"]


def test_large_globals(monkeypatch):
    """A large array keeps its digest while it is the same, and a single element that changes is seen."""
    space = {"DATA": np.zeros(100_000), "__name__": "somewhere"}
    exec("def f(x): return DATA[x]", space)
    made = []
    monkeypatch.setattr(
        "parallelkit.sweeps.canonical._Stating.array",
        lambda self, value: made.append(value.copy()) or {"~is": str(value.sum())},
    )
    first = code_of(space["f"])
    assert code_of(space["f"]) == first
    assert len(made) == 1
    space["DATA"][77_777] = 1
    assert changes(first.parts, code_of(space["f"]).parts) == ["DATA"]
    space["DATA"] = np.zeros(100_000)
    assert code_of(space["f"]) == first
    assert len(made) == 3


def test_what_changes_by_itself_does_not_count():
    """Random streams, locks and open files among the globals are no part of the code."""
    setup = """
    import threading, random, numpy
    RNG, LOCK, DRAW = numpy.random.default_rng(1), threading.Lock(), random.Random(1)
    def f(x):
        with LOCK:
            return RNG.random() + DRAW.random() + x
    """
    space = {"__name__": "somewhere"}
    exec(textwrap.dedent(setup), space)
    before = code_of(space["f"])
    space["f"](1)
    assert code_of(space["f"]) == before


def test_recursion_ends():
    """Functions that call each other, and lists that hold themselves, are gone through once."""
    space = {"__name__": "somewhere", "SELF": []}
    space["SELF"].append(space["SELF"])
    exec("def f(x): return g(x), SELF\ndef g(x): return f(x)", space)
    assert {"f()", "g()", "SELF"} <= code_of(space["f"]).parts.keys()


def test_a_long_chain_of_helpers():
    """However deep functions call each other, the last one is seen to change."""
    lines = [f"def f{i}(x): return f{i + 1}(x)" for i in range(3000)]
    digests = []
    for last in ("x", "x + 1"):
        space = {"__name__": "somewhere"}
        exec("\n".join([*lines, f"def f3000(x): return {last}"]), space)
        digests.append(code_of(space["f0"]).parts)
    assert changes(*digests) == ["f3000()"]


class Rude:
    def __getattr__(self, name):
        raise RuntimeError(name)

    def __reduce_ex__(self, protocol):
        raise RuntimeError


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (list(range(5000)), [*range(4999), 0]),
        ([[i, str(i)] for i in range(5000)], [[i, str(i + (i == 77))] for i in range(5000)]),
        ({str(i): i for i in range(5000)}, {str(i): i + (i == 77) for i in range(5000)}),
        (list(map(float, range(5000))), list(range(5000))),
        (Rude(), 1),
    ],
    ids=["list", "rows", "dict", "types", "rude"],
)
def test_large_and_rude_globals(old, new):
    """A container of many values is compared by all of them, whatever order a dict was filled in."""
    digests = []
    for value in (old, dict(reversed(old.items())) if isinstance(old, dict) else old, new):
        space = {"__name__": "somewhere", "DATA": value}
        exec("def f(x): return DATA", space)
        digests.append(code_of(space["f"]).parts)
    assert changes(*digests[:2]) == []
    assert changes(*digests[1:]) == ["DATA"]


# ---- what is done about it -----------------------------------------------------------------------


def make(factor, space=None):
    """A function with a global that differs."""
    space = {"__name__": "somewhere", "FACTOR": factor}
    exec("def f(x): return x * FACTOR", space)
    return space["f"]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "run.db")


def run(path, factor, xs, **options):
    return pk.Sweep(store=path, backend="serial", **options).run(make(factor), pk.grid(x=xs))


def values(table):
    return [row["value"] for row in table]


def test_older_rows_are_told(path):
    """By default a warning names what changed and how many rows are older; a column tells them apart."""
    run(path, 1, [1, 2])
    with pytest.warns(UserWarning, match=r"all 2 rows of .*:f.*FACTOR changed.*'code'"):
        table = run(path, 2, [1, 2, 3])
    assert values(table) == [1, 2, 6]
    old, same, new = (row["code"] for row in table)
    assert old == same != new
    assert "3 points, 2 from the store, 2 with older code" in repr(table)
    assert "3 points, 2 with older code" in repr(pk.open_sweep(path))
    with pytest.warns(UserWarning, match=r"2 of the 3 rows") as caught:
        run(path, 2, [1, 2, 3])
    assert caught[0].filename == __file__


def test_older_rows_are_run_again(path):
    """With on_change="rerun" the rows of other code are replaced, and counted anew."""
    run(path, 1, [1, 2])
    assert values(run(path, 2, [2, 3], on_change="rerun")) == [4, 6]
    assert values(run(path, 2, [1, 2, 3], on_change="rerun")) == [2, 4, 6]
    rows = list(pk.open_sweep(path))
    assert {row["attempt"] for row in rows} == {1}
    assert len({row["code"] for row in rows}) == 1


def test_older_rows_are_an_error(path):
    """With on_change="error" nothing is run, and the message says what can be done."""
    run(path, 1, [1])
    with pytest.raises(pk.ParallelError, match=r"FACTOR changed.*another file.*version=.*rerun"):
        run(path, 2, [2], on_change="error")
    assert len(pk.open_sweep(path)) == 1


def test_older_rows_are_ignored(path):
    """With on_change="ignore", or a version that is the same, nothing is said; the column is there."""
    run(path, 1, [1], version=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(path, 1, [1], on_change="warn", version=1)
        table = run(path, 2, [1, 2], version=1)
        run(path, 1, [1])
        run(path, 2, [1], on_change="ignore")
    assert values(table) == [1, 4]
    assert len({row["code"] for row in table}) == 2
    with pytest.raises(ValueError, match="on_change must be"):
        pk.Sweep(on_change="maybe")
