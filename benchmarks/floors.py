"""What a goal is up against: the part of the work that no design like ours can leave out, on this machine.

    python -m benchmarks.floors [--quick] [--only warm,arrays] [--output DIR]

A design like ours has one parent in Python, and workers that are not forked from it. Whatever else it does, it must
exchange messages with them, pickle what the caller gave, copy arrays to where workers can see them. These parts are
done alone and by hand (``benchmarks.cases.floors``), in turns with parallelkit and with the nearest peers on the very
same work: each in a process of its own, medians of interleaved rounds, results asserted to be equal.

A goal asks for a share of what the nearest peer needs. Where that time lies below the floor, the goal is out of reach
on this machine.
"""

import argparse
import itertools
import operator
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import cases, goals, harness, report, results
from benchmarks.cases.floors import PARTS
from benchmarks.results import Record

WORKERS = 2
OUT_OF_REACH = "out of reach here"
ROUNDS = {"full": 5, "quick": 2, "tiny": 0}
COLD_TASKS = 8 * 0.05 / WORKERS  # seconds, of the cold script


# ---- the floors: seconds (or bytes), from the medians of their parts -------------------------------------------------


def part(name):
    """A floor that is a part as it was measured."""
    return lambda of: of(name)


def half(name):
    """A floor that is the work of a part, done by all workers."""
    return lambda of: of(name) / WORKERS


def side_by_side(caller, workers):
    """A floor where the caller's part and (∥) the workers' may happen at once, as far as there are cores for it."""

    def floor(of):
        alone, theirs = of(caller), of(workers)
        return max(alone, theirs / WORKERS, (alone + theirs) / results.machine()["cores"])

    return floor


def cold(of):
    return of("floor-cold") + COLD_TASKS


@dataclass(frozen=True)
class Floor:
    """The floor below a case, and who comes nearest to it.

    Attributes
    ----------
    case : str
        The work, as parallelkit and its peers do it.
    made_of : str
        What the floor consists of, in a few words.
    figure : callable
        The floor, from a function that gives the median of a part.
    parts : tuple of str
        What is measured for it, and what is worth knowing beside it.
    peers : tuple of str
        The nearest ones.
    beside : tuple of str
        Other cases that its goals are about.
    strict : bool
        Whether nothing can be faster.
    """

    case: str
    made_of: str
    figure: Callable
    parts: tuple
    peers: tuple = ()
    beside: tuple = ()
    strict: bool = True


FLOORS = (
    Floor(
        "warm-call",
        "two messages and their answers",
        part("floor-exchange"),
        ("floor-exchange", "caller-of-warm-call"),
        ("pool", "executor"),
    ),
    Floor(
        "warm-call-of-main",
        "the same, and a pickle of the function by value",
        part("floor-exchange-by-value"),
        ("floor-exchange-by-value",),
        ("pool",),
    ),
    Floor(
        "round-trip",
        "one message and its answer",
        part("floor-exchange-one"),
        ("floor-exchange-one",),
        ("pool",),
    ),
    Floor(
        "list-1m",
        "the caller's pickles ∥ the workers' pickles and loops",
        side_by_side("floor-list-caller", "floor-list-workers"),
        ("floor-list-caller", "floor-list-workers"),
        ("pool",),
    ),
    Floor(
        "lists",
        "the caller's pickles ∥ the workers' pickles and sums",
        side_by_side("floor-lists-caller", "floor-lists-workers"),
        ("floor-lists-caller", "floor-lists-workers"),
        ("pool", "executor"),
    ),
    Floor(
        "arrays-in",
        "one copy of all into recycled shared memory ∥ the sums",
        side_by_side("floor-in", "arrays-in"),
        ("floor-in", "arrays-in"),
        ("joblib",),
        ("arrays-copied",),
    ),
    Floor(
        "arrays-out-kept",
        "made, and copied into recycled shared memory ∥ copied out into fresh arrays, and read",
        side_by_side("floor-out-caller", "floor-out-workers"),
        ("floor-out-caller", "floor-out-workers"),
        ("mpire", "executor"),
    ),
    Floor(
        "array-frozen",
        "one copy into recycled shared memory",
        part("floor-frozen"),
        ("floor-frozen", "array-frozen-recycled"),
        ("joblib",),
    ),
    Floor(
        "array-frozen-anew",
        "one write into fresh shared memory",
        part("floor-frozen-anew"),
        ("floor-frozen-anew",),
    ),
    Floor(
        "map-blocks",
        "half of the plain loop, into fresh shared memory",
        half("floor-blocks"),
        ("floor-blocks", "map-blocks"),
    ),
    *(
        Floor(
            case.name,
            "half of the plain loop, malloc set as in workers",
            half(f"floor-{case.name}"),
            (f"floor-{case.name}",),
            ("pool", "executor"),
        )
        for case in cases.arrays.TEMPORARIES
    ),
    Floor(
        "milliseconds",
        "no floor, only the plainest way: two forked children, one task a message",
        part("floor-one-by-one"),
        ("floor-one-by-one",),
        ("pool",),
        strict=False,
    ),
    Floor(
        "cold",
        "two interpreters one after the other, one with `import pathos.multiprocessing`; then the tasks",
        cold,
        ("floor-cold-bare", "floor-cold"),
        ("executor", "joblib"),
    ),
    Floor(
        "memory-idle",
        "an interpreter, a server with numpy, two forked from it",
        part("floor-memory"),
        ("floor-memory",),
        ("joblib",),
    ),
)


