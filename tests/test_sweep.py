"""Sweeps in memory: points, the table, seeds, failures."""

import collections
import csv
import datetime as dt
import functools
import io
import itertools
import math
import os
import random
import signal
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
from helpers import kill

import parallelkit as pk
from parallelkit.sweeps.canonical import canonical
from parallelkit.sweeps.values import NotPlain

SERIAL = {"backend": "serial"}


def score(depth, rate, scale=1):
    return {"score": scale * depth * rate, "loss": depth - rate}


def draw(x, rng):
    return float(rng.random())


def draw_globally(x):
    return random.random() + float(np.random.random())


def fail_at_two(x):
    if x == 2:
        raise ValueError("not <two>")
    return x


# ---- points --------------------------------------------------------------------------------------


def test_a_grid_has_all_combinations():
    """The last parameter varies fastest, and the grid knows its length."""
    grid = pk.grid(a=[1, 2], b=(x for x in "xy"))
    assert list(grid) == [{"a": a, "b": b} for a, b in itertools.product([1, 2], "xy")]
    assert [grid[i] for i in range(4)] == list(grid)
    assert (len(grid), len(pk.grid()), len(pk.grid(a=[]))) == (4, 1, 0)


def test_grids_are_joined_and_thinned():
    """Grids add up, with lists of dicts too, and where() keeps the points that fit."""
    listed = [{"a": 7, "b": 0}]
    grid = pk.grid(a=[1, 2, 3]) + listed + pk.grid(a=[9])
    assert [p["a"] for p in grid.where(lambda p: p["a"] != 2)] == [1, 3, 7, 9]
    assert len(grid.where(lambda p: p["a"] > 5)) == 2
    listed = [{"a": 0}]
    assert [p["a"] for p in listed + pk.grid(a=[1])] == [0, 1]


def test_a_large_grid_costs_nothing():
    """Ten to the twelve points are described, not made."""
    grid = pk.grid(a=range(10**6), b=range(10**6)) + pk.grid(a=[1])
    assert len(grid) == 10**12 + 1
    assert grid[10**12 - 1] == {"a": 999_999, "b": 999_999}


def test_a_sample_begins_like_a_shorter_one():
    """A sample is repeatable, and more points leave the first ones as they were."""
    draws = {"rate": lambda rng: rng.uniform(1, 2), "kind": ["a", "b"]}
    short, long = list(pk.sample(3, 5, **draws)), list(pk.sample(9, 5, **draws))
    assert long[:3] == short
    assert list(pk.sample(3, 6, **draws)) != short
    assert all(type(p["rate"]) is float and p["kind"] in "ab" for p in long)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1000])
def test_a_sample_of_lists_draws_none_twice(count):
    """All combinations come once, in an order that the seed gives; a longer one begins the same."""
    draws = {"a": range(count), "b": ["x", "y", "z"]}
    drawn = [tuple(p.values()) for p in pk.sample(3 * count, 7, **draws)]
    assert sorted(drawn) == [(a, b) for a in range(count) for b in "xyz"]
    assert [tuple(p.values()) for p in pk.sample(count, 7, **draws)] == drawn[:count]
    if count > 2:
        assert [tuple(p.values()) for p in pk.sample(3 * count, 8, **draws)] != drawn
        assert drawn != sorted(drawn)


def test_a_sample_of_lists_is_even():
    """Each combination comes first about as often as any other."""
    first = collections.Counter(pk.sample(1, seed, a=range(5))[0]["a"] for seed in range(2000))
    assert all(320 < first[a] < 480 for a in range(5))  # 400, by 4.5 standard deviations


def test_a_sample_of_lists_that_are_too_short():
    """There is a warning, and all that there is."""
    with pytest.warns(UserWarning, match="9 points are drawn from 4 combinations"):
        points = pk.sample(9, a=[1, 2], b=[3, 4])
    assert sorted(tuple(p.values()) for p in points) == [(1, 3), (1, 4), (2, 3), (2, 4)]
    many = pk.sample(5, 1, **{f"p{i}": range(1000) for i in range(9)})
    assert len({tuple(point.values()) for point in many}) == 5


