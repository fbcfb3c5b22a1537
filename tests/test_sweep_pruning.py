"""Points that report how far they are, that are given up, that are streamed and run again."""

import importlib.util
import itertools
import threading

import pytest

import parallelkit as pk
from parallelkit.worker import output

BACKENDS = ("serial", "thread", "process")
VERDICTS = (  # by an array of numpy, where points run in processes
    *BACKENDS[:2],
    pytest.param(
        "process",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("numpy") is None, reason="numpy is not installed"
        ),
    ),
)


def train(skill):
    """Ends by itself if it is any good, else only by being given up."""
    for epoch in itertools.count(1):
        pk.report(skill * epoch, epoch)
        if skill > 1 and epoch == 10:
            break
    return skill * epoch


def fixed(skill, epochs=9):
    for epoch in range(1, epochs + 1):
        pk.report(skill * epoch, epoch)
    return skill * epochs


@pytest.mark.parametrize("backend", VERDICTS)
def test_a_point_is_given_up(backend, tmp_path):
    """It is a row with what it reported last, also when it is read from the store again."""
    path = str(tmp_path / "run.db")
    options = {"store": path, "backend": backend, "workers": 1}
    sweep = pk.Sweep(pruner=pk.Median(startup=2, warmup=3), **options)
    table = sweep.run(train, pk.grid(skill=[2, 3, 1]))
    assert table["status"] == ["ok", "ok", "pruned"]
    assert not table.failed
    curves = table.curves()
    assert [len(curve["steps"]) for curve in curves[:2]] == [10, 10]
    steps, values = curves[2]["steps"], curves[2]["values"]
    assert steps == list(range(1, len(steps) + 1))
    assert steps[-1] > 3  # the warmup
    assert values[-1] == table[2]["value"] == steps[-1]
    assert pk.open_sweep(path).curves() == curves


def test_stored_curves_count_when_a_sweep_goes_on(tmp_path):
    """A pruner compares with points of an earlier run, which are not run again."""
    options = {"store": str(tmp_path / "run.db"), "backend": "serial"}
    pk.Sweep(**options).run(fixed, pk.grid(skill=[2, 3]))
    sweep = pk.Sweep(pruner=pk.Median(startup=2), **options)
    table = sweep.run(fixed, pk.grid(skill=[2, 3, 1]))
    assert table["status"] == ["ok", "ok", "pruned"]
    assert [len(curve["steps"]) for curve in table.curves()] == [9, 9, 1]


def test_a_pruned_point_is_not_run_again(tmp_path):
    """It is finished, like a point that failed."""
    options = {"store": str(tmp_path / "run.db"), "backend": "serial"}
    sweep = pk.Sweep(pruner=lambda report: report.params["skill"] == 1, **options)
    sweep.run(fixed, pk.grid(skill=[1, 2]))
    again = pk.Sweep(**options).run(fixed, pk.grid(skill=[1, 2]))
    assert again["status"] == ["pruned", "ok"]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_halving_keeps_the_best_of_a_rung(mode):
    """At each rung one in `factor` goes on, and always the best so far."""
    sign = 1 if mode == "max" else -1
    sweep = pk.Sweep(pruner=pk.Halving(minimum=1, factor=3, mode=mode), backend="serial")
    skills = [sign * skill for skill in (5, 1, 2, 6)]
    table = sweep.run(fixed, pk.grid(skill=skills))
    assert table["status"] == ["ok", "pruned", "pruned", "ok"]
    assert [len(curve["steps"]) for curve in table.curves()] == [9, 1, 1, 9]


def test_no_number_is_the_worst():
    """A point that diverges to NaN is given up where others are compared with it."""
    sweep = pk.Sweep(pruner=pk.Median(startup=2), backend="serial")
    table = sweep.run(fixed, pk.grid(skill=[1, 2, float("nan")]))
    assert table["status"] == ["ok", "ok", "pruned"]


