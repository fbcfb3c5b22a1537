"""Memory that several processes can map: what each family of systems does its own way.

Memory has a descriptor, a number: a file's on POSIX, a handle on Windows. It travels beside a
message, and counts as a user of the memory on its way too. So nobody keeps account of who uses
what: the system frees memory with its last map and its last descriptor, however a process ends.

======================  ===========================================================================
``create``              new memory of zeros, as a descriptor; the name is for who looks
``reserve``             have all of its pages, or an OSError
``mapped``              map it, with an instance of a class of `mmap.mmap`
``write``               copy into memory whose pages are fresh, where that is best done without a
                        map (``WRITES``)
``close``               let go of a descriptor
``duplicate``           another descriptor of the same
``identity``            what tells whether a descriptor is still what it was
``available``           bytes that can be had
======================  ===========================================================================
"""

from __future__ import annotations

import importlib
import mmap
from collections.abc import Callable
from typing import Any, TypeVar

from ..place import system

__all__ = [
    "WRITES",
    "available",
    "close",
    "create",
    "duplicate",
    "identity",
    "map_as",
    "mapped",
    "reserve",
    "write",
]

Map = TypeVar("Map", bound=mmap.mmap)

_family: Any = importlib.import_module(
    ".anonymous_windows" if system.WINDOWS else ".anonymous_posix", __package__
)

WRITES: bool = _family.WRITES
available: Callable[[], int] = _family.available
close: Callable[[int], None] = _family.close
create: Callable[[int, str | None, str], int] = _family.create
duplicate: Callable[[int], int] = _family.duplicate
identity: Callable[[int], object] = _family.identity
reserve: Callable[[int, int], None] = _family.reserve
write: Callable[[int, Any, int], None] = _family.write


def mapped(fd: int, size: int, *, private: bool = False, populate: bool = False) -> mmap.mmap:
    """Map memory; what is written to a private map stays there."""
    return map_as(mmap.mmap, fd, size, private=private, populate=populate)


def map_as(
    kind: type[Map], fd: int, size: int, *, private: bool = False, populate: bool = False
) -> Map:
    """The same, as an instance of `kind`."""
    memory: Map = _family.mapped(kind, fd, size, private, populate)
    return memory
