"""The chart: for each case, how many times our figure the best peer needs, at one glance.

Right of the line at 1 we lead, left of it we lose; the scale is logarithmic, so that twice as fast and half as fast
are equally far from the line.
"""

import pathlib

from benchmarks import cases, peers, report

LEAD, LOSS, FAINT = "#2a6f97", "#c8553d", "#8a8f94"


def draw(results, folder, name="benchmarks", others=()):
    """Write ``<name>.svg`` and ``<name>.png``; give their paths, none when there is nothing to compare.

    ``others``: ratio and name of the best peer, for cases that were measured at another time.
    """
    here = {case: (ratio, report.named(best)) for case, (ratio, best) in results.leads().items()}
    leads = {case: lead for case in cases.ALL if (lead := here.get(case) or dict(others).get(case))}
    if not leads:
        return []
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = _rows(leads)
    with mpl.rc_context({"font.size": 9, "svg.hashsalt": "benchmarks", "svg.fonttype": "none"}):
        picture = Figure(figsize=(9, 0.9 + 0.235 * len(rows)), layout="constrained")
        FigureCanvasAgg(picture)
        _fill(picture.add_subplot(), rows, leads, results)
        paths = [pathlib.Path(folder) / f"{name}.{kind}" for kind in ("svg", "png")]
        picture.savefig(paths[0], metadata={"Date": None, "Creator": None})
        picture.savefig(paths[1], dpi=110, metadata={"Software": None})
    return paths


def _rows(leads):
    """From top to bottom: a group's name (with None), then its cases."""
    rows = []
    for group in cases.GROUPS:
        names = [name for name in leads if cases.ALL[name].group == group]
        rows += [(group, None), *((group, name) for name in names)] if names else []
    return rows


def _fill(axes, rows, leads, results):
    ratios = [ratio for ratio, _ in leads.values()]
    low, high = min(0.5, *ratios) / 1.25, max(2, *ratios) * 1.25
    for height, (group, name) in enumerate(rows):
        if name is None:
            axes.text(low, height + 0.15, f" {group}", weight="bold", va="center")
            continue
        ratio, best = leads[name]
        color = LEAD if ratio >= 1 else LOSS
        axes.barh(height, ratio - 1, left=1, height=0.68, color=color)
        text = f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2f}"
        ahead = ratio >= 1
        axes.annotate(
            f"{text}  {best}",
            (max(ratio, 1), height),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color="#333333" if ahead else LOSS,
        )
    axes.axvline(1, color="black", linewidth=1.2)
    axes.set_xscale("log")
    axes.set_xlim(low, high * 4)  # room for the names
    axes.set_ylim(len(rows) - 0.4, -0.8)
    shown = [(height, name) for height, (_, name) in enumerate(rows) if name]
    axes.set_yticks([height for height, _ in shown], [name for _, name in shown])
    axes.tick_params(axis="y", length=0)
    ticks = [t for t in (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000) if low <= t <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel(
        "best peer ÷ parallelkit, log scale: right of the line parallelkit leads, left of it it loses"
    )
    where = results.machine
    axes.set_title(
        f"parallelkit ({peers.ALL['parallelkit'].version()}) beside the best peer of each case, at that peer's best "
        f"settings\n{where.get('processor')}, {where.get('cores')} cores, {where.get('python')}"
        + (f", {results.size} run" if results.size != "full" else ""),
        fontsize=9,
        loc="left",
    )
