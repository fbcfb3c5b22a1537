"""The command line: ``python -m parallelkit sweep | show | info``."""

import csv
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import wait_until

import parallelkit as pk
from parallelkit.commands import main, reading

TRAIN = """
import os, sys, threading
def train(depth, rate=1.0, scale=1):
    if os.path.exists("gate") and depth == 7:
        open("held", "w").close()
        threading.Event().wait(600)
    with open("log", "a") as file:
        file.write(f"{depth} ")
    if depth == 13:
        raise ValueError("thirteen")
    return {"score": depth * rate * scale, "loss": -depth}
value = 3
if __name__ == "__main__":
    import parallelkit as pk
    print(len(pk.Sweep(store="run.db", backend="serial").run(train, pk.grid(depth=[3, 5]))))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a script, in which commands are run."""
    (tmp_path / "train.py").write_text(TRAIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("train", None)


@pytest.fixture
def run(here, capsys):
    """Run a command in this process: exit code, output, and the single line of an error."""

    def command(*arguments):
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return command


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


SERIAL = ("--backend", "serial")


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3,5,7", [3, 5, 7]),
        ("3", [3]),
        ("0.1,1e-3,-2", [0.1, 0.001, -2]),
        ("true,False,none", [True, False, None]),
        ("adam,sgd", ["adam", "sgd"]),
        ("\"5\",'a,b'", ["5", "a,b"]),
        ("1:5", [1, 2, 3, 4, 5]),
        ("1:9:2", [1, 3, 5, 7, 9]),
        ("0:1:0.25", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("0:0.3:0.1", [0.0, 0.1, 0.2, 0.3]),
        ("0.1:1.0:log5", [0.1, 0.177827941004, 0.316227766017, 0.56234132519, 1.0]),
        ("1:1000:log4", [1, 10, 100, 1000]),
        ("0:1:lin3", [0.0, 0.5, 1.0]),
        ("1:9:lin5", [1, 3, 5, 7, 9]),
        ("1,4:5", [1, 4, 5]),
        ("a:b", ["a:b"]),
        ("http://x:80", ["http://x:80"]),
    ],
)
def test_values_are_read(text, expected):
    """Numbers, words, texts and ranges, each of its type."""
    found = reading.values(text)
    assert found == expected
    assert [type(v) for v in found] == [type(v) for v in expected]


@pytest.mark.parametrize("text", ["", "5:1", "1:2:0", "1:2:foo", "0:1:log3", "1:2:lin1", "1:2:-1"])
def test_values_that_make_no_sense(text):
    """They are refused, with how to write them."""
    with pytest.raises(reading.Usage, match=r"write|need|two"):
        reading.values(text)


# ---- sweep ---------------------------------------------------------------------------------------


def test_a_sweep_from_the_command_line(run, here):
    """Function, values, a store, CSV and a picture; a second time nothing runs."""
    pytest.importorskip("matplotlib")
    command = ("sweep", "train.py:train", "depth=3,5,7", "rate=0.1:1.0:log5", "--store", "run.db")
    more = ("--workers", "2", "--timeout", "60", "--csv", "out.csv", "--plot", "score.png")
    code, out, err = run(*command, *more)
    assert (code, err) == (0, "")
    assert "train:train: 15 points" in out
    assert [float(r["score"]) for r in rows(Path("out.csv").read_text())][-1] == 7.0
    assert Path("score.png").read_bytes()[:4] == b"\x89PNG"
    ran = Path("log").read_text()
    assert run(*command)[0] == 0
    assert Path("log").read_text() == ran


def test_points_that_fit_alone(run):
    """--where is an expression over the parameters of a point."""
    words = ("depth=1:3", "rate=1,2", "--where", "depth * rate < 4 and depth != rate")
    code, out, _ = run("sweep", "train.py:train", *words, "--csv", "-", *SERIAL)
    assert code == 0
    assert [(r["depth"], r["rate"]) for r in rows(out)] == [("1", "2"), ("2", "1"), ("3", "1")]


def test_words_in_any_order(run):
    """Values may stand before, between and after options."""
    code, out, _ = run(
        *("sweep", *SERIAL, "train.py:train", "--csv", "-", "depth=3", "--seed", "1", "rate=2"),
        *("--set", "scale=10"),
    )
    assert code == 0
    assert [(r["depth"], r["rate"], r["score"]) for r in rows(out)] == [("3", "2", "60")]


