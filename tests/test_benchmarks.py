"""The benchmarks: every case of ours gives right answers, and what is made of figures says what they say.

Nothing here looks at how long anything takes.
"""

import dataclasses
import json
import sys
import uuid

import helpers
import pytest

from benchmarks import __main__ as command
from benchmarks import (
    cases,
    chart,
    check,
    docs,
    floors,
    goals,
    harness,
    peers,
    report,
    results,
    scaling,
    work,
)
from benchmarks.harness import Plan, contestants, run_case

# Where a variant differs from what is measured anyway in how processes start, or in an option.
LONG = {
    "memory-library",
    "first-call-openmp",
    "first-call-sampler",
    "first-call-library",
    "first-call-emcee",
}
OURS = [
    (name, peer, variant)
    for name, case in cases.ALL.items()
    for peer, variant in [
        *((peer, "") for peer in case.peers),
        *((peer, variant) for variant, names in case.tuned.items() for peer in names),
    ]
    if peer in (*peers.OURS, "serial") and (not variant or name not in LONG)
]


@pytest.mark.parametrize(("name", "peer", "variant"), OURS)
def test_case(name, peer, variant, monkeypatch):
    """Every case runs on parallelkit, and on the plain loop beside it, with the answers that it expects."""
    monkeypatch.setenv("PARALLELKIT_MALLOC", "1")  # a variant changes it
    contestant = peers.ALL[peer](2)
    case = cases.ALL[name](contestant, variant, "tiny")
    if name.startswith("workers-"):
        monkeypatch.setattr(type(case), "workers", 3)
    case.setup()
    if case.needs_pool:
        contestant.start()
    try:
        found = case.measure()
    finally:
        if case.needs_pool and peer != "serial":
            getattr(contestant, "pool", contestant).close()  # the workers stay, for the next case
        case.close()
    assert found["items"] >= 1
    assert case.heading("full").count("{") == 0


def test_peer_in_a_process_of_its_own():
    """A round of a case is measured in a child process for each contestant, and the records say what was run."""
    plan = Plan(size="tiny", peers=("parallelkit", "pool"))
    records = run_case(cases.ALL["list-1k"], plan)
    assert [(r.peer, r.error, len(r.rounds), r.items) for r in records] == [
        ("parallelkit", "", 1, 200),
        ("pool", "", 1, 200),
    ]


def test_resume(tmp_path, capsys):
    """A run that goes on measures what is missing, and keeps the rest; cases that are named are measured anew."""
    args = ["--tiny", "--peers", "serial,parallelkit", "--output", str(tmp_path)]

    def measured(*more):
        assert command.main([*args, *more]) == 0
        return [line.split(":")[0] for line in capsys.readouterr().err.split("...")[1:]]

    assert measured("--only", "list-1k", "--only", "import") == ["list-1k", "import"]
    first = results.read(tmp_path / "benchmarks.json")
    assert measured("--only", "stream-1k", "--only", "import", "--resume") == [
        "stream-1k",
        "import",
    ]
    found = results.read(tmp_path / "benchmarks.json")
    assert list(dict.fromkeys(r.case for r in found.records)) == ["list-1k", "stream-1k", "import"]
    assert found.of("list-1k") == first.of("list-1k")
    with pytest.raises(SystemExit):
        command.main([*args, "--workers", "3", "--resume"])
    assert "is of a tiny run with 2 workers" in capsys.readouterr().err


def test_wrong_answer_is_an_error(monkeypatch):
    """A contestant whose answer is wrong does not get a figure."""
    case = cases.ALL["list-1k"](peers.ALL["serial"](2), "", "tiny")
    case.setup()
    monkeypatch.setattr(case, "run", lambda: [0])
    with pytest.raises(AssertionError, match="wrong"):
        case.measure()


def test_nested_tree():
    """A tree of durations is worked through on all its levels."""
    tree = [[0.001, 0.002], [0.003]]
    assert work.nest(tree, "serial", "churn") == work.tree_total(tree) == 0.006


def test_tiny_runs_judge_nothing(found):
    """A run that only shows that all of it works is not held against any goal."""
    found.size = "tiny"
    assert "## Goals" not in report.markdown(found)


