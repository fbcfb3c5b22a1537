"""Resampling: loops of a small package, which its users may run wherever they like."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from os import getpid
from typing import Any

import numpy as np
from numpy.typing import NDArray

import parallelkit as pk

__all__ = ["Study", "bootstrap", "noisy", "norms", "read", "where"]

Numbers = NDArray[np.float64]
Statistic = Callable[[Numbers], float]


def bootstrap(
    statistic: Statistic, sample: Sequence[float] | Numbers, repeats: int, seed: Any = None
) -> list[float]:
    """Values of a statistic, each of a sample that is drawn anew. All of them, or an error."""
    with pk.Pool(seed=seed, library=True) as pool:
        numbers = np.asarray(sample, float)
        return pool.map(_redrawn, range(repeats), statistic=statistic, sample=numbers)


def _redrawn(_: int, *, statistic: Statistic, sample: Numbers, rng: np.random.Generator) -> float:
    return statistic(rng.choice(sample, size=len(sample)))


def noisy(array: Numbers, scale: float, seed: int | None = None) -> Numbers:
    """Return an array with noise, which is the same for any number of workers."""
    with pk.Pool(seed=seed, library=True) as pool:
        values: Numbers = pool.map_blocks(_with_noise, array, scale=scale)
        return values


def _with_noise(block: Numbers, *, scale: float, rng: np.random.Generator) -> Numbers:
    return block + rng.normal(0, scale, block.shape)


def norms(rows: Iterable[Numbers]) -> list[float]:
    """Length of each row. numpy lets go of the interpreter lock, so threads are what is best."""
    with pk.Pool(prefer="thread", library=True) as pool:
        return pool.map(_norm, rows)


def _norm(row: Numbers) -> float:
    return float(np.sqrt(np.sum(row * row)))


def read(lines: Iterable[str]) -> Generator[float, None, None]:
    """Numbers of lines as they come; closing it ends the call."""
    with pk.Pool(library=True) as pool:
        yield from pool.imap(_parsed, lines)


def _parsed(line: str) -> float:
    return float(line)


def where(n: int, **options: Any) -> list[tuple[int, int]]:
    """Process and thread of each of `n` items."""
    with pk.Pool(**options, library=True) as pool:
        return pool.map(_where, range(n))


def _where(_: int) -> tuple[int, int]:
    return getpid(), threading.get_ident()


class Study:
    """A statistic of many data sets, by a pool of its own: calls of one study draw differently."""

    def __init__(self, statistic: Statistic, seed: int) -> None:
        self.statistic = statistic
        self.pool = pk.Pool(seed=seed, library=True)

    def one(self, sample: Numbers, rng: np.random.Generator) -> float:
        """Return the statistic of a sample that is drawn anew."""
        return self.statistic(rng.choice(sample, size=len(sample)))

    def all(self, samples: Iterable[Numbers]) -> list[float]:
        """Return it for each."""
        return self.pool.map(self.one, samples)
