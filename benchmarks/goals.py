"""What this project set out to reach, as ratios within one run; met or missed is decided by the measured figures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks import peers


class Verdict(NamedTuple):
    """What was found: a figure in words, and whether the goal is met (None: not measured).

    ``limits`` says, for each case, with how many seconds parallelkit would just meet the goal.
    """

    found: str
    met: bool | None
    limits: dict = {}


NOT_MEASURED = Verdict("not in this run", None)


@dataclass(frozen=True)
class Goal:
    """A goal: what it is about, what is asked, and the judge of it."""

    what: str
    asked: str
    judge: Callable

    def verdict(self, results):
        return self.judge(results) or NOT_MEASURED


def defaults(record):
    return not record.variant


def fork_safe(record):
    return not record.forks


def only(*names):
    return lambda record: record.peer in names


def ahead(least, *names, among=bool):
    """The best peer needs at least so many times our figure; of several cases, in the worst of them."""

    def judge(results):
        leads = [lead for lead in (results.lead(name, among) for name in names) if lead]
        if len(leads) < len(names):
            return None
        ratio, best = min(leads, key=lambda lead: lead[0])
        variant = f", {best.variant}" if best.variant else ""
        where = f", {best.case}" if len(names) > 1 else ""
        limits = {record.case: record.seconds / least for _, record in leads}
        return Verdict(
            f"{ratio:.2f} × {peers.ALL[best.peer].title}{variant}{where}", ratio >= least, limits
        )

    return judge


def of_ideal(least, *names, variant="", beside=None):
    """So much of the ideal schedule at least; of several cases, in the worst of them.

    Where somebody is named `beside` it, only cases count in which that library reaches as much.
    """

    def judge(results):
        ours = [results.get(name, "parallelkit", variant) for name in names]
        if not all(ours):
            return None
        if beside:
            others = [results.get(name, beside) for name in names]
            if not all(others):
                return None
            able = {record.case for record in others if _share(record) >= least}
            ours = [record for record in ours if record.case in able]
            if not ours:
                return Verdict(f"{peers.ALL[beside].title} reaches it nowhere", True)
        worst = min(ours, key=_share)
        share = _share(worst)
        where = f", {worst.case}" if len(names) > 1 else ""
        limits = {record.case: record.ideal / least for record in ours}
        return Verdict(f"{100 * share:.1f} %{where}", share >= least, limits)

    return judge


def _share(record):
    return record.ideal / record.seconds


def against(least, case, other, ours="", label=""):
    """Another contestant, (case, peer, variant), needs at least so many times what a variant of ours needs."""

    def judge(results):
        mine = results.get(case, "parallelkit", ours)
        theirs = results.get(*other)
        if not (mine and theirs):
            return None
        equal = theirs.seconds / theirs.items * mine.items
        ratio = equal / mine.seconds
        limits = {} if ours else {case: equal / least}
        return Verdict(
            f"{ratio:.2f} × {label or peers.ALL[theirs.peer].title}", ratio >= least, limits
        )

    return judge


def _share_costs_nothing(results):
    shared = results.get("array-share", "parallelkit")
    integer = results.get("array-share", "parallelkit", "frozen integer")
    if not (shared and integer):
        return None
    difference = 1e3 * (shared.seconds - integer.seconds)
    return Verdict(f"{difference:+.1f} ms", difference <= 5)


def _flat(what):
    def judge(results):
        """From 10 000 items on; below that the call itself is the cost."""
        from benchmarks import cases

        names = [name for name in cases.ALL if name.startswith(f"{what}-") and name[-2:] != "1k"]
        costs = [r.seconds / r.items for r in (results.get(n, "parallelkit") for n in names) if r]
        if len(costs) < 3:
            return None
        ratio = max(costs) / min(costs)
        return Verdict(f"largest ÷ smallest {ratio:.2f}", ratio <= 2)

    return judge


TIMES = "{} × the best peer".format
GOALS = (
    Goal("1 000 000 × `x + 1`, list", TIMES("1.3"), ahead(1.3, "list-1m")),
    Goal(
        "1 000 000 × `x + 1`, stream, default settings",
        TIMES("10"),
        ahead(10, "stream-1m", among=defaults),
    ),
    Goal("cost per item of lists, 10^4 to 10^7 items", "flat: within 2 ×", _flat("list")),
    Goal("cost per item of streams, 10^4 to 10^7 items", "flat: within 2 ×", _flat("stream")),
    Goal("2 000 lists of 1 000 ints", TIMES("1.3"), ahead(1.3, "lists")),
    Goal("2 000 lists of 1 000 ints", "20 × pathos", ahead(20, "lists", among=only("pathos"))),
    Goal("arrays in", "10 × the best fork-safe peer", ahead(10, "arrays-in", among=fork_safe)),
    Goal("arrays in", TIMES("5"), ahead(5, "arrays-in")),
    Goal(
        "arrays in",
        "faster than `[a.copy() for a in arrays]`",
        against(1, "arrays-in", ("arrays-copied", "serial", ""), label="the copies"),
    ),
    Goal(
        "arrays out, kept",
        "8 × the best fork-safe peer",
        ahead(8, "arrays-out-kept", among=fork_safe),
    ),
    Goal("arrays out, kept", TIMES("5"), ahead(5, "arrays-out-kept")),
    Goal("arrays out, dropped one by one", TIMES("8"), ahead(8, "arrays-out-dropped")),
    Goal(
        "frozen array, first call",
        "5 × the best fork-safe peer",
        ahead(5, "array-frozen", among=fork_safe),
    ),
    Goal("frozen array, first call", "4 × joblib", ahead(4, "array-frozen", among=only("joblib"))),
    Goal(
        "frozen array, following calls",
        "10 × joblib",
        ahead(10, "array-frozen-again", among=only("joblib")),
    ),
    Goal("`pk.share` beside a frozen integer", "at most 5 ms more", _share_costs_nothing),
    Goal(
        "`map_blocks` beside its own loop",
        "1.8 × the plain loop",
        against(1.8, "map-blocks", ("map-blocks", "serial", "")),
    ),
    Goal("50 000 small arrays", TIMES("2"), ahead(2, "arrays-small")),
    Goal(
        "50 000 small arrays",
        "not slower than as lists",
        against(1, "arrays-small", ("arrays-small", "parallelkit", "as lists"), label="as lists"),
    ),
    Goal(
        "numpy temporaries of 0.2 to 16 MB",
        TIMES("1.8"),
        ahead(1.8, *(f"temporaries-{mb}" for mb in ("0.2", "1", "4", "16"))),
    ),
    Goal("1 000 × 1 ms", "99 % of ideal", of_ideal(0.99, "milliseconds")),
    Goal("skewed durations, bad order", "95 % of ideal", of_ideal(0.95, "skewed-end")),
    Goal("warm call of 2 items", "fastest of all process pools by 1.3", ahead(1.3, "warm-call")),
    Goal("cold script", "the fastest fork-safe one", ahead(1, "cold", among=fork_safe)),
    Goal("cold script", "at most 0.75 × joblib's", ahead(1 / 0.75, "cold", among=only("joblib"))),
    Goal(
        "first call of a script, numpy imported",
        "at most 1.2 × multiprocessing.Pool, which forks",
        ahead(1 / 1.2, "first-call", among=only("pool")),
    ),
    Goal(
        "first call of a function of scikit-learn",
        "a tenth of joblib's",
        ahead(10, "first-call-library", among=only("joblib")),
    ),
    Goal(
        "first call of a function of scikit-learn",
        "at most 1.3 × multiprocessing.Pool, which forks",
        ahead(1 / 1.3, "first-call-library", among=only("pool")),
    ),
    Goal(
        "a script and its workers at rest, scikit-learn imported",
        "at most 1.1 × multiprocessing.Pool, which forks",
        ahead(1 / 1.1, "memory-library", among=only("pool")),
    ),
    Goal(
        "a script and its workers at rest, scikit-learn imported",
        "a third of joblib's",
        ahead(3, "memory-library", among=only("joblib")),
    ),
    Goal(
        "the same after OpenMP was used",
        "at most 1.2 × multiprocessing.Pool (forkserver)",
        ahead(1 / 1.2, "first-call-openmp", among=only("pool")),
    ),
    Goal(
        "threads, per item",
        "not above ThreadPoolExecutor",
        ahead(1, "threads", among=only("thread-executor")),
    ),
    Goal(
        "threads, per item",
        "a tenth of joblib's",
        ahead(10, "threads", among=only("joblib-threads")),
    ),
    Goal("`submit` to result, round trip", "the fastest of all", ahead(1, "round-trip")),
    Goal("import", "below `import concurrent.futures`", ahead(1, "import", among=only("executor"))),
    Goal(
        "even nested numpy tasks: 8 × 16, 2 × 64, 64 × 2, three levels",
        "96 % of ideal, where multiprocessing.Pool reaches it",
        of_ideal(
            *(0.96, "nested-8x16", "nested-2x64", "nested-64x2", "nested-deep"), beside="pool"
        ),
    ),
    Goal(
        "uneven nested numpy tasks: 4 + 36, 8 × 4 + 36",
        "90 % of ideal",
        of_ideal(0.9, "nested-uneven", "nested-uneven-many"),
    ),
    Goal(
        'uneven nested tasks in pure Python, `nested="auto"`',
        "85 % of ideal",
        of_ideal(0.85, "nested-python", variant="nested auto"),
    ),
    Goal(
        "nested cross-validation",
        "ahead of joblib, however it splits the cores",
        ahead(1, "nested-validation", among=only("joblib")),
    ),
    Goal(
        "nested, 8 × 16",
        "ahead of joblib and pathos",
        ahead(1, "nested-8x16", among=only("joblib", "pathos")),
    ),
    Goal(
        "an inner call",
        "a sixth of pathos' ThreadPool",
        ahead(6, "nested-call", among=only("pathos")),
    ),
)


def table(results, before=None):
    """The goals in Markdown; those that were not measured as in the table `before`, if there is one."""
    lines = ["| goal | asked | found | |", "|---|---|---|---|"]
    for goal in GOALS:
        verdict, start = goal.verdict(results), f"| {goal.what} | {goal.asked} |"
        word = {True: "met", False: "**missed**", None: "–"}[verdict.met]
        if verdict.met is not None or before is None:
            lines.append(f"{start} {verdict.found} | {word} |")
        else:
            lines += [line for line in before.splitlines() if line.startswith(start)]
    return "\n".join(lines)


def tally(results):
    """How many goals are met, and missed."""
    verdicts = [goal.verdict(results).met for goal in GOALS]
    return verdicts.count(True), verdicts.count(False)