def test_who_takes_part():
    """Who forks is marked, and a library that is not wanted is not run."""
    plan = Plan(peers=("parallelkit", "joblib", "mpire"))
    records = contestants(cases.ALL["arrays-in"], plan)
    assert {(r.peer, r.variant): r.forks for r in records} == {
        ("parallelkit", ""): False,
        ("joblib", ""): False,
        ("mpire", ""): True,
        ("mpire", "forkserver"): False,
    }


# ---- what is made of figures ---------------------------------------------------------------------


def _record(case, peer, seconds, variant="", **more):
    forks = peers.forks(peer, variant)
    return results.Record(case, peer, variant, rounds=[seconds] * 3, forks=forks, **more)


WHERE = {
    "machine": {**results.machine(), "load_before": 0.0},
    "versions": {"pathos": "1.0"},
}


@pytest.fixture
def found():
    """A result that nobody measured: ours leads with lists and arrays, and loses with the warm call."""
    return results.Results(
        [
            _record("list-1m", "serial", 0.05, items=1_000_000),
            _record("list-1m", "parallelkit", 0.1, items=1_000_000),
            _record("list-1m", "pathos", 0.5, items=1_000_000),
            _record("list-1m", "mpire", 0.2, "tuned", items=1_000_000, settings="chunksize=10000"),
            _record("arrays-in", "parallelkit", 0.02, items=40),
            _record("arrays-in", "mpire", 0.12, items=40),
            _record("arrays-in", "joblib", 0.5, items=40),
            _record("warm-call", "parallelkit", 2e-4),
            _record("warm-call", "pool", 1e-4),
            results.Record("warm-call", "joblib", error="hangs (> 30 s)"),
            _record("milliseconds", "parallelkit", 0.501, items=1_000, ideal=0.5),
            _record("threads", "parallelkit-threads", 0.01, items=20_000),
            _record("threads", "thread-executor", 0.1, items=20_000),
        ],
        **WHERE,
        left_out=["Ray is left out: not installed (pip install ray)"],
    )


def test_ratio_to_the_best_peer(found):
    """The best peer at its best settings is what ours is compared with; the plain loop is none."""
    ratio, best = found.lead("list-1m")
    assert (round(ratio, 6), best.peer, best.variant) == (2.0, "mpire", "tuned")
    assert found.lead("list-1m", among=goals.defaults)[1].peer == "pathos"
    assert found.lead("arrays-in", among=goals.fork_safe)[1].peer == "joblib"
    assert found.lead("milliseconds") is None
    assert list(found.leads()) == ["list-1m", "warm-call", "arrays-in", "threads"]


def test_report(found):
    """The report has the figures in their units, who failed and how, and who was left out and why."""
    text = report.markdown(found)
    assert "| 1 000 000 × `x + 1`, list | µs per item | 0.050 | **0.100** | 0.500 |" in text
    assert "**0.200** (tuned)" not in text  # the best of its row is ours
    assert "2.00 (mpire, tuned)" in text
    assert "6.00 (mpire); fork-safe 25.00 (joblib)" in text
    assert "hangs (> 30 s)" in text
    assert "Ray is left out" in text
    assert "| **99.8** |" in text


def test_goals(found):
    """A goal is met or missed by the ratios, and open where nothing was measured."""
    text = goals.table(found)
    assert "| 1 000 000 × `x + 1`, list | 1.3 × the best peer | 2.00 × mpire, tuned | met |" in text
    assert "| arrays in | 5 × the best peer | 6.00 × mpire | met |" in text
    assert (
        "fastest of all process pools by 1.3 | 0.50 × multiprocessing.Pool | **missed** |" in text
    )
    assert "| 1 000 × 1 ms | 99 % of ideal | 99.8 % | met |" in text
    assert "| import | below `import concurrent.futures` | not in this run | – |" in text
    assert goals.tally(found) == (5, 1)


