"""How numpy arrays cross, where numpy's own way is not the best.

========================================  =====================================================
array                                     what crosses
========================================  =====================================================
contiguous, of a plain type               numpy's own reduction, which keeps the buffer apart
strided, but without large gaps           the memory that it spans, with its strides
strided, with gaps                        its elements only; or what it spans, if that overlaps
                                          with another buffer of the same pickle
large, of a type like ``numpy.matrix``    its buffer, apart, with the type
on memory of :func:`parallelkit.share`    the name of the memory; the descriptor goes beside it
on a file (``numpy.memmap``)              path, mode and offset
views of one small array in a task        as the large ones do, so that they stay one memory
small, of what numpy has no buffer for    its elements, with dtype, strides and the read-only flag
========================================  =====================================================

Buffers that overlap in memory are laid out so in the segment too (see `segments`): that is how
views of one array stay views of one memory on the other side.

It is long because each row of this table is a way of its own, there and back.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import pickle
import sys
import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from ..errors import TransportError
from ..place import system
from .byvalue import ByValuePickler
from .shared import FileMap, Shared, attach, byte_bounds, home, open_file

__all__ = ["ArrayPickler", "ContentPickler", "bounds", "stacked"]

PLAIN = "biufcmMSUV"  # kinds of dtypes whose elements are all in the buffer
EXPORTED = "biufcSU"  # those of which numpy makes a buffer in every case, unless they have fields
GAPS = 1.25  # a view that spans no more than so many times its own size crosses with its gaps
MOST_GAPS = 64  # the same for one that overlaps with another buffer of the pickle

Array = np.ndarray[Any, Any]


class ArrayPickler(ByValuePickler):
    """Pickler that knows arrays.

    Parameters
    ----------
    file
        What has a ``write`` method.
    max_nbytes : int
        From which size on buffers stay apart.
    together : set of int, optional
        Owners of memory (by id) whose arrays stay apart however small they are.

    Attributes
    ----------
    buffers : list of memoryview
        The buffers that stay apart.
    owners : dict
        By id: the owners of the memory of small arrays, and how many arrays are on it; kept
        where it is asked for by ``count=True``.
    """

    def __init__(
        self,
        file: Any,
        max_nbytes: int,
        together: set[int] | None = None,
        count: bool = False,
        defining: Mapping[Any, bool] = MappingProxyType({}),
    ) -> None:
        self._kept = _Kept(max_nbytes)  # not a method: a cycle would keep the buffers alive
        super().__init__(file, self._kept, defining)
        self.buffers = self._kept.buffers
        self.owners: dict[int, int] = {}
        self._max_nbytes = max_nbytes
        self._together = together
        self._count = count
        self._simple = not count and not together
        self._files: dict[tuple[str, str], _File] = {}

    def reduce(self, obj: Any) -> Any:
        """Reduce arrays where it pays or matters; leave all else to the base class."""
        if isinstance(obj, np.ndarray):
            if self._simple and obj.base is None and type(obj) is np.ndarray:
                dtype = obj.dtype
                if dtype.kind in EXPORTED and dtype.fields is None and obj.flags.forc and obj.size:
                    return NotImplemented
            return self._array(obj)
        if id(obj) in _BY_NAME:
            return NotImplemented
        if type(obj) is Shared:
            if obj.is_lost():
                raise TransportError(
                    "the program has closed the descriptor of a shared array (os.closerange?); "
                    "give a copy of it, or share it again: pk.share(array.copy())"
                )
            self.shared.append(obj)
            return attach, (obj.token,)
        if type(obj) is _File:
            return open_file, (obj.path, obj.mode)
        return super().reduce(obj)

    def finish(self) -> None:
        """After the dump: of views with gaps that nothing overlaps with, keep the elements only."""
        near: list[tuple[int, Array]] = []
        for place, array in self._kept.loose:
            low, high = byte_bounds(array)
            if high - low > MOST_GAPS * array.nbytes:
                self.buffers[place] = _memory(_compact(array))
            else:
                near.append((place, array))
        if near:
            alone = _alone([bounds(view) for view in self.buffers])
            for place, array in near:
                if place in alone:
                    self.buffers[place] = _memory(_compact(array))

    def _array(self, array: Array) -> Any:
        base = home(array)
        if isinstance(base, mmap.mmap):
            reduced = self._at_home(array, base)
            if reduced is not None:
                return reduced
        kind = type(array)
        dtype = array.dtype
        if dtype.kind not in PLAIN or dtype.hasobject:
            return NotImplemented
        if kind is not np.ndarray and not _pickles_as_ndarray(kind):
            if kind is np.ma.MaskedArray and (
                array.nbytes >= self._max_nbytes or not dtype.isnative
            ):
                return _masked_parts(array)
            return NotImplemented
        if self._count and array.size:
            owner = id(_owner(array))
            self.owners[owner] = self.owners.get(owner, 0) + 1
        apart = bool(self._together) and id(_owner(array)) in (self._together or ())
        flags = array.flags
        # What numpy makes a buffer of keeps all; else it would arrive writable, in the machine's
        # byte order.
        exported = (
            kind is np.ndarray
            and flags.forc
            and dtype.kind in EXPORTED
            and dtype.fields is None
            and array.size > 0
        )
        if not array.nbytes or (not apart and array.nbytes < self._max_nbytes):
            if exported or (flags.writeable and dtype.isnative):
                return NotImplemented
            return _in_pickle(array)
        return NotImplemented if exported and not apart else self._by_span(array)

    def _by_span(self, array: Array) -> Any:
        low, high = byte_bounds(array)
        buffer = pickle.PickleBuffer(_memory(array))
        gaps: Array | None = None
        compact: tuple[int, ...] | None = None
        if high - low > GAPS * array.nbytes:
            compact = np.empty_like(array, order="K", subok=False).strides
            gaps = array
        self._kept.apart[id(buffer)] = buffer, gaps
        first = array.__array_interface__["data"][0] - low
        return _from_span, (
            type(array), buffer, array.dtype, array.shape, first, array.strides, compact,
            array.flags.writeable,
        )  # fmt: skip

    def _at_home(self, array: Array, base: mmap.mmap) -> Any:
        """Reduce an array on shared memory or a file to a name, if it has one."""
        if array.dtype.kind not in PLAIN or array.dtype.hasobject:
            return None
        first = array.__array_interface__["data"][0]
        root: Any = base
        kind: type = type(array)
        if kind is not np.ndarray and not _pickles_as_ndarray(kind):
            return None
        if type(base) is Shared:
            offset = first - base.address if array.size else 0  # it may point anywhere
        else:
            found = _file_below(array, base)
            if found is None:
                return None
            path, mode, address, at = found
            offset = first - address + at if array.size else 0
            root = self._files.setdefault((path, mode), _File(path, mode))
        return _from_memory, (
            kind, root, array.dtype, array.shape, offset, array.strides, array.flags.writeable,
        )  # fmt: skip


class ContentPickler(ByValuePickler):
    """Pickler for what is only compared: what is seen by both sides is known by where it lies."""

    def reduce(self, obj: Any) -> Any:
        """Reduce an array on shared memory or on a file to its place."""
        if isinstance(obj, np.ndarray):
            base = home(obj)
            if isinstance(base, mmap.mmap):
                self.plain = False
                place = obj.__array_interface__["data"][0]
                return _placed, (id(base), place, obj.shape, obj.strides, str(obj.dtype))
            return NotImplemented
        return super().reduce(obj)


def _placed(*place: Any) -> Any:
    return place


class _Kept:
    """Decides which buffers stay apart, and keeps them."""

    def __init__(self, max_nbytes: int) -> None:
        self.max_nbytes = max_nbytes
        self.buffers: list[memoryview] = []
        # Those that stay apart whatever their size, by id, with the view if it has gaps.
        self.apart: dict[int, tuple[pickle.PickleBuffer, Array | None]] = {}
        self.loose: list[tuple[int, Array]] = []  # views with gaps, by the place of their buffer

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether a buffer goes into the pickle itself."""
        view = buffer.raw()
        apart = self.apart.get(id(buffer))
        if apart is not None:
            if apart[1] is not None:
                self.loose.append((len(self.buffers), apart[1]))
        elif view.nbytes < self.max_nbytes:
            return True
        self.buffers.append(view)
        return False


