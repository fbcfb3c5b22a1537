"""The command ``python -m benchmarks``."""

import argparse
import pathlib
import sys

from benchmarks import cases, chart, check, faults, goals, harness, peers, report, results

# Dask and Ray take seconds to start, for each contestant anew.
NOT_QUICKLY = peers.CLUSTERS


def main(argv=None):
    parser = _parser()
    options = parser.parse_args(argv)
    if options.list:
        print(_listing())
        return 0
    names = _chosen_cases(parser, options)
    libraries, left_out = _chosen_peers(parser, options)
    folder = pathlib.Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "benchmarks.json"
    found = results.Results(
        [], options.size, options.workers, results.machine(), results.versions(), left_out
    )
    if options.resume and file.exists():
        earlier = results.read(file)
        if (earlier.size, earlier.workers) != (found.size, found.workers):
            parser.error(f"{file} is of a {earlier.size} run with {earlier.workers} workers")
        found.records, found.faults = earlier.records, earlier.faults
        if not options.only:
            names = tuple(name for name in names if not found.of(name))
    plan = harness.Plan(options.size, options.workers, names, libraries, options.rounds)
    for records in harness.run(plan, tell=_tell):
        found.put(records)
        found.write(file)
    if _wants_faults(options) and (options.only or not found.faults):
        found.faults = faults.quickly(options.size != "full", libraries, _tell)
    text = report.markdown(found)
    (folder / "benchmarks.md").write_text(text, encoding="utf-8")
    found.write(file)
    _draw(found, folder)
    print(text)
    if found.size != "tiny":
        _tell("goals: {} met, {} missed\n".format(*goals.tally(found)))
    wrong = _tell_failures(found)
    if options.check:
        return check.tell(found, check.read_bounds(found.size)) or wrong
    return wrong


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="parallelkit beside its peers, in one run"
    )
    add = parser.add_argument
    add(
        "--quick",
        dest="size",
        action="store_const",
        const="quick",
        default="full",
        help="fewer cases, smaller sizes, fewer rounds: under two minutes",
    )
    add(
        "--tiny",
        dest="size",
        action="store_const",
        const="tiny",
        help="every case once with next to nothing to do: shows that all of it works, and measures nothing",
    )
    add(
        "--check",
        action="store_true",
        help="compare the ratios with bounds.json; exit code 1 if a case fell below its bound",
    )
    add(
        "--only",
        action="append",
        metavar="CASE",
        help='cases whose name contains this, or "faults"; may be repeated',
    )
    add("--peers", metavar="A,B,...", help="only these libraries (names as in --list)")
    add("--workers", type=int, default=2, help="workers of every pool (default: 2)")
    add("--rounds", type=int, help="rounds of every case, in place of its own number")
    add("--output", default="bench-results", metavar="DIR", help="default: %(default)s")
    add(
        "--resume",
        action="store_true",
        help="keep what an earlier run has put into DIR, and measure what is missing, or the cases of --only anew",
    )
    add("--list", action="store_true", help="show cases and libraries, and run nothing")
    return parser


def _chosen_cases(parser, options):
    known = tuple(cases.ALL)
    if options.only:
        for part in options.only:
            if part != "faults" and not any(part in name for name in known):
                parser.error(f"no case named {part!r}; there are: {', '.join(known)}, faults")
        return tuple(name for name in known if any(part in name for part in options.only))
    if options.check:
        bounds = check.read_bounds(options.size)
        return tuple(name for name in known if name in bounds)
    if options.size == "quick":
        return tuple(name for name in known if cases.ALL[name].quick)
    return known


def _chosen_peers(parser, options):
    """The libraries to run, and lines about those that are left out."""
    wanted = options.peers.split(",") if options.peers else None
    unknown = set(wanted or ()) - set(peers.ALL)
    if unknown:
        parser.error(
            f"no library named {', '.join(sorted(unknown))}; there are: {', '.join(peers.ALL)}"
        )
    chosen, left_out = [], []
    for name, peer in peers.ALL.items():
        if wanted is not None and name not in wanted:
            continue
        if peer.version() is None:
            left_out.append(f"{peer.title} is left out: not installed (pip install {peer.package})")
        elif wanted is None and options.size != "full" and name in NOT_QUICKLY:
            left_out.append(f"{peer.title} is left out of short runs; --peers asks for it")
        else:
            chosen.append(name)
    for line in left_out:
        _tell(line + "\n")
    return tuple(chosen), left_out


def _wants_faults(options):
    if options.only:
        return "faults" in options.only
    return options.size != "tiny" and not options.check


def _draw(found, folder):
    try:
        chart.draw(found, folder)
    except ImportError:
        _tell("no chart: it needs matplotlib (pip install matplotlib)\n")


def _tell(text):
    print(text, end="", file=sys.stderr, flush=True)


def _tell_failures(found):
    """Say what failed; 1 if any answer of ours was wrong."""
    failed = [record for record in found.records if record.error]
    for record in failed:
        print(f"{record.case}, {record.peer} {record.variant}: {record.error}", file=sys.stderr)
        print(record.traceback, file=sys.stderr)
    return int(any("wrong" in r.error and r.peer in peers.OURS for r in failed))


def _listing():
    lines = ["cases (q: in quick runs too):"]
    for name, case in cases.ALL.items():
        lines.append(f"  {name:20} {'q' if case.quick else ' '}  {case.heading('full')}")
    lines += [
        "  faults               q  what a dead worker, Ctrl-C and a dead parent cost",
        "libraries:",
    ]
    for name, peer in peers.ALL.items():
        lines.append(f"  {name:20} {peer.title}: {peer.version() or 'not installed'}")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
