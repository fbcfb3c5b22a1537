"""Objects to bytes and back, whatever they are made of.

The pickler is the C one, with buffers kept apart (protocol 5); `byvalue` tells how functions and
classes go that the other side cannot import. `refusals` explains a failure.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import StaysHere, assign
from ..place.records import NamedTuple
from ..place.sigint import pass_on
from .byvalue import ByValuePickler
from .exceptions import Linked, Parted, chain, substitute

if TYPE_CHECKING:
    from .inheritance import Descriptor
    from .shared import Shared

__all__ = ["Pickled", "dumps", "dumps_defining", "loads", "portable"]

FEW = 8  # values of a column, or columns
SHORT = 1024  # characters
FRAME = 1 << 16  # from this size on the pickler writes an object itself, not a copy of its bytes
LONGEST = 1 << 14  # bytes of an exception that another one was raised from
_PLAIN = frozenset({int, float, bool, type(None), str})


class Pickled(NamedTuple):
    """A pickle in pieces, the large buffers that lie beside it, the shared memory that it names.

    Other things that have a descriptor count as such.

    ``needs`` is what the receiver must have of the script; see `script`.
    """

    pieces: list[bytes]
    buffers: list[memoryview]
    shared: Sequence[Shared | Descriptor] = ()
    needs: Sequence[Any] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the pickle and its buffers together."""
        return sum(map(len, self.pieces)) + sum(view.nbytes for view in self.buffers)


def dumps(obj: object, max_nbytes: int = 1 << 16, together: bool = False) -> Pickled:
    """Pickle `obj`; contiguous buffers of at least `max_nbytes` bytes stay apart.

    Views of one array that are both at least that large stay views of one memory, smaller ones
    where it is asked for by `together`.

    Raises whatever the pickling raises, see :mod:`refusals`.
    """
    if _is_plain(obj):  # a pickler of ours takes four times as long to make as this takes
        return Pickled([pickle.dumps(obj, 5)], [])
    try:
        return _dumped(obj, max_nbytes, together, {}, False)
    except StaysHere:
        raise
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        try:  # what cloudpickle refuses somewhere inside
            return _dumped(obj, max_nbytes, together, {}, True)
        except Exception as problem:  # noqa: BLE001 - the first reason is the better one
            pass_on(problem)
            raise error from None


def dumps_defining(obj: object, units: Mapping[Any, bool]) -> Pickled:
    """Pickle `obj` with the content of some units of the script; see `script`."""
    try:
        return _dumped(obj, 1 << 16, False, units, False)
    except StaysHere:
        raise
    except (TypeError, AttributeError, pickle.PicklingError):
        return _dumped(obj, 1 << 16, False, units, True)


def _dumped(
    obj: object, max_nbytes: int, together: bool, units: Mapping[Any, bool], by_dill: bool
) -> Pickled:
    if "numpy" in sys.modules:
        return _dumps_with_arrays(obj, max_nbytes, together, units, by_dill)
    pieces: list[bytes] = []
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        """Whether the buffer goes into the pickle itself."""
        view = buffer.raw()
        if view.nbytes < max_nbytes:
            return True
        buffers.append(view)
        return False

    pickler = ByValuePickler(_Sink(pieces, max_nbytes), keep, units)
    pickler.by_dill = by_dill
    pickler.dump(obj)
    return Pickled(pieces, buffers, pickler.shared, tuple(pickler.needs))


def _is_plain(obj: object) -> bool:
    """Whether `obj` is columns of a few numbers, short strings, and tuples of these."""
    if type(obj) is not tuple or len(obj) > FEW:
        return False
    for column in obj:
        kind = type(column)
        if kind is not range:
            if (kind is not list and kind is not tuple) or len(column) > FEW:
                return False
            for value in column:
                kind = type(value)
                if kind in _PLAIN:
                    if kind is str and len(value) > SHORT:
                        return False
                elif not _is_plain_row(value):
                    return False
    return True


def _is_plain_row(value: object) -> bool:
    if type(value) is not tuple or len(value) > FEW:
        return False
    for part in value:
        kind = type(part)
        if kind not in _PLAIN or (kind is str and len(part) > SHORT):
            return False
    return True


