"""What items without a seed draw from `random`, `numpy.random` and torch in a worker process.

Each is one for the whole process. Draws of different workers differ, and a seed that an item sets
for itself does not reach the next call: there the generators begin anew, where they have been
touched at all. Those that the initializer has seeded are its own, and go on.
"""

# ruff: noqa: SLF001 - the generators of the modules' functions have no public names

from __future__ import annotations

import ctypes
import itertools
import os
import random
import sys
from collections.abc import Callable
from typing import Any

from ..place.importing import whole
from ..values.seeds import torch_here

__all__ = ["keep_own", "renew", "renew_torch", "settle"]

_WORDS = 624  # of the state of a Mersenne twister, which is followed by its position


class _Watched(random.Random):
    """The generator of `random`'s functions, which tells when it was seeded.

    Seeding, and setting the state, set this attribute. (To compare states takes longer than to
    seed anew.)
    """

    @property
    def gauss_next(self) -> float | None:
        """A value that `random.gauss` has in store."""
        return self.__dict__.get("in_store")

    @gauss_next.setter
    def gauss_next(self, value: float | None) -> None:
        self.__dict__["in_store"] = value
        self.__dict__["touched"] = True


_seeds = itertools.count()
_python = _numpy = True  # whether they are to begin anew with each call
_glance: Callable[[], tuple[int, int]] | None = None  # at the state of numpy's generator
_expected = 0, 0
_torch = True
_TORCH_BEGINS_WITH = 67280421310721  # in each process, as long as nobody has seeded it
_torch_seed = _TORCH_BEGINS_WITH


def settle() -> None:
    """In a new worker: begin with random numbers of its own."""
    global _seeds, _python, _numpy, _glance, _torch, _torch_seed
    _seeds = itertools.count(int.from_bytes(os.urandom(7), "little"))
    _python = _numpy = _torch = True
    _glance = None
    # Where this is a copy of a process that had torch, somebody may have seeded that there.
    _torch_seed = -1 if "torch" in sys.modules else _TORCH_BEGINS_WITH
    generator: Any = random._inst
    if type(generator) is random.Random:
        generator.__class__ = _Watched
    generator.__dict__["touched"] = True
    renew()


def keep_own() -> None:
    """After the initializer: what it has seeded stays as it is."""
    global _python, _numpy, _torch
    _python = not _touched()
    _numpy = not _numpy_touched()
    torch = torch_here()
    _torch = torch is None or torch.initial_seed() == _torch_seed


def renew() -> None:
    """Begin anew, with the first items of a call, where that is needed."""
    if _python and _touched():
        random.seed(next(_seeds))
        random._inst.__dict__["touched"] = False
    if _numpy and "numpy.random" in sys.modules and _numpy_touched():
        _renew_numpy()
    renew_torch()


def renew_torch() -> None:
    """Begin anew with torch, which may be there since a function was loaded, where it is needed."""
    global _torch_seed
    torch = torch_here() if _torch else None
    if torch is None:
        return
    if torch.initial_seed() != _torch_seed or _torch_seed == _TORCH_BEGINS_WITH:
        _torch_seed = next(_seeds)
        torch.manual_seed(_torch_seed)


def _touched() -> bool:
    return bool(random._inst.__dict__.get("touched"))


def _numpy_touched() -> bool:
    """Whether numpy's generator has been seeded, or drawn from."""
    return "numpy.random" in sys.modules and (_glance is None or _glance() != _expected)


def _renew_numpy() -> None:
    global _glance, _expected
    numpy_random = whole("numpy.random")
    numpy_random.seed(next(_seeds) % (1 << 32))
    if _glance is None:
        bits = numpy_random.mtrand._rand._bit_generator
        if type(bits).__name__ != "MT19937":
            return
        address = bits.ctypes.state_address
        first = ctypes.c_uint32.from_address(address)
        position = ctypes.c_int.from_address(address + 4 * _WORDS)

        def glance(alive: Any = bits) -> tuple[int, int]:  # noqa: ARG001 - it is the memory's owner
            return first.value, position.value

        _glance = glance
    _expected = _glance()