def test_a_function_of_a_module(run, here):
    """package.module:function is imported from the folder in which one stands."""
    code, out, _ = run("sweep", "train:train", "depth=3", "--csv", "-", *SERIAL)
    assert (code, rows(out)[0]["score"]) == (0, "3.0")


def test_failed_points_are_an_exit_code(run):
    """Exit code 1 tells that points failed; ``show --failed`` shows their tracebacks."""
    code, out, _ = run("sweep", "train.py:train", "depth=3,13", "--store", "run.db", *SERIAL)
    assert code == 1
    assert "ValueError: thirteen" in out
    code, out, _ = run("show", "run.db", "--failed")
    assert "depth=13" in out
    assert 'raise ValueError("thirteen")' in out
    run("sweep", "--resume", "run.db", "--retry-failed")
    assert Path("log").read_text() == "3 13 13 "


def test_a_script_and_the_command_share_a_store(here, command, run):
    """The same function of the same script is the same, whoever starts it."""
    assert command(["train.py"], cwd=here, files=False).out.split() == ["2"]
    assert run("sweep", "train.py:train", "depth=3,5,9", "--store", "run.db", *SERIAL)[0] == 0
    assert Path("log").read_text() == "3 5 9 "


def test_a_killed_sweep_is_resumed(here, run, monkeypatch, tmp_path):
    """After kill -9 ``--resume`` needs the file alone, from any folder."""
    Path("gate").touch()
    home = str(Path(pk.__file__).parents[1])
    command = [sys.executable, "-m", "parallelkit", "sweep", "train.py:train", "depth=3,5,7,9"]
    child = subprocess.Popen(
        [*command, "--store", "run.db", *SERIAL], env={**os.environ, "PYTHONPATH": home}
    )
    wait_until(Path("held").exists, "the third point")
    wait_until(lambda: len(pk.open_sweep("run.db")) == 2, "two stored points")
    child.kill()
    child.wait()
    Path("gate").unlink()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    code, out, _ = run("sweep", "--resume", "../run.db", "--csv", "-")
    assert code == 0
    assert [r["depth"] for r in rows(out)] == ["3", "5", "7", "9"]
    assert Path("../log").read_text() == "3 5 "
    assert Path("log").read_text() == "7 9 "


def test_ctrl_c_on_the_command_line(here):
    """Exit code 130, what was finished in the store, one line that says so."""
    Path("gate").touch()
    home = str(Path(pk.__file__).parents[1])
    command = ["sweep", "train.py:train", "depth=3,7", "--store", "run.db", "--workers", "1"]
    child = subprocess.Popen(
        [sys.executable, "-m", "parallelkit", *command],
        env={**os.environ, "PYTHONPATH": home},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(Path("held").exists, "the second point")
    wait_until(lambda: len(pk.open_sweep("run.db")) == 1, "the stored point")
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "1 point, " in out
    assert "interrupted" in err
    assert "Traceback" not in err
    assert [r["depth"] for r in pk.open_sweep("run.db")] == [3]


# ---- show ----------------------------------------------------------------------------------------


def test_the_best_rows_are_shown(run):
    """show sorts, counts and chooses; the whole width goes into a pipe."""
    run("sweep", "train.py:train", "depth=3,9,5", "rate=1,2", "--store", "run.db", *SERIAL)
    _, out, _ = run("show", "run.db", "--best", "score", "--top", "2")
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["depth", "rate"],
        ["9", "2"],
        ["5", "2"],
    ]
    _, out, _ = run("show", "run.db", "--best", "loss", "--mode", "min", "--top", "1")
    assert out.splitlines()[-1].split()[0] == "9"
    assert len(run("show", "run.db", "--top", "3")[1].splitlines()) == 5
    assert "\x1b" not in out


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "COMMAND"),
        (("sweep",), 2, "name a function"),
        (("sweep", "train.py"), 2, "script.py:function"),
        (("sweep", "none.py:f", "a=1"), 2, "no file"),
        (("sweep", "no.module:f", "a=1"), 2, "cannot be imported"),
        (("sweep", "train.py:tarin", "a=1"), 2, "no function 'tarin'"),
        (("sweep", "train.py:value", "a=1"), 2, "no function 'value'"),
        (("sweep", "train.py:train", "depth"), 2, "write name=values"),
        (("sweep", "train.py:train", "depth="), 2, "write name=values"),
        (("sweep", "train.py:train", "depth=1", "depth=2"), 2, "twice"),
        (("sweep", "train.py:train", "dpeth=1"), 2, "did you mean 'depth'"),
        (("sweep", "train.py:train", "depth=1", "--workers", "x"), 2, "--workers"),
        (("sweep", "train.py:train", "depth=1", "--wrkrs", "2"), 2, "--wrkrs"),
        (
            ("merge", "a.db", "--sotre", "x.db"),
            2,
            "merge: error: unknown option --sotre; did you mean --store",
        ),
        (("mrege", "a.db"), 2, "did you mean merge"),
        (("--verison",), 2, "did you mean --version"),
        (("sweep", "train.py:train", "depth=1", "--workers", "0"), 2, "workers"),
        (("sweep", "train.py:train", "depth=1", "--backend", "proces"), 2, "did you mean"),
        (("sweep", "train.py:train", "rate=0.1:0.5"), 2, "step is needed"),
        (("sweep", "train.py:train", "depth=1", "--csv", "no/out.csv"), 2, "no folder"),
        (("sweep", "train.py:train", "depth=1", "--plot", "out.foo"), 2, ".png"),
        (("sweep", "train.py:train", "depth=1", "--top", "-1"), 2, "--top"),
        (("sweep", "train.py:train", "depth=1", "--where", "depth <"), 2, "is no expression"),
        (("sweep", "train.py:train", "depth=1", "--where", "deep < 2"), 2, "no parameter 'deep'"),
        (("sweep", "train.py:train", "depth=1", "--where", "depth + ''"), 2, "TypeError"),
        (("sweep", "train.py:train", "depth=1", "--store", "no/run.db"), 3, "folder"),
        (("sweep", "--resume", "run.db", "train.py:train"), 2, "--resume takes"),
        (("sweep", "--resume", "none.db"), 3, "no file"),
        (("show", "none.db"), 3, "no file"),
        (("show", "train.py"), 3, "not the store"),
        (("show",), 2, "store"),
    ],
)
def test_errors_are_one_line(run, arguments, code, said):
    """What is wrong is said without a traceback, and the exit code tells of what kind it is."""
    if "--plot" in arguments:
        pytest.importorskip("matplotlib")
    found, _, err = run(*arguments)
    assert found == code
    assert said in err.splitlines()[-1]


