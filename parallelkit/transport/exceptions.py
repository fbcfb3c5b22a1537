"""How exceptions cross: as what they are, whatever their constructor takes and their parts hold.

pickle makes an exception again by calling its class with ``args``, which need not be what the
class takes. So one with an ``__init__`` or ``__new__`` of its own is taken apart, and put together
without them. A part that cannot be pickled (a lock, an open reply) is left behind; what stands in
its place says so when it is looked at. Fields that pickle leaves out (the name of a `NameError`,
the code of a `SystemExit`) go along, and so do the exceptions that it was raised from, or while
they were handled.
"""

from __future__ import annotations

import copyreg
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import FunctionType
from typing import Any

from ..errors import LeftBehind, RemoteTraceback, TransportError, assign

__all__ = ["Linked", "Parted", "chain", "reduced", "substitute"]

Crosses = Callable[[object], "str | None"]  # why something cannot be pickled; None if it can

_DEPTH = 4  # of containers that are looked through for what cannot be pickled
_LONGEST = 16  # exceptions that go along as what others were raised from
_PICKLES = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")


def reduced(error: BaseException, is_small: Callable[[object], bool]) -> Any:
    """Take an exception apart for pickle; NotImplemented leaves it to pickle itself.

    `is_small` tells whether something can be pickled and takes little room: what an
    `AttributeError` was raised for goes along only then.
    """
    kind = type(error)
    own = isinstance(kind.__init__, FunctionType) or isinstance(kind.__new__, FunctionType)
    its_way = any(_definer(kind, name) != "builtins" for name in _PICKLES)
    # tblib would send its traceback and all that it was raised from once more.
    by_tblib = _is_tblib(copyreg.dispatch_table.get(kind))
    usual = error.__reduce_ex__(5) if by_tblib else NotImplemented
    if its_way:
        return usual
    fields = dict(_members(error))
    if isinstance(error, AttributeError) and not is_small(fields.get("obj")):
        fields.pop("obj", None)
    if own:
        state = dict(error.__dict__)
        return _rebuild, (kind, error.args, fields), state or None, None, None, _restore
    if not fields or isinstance(error, BaseExceptionGroup):
        return usual
    parts: Any = error.__reduce_ex__(5)
    rebuild, args, *rest = parts
    return (_completed, (rebuild, args, fields), *rest)


def _is_tblib(reducer: Any) -> bool:
    module: str = getattr(getattr(reducer, "func", reducer), "__module__", "")
    return module.startswith("tblib")


def _completed(
    rebuild: Callable[..., BaseException], args: tuple[Any, ...], fields: dict[str, Any]
) -> BaseException:
    error = rebuild(*args)
    _set_members(error, fields)
    return error


class Parted(Exception):
    """An exception on its way, without the parts that cannot be pickled; arrives as its own class.

    Parameters
    ----------
    error : BaseException
    crosses : callable
        Tells why something cannot be pickled, or None if it can.
    """

    def __init__(self, error: BaseException, crosses: Crosses) -> None:
        super().__init__()
        self.kind = type(error)
        self._crosses = crosses
        self._left: list[str] = []
        self._parts = (
            tuple(self._clean(part, f"args[{i}]") for i, part in enumerate(error.args)),
            {
                name: self._clean(value, name)
                for name, value in _members(error)
                if not (name == "obj" and isinstance(error, AttributeError)) or not crosses(value)
            },
        )
        self._state = {name: self._clean(value, name) for name, value in error.__dict__.items()}
        if self._left:
            note = f"without {', '.join(self._left)}, which could not be sent between processes"
            self._state["__notes__"] = [*self._state.get("__notes__", ()), note]

    def __reduce__(self) -> Any:
        return _rebuild, (self.kind, *self._parts), self._state or None, None, None, _restore

    def _clean(self, part: Any, name: str, depth: int = 0) -> Any:
        """Return `part`, or what goes in its place."""
        why = self._crosses(part)
        if why is None:
            return part
        if depth < _DEPTH:
            if type(part) in (list, tuple):
                kept = [self._clean(v, f"{name}[{i}]", depth + 1) for i, v in enumerate(part)]
                return type(part)(kept)
            if type(part) is dict and self._crosses(list(part)) is None:
                return {k: self._clean(v, f"{name}[{k!r}]", depth + 1) for k, v in part.items()}
            if isinstance(part, BaseException) and self._crosses(type(part)) is None:
                return Parted(part, self._crosses)
        self._left.append(name)
        return LeftBehind(type(part).__qualname__, why)


