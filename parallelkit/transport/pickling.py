"""Objects to bytes and back, whatever they are made of.

The pickler is the C one, with buffers kept apart (protocol 5). Functions and classes that the
other side cannot import (of ``__main__``, of a notebook, nested ones) go by value, by
cloudpickle's reducers; three things are done on top of those:

- A class that came from the other side goes back as a token, so that it is *the same class*
  there, and what a worker did to its copy of the class does not overwrite the original.
- ``functools.lru_cache`` functions of ``__main__`` are taken apart and made again.
- What else names itself as a global of ``__main__`` goes by dill.

A failure is explained: which attribute or element of the object cannot travel.
"""

from __future__ import annotations

import functools
import pickle
import secrets
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, NamedTuple, cast

import cloudpickle

from ..errors import TransportError
from ..levels import in_worker_process

__all__ = ["Pickled", "dumps", "loads", "refusal"]

Buffer = Any  # bytes, memoryview or pickle.PickleBuffer


class Pickled(NamedTuple):
    """A pickle in pieces, and the large buffers that lie beside it."""

    pieces: list[bytes]
    buffers: list[memoryview]

    @property
    def nbytes(self) -> int:
        """Bytes of the pickle and its buffers together."""
        return sum(map(len, self.pieces)) + sum(view.nbytes for view in self.buffers)


def dumps(obj: object, max_nbytes: int = 1 << 16) -> Pickled:
    """Pickle `obj`; contiguous buffers of at least `max_nbytes` bytes stay apart.

    Raises whatever the pickling raises, see :func:`refusal`.
    """
    pieces: list[bytes] = []
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        """Whether the buffer goes into the pickle itself."""
        view = buffer.raw()
        if view.nbytes < max_nbytes:
            return True
        buffers.append(view)
        return False

    _Pickler(_Sink(pieces.append), keep).dump(obj)
    return Pickled(pieces, buffers)


def loads(data: Any, buffers: Sequence[Any] = ()) -> Any:
    """Make the object again."""
    return pickle.loads(data, buffers=buffers)


def refusal(what: str, obj: object, error: BaseException) -> TransportError:
    """Error for `obj` that cannot be pickled, naming the path to the part that cannot."""
    path, culprit = _culprit(obj, what)
    reason = f"{type(error).__name__}: {error}"
    where = "" if culprit is obj else f" because of {path} (a {type(culprit).__name__})"
    return TransportError(
        f"{what} cannot be sent between processes{where}: {reason}. "
        "Make it inside the function, leave it out in __getstate__, or use backend='thread'"
    )


class _Sink:
    """File for the pickler. Large bytes objects arrive uncopied."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.write = write


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: _Sink, keep: Callable[[pickle.PickleBuffer], bool]) -> None:
        super().__init__(file, protocol=5, buffer_callback=keep)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type):
            token = _adopted.get(obj)
            if token is not None:
                return _own_class, (token,)
            reduced = super().reducer_override(obj)
            if isinstance(reduced, tuple) and reduced[0] in _CLASS_MAKERS:
                return (_adopt, (_token(obj), reduced[0], reduced[1]), *reduced[2:])
            return reduced
        if isinstance(obj, FunctionType):
            return _with_namespace(obj, super().reducer_override(obj))
        if isinstance(obj, functools._lru_cache_wrapper) and not _importable(obj):
            return _cached, (obj.__wrapped__, obj.cache_parameters())
        if type(obj) in self.dispatch_table:
            return NotImplemented
        return _by_dill(obj)


# --- classes that go by value ----------------------------------------------------------------

_CLASS_MAKERS = (
    cloudpickle.cloudpickle._make_skeleton_class,
    cloudpickle.cloudpickle._make_skeleton_enum,
)
_tokens: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()
_sent: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()
_adopted: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()


def _token(cls: type) -> str:
    token = _tokens.get(cls)
    if token is None:
        token = _tokens[cls] = secrets.token_hex(8)
        _sent[token] = cls
    return token


def _adopt(token: str, make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """Worker: make a class of the parent, or find the one made before."""
    cls = make(*args)
    if in_worker_process():
        _adopted[cls] = token
        _sent[token] = cls
    return cls


def _own_class(token: str) -> type:
    """Parent: the class that was sent under `token`. (In the worker: its copy, in a round trip.)"""
    return _sent[token]


# --- functions that go by value ---------------------------------------------------------------

_make_function = cloudpickle.cloudpickle._make_function
_set_function = cloudpickle.cloudpickle._function_setstate
_namespaces: dict[object, _Namespace] = {}


class _Namespace(dict[str, Any]):
    """In a worker: the globals of one module of the parent, as far as functions brought them."""

    received: dict[str, Any]


def _with_namespace(func: FunctionType, reduced: Any) -> Any:
    """Let all functions of one module share their globals in a worker, whatever brings them.

    cloudpickle gives each pickle globals of its own; then what an initializer sets by a
    ``global`` statement would not be seen by the functions that come after it.
    """
    if not isinstance(reduced, tuple) or reduced[0] is not _make_function or in_worker_process():
        return reduced
    code, base, *rest = reduced[1]
    key = func.__module__, id(func.__globals__)
    return (_make_in_namespace, (key, base, code, *rest), *reduced[2:5], _set_in_namespace)


def _make_in_namespace(key: object, base: dict[str, Any], code: Any, *rest: Any) -> FunctionType:
    if not in_worker_process():  # a round trip in the parent, to test what survives
        return cast(FunctionType, _make_function(code, base, *rest))
    space = _namespaces.get(key)
    if space is None:
        space = _namespaces[key] = _Namespace(base)
        space.received = {}
    return cast(FunctionType, _make_function(code, space, *rest))


def _set_in_namespace(func: FunctionType, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Bring the globals up to date: what the parent changed is changed here too.

    What the worker itself has bound anew (an initializer's connection, where the parent has None)
    stays, until the parent binds it to something else.
    """
    attributes, slots = state
    space = func.__globals__
    if isinstance(space, _Namespace):
        brought = slots["__globals__"]
        kept = {
            name: space[name]
            for name, value in space.received.items()
            if name in brought
            and space[name] is not value
            and type(brought[name]) is type(value)
            and brought[name] == value
        }
        space.received.update({n: v for n, v in brought.items() if isinstance(v, _ATOMS)})
        slots = {**slots, "__globals__": {**brought, **kept}}
    _set_function(func, (attributes, slots))