def test_a_sample_of_arrays_and_of_values_that_come_again():
    """Arrays are values to choose from; what a list has several times counts once."""
    assert sorted(p["x"] for p in pk.sample(3, 1, x=np.arange(3))) == [0, 1, 2]
    assert len(pk.sample(3, 1, x=[1, 1.0, True])) == 3
    with pytest.warns(UserWarning, match="3 points are drawn from 2 combinations"):
        points = pk.sample(3, 1, x=["a", "b", "a"], y=[[1], [1]])
    assert sorted(p["x"] for p in points) == ["a", "b"]


def test_a_sample_draws_from_scipy():
    """Distributions with rvs(random_state=) are drawn from."""
    stats = pytest.importorskip("scipy.stats")
    points = pk.sample(20, 1, rate=stats.loguniform(1e-3, 1), depth=stats.randint(2, 9), n=[1])
    assert all(1e-3 <= p["rate"] <= 1 and type(p["depth"]) is int for p in points)
    assert list(points) == list(points)


@pytest.mark.parametrize(
    "make",
    [
        lambda: pk.grid(a=3),
        lambda: pk.grid(a="abc"),
        lambda: pk.grid(a=np.float64(3)),
        lambda: pk.sample(2, 1, a=3),
        lambda: pk.sample("2", 1),
        lambda: pk.sample(2, "seed"),
        lambda: pk.grid(a=[1]).where(3),
        lambda: pk.sweep(score, "abc"),
        lambda: pk.sweep(score, 7),
        lambda: pk.sweep(score, [1, 2]),
        lambda: pk.sweep(score, [{1: 2}]),
        lambda: pk.sweep(3, pk.grid(a=[1])),
    ],
)
def test_what_is_no_points_is_refused(make):
    """A single value, a text or a number in place of points is a TypeError."""
    with pytest.raises(TypeError):
        make()


@pytest.mark.parametrize(
    "points",
    [
        pk.grid(depth=[1, 2], rate=[0.5]),
        [{"depth": 1, "rate": 0.5}, {"depth": 2, "rate": 0.5}],
        "ParameterGrid",
        {"depth": [1, 2], "rate": [0.5]},
        ({"depth": d, "rate": 0.5} for d in (1, 2)),
    ],
    ids=["grid", "dicts", "ParameterGrid", "lists", "generator"],
)
def test_points_come_in_many_forms(points):
    """Grids, dicts, scikit-learn's grids, lists by name and generators are swept over."""
    if points == "ParameterGrid":
        selection = pytest.importorskip("sklearn.model_selection")
        points = selection.ParameterGrid({"depth": [1, 2], "rate": [0.5]})
    table = pk.Sweep(**SERIAL).run(score, points)
    assert [(r["depth"], r["rate"], r["score"]) for r in table] == [(1, 0.5, 0.5), (2, 0.5, 1.0)]


# ---- the sweep -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["process", "thread", "serial"])
def test_one_table_on_every_backend(backend):
    """Rows come in the order of the grid, with what was measured where they ran."""
    sweep = pk.Sweep(workers=2, backend=backend)
    table = sweep.run(score, pk.grid(depth=[3, 5, 7], rate=[0.1, 0.3]), scale=2)
    assert [r["score"] for r in table] == [2 * d * r for d in (3, 5, 7) for r in (0.1, 0.3)]
    assert table.columns == [
        *("depth", "rate", "score", "loss", "status", "error"),
        *("seconds", "started", "worker", "attempt", "seed"),
    ]
    row = table.rows[0]
    assert (row["status"], row["error"], row["attempt"], row["seed"]) == ("ok", None, 1, None)
    assert row["seconds"] >= 0
    assert (row["worker"] != os.getpid()) == (backend == "process")
    age = dt.datetime.now(dt.UTC) - row["started"]
    assert dt.timedelta(0) < age < dt.timedelta(hours=1)


def test_a_result_is_a_value_or_columns():
    """A dict by name gives columns; anything else is the column ``value``."""
    results = {0: 7, 1: {"a": 1}, 2: {1: 2}, 3: None, 4: {}, 5: [1, 2]}
    table = pk.Sweep(**SERIAL).run(lambda x: results[x], pk.grid(x=range(6)))
    assert [r["value"] for r in table] == [7, None, {1: 2}, None, None, [1, 2]]
    assert [r["a"] for r in table] == [None, 1, None, None, None, None]


