"""The regression check: ratios to the best peer against the lowest that are expected of them.

    python -m benchmarks --check [--quick]                  # run the cases that have a bound, and compare
    python -m benchmarks.check bench-results/benchmarks.json            # compare what was measured already
    python -m benchmarks.check bench-results/benchmarks.json --write    # take it as what is expected from now on

Ratios of one run only, never seconds: a slower machine is slower for all. The bounds (``bounds.json``) lie below
what was measured by a margin for noise. The exit code is 1 if a case fell below its bound.
"""

import argparse
import json
import pathlib
import sys

from benchmarks import report, results

BOUNDS = pathlib.Path(__file__).with_name("bounds.json")
MARGIN = 0.7  # of the measured ratio: what noise takes away between two runs of the same code


def read_bounds(size, path=BOUNDS):
    """The lowest ratio to the best peer by case, for runs of this size."""
    return json.loads(path.read_text(encoding="utf-8")).get(size, {})


def write_bounds(found, path=BOUNDS, margin=MARGIN):
    """Take the ratios of a run, less a margin, as the bounds for runs of its size."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content[found.size] = {name: round(lead[0] * margin, 2) for name, lead in found.leads().items()}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def compare(found, bounds):
    """Lines that say which cases fell below their bounds; none if all is well."""
    lines = []
    for case, bound in bounds.items():
        ours = [r for r in found.of(case) if r.peer.startswith("parallelkit") and not r.variant]
        lead = found.lead(case)
        if ours and ours[0].error:
            lines.append(f"{case}: failed: {ours[0].error}")
        elif lead is not None and lead[0] < bound:
            lines.append(
                f"{case}: {lead[0]:.2f} × {report.named(lead[1])}, expected at least {bound:.2f}"
            )
    return lines


def tell(found, bounds):
    """Print what fell; give the exit code."""
    compared = [case for case in bounds if found.of(case)]
    if not compared:
        print(f"no case that has a bound for {found.size} runs was measured", file=sys.stderr)
        return 2
    lines = compare(found, bounds)
    print("\n".join(lines) or f"{len(compared)} cases: none fell below its bound")
    return 1 if lines else 0


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check")
    parser.add_argument("results", help="benchmarks.json of a run")
    parser.add_argument("--write", action="store_true", help="make the bounds anew from it")
    options = parser.parse_args(argv)
    found = results.read(options.results)
    if options.write:
        write_bounds(found)
        print(f"{BOUNDS.name}: {len(found.leads())} bounds for {found.size} runs")
        return 0
    return tell(found, read_bounds(found.size))


if __name__ == "__main__":
    raise SystemExit(main())