def _in_pickle(array: Array) -> Any:
    """Reduce an array to its elements, as they lie in memory but without gaps."""
    elements = np.array(array, order="K", subok=False)
    strides = elements.strides
    inwards = sorted(range(elements.ndim), key=lambda axis: -strides[axis])
    data = elements.transpose(inwards).tobytes()
    kept = bytearray(data) if array.flags.writeable else data
    return _from_bytes, (type(array), kept, array.dtype, array.shape, strides)


# --- many small arrays ----------------------------------------------------------------------------

MANY = 8
SMALL = 4096  # bytes


class _Stack:
    """Stands in a pickle for a list of arrays of one shape and dtype."""

    __slots__ = ("array",)

    def __init__(self, array: Array) -> None:
        self.array = array

    def __reduce__(self) -> tuple[Any, ...]:
        return _unstack, (self.array,)


def stacked(columns: tuple[Any, ...]) -> tuple[Any, ...]:
    """Put one array in the place of many small ones in a column; it takes a tenth of the time.

    They are copies of their own on the other side, as they would be. An array that another column
    has too stays one object there, so it is not copied here.
    """
    stacks = tuple([_stack(column) for column in columns])
    if len(columns) > 1:
        joined = [
            column for column, stack in zip(columns, stacks, strict=True) if stack is not column
        ]
        arrays = {id(array) for column in joined for array in column}
        if len(arrays) < sum(map(len, joined)):
            return columns
        for column, stack in zip(columns, stacks, strict=True):
            if arrays and stack is column and not _has_none(column, arrays):
                return columns
    return stacks