class Linked(Exception):
    """An exception on its way, with those that it was raised from; arrives as the first of them.

    Parameters
    ----------
    errors : sequence of BaseException
    links : sequence
        Of each: by number its ``__cause__``, its ``__context__``, or None; whether the latter is
        not shown.
    """

    def __init__(
        self, errors: Sequence[BaseException], links: Sequence[tuple[int | None, int | None, bool]]
    ) -> None:
        super().__init__()
        self._parts = tuple(errors), tuple(links)

    def __reduce__(self) -> Any:
        return _linked, self._parts


def _linked(
    errors: Sequence[BaseException], links: Sequence[tuple[int | None, int | None, bool]]
) -> BaseException:
    for error, (cause, context, suppressed) in zip(errors, links, strict=True):
        for name, number in (("__cause__", cause), ("__context__", context)):
            if number is not None:
                assign(error, **{name: errors[number]})
        assign(error, __suppress_context__=suppressed)
    return errors[0]


def chain(error: BaseException) -> list[BaseException]:
    """Exceptions that `error` was raised from, or while they were handled; `error` is the first."""
    found = [error]
    for one in found:
        for other in (one.__cause__, one.__context__):
            if other is None or type(other) is RemoteTraceback or len(found) == _LONGEST:
                continue
            if all(other is not known for known in found):
                found.append(other)
    return found


class _Substitute(Exception):
    """On its way: the text of an exception whose class cannot be sent."""

    def __reduce__(self) -> Any:
        return _stand_in, self.args


def substitute(error: BaseException, crosses: Crosses) -> BaseException:
    """Return what arrives as a `TransportError` with the text of `error`, of its base class too."""
    kind = type(error)
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - a user's __str__ may raise anything
        text = "with a message that cannot be made"
    told = (
        f"{kind.__name__}: {text} (this exception could not be sent back; its text stands for it)"
    )
    base = next(base for base in kind.__mro__[1:] if crosses(base) is None)
    return _Substitute(kind.__name__, base, told)


def _stand_in(name: str, base: type[BaseException], text: str) -> BaseException:
    kind: type[BaseException] = TransportError
    if base not in (Exception, BaseException):
        with suppress(TypeError):  # the two do not go together
            kind = type(name, (TransportError, base), {"__module__": base.__module__})
    return _rebuild(kind, (text,), {})


def _members(error: BaseException) -> Iterator[tuple[str, Any]]:
    """What the exception keeps beside `args` and its dict: an errno, a position, its slots."""
    for base in type(error).__mro__:
        for name, member in vars(base).items():
            if name.startswith("__") or name == "args":
                continue
            if inspect.ismemberdescriptor(member) or inspect.isgetsetdescriptor(member):
                with suppress(AttributeError):  # it is not set
                    value = member.__get__(error, base)
                    if value is not None:
                        yield name, value


def _rebuild(
    kind: type[BaseException], args: tuple[Any, ...], members: dict[str, Any]
) -> BaseException:
    error = _empty(kind, args)
    assign(error, args=args)
    _set_members(error, members)
    return error


def _set_members(error: BaseException, members: dict[str, Any]) -> None:
    for name, value in members.items():
        for base in type(error).__mro__:
            if name in vars(base):
                with suppress(AttributeError, TypeError):  # it cannot be set: the args did it
                    vars(base)[name].__set__(error, value)
                break


def _empty(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Make an exception by a built-in base, without the methods of its own class."""
    for base in kind.__mro__:
        if base.__module__ == "builtins" and base is not object:
            for given in ((), args):  # a group wants its parts
                with suppress(TypeError):  # that base is not the one whose memory it has
                    error: BaseException = base.__new__(kind, *given)
                    return error
    return kind.__new__(kind, *args)


def _restore(error: BaseException, state: dict[str, Any]) -> None:
    error.__dict__.update(state)  # a frozen one refuses assignments


def _definer(kind: type, name: str) -> str:
    """Module of the class that `kind` has a method from."""
    return next(base.__module__ for base in kind.__mro__ if name in vars(base))
