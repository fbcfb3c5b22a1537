"""How functions, classes and exceptions cross that the other side cannot import.

They go by value, by cloudpickle's reducers. What is done on top of those:

- A class that came from the parent goes back as a token, so that it is *the same class* there,
  and what a worker did to its copy of the class does not overwrite the original.
- Functions of one module share their globals in a worker, whatever message brought them.
- ``functools.lru_cache`` functions are taken apart and made again.
- Exceptions with a constructor of their own are made again without it, see `exceptions`.
- What ``numpy.frompyfunc`` made goes with its Python function.
- What else names itself as a global of ``__main__`` goes by dill.
"""

from __future__ import annotations

import copyreg
import functools
import gc
import importlib
import os
import pickle
import sys
import weakref
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import FunctionType
from typing import Any, cast

import cloudpickle
from cloudpickle import cloudpickle as _cp

from ..place.nesting import in_worker_process
from . import exceptions

__all__ = ["ByValuePickler"]


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """The C pickler, with reducers for what goes by value."""

    def __init__(
        self, file: Any, buffer_callback: Callable[[pickle.PickleBuffer], bool] | None = None
    ) -> None:
        # One dict: looked into for each object, and cloudpickle's chain of these two is slow.
        self.dispatch_table = {**copyreg.dispatch_table, **_cp.Pickler._dispatch_table}
        self._plain: set[type] = set()  # types whose instances are all left to pickle
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)

    def reducer_override(self, obj: Any) -> Any:
        """Reduce `obj`, or leave it to pickle (NotImplemented); called for most objects."""
        return NotImplemented if type(obj) in self._plain else self.reduce(obj)

    def reduce(self, obj: Any) -> Any:
        """Reduce `obj`, whose type is not known to be plain."""
        kind = type(obj)
        if isinstance(obj, type):
            _by_value_if_made_by_hand(obj.__module__)
            token = _adopted.get(obj)
            if token is not None:
                return _own_class, (token,)
            if obj.__module__ not in sys.modules and _imported(obj):
                return NotImplemented
            return _class(obj, super().reducer_override(obj))
        if isinstance(obj, FunctionType):
            _by_value_if_made_by_hand(obj.__module__)
            return _function(obj, super().reducer_override(obj))
        if isinstance(obj, BaseException):
            return exceptions.reduced(obj)
        if kind in _MADE_AGAIN:
            return _MADE_AGAIN[kind](obj)
        if kind.__name__ == "ufunc" and kind.__module__ == "numpy":
            return _ufunc(obj)
        if kind in self.dispatch_table or _never_by_dill(kind):
            self._plain.add(kind)
            return NotImplemented
        return _by_dill(obj)


# --- classes ----------------------------------------------------------------------------------

_CLASS_MAKERS = (_cp._make_skeleton_class, _cp._make_skeleton_enum)
_tokens: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()
_sent: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()
_adopted: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()


def _class(cls: type, reduced: Any) -> Any:
    """Add to cloudpickle's reduction of a class that goes by value: a token, and its slots."""
    if not isinstance(reduced, tuple) or reduced[0] not in _CLASS_MAKERS:
        return reduced
    make, args, state, *rest = reduced
    slots = cls.__dict__.get("__slots__")
    named_tuple = issubclass(cls, tuple) and hasattr(cls, "_fields")
    if slots is not None and make is _cp._make_skeleton_class and not named_tuple:
        # cloudpickle sets __slots__ on the finished class, where it has no effect any more.
        kind, name, bases, namespace, *tail = args
        args = (kind, name, bases, {**namespace, "__slots__": slots}, *tail)
        attributes = {k: v for k, v in state[0].items() if k not in ("__slots__", "__slotnames__")}
        state = (attributes, *state[1:])
    return (_adopt, (_token(cls), make, args), state, *rest)


def _imported(cls: type) -> bool:
    """Import the module that a class names itself by, if it is there, as pickle does.

    A package may load that module only when it is asked for (``numpy.rec``); cloudpickle takes
    what is not loaded for something that cannot be imported.
    """
    found: Any
    try:
        found = importlib.import_module(cls.__module__)
        for name in cls.__qualname__.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError, TypeError, ValueError):
        return False
    return found is cls


def _token(cls: type) -> str:
    token = _tokens.get(cls)
    if token is None:
        token = _tokens[cls] = os.urandom(8).hex()
        _sent[token] = cls
    return token


