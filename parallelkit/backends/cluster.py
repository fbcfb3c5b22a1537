"""What an engine has to offer for chunks to run in its workers, and what its failures mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Protocol

from ..worker.parcel import Parcel

__all__ = ["AGAIN", "DIED", "PERHAPS", "Cluster", "is_missing", "outcome", "short"]

DIED = "died"  # workers ended, one after the other, where the chunk ran
PERHAPS = "perhaps"  # one has ended, by what the chunk did or by chance
AGAIN = "again"  # the chunk, or what it needs, was lost, by no fault of its own


class Cluster(Protocol):
    """What an engine has to offer.

    Attributes
    ----------
    name : str
        As it is called in messages.
    shares_memory : bool
        Whether its workers are threads of this process.
    one_each : bool
        Whether a worker has one call at a time, so that no other one ends with it as a rule.
    demand : float
        Seconds of work that have to wait for each slot for the engine to start more workers; 0.0
        where it starts none.
    """

    name: str
    shares_memory: bool
    one_each: bool
    demand: float

    def slots(self) -> int:
        """How many chunks can run at this moment; asked again and again, so at little cost."""
        ...

    def put(self, parcel: Parcel) -> Any:
        """Put something where all workers can fetch it; None if there is no such place."""
        ...

    def there(self, handle: Any) -> bool:
        """Whether what was put is still there."""
        ...

    def submit(self, name: str, func: Callable[..., Any], *args: Any) -> Any:
        """Start a call; return a future with ``add_done_callback``. `name` is for people."""
        ...

    def collect(self, futures: Sequence[Any]) -> list[Any]:
        """Results of futures that are done; in the place of one that failed, its exception."""
        ...

    def cancel(self, futures: Sequence[Any]) -> None:
        """Give up calls, and keep nothing of them."""
        ...

    def check(self) -> None:
        """Raise what tells that the engine is gone."""
        ...

    def verdict(self, error: BaseException) -> str | BaseException:
        """`DIED`, `PERHAPS`, `AGAIN`, or the error to raise for one that is not an item's."""
        ...


def outcome(future: Future[Any]) -> Any:
    """What a future that is done has to tell, an exception too. What is raised is a signal's."""
    try:
        error = future.exception()
    except CancelledError as cancelled:
        return cancelled
    if isinstance(error, KeyboardInterrupt):
        raise error
    return future.result() if error is None else error


def is_missing(error: BaseException) -> bool:
    """Whether an error says that there is no parallelkit, or one that lacks a module."""
    if isinstance(error, ImportError) and (error.name or "").startswith("parallelkit"):
        return True
    return "No module named 'parallelkit" in str(error)  # of which an engine has kept the text


def short(error: BaseException) -> str:
    """Class and text of an error, in one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else text[:297] + "..."