# ---- measured --------------------------------------------------------------------------------------------------------


def measure(size, only=(), tell=print):
    """The records of all that the floors need, as ``results.Results``."""
    found = results.Results([], size, WORKERS, results.machine(), results.versions())
    for floor in chosen(only):
        plan = harness.Plan(size, WORKERS, peers=("parallelkit", *floor.peers))
        found.records += harness.in_turns(contestants(floor, plan), ROUNDS[size], plan)
        tell(f"{floor.case}: measured")
    for record in found.records:
        if record.error:
            tell(f"{record.case}, {record.peer}: {record.error}")
    return found


def chosen(only):
    """The floors whose case has one of some words in its name; all without any."""
    return [floor for floor in FLOORS if not only or any(word in floor.case for word in only)]


def contestants(floor, plan):
    """Records to fill: parallelkit, the nearest peers, what the goals are about, and the parts."""
    records = harness.contestants(cases.find(floor.case), plan)
    records = [r for r in records if r.peer != "parallelkit" or not r.variant]
    for name in (*floor.beside, *floor.parts):
        peer = "serial" if "serial" in cases.find(name).peers else "parallelkit"
        records.append(Record(name, peer))
    return records


# ---- what is made of it ----------------------------------------------------------------------------------------------


def as_json(found, only=()):
    """All that is known of a run: a row for each floor and each goal that is about it, and the parts."""
    return {
        **{name: getattr(found, name) for name in ("size", "workers", "machine", "versions")},
        "rows": [row for floor in chosen(only) for row in rows(floor, found)],
        "parts": [_of_record(r) for r in found.records if _is_part(r)],
        "records": [record.as_json() for record in found.records],
    }


def rows(floor, found):
    """One for each goal that is about the case; one without a goal where there is none."""
    medians = {record.case: record.seconds for record in found.records if _is_part(record)}
    ours, lead = found.ours(floor.case), found.lead(floor.case)
    row = {
        "case": floor.case,
        "made_of": floor.made_of,
        "floor": floor.figure(medians.get) if all(map(medians.get, floor.parts)) else None,
        "ours": ours.seconds if ours else None,
        "peer": lead[1].seconds if lead else None,
        "peer_title": report.named(lead[1]) if lead else "",
        "ideal": ours.ideal if ours else None,
    }
    asked = limits(floor.case, found) or [("", None)]
    return [
        {**row, "goal": goal, "limit": limit, "verdict": verdict(floor, row, limit)}
        for goal, limit in asked
    ]


def limits(case, found):
    """Of each goal that is about a case: what it asks for, and the figure that would just meet it."""
    verdicts = [(goal.asked, goal.verdict(found).limits) for goal in goals.GOALS]
    return [(asked, known[case]) for asked, known in verdicts if case in known]