def test_goals_name_what_exists():
    """Each goal can be judged: its cases and libraries exist."""
    everything = results.Results(
        [
            _record(name, peer, 0.1, variant, ideal=0.09)
            for name, case in cases.ALL.items()
            for variant, names in [("", case.peers), *case.tuned.items()]
            for peer in names
        ]
    )
    for record in everything.records:
        record.forks = peers.forks(record.peer, record.variant)
    assert [goal.what for goal in goals.GOALS if goal.verdict(everything).met is None] == []


def test_json_and_back(found, tmp_path):
    """What is written as JSON is read again as it was."""
    path = tmp_path / "benchmarks.json"
    found.write(path)
    again = results.read(path)
    assert again == found
    assert report.markdown(again) == report.markdown(found)


def test_chart(found, tmp_path):
    """The chart names each case that has a ratio, and losses have a colour of their own."""
    pytest.importorskip("matplotlib")
    svg, png = chart.draw(found, tmp_path)
    text = svg.read_text(encoding="utf-8")
    for word in (*found.leads(), "mpire, tuned", chart.LOSS, chart.LEAD):
        assert word in text
    assert png.read_bytes().startswith(b"\x89PNG")
    assert chart.draw(results.Results([]), tmp_path) == []


def test_check(found, tmp_path, capsys):
    """A ratio below its bound is told, with the exit code 1; a margin is left when bounds are written."""
    bounds = tmp_path / "bounds.json"
    check.write_bounds(found, bounds)
    assert check.read_bounds("full", bounds)["list-1m"] == 1.4
    assert check.read_bounds("quick", bounds) == {}
    assert check.tell(found, check.read_bounds("full", bounds)) == 0
    capsys.readouterr()
    assert check.tell(found, {"list-1m": 2.5, "threads": 5}) == 1
    assert capsys.readouterr().out == "list-1m: 2.00 × mpire, tuned, expected at least 2.50\n"
    assert check.tell(found, {"cold": 1}) == 2


def test_check_tells_what_failed(found):
    """A case of ours that no longer runs has fallen too."""
    found.get("list-1m", "parallelkit").error = "died"
    assert check.compare(found, {"list-1m": 1}) == ["list-1m: failed: died"]


def test_bounds_name_cases_that_exist():
    """The bounds that are kept belong to cases that exist."""
    content = json.loads(check.BOUNDS.read_text(encoding="utf-8"))
    assert set(content) <= set(cases.base.SIZES)
    for bounds in content.values():
        assert set(bounds) <= set(cases.ALL)


def test_pages(found, tmp_path):
    """What was measured is put between the marks of the pages, and what stands outside is left alone."""
    pytest.importorskip("matplotlib")
    results_folder = tmp_path / "results"
    results_folder.mkdir()
    found.write(results_folder / "benchmarks.json")
    pages = tmp_path / "docs"
    pages.mkdir()
    before = (docs.DOCS / "benchmarks.md").read_text(encoding="utf-8")
    (pages / "benchmarks.md").write_text(before, encoding="utf-8")
    assert docs.write(results_folder, pages) == ["benchmarks.md"]
    after = (pages / "benchmarks.md").read_text(encoding="utf-8")
    assert "2.00 (mpire, tuned)" in after
    assert after.split("<!-- machine")[0] == before.split("<!-- machine")[0]
    docs.write(results_folder, pages)
    assert (pages / "benchmarks.md").read_text(encoding="utf-8") == after
    assert {"benchmarks.svg", "benchmarks.png"} <= {path.name for path in pages.iterdir()}
    (tmp_path / "README.md").write_text(
        "a\n" + docs.BEGIN.format("speed") + docs.END.format("speed")
    )
    assert docs.write(results_folder, pages) == ["benchmarks.md", "README.md"]
    summary = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert (
        "| 0.500 | 5.00 (ThreadPoolExecutor) | 10.00 | 5.00 (ThreadPoolExecutor) | 10.00 |"
        in summary
    )
    assert cases.ALL["list-1m"].heading("full") not in summary  # quick runs leave it out too
    with pytest.raises(ValueError, match="no region 'ceiling'"):
        docs.update(pages / "benchmarks.md", ceiling="")


