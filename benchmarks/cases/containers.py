"""Python objects on their way in and out: what the pickler is given."""

from benchmarks import work
from benchmarks.cases.base import Mapped, sizes
from benchmarks.peers import CLUSTERS, PROCESSES, SENSIBLE_THREADS


class _Containers(Mapped):
    group = "containers"
    peers = PROCESSES + SENSIBLE_THREADS
    tuned = {"tuned": ("executor", "joblib", "mpire", *CLUSTERS)}


class Lists(_Containers):
    name = "lists"
    title = "{n} lists of 1 000 ints, summed"
    sizes = sizes(2_000, 500, 20)
    func = work.total
    quick = True

    def inputs_of(self, n):
        return [list(range(i, i + 1_000)) for i in range(n)]


class Strings(_Containers):
    name = "strings"
    title = "{n} strings of 100 characters, in capitals"
    sizes = sizes(50_000, 10_000, 100)
    func = work.capitals

    def inputs_of(self, n):
        return [f"{i:09d} " * 10 for i in range(n)]


class Dicts(_Containers):
    name = "dicts"
    title = "{n} dicts of 20 floats, doubled"
    sizes = sizes(10_000, 2_000, 50)
    func = work.doubled

    def inputs_of(self, n):
        return [{f"field {k}": float(i + k) for k in range(20)} for i in range(n)]


class Dataclasses(_Containers):
    name = "dataclasses"
    title = "{n} dataclass objects, moved"
    sizes = sizes(10_000, 2_000, 50)
    func = work.moved

    def inputs_of(self, n):
        return [work.Point(float(i), -float(i), f"point {i}") for i in range(n)]
