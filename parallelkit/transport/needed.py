"""Modules of libraries that a function refers to: what is worth importing before it is sent.

It is a guess, made without pickling: what is missed is imported by each worker, as always.
"""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from ..place.attributes import attribute
from .code_names import closure_variables, global_names, submodules
from .importable import in_library

__all__ = ["modules_of"]

_MOST = 200  # objects that are looked at
# Not in a process that is forked later: they open devices, start threads or speak to others.
_NOT_BEFORE_FORKS = frozenset(
    (
        *("torch", "tensorflow", "jax", "jaxlib", "cupy", "pycuda", "pyopencl", "cudf", "rmm"),
        *("cuml", "cuda", "mxnet", "paddle", "triton", "mpi4py", "grpc", "gevent", "eventlet"),
        *("tkinter", "PyQt5", "PyQt6", "PySide2", "PySide6", "wx", "gi", "pygame", "ray"),
        *("distributed", "pyspark", "parallelkit"),
    )
)


def modules_of(func: Callable[..., Any]) -> list[str]:
    """Names of loaded modules of libraries that a function needs, as far as it shows."""
    found: dict[str, None] = {}
    seen: set[int] = set()
    waiting: deque[Any] = deque([func])
    while waiting and len(seen) < _MOST:
        obj = waiting.popleft()
        if id(obj) in seen:
            continue
        seen.add(id(obj))
        if isinstance(obj, functools.partial):
            waiting += [obj.func, *obj.args, *obj.keywords.values()]
            continue
        if obj is None or attribute(obj, "__module__") == "builtins":
            continue
        name = obj.__name__ if isinstance(obj, ModuleType) else attribute(obj, "__module__")
        if isinstance(name, str) and _is_library(name):
            found[name] = None
            continue
        waiting += _parts(obj, found)
    return list(found)


def _is_library(name: str) -> bool:
    module = sys.modules.get(name)
    return (
        isinstance(module, ModuleType)
        and name.partition(".")[0] not in {*_NOT_BEFORE_FORKS, "__main__", "builtins"}
        and in_library(module)
        and getattr(module, "__spec__", None) is not None
    )


def _parts(obj: Any, found: dict[str, None]) -> Iterator[Any]:
    """What an object of the script itself refers to."""
    owner = attribute(obj, "__self__")
    if owner is not None and not isinstance(owner, ModuleType):  # of a bound method
        yield type(owner)
    func = attribute(obj, "__func__") or obj
    if isinstance(func, FunctionType):
        yield from _parts_of_function(func, found)
    elif isinstance(obj, type):
        yield from obj.__bases__
        yield from vars(obj).values()
    elif not isinstance(obj, ModuleType):
        yield type(obj)
        held = attribute(obj, "__dict__")
        if isinstance(held, dict):  # of a callable object: among them what a sweep calls
            yield from held.values()


def _parts_of_function(func: FunctionType, found: dict[str, None]) -> Iterator[Any]:
    code: CodeType = func.__code__
    for name in global_names(code):
        if name in func.__globals__:
            yield func.__globals__[name]
    for name in submodules(code, func.__globals__):
        if _is_library(name):
            found[name] = None
    yield from closure_variables(func).values()
    yield attribute(func, "__wrapped__")