_ATOMS = (type(None), bool, int, float, str, bytes)  # cheap to keep and to compare


# --- what names itself as a global ------------------------------------------------------------


def _importable(obj: Any) -> bool:
    """Whether the other side finds `obj` by its name."""
    module = getattr(obj, "__module__", None)
    return module not in (None, "__main__") and "<locals>" not in getattr(obj, "__qualname__", "")


def _cached(func: Callable[..., Any], parameters: Mapping[str, Any]) -> Callable[..., Any]:
    return functools.lru_cache(**parameters)(func)


def _by_dill(obj: Any) -> Any:
    """Reduce by dill what would travel as a bare name of ``__main__``; leave all else alone."""
    if getattr(obj, "__module__", None) != "__main__":
        return NotImplemented
    reduce = type(obj).__reduce_ex__
    if reduce is object.__reduce_ex__ and type(obj).__reduce__ is object.__reduce__:
        return NotImplemented
    if not isinstance(obj.__reduce_ex__(5), str):
        return NotImplemented
    import dill

    return _undill, (dill.dumps(obj, recurse=True),)


def _undill(data: bytes) -> Any:
    import dill

    return dill.loads(data)


# --- explaining a failure ---------------------------------------------------------------------


def _culprit(obj: object, path: str, depth: int = 0) -> tuple[str, object]:
    """Follow the parts of `obj` that cannot be pickled down to the smallest."""
    if depth < 8:
        for name, part in _parts(obj):
            try:
                dumps(part)
            except BaseException:  # noqa: BLE001 - a user's __reduce__ may raise anything
                return _culprit(part, path + name, depth + 1)
    return path, obj


def _parts(obj: object) -> list[tuple[str, object]]:
    """Parts of `obj` with how they are written behind it."""
    if isinstance(obj, dict):
        return [(f"[{key!r}]", value) for key, value in obj.items()]
    if isinstance(obj, (list, tuple, set, frozenset)):
        return [(f"[{i}]", value) for i, value in enumerate(obj)]
    if isinstance(obj, functools.partial):
        return [(".func", obj.func), (".args", obj.args), (".keywords", obj.keywords)]
    parts = [(f".{name}", value) for name, value in getattr(obj, "__dict__", {}).items()]
    for slot in getattr(type(obj), "__slots__", ()):
        if isinstance(slot, str) and hasattr(obj, slot):
            parts.append((f".{slot}", getattr(obj, slot)))
    closure = getattr(obj, "__closure__", None)
    if closure:
        names = obj.__code__.co_freevars  # type: ignore[attr-defined]
        parts += [
            (f" (its variable {name!r})", cell.cell_contents)
            for name, cell in zip(names, closure, strict=True)
        ]
    bound = getattr(obj, "__self__", None)
    if bound is not None and not isinstance(bound, type) and callable(obj):
        parts.append((".__self__", bound))
    code = getattr(obj, "__code__", None)
    if code is not None:
        space = getattr(obj, "__globals__", {})
        parts += [
            (f" (its global {name!r})", space[name]) for name in code.co_names if name in space
        ]
    return parts
