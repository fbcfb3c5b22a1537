"""A call of which a trace is kept: what the engine sees of it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Generator
from typing import Any

from ..place.attributes import attribute
from ..place.recording import Traced, called, current, number, record, targets, told
from ..values.call import Call
from ..values.outcome import Lost, Reply
from ..values.source import Chunk, Source
from .plan import Plan

__all__ = ["Recorded", "begun"]

LARGE = 100_000  # bytes of a frozen keyword that is told
_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_clock = time.perf_counter


class Recorded:
    """Writes down what becomes of a call.

    Attributes
    ----------
    traced : Traced
        What the task tells whoever runs items of it.
    """

    def __init__(self, traced: Traced) -> None:
        self.traced = traced

    def watch(self, outcomes: Generator[Any, None, None]) -> Generator[Any, None, None]:
        """Pass on what a pool yields; note what was lost, and how long the consumer took."""
        call, folders = self.traced
        consumer, error = 0.0, ""
        try:
            for outcome in outcomes:
                if outcome is not None:
                    self._came(*outcome)
                given = _clock()
                yield outcome
                consumer += _clock() - given
                del outcome  # it belongs to the consumer alone
        except BaseException as problem:
            if not isinstance(problem, GeneratorExit):
                error = type(problem).__name__
            raise
        finally:
            outcomes.close()
            record(folders, ("over", call, _clock(), consumer, error))

    def _came(self, chunk: Chunk, outcome: Reply | Lost) -> None:
        """Note what went wrong, also with results that could not be sent."""
        call, folders = self.traced
        where = chunk.start, chunk.size, chunk.attempts
        if isinstance(outcome, Lost):
            reason = told(outcome.reason)
            record(folders, ("lost", call, *where, outcome.started, _clock(), reason))
        elif outcome.raised:
            raised = [(one.offset, told(one.exception)) for one in outcome.raised]
            record(folders, ("raised", call, *where, _clock(), raised))


def begun(call: Call, plan: Plan, source: Source, nested: str) -> Recorded | None:
    """Note that a call begins; None where no trace is open around the caller."""
    folders = targets()
    if not folders:
        return None
    traced = Traced(number(), folders)
    item = current.get()
    outer = ("", 0) if item is None else (item.traced.call, item.lap.index)
    name = "submit" if call.inner is None else _name(call)
    large = [
        (key, size, _is_array(value))
        for key, value in call.frozen.items()
        if (size := _nbytes(value)) >= LARGE
    ]
    how = plan.backend, int(plan.workers), plan.level, -1 if source.total is None else source.total
    kind = source.lazy, source.endless, nested, large
    here = threading.get_native_id(), _clock()
    record(folders, ("call", traced.call, *outer, name, _where(), *how, *kind, *here))
    return Recorded(traced)


def _name(call: Call) -> str:
    return called(call.inner, call.frozen.values()) or type(call.inner).__qualname__


def _is_array(value: object) -> bool:
    """Whether it can be shared as it is."""
    return hasattr(type(value), "__array_interface__") and not getattr(
        attribute(value, "dtype", None), "hasobject", True
    )


def _nbytes(value: object) -> int:
    """Bytes of something large, as far as it tells."""
    if isinstance(value, (bytes, bytearray, str)):
        return len(value)
    if isinstance(value, (list, tuple, dict, set)):
        return 8 * len(value)
    try:
        size = attribute(value, "nbytes", 0)
        if not isinstance(size, int) and hasattr(value, "memory_usage"):  # pandas
            size = int(value.memory_usage().sum())
        return size if isinstance(size, int) else 0
    except Exception:  # noqa: BLE001 - it may be anything
        return 0


def _where() -> str:
    """File and line of the user's code that makes the call."""
    frame = sys._getframe(2)  # noqa: SLF001 - documented, for purposes like this
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_PACKAGE) and not file.endswith(("/threading.py", "\\threading.py")):
            return f"{file}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""
