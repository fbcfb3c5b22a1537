"""A pickle on its way through another engine."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from ..transport import pickling
from ..transport.pickling import Pickled

__all__ = ["Behind", "Parcel", "since", "writable"]

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
