"""What to do about items that failed: try again, raise, keep as a value, or leave out."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from ..errors import (
    ParallelError,
    TaskTimeout,
    TransportError,
    WorkerDied,
    formatted,
    note,
    show_remote,
)
from ..options import Options
from ..values.call import Call
from ..values.outcome import Failure, Lost, Raised, Reply
from ..values.source import Chunk, Source
from .ordering import Part

__all__ = ["Failures"]

LONGEST_WAIT = 86_400.0  # seconds


class Failures:
    """Turns what a pool yields into parts of results, by the options of the call.

    Parameters
    ----------
    options : Options
        ``on_error``, ``retries``, ``retry_on`` and ``timeout`` count.
    source : Source
        Where chunks go that are to be tried again.
    call : Call

    Attributes
    ----------
    failed : int
        How many items have failed for good.
    """

    def __init__(self, options: Options, source: Source, call: Call) -> None:
        self._options = options
        self._source = source
        self._call = call
        self.failed = 0

    def settle(self, chunk: Chunk, outcome: Reply | Lost) -> list[Part]:
        """Results of the items of `chunk` that are settled; the others go back into the source.

        With ``on_error="raise"`` an error comes with its part, to be raised by whoever delivers
        that; later items are not begun any more.
        """
        if isinstance(outcome, Lost):
            if outcome.started:
                return self._lost(chunk, outcome)
            self._source.put_back(chunk)
            return []
        count = len(outcome.values)
        if count:
            self._source.sizer.observe(count, outcome.seconds, outcome.nbytes)
        done = chunk if count == chunk.size else chunk.part(0, count)
        if outcome.raised:
            parts = self._with_raised(done, outcome)
        else:
            parts = [Part(done.start, count, outcome.values, None, done.attempts)]
        if count < chunk.size and outcome.final:
            self._source.put_back(chunk.part(count, chunk.size))
        return parts

    def _lost(self, chunk: Chunk, lost: Lost) -> list[Part]:
        """A whole chunk came to nothing. One by one tells which item it was."""
        if chunk.size > 1:
            self._source.put_back(*(chunk.part(i, i + 1) for i in range(chunk.size)))
            return []
        error = _explained(chunk, lost.reason, self._options)
        again: tuple[type[BaseException], ...] = (WorkerDied, *self._options.retry_on)
        wanted = any(isinstance(one, again) for one in (error, lost.reason))
        if wanted and self._may_try_again(chunk):
            self._try_again(chunk)
            return []
        text = formatted(error, error.__traceback__)
        return [self._failed(chunk, 0, error, text)]

    def _with_raised(self, chunk: Chunk, reply: Reply) -> list[Part]:
        """Cut the results at the items that raised."""
        parts: list[Part] = []
        begin = 0
        for raised in reply.raised:
            at = raised.offset
            if begin < at:
                values = reply.values[begin:at]
                parts.append(Part(chunk.start + begin, at - begin, values, None, chunk.attempts))
            begin = at + 1
            wanted = isinstance(raised.exception, self._options.retry_on)
            if wanted and self._may_try_again(chunk):
                self._try_again(chunk.part(at, at + 1))
            else:
                parts.append(self._failed(chunk, at, raised.exception, raised.traceback, raised))
        if begin < chunk.size:
            values = reply.values[begin:]
            parts.append(Part(chunk.start + begin, len(values), values, None, chunk.attempts))
        return parts

    def _may_try_again(self, chunk: Chunk) -> bool:
        return chunk.attempts <= self._options.retries and not self._source.last_attempt

    def _try_again(self, item: Chunk) -> None:
        """Give an item back, after a wait twice as long each time, and a bit."""
        again = Chunk(item.start, item.size, item.columns, item.attempts + 1)
        wait = self._options.retry_wait * 2 ** min(item.attempts - 1, 30)
        if wait:
            import random  # nobody needs it else

            # Those that have failed together shall not come together again. The generator is not
            # that of the module, whose numbers are the user's.
            wait = min(wait * random.Random().uniform(1, 1.25), LONGEST_WAIT)  # noqa: S311
            self._source.put_back_later(wait, again)
        else:
            self._source.put_back(again)

    def _failed(
        self,
        chunk: Chunk,
        offset: int,
        error: BaseException,
        text: str,
        raised: Raised | None = None,
    ) -> Part:
        self.failed += 1
        index = chunk.start + offset
        args, kwargs = self._call.arguments(chunk.args(offset))
        note(error, f"in item {index} of the input, called with {_told(args, kwargs)}")
        if chunk.attempts > 1:
            note(error, f"after {chunk.attempts} attempts")
        if raised is not None and error.__traceback__ is None:  # it comes from another process
            show_remote(error, text)
        if self._options.on_error == "raise":
            self._source.cut(index)
            return Part(index, 1, [], error)
        if self._options.on_error == "skip":
            return Part(index, 1, [])
        return Part(index, 1, [Failure(index, args, kwargs, error, text, chunk.attempts)])


def _explained(chunk: Chunk, reason: BaseException, options: Options) -> BaseException:
    """Error of an item that gave no result, from what the pool knows of it."""
    if isinstance(reason, (ParallelError, MemoryError)):
        return reason
    if isinstance(reason, TimeoutError) and options.timeout is not None:
        return TaskTimeout(
            f"item {chunk.start} ran longer than timeout={options.timeout:g} seconds"
        )
    told = f"{type(reason).__name__}: {reason}"
    error = TransportError(f"item {chunk.start} or its result could not be unpickled: {told}")
    error.__cause__ = reason
    return error


def _told(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    told = [_short(arg) for arg in args] + [f"{k}={_short(v)}" for k, v in kwargs.items()]
    return f"({', '.join(told)})"


def _short(value: object) -> str:
    try:
        text = reprlib.repr(value)
    except Exception:  # noqa: BLE001 - a user's __repr__ may raise anything
        return f"<{type(value).__name__}>"
    return text if len(text) <= 120 else text[:117] + "..."
