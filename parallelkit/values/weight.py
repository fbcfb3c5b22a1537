"""How much memory a value takes, as far as that shows at once."""

from __future__ import annotations

from itertools import islice
from typing import Any

from ..place.attributes import attribute

__all__ = ["weight"]

SEVERAL = 32  # elements that are looked at; the others are taken to be like them
FEW = 8  # elements that need not be alike
MOST = 64  # values that are looked at, and after these only where there are few elements
DEEP = 3  # containers within one another
CELL = 8  # bytes of a reference, or of a number in a data frame
_SMALL = frozenset({type(None), bool, int, float, complex})
_TEXTS = frozenset({bytes, bytearray, str})
_CONTAINERS = frozenset({tuple, list, set, frozenset, dict})


def weight(value: Any) -> int:
    """Bytes of the arrays, texts and data frames in a value; of other objects, of their attributes.

    It is an estimate, made in some microseconds: nothing is pickled, and no long list walked.

    Examples
    --------
    >>> weight(1.5), weight(b"12345"), weight([b"12345"] * 1000)
    (0, 5, 13000)
    """
    return 0 if type(value) in _SMALL else _weight(value, DEEP, [MOST])


def _weight(value: Any, deep: int, left: list[int]) -> int:
    """The same of a value, with so many containers in one another, and values, left to look at."""
    left[0] -= 1
    kind = type(value)
    if kind in _SMALL:
        return 0
    if kind in _TEXTS:
        return len(value)
    if kind in _CONTAINERS:
        return _of_elements(value.values() if kind is dict else value, deep, left)
    nbytes = attribute(value, "nbytes")
    if isinstance(nbytes, int):
        return nbytes
    if kind.__name__ == "DataFrame":
        shape = attribute(value, "shape")
        if type(shape) is tuple and all(type(length) is int for length in shape):
            return CELL * shape[0] * shape[-1] if shape else 0
    held = attribute(value, "__dict__")
    return _of_elements(held.values(), deep, left) if type(held) is dict else 0


def _of_elements(elements: Any, deep: int, left: list[int]) -> int:
    count = len(elements)
    if not (count and deep):
        return CELL * count
    found = seen = 0
    try:
        for element in islice(elements, SEVERAL):
            if type(element) in _SMALL:
                left[0] -= 1
            else:
                found += _weight(element, deep - 1, left)
            seen += 1
            if left[0] <= 0 and count > FEW:
                break
    except RuntimeError:  # a thread of the item has changed it meanwhile
        return 0
    return CELL * count + found * count // max(1, seen)