def _has_none(column: Any, arrays: set[int]) -> bool:
    """Whether it is certain, without a look into objects, that a column has none of these."""
    if type(column) not in (list, tuple):
        return isinstance(column, (range, str)) or (
            isinstance(column, np.ndarray) and not column.dtype.hasobject
        )
    return all(
        type(value) in _PLAIN
        or isinstance(value, (np.number, np.bool_))
        or (type(value) is np.ndarray and not value.dtype.hasobject and id(value) not in arrays)
        for value in column
    )


_PLAIN = frozenset({int, float, bool, complex, str, bytes, type(None)})


def _stack(column: Any) -> Any:
    """One array in place of a column, if it is many small ones."""
    if type(column) not in (list, tuple) or len(column) < MANY or type(column[0]) is not np.ndarray:
        return column
    dtype, shape = column[0].dtype, column[0].shape
    if not _is_simple(dtype) or not 0 < column[0].nbytes <= SMALL:
        return column
    bases: dict[int, Array] = {}
    for array in column:
        if type(array) is not np.ndarray or array.shape != shape:
            return column
        if array.dtype is not dtype and not (array.dtype == dtype and _is_simple(array.dtype)):
            return column
        if not array.flags.carray:
            return column
        if array.base is not None:
            bases[id(array.base)] = array
    if not shape or len(set(map(id, column))) < len(column):
        return column
    if any(isinstance(home(array), mmap.mmap) for array in bases.values()):
        return column
    return _Stack(np.concatenate(column).reshape(len(column), *shape))


def _is_simple(dtype: np.dtype[Any]) -> bool:
    """Whether numpy's joining keeps all of it: fields, metadata and byte order would be lost."""
    return dtype.kind in "biufc" and dtype.isnative and dtype.fields is None and not dtype.metadata


def _unstack(array: Array) -> list[Array]:
    return [part.copy() for part in array]


