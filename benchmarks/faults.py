"""What goes wrong, and what it costs: a worker killed, Ctrl-C, the parent killed, each library on the same script.

    python -m benchmarks.faults [--peers A,B] [--only kill] [--output DIR]

Four scenarios, each in a child process of its own with a time limit, because several peers hang:

kill-worker
    ``kill -9`` of one worker in the middle of a call of 1 000 items: seconds until the call ends, how much
    longer it took than the same call undisturbed, how many of the 1 000 results the caller never gets, and whether
    the pool answers the next call. As a list, and as a stream.
ctrl-c
    SIGINT to the whole process group, as a terminal sends it: seconds until the program is gone, tracebacks
    printed, processes left.
kill-parent
    ``kill -9`` of the parent alone: seconds until the last of its processes is gone, and processes, files in the
    temporary folder and segments in shared memory that are left after two seconds.
openmp
    The parent fits a model that uses OpenMP, then four items in workers do (needs scikit-learn).
"""

import argparse
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from benchmarks import peers, results, work
from benchmarks.family import LIMIT, Family

PEERS = (
    "parallelkit",
    "parallelkit-return",
    "parallelkit-retry",
    "pathos",
    "pool",
    "executor",
    "joblib",
    "mpire",
)
ITEMS = 1_000


# ---- the child: a program that uses one library ------------------------------------------------------------------------


def kill_worker(peer, say, stream):
    pids = set(peer.map(work.pid_after_nap, [0.02] * 16))
    pids.discard(os.getpid())
    tasks = [0.002] * ITEMS
    mapper = peer.uimap if stream else peer.map
    start = time.perf_counter()
    assert list(mapper(work.nap, tasks)) == tasks
    undisturbed = time.perf_counter() - start
    killed = []

    def kill_one():
        time.sleep(0.3)
        os.kill(min(pids), signal.SIGKILL)
        killed.append(time.perf_counter())

    threading.Thread(target=kill_one, daemon=True).start()
    got, error = 0, None
    start = time.perf_counter()
    try:
        for result in mapper(work.nap, tasks):
            got += result == 0.002
    except Exception as caught:
        error = type(caught).__name__
    end = time.perf_counter()
    say(
        {
            "outcome": error or "finished",
            "seconds": end - killed[0] if killed else None,
            "delay": end - start - undisturbed if error is None else None,
            "lost": ITEMS - got,
        }
    )
    say({"usable": _usable(peer)})


def _usable(peer):
    try:
        return peer.map(work.increment, [1, 2, 3]) == [2, 3, 4]
    except Exception as error:
        return type(error).__name__


def work_for_long(peer, say):
    say({"ready": True})
    peer.map(work.nap, [0.1] * 2_000)


def child(scenario, name):
    # Whoever started this may ignore SIGINT, as a shell does for what it runs in the background; that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(reply):
        channel.write(json.dumps(reply) + "\n")
        channel.flush()

    if scenario == "openmp":
        work.fit_with_openmp(0)  # before the pool starts
    with peers.ALL[name](2) as peer:
        peer.map(work.warm_up, [False] * 8)
        if scenario.startswith("kill-worker"):
            kill_worker(peer, say, stream=scenario.endswith("stream"))
        elif scenario == "openmp":
            start = time.perf_counter()
            right = peer.map(work.fit_with_openmp, range(4)) == [True] * 4
            say({"seconds": time.perf_counter() - start, "usable": right})
        else:
            work_for_long(peer, say)


# ---- the controller ------------------------------------------------------------------------------------------------------


def measure_kill_worker(family):
    reply = family.reply()
    if reply is None:
        return {
            "outcome": f"hangs (> {LIMIT} s)"
            if family.process.poll() is None
            else "the program died"
        }
    return {**reply, **(family.reply(5) or {"usable": "hangs"})}


def measure_ctrl_c(family):
    if family.reply() is None:
        return {"outcome": "did not start"}
    time.sleep(0.7)
    start = time.perf_counter()
    os.killpg(family.process.pid, signal.SIGINT)
    try:
        family.process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        return {
            "outcome": f"hangs (> {LIMIT} s)",
            "left": len(family.members()),
            "tracebacks": family.tracebacks(),
        }
    seconds = time.perf_counter() - start
    time.sleep(0.5)
    return {
        "outcome": f"exit {family.process.returncode}",
        "seconds": seconds,
        "tracebacks": family.tracebacks(),
        "left": len(family.members()),
        "files": family.files(),
    }