def test_pages_with_a_part(found, tmp_path):
    """A run of some groups takes the place of these alone, in tables, goals and chart."""
    pytest.importorskip("matplotlib")
    page = tmp_path / "benchmarks.md"
    page.write_text((docs.DOCS / "benchmarks.md").read_text(encoding="utf-8"), encoding="utf-8")
    found.write(tmp_path / "benchmarks.json")
    docs.write(tmp_path, tmp_path)
    ratio = _record("nested-uneven", "parallelkit", 0.065, ideal=0.06, items=40)
    results.Results([ratio, _record("nested-uneven", "joblib", 0.13, ideal=0.06)], **WHERE).write(
        tmp_path / "benchmarks.json"
    )
    docs.write(tmp_path, tmp_path, part=True)
    after = page.read_text(encoding="utf-8")
    assert "| 92.3 | 46.2 | 2.00 (joblib) |" in after.replace("**", "")
    assert "2.00 (mpire, tuned)" in after
    chart_ = (tmp_path / "benchmarks.svg").read_text(encoding="utf-8")
    assert {"list-1m", "nested-uneven"} <= {name for name in cases.ALL if f">{name}<" in chart_}
    assert docs.write(tmp_path, tmp_path, part=True) == ["benchmarks.md"]
    assert page.read_text(encoding="utf-8") == after


def test_command_refuses_what_it_does_not_know(capsys):
    """A case or a library that does not exist is an error that lists those that do."""
    for arguments in (["--only", "nonsense"], ["--peers", "nonsense"]):
        with pytest.raises(SystemExit):
            command.main(arguments)
        assert "there are: " in capsys.readouterr().err
    assert command.main(["--list"]) == 0
    assert "list-10m" in capsys.readouterr().out


# ---- what the goals are up against ---------------------------------------------------------------


@pytest.fixture
def mark(monkeypatch):
    """Marks all processes of the contestants of a test; none of them is left at its end."""
    name = uuid.uuid4()
    monkeypatch.setattr(harness.uuid, "uuid4", lambda: name)
    yield
    helpers.wait_until(lambda: not harness.marked(name.hex), "the end of what was measured")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the parts are made for Linux")
@pytest.mark.parametrize("floor", floors.FLOORS, ids=lambda floor: floor.case)
def test_floor(floor, mark, monkeypatch):
    """Each floor is measured beside parallelkit on the same work, and all answers are right."""
    alone = dataclasses.replace(floor, peers=())
    monkeypatch.setattr(floors, "FLOORS", (alone,))
    found = floors.measure("tiny", tell=lambda text: None)
    assert [record.error for record in found.records] == [""] * len(found.records)
    for row in floors.as_json(found)["rows"]:
        assert row["case"] == floor.case
        assert row["floor"] > 0
        assert row["ours"] > 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the parts are made for Linux")
def test_floors_command(mark, tmp_path, capsys):
    """The command leaves the figures as JSON and as Markdown, the goal and the nearest peer among them."""
    floors.main(["--tiny", "--only", "round-trip", "--output", str(tmp_path)])
    content = json.loads((tmp_path / "floors.json").read_text(encoding="utf-8"))
    (row,) = content["rows"]
    assert (row["peer_title"], row["goal"]) == ("multiprocessing.Pool", "the fastest of all")
    assert row["limit"] == row["peer"]
    assert row["verdict"]
    assert (tmp_path / "floors.md").read_text(encoding="utf-8").strip() in capsys.readouterr().out


def _floors_found():
    """All that the floors need, as if everything took as long, but what parallelkit does twice as long."""
    records = [
        dataclasses.replace(record, rounds=[0.2 if record.peer == "parallelkit" else 0.1])
        for floor in floors.FLOORS
        for record in floors.contestants(floor, Plan(peers=("parallelkit", *floor.peers)))
    ]
    for record in records:
        record.ideal = 0.09 if record.case == "milliseconds" else None
    where = {**results.machine(), "load_before": 0.0, "cores": 2}
    return results.Results(records, machine=where)