def _dumps_with_arrays(
    obj: object, max_nbytes: int, together: bool, units: Mapping[Any, bool], by_dill: bool
) -> Pickled:
    from .arrays import ArrayPickler, stacked

    if type(obj) is tuple and not together:  # columns of arguments, or results
        obj = stacked(obj)
    pieces: list[bytes] = []
    pickler = ArrayPickler(_Sink(pieces, max_nbytes), max_nbytes, count=together, defining=units)
    pickler.by_dill = by_dill
    pickler.dump(obj)
    several = {owner for owner, count in pickler.owners.items() if count > 1}
    if several:
        pieces.clear()
        pickler = ArrayPickler(_Sink(pieces, max_nbytes), max_nbytes, several, defining=units)
        pickler.by_dill = by_dill
        pickler.dump(obj)
    pickler.finish()
    return Pickled(pieces, pickler.buffers, pickler.shared, tuple(pickler.needs))


def loads(data: Any, buffers: Sequence[Any] = ()) -> Any:
    """Make the object again."""
    return pickle.loads(data, buffers=buffers)


class _Sink:
    """File for the pickler. Large bytes objects arrive uncopied."""

    __slots__ = ("write",)

    def __init__(self, pieces: list[bytes], max_nbytes: int) -> None:
        self.write: Callable[[Any], None] = pieces.append
        if max_nbytes > FRAME:  # then buffers of that size are in the pickle, and come as such
            self.write = lambda piece: pieces.append(_raw(piece))


def _raw(piece: Any) -> Any:
    """Bytes of what the pickler wrote, in whatever order of memory they are."""
    return piece.raw() if type(piece) is pickle.PickleBuffer else piece


def portable(error: BaseException) -> BaseException:
    """`error` if it survives the way to the other side, else what arrives there in its place.

    That is of the same class, with stand-ins for the parts that cannot be sent; where the class
    cannot be sent either, a :class:`TransportError` with the text. What could not be unpickled
    there would take everything else in its message with it. What it was raised from goes along.
    """
    errors = chain(error)
    if len(errors) == 1:
        return _portable(error)
    sent: list[BaseException] = []
    numbers: dict[int, int] = {}
    links = [(id(one.__cause__), id(one.__context__), one.__suppress_context__) for one in errors]
    for one in errors:
        made = _portable(one)
        if not sent or _nbytes(made) <= LONGEST:
            numbers[id(one)] = len(sent)
            sent.append(made)
    kept = [link for one, link in zip(errors, links, strict=True) if id(one) in numbers]
    found = [(numbers.get(cause), numbers.get(context), off) for cause, context, off in kept]
    linked = Linked(sent, found)
    return linked if _arrives(linked, type(error)) else sent[0]


def _nbytes(error: BaseException) -> int:
    try:
        return dumps(error).nbytes
    except BaseException:  # noqa: BLE001 - a user's class may raise anything
        return LONGEST + 1


def _portable(error: BaseException) -> BaseException:
    if _arrives(error, type(error)):
        return error
    # Where tblib is at work tracebacks go along, and one may be too deep.
    assign(error, __traceback__=None, __cause__=None, __context__=None)
    if _arrives(error, type(error)):
        return error
    try:
        parted = Parted(error, _refused)
        if _arrives(parted, type(error)):
            return parted
    except BaseException:  # noqa: BLE001 - a user's class may raise anything
        pass
    return substitute(error, _refused)


def _arrives(error: BaseException, kind: type[BaseException]) -> bool:
    try:
        pickled = dumps(error)
        return type(loads(b"".join(pickled.pieces), pickled.buffers)) is kind
    except BaseException:  # noqa: BLE001 - a user's class may raise anything
        return False


def _refused(value: object) -> str | None:
    """Why something cannot be pickled and made again; None if it can."""
    try:
        pickled = dumps(value)
        loads(b"".join(pickled.pieces), pickled.buffers)
    except BaseException as error:  # noqa: BLE001 - a user's class may raise anything
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return None
