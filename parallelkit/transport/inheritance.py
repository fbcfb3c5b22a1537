"""What `multiprocessing` shares between processes: how it reaches workers.

::

    named      semaphores of the spawn and forkserver contexts  by name, as in multiprocessing
    opened     pipes, and the memory of values and arrays;      descriptors beside the message
               on Windows semaphores and pipes
    inherited  semaphores of the fork context, without a name   by a token: who was forked after it
                                                                was given has it in memory

Locks, events, queues and values are made of these. `multiprocessing` lets them be pickled only
while it starts a process, and asks what it starts for the descriptors; it is told here that one is
being started. (pathos has a second `multiprocessing`, called `multiprocess`.)
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import INHERITED, StaysHere, TransportError
from ..place import system
from ..place.nesting import in_worker_process
from . import anonymous

__all__ = [
    "Descriptor",
    "Handed",
    "Unforked",
    "count",
    "found",
    "inherit",
    "is_there",
    "is_unnamed",
    "made_by",
    "reduction",
    "sequence",
    "token_of",
]

_MODULES = frozenset({"synchronize", "queues", "heap", "connection", "sharedctypes"})
_PACKAGES = ("multiprocessing", "multiprocess")


class Unforked(StaysHere):
    """Workers lack a semaphore that only a fork gives them.

    Attributes
    ----------
    inherits : int
        How many of those given workers must have.
    """

    def __init__(self, inherits: int) -> None:
        super().__init__(INHERITED)
        self.inherits = inherits


def made_by(kind: type) -> str | None:
    """Package that has made things of this type; None if they are not of this sort."""
    for base in kind.__mro__:
        package, _, module = str(base.__module__).partition(".")
        if package in _PACKAGES and module in _MODULES:
            return package
    return None


def is_there() -> bool:
    """Whether there may be something of the sort in this process."""
    return any(f"{package}.{module}" in sys.modules for package in _PACKAGES for module in _MODULES)


def reduction(obj: Any, package: str) -> Any:
    """How `multiprocessing` takes something apart for a process that it starts."""
    if system.WINDOWS:
        return _reduction_of_handles(obj, package)
    extra = sys.modules[f"{package}.reduction"].ForkingPickler._extra_reducers  # noqa: SLF001
    kind = type(obj)
    with _starting(package):
        if kind.__name__ == "Arena":
            return _arena, (package, obj.size, Handed(obj.fd))
        if type(kind).__module__ == "_ctypes":
            return sys.modules[f"{package}.sharedctypes"].reduce_ctype(obj)
        return extra[kind](obj) if kind in extra else obj.__reduce_ex__(5)


def _reduction_of_handles(obj: Any, package: str) -> Any:
    """The same on Windows, where `multiprocessing` duplicates a handle for one process alone."""
    name = type(obj).__name__
    lock = getattr(obj, "_semlock", None)
    if lock is not None:
        return _semaphore, (type(obj), Handed(lock.handle), lock.kind, lock.maxvalue, lock.name)
    if name == "PipeConnection":
        rebuild = sys.modules[f"{package}.connection"].rebuild_pipe_connection
        return rebuild, (Handed(obj.fileno()), obj.readable, obj.writable)
    with _starting(package):
        if type(type(obj)).__module__ == "_ctypes":
            return sys.modules[f"{package}.sharedctypes"].reduce_ctype(obj)
        return obj.__reduce_ex__(5)


def _semaphore(kind: Any, handle: Descriptor, *rest: Any) -> Any:
    made = kind.__new__(kind)
    made.__setstate__((handle.detach(), *rest))
    return made


@contextmanager
def _starting(package: str) -> Iterator[None]:
    context = sys.modules[f"{package}.context"]
    before = context.get_spawning_popen()
    context.set_spawning_popen(_Started())
    try:
        yield
    finally:
        context.set_spawning_popen(before)


class _Started:
    """Stands for the process that is being started."""

    def duplicate_for_child(self, fd: int) -> int:
        """Return the descriptor as it is: it is duplicated when it is sent."""
        return fd

    def DupFd(self, fd: int) -> Handed:  # noqa: N802 - the protocol's
        """Return what stands for the descriptor in a pickle."""
        return Handed(fd)


# --- opened --------------------------------------------------------------------------------------


class Handed:
    """A descriptor of this process that is to be sent; see `Descriptor.of`."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd


class Descriptor:
    """A descriptor on its way: goes beside the message, as that of shared memory does."""

    __slots__ = ("__weakref__", "fd", "token")

    def __init__(self, fd: int, token: str) -> None:
        self.fd = fd
        self.token = token
        _descriptors[token] = self

    @classmethod
    def of(cls, fd: int) -> Descriptor:
        """One that stays open whatever becomes of `fd`."""
        return cls(anonymous.duplicate(fd), os.urandom(8).hex())

    def __len__(self) -> int:
        return 0  # by which it is told from memory

    def __del__(self, close: Any = anonymous.close, finalizing: Any = sys.is_finalizing) -> None:
        if self.fd >= 0 and not finalizing():
            close(self.fd)

    def detach(self) -> int:
        """Return a descriptor that belongs to whoever asks."""
        if self.fd < 0:
            raise TransportError("a descriptor was lost on its way: too many files are open here")
        return anonymous.duplicate(self.fd)


_descriptors: weakref.WeakValueDictionary[str, Descriptor] = weakref.WeakValueDictionary()


def found(token: str) -> Descriptor:
    """Descriptor that has come beside the message that is being read."""
    descriptor = _descriptors.get(token)
    if descriptor is None:
        raise TransportError("this pickle refers to a descriptor that is gone")
    return descriptor


def _arena(package: str, size: int, descriptor: Descriptor) -> Any:
    """Memory of values and arrays; mapped once, and closed when nothing uses it any more."""
    import importlib

    fd = descriptor.detach()
    status = os.fstat(fd)
    key = package, status.st_dev, status.st_ino
    arena = _arenas.get(key)
    if arena is not None:
        os.close(fd)
        return arena
    arena = importlib.import_module(f"{package}.heap").Arena(size, fd)
    weakref.finalize(arena, os.close, fd).atexit = False
    _arenas[key] = arena
    return arena


_arenas: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()


# --- inherited -----------------------------------------------------------------------------------

_tokens: weakref.WeakKeyDictionary[Any, tuple[str, int]] = weakref.WeakKeyDictionary()
_given: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_inherited: dict[str, Any] = {}  # in a forked process: kept, as who forked it counts on them
_fresh: set[str] = set()  # of these, those that nobody has asked for yet
_count = 0


def is_unnamed(obj: Any, package: str) -> bool:
    """Whether something is a semaphore that no process could find by a name."""
    module = sys.modules.get(f"{package}.synchronize")
    if module is None or not isinstance(obj, module.SemLock) or system.WINDOWS:
        return False
    unnamed = getattr(obj, "_is_fork_ctx", None)
    if unnamed is None:  # before 3.11.5
        name = obj._semlock.name  # noqa: SLF001
        unnamed = name is None or not os.path.exists(f"/dev/shm/sem.{name.lstrip('/')}")  # noqa: S108
    return bool(unnamed)


def token_of(lock: Any) -> str:
    """By what workers that are forked from now on know a semaphore."""
    global _count
    known = _tokens.get(lock)
    if known is None:
        _count += 1
        known = _tokens[lock] = f"{os.getpid()}.{os.urandom(8).hex()}", _count
        _given[known[0]] = lock
    return known[0]


def sequence(lock: Any) -> int:
    """How many had been given when this one was, itself included."""
    return _tokens[lock][1]


def count() -> int:
    """How many have been given, which workers that are forked now will have."""
    return _count


def inherit(token: str) -> Any:
    """Semaphore of a token, in a process that has it."""
    lock = _given.get(token)
    if lock is None:
        raise StaysHere(INHERITED)
    if token in _fresh:
        _fresh.discard(token)
        if in_worker_process():  # whoever holds it, holds it in another process
            lock._semlock._after_fork()  # noqa: SLF001
    return lock


def _after_fork() -> None:
    _inherited.update(_given)
    _fresh.update(_inherited)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