def test_floors_have_their_goals():
    """A floor has a row for each goal that is about its case; Markdown has them all, and all parts."""
    content = floors.as_json(_floors_found())
    rows = content["rows"]
    assert list(dict.fromkeys(row["case"] for row in rows)) == [f.case for f in floors.FLOORS]
    asked = {goal.asked for goal in goals.GOALS}
    assert {row["goal"] for row in rows} <= {*asked, ""}
    text = floors.markdown(content)
    for name in {*(row["case"] for row in rows), *floors.PARTS}:
        assert cases.find(name).heading("full") in text
    for row in rows:
        assert row["made_of"] in text
        assert f"| {row['goal'] or '–'} |" in text
    arrays_in = [row for row in rows if row["case"] == "arrays-in"]
    assert [(row["goal"], round(row["limit"], 6)) for row in arrays_in] == [
        ("10 × the best fork-safe peer", 0.01),
        ("5 × the best peer", 0.02),
        ("faster than `[a.copy() for a in arrays]`", 0.1),
    ]


@pytest.mark.parametrize(
    ("limit", "ours", "floor", "verdict"),
    [
        (0.2, 0.1, 0.05, "met"),
        (0.2, 0.3, 0.1, "missed, above the floor"),
        (0.1, 0.3, 0.2, "out of reach here"),
        (0.1, 0.2, 0.3, "undecided: a floor that was not below parallelkit tells of noise"),
        (None, 0.3, 0.2, ""),
        (0.1, 0.3, None, ""),
    ],
)
def test_verdict_on_a_goal(limit, ours, floor, verdict):
    """A goal below the floor is out of reach, one above it is not, and nothing is said without figures."""
    row = {"ours": ours, "floor": floor}
    assert floors.verdict(floors.FLOORS[0], row, limit) == verdict


def test_page_with_floors(tmp_path):
    """The floors of a run get into the page, where a region waits for them."""
    page = (docs.DOCS / "benchmarks.md").read_text(encoding="utf-8")
    (tmp_path / "benchmarks.md").write_text(page, encoding="utf-8")
    content = floors.as_json(_floors_found())
    (tmp_path / "floors.json").write_text(json.dumps(content), encoding="utf-8")
    assert docs.write(tmp_path, tmp_path) == ["benchmarks.md"]
    text = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert floors.markdown(content) in text
    assert text.split("<!-- end of floors")[1] == page.split("<!-- end of floors")[1]


# ---- the ceiling of one dispatcher ---------------------------------------------------------------


def test_line_through_points():
    """The fixed part and the slope of the cost of a message are found again."""
    fixed, slope = scaling.line([(n, 5e-5 + 4e-7 * n) for n in (8, 16, 32)])
    assert (fixed, slope) == (pytest.approx(5e-5), pytest.approx(4e-7))
    assert scaling.line([(8, 3e-5), (32, 2e-5)])[1] == 0  # noise: more workers do not cost less


@pytest.mark.parametrize("workers", [8, 100, 1_000])
@pytest.mark.parametrize("seconds", [0.001, 0.1, 10.0])
def test_simulation_agrees_with_the_rule(workers, seconds):
    """What the rule says of a length and a number of workers, the simulation finds event by event."""
    fit = 5e-5, 4e-7
    simulated = scaling.simulate(scaling.cost(fit, workers), workers, seconds, rounds=50)
    assert simulated == pytest.approx(scaling.predicted(fit, workers, seconds), rel=0.1)


@pytest.mark.parametrize("fit", [(5e-5, 4e-7), (5e-5, 0.0)])
def test_most_workers_are_just_kept_busy(fit):
    """The most workers for a length are those for which this length is the shortest."""
    workers = scaling.most_workers(fit, 0.1)
    assert scaling.shortest(fit, workers) == pytest.approx(0.1)


def test_page_on_scaling():
    """The page shows the costs, the ceilings, and the simulation beside real workers."""
    text = scaling.markdown(
        {
            "machine": {**results.machine(), "load_before": 0.0},
            "costs": [{"workers": 8, "cpu": 5e-5, "wall": 1e-4}],
            "fixed": 5e-5,
            "slope": 0.0,
            "item": 1e-7,
            "naps": [{"seconds": 0.01, "measured": 0.9, "simulated": 0.95}],
        }
    )
    assert "| 8 | 50 | 20 000 | 10 000 |" in text
    assert "| 100 ms | 2 000 |" in text
    assert "| 10 ms | 90 % | 95 % |" in text