@pytest.mark.parametrize("backend", VERDICTS)
def test_a_pruner_that_fails_ends_the_sweep(backend):
    """Its error is raised to the caller, wherever the points run."""

    def pruner(report):
        raise LookupError("no history")

    sweep = pk.Sweep(pruner=pruner, backend=backend, workers=1)
    with pytest.raises(LookupError, match="no history"):
        sweep.run(fixed, pk.grid(skill=[1, 2]))


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ([("x", 1)], "takes a number"),
        ([(1.0, 2), (1.0, 2)], "must rise"),
        ([(1.0, float("inf"))], "finite"),
        ([(True, 1)], "takes a number"),
    ],
)
def test_reports_that_make_no_sense(told, error):
    """They are an error of the point."""

    def work(x):
        for value, step in told:
            pk.report(value, step)

    with pytest.raises((TypeError, ValueError), match=error):
        pk.Sweep(backend="serial", on_error="raise").run(work, pk.grid(x=[1]))


def test_a_report_outside_of_a_sweep_does_nothing():
    """A function is the same with and without a sweep."""
    assert fixed(2) == 18


@pytest.mark.parametrize(
    "make",
    [
        lambda: pk.Median(startup=0),
        lambda: pk.Median(warmup=-1),
        lambda: pk.Median(mode="best"),
        lambda: pk.Halving(minimum=0),
        lambda: pk.Halving(factor=1),
    ],
)
def test_pruners_that_cannot_be(make):
    """What they are given is checked where they are made."""
    with pytest.raises(ValueError, match="must be"):
        make()


@pytest.mark.parametrize("backend", BACKENDS)
def test_leaving_a_stream_stops_the_sweep(backend, tmp_path):
    """Rows come as they finish; what was given is stored, and the rest is never run."""
    path = str(tmp_path / "run.db")
    sweep = pk.Sweep(store=path, backend=backend, workers=2)
    stream = sweep.stream(fixed, pk.grid(skill=range(10_000)))
    seen = list(itertools.islice(stream, 5))
    stream.close()
    stored = pk.open_sweep(path)
    assert {row["skill"] for row in seen} <= set(stored["skill"])
    assert len(stored) < 10_000
    whole = pk.Sweep(store=path, backend="serial").stream(fixed, pk.grid(skill=range(5)))
    assert sorted(row["value"] for row in whole) == [0, 9, 18, 27, 36]


def test_a_thread_whose_sweep_is_over_stops_at_its_next_report():
    """A thread cannot be stopped, but asks; nothing else hears of the sweep any more."""
    over, ended, how = threading.Event(), threading.Event(), []

    def work(x):
        if x:
            over.wait(60)
            try:
                pk.report(x)
            except BaseException as error:
                how.append(type(error).__name__)
                raise
            finally:
                ended.set()
        return x

    stream = pk.Sweep(backend="thread", workers=2).stream(work, pk.grid(x=[0, 1]))
    assert next(stream)["x"] == 0
    stream.close()
    over.set()
    assert ended.wait(60)
    assert how == ["Pruned"]
    assert not output._listeners


def test_the_work_of_a_stream_starts_with_the_call():
    """Not with the first row that is asked for; what is wrong is raised there as well."""
    begun = threading.Event()
    rows = pk.Sweep(backend="thread", workers=2).stream(lambda x: begun.set(), pk.grid(x=[0, 1]))
    assert begun.wait(60)
    assert len(list(rows)) == 2
    with pytest.raises(TypeError, match="parameter 'skill'"):
        pk.Sweep(seed=1).stream(fixed, [{"skill": object()}])


def test_curves_of_a_few_points_have_names():
    """By the parameters that differ, and the repeat."""
    pytest.importorskip("matplotlib")
    sweep = pk.Sweep(repeats=2, backend="serial")
    axes = sweep.run(fixed, pk.grid(skill=[1, 2], epochs=[9])).plot_curves().axes[0]
    told = [text.get_text() for text in axes.get_legend().get_texts()]
    names = [f"skill {skill}, repeat {repeat}" for skill in (1, 2) for repeat in (0, 1)]
    assert told == ["4 to the end", *names]