def test_names_of_the_user_come_first():
    """A parameter or result that is called like a column of the sweep keeps its name."""
    table = pk.Sweep(**SERIAL).run(
        lambda seed, status: {"seconds": -1, "status": 5}, pk.grid(seed=[4], status=["s"])
    )
    row = table.rows[0]
    assert (row["seed"], row["status"], row["seconds"], row["result.status"]) == (4, "s", -1, 5)
    assert (row["sweep.status"], row["sweep.seed"]) == ("ok", None)
    assert row["sweep.seconds"] >= 0
    assert "4" in repr(table)
    table = pk.Sweep(**SERIAL).run(lambda **_: {"status": 2, "sweep.status": 3}, [{"status": 1}])
    row = table.rows[0]
    assert [row[n] for n in ("status", "result.status", "sweep.status")] == [1, 2, 3]
    assert row["sweep.sweep.status"] == "ok"


def test_failures_are_recorded():
    """A point that raises is a row with error and traceback, and the others are there."""
    table = pk.Sweep(workers=2).run(fail_at_two, pk.grid(x=[1, 2, 3]))
    assert [r["status"] for r in table] == ["ok", "failed", "ok"]
    (failed,) = table.failed
    assert failed["error"] == "ValueError: not <two>"
    assert 'raise ValueError("not <two>")' in failed["traceback"]
    assert failed["x"] == 2


def test_failures_are_raised_if_that_is_asked_for():
    """on_error="raise" raises what the point raised, with a note that names the point."""
    with pytest.raises(ValueError, match="not <two>") as caught:
        pk.Sweep(workers=2, on_error="raise").run(fail_at_two, pk.grid(x=[1, 2, 3]))
    assert "x=2" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("retries", [0, 2])
def test_points_that_may_be_tried_again(tmp_path, retries):
    """retry_on and retries hold for points, and ``attempt`` tells how often one was tried."""

    def flaky(x, log):
        with open(log, "a") as file:
            file.write("x")
        if os.path.getsize(log) < 3:
            raise OSError("not yet")
        return x

    sweep = pk.Sweep(workers=1, retries=retries, retry_on=OSError, **SERIAL)
    with pytest.warns(RuntimeWarning, match="failed") if not retries else nullcontext():
        row = sweep.run(flaky, pk.grid(x=[1]), log=str(tmp_path / "log"))[0]
    assert (row["status"], row["attempt"]) == (("ok", 3) if retries else ("failed", 1))


def test_a_point_that_takes_too_long_and_one_that_dies():
    """A time limit and the death of a worker are failures of their points alone."""

    def work(x):
        if x == 1:
            threading.Event().wait(600)
        if x == 2:
            kill(os.getpid())
        return x

    table = pk.Sweep(workers=2, timeout=1.5).run(work, pk.grid(x=[0, 1, 2, 3]))
    assert [r["value"] for r in table] == [0, None, None, 3]
    errors = [r["error"].partition(":")[0] for r in table.failed]
    assert errors == ["TaskTimeout", "WorkerDied"]


@pytest.mark.parametrize(
    ("grid", "frozen", "told"),
    [
        ({"dpeth": [1], "rate": [1]}, {}, "did you mean 'depth'"),
        ({"depth": [1]}, {}, "also needs 'rate'"),
        ({"depth": [1], "rate": [1]}, {"rate": 2}, "frozen too"),
    ],
)
def test_a_function_that_cannot_take_the_points(grid, frozen, told):
    """Wrong parameters are an error before anything runs, not a table of failures."""
    with pytest.raises(TypeError, match=told):
        pk.Sweep(**SERIAL).run(score, pk.grid(**grid), **frozen)


def test_a_point_that_comes_twice_runs_once():
    """Points that are equal are one row, by type too: 1, 1.0, True and "1" are four."""
    grid = pk.grid(x=[1, 2, 1]) + pk.grid(x=[2, 1.0, True, "1", np.int64(1)])
    table = pk.Sweep(**SERIAL).run(lambda x: x, grid)
    assert [r["x"] for r in table] == [1, 2, 1.0, True, "1"]


def test_nothing_to_do_is_an_empty_table():
    """A grid without points gives a table without rows, and starts nothing."""
    table = pk.sweep(score, pk.grid(depth=[], rate=[1]))
    assert (len(table), table.rows, table.failed) == (0, [], [])
    assert "0 points" in repr(table)
    assert "<table" in table._repr_html_()


