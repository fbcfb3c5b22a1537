"""`schwimmbad.MultiPool`, which samplers of astronomy know, on the workers of parallelkit.

>>> from parallelkit.integrations.schwimmbad import MultiPool
>>> with MultiPool(2) as pool:
...     pool.is_master(), pool.size, pool.map(abs, [-1, -2])
(True, 2, [1, 2])

A script that was written for any of schwimmbad's pools, MPI's included, runs with it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from . import multiprocessing

__all__ = ["MultiPool"]


class MultiPool(multiprocessing.Pool):
    """A pool with the interface of ``schwimmbad.MultiPool``.

    Parameters
    ----------
    processes, initializer, initargs, **options
        As for :class:`parallelkit.integrations.multiprocessing.Pool`.

    Attributes
    ----------
    rank : int
        0: this is the process that hands out the work.

    Examples
    --------
    >>> from parallelkit.integrations.schwimmbad import MultiPool
    >>> seen = []
    >>> with MultiPool(2) as pool:
    ...     pool.map(abs, [-1, -2], callback=seen.append), seen
    ([1, 2], [1, 2])
    """

    rank = 0

    @staticmethod
    def enabled() -> bool:
        """Whether this kind of pool can be used here: always."""
        return True

    @property
    def size(self) -> int:
        """How many workers there are."""
        return self._processes

    def is_master(self) -> bool:
        """Whether this process hands out the work: always."""
        return True

    def is_worker(self) -> bool:
        """Whether this process waits for work, as under MPI: never."""
        return False

    def wait(self) -> None:
        """Return at once: there is no other copy of the script that would have to wait."""

    def map(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
    ) -> list[Any]:
        """Call `func` with each item; return the results, of which `callback` is told each."""
        results = super().map(func, iterable, chunksize)
        if callback is not None:
            for result in results:
                callback(result)
        return results
