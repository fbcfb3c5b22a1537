"""Whether descriptors of ours are still ours: a program may close all that there are.

`os.closerange`, as daemons call it, takes them from us without a word, and what the program opens
next gets the same numbers. So what had descriptors is then kept, for good: at its end it would
close what is somebody else's by now.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["LOST", "identity", "keep"]

LOST = "the program has closed the descriptors of its workers (os.closerange?) during a call"

_kept: list[Any] = []


def identity(fd: int) -> tuple[int, int] | None:
    """What a descriptor is of; None if it is closed."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def keep(obj: Any) -> None:
    """Keep what has descriptors that are not its own any more."""
    _kept.append(obj)