def test_a_sweep_inside_a_sweep():
    """Points may sweep themselves."""

    def outer(x):
        inner = pk.sweep(lambda x, y: x * y, pk.grid(y=[1, 2]), x=x)
        return sum(row["value"] for row in inner)

    table = pk.Sweep(workers=2).run(outer, pk.grid(x=[1, 2]))
    assert [r["value"] for r in table] == [3, 6]


def test_the_bar_counts_what_went_well():
    """The bar counts points, and tells how many went well, failed and were stored before."""
    told = []

    class Bar:
        def __init__(self, total):
            self.total = total
            self.n = 0

        def update(self, n):
            self.n += n

        def set_postfix_str(self, text, refresh):
            self.text = text

        def close(self):
            told.append((self.n, self.total, self.text))

    pk.Sweep(progress={"tqdm_class": Bar}, **SERIAL).run(fail_at_two, pk.grid(x=[1, 2, 3]))
    assert told == [(3, 3, "ok=2, failed=1")]


def test_ctrl_c_ends_a_sweep_with_its_table():
    """It is a KeyboardInterrupt that has the table of what is finished, which says so."""

    def work(x):
        if x == 3:
            signal.raise_signal(signal.SIGINT)
            time.sleep(0)
        return x

    with pytest.raises(KeyboardInterrupt, match="3 points finished") as caught:
        pk.Sweep(**SERIAL).run(work, pk.grid(x=range(6)))
    assert type(caught.value) is pk.SweepInterrupted
    table = caught.value.table
    assert table.interrupted
    assert table["x"] == [0, 1, 2]
    assert "interrupted" in repr(table)


@pytest.mark.parametrize(
    ("progress", "told"),
    [
        ({"bset": "score"}, "did you mean 'best'"),
        ({"best": "scor"}, "did you mean 'score'"),
        ({"best": "name"}, "no such number: score"),
    ],
)
def test_a_bar_of_what_is_not_there(progress, told):
    """A best that would never come is told when the first result is there."""
    sweep = pk.Sweep(progress=progress, **SERIAL)
    with pytest.raises((TypeError, ValueError), match=told):
        sweep.run(lambda x: {"score": x, "name": "a"}, pk.grid(x=[1, 2]))


@pytest.mark.parametrize(
    "options",
    [
        {"repeats": 0},
        {"repeats": 1.5},
        {"on_error": "skip"},
        {"stoer": "x"},
        {"store": ""},
        {"seed": -1},
        {"workers": 0},
        {"name": 3},
    ],
)
def test_bad_options_are_refused(options):
    """Options are checked where the sweep is described."""
    with pytest.raises((TypeError, ValueError)):
        pk.Sweep(**options)


# ---- seeds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("func", [draw, draw_globally])
def test_seeds_are_by_point_and_repeat(func):
    """The same point draws the same on every backend, in a larger grid, in another order."""
    small = pk.Sweep(seed=3, repeats=2, **SERIAL).run(func, pk.grid(x=[1, 2]))
    numbers = {(r["x"], r["repeat"]): (r["seed"], r["value"]) for r in small}
    assert len(set(numbers.values())) == 4
    for backend in ("process", "thread"):
        sweep = pk.Sweep(seed=3, repeats=2, shuffle=True, workers=2, backend=backend)
        large = sweep.run(func, pk.grid(x=[0, 2, 5, 1]))
        found = {(r["x"], r["repeat"]): (r["seed"], r["value"]) for r in large}
        assert {point: found[point] for point in numbers} == numbers
    other = pk.Sweep(seed=4, **SERIAL).run(func, pk.grid(x=[1])).rows[0]
    assert other["value"] != numbers[1, 0][1]


def test_the_seed_of_a_row_makes_its_numbers_again():
    """numpy's default_rng(seed) of a row is the generator that its point got."""
    for row in pk.Sweep(seed=3, **SERIAL).run(draw, pk.grid(x=[1, 2])):
        assert np.random.default_rng(row["seed"]).random() == row["value"]


def test_a_seeded_sweep_leaves_the_generators_alone():
    """After a seeded sweep in place, random goes on as if it had not been."""
    random.seed(1)
    expected = [random.random() for _ in range(2)]
    random.seed(1)
    assert random.random() == expected[0]
    pk.Sweep(seed=3, **SERIAL).run(draw_globally, pk.grid(x=[1, 2]))
    assert random.random() == expected[1]


