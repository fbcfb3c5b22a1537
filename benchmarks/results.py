"""What a run found out: records, where they were measured, and the ratios between them."""

import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
from dataclasses import asdict, dataclass, field

from benchmarks import cases, peers


@dataclass
class Record:
    """What one contestant did in one case."""

    case: str
    peer: str
    variant: str = ""
    settings: str = ""
    rounds: list = field(default_factory=list)
    items: int = 1
    ideal: float | None = None
    forks: bool = False
    note: str = ""
    error: str = ""
    traceback: str = field(default="", repr=False)

    @property
    def seconds(self):
        """The median of its rounds (of bytes, where the case is about memory); less is better."""
        return statistics.median(self.rounds) if self.rounds and not self.error else None

    @property
    def kind(self):
        return peers.ALL[self.peer].kind

    def as_json(self):
        content = asdict(self)
        del content["traceback"]  # it has paths of this machine in it
        if self.rounds:
            content["median"] = statistics.median(self.rounds)
        return content


@dataclass
class Results:
    """All records of a run."""

    records: list
    size: str = "full"
    workers: int = 2
    machine: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    left_out: list = field(default_factory=list)  # lines that say what was not measured, and why
    faults: list = field(default_factory=list)

    def put(self, records):
        """Take the records of a case, in place of those that are there."""
        names = list(cases.ALL)
        new = {record.case for record in records}
        kept = [record for record in self.records if record.case not in new]
        self.records = sorted([*kept, *records], key=lambda record: names.index(record.case))

    def of(self, case):
        return [record for record in self.records if record.case == case]

    def get(self, case, peer, variant=""):
        """The record of a contestant that got to an end, or None."""
        found = [r for r in self.of(case) if (r.peer, r.variant) == (peer, variant) and r.seconds]
        return found[0] if found else None

    def ours(self, case):
        return next(filter(None, (self.get(case, name) for name in peers.OURS)), None)

    def rivals(self, case):
        """Records of peers of the same kind as ours: processes beside processes, threads beside threads."""
        ours = self.ours(case)
        if ours is None:
            return []
        return [
            r
            for r in self.of(case)
            if r.seconds and r.peer not in peers.OURS and r.kind == ours.kind
        ]

    def lead(self, case, among=bool):
        """How many times our figure the best rival among some needs, and that rival; None without either."""
        rivals = [record for record in self.rivals(case) if among(record)]
        if not rivals:
            return None
        best = min(rivals, key=lambda record: record.seconds)
        return best.seconds / self.ours(case).seconds, best

    def leads(self):
        """The ratio to the best peer of each case that has one, in the cases' order."""
        found = ((name, self.lead(name)) for name in cases.ALL)
        return {name: lead for name, lead in found if lead is not None}

    def write(self, path):
        content = {
            **{name: getattr(self, name) for name in ("size", "workers", "machine", "versions")},
            "left_out": self.left_out,
            "records": [record.as_json() for record in self.records],
            "faults": self.faults,
        }
        pathlib.Path(path).write_text(json.dumps(content, indent=1), encoding="utf-8")


def publish(folder, name, content, text):
    """Write what was found as JSON and as Markdown, and print the latter."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    print(text)


def read(path):
    """The results in a JSON file; cases and libraries that no longer exist are passed over."""
    content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    records = []
    for entry in content.pop("records"):
        entry.pop("median", None)
        if entry["case"] in cases.ALL and entry["peer"] in peers.ALL:
            records.append(Record(**entry))
    return Results(records, **content)


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
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
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
