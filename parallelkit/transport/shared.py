"""Arrays in memory that all processes see.

::

    share(a) ─► Shared (a map of memory)      ◄── base of ── ordinary ndarrays, sliced at will
                   │ in a pickle: its name; beside the message: its descriptor
                   ▼
               Shared in the other process: mapped on arrival, found by name from then on

There is no owner and no count of references: each process has the memory mapped as long as one
of its arrays needs it, and a descriptor on its way counts like one. The kernel frees the memory
with the last of them, however a process ends.
"""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from ..errors import TransportError
from ..options import configured
from ..place import system
from ..place.descriptors import keep
from ..place.nesting import in_worker_process
from . import anonymous
from .inheritance import Descriptor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = [
    "FileMap",
    "Shared",
    "arrive",
    "attach",
    "byte_bounds",
    "home",
    "is_shared",
    "let_go",
    "new_array",
    "open_file",
    "ready_to_write",
    "share",
    "shared_empty",
    "writes_through",
]

# What is mapped here, by name; and in a worker, what chunks of the running call used last: mapping
# the same memory again for each chunk would cost its page faults each time.
_mapped: weakref.WeakValueDictionary[object, Shared | FileMap] = weakref.WeakValueDictionary()
_used_last: deque[Shared | FileMap] = deque(maxlen=2)
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14


class Shared(mmap.mmap):
    """Memory that other processes may have mapped too. Arrays on it keep it alive."""

    address: int
    fd = -1
    identity: object
    token: str

    def __new__(cls, fd: int, size: int, token: str) -> Self:
        """Map the memory behind `fd`, which is taken over."""
        try:
            self = anonymous.map_as(cls, fd, size)
        except BaseException:
            anonymous.close(fd)
            raise
        self.fd = fd
        self.identity = anonymous.identity(fd)
        self.token = token
        self.address = _address(self)
        _mapped[token] = self
        return self

    def __del__(self, close: Any = anonymous.close, finalizing: Any = sys.is_finalizing) -> None:
        if self.fd >= 0 and not finalizing():  # the end of the process closes it by itself
            if self.is_lost():
                keep(self)  # its end would close what is somebody else's by now
            else:
                close(self.fd)

    def is_lost(self) -> bool:
        """Whether the program has closed its descriptor; the memory is still there."""
        return self.fd >= 0 and anonymous.identity(self.fd) != self.identity

    @classmethod
    def create(cls, size: int, folder: str | None, reserve: bool = True) -> Shared:
        """New memory, all of it reserved: what cannot be had is an error now, not a crash later.

        Without `reserve`, see to it yourself, by `ready_to_write`, before a part is used.
        """
        size = max(1, size)
        free = anonymous.available()
        if folder is None and size > free:
            raise MemoryError(f"no room for {size} bytes of shared memory: {free} are free")
        try:
            fd = anonymous.create(size, folder, "parallelkit-shared")
            try:
                if reserve:
                    anonymous.reserve(fd, size)
            except BaseException:
                anonymous.close(fd)
                raise
        except OSError as error:
            where = f" in {folder}" if folder else ""
            raise MemoryError(
                f"no room for {size} bytes of shared memory{where}: {error}"
            ) from None
        return cls(fd, size, os.urandom(8).hex())


def arrive(names: Sequence[tuple[str, int]], fds: Sequence[int]) -> list[Shared | Descriptor]:
    """Map memory whose descriptors came with a message; it is found by name while this is held."""
    rest = list(fds)
    held: list[Shared | Descriptor] = []
    try:
        for token, size in names:
            fd = rest.pop(0)
            if not size:  # no memory has that
                held.append(Descriptor(fd, token))
                continue
            known = _mapped.get(token)
            # A copy of the caller, as which workers may begin, has its memory but no descriptors.
            if isinstance(known, Shared) and not known.is_lost():
                anonymous.close(fd)
                held.append(known)
            else:
                held.append(Shared(fd, size, token))
    finally:
        for fd in rest:
            anonymous.close(fd)
    return held


