"""From results to what a person reads: a table for each group, one row a case; the goals; every figure."""

from benchmarks import cases, goals, peers

UNITS = {"ms": "ms", "us/item": "µs per item", "% of ideal": "% of ideal", "MB": "MB"}
HEADINGS = {
    "overhead": "Overhead: lists and streams of `x + 1`",
    "containers": "Python objects",
    "latency": "Single calls",
    "many workers": "Many workers on few cores",
    "arrays": "Arrays",
    "temporaries": "Workers that keep their memory",
    "schedule": "Schedules",
    "nested": "Nested calls",
    "samplers": "Samplers and optimisers of others",
    "scikit-learn": "scikit-learn by way of joblib",
    "sweeps": "Sweeps",
    "threads": "Threads",
    "reference": "The reference table: what the lock costs",
    "memory": "Memory",
    "start": "Start",
    "first-call": "First call of a script",
}


def figure(record):
    """The figure of a record as text in the unit of its case."""
    if record.error:
        return record.error if len(record.error) <= 30 else record.error.split(":")[0]
    if record.seconds is None:
        return "–"
    unit = cases.ALL[record.case].unit
    if unit == "% of ideal":
        return f"{100 * record.ideal / record.seconds:.1f}"
    if unit == "us/item":
        return digits(1e6 * record.seconds / record.items)
    return digits(record.seconds * {"ms": 1e3, "MB": 1e-6}[unit])


def digits(number):
    """Three significant digits, thousands apart."""
    if abs(number) >= 100:
        return f"{number:,.0f}".replace(",", " ")
    return f"{number:.{1 if abs(number) >= 10 else 2 if abs(number) >= 1 else 3}f}"


def named(record):
    """Who a record is of, in words."""
    variant = f", {record.variant}" if record.variant else ""
    return peers.ALL[record.peer].title + variant


def _lead(results, case):
    """The ratio to the best peer, and to the best one that does not fork, where that is another."""
    lead = results.lead(case)
    if lead is None:
        return ""
    texts = [f"{lead[0]:.2f} ({named(lead[1])})"]
    safe = results.lead(case, lambda record: not record.forks)
    if safe is not None and safe != lead:
        texts.append(f"fork-safe {safe[0]:.2f} ({named(safe[1])})")
    return "; ".join(texts)


def table(results, group):
    """A group in Markdown: the best figure of a row is bold, further settings follow after a slash."""
    rows = [name for name, case in cases.ALL.items() if case.group == group and results.of(name)]
    if not rows:
        return ""
    taking_part = {record.peer for name in rows for record in results.of(name)}
    columns = [name for name in peers.ALL if name in taking_part]
    titles = [peers.ALL[name].title for name in columns]
    lines = [
        "| " + " | ".join(["work", "unit", *titles, "best peer ÷ ours"]) + " |",
        "|" + "---|" * 2 + "---:|" * (len(columns) + 1),
    ]
    for name in rows:
        records = results.of(name)
        able = [r for r in records if r.kind != "none" and r.seconds]
        best = min(able, key=lambda record: record.seconds, default=None)
        cells = [cases.ALL[name].heading(results.size), UNITS[cases.ALL[name].unit]]
        for peer in columns:
            texts = []
            for record in (r for r in records if r.peer == peer):
                text = f"**{figure(record)}**" if record is best else figure(record)
                texts.append(f"{text} ({record.variant})" if record.variant else text)
            cells.append(" / ".join(texts))
        lines.append("| " + " | ".join([*cells, _lead(results, name)]) + " |")
    return "\n".join(lines)


