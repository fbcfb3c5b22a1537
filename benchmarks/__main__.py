"""The command ``python -m benchmarks``."""

import argparse
import sys

from benchmarks import cases, harness, peers, report


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="parallelkit beside its peers, in one run"
    )
    parser.add_argument(
        "--quick", action="store_true", help="smaller sizes and fewer rounds: under two minutes"
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="CASE",
        help="cases whose name contains this; may be repeated",
    )
    parser.add_argument(
        "--peers", metavar="A,B,...", help="only these libraries (names as in --list)"
    )
    parser.add_argument("--workers", type=int, default=2, help="workers of every pool (default: 2)")
    parser.add_argument(
        "--rounds", type=int, help="rounds of every case, in place of its own number"
    )
    parser.add_argument(
        "--output",
        default="bench-results",
        metavar="DIR",
        help="where the tables go (default: %(default)s)",
    )
    parser.add_argument(
        "--list", action="store_true", help="show cases and libraries, and run nothing"
    )
    options = parser.parse_args(argv)

    if options.list:
        print(_listing())
        return 0
    plan = harness.Plan(
        quick=options.quick,
        workers=options.workers,
        rounds=options.rounds,
        cases=_chosen(parser, "case", cases.ALL, options.only, lambda name, part: part in name),
        peers=_chosen(
            parser, "library", peers.ALL, options.peers and options.peers.split(","), str.__eq__
        ),
    )
    records = harness.run(plan, tell=lambda text: print(text, end="", file=sys.stderr, flush=True))
    print(report.write(records, plan, options.output))
    failed = [record for record in records if record.error]
    for record in failed:
        print(f"{record.case}, {record.peer} {record.variant}: {record.error}", file=sys.stderr)
        print(record.traceback, file=sys.stderr)
    wrong = any("wrong" in record.error for record in failed)
    return 1 if wrong else 0


def _chosen(parser, what, known, wanted, fits):
    """The known names that fit any wanted one; all of them when nothing is asked for."""
    if not wanted:
        return tuple(known)
    for part in wanted:
        if not any(fits(name, part) for name in known):
            parser.error(f"no {what} named {part!r}; there are: {', '.join(known)}")
    return tuple(name for name in known if any(fits(name, part) for part in wanted))


def _listing():
    lines = ["cases:"] + [f"  {name:20} {case.title}" for name, case in cases.ALL.items()]
    lines += ["libraries:"]
    lines += [
        f"  {name:20} {peer.title}: {peer.version() or 'not installed'}"
        for name, peer in peers.ALL.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