def attach(token: str) -> Shared:
    """The memory of that name, when a pickle that names it is read."""
    memory = _mapped.get(token)
    if not isinstance(memory, Shared):
        raise TransportError("this pickle refers to shared memory that is gone")
    _keep(memory)
    return memory


class FileMap(mmap.mmap):
    """A file that is mapped as a whole, because arrays on it came from another process."""

    address: int
    path: str
    mode: str

    def __new__(cls, path: str, mode: str, fd: int) -> Self:
        """Map the file open as `fd` in a mode of ``numpy.memmap``."""
        access = {"r": mmap.ACCESS_READ, "r+": mmap.ACCESS_WRITE, "c": mmap.ACCESS_COPY}[mode]
        self = super().__new__(cls, fd, 0, access=access)
        self.path, self.mode = path, mode
        self.address = _address(self)
        return self


def open_file(path: str, mode: str) -> FileMap:
    """Map a file, once for all arrays on it that are alive, but each time anew to copy on write."""
    fd = os.open(path, (os.O_RDWR if mode == "r+" else os.O_RDONLY) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(fd)
        key = path, mode, status.st_dev, status.st_ino, status.st_size
        memory = _mapped.get(key) if mode != "c" else None
        if not isinstance(memory, FileMap):
            memory = FileMap(path, mode, fd)
            if mode != "c":
                _mapped[key] = memory
    finally:
        os.close(fd)
    if mode != "c":
        _keep(memory)
    return memory


def _keep(memory: Shared | FileMap) -> None:
    if in_worker_process() and memory not in _used_last:
        _used_last.append(memory)


def let_go() -> None:
    """In a worker, when a call is over: keep only what arrays still need."""
    _used_last.clear()


def _address(memory: mmap.mmap) -> int:
    import numpy as np

    address: int = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
    return address


def home(array: NDArray[Any]) -> Any:
    """What lies below an array and all arrays that it is a view of."""
    import numpy as np

    base = array.base
    while isinstance(base, np.ndarray):
        base = base.base
    return base


def byte_bounds(array: NDArray[Any]) -> tuple[int, int]:
    """First address of the memory that an array spans, and the one behind its last byte.

    (numpy has it too, in one place before version 2 and in another one since.)
    """
    low: int = array.__array_interface__["data"][0]
    if not array.size:
        return low, low
    high = low + array.itemsize
    for length, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += (length - 1) * stride
        else:
            high += (length - 1) * stride
    return low, high


# --- what people call -----------------------------------------------------------------------------


def share(array: ArrayLike) -> NDArray[Any]:
    """Copy an array into memory that all workers see.

    The copy is an ordinary array. In whatever call it, or a view of it, is passed (as an item, a
    frozen keyword, inside other objects, from a nested call, as a result), only its name
    travels, and everybody works on the same memory: what a worker writes is seen at once by the
    caller and by all other workers.

    Nothing orders writes. Let every item write to a part of its own, or to none, and read what
    others wrote only after the call. An array that is set read-only (``flags.writeable``) arrives
    read-only. The memory is freed when the last array on it is gone, in all processes. (Workers
    of the start method "fork" have what existed when they were forked until they end.)

    Parameters
    ----------
    array : array_like
        Any shape and dtype but ``object``. One that is shared already is returned as it is.

    Returns
    -------
    numpy.ndarray
        Of the same shape, dtype and memory order; of the plain type.

    Raises
    ------
    TypeError
        For an array of Python objects.
    MemoryError
        If there is no room for the copy.

    Notes
    -----
    The memory is a ``memfd`` on Linux and a named map on Windows. On macOS, or with the option
    ``temp_folder``, it is a file that is gone with its last user.

    Examples
    --------
    >>> import numpy as np
    >>> import parallelkit as pk
    >>> table = pk.share(np.arange(6.0))
    >>> def double(i, table):
    ...     table[i] *= 2
    >>> pk.map(double, range(3), table=table)
    [None, None, None]
    >>> table
    array([0., 2., 4., 3., 4., 5.])
    """
    import numpy as np

    source = np.asarray(array)
    if type(home(source)) is Shared:
        return source
    if source.flags.f_contiguous:
        copy = shared_empty(source.shape[::-1], source.dtype).T
    else:
        copy = shared_empty(source.shape, source.dtype)
    copy[...] = source
    return copy


def shared_empty(shape: int | Sequence[int], dtype: DTypeLike = float) -> NDArray[Any]:
    """Make an array in memory that all workers see; see :func:`share`.

    Parameters
    ----------
    shape : int or tuple of int
    dtype : dtype, optional
        Any but ``object``.

    Returns
    -------
    numpy.ndarray
        Of zeros; its memory is reserved.

    Raises
    ------
    TypeError
        For a dtype of Python objects.
    MemoryError
        If there is no room for it.

    Examples
    --------
    >>> import parallelkit as pk
    >>> out = pk.shared_empty((2, 3), int)
    >>> def fill(row, value):
    ...     row[:] = value
    >>> _ = pk.map(fill, out, [7, 8])
    >>> out
    array([[7, 7, 7],
           [8, 8, 8]])
    """
    return new_array(shape, dtype)


def new_array(shape: int | Sequence[int], dtype: DTypeLike, reserve: bool = True) -> NDArray[Any]:
    """Make a shared array; without `reserve` call `ready_to_write` before a part is used."""
    import numpy as np

    kind = _sound(np.dtype(dtype))
    sizes = (int(shape),) if np.ndim(shape) == 0 else tuple(int(n) for n in shape)  # type: ignore[arg-type,union-attr]
    if any(n < 0 for n in sizes):
        raise ValueError(f"the shape {sizes} has a negative length")
    nbytes = kind.itemsize
    for n in sizes:
        nbytes *= n
    memory = Shared.create(nbytes, configured().get("temp_folder"), reserve)
    return np.ndarray(sizes, kind, memory)


def is_shared(array: object) -> bool:
    """Tell whether an array lies in memory that crosses to workers by its name.

    Parameters
    ----------
    array : object

    Returns
    -------
    bool
        True for arrays, and views of arrays, made by :func:`share`, :func:`shared_empty` or
        ``numpy.memmap``.

    Examples
    --------
    >>> import numpy as np
    >>> import parallelkit as pk
    >>> pk.is_shared(pk.share([1, 2, 3])[1:]), pk.is_shared(np.ones(3))
    (True, False)
    """
    np = sys.modules.get("numpy")
    if np is None or not isinstance(array, np.ndarray):
        return False
    return isinstance(home(array), mmap.mmap)


def writes_through(array: NDArray[Any]) -> bool:
    """Whether what a worker writes into an array is seen by all others."""
    import numpy as np

    below = home(array)
    if isinstance(below, Shared):
        return bool(array.flags.writeable)
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    mode = below.mode if isinstance(below, FileMap) else getattr(root, "mode", None)
    return bool(array.flags.writeable) and mode in ("r+", "w+")


def ready_to_write(array: NDArray[Any]) -> None:
    """Have the memory of a part of a shared array, all pages at once.

    Raises
    ------
    MemoryError
        If there is none.
    """
    memory = home(array)
    if type(memory) is not Shared or not array.size:
        return
    low, high = (address - memory.address for address in byte_bounds(array))
    if high - low > 2 * array.nbytes:
        return  # mostly the memory of others
    try:
        start = low - low % mmap.PAGESIZE
        memory.madvise(_POPULATE_WRITE, start, high - start)
    except (AttributeError, OSError, ValueError):
        if not system.ALLOCATES or memory.fd < 0:
            return  # nothing else is sure not to undo what others write at this moment
        try:
            os.posix_fallocate(memory.fd, low, high - low)
        except OSError as error:
            raise MemoryError(f"no room for {high - low} bytes of shared memory: {error}") from None


def _sound(kind: np.dtype[Any]) -> np.dtype[Any]:
    if kind.hasobject or kind.kind not in "biufcmMSUV":
        raise TypeError(f"an array of {kind} cannot be shared: its elements are Python objects")
    return kind
