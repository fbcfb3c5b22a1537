"""What items say beside their results: ``logging`` records and warnings, told in the parent.

In a worker a handler on the root logger sends each record; the parent gives it to its own logger
of that name, with that logger's handlers and filters. The same handler is on each logger whose
namesake in the parent has some, so that code which adds one where there is none adds none there. A
record carries ``process`` (the worker's pid) and ``item`` (the index of the item that ran), for a
formatter to use. Loggers are as talkative in the worker as in the parent when the call was made, of
the same classes, with the same names of levels. Warnings go the same way. A worker has the filters
of its parent, so that a warning that is to be an error is one in the item; where one is shown once
for each place, that is so for all workers together.
"""

from __future__ import annotations

import functools
import logging
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, FunctionType
from typing import Any

from ..place import recording
from ..transport import pickling
from . import printing
from .named import Named, find, named

__all__ = [
    "NOTED",
    "Filter",
    "filters",
    "forward",
    "forwarder",
    "handlers",
    "level_names",
    "levels",
    "listen",
    "listener",
    "logger_classes",
    "retell",
    "say",
    "say_by",
    "set_filters",
    "set_handlers",
    "set_level_names",
    "set_levels",
    "set_logger_classes",
    "stop_listening",
    "warnings_to",
    "watched_loggers",
]

Filter = tuple[Any, str, Named, str, int]

LOG, WARNING, SAID = "log", "warning", "said"
NOTED = "noted"  # for a trace, on another machine
_listeners: dict[int, Callable[..., Any]] = {}  # by number: what hears what items say to it
_to_parent: Callable[[str, tuple[Any, ...]], None] | None = None  # in a worker
_forwarder: _Forwarder | None = None  # in a worker process: the one that stands on its loggers


def watched_loggers(mark: str, seen: object) -> tuple[Any, ...] | None:
    """What tells whether something of loggers has changed; None if it is still `seen`.

    That is levels and their names, classes, and which loggers have handlers. To ask each logger
    would take too long where a call is short. But whoever sets a level has all loggers forget what
    they know of levels, and with it a `mark` that lies there; and who adds a handler has made it.
    """
    known: dict[Any, Any] = getattr(logging.root, "_cache", {})
    names: dict[int, str] = logging._levelToName  # noqa: SLF001 - its copy takes longer
    token = known.get(mark)
    made = logging._handlerList  # type: ignore[attr-defined] # noqa: SLF001 - weak references
    last = len(made), made[-1] if made else None
    now = token, len(logging.root.manager.loggerDict), logging.getLoggerClass(), last, names
    if token is not None and now == seen:
        return None
    token = known[mark] = object()
    return token, *now[1:4], dict(names)


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


_STANDARD_NAMES = {getattr(logging, name): name for name in ("CRITICAL", "ERROR", "WARNING")}
_STANDARD_NAMES |= {getattr(logging, name): name for name in ("INFO", "DEBUG", "NOTSET")}


def level_names() -> dict[int, str]:
    """Names of levels that differ from the usual ones."""
    names = {logging.getLevelName(name): name for name in logging.getLevelNamesMapping()}
    names |= logging._levelToName  # noqa: SLF001 - of two names of a level, that which is shown
    return {n: name for n, name in names.items() if _STANDARD_NAMES.get(n) != name}


def set_level_names(wanted: Mapping[int, str]) -> None:
    """Give levels the names `wanted`; what else this process has stays."""
    for number, name in wanted.items():
        if logging.getLevelName(number) != name:
            logging.addLevelName(number, name)


def logger_classes() -> dict[str, Named]:
    """Classes of loggers, where they are not the usual one, by name; that of new ones is ``""``."""
    found = {"": logging.getLoggerClass()}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger):
            found[name] = type(logger)
    told = ((name, named(cls)) for name, cls in found.items() if cls is not logging.Logger)
    return {name: cls for name, cls in told if cls is not None}


def set_logger_classes(wanted: Mapping[str, Named]) -> None:
    """Make loggers of these classes, as far as they are there."""
    classes = {name: find(cls) for name, cls in wanted.items()}
    default = classes.pop("", None) or logging.Logger
    for name, cls in classes.items():
        try:
            logging.setLoggerClass(cls)
            logger = logging.getLogger(name)
            if type(logger) is logging.Logger:
                logger.__class__ = cls
        except (TypeError, AttributeError):
            pass  # its module is not loaded, or the class is made in another way
    logging.setLoggerClass(default)


def handlers() -> dict[str, bool]:
    """Names of loggers that have handlers, the root apart."""
    loggers = list(logging.root.manager.loggerDict.items())
    return {name: True for name, logger in loggers if getattr(logger, "handlers", None)}


