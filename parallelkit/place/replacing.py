"""A finished file takes the place of another, where that can be."""

from __future__ import annotations

import os
import time

from . import system

__all__ = ["replace"]

_WAITS = (0.01, 0.05, 0.2, 0.7) if system.WINDOWS else ()


def replace(draft: str, path: str) -> None:
    """Do as `os.replace`. On Windows a program that scans new files may hold one for a moment."""
    for wait in _WAITS:
        try:
            return os.replace(draft, path)
        except PermissionError:
            time.sleep(wait)
    return os.replace(draft, path)