# --- on the other side ---------------------------------------------------------------------------


def _from_span(
    kind: type[Array],
    buffer: Any,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    first: int,
    strides: tuple[int, ...],
    compact: tuple[int, ...] | None,
    writeable: bool,
) -> Array:
    """Make an array on the memory that it spans, or on its elements alone."""
    nbytes = dtype.itemsize
    for n in shape:
        nbytes *= n
    if compact is not None and memoryview(buffer).nbytes == nbytes:
        strides, first = compact, 0
    array = np.ndarray.__new__(kind, shape, dtype, buffer, first, strides)
    if array.flags.writeable and not writeable:
        array.flags.writeable = False
    return array


def _from_memory(
    kind: type[Array],
    memory: Shared | FileMap,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    offset: int,
    strides: tuple[int, ...],
    writeable: bool,
) -> Array:
    """Make an array on shared memory or on a file."""
    array = np.ndarray.__new__(kind, shape, dtype, memory, offset, strides)
    if array.flags.writeable and not writeable:
        array.flags.writeable = False
    if isinstance(array, np.memmap) and isinstance(memory, FileMap):
        mapped: Any = array  # to numpy's stubs its attributes are final
        mapped._mmap = memory  # noqa: SLF001
        mapped.filename, mapped.offset, mapped.mode = memory.path, offset, memory.mode
    return array


