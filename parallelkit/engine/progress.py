"""The progress bar: tqdm's, counted in items."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["Bar", "bar"]


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
    kind as ``tqdm_class``.
    """
    if progress is False:
        return _NoBar()
    keywords: dict[str, Any] = {"total": total}
    if isinstance(progress, str):
        keywords["desc"] = progress
    elif isinstance(progress, Mapping):
        keywords.update(progress)
    kind = keywords.pop("tqdm_class", None) or _tqdm()
    opened: Bar = kind(**keywords)
    return opened


def _tqdm() -> Any:
    with warnings.catch_warnings():
        # Without ipywidgets tqdm.auto warns in a notebook, and falls back to the text bar.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    return tqdm
