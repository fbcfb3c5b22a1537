"""What makes a sweep the same sweep: its function, version, frozen keywords and seed."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import StoreError
from . import canonical
from .values import NotPlain

if TYPE_CHECKING:
    from ..values.seeds import Seed

__all__ = ["check", "function_name", "identity", "key_of", "seed_of"]

DIGEST = 16  # bytes


def function_name(func: Callable[..., Any]) -> str:
    """Name by which a store knows a function; for a lambda also its code."""
    if isinstance(func, functools.partial):
        return f"{function_name(func.func)} (partial {_told((func.args, func.keywords))})"
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
    func: Callable[..., Any],
    name: str,
    version: object,
    frozen: Mapping[str, Any],
    seed: Seed | None,
) -> dict[str, Any]:
    """Return what a store is compared by, as JSON has it."""
    return {
        "function": name,
        "parts": {part: _told(value) for part, value in _parts(func).items()},
        "version": None if version is None else _canonical("version", version),
        "frozen": {key: _told(value) for key, value in sorted(frozen.items())},
        "seed": None if seed is None else [str(seed.entropy), str(seed.path)],
    }


def _parts(func: Any) -> dict[str, Any]:
    """What a function computes with, beside its arguments: defaults, closure, its object."""
    if isinstance(func, functools.partial):  # its arguments are in its name
        return _parts(func.func)
    if isinstance(func, (types.BuiltinFunctionType, type)):
        owner = getattr(func, "__self__", None)
        return {} if owner is None or isinstance(owner, types.ModuleType) else {"self": owner}
    found = {}
    if isinstance(func, types.MethodType):
        found["self"] = func.__self__
        func = func.__func__
    if not isinstance(func, types.FunctionType):  # an object that can be called
        return {"self": func}
    code = func.__code__
    for variable, cell in zip(code.co_freevars, func.__closure__ or (), strict=True):
        found[variable] = canonical.content(cell)
    defaults = func.__defaults__ or ()
    positional = code.co_varnames[: code.co_argcount]
    found |= dict(zip(positional[len(positional) - len(defaults) :], defaults, strict=True))
    return found | (func.__kwdefaults__ or {})


def check(path: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with the store of another sweep."""
    if stored["function"] != wanted["function"]:
        raise StoreError(
            f"{path!r} is the store of the function {stored['function']}, not of "
            f"{wanted['function']}: name another file. If it is the same function by a new name, "
            f"say so: Sweep(name={stored['function']!r}, ...)"
        )
    # A part that only one of them has is a change of the code, and frozen ones replace defaults.
    both = stored["parts"].keys() & wanted["parts"].keys()
    both -= stored["frozen"].keys() | wanted["frozen"].keys()
    _same(
        path,
        {name: stored["parts"][name] for name in both},
        {name: wanted["parts"][name] for name in both},
        "other values in the function itself (its defaults, its closure, its object)",
        "give the function another version=",
    )
    if stored["version"] != wanted["version"]:
        raise StoreError(
            f"{path!r} was made with version={stored['version'] or 'None'}, not "
            f"{wanted['version'] or 'None'}: name another file for the new version, or give the "
            "old one to go on with it"
        )
    _same(
        path,
        stored["frozen"],
        wanted["frozen"],
        "other frozen keywords",
        "make them parameters of the grid",
    )
    if stored["seed"] != wanted["seed"]:
        raise StoreError(
            f"{path!r} was made with another seed={_seed(stored['seed'])}: give that one to go on, "
            "or name another file"
        )


def _same(
    path: str, stored: Mapping[str, str], wanted: Mapping[str, str], what: str, instead: str
) -> None:
    names = stored.keys() | wanted.keys()
    changed = [n for n in sorted(names) if stored.get(n) != wanted.get(n)]
    if changed:
        raise StoreError(
            f"{path!r} was made with {what}: {', '.join(changed)} changed. Give what it was made "
            f"with to go on; for the new values name another file, or {instead}"
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
        return canonical.canonical(value)
    except NotPlain as error:
        raise TypeError(f"{what}: {error}") from None


def _told(value: object) -> str:
    """Digest of a value, by its state. What has none is compared by its type alone."""
    try:
        text = canonical.stated(value)
    except NotPlain:
        return f"some {canonical.function_name(type(value))}"
    return hashlib.blake2b(text.encode(), digest_size=DIGEST).hexdigest()
