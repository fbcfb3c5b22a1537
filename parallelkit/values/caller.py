"""Who calls an item, as warnings and tracebacks tell of it: no file of ours.

A warning by ``stacklevel=2`` tells of who calls, and filters ask for the module of that. A loop
would be in the script; here it is the function that is told of, once as in its module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

from ..place.attributes import attribute

__all__ = ["CALLER", "beside", "beside_each", "placed"]

CALLER = "<parallelkit>"  # as it stands in tracebacks


def beside(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return what calls `func`, and does so from the line that defines it."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    made = placed(call, func)
    return func if made is call else made


def beside_each() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what is :func:`beside` for functions of which many that follow are the same."""
    last: Any = None
    made: Any = None

    def wrap(func: Callable[..., Any]) -> Callable[..., Any]:
        nonlocal last, made
        if made is None or func is not last:
            last, made = func, beside(func)
        return made  # type: ignore[no-any-return]

    return wrap


def placed(caller: Any, func: Any) -> Any:
    """Return the function `caller`, as if it stood in the file and line that define `func`."""
    func = func.func if isinstance(func, functools.partial) else func
    func = attribute(func, "__wrapped__", func)
    func = attribute(func, "__func__", func)
    func = func if type(func) is FunctionType else attribute(type(func), "__call__")
    if type(func) is not FunctionType:
        return caller
    code = func.__code__
    there = _code_in(caller.__code__, code.co_filename, code.co_firstlineno)
    return FunctionType(there, func.__globals__, closure=caller.__closure__)


@functools.lru_cache(64)
def _code_in(code: CodeType, filename: str, line: int) -> CodeType:
    """Code that is all in one line of a file; its columns are not those of that line."""
    size = len(code.co_code) // 2
    # https://github.com/python/cpython/blob/3.11/Objects/locations.md: no column, the same line.
    lines = b"".join(bytes([0xE8 + min(size - at, 8) - 1, 0]) for at in range(0, size, 8))
    return code.replace(
        co_filename=filename, co_firstlineno=line, co_linetable=lines, co_name=CALLER
    )
