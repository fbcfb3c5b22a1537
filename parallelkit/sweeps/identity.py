"""What makes a sweep the same sweep: its function, version, frozen keywords and seed."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import StoreError
from . import values

if TYPE_CHECKING:
    from ..seeds import Seed

__all__ = ["check", "function_name", "identity", "key_of", "seed_of"]

DIGEST = 16  # bytes


def function_name(func: Callable[..., Any]) -> str:
    """Name by which a store knows a function; for a lambda also its code."""
    if isinstance(func, functools.partial):
        return f"{function_name(func.func)} (partial {_told((func.args, func.keywords))})"
    inner = getattr(func, "__wrapped__", func)
    code = getattr(inner, "__code__", None)
    if code is not None and "<lambda>" in code.co_name:
        told = repr((code.co_code, code.co_names, [c for c in code.co_consts if c != code]))
        digest = hashlib.blake2b(told.encode(), digest_size=4).hexdigest()
        return f"{values.function_name(func)} {digest}"
    if getattr(func, "__qualname__", None) is None:  # an object that can be called
        return values.function_name(type(func))
    return values.function_name(func)


def identity(
    name: str, version: object, frozen: Mapping[str, Any], seed: Seed | None
) -> dict[str, Any]:
    """Return what a store is compared by, as JSON has it."""
    return {
        "function": name,
        "version": None if version is None else _canonical("version", version),
        "frozen": {key: _told(value) for key, value in sorted(frozen.items())},
        "seed": None if seed is None else [str(seed.entropy), str(seed.path)],
    }


def check(path: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with the store of another sweep."""
    if stored["function"] != wanted["function"]:
        raise StoreError(
            f"{path!r} is the store of the function {stored['function']}, not of "
            f"{wanted['function']}: name another file. If it is the same function by a new name, "
            f"say so: Sweep(name={stored['function']!r}, ...)"
        )
    if stored["version"] != wanted["version"]:
        raise StoreError(
            f"{path!r} was made with version={stored['version'] or 'None'}, not "
            f"{wanted['version'] or 'None'}: name another file for the new version, or give the "
            "old one to go on with it"
        )
    if stored["frozen"] != wanted["frozen"]:
        names = stored["frozen"].keys() | wanted["frozen"].keys()
        changed = [n for n in sorted(names) if stored["frozen"].get(n) != wanted["frozen"].get(n)]
        raise StoreError(
            f"{path!r} was made with other frozen keywords: {', '.join(changed)} changed. Give "
            "what it was made with to go on; for the new values name another file, or make them "
            "parameters of the grid"
        )
    if stored["seed"] != wanted["seed"]:
        raise StoreError(
            f"{path!r} was made with another seed={_seed(stored['seed'])}: give that one to go on, "
            "or name another file"
        )


def _seed(stored: list[str] | None) -> str:
    return "None" if stored is None else stored[0]


def key_of(params: str, repeat: int) -> bytes:
    """Key of a point, from its canonical parameters."""
    return hashlib.blake2b(f"{repeat} {params}".encode(), digest_size=DIGEST).digest()


def seed_of(root: Seed, key: bytes) -> int:
    """Seed of a point: ``numpy.random.default_rng(seed)`` is what its function gets as `rng`."""
    words = (int.from_bytes(key[i : i + 4], "little") for i in range(0, DIGEST, 4))
    state = root.child(*words).sequence().generate_state(2)
    return int(state[0]) << 31 | int(state[1]) >> 1  # fits a signed 64-bit integer


def _canonical(what: str, value: object) -> str:
    try:
        return values.canonical(value)
    except values.NotPlain as error:
        raise TypeError(f"{what}: {error}") from None


def _told(value: object) -> str:
    """Digest of a frozen value. What has no canonical form is compared by its type alone."""
    try:
        text = values.canonical(value)
    except values.NotPlain:
        return f"some {values.function_name(type(value))}"
    return hashlib.blake2b(text.encode(), digest_size=DIGEST).hexdigest()