def _from_bytes(
    kind: type[Array],
    data: bytes | bytearray,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> Array:
    """Make an array on bytes of its own; it is read-only where they are."""
    return np.ndarray.__new__(kind, shape, dtype, data, 0, strides)


def _masked_parts(array: Any) -> Any:
    mask = np.ma.getmask(array)
    fill = array._fill_value  # noqa: SLF001 - None where it is the default
    return _masked, (array.data, None if mask is np.ma.nomask else mask, fill)


def _masked(data: Array, mask: Array | None, fill: Any) -> Array:
    array: Any = np.ma.MaskedArray(data, np.ma.nomask if mask is None else mask, copy=False)
    array._fill_value = fill  # noqa: SLF001
    return array  # type: ignore[no-any-return]


# Functions and classes that stand in the pickle of nearly every array. They are numpy's and ours,
# so pickle may name them; to find that out takes longer than to pickle a small array.
_BY_NAME = {
    id(thing): thing
    for thing in (
        np.ndarray, np.dtype, np.ones(1).__reduce_ex__(5)[0], np.ones(1).__reduce__()[0],
        np.float64(0).__reduce__()[0],
        _from_span, _from_memory, _from_bytes, _unstack, attach, open_file,
    )
}  # fmt: skip


# --- memory --------------------------------------------------------------------------------------


class _Exposed:
    """Bytes at an address, as numpy takes them."""

    def __init__(self, address: int, nbytes: int, writeable: bool, owner: object) -> None:
        self.__array_interface__ = {
            "data": (address, not writeable),
            "shape": (nbytes,),
            "typestr": "|u1",
            "version": 3,
        }
        self.owner = owner


def _memory(array: Array) -> memoryview:
    """The bytes that an array spans, gaps and all."""
    low, high = byte_bounds(array)
    exposed: Any = np.asarray(_Exposed(low, high - low, array.flags.writeable, array))
    return memoryview(exposed)


def _alone(ranges: list[tuple[int, int]]) -> set[int]:
    """Which of some ranges of addresses, by number, overlap with no other."""
    order = sorted(range(len(ranges)), key=lambda i: ranges[i])
    starts = [ranges[i][0] for i in order[1:]]
    alone, reached = set(), 0
    for number, following in itertools.zip_longest(order, starts, fillvalue=sys.maxsize):
        low, high = ranges[number]
        if reached <= low and high <= following:
            alone.add(number)
        reached = max(reached, high)
    return alone


def bounds(view: memoryview) -> tuple[int, int]:
    """First address of a buffer, and the one behind its last."""
    return byte_bounds(np.frombuffer(view, np.uint8)) if view.nbytes else (0, 0)


def _compact(array: Array) -> Array:
    copy = np.array(array, order="K", subok=False)
    copy.flags.writeable = array.flags.writeable
    return copy


def _owner(array: Array) -> object:
    """The array that owns the memory, or what is below it if none does."""
    owner: Any = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    return owner


def _pickles_as_ndarray(kind: type) -> bool:
    return (
        kind.__reduce_ex__ is np.ndarray.__reduce_ex__  # type: ignore[comparison-overlap]
        and kind.__reduce__ is np.ndarray.__reduce__  # type: ignore[comparison-overlap]
        and kind.__setstate__ is np.ndarray.__setstate__  # type: ignore[attr-defined]
    )


# --- files ---------------------------------------------------------------------------------------


class _File:
    """Stands in a pickle for a mapped file; one for all views of it, so that they share it."""

    __slots__ = ("mode", "path")

    def __init__(self, path: str, mode: str) -> None:
        self.path = path
        self.mode = mode


_paths: weakref.WeakKeyDictionary[mmap.mmap, tuple[str, os.stat_result]] = (
    weakref.WeakKeyDictionary()
)


def _file_below(array: Array, base: mmap.mmap) -> tuple[str, str, int, int] | None:
    """Path and mode of the file below an array, an address, and the file's offset there.

    None if it cannot be opened by a path again as what it is: then its values travel.
    """
    if isinstance(base, FileMap):
        path, mode, address, at = base.path, base.mode, base.address, 0
    else:
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        if not isinstance(root, np.memmap) or root.filename is None:
            return None
        path, mode = os.path.realpath(root.filename), "r+" if root.mode == "w+" else root.mode
        address, at = root.__array_interface__["data"][0], root.offset
    status = _seen(base, path, mode, address)
    if status is None or (mode == "c" and _touched(address)):
        return None
    return path, mode, address, at


def _seen(base: mmap.mmap, path: str, mode: str, address: int) -> os.stat_result | None:
    """Status of the file at `path`, if that is still the file that is mapped.

    Where the system cannot tell, a map that can be written is taken for the file at its path, since
    what is written must get there, and others are not, since values are always right.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    known = _paths.get(base)
    if known is None or known[0] != path or not os.path.samestat(known[1], status):
        if not system.WINDOWS:  # which does not let anybody move, remove or replace it
            mapped = _mapped(address)
            if mapped != path and not (mapped is None and mode == "r+"):
                return None
        _paths[base] = path, status
    return status


def _mapped(address: int) -> str | None:
    """Path, by now, of the file that is mapped at an address, as far as the system tells."""
    if system.MACOS:
        path = ctypes.create_string_buffer(4096)
        libproc = ctypes.CDLL("/usr/lib/libproc.dylib")
        ask = libproc.proc_regionfilename
        ask.argtypes = ctypes.c_int, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_uint32
        return os.fsdecode(path.value) if ask(os.getpid(), address, path, len(path)) > 0 else None
    region = _region(f"{system.PROC}/self/maps", address)
    return region[0].split(maxsplit=5)[-1] if region else None


def _touched(address: int) -> bool:
    """Whether a private mapping was written to. The file does not have what was written."""
    for line in _region(f"{system.PROC}/self/smaps", address)[1:]:
        if line.startswith("Anonymous:"):
            return line.split()[1] != "0"
    return True


def _region(path: str, address: int) -> list[str]:
    """What Linux tells of the mapping at an address: its line, and those that belong to it."""
    found: list[str] = []
    try:
        with open(path) as lines:
            for line in lines:
                head = line.split(" ", 1)[0]
                if "-" in head and not head.endswith(":"):
                    if found:
                        break
                    low, _, high = head.partition("-")
                    if int(low, 16) <= address < int(high, 16):
                        found.append(line.rstrip("\n"))
                elif found:
                    found.append(line)
    except OSError:
        pass
    return found
