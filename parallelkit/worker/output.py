"""What items say beside their results: ``logging`` records and warnings, told in the parent.

In a worker a handler on the root logger sends each record; the parent gives it to its own logger
of that name, with that logger's handlers and filters. A record carries ``process`` (the worker's
pid) and ``item`` (the index of the item that ran), for a formatter to use. Loggers are as talkative
in the worker as in the parent when the call was made. Warnings go the same way. A worker has the
filters of its parent, so that a warning that is to be an error is one in the item.
"""

from __future__ import annotations

import functools
import logging
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

from . import printing

__all__ = ["Filter", "filters", "forward", "levels", "retell", "set_filters", "set_levels"]

Filter = tuple[Any, str, tuple[str, str], str, int]  # the category by its name

LOG, WARNING = "log", "warning"
_registry: dict[
    str | tuple[str, type[Warning], int], int
] = {}  # which warnings of workers have been shown


def levels() -> dict[str, int]:
    """Levels that have been set on loggers of this process, by name; the root's is ``""``."""
    found = {"": logging.root.level}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level:
            found[name] = logger.level
    if logging.root.manager.disable:
        found["*"] = logging.root.manager.disable
    return found


def set_levels(wanted: Mapping[str, int]) -> None:
    """Set loggers of this process to `wanted`."""
    wanted = dict(wanted)
    logging.disable(wanted.pop("*", 0))
    for name in levels().keys() - wanted.keys() - {"*"}:
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name, level in wanted.items():
        logging.getLogger(name or None).setLevel(level)


def filters() -> list[Filter]:
    """Warning filters of this process, as far as a worker can have them."""
    return [
        (
            action,
            _pattern(message),
            (category.__module__, category.__name__),
            _pattern(module),
            lineno,
        )
        for action, message, category, module, lineno in warnings.filters
        if isinstance(category, type) and category.__module__ != "__main__"
    ]


def set_filters(wanted: Sequence[Filter]) -> None:
    """Give this process the filters `wanted`."""
    if filters() != list(wanted):
        warnings.resetwarnings()
        for action, message, name, module, lineno in wanted:
            category = _category(*name)
            if category is not None:
                warnings.filterwarnings(action, message, category, module, lineno, append=True)


def _pattern(pattern: Any) -> str:
    if isinstance(pattern, str):
        return re.escape(pattern) + r"\Z"
    return "" if pattern is None else str(pattern.pattern)


def forward(send: Callable[[str, tuple[Any, ...]], None], item: Callable[[], int | None]) -> None:
    """Worker: let `send` have all log records and warnings, instead of this process's handlers."""
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
            logger.propagate = True
    logging.root.addHandler(_Forwarder(send, item))

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: object = None,  # noqa: ARG001 - the signature of warnings.showwarning
        line: object = None,  # noqa: ARG001
    ) -> None:
        send(WARNING, (str(message), category.__module__, category.__name__, filename, lineno))

    warnings.showwarning = show


class _Forwarder(logging.Handler):
    def __init__(
        self, send: Callable[[str, tuple[Any, ...]], None], item: Callable[[], int | None]
    ) -> None:
        super().__init__()
        self._send = send
        self._item = item

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record as plain values: its arguments may be anything."""
        try:
            fields = {k: v for k, v in record.__dict__.items() if isinstance(v, _PLAIN)}
            fields.update(msg=record.getMessage(), args=None, item=self._item())
            if record.exc_info and not record.exc_text:
                fields["exc_text"] = logging.Formatter().formatException(record.exc_info)
            self._send(LOG, (fields,))
        except Exception:  # noqa: BLE001 - as every handler of the standard library
            self.handleError(record)


_PLAIN = (type(None), bool, int, float, str, bytes)


def retell(kind: str, fields: tuple[Any, ...]) -> None:
    """Parent: log a worker's record, warn its warning, or print, as if it had come up here."""
    if kind in printing.NAMES:
        printing.say(kind, *fields)
        return
    if kind == LOG:
        record = logging.makeLogRecord(fields[0])
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
        return
    text, module, name, filename, lineno = fields
    category = _category(module, name) or UserWarning
    try:
        warnings.warn_explicit(
            _wording(category)(text),  # type: ignore[arg-type]  # mypy: not Hashable
            *(category, filename, lineno),
            registry=_registry,
        )
    except Warning:
        warnings.showwarning(text, category, filename, lineno)


@functools.cache
def _wording(category: type[Warning]) -> type[Warning]:
    """Class of a category's warnings that are made of their text, whatever the category wants."""
    own = (category.__new__, category.__init__, category.__str__)
    if not any(isinstance(method, FunctionType) for method in own):
        return category
    body = {
        "__module__": category.__module__,
        "__new__": Warning.__new__,
        "__init__": Warning.__init__,
        "__str__": Warning.__str__,
    }
    return type(category.__name__, (category,), body)


def _category(module: str, name: str) -> type[Warning] | None:
    """Find the class of a warning, without importing anything for it."""
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) and issubclass(found, Warning) else None
