"""What type checkers must refuse: each comment here is an error of theirs, were the line right.

mypy is told to report comments that ignore nothing; ``make dist`` has pyright do the same.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

import parallelkit as pk


def half(x: int, scale: float = 1.0) -> float:
    """One item."""
    return x / 2 * scale


def options() -> None:
    """Misspelt names and values, and values of another type."""
    pk.Pool(worker=2)  # type: ignore[call-arg]
    pk.Pool(backend="threads")  # type: ignore[arg-type]
    pk.Pool(on_error="ignore")  # type: ignore[arg-type]
    pk.Pool(timeout="5")  # type: ignore[arg-type]
    pk.configure(retry=1)  # type: ignore[call-arg]
    pk.configure(start_method="thread")  # type: ignore[arg-type]
    pk.PoolExecutor(2, chunk_size=1)  # type: ignore[call-arg]
    pk.Sweep(on_error="skip")  # type: ignore[arg-type]
    pk.Sweep(worker=2)  # type: ignore[call-arg]


def calls(pool: pk.Pool) -> None:
    """Arguments of a function that is submitted or delayed, and results taken for something else."""
    pool.submit(half, "1")  # type: ignore[arg-type]
    pool.submit(half, 1, scales=2.0)  # type: ignore[call-arg]
    pk.delayed(half)("1")  # type: ignore[arg-type]
    texts: list[str] = pool.map(half, [1])  # type: ignore[arg-type]
    print(texts)
