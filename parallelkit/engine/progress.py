"""The progress bar: tqdm's, counted in items."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ..values.outcome import Lost, Reply

if TYPE_CHECKING:
    from ..values.source import Chunk, Source
    from .failures import Failures
    from .ordering import Part

__all__ = ["Bar", "bar", "follow"]

OFTEN = 0.1  # seconds between two looks of a bar at its workers, while no item is finished


class Bar(Protocol):
    """What is used of a tqdm bar."""

    def update(self, n: int) -> object:
        """Count `n` more items."""
        ...

    def close(self) -> object:
        """Leave the bar as it stands."""
        ...


class _NoBar:
    def update(self, n: int) -> None:
        """Nothing to see."""

    def close(self) -> None:
        """Nothing to close."""


def bar(progress: bool | str | Mapping[str, Any], total: int | None) -> Bar:
    """Open a bar as the option ``progress`` says: False, True, a label, or tqdm's keywords.

    In a notebook it is tqdm's widget (``tqdm.auto``). Keywords may name another class of tqdm's
    kind as ``tqdm_class``, and with ``workers=True`` it tells of them too. Without a
    standard error to draw on there is none.
    """
    if progress is False:
        return _NoBar()
    keywords: dict[str, Any] = {"total": total}
    if isinstance(progress, str):
        keywords["desc"] = progress
    elif isinstance(progress, Mapping):
        keywords.update(progress)
    kind = keywords.pop("tqdm_class", None)
    if kind is None:
        if sys.stderr is None and keywords.get("file") is None:  # pythonw, a service
            return _NoBar()
        kind = _tqdm()
    with_workers = keywords.pop("workers", False)
    opened: Bar = kind(**keywords)
    return _WithWorkers(opened) if with_workers else opened


def follow(bar: Bar, source: Source, failures: Failures, workers: int) -> None:
    """Let a bar that tells of workers see what a call takes from its source, and what comes."""
    if isinstance(bar, _WithWorkers):
        bar.follow(source, failures, workers)


class _WithWorkers:
    """A bar that also tells how many workers are busy, and what failed or was tried again."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._lock = threading.Lock()
        self._workers = self._out = self._failed = self._retried = 0
        self._shown = 0.0

    def follow(self, source: Source, failures: Failures, workers: int) -> None:
        """Watch what a call takes from its source, and what comes of it."""
        self._workers = workers
        take, settle = source.take, failures.settle

        def taken() -> Chunk | None:
            chunk = take()
            if chunk is not None:
                with self._lock:
                    self._out += 1
                    self._retried += chunk.attempts > 1
                self._tell(time.monotonic() - self._shown > OFTEN)
            return chunk

        def settled(chunk: Chunk, outcome: Reply | Lost) -> list[Part]:
            parts = settle(chunk, outcome)
            with self._lock:
                self._out -= 1 if isinstance(outcome, Lost) else outcome.final
                self._failed = failures.failed
            return parts

        source.take, failures.settle = taken, settled  # type: ignore[method-assign]

    def update(self, n: int) -> None:
        """Count `n` more items."""
        self._tell(refresh=False)
        self._bar.update(n)

    def _tell(self, refresh: bool) -> None:
        with self._lock:
            told = [f"{min(self._out, self._workers)}/{self._workers} busy"]
            told += [f"{self._failed} failed"] if self._failed else []
            told += [f"{self._retried} tried again"] if self._retried else []
        if refresh:
            self._shown = time.monotonic()
        self._bar.set_postfix_str(", ".join(told), refresh=refresh)

    def close(self) -> None:
        """Leave the bar as it stands; nobody is busy any more."""
        self._out = 0
        self._tell(refresh=False)
        self._bar.close()


def _tqdm() -> Any:
    with warnings.catch_warnings():
        # Without ipywidgets tqdm.auto warns in a notebook, and falls back to the text bar.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    return tqdm
