"""A call whose items run in the threads of an executor, on the caller's own objects."""

from __future__ import annotations

import contextvars
from typing import Any

from ..place import blas
from ..values.outcome import Reply
from ..values.source import Chunk
from .base import Setup
from .dispatch import Dispatch, Flight

__all__ = ["Here"]


class Here(Dispatch):
    """A call whose items run in threads of this process."""

    def open(self) -> None:
        """Hold libraries to the share of the threads."""
        options = self._options
        self._setup = Setup(options.initializer, options.initargs, options.giver)
        self._context = contextvars.copy_context()
        share = self._task.place(0).cores
        self._lent = blas.lent(self._task.threads(0), share, here=False)
        self._lent.__enter__()

    def _prepare(self, flight: Flight) -> bool:  # noqa: ARG002 - nothing has to be made
        return True

    def _start(self, flight: Flight) -> Any:
        if self._source.endless and len(self._flights) == 1:  # nothing else of it runs
            self._setup.renew()
        context = self._context.copy()
        return self._cluster.submit("", context.run, self._run, flight.chunk)

    def _run(self, chunk: Chunk) -> tuple[BaseException | None, Reply | None]:
        try:
            self._setup()
        except BaseException as error:  # noqa: BLE001 - an initializer's: the caller must know
            return error, None
        blas.hold(self._task.threads(0))
        return None, self._task.run(chunk, 0, given_up=lambda: self.closed)

    def _opened(self, flight: Flight, result: Any) -> None:
        error, reply = result
        if error is not None:
            raise error
        self._ready.append((flight.chunk, reply))

    def close(self) -> None:
        """Give up what is under way."""
        try:
            super().close()
        finally:
            if hasattr(self, "_lent"):
                self._lent.__exit__(None, None, None)