def test_a_store_that_no_command_made(run):
    """--resume of a sweep from a script says what to do."""
    pk.Sweep(store="run.db", backend="serial").run(abs, [])
    code, _, err = run("sweep", "--resume", "run.db")
    assert code == 3
    assert "run its script again" in err


@pytest.mark.parametrize("name", ["sweep", "show", "info", ""])
def test_help_has_examples_and_exit_codes(run, name):
    """--help says how it is used and what the exit codes mean."""
    code, out, _ = run(*([name] if name else []), "--help")
    assert code == 0
    assert "130" in out
    assert name in ("info", "") or "examples:" in out


def test_info(run):
    """It tells what a bug report needs."""
    code, out, _ = run("info")
    assert code == 0
    told = {line.split()[0] for line in out.splitlines()}
    assert {"parallelkit", "python", "cores", "quota", "start", "segments", "numpy"} <= told


def test_a_pipe_that_closes_early(here, run):
    """A reader that has seen enough, as head, is no error."""
    run("sweep", "train.py:train", "depth=1:3000", "--store", "run.db", *SERIAL)
    home = str(Path(pk.__file__).parents[1])
    shown = subprocess.Popen(
        [sys.executable, "-m", "parallelkit", "show", "run.db", "--csv", "-"],
        env={**os.environ, "PYTHONPATH": home},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    shown.stdout.readline()
    shown.stdout.close()
    assert shown.stderr.read() == b""
    shown.stderr.close()
    assert shown.wait() == 0


@pytest.mark.parametrize("plain", [False, True])
def test_colours_on_a_terminal(here, run, plain):
    """On a terminal the head is bold and failures are counted by a bar, unless NO_COLOR is set."""
    import pty
    import termios

    home = str(Path(pk.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": home, "TERM": "xterm"}
    env.pop("NO_COLOR", None)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (40, 200))
    done = subprocess.Popen(
        [sys.executable, "-m", "parallelkit", "sweep", "train.py:train", "depth=3", *SERIAL],
        env={**env, "NO_COLOR": "1"} if plain else env,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    told = b""
    try:
        while data := os.read(ours, 65536):
            told += data
    except OSError:  # Linux: the other end is closed
        pass
    os.close(ours)
    assert done.wait() == 0
    assert (b"\x1b[1m" in told) != plain
    assert b"ok=1, failed=0" in told
