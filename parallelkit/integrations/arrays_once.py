"""Large arrays that many tasks of one call have: they cross once.

joblib sends each task with all of its arguments, so the data of a grid search come with every
task. Here an array that is met a second time in one call is copied into shared memory, and from
then on only its name travels. Each task maps it copy-on-write: an array of its own, writable,
that costs nothing until it is written to. (joblib draws several tasks before it sends one, so an
array that is changed while a call draws its tasks is not safe with any of its backends.)
"""

from __future__ import annotations

import copy
import io
import mmap
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TransportError
from ..transport import anonymous
from ..transport.arrays import PLAIN, ArrayPickler
from ..transport.byvalue import Needs
from ..transport.refusals import refusal
from ..transport.shared import Shared, home

__all__ = ["Once", "Packed", "UnpicklableTask"]

APART = 1 << 16  # bytes; larger buffers are not copied into the pickle
AT_ONCE = 64 << 20  # bytes; one that large is shared when it is first met: to copy it again is dear

Array = NDArray[Any]


class UnpicklableTask(TransportError):
    """A task cannot be sent to a worker: an error of both libraries."""


class Once:
    """The large arrays of one call.

    Parameters
    ----------
    least : int or None
        From which size in bytes on an array crosses once; None: never.
    folder : str or None
        Where shared memory lies that needs a file.
    """

    def __init__(self, least: int | None, folder: str | None = None) -> None:
        self._least = least
        self._folder = folder
        self._seen: dict[int, _Seen] = {}

    def concerns(self, array: Array) -> bool:
        """Whether `array` is one of those that cross once."""
        least = self._least
        if least is None or type(array) is not np.ndarray or array.nbytes < max(1, least):
            return False
        if not array.flags.forc or array.dtype.kind not in PLAIN or array.dtype.hasobject:
            return False
        return not isinstance(home(array), mmap.mmap)  # else it has a name already

    def find(self, array: Array) -> Shared | None:
        """Shared copy of the memory of a large `array`, if it was met before in this call."""
        key = id(array)
        seen = self._seen.get(key)
        if seen is None or seen.ref() is not array:
            seen = _Seen(weakref.ref(array, lambda _: self._seen.pop(key, None)))
            self._seen[key] = seen
            if array.nbytes < AT_ONCE:
                return None
        if seen.memory is None:
            seen.memory = _copied(array, self._folder)
        return seen.memory


class _Seen:
    """An array that was met, and its copy from the second time on."""

    __slots__ = ("memory", "ref")

    def __init__(self, ref: weakref.ref[Array]) -> None:
        self.ref = ref
        self.memory: Shared | None = None


def _copied(array: Array, folder: str | None) -> Shared | None:
    """Copy of the memory of an array; None if there is no room."""
    try:
        memory = Shared.create(array.nbytes, folder, reserve=False)
        data = array.reshape(-1, order="A").view(np.uint8).data
        if anonymous.WRITES:
            anonymous.write(memory.fd, data, 0)
        else:
            memory[: len(data)] = data
    except (MemoryError, OSError):
        return None
    return memory


class Packed:
    """Stands in a pickle for a batch of tasks, which it is when it is unpickled.

    A pickle holds an object once, however many tasks have it. So where there are large arrays the
    tasks of a batch are pickled one by one: each gets arrays of its own.
    """

    def __init__(self, task: Callable[[], Any], once: Once) -> None:
        items = getattr(task, "items", ())
        try:
            pieces, pickler = _pickled([task], once)
            if pickler.large and len(items) > 1:
                shell: Any = copy.copy(task)
                shell.items = []
                pieces, pickler = _pickled([shell, *items], once)
        except Exception as error:
            reason = refusal("the task", items or task, error)
            raise UnpicklableTask(
                f"Could not pickle the task to send to the workers: {reason}"
            ) from error
        pickler.finish()
        buffers = [pickle.PickleBuffer(view) for view in pickler.buffers]
        data = pickle.PickleBuffer(b"".join(pieces))
        self._state = data, buffers, pickler.shared, Needs(pickler.needs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, self._state


def _pickled(parts: list[Any], once: Once) -> tuple[list[bytes], _Pickler]:
    """Pickles of `parts`, one behind the other, that share no objects."""
    pieces: list[bytes] = []
    pickler = _Pickler(pieces, once)
    for part in parts:
        pickler.clear_memo()
        pickler.dump(part)
    return pieces, pickler


def _unpacked(
    data: Any,
    buffers: list[Any],
    shared: list[Shared],  # noqa: ARG001 - held
    needs: tuple[()],  # noqa: ARG001 - for who sends it
) -> Any:
    stream, rest = io.BytesIO(data), iter(buffers)
    task = pickle.load(stream, buffers=rest)
    while stream.tell() < len(stream.getbuffer()):
        task.items.append(pickle.load(stream, buffers=rest))
    return task


class _Pickler(ArrayPickler):
    def __init__(self, pieces: list[bytes], once: Once) -> None:
        super().__init__(_Sink(pieces), APART)
        self._once = once
        self.large = False  # whether there was a large array

    def reduce(self, obj: Any) -> Any:
        """Reduce large arrays that were met before to the name of their copy."""
        if isinstance(obj, np.ndarray) and self._once.concerns(obj):
            self.large = True
            memory = self._once.find(obj)
            if memory is not None:
                writeable = obj.flags.writeable
                return _mapped, (memory, obj.dtype, obj.shape, obj.strides, writeable)
        return super().reduce(obj)


class _Sink:
    def __init__(self, pieces: list[bytes]) -> None:
        self.write = pieces.append


def _mapped(
    memory: Shared,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    writeable: bool,
) -> Array:
    """Worker: an array on pages of its own from where it is written to."""
    own = anonymous.mapped(memory.fd, len(memory), private=True)
    array: Array = np.ndarray(shape, dtype, own, 0, strides)
    array.flags.writeable = writeable
    return array
