"""Attributes of objects that are not ours."""

from __future__ import annotations

from typing import Any

from .sigint import pass_on

__all__ = ["attribute"]


def attribute(obj: object, name: str, default: Any = None) -> Any:
    """`getattr` with a default, also where a ``__getattr__`` raises something of its own."""
    try:
        return getattr(obj, name, default)
    except Exception as error:  # noqa: BLE001 - a proxy may raise anything
        pass_on(error)
        return default