def _adopt(token: str, make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """Worker: make a class of the parent, or find the one made before."""
    cls = make(*args)
    if in_worker_process() and cls not in _tokens:  # which has those that were made here
        _adopted[cls] = token
        _sent[token] = cls
    return cls


def _own_class(token: str) -> type:
    """Class that was sent under `token`; in a worker, where things make a round trip, its copy."""
    return _sent[token]


# --- functions --------------------------------------------------------------------------------

_namespaces: dict[object, _Namespace] = {}
_ATOMS = (type(None), bool, int, float, str, bytes)  # cheap to keep and to compare


class _Namespace(dict[str, Any]):
    """In a worker: the globals of one module of the parent, as far as functions brought them."""

    received: dict[str, Any]


def _function(func: FunctionType, reduced: Any) -> Any:
    """Let all functions of one module share their globals in a worker, whatever brings them.

    cloudpickle gives each pickle globals of its own; then what an initializer sets by a
    ``global`` statement would not be seen by the functions that come after it.
    """
    if not isinstance(reduced, tuple):
        return reduced
    if hasattr(func, "registry") and hasattr(func, "dispatch"):  # functools.singledispatch
        return _single_dispatch, (dict(func.registry),)
    if in_worker_process():
        return reduced
    code, base, *rest = reduced[1]
    key = func.__module__, id(func.__globals__)
    return (_make_function, (key, base, code, *rest), *reduced[2:5], _set_function)


def _make_function(key: object, base: dict[str, Any], code: Any, *rest: Any) -> FunctionType:
    if not in_worker_process():  # a round trip in the parent, to test what survives
        return cast(FunctionType, _cp._make_function(code, base, *rest))
    space = _namespaces.get(key)
    if space is None:
        space = _namespaces[key] = _Namespace(base)
        space.received = {}
    return cast(FunctionType, _cp._make_function(code, space, *rest))


def _set_function(func: FunctionType, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
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
    _cp._function_setstate(func, (attributes, slots))


def _single_dispatch(registry: dict[type, Callable[..., Any]]) -> Callable[..., Any]:
    func = functools.singledispatch(registry[object])
    for kind, implementation in registry.items():
        func.register(kind, implementation)
    return func


# --- what is taken apart and made again -------------------------------------------------------


def _lru_cache(func: Any) -> Any:
    if _importable(func):
        return NotImplemented
    return _cached, (func.__wrapped__, func.cache_parameters())


def _cached(func: Callable[..., Any], parameters: Mapping[str, Any]) -> Callable[..., Any]:
    cached: Callable[..., Any] = functools.lru_cache(**parameters)(func)
    return cached


def _cached_property(made: Any) -> Any:  # before 3.12 it holds a lock
    return functools.cached_property, (made.func,), {"attrname": made.attrname}


def _ufunc(func: Any) -> Any:
    """Reduce what ``numpy.frompyfunc`` made, which numpy itself would look up by its name."""
    inner = next(filter(callable, gc.get_referents(func)), None)
    if inner is None or not func.__name__.endswith(" (vectorized)"):
        return NotImplemented
    import numpy as np

    if func.identity is None:
        return np.frompyfunc, (inner, func.nin, func.nout)
    return functools.partial(np.frompyfunc, identity=func.identity), (inner, func.nin, func.nout)


_MADE_AGAIN: dict[type, Callable[[Any], Any]] = {
    functools._lru_cache_wrapper: _lru_cache,
    functools.cached_property: _cached_property,
    ContextVar: lambda variable: (
        _variable,
        (_token_of(variable), variable.name, variable.get(_UNSET)),
    ),
}


def _importable(obj: Any) -> bool:
    """Whether the other side finds `obj` by its name."""
    module = getattr(obj, "__module__", None)
    return (
        module in sys.modules
        and module != "__main__"
        and not _made_by_hand(module)
        and "<locals>" not in getattr(obj, "__qualname__", "")
    )


def _made_by_hand(module: str) -> bool:
    """Whether a module was not imported, as ``runpy.run_path`` makes one: nobody else could."""
    return getattr(sys.modules.get(module), "__spec__", module) is None and module != "__main__"


def _by_value_if_made_by_hand(module: str) -> None:
    if module in sys.modules and _made_by_hand(module):
        cloudpickle.register_pickle_by_value(sys.modules[module])


# --- context variables ------------------------------------------------------------------------

_variables: dict[str, ContextVar[Any]] = {}  # worker: copies, by token; parent: the originals
_variable_tokens: dict[ContextVar[Any], str] = {}
_UNSET = "parallelkit: this context variable is not set"


def _token_of(variable: ContextVar[Any]) -> str:
    token = _variable_tokens.get(variable)
    if token is None:
        token = _variable_tokens[variable] = os.urandom(8).hex()
        _variables[token] = variable
    return token


def _variable(token: str, name: str, value: Any) -> ContextVar[Any]:
    """Worker: the copy of a variable of the parent, with the value that it has there."""
    variable = _variables.get(token)
    if variable is None:
        variable = _variables[token] = ContextVar(name)
        _variable_tokens[variable] = token
    if in_worker_process() and value != _UNSET:
        variable.set(value)
    return variable


# --- what names itself as a global ------------------------------------------------------------


def _by_dill(obj: Any) -> Any:
    """Reduce by dill what would travel as a bare name of ``__main__``; leave all else alone."""
    if getattr(obj, "__module__", None) != "__main__":
        return NotImplemented
    if not isinstance(obj.__reduce_ex__(5), str):
        return NotImplemented
    import dill

    return _undill, (dill.dumps(obj, recurse=True),)


def _never_by_dill(kind: Any) -> bool:
    """Whether no instance of `kind` would travel as a bare name of ``__main__``."""
    if kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__:
        return True
    if kind.__dictoffset__ or type(vars(kind).get("__module__", "")) is not str:
        return False  # each instance may name a module of its own
    return bool(kind.__module__ != "__main__")


def _undill(data: bytes) -> Any:
    import dill

    return dill.loads(data)
