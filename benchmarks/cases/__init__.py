"""What is measured. A file is a subject, a class is a case, this table is the order in which they run."""

from benchmarks.cases import (
    arrays,
    containers,
    memory,
    nested,
    overhead,
    reference,
    samplers,
    schedule,
    scikit,
    start,
    sweeps,
)

ALL = {
    case.name: case
    for case in (
        *overhead.LIST_CASES,
        *overhead.STREAM_CASES,
        containers.Lists,
        containers.Strings,
        containers.Dicts,
        containers.Dataclasses,
        overhead.WarmCall,
        overhead.RoundTrip,
        overhead.Submit,
        *overhead.CROWDS,
        arrays.In,
        arrays.Copies,
        arrays.OutKept,
        arrays.OutDropped,
        arrays.Frozen,
        arrays.FrozenAgain,
        arrays.Shared,
        arrays.Small,
        arrays.Blocks,
        *arrays.TEMPORARIES,
        schedule.Milliseconds,
        schedule.SkewedEnd,
        schedule.SkewedScattered,
        *nested.CASES,
        *samplers.CASES,
        *scikit.CASES,
        *sweeps.CASES,
        overhead.Threads,
        reference.Numpy,
        reference.Python,
        memory.Idle,
        memory.Arrays,
        memory.Flat,
        start.AtRest,
        start.Cold,
        start.Import,
        start.FirstCall,
        start.FirstLibrary,
        *(case for case in start.SAMPLERS if case.available()),
        start.FirstOpenMP,
    )
}
GROUPS = tuple(dict.fromkeys(case.group for case in ALL.values()))


def find(name):
    """A case of the benchmarks, or a part of ``benchmarks.floors``, which only those need that run one."""
    if name in ALL:
        return ALL[name]
    from benchmarks.cases import floors

    return floors.PARTS[name]
