"""Put the figures of a run into the documentation.

    python -m benchmarks.docs bench-results    # benchmarks.json, floors.json, scaling.json: what there is in that folder

Writes the marked regions of ``docs/benchmarks.md`` and ``docs/scaling.md``, and the chart beside them. What stands
outside the marks is written by hand, and stays. A region "speed" in README.md, if there is one, gets one line for each case.
"""

import argparse
import json
import pathlib

from benchmarks import chart, floors, goals, report, results, scaling

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"
BEGIN, END = "<!-- {}: written by python -m benchmarks.docs -->", "<!-- end of {} -->"


def fill(text, region, content):
    """Replace what stands between the marks of a region."""
    begin, end = BEGIN.format(region), END.format(region)
    if begin not in text or end not in text:
        raise ValueError(f"no region {region!r}: the page needs the lines {begin!r} and {end!r}")
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n\n{content.strip()}\n\n{end}{rest.split(end, 1)[1]}"


def update(page, **regions):
    text = page.read_text(encoding="utf-8")
    for region, content in regions.items():
        text = fill(text, region, content)
    page.write_text(text, encoding="utf-8")


def write(folder, docs=DOCS):
    """Bring the results in a folder into the pages; give the names of the pages that were written."""
    written = []
    figures, below, ceiling = (
        folder / f"{name}.json" for name in ("benchmarks", "floors", "scaling")
    )
    if figures.exists():
        found = results.read(figures)
        update(
            docs / "benchmarks.md",
            machine=report.preamble(found),
            goals=goals.table(found),
            figures=report.tables(found),
        )
        chart.draw(found, docs)
        written.append("benchmarks.md")
        readme = docs.parent / "README.md"
        if readme.exists() and BEGIN.format("speed") in readme.read_text(encoding="utf-8"):
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
    options = parser.parse_args(argv)
    written = write(options.folder)
    if not written:
        parser.error(f"no benchmarks.json, floors.json or scaling.json in {options.folder}")
    print("written: " + ", ".join(written))


if __name__ == "__main__":
    main()
