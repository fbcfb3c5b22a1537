"""Put the figures of a run into the documentation.

    python -m benchmarks.docs bench-results    # benchmarks.json, floors.json, scaling.json: what there is in that folder
    python -m benchmarks.docs bench-results --part    # of some groups of cases: the others stay as they are

Writes the marked regions of ``docs/benchmarks.md`` and ``docs/scaling.md``, and the chart beside them. What stands
outside the marks is written by hand, and stays. A region "speed" in README.md, if there is one, gets one line for each case.
"""

import argparse
import json
import pathlib
import re

from benchmarks import cases, chart, floors, goals, report, results, scaling

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"
BEGIN, END = "<!-- {}: written by python -m benchmarks.docs -->", "<!-- end of {} -->"
LEAD = re.compile(r"([\d.]+) \((.+?)\)(?:;|$)")  # as report.table writes it in its last column


def split(text, region):
    """What stands before, between and behind the marks of a region, with these."""
    begin, end = BEGIN.format(region), END.format(region)
    if begin not in text or end not in text:
        raise ValueError(f"no region {region!r}: the page needs the lines {begin!r} and {end!r}")
    before, rest = text.split(begin, 1)
    between, behind = rest.split(end, 1)
    return before + begin, between, end + behind


def fill(text, region, content):
    """Replace what stands between the marks of a region."""
    before, _, behind = split(text, region)
    return f"{before}\n\n{content.strip()}\n\n{behind}"


def update(page, **regions):
    text = page.read_text(encoding="utf-8")
    for region, content in regions.items():
        text = fill(text, region, content)
    page.write_text(text, encoding="utf-8")


def merge(page, found):
    """Put groups that were measured apart among those of the page; give the ratios that it has already."""
    text = page.read_text(encoding="utf-8")
    parts = split(text, "figures")[1].split("\n### ")[1:]
    there = dict(part.split("\n", 1) for part in parts)
    fresh = report.sections(found)
    machine, libraries, *_ = report.preamble(found).split("\n\n")
    for heading in fresh:
        fresh[heading] += f"\n\nMeasured in a run of its own: {machine} {libraries}"
    order = [*(report.HEADINGS[group] for group in cases.GROUPS), "Faults"]
    merged = {name: fresh.get(name) or there[name] for name in order if name in {*fresh, *there}}
    update(page, goals=goals.table(found, split(text, "goals")[1]), figures=report.joined(merged))
    return leads(merged)


def leads(sections):
    """Ratio and best peer of each case that the tables of a page have a row of."""
    names = {case.heading("full"): name for name, case in cases.ALL.items()}
    found = {}
    for line in "\n".join(sections.values()).splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        lead = LEAD.match(cells[-1]) if cells else None
        if lead and cells[0] in names:
            found[names[cells[0]]] = float(lead[1]), lead[2]
    return found


def write(folder, docs=DOCS, part=False):
    """Bring the results in a folder into the pages; give the names of the pages that were written."""
    written = []
    figures, below, ceiling = (
        folder / f"{name}.json" for name in ("benchmarks", "floors", "scaling")
    )
    if figures.exists():
        found = results.read(figures)
        others = {}
        if part:
            others = merge(docs / "benchmarks.md", found)
        else:
            update(
                docs / "benchmarks.md",
                machine=report.preamble(found),
                goals=goals.table(found),
                figures=report.tables(found),
            )
        chart.draw(found, docs, others=others)
        written.append("benchmarks.md")
        readme = docs.parent / "README.md"
        has_speed = readme.exists() and BEGIN.format("speed") in readme.read_text(encoding="utf-8")
        if has_speed and not part:
            update(readme, speed=report.summary(found))
            written.append(readme.name)
    if below.exists():
        content = json.loads(below.read_text(encoding="utf-8"))
        update(docs / "benchmarks.md", floors=floors.markdown(content))
        written.append("benchmarks.md")
    if ceiling.exists():
        content = json.loads(ceiling.read_text(encoding="utf-8"))
        update(docs / "scaling.md", ceiling=scaling.markdown(content))
        written.append("scaling.md")
    return list(dict.fromkeys(written))


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.docs")
    parser.add_argument("folder", type=pathlib.Path, help="what --output was")
    parser.add_argument(
        "--part",
        action="store_true",
        help="the run had some groups of cases, all cases of each: keep the rest of the page",
    )
    options = parser.parse_args(argv)
    written = write(options.folder, part=options.part)
    if not written:
        parser.error(f"no benchmarks.json, floors.json or scaling.json in {options.folder}")
    print("written: " + ", ".join(written))


if __name__ == "__main__":
    main()
