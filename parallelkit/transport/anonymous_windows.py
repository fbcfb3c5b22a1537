"""Memory by handles of sections, and of files that go with their last handle; see `anonymous`.

Python maps a section by its name only. So each has one that nobody can guess, and the handle that
travels beside a message keeps the name alive until the receiver has mapped it. Nothing is in the
file system, and the system has promised all pages when it makes a section.

With a folder it is a file there, which the system removes with the last handle.
"""

from __future__ import annotations

import importlib
import mmap
import os
import secrets
from typing import Any, Self

from ..place import system, windows

# What is there on Windows only; types are checked on other systems too.
_winapi: Any = importlib.import_module("_winapi") if system.WINDOWS else None
_msvcrt: Any = importlib.import_module("msvcrt") if system.WINDOWS else None

__all__ = [
    "WRITES",
    "Descriptor",
    "available",
    "close",
    "create",
    "duplicate",
    "given",
    "identity",
    "mapped",
    "reserve",
    "write",
]

WRITES = False
_NOWHERE = -1  # in place of a file: the system's own
_READ_AND_WRITE = 4


class Descriptor(int):
    """A handle, with the name of its section; with none it is that of a file."""

    name: str | None

    def __new__(cls, handle: int, name: str | None) -> Self:
        """Take a handle over."""
        self = super().__new__(cls, handle)
        self.name = name
        return self


def create(size: int, folder: str | None, name: str) -> int:
    """Make memory: a section, or with a folder a file."""
    if folder is not None:
        return _file(size, os.path.join(folder, f"{name}-{secrets.token_hex(16)}"))
    unique = f"Local\\{name}-{secrets.token_hex(16)}"
    high, low = divmod(size, 1 << 32)
    made: int = _winapi.CreateFileMapping(_NOWHERE, 0, _READ_AND_WRITE, high, low, unique)
    return Descriptor(made, unique)


def _file(size: int, path: str) -> Descriptor:
    how = os.O_RDWR | os.O_CREAT | os.O_EXCL
    how |= getattr(os, "O_TEMPORARY", 0) | getattr(os, "O_BINARY", 0)
    fd = os.open(path, how, 0o600)
    try:
        os.ftruncate(fd, size)
        return Descriptor(_copy(_msvcrt.get_osfhandle(fd)), None)
    finally:
        os.close(fd)


def _copy(handle: int) -> int:
    return given(handle, _winapi.GetCurrentProcess())


def given(handle: int, process: int) -> int:
    """Give a process, by its handle, one of what a handle is of; return its number there."""
    here, same = _winapi.GetCurrentProcess(), _winapi.DUPLICATE_SAME_ACCESS
    return int(_winapi.DuplicateHandle(here, int(handle), process, 0, False, same))


def mapped(
    kind: type[mmap.mmap],
    fd: int,
    size: int,
    private: bool,
    populate: bool,  # noqa: ARG001 - pages come one by one
) -> mmap.mmap:
    """Map it."""
    assert isinstance(fd, Descriptor)
    how: dict[str, Any] = {"access": mmap.ACCESS_COPY if private else mmap.ACCESS_WRITE}
    if fd.name is not None:
        how["tagname"] = fd.name
        return mmap.mmap.__new__(kind, _NOWHERE, size, **how)
    file = _msvcrt.open_osfhandle(_copy(fd), os.O_RDWR)
    try:
        return mmap.mmap.__new__(kind, file, size, **how)
    finally:
        os.close(file)


def reserve(fd: int, size: int) -> None:
    """Nothing is left to be done."""


def write(fd: int, data: Any, at: int) -> None:
    """Sections have no other way than a map."""
    raise NotImplementedError


def close(fd: int) -> None:
    """Let go of a handle."""
    _winapi.CloseHandle(int(fd))


def duplicate(fd: int) -> int:
    """Return a handle of its own, of whatever it is."""
    return Descriptor(_copy(fd), getattr(fd, "name", None))


def identity(fd: int) -> object:  # noqa: ARG001 - the face
    """Nothing tells it, and nobody closes handles that he has not got."""
    return None


def available() -> int:
    """Bytes that the system can still promise."""
    return windows.memory().promised
