"""What users write, as type checkers see it: ``make dist`` has mypy and pyright check it on the installed wheel.

``make test`` has mypy check it on the source. It runs as well: ``python tests/typing/user.py``.
"""

import asyncio
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import parallelkit as pk
from parallelkit.integrations.multiprocessing import Pool as TheirPool


def half(x: int, scale: float = 1.0) -> float:
    """One item."""
    return x / 2 * scale


def noisy(x: int, rng: np.random.Generator, scale: float) -> float:
    """One item with a stream of its own."""
    return x + scale * float(rng.random())


@dataclass
class Point:
    """What is made of one element."""

    x: int
    y: float = 0.0


def calls() -> None:
    """The results of a map have the type that the function returns."""
    assert_type(pk.map(half, [1, 2], scale=2.0), list[float])
    assert_type(pk.imap(half, [1, 2]), Generator[float, None, None])
    pk.uimap(half, range(2)).close()
    assert_type(pk.starmap(half, [(1, 2.0)]), list[float])
    assert_type(pk.starmap(half, [{"x": 1}]), list[float])
    assert_type(pk.parallel(half, [1, 2], show=False, thread=True), list[float])
    assert_type(pk.map(half, [1, 2], [1.0, 2.0]), list[float])
    assert_type(pk.map(noisy, [1, 2], scale=2.0), list[float])
    assert_type(pk.map(Point, [1, 2], y=2.0), list[Point])
    assert_type(pk.map(int, ["1", "f"], base=16), list[int])
    assert_type(pk.map(partial(half, scale=2.0), range(2)), list[float])
    columns: list[list[float]] = [[1.0], [2.0], [3.0]]
    pk.map(lambda *values, p: sum(values) + p, *columns, p=1)
    pk.map(lambda x, y, p: x + y + p, [1], [2.0], p=3)
    pk.map(np.sum, np.zeros((2, 2)), axis=0)
    pk.map(np.sqrt, np.arange(2.0))

    assert_type(pk.run(pk.delayed(half)(n) for n in range(3)), list[float])


def passed_on(func: Callable[[int], str], numbers: Iterable[int], **frozen: Any) -> list[str]:
    """A function that passes its own arguments on."""
    with pk.Pool(1) as pool:
        return pool.map(func, numbers, **frozen)


def pools() -> None:
    """A pool is a context manager whose methods are typed like the functions."""
    with pk.Pool(workers=2, backend="thread", on_error="skip", retries=1) as pool:
        assert_type(pool, pk.Pool)
        assert_type(pool.map(half, [1, 2]), list[float])
        assert_type(pool.submit(half, 1), Future[float])
        assert_type(pool.amap(half, [1]).result(), list[float])
    options: dict[str, Any] = {"workers": 2, "backend": "thread"}
    results: list[float] = pk.Pool(**options).map(half, [1])
    with pk.configure(workers=2, backend="thread"):
        results += pk.map(half, [1])
    with pk.PoolExecutor(2, "thread") as executor:
        assert_type(executor.submit(half, 1).result(), float)
        standard: Executor = executor
        list(standard.map(half, [1, 2]))
    with TheirPool(2) as theirs:
        theirs.map(half, [1, 2])


async def waiting() -> list[float]:
    """Results can be awaited."""
    with pk.Pool(2, "thread") as pool:
        return [value async for value in pool.aimap(half, [1, 2])]


def failures() -> list[BaseException]:
    """A failure among results is told apart by its class."""
    with pk.Pool(2, "thread", on_error="return") as pool:
        results = pool.map(half, [1])
        assert_type(results, list[float | pk.Failure])
        assert_type(next(pool.imap(half, [1])), float | pk.Failure)
        assert_type(pool.submit(half, 1), Future[float])
    try:
        pk.map(half, [1])
    except (pk.WorkerDied, pk.TaskTimeout, pk.TransportError) as error:
        assert_type(error, pk.WorkerDied | pk.TaskTimeout | pk.TransportError)
    return [result.exception for result in results if isinstance(result, pk.Failure)]


def arrays() -> NDArray[Any]:
    """Shared arrays are arrays."""
    table = pk.share(np.zeros((4, 2)))
    assert_type(pk.is_shared(table), bool)
    out: NDArray[Any] = pk.shared_empty((4, 2))
    return pk.map_blocks(np.sqrt, table, blocks=2, out=out)


def sweeps() -> dict[str, Any]:
    """A sweep gives a table, whose rows are dicts."""
    grid = pk.grid(x=[1, 2], scale=[1.0]).where(lambda point: point["x"] > 0)
    table = pk.Sweep(workers=2, backend="thread", repeats=2, seed=1).run(half, grid)
    rows: list[dict[str, Any]] = table.rows
    assert_type(len(table), int)
    pk.sweep(half, pk.sample(2, 1, x=[1, 2], scale=[1.0]))
    return rows[0] | table.best("value")


def places() -> tuple[int, int]:
    """Where a function runs."""
    assert_type(pk.nesting().cores, int)
    return pk.nesting().level, pk.cpu_count()


def traced() -> str:
    """What a run did."""
    with pk.trace() as trace:
        pk.map(half, [1, 2])
    assert_type(trace.summary().speedup, float)
    assert_type(trace.summary().advice, tuple[str, ...])
    return str(trace.summary())


if __name__ == "__main__":
    calls()
    passed_on(str, [1])
    pools()
    asyncio.run(waiting())
    failures()
    arrays()
    sweeps()
    places()
    traced()
    pk.shutdown()