def verdict(floor, row, limit):
    if None in (limit, row["ours"], row["floor"]):
        return ""
    if row["ours"] <= limit:
        return "met"
    if not floor.strict:
        return "missed"
    if row["ours"] < row["floor"]:
        return "undecided: a floor that was not below parallelkit tells of noise"
    return OUT_OF_REACH if limit < row["floor"] else "missed, above the floor"


def _is_part(record):
    """Whether a record belongs to a part: one of ``PARTS``, or the plain loop of a case."""
    return record.peer == "serial" or (record.case in PARTS and record.case not in _CASES)


_CASES = {floor.case for floor in FLOORS}


def _of_record(record):
    return {"case": record.case, "seconds": record.seconds, "ideal": record.ideal}


def markdown(content):
    """A run, as it stands in the JSON file, in Markdown."""
    where, size = content["machine"], content["size"]
    how = {"full": "", "quick": ", quick run (smaller sizes, fewer rounds)"}
    how = how.get(size, ", tiny run: only to see that all of it works")
    table = [
        "| work | the floor is made of | floor | parallelkit | nearest peer | ours ÷ floor | goal | asks for | |",
        "|---|---|---:|---:|---:|---:|---|---:|---|",
    ]
    for _, group in itertools.groupby(content["rows"], key=operator.itemgetter("case")):
        first, *others = group
        table.append(_line([*_work(first, size), *_goal(first)]))
        table += [_line([*[""] * 6, *_goal(row)]) for row in others]
    parts = ["| each alone | median |", "|---|---:|"]
    for found in content["parts"]:
        loop = "plain loop: " if found["case"] in cases.ALL else ""
        title = cases.find(found["case"]).heading(size)
        parts.append(_line([loop + title, _figure(found, "seconds")]))
    return "\n\n".join(
        [
            f"{where['processor']}, {where['cores']} cores, {where['system']}, {where['python']}; load before: "
            f"{where['load_before']:.1f}. {content['workers']} workers, medians of interleaved rounds{how}.",
            "\n".join(table),
            "∥: at the same time, as far as there are cores. It is the longest of the caller's part, of the workers' part "
            f"over {content['workers']} workers, and of both over {where['cores']} cores. The parts, and what else was "
            "measured beside them:",
            "\n".join(parts),
        ]
    )


def _line(cells):
    return "| " + " | ".join(cells) + " |"


def _work(row, size):
    """The cells of a row that are the same for all goals."""
    ratio = f"{row['ours'] / row['floor']:.2f}" if row["ours"] and row["floor"] else "–"
    peer = ", ".join(filter(None, [_figure(row, "peer"), row["peer_title"]]))
    title = cases.find(row["case"]).heading(size)
    return [title, row["made_of"], _figure(row, "floor"), _figure(row, "ours"), peer, ratio]


def _goal(row):
    emphasis = "**" if row["verdict"] == OUT_OF_REACH else ""
    return [row["goal"] or "–", _figure(row, "limit"), f"{emphasis}{row['verdict']}{emphasis}"]


def _figure(row, name):
    """With its unit, and as a share of the ideal where the case has one."""
    value = row[name]
    if value is None:
        return "–"
    if cases.find(row["case"]).unit == "MB":
        return f"{report.digits(value / 1e6)} MB"
    share = f" ({100 * row['ideal'] / value:.1f} % of ideal)" if row["ideal"] else ""
    if value < 1e-3:
        return f"{report.digits(1e6 * value)} µs{share}"
    return f"{report.digits(1e3 * value)} ms{share}"


# ---- the command -----------------------------------------------------------------------------------------------------


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floors")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="smaller sizes, fewer rounds: a minute")
    sizes.add_argument("--tiny", action="store_true", help="only to see that all of it works")
    parser.add_argument("--only", default="", metavar="A,B", help="cases with these words")
    parser.add_argument("--output", default="bench-results", metavar="DIR")
    options = parser.parse_args(argv)
    size = "tiny" if options.tiny else "quick" if options.quick else "full"
    only = tuple(filter(None, options.only.split(",")))
    content = as_json(measure(size, only), only)
    results.publish(options.output, "floors", content, markdown(content))


if __name__ == "__main__":
    main()
