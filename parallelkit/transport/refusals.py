"""Errors for what cannot travel: which attribute or element of it, and what to do."""

from __future__ import annotations

import functools
from types import CodeType, FunctionType

from ..errors import StaysHere, TransportError
from ..place.attributes import attribute
from ..place.sigint import pass_on
from . import pickling
from .classes import class_attributes
from .code_names import closure_variables, global_names
from .importable import is_reachable
from .inheritance import Unforked
from .mirror import current
from .script import script
from .units import Unsendable

__all__ = ["check", "is_refused", "is_unforked", "refusal"]

LONGEST = 300  # characters of a reason; that of a library may go on for pages


def refusal(what: str, obj: object, error: BaseException) -> TransportError:
    """Error for `obj` that cannot be pickled, naming the path to the part that cannot."""
    reason: BaseException = error
    while isinstance(reason, Unsendable) and reason.__cause__ is not None:
        reason = reason.__cause__
    stays = isinstance(reason, StaysHere)
    path, culprit = _culprit(obj, what, shallow=stays)
    if path.startswith(f"{what} (its "):
        path = path[len(what) + 2 :].replace(")", "", 1)
    where = "" if culprit is obj else f" because of {path} (a {type(culprit).__name__})"
    if stays:
        return TransportError(f"{what} cannot be sent between processes{where}: {reason}")
    return TransportError(
        f"{what} cannot be sent between processes{where}: {type(reason).__name__}: "
        f"{_short(str(reason))}. "
        "Make it inside the function, leave it out in __getstate__, or use backend='thread'"
    )


def _short(reason: str) -> str:
    first = " ".join(reason.split())
    return first if len(first) <= LONGEST else first[: LONGEST - 3] + "..."


def check(part: object, inherited: bool = True) -> None:
    """Raise what keeps a part from being sent, to workers that have `inherited` what is unnamed."""
    pickled = pickling.dumps(part)
    if pickled.needs and current() is None:
        prepared = script.prepare(pickled.needs)
        if not inherited and prepared is not None and prepared.inherits:
            raise Unforked(prepared.inherits)


def is_refused(part: object) -> bool:
    """Whether something cannot be sent; else a signal handler has raised what was raised."""
    try:
        check(part)
    except BaseException as error:  # noqa: BLE001 - a user's __reduce__ may raise anything
        pass_on(error)
        return True
    return False


def is_unforked(part: object) -> bool:
    """Whether only workers that are forked for it can have something."""
    try:
        check(part, inherited=False)
    except Unforked:
        return True
    except Exception as error:  # noqa: BLE001 - a user's __reduce__ may raise anything; told elsewhere
        pass_on(error)
    return False


def _culprit(obj: object, path: str, depth: int = 0, shallow: bool = False) -> tuple[str, object]:
    """Follow the parts of `obj` that cannot be pickled down to the smallest.

    `shallow`: not into the attributes of an object that says itself what to do.
    """
    if depth < 8:
        for name, part in _parts(obj, shallow):
            try:
                check(part, not shallow)
            except BaseException as error:  # noqa: BLE001 - a user's __reduce__ may raise anything
                pass_on(error)
                return _culprit(part, path + name, depth + 1, shallow)
    return path, obj


def _parts(obj: object, shallow: bool) -> list[tuple[str, object]]:
    """Parts of `obj` with how they are written behind it."""
    if isinstance(obj, dict):
        return [(f"[{key!r}]", value) for key, value in obj.items()]
    if isinstance(obj, (list, tuple, set, frozenset)):
        return [(f"[{i}]", value) for i, value in enumerate(obj)]
    if isinstance(obj, functools.partial):
        return [(".func", obj.func), (".args", obj.args), (".keywords", obj.keywords)]
    if shallow and not callable(obj):
        return []
    parts = [(f".{name}", value) for name, value in attribute(obj, "__dict__", {}).items()]
    slots = [s for s in getattr(type(obj), "__slots__", ()) if isinstance(s, str)]
    parts += [
        (f".{slot}", getattr(obj, slot)) for slot in slots if attribute(obj, slot) is not None
    ]
    func = attribute(obj, "__func__", obj)
    if isinstance(func, FunctionType):
        variables = closure_variables(func)
        parts += [(f" (its variable {name!r})", value) for name, value in variables.items()]
    defaults = attribute(obj, "__defaults__") or ()
    code = attribute(obj, "__code__")
    if isinstance(code, CodeType):
        names = code.co_varnames[: code.co_argcount][-len(defaults) :] if defaults else ()
        named = dict(zip(names, defaults, strict=True)) | (obj.__kwdefaults__ or {})  # type: ignore[attr-defined]
        parts += [(f" (its default of {name!r})", value) for name, value in named.items()]
    bound = attribute(obj, "__self__")
    if bound is not None and not isinstance(bound, type) and callable(obj):
        parts.append((".__self__", bound))
    if isinstance(code, CodeType):
        space = getattr(obj, "__globals__", {})
        parts += [
            (f" (its global {name!r})", space[name])
            for name in global_names(code)
            if name in space and space[name] is not obj
        ]
    if isinstance(obj, type) and not is_reachable(obj):
        parts = [(f".{name}", value) for name, value in class_attributes(obj).items()]
    return parts
