"""What type checkers must refuse: each comment here is an error of theirs, were the line right.

mypy is told to report comments that ignore nothing; ``make dist`` has pyright do the same.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

import parallelkit as pk


def half(x: int, scale: float = 1.0) -> float:
    """One item."""
    return x / 2 * scale


class Model:
    """Something with a method."""

    def score(self, name: str) -> float:
        """One item."""
        return len(name) / 2


def options() -> None:
    """Misspelt names and values, and values of another type."""
    pk.Pool(worker=2)  # type: ignore[call-overload]
    pk.Pool(backend="threads")  # type: ignore[call-overload]
    pk.Pool(on_error="ignore")  # type: ignore[call-overload]
    pk.Pool(timeout="5")  # type: ignore[call-overload]
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
    pool.map(half, ["1"])  # type: ignore[arg-type]
    pool.imap(half, [1], ["1.0"])  # type: ignore[arg-type]
    pool.amap(half, 1)  # type: ignore[call-overload]
    pk.map(half)  # type: ignore[call-overload]
    pk.uimap(Model().score, [1.0])  # type: ignore[arg-type]
    pk.parallel(half, ["1"], show=True)  # type: ignore[arg-type]
    texts: list[str] = pool.map(half, [1])  # type: ignore[arg-type]
    print(texts)


def failures(returning: pk.Pool[pk.Failure]) -> None:
    """Results of on_error="return" taken for results of the function alone."""
    values: list[float] = returning.map(half, [1])  # type: ignore[assignment]
    pool: pk.Pool = pk.Pool(on_error="return")  # type: ignore[assignment]
    print(values, pool)
