"""Parts of a sweep on many machines, several functions in one store, and several stores in one table."""

import collections
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import parallelkit as pk
from parallelkit.errors import StoreError
from parallelkit.sweeps.artifacts import Artifact
from parallelkit.sweeps.merging import merge

GRID = pk.grid(x=range(9), speed=["slow", "fast"])


def draw(x, speed, rng):
    return {"y": float(rng.random()), "x2": x * x}


def other(x):
    return {"z": -x}


def constant(x, k=1):
    return {"y": k}


def sweep(path, **options):
    return pk.Sweep(store=path, **{"backend": "serial", **options})


def told(table):
    """What a table says, without times and places."""
    left_out = ("seconds", "started", "worker", "file")
    return [{k: v for k, v in row.items() if k not in left_out} for row in table]


@pytest.fixture
def parts(tmp_path):
    """A sweep in three parts; their files."""
    files = [tmp_path / f"run-{i}.db" for i in range(3)]
    for i, file in enumerate(files):
        sweep(file, seed=1, repeats=2, part=(i, 3), notes={"part": str(i)}).run(draw, GRID)
    return files


def test_parts_make_the_whole(tmp_path, parts):
    """Each point is in one part, with the seed that it has in one run; read together they are that run."""
    whole = sweep(tmp_path / "whole.db", seed=1, repeats=2).run(draw, GRID)
    table = pk.open_sweep(tmp_path / "run-*.db")
    assert told(table) == told(whole)
    assert collections.Counter(row["file"] for row in table) == {file.name: 12 for file in parts}
    assert table.best("y", over=None)["seed"] == whole.best("y", over=None)["seed"]
    assert "36 points" in repr(table)
    assert "36 points" not in repr(pk.open_sweep(parts[:2]))
    assert [run["file"] for run in table.provenance] == [file.name for file in parts]