# ---- canonical parameters ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.int64(3), 3),
        (np.float64(0.1), 0.1),
        (np.True_, True),
        (np.str_("a"), "a"),
        ({"a": 1, "b": (2, [3])}, {"b": (2, [3]), "a": 1}),
        ({1: "x", "1": "y"}, {"1": "y", 1: "x"}),
        (np.arange(3), np.arange(3)),
        (math.nan, float("nan")),
        ({3, 1, 2}, {1, 2, 3}),
    ],
)
def test_equal_parameters_are_one(one, other):
    """What is the same value has the same canonical form."""
    assert canonical(one) == canonical(other)


def test_different_parameters_are_told_apart():
    """Values that compare equal but differ in type, and arrays that differ, are different."""
    different = [
        *(1, 1.0, True, "1", None, "None", b"1", [1], (1,), {1}, {"1": 1}, {1: 1}, 1j),
        *(np.arange(3), np.arange(3.0), np.arange(4), np.arange(4).reshape(2, 2), 0.1),
        *(np.float32(0.1), math.inf, -math.inf, math.nan, len, abs, int, "int", range(3)),
        *(dt.date(2026, 1, 1), dt.datetime(2026, 1, 1, tzinfo=dt.UTC), [[]], [()], {"~t": [1]}),
    ]
    assert len({canonical(value) for value in different}) == len(different)


def test_models_are_parameters():
    """Objects with get_params, as scikit-learn's models, are known by their settings and state."""
    pytest.importorskip("sklearn")
    from sklearn.linear_model import Ridge
    from sklearn.tree import DecisionTreeRegressor

    for model, other in ((Ridge, {"alpha": 3}), (DecisionTreeRegressor, {"max_depth": 1})):
        x, y = np.arange(8.0).reshape(-1, 1), np.arange(8.0)
        fitted = [model(), model(), model().fit(x, y), model().fit(x, y), model().fit(x, y * y)]
        forms = [canonical(one) for one in [*fitted, model(**other)]]
        assert forms[0] == forms[1]
        assert forms[2] == forms[3]
        assert len(set(forms)) == 4


def test_models_that_were_fitted_are_points_of_their_own():
    """Two models that differ only in what they have learned give two rows."""
    pytest.importorskip("sklearn")
    from sklearn.linear_model import Ridge

    x = np.arange(4.0).reshape(-1, 1)
    models = [Ridge().fit(x, x.ravel() * scale) for scale in (1, 2)]
    for options in ({}, {"seed": 1}):
        table = pk.Sweep(**SERIAL, **options).run(lambda m: m.coef_[0], [{"m": m} for m in models])
        assert len({row["value"] for row in table}) == 2


def local_class(base):
    class Local:
        value = base

    return Local


class Quantity(np.ndarray):
    """An array that differs from others by more than its numbers."""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros(2, [("a", "i4"), ("b", "i4")]), np.zeros(2, [("a", "i4"), ("c", "i4")])),
        (np.zeros((), [("a", "i4")])[()], np.zeros((), [("b", "i4")])[()]),
        (np.longdouble(1) / 3, float(np.longdouble(1) / 3)),
        (np.array([[1]]).view(np.matrix), np.array([[1]])),
        (collections.defaultdict(int), collections.defaultdict(list)),
        (collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1)),
        (time.gmtime(0), tuple(time.gmtime(0))),
    ],
)
def test_nearly_equal_parameters_are_two_points(one, other):
    """What differs by names, precision, type or order is not taken for the same."""
    table = pk.Sweep(**SERIAL).run(lambda x: 1, [{"x": one}, {"x": other}, {"x": other}])
    assert len(table) >= 2
    assert told(one) != told(other)


def told(value):
    try:
        return canonical(value)
    except NotPlain:
        return None


def test_frames_are_told_apart():
    """Frames and series differ by names and types of columns, not by values alone."""
    pd = pytest.importorskip("pandas")

    series = pd.Series(["a", "b"])
    category = pd.CategoricalDtype(["b", "a"])
    different = [
        *(series, series.rename("n"), series.astype("category"), series.astype(category)),
        *(series.to_frame(), series.to_frame("n"), pd.Index(["a", "b"]), series[::-1]),
    ]
    assert len({canonical(value) for value in different}) == len(different)
    assert canonical(series) == canonical(series.copy())


