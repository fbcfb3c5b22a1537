"""A pickle on its way through another engine."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from ..transport import pickling
from ..transport.pickling import Pickled

__all__ = ["Behind", "Parcel", "called", "packed", "since", "unpacked", "writable"]

SMALL = 1 << 16  # bytes of a result that is copied rather than shared
WRITABLE = 1 << 20  # bytes of a buffer that is copied where the engine gives it read-only


class Behind(Exception):
    """Raised where something goes on from what was to be here already, and is not.

    Attributes
    ----------
    number : int
        Of what grows.
    has : int
        How much of it is here.
    """

    def __init__(self, number: int, has: int) -> None:
        super().__init__(number, has)
        self.number, self.has = number, has


# While something is pickled: how much its worker has of what grows, by the number of that.
since: ContextVar[Mapping[int, int]] = ContextVar("parallelkit_since", default={})  # noqa: B039


class Parcel:
    """A pickle and its buffers, of which engines with protocol 5 copy nothing.

    Parameters
    ----------
    data : bytes
    buffers : list of buffers
    """

    __slots__ = ("__weakref__", "buffers", "data")

    def __init__(self, data: bytes, buffers: list[Any]) -> None:
        self.data = data
        self.buffers = buffers

    @classmethod
    def of(cls, pickled: Pickled) -> Parcel:
        """Pack what was pickled."""
        return cls(b"".join(pickled.pieces), list(pickled.buffers))

    @property
    def nbytes(self) -> int:
        """Bytes of it all."""
        return len(self.data) + sum(memoryview(buffer).nbytes for buffer in self.buffers)

    def __sizeof__(
        self,
    ) -> int:  # by which Dask sees where it is best used, and what memory it takes
        return super().__sizeof__() + self.nbytes

    def open(self, *, copy: bool = True) -> Any:
        """Make the object again; without `copy`, large arrays may be such as cannot be written."""
        buffers = [writable(buffer, copy) for buffer in self.buffers]
        return pickling.loads(self.data, buffers)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if protocol >= 5:
            return Parcel, (self.data, [pickle.PickleBuffer(buffer) for buffer in self.buffers])
        return Parcel, (self.data, [bytearray(buffer) for buffer in self.buffers])


def writable(buffer: Any, copied: bool) -> Any:
    """Return the buffer, or a copy that can be written; large ones are copied on demand only."""
    view = memoryview(buffer)
    if not view.readonly or (not copied and view.nbytes > WRITABLE):
        return buffer
    return bytearray(view)


# --- one argument and one result of bytes, where an engine takes long for each object ------------


def packed(func: Callable[..., Any], args: Sequence[Any], fetched: type) -> tuple[bytes, list[Any]]:
    """Pack a call for `called`: bytes, and those of the arguments that the engine is to fetch."""
    first = [... if isinstance(arg, fetched) else arg for arg in args]
    return pickle.dumps((func, *first), 5), [arg for arg in args if isinstance(arg, fetched)]


def called(data: bytes, *fetched: Any) -> Any:
    """Make a call that was packed; give what `unpacked` takes."""
    func, *args = pickle.loads(data)
    rest = iter(fetched)
    result = func(*(next(rest) if arg is ... else arg for arg in args))
    large = any(isinstance(part, Parcel) and part.nbytes > SMALL for part in result)
    return result if large else pickle.dumps(result, 5)


def unpacked(result: Any) -> Any:
    """What a call has given that was packed."""
    return pickle.loads(result) if isinstance(result, bytes) else result