def summary(results):
    """A line for each case of the quick runs: ours, and the best peer and the best one whose workers are not forked."""
    lines = [
        "| work | unit | parallelkit | best peer | × ours | best fork-safe peer | × ours |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name in filter(results.lead, cases.ALL):
        case = cases.ALL[name]
        if not case.quick:
            continue
        cells = [case.heading(results.size), UNITS[case.unit], figure(results.ours(name))]
        for among in (bool, lambda record: not record.forks):
            ratio, best = results.lead(name, among) or (None, None)
            cells += [f"{figure(best)} ({named(best)})", f"{ratio:.2f}"] if best else ["–", "–"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def flatness(results):
    """How far the cost of an item depends on how many there are; "" unless there are several lengths."""
    lines = []
    for what in ("list", "stream"):
        names = [name for name in cases.ALL if name.startswith(f"{what}-")]
        ours = [r for r in (results.get(name, "parallelkit") for name in names) if r]
        if len(ours) > 1:
            costs = ", ".join(f"{r.items:,}: {figure(r)}".replace(",", " ") for r in ours)
            lines.append(f"- {what}, µs per item by length: {costs}")
    return (
        "\n".join(["parallelkit's cost per item by the number of items:", "", *lines])
        if lines
        else ""
    )


def details(results):
    """Every contestant with its spread and settings, in Markdown."""
    lines = [
        "| case | library | variant | settings | items | rounds | median | min | max | note |",
        "|---|---|---|---|" + "---:|" * 5 + "---|",
    ]
    for r in results.records:
        figures = ["", "", ""]
        if r.rounds and cases.ALL[r.case].unit == "MB":
            figures[0] = figure(r) + " MB"
        elif r.seconds:
            figures = [f"{1e3 * s:.4g} ms" for s in (r.seconds, min(r.rounds), max(r.rounds))]
        note = (r.error or r.note).replace("|", "/").replace("\n", " ")
        settings = f"`{r.settings}`" if r.settings else ""
        cells = [r.case, peers.ALL[r.peer].title, r.variant, settings, r.items, len(r.rounds)]
        lines.append("| " + " | ".join(map(str, [*cells, *figures, note])) + " |")
    return "\n".join(lines)


def preamble(results):
    """Where, with what and how it was measured."""
    where = results.machine
    load = where.get("load_before")
    busy = "" if load is None else f" Load of the machine when the run began: {load:.1f}."
    kinds = {"full": "", "quick": ", quick run (smaller sizes, fewer rounds)"}
    how = kinds.get(results.size, ", tiny run: only to see that all of it works")
    parts = [
        f"{where.get('processor')}, {where.get('cores')} cores, {where.get('memory_gib')} GiB, "
        f"{where.get('system')}, {where.get('python')}. {results.workers} workers unless said otherwise, warm unless "
        f"said otherwise, medians of interleaved rounds{how}.{busy}",
        ", ".join(f"{name} {version}" for name, version in results.versions.items()) + ".",
        "Results of all are asserted to be equal. The first figure of a cell is at default settings; others, named in "
        "brackets, at settings chosen for the case (*tuned*: the chunk size; *forkserver*: workers that are not forked; "
        "*inherited*: new workers that get the array by fork). Bold: the best of the row, plain loops left out. Less is "
        "better, except for % of ideal.",
    ]
    parts.append("\n".join(f"- {line}" for line in results.left_out))
    return "\n\n".join(parts)


def sections(results):
    """All groups that were measured: heading and text."""
    found = {}
    for group in cases.GROUPS:
        text = table(results, group)
        if text:
            more = flatness(results) if group == "overhead" else ""
            found[HEADINGS[group]] = "\n\n".join(filter(None, [text, more]))
    if results.faults:
        from benchmarks import faults

        found["Faults"] = faults.table(results.faults)
    return found


def joined(texts):
    """Sections with their headings, as Markdown."""
    return "\n\n".join(f"### {heading}\n\n{text.strip()}" for heading, text in texts.items())


def tables(results):
    """All groups with their headings."""
    return joined(sections(results))


def markdown(results):
    parts = [
        "# Benchmarks: parallelkit and its peers, side by side",
        preamble(results),
        *(["## Goals", goals.table(results)] if results.size != "tiny" else []),
        "## Figures",
        tables(results),
        "## Every figure",
        details(results),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"
