"""What workers print: straight to the parent's descriptors, or by way of the parent.

A worker inherits standard output and error, and as a rule writes there itself, at once. But a
notebook, a test or ``redirect_stdout`` puts an object of its own in the place of ``sys.stdout``,
which descriptor 1 knows nothing of; and what is written below a progress bar tears it. In these
cases the worker tells its parent each line, and the parent prints it where it would print now,
above the bar if there is one.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["NAMES", "attach", "by_parent", "say", "set_by_parent"]

NAMES = ("stdout", "stderr")
_attached: dict[str, _Printed] = {}


def by_parent() -> tuple[bool, ...]:
    """Parent: whether what workers print to stdout, and stderr, must come by way of here."""
    bars = "tqdm.std" in sys.modules and bool(_bars())
    out, err = sys.stdout, sys.stderr
    return (
        out is not None and (bars or not _leads_to(out, 1)),
        err is not None and (bars or not _leads_to(err, 2)),
    )


def _leads_to(stream: Any, fd: int) -> bool:
    try:
        return isinstance(stream, io.TextIOWrapper) and stream.fileno() == fd
    except (OSError, ValueError):  # it has none, or is closed
        return False


def _bars() -> Any:
    """Progress bars that are on, of ours and of anybody's."""
    std = sys.modules.get("tqdm.std")
    return () if std is None else getattr(getattr(std, "tqdm", None), "_instances", ())


def say(name: str, text: str) -> None:
    """Parent: print what a worker has told."""
    stream = getattr(sys, name)
    try:
        if _bars():
            sys.modules["tqdm.std"].tqdm.write(text, stream, end="")
        elif stream is not None:
            stream.write(text)
            stream.flush()
    except (OSError, ValueError):  # closed; a print in the parent would fail, an item has not
        pass


def attach(tell: Callable[[str, tuple[Any, ...]], None]) -> None:
    """Worker: take over standard output and error, with `tell` as the way to the parent."""
    for fd, name in enumerate(NAMES, 1):
        stream = getattr(sys, name)
        if stream is None:  # as in a windowed application
            continue
        try:
            raw = open(fd, "wb", closefd=False)  # noqa: SIM115 - for good
        except OSError:
            continue
        encoding, errors = getattr(stream, "encoding", None), getattr(stream, "errors", None)
        printed = _Printed(raw, encoding, errors, name, tell)
        _attached[name] = printed
        setattr(sys, name, printed)
        setattr(sys, f"__{name}__", printed)


def attach_again() -> None:
    """Worker: open standard output and error anew where an item has closed them."""
    for fd, name in enumerate(NAMES, 1):
        before = _attached.get(name)
        if before is not None and before.closed:
            with suppress(OSError):
                raw = open(fd, "wb", closefd=False)  # noqa: SIM115 - for good
                printed = before.again(raw)
                _attached[name] = printed
                setattr(sys, name, printed)
                setattr(sys, f"__{name}__", printed)


def set_by_parent(wanted: tuple[bool, ...]) -> None:
    """Worker: print from now on by way of the parent or straight, for stdout and stderr."""
    for name, told in zip(NAMES, wanted, strict=True):
        if name in _attached:
            _attached[name].flush()
            _attached[name].told = told


class _Printed(io.TextIOWrapper):
    """A standard stream of a worker. Whole lines, whatever ``python -u`` says."""

    def __init__(
        self,
        raw: Any,
        encoding: str | None,
        errors: str | None,
        name: str,
        tell: Callable[[str, tuple[Any, ...]], None],
    ) -> None:
        super().__init__(raw, encoding or "utf-8", errors, line_buffering=True)
        self.told = False
        self._stream = name
        self._tell = tell
        self._pending = ""
        self._lock = threading.RLock()

    def again(self, raw: Any) -> _Printed:
        """The same on another file."""
        printed = _Printed(raw, self.encoding, self.errors, self._stream, self._tell)
        printed.told = self.told
        return printed

    def write(self, text: str) -> int:
        """Print `text`; told are whole lines."""
        if not self.told:
            return super().write(text)
        with self._lock:
            whole = self._pending + text
            end = whole.rfind("\n") + 1
            self._pending = whole[end:]
            if end:
                self._tell(self._stream, (whole[:end],))
        return len(text)

    def flush(self) -> None:
        """Let out what is there, be it the beginning of a line."""
        if self._pending:
            with self._lock:
                pending, self._pending = self._pending, ""
                if pending:  # another thread may have been first
                    self._tell(self._stream, (pending,))
        super().flush()