def measure_kill_parent(family):
    if family.reply() is None:
        return {"outcome": "did not start"}
    time.sleep(0.7)
    start = time.perf_counter()
    family.process.kill()
    family.process.wait()
    gone = None
    while time.perf_counter() - start < 2:
        if not family.members():
            gone = time.perf_counter() - start
            break
        time.sleep(0.02)
    time.sleep(max(0, 2 - (time.perf_counter() - start)))
    left = len(family.members())
    outcome = "all gone" if gone is not None else "processes left"
    return {"outcome": outcome, "seconds": gone, "left": left, "files": family.files()}


def measure_openmp(family):
    reply = family.reply()
    if reply is None:
        return {
            "outcome": f"hangs (> {LIMIT} s)"
            if family.process.poll() is None
            else "the program died"
        }
    return {"outcome": "finished", **reply}


SCENARIOS = {
    "kill-worker-list": measure_kill_worker,
    "kill-worker-stream": measure_kill_worker,
    "ctrl-c": measure_ctrl_c,
    "kill-parent": measure_kill_parent,
    "openmp": measure_openmp,
}
COLUMNS = ("outcome", "seconds", "delay", "lost", "usable", "tracebacks", "left", "files")


def run(scenarios, names, tell):
    records = []
    for scenario in scenarios:
        if scenario == "openmp" and importlib.util.find_spec("sklearn") is None:
            tell("openmp: left out, it needs scikit-learn\n")
            continue
        for name in names:
            if peers.ALL[name].version() is None:
                continue
            tell(f"{scenario}: {name}\n")
            family = Family(scenario, name)
            try:
                figures = SCENARIOS[scenario](family)
            finally:
                family.end()
            records.append({"scenario": scenario, "peer": name, **figures})
    return records


def suspicious(records):
    """Scenarios in which all libraries hang, or none starts: that tells of the measurement, not of them."""
    outcomes = {}
    for record in records:
        outcomes.setdefault(record["scenario"], []).append(str(record.get("outcome") or ""))
    bad = ("hangs", "did not start")
    return [
        name
        for name, told in outcomes.items()
        if len(told) > 1 and any(all(one.startswith(how) for one in told) for how in bad)
    ]


def quickly(quick, names, tell):
    """For the whole benchmark: all scenarios, or when it has to be quick, only a killed worker, with few libraries."""
    try:
        import psutil  # noqa: F401
    except ImportError:
        tell("faults: left out, counting leftovers needs psutil\n")
        return []
    wanted = [name for name in PEERS if name in names]
    if not quick:
        return run(tuple(SCENARIOS), wanted, tell)
    some = [name for name in wanted if name in ("parallelkit-retry", "executor", "joblib")]
    return run(("kill-worker-list",), some, tell)


def table(records):
    lines = [
        f"| scenario | library | outcome | seconds | longer than undisturbed | results lost of {ITEMS} | next call right | tracebacks "
        "| processes left | files left |",
        "|---|---|---|" + "---:|" * 7,
    ]
    for record in records:
        cells = [record["scenario"], peers.ALL[record["peer"]].title]
        cells += [_shown(record.get(column)) for column in COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    for scenario in suspicious(records):
        lines += [
            "",
            f"**{scenario}: all fail in the same way, so it is the measurement that is at fault.**",
        ]
    return "\n".join(lines)


def markdown(records):
    where = results.machine()
    head = f"{where['processor']}, {where['cores']} cores, {where['system']}, {where['python']}; 2 workers."
    title = "# Faults: parallelkit and its peers on the same scripts"
    return "\n\n".join([title, head, table(records)]) + "\n"


def _shown(figure):
    if isinstance(figure, bool):
        return "yes" if figure else "no"
    if isinstance(figure, float):
        return f"{figure:.3f}"
    return "" if figure is None else str(figure)


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description="what a fault costs"
    )
    parser.add_argument(
        "--only", default="", metavar="SCENARIO", help="scenarios whose name contains this"
    )
    parser.add_argument("--peers", default=",".join(PEERS), metavar="A,B,...")
    parser.add_argument("--output", default="bench-results", metavar="DIR")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        child(*options.child)
        return
    try:
        import psutil  # noqa: F401
    except ImportError:
        parser.error("counting leftovers needs psutil: pip install psutil")
    unknown = set(options.peers.split(",")) - set(PEERS)
    if unknown:
        parser.error(
            f"no library named {', '.join(sorted(unknown))}; there are: {', '.join(PEERS)}"
        )
    records = run(
        [name for name in SCENARIOS if options.only in name],
        options.peers.split(","),
        tell=lambda text: print(text, end="", file=sys.stderr, flush=True),
    )
    folder = pathlib.Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faults.md").write_text(markdown(records), encoding="utf-8")
    content = {"machine": results.machine(), "versions": results.versions(), "records": records}
    (folder / "faults.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    print(markdown(records))


if __name__ == "__main__":
    main()