@pytest.mark.parametrize(
    "values",
    [
        [local_class(1), local_class(2)],
        [functools.partial(local_class(1)), functools.partial(local_class(2))],
        [np.zeros(1).view(Quantity), np.ones(1).view(Quantity)],
        [[].append, [1].append],
    ],
)
def test_what_cannot_be_told_apart_runs_without_a_store(values):
    """Points that may be equal or not all run; with a seed they are refused."""
    points = [{"x": value} for value in values]
    assert len(pk.Sweep(**SERIAL).run(lambda x: 1, points)) == 2
    with pytest.raises(TypeError, match="'x'"):
        pk.Sweep(seed=1, **SERIAL).run(lambda x: 1, points)


@pytest.mark.parametrize("value", [object(), lambda: 0, threading.Lock(), [object()]])
def test_what_has_no_canonical_form_is_refused(value):
    """With a seed or a store such a parameter is an error that names it; without, it just runs."""
    with pytest.raises(TypeError, match="'x'"):
        pk.Sweep(seed=1, **SERIAL).run(lambda x: 1, [{"x": value}])
    assert len(pk.Sweep(**SERIAL).run(lambda x: 1, [{"x": value}])) == 1


# ---- the table -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    grid = pk.grid(depth=[3, 5, 7], rate=[0.01, 0.1, 1.0], kind=["a", "<b>"])
    return pk.Sweep(repeats=2, seed=1, **SERIAL).run(
        lambda depth, rate, kind, rng: {"score": depth * rate + rng.random(), "loss": 1 / depth},
        grid,
    )


def test_the_best_rows(table):
    """best and top rank by a column, either way."""
    best = max(table.rows, key=lambda row: row["score"])
    assert table.best("score", over=None) == best
    assert table.best("loss", mode="min")["depth"] == 7
    assert [r["score"] for r in table.top("score", 3, over=None)] == sorted(
        (r["score"] for r in table), reverse=True
    )[:3]


def test_the_best_of_numbers_only():
    """NaN, None and failed points are never the best; where nothing is left that is an error."""

    def work(x):
        return {"y": [math.nan, 2, None, 1 / 0 if x == 3 else 3, "text"][x]}

    table = pk.Sweep(**SERIAL).run(work, pk.grid(x=range(5)))
    assert table.best("y")["x"] == 1
    with pytest.raises(KeyError, match="z"):
        table.best("z")
    with pytest.raises(ValueError, match="number"):
        table.best("error")
    with pytest.raises(ValueError, match="mode"):
        table.best("y", mode="most")


