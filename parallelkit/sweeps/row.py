"""Rows of a table, and how their values are told apart, compared and put in order."""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Number
from typing import Any, Protocol

from .canonical import canonical
from .layout import OWN, is_number
from .records import Record, result_columns
from .values import Described, NotPlain, decode

__all__ = [
    "Row",
    "Tabular",
    "as_python",
    "described",
    "is_model",
    "key_of",
    "label",
    "like",
    "ordered",
    "point_of",
    "rank",
    "same",
    "unlabelled",
]


class Row(dict[str, Any]):
    """A row: a dict by column, which also has the record that it is made from."""

    __slots__ = ("record",)

    def __init__(self, values: Mapping[str, Any], record: Record) -> None:
        super().__init__(values)
        self.record = record

    def __reduce__(self) -> tuple[Any, ...]:
        return Row, (dict(self), self.record)

    def is_given(self, name: str) -> bool:
        """Whether a None in a column is a value, and not the lack of one."""
        record = self.record
        if name in record.params:
            return True
        given = record.status == "ok" and name in result_columns(record.value)
        return given and name not in ("status", "error", "seconds", "started")


def point_of(
    func: Callable[..., Any], row: Mapping[str, Any], frozen: Mapping[str, Any]
) -> tuple[dict[str, Any], int | None]:
    """Parameters and seed of the point that a row is of."""
    if isinstance(row, Row):
        params = {name: row[name] for name in row.record.params if name in row}
        seed = row.record.seed
    else:
        params, seed = _taken(func, row, frozen)
    for name, value in params.items():
        if isinstance(value, Described):
            raise TypeError(
                f"the parameter {name!r} is known by its description only, {value!r}: give it, "
                f"sweep.rerun(func, {{**row, {name!r}: ...}})"
            )
    return params, None if seed is None else int(seed)


def _taken(
    func: Callable[..., Any], row: Mapping[str, Any], frozen: Mapping[str, Any]
) -> tuple[dict[str, Any], Any]:
    """What a plain dict has for the parameters of a function, and its seed."""
    try:
        known = dict(inspect.signature(func).parameters)
    except (TypeError, ValueError):
        known = {}
    seed = row.get("sweep.seed", None if "seed" in known else row.get("seed"))
    free = not known or any(one.kind is one.VAR_KEYWORD for one in known.values())
    ours = {"repeat", "reported", *OWN, *(f"sweep.{name}" for name in OWN), "traceback", "code"}
    params = {
        name: value
        for name, value in row.items()
        if name not in frozen and (name in known or (free and name not in ours))
    }
    return params, seed


class Tabular(Protocol):
    """What pictures need to know of a table."""

    def __iter__(self) -> Iterator[Row]:
        """Go through the rows."""
        ...

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        ...

    @property
    def parameters(self) -> list[str]:
        """Names of those that are parameters."""
        ...

    @property
    def results(self) -> list[str]:
        """Names of those that are results."""
        ...


def as_python(value: Any) -> Any:
    """Python's own value of a numpy scalar; anything else as it is."""
    if getattr(value, "shape", None) != () or not hasattr(value, "item"):
        return value
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    return value if kind in ("m", "M") else value.item()  # numpy's times would lose their unit


def is_model(value: Any) -> bool:
    """Whether a value has settings, as scikit-learn's models."""
    return hasattr(value, "get_params") and not isinstance(value, type)


def key_of(value: Any) -> Any:
    """What can be looked up, and is the same for equal values of equal types alone."""
    value = as_python(value)
    if isinstance(value, Mapping):
        return (type(value).__name__, tuple((key_of(k), key_of(v)) for k, v in value.items()))
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, tuple(map(key_of, value)))
    if isinstance(value, float) and value != value:  # noqa: PLR0124 - NaN is one value
        return ("float", "nan")
    if is_model(value):
        try:
            return (type(value).__qualname__, key_of(value.get_params(deep=False)))
        except Exception:  # noqa: BLE001 - a user's own may raise anything
            return (type(value).__qualname__, id(value))
    if getattr(value, "shape", None) is not None and hasattr(value, "tobytes"):
        digest = hashlib.blake2b(value.tobytes(), digest_size=16).digest()
        return (str(value.dtype), tuple(value.shape), digest)
    try:
        hash(value)
    except TypeError:
        return (type(value).__qualname__, _told(value))
    return (type(value).__qualname__, value)


def _told(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a user's __repr__ may raise anything
        return f"at {id(value)}"


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, as somebody who looks for one of them means it.

    Numbers are equal as numbers, 1 and 1.0, and NaN to NaN; True and 1 are not. Anything else has
    to be of one kind: arrays, models, functions and data frames are compared by what makes two
    points of a sweep different, also where a store has but their description.
    """
    one, other = as_python(one), as_python(other)
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if one is other:
        return True
    if isinstance(one, Described) or isinstance(other, Described):
        return described(one) == described(other) is not None
    if _is_plain(one, str) and _is_plain(other, str):
        return bool(one == other)
    if _is_plain(one, Number) and _is_plain(other, Number):
        return bool(one == other or (one != one and other != other))  # noqa: PLR0124 - NaN
    for kind in (list, tuple):
        if isinstance(one, kind) and isinstance(other, kind):
            return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return _same_content(one, other)


def like(value: Any) -> Callable[[Any], bool]:
    """Return :func:`same` as this value, whose description is made once for many rows."""
    told: list[str | None] = []

    def found(other: Any) -> bool:
        if not isinstance(other, Described):
            return same(other, value)
        if not told:
            told.append(described(value))
        return told[0] == other

    return found


def _is_plain(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, enum.Enum)


def _same_content(one: Any, other: Any) -> bool:
    try:
        return canonical(one) == canonical(other)
    except NotPlain:
        pass
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - arrays of other kinds, or whatever a user's own raises
        return bool(key_of(one) == key_of(other))


def described(value: Any) -> str | None:
    """What a store has in the place of a value; None where that is the value itself."""
    if isinstance(value, str):
        return str(value)
    try:
        found = decode(canonical(value), {})
    except NotPlain:
        return None
    return str(found) if isinstance(found, Described) else None


class _Label:
    """A value that cannot be looked up itself, in the place of one that can."""

    __slots__ = ("_key", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self._key = key_of(value)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Label) and self._key == other._key


def label(value: Any) -> Any:
    """A value that can be told apart and looked up: itself, or what stands for it.

    Numbers that are equal are one, so that 1 and 1.0 meet in a picture; 1 and True are not.
    """
    value = as_python(value)
    if isinstance(value, bool) or is_model(value):
        return _Label(value)
    try:
        hash(value)
    except TypeError:
        return _Label(value)
    return value


def unlabelled(value: Any) -> Any:
    """What a label stands for."""
    return value.value if isinstance(value, _Label) else value


def ordered(labels: Iterable[Any]) -> list[Any]:
    """Different labels: sorted if they can be, else as they come."""
    different = list(dict.fromkeys(labels))
    try:
        return sorted(different, key=_plain_of)
    except (TypeError, ValueError):
        return different


def _plain_of(one: Any) -> Any:
    value = unlabelled(one)
    if is_model(value):
        raise TypeError  # in the order in which they come
    return value


def rank(value: Any) -> Any:
    """By what rows are sorted: numbers, times, texts, others, and last what is missing."""
    value = as_python(value)
    if value is None or (isinstance(value, float) and not is_number(value)):
        return (9, 0)
    if is_number(value):
        return (0, value)
    if isinstance(value, dt.datetime):
        return (1, value.isoformat())
    if isinstance(value, str):
        return (2, value)
    return (3, type(value).__qualname__, _told(value))