def set_handlers(wanted: Mapping[str, bool]) -> None:
    """Have records sent by each of these loggers that has no handler, and by no other."""
    forward = _forwarder
    if forward is None:
        return
    for name in handlers().keys() - wanted.keys():
        logging.getLogger(name).removeHandler(forward)
    for name in wanted:
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(forward)


def filters() -> list[Filter]:
    """Warning filters of this process."""
    return [
        (action, _pattern(message), name, _pattern(module), lineno)
        for action, message, category, module, lineno in warnings.filters
        if isinstance(category, type) and (name := _name(category)) is not None
    ]


def set_filters(wanted: Sequence[Filter]) -> None:
    """Give this process the filters `wanted`; what was shown once may be shown again."""
    warnings.resetwarnings()
    for action, message, name, module, lineno in wanted:
        warnings.filterwarnings(action, message, _category(name), module, lineno, append=True)


class _Late(type):
    """Type of what stands in filters for categories whose modules are not loaded yet.

    A warning that comes up is of such a category if its module has been loaded by then.
    """

    name: Named

    def __subclasscheck__(cls, subclass: type) -> bool:
        category = find(cls.name)
        return isinstance(category, type) and issubclass(subclass, category)


def _name(category: type[Warning]) -> Named | None:
    return getattr(category, "name", None) if type(category) is _Late else named(category)


def _category(name: Named) -> type[Warning]:
    """Class of a warning, or what stands for it until its module is loaded."""
    found = find(name)
    if isinstance(found, type) and issubclass(found, Warning):
        return found
    late: Any = _Late("Late", (Warning,), {"name": name})
    return late  # type: ignore[no-any-return]


def _pattern(pattern: Any) -> str:
    if isinstance(pattern, str):
        return re.escape(pattern) + r"\Z"
    return "" if pattern is None else str(pattern.pattern)


def listen(number: int, heard: Callable[..., Any]) -> None:
    """Let `heard` have what items say to `number`, be it here or in a worker of this process."""
    _listeners[number] = heard


def stop_listening(number: int) -> None:
    """Drop what is still said to `number`."""
    _listeners.pop(number, None)


def listener(number: int) -> Callable[..., Any] | None:
    """Return what hears `number` in this very process; None where that is another one's matter."""
    return _listeners.get(number)


def say(number: int, *fields: Any) -> None:
    """Worker: say plain values to who listens to `number` in the parent. Nobody answers."""
    if _to_parent is not None:
        _to_parent(SAID, (number, *fields))


def say_by(
    send: Callable[[str, tuple[Any, ...]], None] | None,
) -> Callable[[str, tuple[Any, ...]], None] | None:
    """Let `send` have what is said from now on; return who had it before."""
    global _to_parent
    before, _to_parent = _to_parent, send
    return before


def forward(send: Callable[[str, tuple[Any, ...]], None], item: Callable[[], int | None]) -> None:
    """Worker: let `send` have all log records and warnings, instead of this process's handlers."""
    global _to_parent, _forwarder
    _to_parent = send
    _forwarder = _OnLoggers(send, item)
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
            logger.propagate = True
    logging.root.addHandler(_forwarder)
    warnings.showwarning = warnings_to(send)


def forwarder(
    send: Callable[[str, tuple[Any, ...]], None], item: Callable[[], int | None]
) -> logging.Handler:
    """Handler that lets `send` have records, each with the index of its `item`."""
    return _Forwarder(send, item)


def warnings_to(send: Callable[[str, tuple[Any, ...]], None]) -> Callable[..., None]:
    """Return a ``warnings.showwarning`` that lets `send` have them."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: object = None,  # noqa: ARG001 - the signature of warnings.showwarning
        line: object = None,  # noqa: ARG001
    ) -> None:
        own = None if isinstance(message, str) else _travelling(message)
        send(
            WARNING,
            (str(message), own, _named(category), filename, lineno, _module_of(filename)),
        )

    return show


def _named(category: type[Warning]) -> Named:
    return named(category) or ("builtins", "UserWarning")


def _travelling(message: Warning) -> bytes | None:
    """Pickle of a warning that is more than its text, if it can be pickled."""
    if not message.__dict__ and message.args == (str(message),):
        return None
    try:
        return _bytes(pickling.portable(message))
    except Exception:  # noqa: BLE001 - a user's class may raise anything
        return None


def _module_of(filename: str) -> str | None:
    """Name of the module that a warning is about, which its filters may ask for."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - documented, for such purposes
    while frame is not None and frame.f_code.co_filename != filename:
        frame = frame.f_back
    return None if frame is None else frame.f_globals.get("__name__")


def _bytes(obj: object) -> bytes:
    return b"".join(pickling.dumps(obj, sys.maxsize).pieces)


