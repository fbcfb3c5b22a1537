"""What is measured. A file is a subject, a class is a case, this table is the order in which they run."""

from benchmarks.cases import arrays, nested, overhead, schedule, start

ALL = {
    case.name: case
    for case in (
        overhead.List20k,
        overhead.List1M,
        overhead.Stream20k,
        overhead.Stream1M,
        overhead.Containers,
        overhead.Threads,
        overhead.WarmCall,
        overhead.RoundTrip,
        overhead.Memory,
        arrays.In,
        arrays.OutKept,
        arrays.OutDropped,
        arrays.Frozen,
        arrays.Small,
        schedule.Milliseconds,
        schedule.SkewedEnd,
        schedule.SkewedScattered,
        nested.Wide,
        nested.Uneven,
        start.Cold,
        start.Import,
    )
}
