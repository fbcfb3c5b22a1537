"""From records to what a person reads: one row for each case, one column for each library, then every figure."""

import importlib.metadata
import json
import os
import pathlib
import platform
import sys

from benchmarks import cases, peers

UNITS = {"ms": "ms", "us/item": "µs per item", "% of ideal": "% of ideal", "MB": "MB"}
OURS = ("parallelkit", "parallelkit-threads")


def machine():
    """What the figures depend on, without a name of a machine."""
    memory = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        if hasattr(os, "sysconf")
        else None
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cores,
        "memory_gib": memory and round(memory),
        "system": " ".join([platform.system(), *platform.libc_ver()]).strip(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _processor():
    try:
        with open("/proc/cpuinfo") as lines:
            return next(
                line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions():
    found = {peer.package: peer.version() for peer in peers.ALL.values() if peer.package}
    for package in ("loky", "multiprocess", "dill", "cloudpickle", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    if found["loky"] is None and found["joblib"]:
        found["loky"] = importlib.import_module("joblib.externals.loky").__version__
    return {name: version or "not installed" for name, version in found.items()}


def value(record):
    """The figure to compare, less is better: seconds, seconds per item, or bytes."""
    if record.seconds is None:
        return None
    return (
        record.seconds / record.items
        if cases.ALL[record.case].unit == "us/item"
        else record.seconds
    )


def shown(record):
    """The figure as text in the unit of its case."""
    if record.error:
        return record.error if len(record.error) <= 30 else record.error.split(":")[0]
    unit, figure = cases.ALL[record.case].unit, value(record)
    if figure is None:
        return "–"
    if unit == "% of ideal":
        return f"{100 * record.ideal / figure:.1f}"
    return _digits(figure * {"ms": 1e3, "us/item": 1e6, "MB": 1e-6}[unit])


def _digits(number):
    """Three significant digits, thousands apart."""
    if abs(number) >= 100:
        return f"{number:,.0f}".replace(",", " ")
    return f"{number:.{1 if abs(number) >= 10 else 2 if abs(number) >= 1 else 3}f}"


def lead(records, fork_safe=False):
    """How many times the figure of ours the best peer of the same kind needs, and who that is.

    ``fork_safe`` leaves out figures that need the start method "fork", which hangs once the parent has used OpenMP.
    """
    ours = next(
        (r for r in records if r.peer in OURS and not r.variant and (value(r) or 0) > 0), None
    )
    if ours is None:
        return None
    case, kind = cases.ALL[ours.case], peers.ALL[ours.peer].kind
    others = [
        r
        for r in records
        if r.peer not in OURS
        and peers.ALL[r.peer].kind == kind
        and (value(r) or 0) > 0
        and not (fork_safe and (r.peer, r.variant) in case.fork_only)
    ]
    if not others:
        return None
    best = min(others, key=value)
    return value(best) / value(ours), best


def _lead_shown(records):
    any_peer, fork_safe = lead(records), lead(records, fork_safe=True)
    texts = [
        f"{ratio:.2f} ({peers.ALL[best.peer].title})" for ratio, best in filter(None, [any_peer])
    ]
    if fork_safe and fork_safe != any_peer:
        texts.append(f"fork-safe {fork_safe[0]:.2f} ({peers.ALL[fork_safe[1].peer].title})")
    return "; ".join(texts)


def table(records, group, quick=False):
    """The summary in Markdown: the best figure of a row is bold, a second setting follows after a slash."""
    rows = [
        name
        for name in cases.ALL
        if cases.ALL[name].group == group and any(r.case == name for r in records)
    ]
    if not rows:
        return ""
    columns = [
        name for name in peers.ALL if any(r.peer == name and r.case in rows for r in records)
    ]
    titles = [peers.ALL[name].title for name in columns]
    lines = [
        "| " + " | ".join(["work", "unit", *titles, "best peer ÷ ours"]) + " |",
        "|" + "---|" * 2 + "---:|" * (len(columns) + 1),
    ]
    for name in rows:
        entries = [r for r in records if r.case == name]
        rivals = [r for r in entries if peers.ALL[r.peer].kind != "none" and value(r) is not None]
        best = min(rivals, key=value, default=None)
        quickly = cases.ALL[name].quickly
        cells = [
            cases.ALL[name].title + (f" (here {quickly})" if quick and quickly else ""),
            UNITS[cases.ALL[name].unit],
        ]
        for peer in columns:
            texts = []
            for record in (r for r in entries if r.peer == peer):
                text = f"**{shown(record)}**" if record is best else shown(record)
                texts.append(f"{text} ({record.variant})" if record.variant else text)
            cells.append(" / ".join(texts) or "")
        cells.append(_lead_shown(entries))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def details(records):
    """Every contestant with its spread and settings, in Markdown."""
    lines = [
        "| case | library | variant | settings | items | rounds | median | min | max | note |",
        "|---|---|---|---|" + "---:|" * 5 + "---|",
    ]
    for r in records:
        figures = ["", "", ""]
        if r.rounds and cases.ALL[r.case].unit == "MB":
            figures[0] = shown(r) + " MB"
        elif r.rounds:
            figures = [f"{1e3 * s:.4g} ms" for s in (r.seconds, min(r.rounds), max(r.rounds))]
        note = (r.error or r.note).replace("|", "/").replace("\n", " ")
        cells = [
            r.case,
            peers.ALL[r.peer].title,
            r.variant,
            f"`{r.settings}`" if r.settings else "",
            r.items,
        ]
        cells += [len(r.rounds), *figures, note]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def markdown(records, plan):
    where, found = machine(), versions()
    parts = [
        "# Benchmarks: parallelkit and its peers, side by side",
        f"{where['processor']}, {where['cores']} cores, {where['memory_gib']} GiB, {where['system']}, "
        f"{where['python']}. {plan.workers} workers, warm unless said otherwise, median of interleaved rounds"
        + (", quick run (smaller sizes, fewer rounds)." if plan.quick else "."),
        ", ".join(f"{name} {version}" for name, version in found.items()) + ".",
        "Results of all are asserted to be equal. The first figure of a cell is at default settings; a second one, "
        "named in brackets, at settings chosen for the case (*tuned*: chunk sizes; *inherited*: new workers that get "
        "the array by fork). Bold: the best of the row. Less is better, except for % of ideal.",
        table(records, "processes", plan.quick),
    ]
    threads = table(records, "threads", plan.quick)
    if threads:
        parts += ["## Threads", threads]
    parts += ["## Every figure", details(records)]
    return "\n\n".join(part for part in parts if part) + "\n"


def write(records, plan, folder):
    """Write ``benchmarks.md`` and ``benchmarks.json``; give the Markdown text."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(records, plan)
    (folder / "benchmarks.md").write_text(text, encoding="utf-8")
    content = {
        "machine": machine(),
        "versions": versions(),
        "workers": plan.workers,
        "quick": plan.quick,
        "argv": sys.argv[1:],
        "records": [record.as_json() for record in records],
    }
    (folder / "benchmarks.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    return text