@pytest.mark.parametrize("store", [None, "run.db"])
def test_a_row_that_is_run_again_with_other_values(store, tmp_path):
    """Other frozen values, and means, are told: what comes of them is not what the row says."""
    store = store and tmp_path / store
    sweep = pk.Sweep(store=store, repeats=2, backend="serial")
    table = sweep.run(fixed, pk.grid(skill=[1, 2]), epochs=3)
    assert sweep.rerun(fixed, table[0], epochs=3) == 3
    with pytest.warns(RuntimeWarning, match="other values of the frozen keywords: epochs changed"):
        assert sweep.rerun(fixed, table[0], epochs=4) == 4
    with pytest.warns(RuntimeWarning, match="epochs changed"):
        assert sweep.rerun(fixed, table[0]) == 9
    with pytest.warns(RuntimeWarning, match="a mean of 2 runs"):
        assert sweep.rerun(fixed, table.best("value"), epochs=3) == 6


def test_a_failed_row_is_run_again_here():
    """With its seed, raising what it raises; its text says how."""
    pytest.importorskip("numpy")  # draws it
    seen = []

    def draw(x, rng):
        seen.append(rng.random())
        raise ArithmeticError(f"x is {x}")

    sweep = pk.Sweep(seed=3, backend="serial")
    with pytest.warns(RuntimeWarning, match="the only point failed"):
        [row] = sweep.run(draw, pk.grid(x=[7])).failed
    assert "sweep.rerun(draw, row)" in row["traceback"]
    with pytest.raises(ArithmeticError, match="x is 7"):
        sweep.rerun(draw, row)
    assert seen[0] == seen[1]


def test_means_over_repeats():
    """The best is the best on average, not one lucky repeat."""
    runs = {"steady": iter([3.0, 5.0]), "lucky": iter([9.0, -5.0])}
    sweep = pk.Sweep(repeats=2, backend="serial")
    table = sweep.run(lambda who: {"score": next(runs[who])}, pk.grid(who=["steady", "lucky"]))
    assert table.best("score")["who"] == "steady"
    assert table.best("score", over=None)["who"] == "lucky"
    [steady, _] = table.mean(over="repeat")
    assert (steady["score"], steady["count"]) == (4, 2)
    assert steady["score.std"] == pytest.approx(2**0.5)
    assert steady["score.sem"] == pytest.approx(1)


def test_a_mean_without_the_pruned_repeat_is_not_compared():
    """The other repeats are the lucky ones; where no point remains, the error says why."""
    sweep = pk.Sweep(repeats=2, pruner=lambda report: report.repeat == 1, backend="serial")
    table = sweep.run(lambda skill: {"score": fixed(skill)}, pk.grid(skill=[1, 2]))
    assert table["status"] == ["ok", "pruned"] * 2
    with pytest.raises(ValueError, match="a repeat was pruned"):
        table.best("score")
    assert table.best("score", over=None)["score"] == 18


def test_parts_of_a_table():
    """`filter`, `sort`, `head` and slices are tables; an index gives a row, a name a column."""
    table = pk.Sweep(backend="serial").run(lambda x, y: x * y, pk.grid(x=[1, 2, 3], y=[2, 1]))
    assert table.filter(y=1)["value"] == [1, 2, 3]
    assert table.filter(lambda row: row["x"] > 2)["value"] == [6, 3]
    assert table.sort("value", reverse=True)["value"] == [6, 4, 3, 2, 2, 1]
    assert table.head(2)["value"] == table[:2]["value"] == [2, 1]
    assert table[-1]["x"] == 3


def test_the_bar_has_the_best_so_far():
    """By the means over repeats, in the direction that is asked for."""
    told = []

    class Bar:
        def __init__(self, total):
            pass

        def update(self, n):
            pass

        def set_postfix_str(self, text, refresh):
            told.append(text)

        def close(self):
            pass

    progress = {"tqdm_class": Bar, "best": "value", "mode": "min"}
    pk.Sweep(progress=progress, backend="serial").run(lambda x: x * x, pk.grid(x=[3, -2, 4]))
    assert told[-1].startswith("best=4, ok=3")
