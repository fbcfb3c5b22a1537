"""What makes a sweep the same sweep: its function, version, frozen keywords and seed.

What the function computes with beside these is told by code.py.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import StoreError
from . import canonical
from .database import clean
from .values import NotPlain

if TYPE_CHECKING:
    from ..values.seeds import Seed

__all__ = [
    "check",
    "function_name",
    "identity",
    "key_of",
    "known_digests",
    "other_values",
    "seed_of",
    "value_digest",
]

DIGEST = 16  # bytes
QUICK = (int, float, str, bool, type(None))


def function_name(func: Callable[..., Any]) -> str:
    """Name by which a store knows a function; for a lambda also its code."""
    if isinstance(func, functools.partial):
        return f"{function_name(func.func)} (partial {value_digest((func.args, func.keywords))})"
    inner = getattr(func, "__wrapped__", func)
    code = getattr(inner, "__code__", None)
    if code is not None and "<lambda>" in code.co_name:
        told = repr(canonical.code(code))
        digest = hashlib.blake2b(told.encode(), digest_size=4).hexdigest()
        return f"{canonical.function_name(func)} {digest}"
    if getattr(func, "__qualname__", None) is None:  # an object that can be called
        return canonical.function_name(type(func))
    return canonical.function_name(func)


def identity(
    name: str,
    version: object,
    frozen: Mapping[str, Any],
    seed: Seed | None,
) -> dict[str, Any]:
    """Return what a store is compared by, as JSON has it."""
    return {
        "function": name,
        "version": None if version is None else _canonical("version", version),
        "frozen": {key: value_digest(value) for key, value in sorted(frozen.items())},
        "seed": None if seed is None else [str(seed.entropy), str(seed.path)],
    }


def check(path: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with rows of the same function and version that are another sweep's."""
    old, new = stored["frozen"], wanted["frozen"]
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if changed:
        raise StoreError(
            f"{path!r} was made with other frozen keywords: {', '.join(map(clean, changed))} "
            "changed. Give what it was made with to go on; for the new values name another file, "
            "make them parameters of the grid, or give the function another name= or version="
        )
    if stored["seed"] != wanted["seed"]:
        raise StoreError(
            f"{path!r} was made with another seed={_seed(stored['seed'])}: give that one to go on, "
            "or name another file, or another name="
        )


def known_digests(frozen: Mapping[str, Any]) -> dict[str, str | None]:
    """Digests of the values that take no time; None for the others."""
    return {
        name: value_digest(value) if type(value) in QUICK else None
        for name, value in sorted(frozen.items())
    }


def other_values(known: Mapping[str, str | None], frozen: Mapping[str, Any]) -> list[str]:
    """Names of the frozen keywords that are not what they were, as far as that is known."""
    return [
        name
        for name in sorted(known.keys() | frozen.keys())
        if name not in known
        or name not in frozen
        or (known[name] is not None and known[name] != value_digest(frozen[name]))
    ]


def _seed(stored: list[str] | None) -> str:
    return "None" if stored is None else clean(str(stored[0]))


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
        return canonical.canonical(value)
    except NotPlain as error:
        raise TypeError(f"{what}: {error}") from None


def value_digest(value: object) -> str:
    """Digest of a value, by its state. What has none is compared by its type alone."""
    try:
        text = canonical.stated(value)
    except NotPlain:
        return f"some {canonical.function_name(type(value))}"
    return hashlib.blake2b(text.encode(), digest_size=DIGEST).hexdigest()