class _Forwarder(logging.Handler):
    def __init__(
        self, send: Callable[[str, tuple[Any, ...]], None], item: Callable[[], int | None]
    ) -> None:
        super().__init__()
        self._send = send
        self._item = item

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record; its message is made here if its arguments are more than plain values."""
        try:
            fields = record.__dict__
            plain: dict[str, Any] = {
                name: value for name, value in fields.items() if isinstance(value, _PLAIN)
            }
            others = {name: fields[name] for name in fields.keys() - plain.keys()}
            args = record.args
            if type(args) is tuple and all(isinstance(arg, _PLAIN) for arg in args):
                plain.update(msg=str(record.msg), args=args)
            else:
                plain.update(msg=record.getMessage(), args=None)
            plain["item"] = self._item()
            if record.exc_info and not record.exc_text:
                plain["exc_text"] = logging.Formatter().formatException(record.exc_info)
            for name in ("msg", "args", "exc_info"):
                others.pop(name, None)
            self._send(LOG, (plain, _pickled(others) if others else None))
        except Exception:  # noqa: BLE001 - as every handler of the standard library
            self.handleError(record)


class _OnLoggers(_Forwarder):
    """Stands on the root logger, and on others in the place of their handlers in the parent.

    Who takes it from the root logger wants nothing sent. Nor is sent what a logger does not
    propagate to it, where that logger has got a handler in the worker.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record once, and with it whether another handler has it."""
        fields = record.__dict__
        if _SENT in fields or self not in logging.root.handlers:
            return
        loggers = _loggers_of(record)
        handled = any(type(one) is not _OnLoggers for logger in loggers for one in logger.handlers)
        if handled and loggers[-1] is not logging.root:
            return
        if handled:
            fields[_HANDLED] = True
        super().emit(record)
        fields[_SENT] = True


_SENT, _HANDLED = "_parallelkit_sent", "_parallelkit_handled"  # fields of a record


def _loggers_of(record: logging.LogRecord) -> list[logging.Logger]:
    """Loggers whose handlers have a record, the one that it was made by first."""
    found: object = logging.root.manager.loggerDict.get(record.name)
    loggers = [found if isinstance(found, logging.Logger) else logging.root]
    while loggers[-1].propagate and loggers[-1].parent is not None:
        loggers.append(loggers[-1].parent)
    return loggers


_PLAIN = (type(None), bool, int, float, str, bytes)


def _pickled(fields: Mapping[str, Any]) -> bytes:
    """Pickle fields of a record; in the place of one that cannot be pickled goes its text."""
    try:
        return _bytes(fields)
    except Exception:  # noqa: BLE001 - a user's __reduce__ may raise anything
        sent = {}
        for name, value in fields.items():
            try:
                sent[name] = value if _bytes(value) else None
            except Exception:  # noqa: BLE001
                sent[name] = str(value)
        return _bytes(sent)


def retell(kind: str, fields: tuple[Any, ...]) -> None:
    """Parent: log a worker's record, warn its warning, or print, as if it had come up here.

    What items say to somebody who listens is given to them.
    """
    if kind in printing.NAMES:
        printing.say(kind, *fields)
        return
    if kind == NOTED:
        recording.arrived(*fields)
        return
    if kind == SAID:
        number, *said = fields
        heard = _listeners.get(number)
        if heard is not None:
            heard(*said)
        return
    if kind == LOG:
        plain, others = fields
        record = logging.makeLogRecord(plain)
        try:
            record.__dict__.update({} if others is None else pickling.loads(others))
        except Exception:  # noqa: BLE001 - a user's __setstate__ may raise anything
            pass  # the record is worth more than a field of it
        logger = logging.getLogger(record.name)
        shown = _HANDLED in record.__dict__ and not logger.hasHandlers()  # which is enough then
        if logger.isEnabledFor(record.levelno) and not shown:
            logger.handle(record)
        return
    _warn(*fields)


_registries: dict[str, dict[Any, Any]] = {}  # of modules that are not loaded here


def _warn(
    text: str, own: bytes | None, name: Named, filename: str, lineno: int, module: str | None
) -> None:
    """Warn as the module would, had the item run here; its registry knows what has been shown."""
    found = find(name)
    category = found if isinstance(found, type) and issubclass(found, Warning) else UserWarning
    message = None
    if own is not None:
        try:
            message = pickling.loads(own)
        except Exception:  # noqa: BLE001 - a user's __setstate__ may raise anything
            pass  # its text will do
    if not isinstance(message, Warning):
        message = _wording(category)(text)  # type: ignore[arg-type]  # mypy: not Hashable
    about: dict[str, Any] = {}  # what was warned by hand says nothing, and None is no module
    if module is not None:
        loaded = getattr(sys.modules.get(module), "__dict__", None)
        if loaded is None:
            registry = _registries.setdefault(module, {})
        else:
            registry = loaded.setdefault("__warningregistry__", {})
        about = {"module": module, "registry": registry}
    try:
        warnings.warn_explicit(message, category, filename, lineno, **about)
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
