"""What is typed on a command line: functions and values."""

from __future__ import annotations

import ast
import builtins
import importlib
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Usage", "condition", "function", "named", "one_value", "values"]

_WORDS = {"true": True, "false": False, "none": None}
_OPENING, _CLOSING = "[({", "])}"


class Usage(Exception):
    """The command is wrong."""


def named(text: str) -> tuple[str, str]:
    """Name and values of ``name=values``."""
    name, equals, rest = text.partition("=")
    if not equals or not name.isidentifier():
        raise Usage(f"{text!r}: write name=values, such as depth=3,5,7")
    return name, rest


def values(text: str) -> list[Any]:
    """Read ``3,5,7``, ``1:5``, ``0.1:1.0:log5``, ``[64,64],[32]`` and mixtures of them.

    A single list in brackets is the list of values, as in ``pk.grid(name=[...])``.
    """
    parts = _parts(text)
    if len(parts) == 1 and parts[0].startswith("["):
        listed: list[Any] = _literal(parts[0])
        if not listed:
            raise Usage(f"no values in {text!r}; write name=values, such as depth=3,5,7")
        return listed
    found: list[Any] = []
    for part in parts:
        spread = _range(part)
        found += [one_value(part)] if spread is None else spread
    if not found:
        raise Usage(f"no values in {text!r}; write name=values, such as depth=3,5,7")
    return found


def _parts(text: str) -> list[str]:
    """What stands between commas; commas in quotes and brackets belong to the part."""
    parts, depth, quote, begin = [], 0, "", 0
    for at, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and letter in text[at + 1 :]:
            quote = letter
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth -= 1
        elif letter == "," and depth <= 0:
            parts.append(text[begin:at])
            begin = at + 1
    return [part for one in (*parts, text[begin:]) if (part := one.strip())]


def one_value(text: str) -> Any:
    """Read a number, true, false, none, a list, tuple or dict as Python has it, or a text."""
    text = text.strip()
    if text and text[0] in _OPENING:
        return _literal(text)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    number = _number(text)
    return text if number is None else number


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        raise Usage(
            f"{text!r}: write a list, tuple or dict as Python has it, such as [64,64] or "
            f"{{'kind':'adam'}}, or put a text in quotes: '\"{text}\"'"
        ) from None


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return None


def _range(text: str) -> list[int | float] | None:
    """Numbers from ``begin:end``, ``begin:end:step``, ``:linN`` or ``:logN``; None for a text."""
    parts = text.split(":")
    ends = [_number(part) for part in parts[:2]]
    if len(parts) not in (2, 3) or None in ends:
        return None
    begin, end = (number for number in ends if number is not None)
    if len(parts) == 2 and not (isinstance(begin, int) and isinstance(end, int)):
        raise Usage(f"{text!r}: between these a step is needed: {text}:0.1, {text}:lin5 or :log5")
    how = parts[2] if len(parts) == 3 else "1"
    spaced = re.fullmatch(r"(lin|log)(\d+)", how)
    if spaced:
        return _spaced(text, begin, end, spaced[1], int(spaced[2]))
    step = _number(how)
    if step is None or not step > 0 or not begin <= end or not math.isfinite(end - begin):
        raise Usage(f"{text!r}: write begin:end, begin:end:step, begin:end:lin5 or begin:end:log5")
    count = math.floor((end - begin) / step + 1e-9) + 1
    return [_clean(begin + i * step) for i in range(count)]


def _spaced(text: str, begin: float, end: float, how: str, count: int) -> list[int | float]:
    if count < 2:
        raise Usage(f"{text!r}: at least two values, such as {how}5")
    if how == "log" and (begin <= 0 or end <= 0):
        raise Usage(f"{text!r}: factors need numbers above 0")
    found: list[int | float] = []
    for i in range(count):
        share = i / (count - 1)
        if how == "log":
            found.append(_clean(begin * (end / begin) ** share))
        else:
            found.append(_clean(begin + (end - begin) * share))
    found[0], found[-1] = begin, end
    if isinstance(begin, int) and isinstance(end, int) and all(v == int(v) for v in found):
        return [int(v) for v in found]
    return [float(v) for v in found]


def _clean(number: float) -> float:
    """Without the last digits, which are the arithmetic's: 0.3, not 0.30000000000000004."""
    return number if isinstance(number, int) else float(f"{number:.12g}")


def condition(text: str, names: Iterable[str]) -> Callable[[Mapping[str, Any]], Any]:
    """Read an expression over parameters, such as ``depth * rate < 6``."""
    try:
        code = compile(text, "--where", "eval")
    except SyntaxError as error:
        raise Usage(f"--where {text!r} is no expression: {error.msg}") from None
    unknown = [n for n in code.co_names if n not in names and not hasattr(builtins, n)]
    if unknown:
        raise Usage(f"--where {text!r}: there is no parameter {unknown[0]!r}")

    def fits(point: Mapping[str, Any]) -> Any:
        try:
            return eval(code, {}, dict(point))  # noqa: S307 - typed by who runs the function
        except Exception as error:  # an expression may raise anything
            raise Usage(f"--where {text!r}: {type(error).__name__}: {error}") from error

    return fits


def function(text: str, folder: str) -> Callable[..., Any]:
    """Find ``package.module:function`` or ``script.py:function``."""
    module, colon, name = text.rpartition(":")
    if not colon or not name or not module:
        raise Usage(f"{text!r}: write package.module:function or script.py:function")
    if module.endswith(".py"):
        script = Path(folder, module).resolve()
        if not script.is_file():
            raise Usage(f"there is no file {str(script)!r}")
        place, module = str(script.parent), script.stem
        known = getattr(sys.modules.get(module), "__file__", None)
        if module in sys.modules and (known is None or Path(known).resolve() != script):
            raise Usage(f"a script named {script.name!r} hides the module {module!r}: rename it")
    else:
        place = folder
    if place not in sys.path:
        sys.path.insert(0, place)
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # a module may raise anything
        where = f"{os.path.basename(text.rpartition(':')[0])!r} cannot be imported"
        raise Usage(f"{where}: {type(error).__name__}: {error}") from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise Usage(f"there is no function {name!r} in {text.rpartition(':')[0]!r}")
    return found  # type: ignore[no-any-return]
