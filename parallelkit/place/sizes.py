"""Sizes in bytes, as people write them."""

from __future__ import annotations

import operator
import re

__all__ = ["in_bytes"]

_SIZE = r"(?i)\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([kmgtp]?)(i?)(b?)\s*"
_POWERS = ("", "k", "m", "g", "t", "p")
_FORMS = "a number of bytes, or a text such as '64 kB', '512 MiB' or '1.5GB'"


def in_bytes(name: str, size: int | str, least: int = 0) -> int:
    """Read a size: a whole number of bytes, or a number with a unit.

    ``kB``, ``MB``, ``GB``, ``TB`` and ``PB`` are powers of 1000, ``KiB``, ``MiB`` and so on powers
    of 1024, as the standards have it. The ``B``, the space and the case do not matter.

    Parameters
    ----------
    name : str
        Of the option, for the error.
    size : int or str
    least : int
        Smaller sizes are an error.

    Returns
    -------
    int

    Raises
    ------
    TypeError, ValueError
        For what is no size, or too small a one; the message names the option and gives examples.

    Examples
    --------
    >>> in_bytes("memory_limit", "1GB"), in_bytes("max_nbytes", "512 KiB"), in_bytes("size", 100)
    (1000000000, 524288, 100)
    >>> in_bytes("memory_limit", "1 gigabyte")
    Traceback (most recent call last):
    ...
    ValueError: memory_limit must be a number of bytes, or a text such as ..., not '1 gigabyte'
    """
    number: int
    if isinstance(size, str):
        found = re.fullmatch(_SIZE, size)
        if found is None or (found[3] and not found[2]):
            raise ValueError(f"{name} must be {_FORMS}, not {size!r}")
        base = 1024 if found[3] else 1000
        power = base ** _POWERS.index(found[2].lower())
        whole, _, part = found[1].partition(".")  # in whole numbers: no size is rounded by a float
        number = int(whole or "0") * power + int(part or "0") * power // 10 ** len(part)
    else:
        if isinstance(size, bool) or not hasattr(size, "__index__"):
            raise TypeError(f"{name} must be {_FORMS}, not {size!r}")
        number = operator.index(size)
    if number < least:
        raise ValueError(f"{name} must be at least {least} bytes, not {size!r}")
    return number