def test_parts_are_balanced():
    """Parts differ by one point at most, also in what each of them has of a value that comes again."""
    for n in (1, 2, 5, 7):
        tables = [
            pk.Sweep(backend="serial", part=(i, n)).run(other, {"x": range(33)}) for i in range(n)
        ]
        assert {len(table) for table in tables} <= {33 // n, 33 // n + 1}
        assert sorted(row["x"] for table in tables for row in table) == list(range(33))
    speeds = [
        collections.Counter(
            row["speed"] for row in pk.Sweep(seed=1, backend="serial", part=(i, 2)).run(draw, GRID)
        )
        for i in range(2)
    ]
    assert all(min(counts.values()) >= 2 and len(counts) == 2 for counts in speeds)


def test_a_point_that_comes_twice_is_in_one_part():
    """What is counted are points that differ."""
    points = [{"x": 1}, {"x": 1}, {"x": 2}, {"x": 1}]
    found = [
        row["x"]
        for i in range(2)
        for row in pk.Sweep(backend="serial", seed=1, part=(i, 2)).run(other, points)
    ]
    assert sorted(found) == [1, 2]


@pytest.mark.parametrize("part", [(2, 2), (-1, 2), (0, 0), 1, (1,), ("a", 2), (0.0, 2)])
def test_parts_that_cannot_be(part):
    """A part is one of so many, counted from 0."""
    with pytest.raises((TypeError, ValueError), match="part must be"):
        pk.Sweep(part=part)


def test_points_that_two_files_have(tmp_path):
    """They are there once; a finished one before a failed one; different results are named."""

    def work(x, which):
        if (x, which.value) in ((1, 0), (2, 1)):
            raise ValueError("no")
        return x if x < 4 else which.value

    class Which:
        def __init__(self, value):
            self.value = value

        def __reduce__(self):
            raise TypeError("it has no state")

    files = [tmp_path / "a.db", tmp_path / "b.db"]
    for value, file in enumerate(files):
        sweep(file, name="work").run(work, pk.grid(x=range(value, 5 + value)), which=Which(value))
    with pytest.warns(UserWarning, match=r"a\.db and b\.db have different results of x=4$"):
        table = pk.open_sweep(files)
    assert [(row["x"], row["value"], row["file"]) for row in table] == [
        *((0, 0, "a.db"), (1, 1, "b.db"), (2, 2, "a.db"), (3, 3, "a.db")),
        *((4, 1, "b.db"), (5, 1, "b.db")),
    ]
    assert [table[at]["x"] for at in (0, 1, -2, -1)] == [0, 1, 4, 5]
    assert len(table) == 6


def test_means_of_parts(tmp_path, parts):
    """The repeats of a point are averaged, in whichever files they are; a part that is empty is told."""
    whole = pk.Sweep(seed=1, repeats=2, backend="serial").run(draw, GRID)
    (tmp_path / "run-3.db").touch()
    with pytest.warns(UserWarning, match=r"run-3\.db' is empty"):
        table = pk.open_sweep(tmp_path / "run-*.db")
    assert told(table.mean()) == told(whole.mean())
    assert table.best("y") == whole.best("y")


def test_files_that_do_not_fit(tmp_path):
    """Other frozen values or seeds are named, the rows kept apart; such files are not made one."""
    files = [tmp_path / "a.db", tmp_path / "b.db"]
    for k, file in enumerate(files):
        sweep(file, seed=k).run(constant, pk.grid(x=[1, 2]), k=k)
    with pytest.warns(UserWarning, match=r"a\.db and b\.db differ in the frozen k, the seed"):
        table = pk.open_sweep(files)
    assert sorted((row["x"], row["y"], row["file"]) for row in table) == [
        *((1, 0, "a.db"), (1, 1, "b.db"), (2, 0, "a.db"), (2, 1, "b.db")),
    ]
    with pytest.raises(StoreError, match="frozen k"):
        merge(files, str(tmp_path / "all.db"))
    assert not list(tmp_path.glob("all*"))


def test_several_functions_and_versions(tmp_path):
    """They are kept apart in one store, are chosen by name and version, and compared in one table."""
    path = tmp_path / "run.db"
    sweep(path).run(other, pk.grid(x=[1, 2]))
    for version, k in ((1, 5), ("b", 6)):
        table = sweep(path, version=version).run(constant, pk.grid(x=[1, 2]), k=k)
        assert [row["y"] for row in table] == [k, k]
        assert "function" not in table.columns
    table = pk.open_sweep(path)
    assert table.columns[:6] == ["x", "z", "y", "function", "version", "code"]
    module = __name__
    assert [(row["function"], row["version"], row["z"], row["y"]) for row in table][1:4] == [
        (f"{module}:other", None, -2, None),
        (f"{module}:constant", "1", None, 5),
        (f"{module}:constant", "1", None, 5),
    ]
    assert f"{module}:constant version 1" in repr(table)
    assert [row["y"] for row in pk.open_sweep(path, name="constant", version="b")] == [6, 6]
    assert len(pk.open_sweep(path, name=f"{module}:constant")) == 4
    with pytest.raises(StoreError, match=r"no such function.*constant version 1"):
        pk.open_sweep(path, name="nobody")


def test_no_file_fits(tmp_path):
    """A pattern that fits nothing, and an empty list, are errors."""
    with pytest.raises(StoreError, match=r"no file fits .*run-\*"):
        pk.open_sweep(tmp_path / "run-*.db")
    with pytest.raises(ValueError, match="at least one"):
        pk.open_sweep([])


def test_a_name_with_a_star_is_a_name(tmp_path):
    """A file that is called like a pattern is that file."""
    path = tmp_path / "run-[1]*.db"
    sweep(path).run(other, pk.grid(x=[1]))
    assert len(pk.open_sweep(path)) == 1


# ---- merge and export ----------------------------------------------------------------------------


def test_merge_and_export(tmp_path, parts, command):
    """Parts become one store, which goes on as one; its table becomes other files."""
    before = [file.read_bytes() for file in parts]
    run = ["-m", "parallelkit"]
    ran = command([*run, "merge", *parts, "--store", tmp_path / "all.db"])
    assert "36 points" in ran.out
    assert [file.read_bytes() for file in parts] == before
    whole = sweep(tmp_path / "all.db", seed=1, repeats=2).run(draw, GRID)
    assert "36 from the store" in repr(whole)
    assert told(whole) == told(pk.open_sweep(parts))
    assert pk.open_sweep(tmp_path / "all.db").notes == {"part": "2"}
    for name in ("a.csv", "a.jsonl"):
        command([*run, "export", tmp_path / "all.db", tmp_path / name])
    assert (tmp_path / "a.csv").read_text() == pk.open_sweep(tmp_path / "all.db").to_csv()
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert [json.loads(line)["y"] for line in lines] == [row["y"] for row in whole]
    ran = command([*run, "export", *parts, "-", "--no-formulas"])
    assert len(ran.out.splitlines()) == 37
    assert command([*run, "merge", *parts, "--store", tmp_path / "all.db"], code=3).code == 3
    assert command([*run, "export", parts[0], tmp_path / "a.doc"], code=2).code == 2


def test_merge_tells_conflicts(tmp_path, command):
    """Different results of a point are named, and the exit code says so."""
    for k, name in enumerate(("a.db", "b.db")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(globals(), "SHARED", k)
            sweep(tmp_path / name, name="f").run(lambda x: SHARED, pk.grid(x=[1]))  # noqa: F821
    files = [tmp_path / "a.db", tmp_path / "b.db"]
    ran = command(["-m", "parallelkit", "merge", *files, "--store", tmp_path / "all.db"], code=1)
    assert "different results of x=1" in ran.err
    assert "a.db and b.db have rows of f that were computed with other code: SHARED" in ran.err
    table = pk.open_sweep(tmp_path / "all.db")
    assert [row["value"] for row in table] == [1]


# ---- files beside the store ----------------------------------------------------------------------


def large(x):
    return {"a": np.full(200_000, x % 2, np.int64), "small": np.arange(x)}


def test_large_arrays_are_files(tmp_path):
    """Large arrays lie beside the store, each content once, and are mapped when they are read."""
    table = sweep(tmp_path / "run.db").run(large, pk.grid(x=[1, 2, 3]))
    rows = list(table)
    assert isinstance(rows[0]["a"], np.memmap)
    assert [int(row["a"].sum()) for row in rows] == [200_000, 0, 200_000]
    assert [len(row["small"]) for row in rows] == [1, 2, 3]
    assert len(list((tmp_path / "run.files").iterdir())) == 2
    assert (tmp_path / "run.db").stat().st_size < 500_000
    del rows
    merge([str(tmp_path / "run.db")], str(tmp_path / "all.db"))
    assert int(pk.open_sweep(tmp_path / "all.db").rows[2]["a"].sum()) == 200_000
    for file in (tmp_path / "run.files").iterdir():
        file.unlink()
    lost = pk.open_sweep(tmp_path / "run.db").rows[0]["a"]
    assert "200000" in repr(lost)
    with pytest.raises(StoreError, match=r"missing: copy the folder 'run\.files'"):
        lost.load()


def test_data_frames_are_files(tmp_path):
    """Data frames and series become Parquet files, and come back when they are loaded."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", None]}, index=["p", "q"])
    series = pandas.Series([1.5, 2.5])
    table = sweep(tmp_path / "run.db").run(lambda x: {"f": frame, "s": [series]}, pk.grid(x=[1]))
    row = table.rows[0]
    assert isinstance(row["f"], Artifact)
    assert "DataFrame 2×2" in repr(table)
    pandas.testing.assert_frame_equal(row["f"].load(), frame)
    pandas.testing.assert_series_equal(row["s"][0].load(), series)
    with pytest.raises(AttributeError, match=r"\.load\(\) gives the DataFrame"):
        _ = row["f"].columns
    Path(row["f"].path).write_bytes(b"PAR1 no")
    with pytest.raises(StoreError, match="damaged"):
        row["f"].load()


def test_models_are_files_by_choice(tmp_path):
    """Models need pickle=True when they are stored and when they are loaded."""
    pytest.importorskip("sklearn")
    from sklearn.linear_model import Ridge

    def fit(x):
        return {"model": Ridge(alpha=x).fit([[0.0], [1.0]], [0.0, 1.0])}

    with pytest.raises(TypeError, match="pickle=True"):
        sweep(tmp_path / "run.db").run(fit, pk.grid(x=[1]))
    table = sweep(tmp_path / "run.db", pickle=True).run(fit, pk.grid(x=[1]))
    assert table.rows[0]["model"].load().alpha == 1
    path = table.rows[0]["model"].path
    with pytest.raises(StoreError, match="pickle=True"):
        Artifact(path, "Ridge").load()


# ---- where it came from --------------------------------------------------------------------------


def test_provenance(tmp_path, monkeypatch):
    """Each run tells its values, host, versions, commit and command."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    (tmp_path / "its_script.py").write_text(
        "import numpy as np\n\ndef f(x, **more):\n    return np.abs(x)\n"
    )
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=n@example.org"]
    for words in (["init", "-q"], ["add", "its_script.py"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.syspath_prepend(tmp_path)
    import its_script

    path = tmp_path / "run.db"
    frozen = {"rate": 0.5, "data": np.arange(3000), "text": "x" * 1000}
    sweep(path, seed=3).run(its_script.f, pk.grid(x=[1]), **frozen)
    (tmp_path / "its_script.py").write_text(
        "# changed\n" + (tmp_path / "its_script.py").read_text()
    )
    table = sweep(path, seed=3).run(its_script.f, pk.grid(x=[1, 2]), **frozen)
    first, second = table.provenance
    assert (first["rows"], second["rows"]) == (1, 1)
    assert first["frozen"]["rate"] == "0.5"
    assert first["frozen"]["data"].startswith("array int64 3000 #")
    assert first["frozen"]["text"].startswith("str of 1000 #")
    assert first["packages"]["numpy"] == np.__version__
    assert (first["function"], first["seed"]) == ("its_script:f", "3")
    assert first["code"] == second["code"] == table.rows[0]["code"]
    assert (first["git"]["dirty"], second["git"]["dirty"]) == (False, True)
    assert len(first["git"]["commit"]) == 40
    assert {"host", "python", "platform", "command", "started", "folder"} <= first.keys()
    assert pk.sweep(other, pk.grid(x=[1])).provenance == []


def drawn(x, rng):
    """A number of which the mean over repeats says something."""
    return {"score": rng.normal()}


def test_means_over_parts_are_those_of_one_run(tmp_path):
    """The repeats of a point may lie in several files."""
    options = {"seed": 42, "repeats": 2, "backend": "serial"}
    points = pk.grid(x=range(10))
    for i in range(3):
        pk.Sweep(store=tmp_path / f"part-{i}.db", part=(i, 3), **options).run(drawn, points)
    whole = pk.Sweep(**options).run(drawn, points)
    parts = pk.open_sweep(str(tmp_path / "part-*.db"))
    assert list(parts.mean()) == list(whole.mean())
    assert parts.best("score") == whole.best("score")


def test_means_of_rival_files_stay_apart(tmp_path):
    """Two runs of the same points, with seeds of their own, are two results of each point."""
    for seed in (1, 2):
        run = pk.Sweep(store=tmp_path / f"run-{seed}.db", seed=seed, repeats=3, backend="serial")
        run.run(drawn, pk.grid(x=[1]))
    with pytest.warns(UserWarning, match="the seed"):
        table = pk.open_sweep(str(tmp_path / "run-*.db"))
    assert [(row["file"], row["count"]) for row in table.mean()] == [
        ("run-1.db", 3),
        ("run-2.db", 3),
    ]