def test_a_table_as_csv(table, tmp_path):
    """CSV has a header and all rows; a file has what the text has."""
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [float(r["score"]) for r in rows] == [r["score"] for r in table]
    table.to_csv(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == table.to_csv()


def test_a_table_as_a_frame(table):
    """A DataFrame has the columns and rows of the table, a pivot the means."""
    pytest.importorskip("pandas")
    frame = table.to_pandas()
    assert list(frame.columns) == table.columns
    assert len(frame) == 36
    pivot = table.pivot("depth", "rate", "score")
    assert pivot.loc[5, 0.1] == pytest.approx(
        np.mean([r["score"] for r in table if (r["depth"], r["rate"]) == (5, 0.1)])
    )


def test_a_table_as_parquet(tmp_path):
    """Parquet takes every table; what is no number, text or time becomes text."""
    pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    results = [1, {"a": [1]}, (1, 2), np.arange(3), "x"]
    table = pk.Sweep(**SERIAL).run(lambda x: results[x], pk.grid(x=range(5)))
    table.to_parquet(tmp_path / "out.parquet")
    frame = pandas.read_parquet(tmp_path / "out.parquet")
    assert list(frame.columns) == table.columns
    assert list(frame["x"]) == [0, 1, 2, 3, 4]


def test_a_package_that_is_missing_is_named(table, monkeypatch):
    """Without pandas the error says how to get it."""
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(pk.ParallelError, match="pip install pandas"):
        table.to_pandas()


def test_how_a_table_looks(table):
    """The text is aligned and short, the markup is escaped, both have a head."""
    lines = repr(table).splitlines()
    assert "36 points" in lines[0]
    assert "26 more" in "".join(lines)
    assert len(lines) == 13
    assert len({len(line) for line in lines[1:] if "more" not in line}) == 1
    html = table._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>'" not in html


def test_a_failure_shows():
    """In a table with failures the error is to be seen."""
    table = pk.Sweep(**SERIAL).run(fail_at_two, pk.grid(x=[1, 2]))
    assert "1 failed" in repr(table)
    assert "ValueError: not <two>" in repr(table)
    assert "&lt;two&gt;" in table._repr_html_()


def test_a_wide_table_is_cut_to_the_terminal(monkeypatch):
    """The widest column gives way first; columns that find no room at all are left out."""

    def fail(**_):
        raise ValueError("a long story " * 9)

    monkeypatch.setenv("COLUMNS", "70")
    with pytest.warns(RuntimeWarning, match="the only point failed"):
        told = repr(pk.Sweep(**SERIAL).run(fail, [{"x": 1}])).splitlines()
    assert "ValueError: a long story a" in told[2]
    assert "seconds" in told[1]
    wide = repr(pk.Sweep(**SERIAL).run(lambda **_: 1, [{f"parameter{i}": i for i in range(20)}]))
    assert max(map(len, told[1:] + wide.splitlines()[1:])) <= 75
    assert wide.splitlines()[1].endswith("...")


# ---- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda table, path: table.plot("rate", "score", hue="depth", path=path),
        lambda table, path: table.plot("kind", "score", hue="depth", path=path),
        lambda table, path: table.plot(path=path),
        lambda table, path: table.heatmap("depth", "rate", "score", path=path),
        lambda table, path: table.heatmap("kind", "rate", "score", path=path),
        lambda table, path: table.parallel(path=path),
        lambda table, path: table.parallel("rate", "kind", color="loss", path=path),
    ],
)
def test_pictures_are_drawn(table, tmp_path, draw):
    """Each picture is a figure that is saved, shows itself in a notebook, and labels its axes."""
    pytest.importorskip("matplotlib")
    figure = draw(table, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    assert figure._repr_png_()[:4] == b"\x89PNG"
    texts = [figure.axes[0].get_xlabel(), *(t.get_text() for t in figure.axes[0].get_xticklabels())]
    assert any(texts)


def test_what_a_picture_shows(table):
    """Lines go through the means; factors get a logarithmic axis; the legend names the hue."""
    pytest.importorskip("matplotlib")
    axes = table.plot("rate", "score", hue="depth").axes[0]
    assert axes.get_xscale() == "log"
    means = table.crossed("depth", "rate", "score")[2]
    assert [list(line.get_ydata()) for line in axes.lines] == [pytest.approx(m) for m in means]
    assert axes.get_legend().get_title().get_text() == "depth"


def test_legends_in_a_grid_of_axes(table):
    """They stay within axes that have neighbours; where a figure is for itself they stand beside."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    axes = Figure().subplots(1, 2)
    table.plot(x="depth", y="score", hue="rate", ax=axes[0])
    inside = axes[0].get_legend()
    assert inside.get_bbox_to_anchor().bounds == pytest.approx(axes[0].bbox.bounds)


def test_pictures_of_what_is_not_there(table):
    """An unknown column and a column without numbers are clear errors."""
    pytest.importorskip("matplotlib")
    with pytest.raises(KeyError, match="wrong"):
        table.plot("wrong", "score")
    with pytest.raises(ValueError, match="number"):
        table.plot("rate", "kind")
    with pytest.raises(ValueError, match="number"):
        table.heatmap("rate", "depth", "error")


def test_pictures_of_dates_and_odd_texts(tmp_path):
    """Dates are an axis, None has a name, a dollar is no formula, many cells stay a picture."""
    pytest.importorskip("matplotlib")
    days = [dt.date(2026, 1, 1) + dt.timedelta(i) for i in range(100)]
    table = pk.Sweep(**SERIAL).run(lambda x: x.toordinal(), pk.grid(x=days))
    assert len(table.plot("x", "value", path=tmp_path / "a.png").axes[0].get_xticks()) < 20
    table = pk.Sweep(**SERIAL).run(lambda x: 1, pk.grid(x=[None, "$a_{$", "b"]))
    figure = table.plot("x", "value", path=tmp_path / "b.png")
    assert "None" in [text.get_text() for text in figure.axes[0].get_xticklabels()]
    table = pk.Sweep(**SERIAL).run(lambda x, y: x, pk.grid(x=range(200), y=["a", "b"]))
    assert table.heatmap("x", "y", "value", path=tmp_path / "c.png").get_figwidth() <= 16
    table = pk.Sweep(**SERIAL).run(lambda x: 10**400, pk.grid(x=[1]))
    with pytest.raises(ValueError, match="too large"):
        table.plot("x", "value")


# ---- points of their own -------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["serial", "thread", "process"])
def test_points_may_change_their_parameters(backend):
    """A point that changes a list changes its own, not the others' or the table's."""
    shared = [1]
    points = [{"x": shared, "i": i} for i in range(4)]
    sweep = pk.Sweep(backend=backend, workers=2, chunksize=2)
    table = sweep.run(lambda x, i: x.append(i) or len(x), points)
    assert [(r["x"], r["value"]) for r in table] == [([1], 2)] * 4


def test_a_nested_sweep_inherits_its_streams():
    """Inside a seeded item a sweep without a seed draws the same each time."""

    def outer(x):
        return [r["value"] for r in pk.sweep(draw, pk.grid(x=[1, 2]))]

    def once(seed):
        return [r["value"] for r in pk.Sweep(seed=seed, **SERIAL).run(outer, pk.grid(x=[1, 2]))]

    assert once(1) == once(1) != once(2)


def test_rng_needs_a_seed():
    """A function that must have a generator is refused without a seed."""
    with pytest.raises(TypeError, match=r"seed=1.*--seed"):
        pk.Sweep(**SERIAL).run(draw, pk.grid(x=[1]))


def test_long_ranges_are_not_made():
    """The first points of a billion come at once; more than can be counted are refused."""
    assert next(iter(pk.grid(x=range(10**9), y=range(10**9)))) == {"x": 0, "y": 0}
    with pytest.raises(ValueError, match="more points than can be counted"):
        pk.grid(x=range(10**9), y=range(10**9), z=range(10**9))


def often_diverges(x, rng):
    """One that is sound, one that fails now and then, and one that gives NaN then."""
    value = rng.normal()
    if x and value < 1:
        if x == 1:
            raise ValueError("diverged")
        value = math.nan
    return {"score": value, "failed": 7}


def test_the_best_is_not_what_was_left_of_failures():
    """A point of which repeats failed or gave NaN is not compared by those that went well."""
    options = {"seed": 3, "repeats": 8, "backend": "serial"}
    table = pk.Sweep(**options).run(often_diverges, pk.grid(x=[0, 1, 2]))
    assert table.best("score")["x"] == 0
    assert [row["x"] for row in table.top("score", 3)] == [0]
    assert table.best("score", over=None)["x"] > 0
    means = {row["x"]: row for row in table.mean()}
    assert means[1]["sweep.failed"] > 0
    assert math.isnan(means[2]["score"])
    lucky = pk.Sweep(**options).run(often_diverges, pk.grid(x=[1]))
    with pytest.raises(ValueError, match="a repeat failed, so that no mean can be compared"):
        lucky.best("score")


def test_a_carriage_return_ends_no_row_of_a_csv_file():
    """What is written is what is read, line ends in texts and texts that look like formulas included."""
    texts = ["a\r=1+1", "b\n=2", "c\r\n-3", "d"]
    table = pk.Sweep(**SERIAL).run(lambda i: {"text": texts[i]}, pk.grid(i=range(4)))
    for formulas in (True, False):
        rows = list(csv.reader(io.StringIO(table.to_csv(formulas=formulas), newline="")))
        at = rows[0].index("text")
        assert [row[at] for row in rows[1:]] == texts


def test_options_that_are_given_to_the_function_of_a_sweep():
    """The error says where they live."""
    with pytest.raises(TypeError, match=r"options live on the sweep: pk\.Sweep\(workers=\.\.\.\)"):
        pk.sweep(score, pk.grid(depth=[1], rate=[2]), workers=2)
    with pytest.raises(TypeError, match=r"pk\.Sweep\(store=\.\.\.\)"):
        pk.Sweep(**SERIAL).run(score, pk.grid(depth=[1], rate=[2]), store="runs.db")
