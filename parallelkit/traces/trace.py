"""`pk.trace`: a block of which all calls are recorded."""

from __future__ import annotations

import os
import tempfile
import time
from contextvars import Token
from typing import TYPE_CHECKING, Any, Self

from ..place import recording
from . import chrome
from .reading import read
from .story import Story

if TYPE_CHECKING:
    from .summary import Summary

__all__ = ["trace"]


class trace:  # noqa: N801 - used like a function, as `with` blocks are
    """Record what every call in a block does: each item, on each worker, at each level.

    Calls on all backends are recorded, and the calls that their items make: what waits, is
    pickled, crosses, is unpickled, runs and is sent back; workers that start, end or are replaced;
    items that fail or are tried again. A block in the main thread holds for all threads, any other
    for the thread, or the task of asyncio, that is in it. Blocks may be nested, and a block inside
    an item records the calls of that item.

    Parameters
    ----------
    path : str or path-like, optional
        Where to write Chrome trace event JSON when the block ends, also by an exception. Open it
        in https://ui.perfetto.dev, in speedscope or in ``chrome://tracing``. A path that ends in
        ``.html`` gets a page instead, as of :meth:`html`, and one that ends in ``.png``, ``.svg``
        or ``.pdf`` a picture, as of :meth:`plot`. Without a path nothing is written but what is
        asked for afterwards.

    Raises
    ------
    OSError
        At the beginning of the block, where the file cannot be written.

    Notes
    -----
    Workers note what they do in files of a temporary folder, which ends with the block. An item
    takes about half a microsecond more, and a message some thirty. Of a message with more than 64
    items some are recorded one by one, or some together; sums are of all items.

    Examples
    --------
    >>> import parallelkit as pk
    >>> with pk.trace() as trace:
    ...     squares = pk.Pool(workers=2).map(pow, range(100), [2] * 100)
    >>> summary = trace.summary()
    >>> summary.items
    100
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = None if path is None else os.fspath(path)
        self._folder: str | None = None
        self._token: Token[tuple[str, ...]] | None = None
        self._pid = 0
        self._story: Story | None = None
        self._begin = 0.0

    def __enter__(self) -> Self:
        if self._folder is not None:
            raise RuntimeError("this trace is open already; make another one for each block")
        if self.path is not None:
            self.check(self.path)
            self.path = os.path.abspath(self.path)  # wherever the block goes
        self._story = None
        self._pid = os.getpid()
        self._folder = tempfile.mkdtemp(prefix="parallelkit-trace-")
        self._begin = time.perf_counter()
        self._token = recording.begin(self._folder)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        folder = self._folder
        if folder is None or self._pid != os.getpid():
            return  # in a forked child the trace is its parent's
        try:
            self._story = read(folder, self._begin, time.perf_counter())
            if self.path is not None:
                self.write(self.path)
        except Exception as problem:
            if error is None:
                raise
            error.add_note(f"and the trace could not be written: {problem!r}")
        finally:
            recording.end(folder, self._token)
            self._folder = None
            recording.remove(folder)

    @staticmethod
    def check(path: str) -> None:
        """Raise OSError if a file cannot be written there; leave it as it is."""
        chrome.check(path)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write what was recorded, in the kind of file that the name's end says.

        That is a page for ``.html``, a picture for ``.png``, ``.svg`` and ``.pdf``, and Chrome
        trace event JSON for any other.

        Parameters
        ----------
        path : str or path-like
        """
        kind = os.path.splitext(path)[1].lower()
        if kind == ".html":
            self.html(path)
        elif kind in (".png", ".svg", ".pdf"):
            self.plot(path)
        else:
            told = {"summary": self.summary().as_dict()}
            chrome.write(self._told(), os.fspath(path), told)

    def _told(self) -> Story:
        if self._story is not None:
            return self._story
        if self._folder is None:
            raise RuntimeError("nothing was recorded yet: use `with pk.trace(...) as trace:` first")
        return read(self._folder, self._begin, time.perf_counter())

    def summary(self) -> Summary:
        """Return how well the workers were used, and advice; inside the block, so far.

        Returns
        -------
        Summary
            ``print`` shows it.
        """
        from .summary import summarize

        return summarize(self._told())

    def plot(self, path: Any = None) -> Any:
        """Draw the timeline: workers as lanes, items as bars, one colour for each function.

        Parameters
        ----------
        path : str or path-like, optional
            Where to write the picture; its end (``.png``, ``.svg``, ``.pdf``) says of which kind.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            Without matplotlib: ``pip install parallelkit[plot]``.
        """
        from .plot import draw

        figure = draw(self._told())
        if path is not None:
            figure.savefig(os.fspath(path), dpi=150)
        return figure

    def html(self, path: str | os.PathLike[str]) -> None:
        """Write the timeline as one page that needs no network: zoom, hover, summary.

        Parameters
        ----------
        path : str or path-like
        """
        from .page import page

        text = page(self._told())
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
