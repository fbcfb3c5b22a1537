"""Values as text: results as JSON with arrays beside it, and how to read them.

What JSON has is itself. Everything else is an object with a single key that begins with ``~``.
Reading never runs code: pickles are read only by who says so, functions and classes in a
canonical form (see canonical.py) come back as a :class:`Described` text.
"""

from __future__ import annotations

import base64
import collections
import datetime as dt
import decimal
import enum
import fractions
import io
import json
import pathlib
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .artifacts import LARGE, Files, artifact, is_frame, is_model

__all__ = ["Described", "Encoded", "Encoder", "NotPlain", "decode", "dumps", "encode", "short"]


class Described(str):
    """What a store knows by its description only: an array or a function among parameters."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{self}>"


class NotPlain(TypeError):
    """A value that has no form as text."""


class Encoded(NamedTuple):
    """A value as JSON, and the binary parts that it names by their number."""

    text: str
    blobs: list[tuple[str, bytes]]  # "npy" or "pickle", and the bytes


def encode(value: Any, pickle: bool, files: Files | None = None) -> Encoded:
    """A result as text; what has no such form is pickled if that is allowed, else `NotPlain`."""
    writer = _Writing(pickle, files)
    try:
        return Encoded(dumps(writer.of(value), False), writer.blobs)
    except RecursionError:
        raise NotPlain("it contains itself, or is nested too deeply") from None


def decode(
    text: str, blobs: Mapping[int, tuple[str, bytes]], pickle: bool = False, folder: str = ""
) -> Any:
    """What :func:`encode`, or ``canonical``, made text of."""
    tree = json.loads(text)
    if '"~' not in text:  # all of it is what it looks like
        return tree
    return _Reading(blobs, pickle, folder).of(tree)


_as_it_is = json.JSONEncoder(allow_nan=False, separators=(",", ":"), check_circular=False)
_sorting = json.JSONEncoder(
    sort_keys=True, allow_nan=False, separators=(",", ":"), check_circular=False
)


def dumps(tree: Any, sort: bool = True) -> str:
    """JSON, as short as it can be."""
    return (_sorting if sort else _as_it_is).encode(tree)


class Encoder:
    """What the canonical form and stored results have in common."""

    def of(self, value: Any) -> Any:
        """A value as JSON has it."""
        kind = type(value)
        if value is None or kind is int or kind is str or kind is bool:
            return value
        if kind is float:
            # Only infinities and NaN differ from themselves when taken off.
            return value if value - value == 0 else {"~f": repr(value)}
        if kind is dict:
            return self.mapping(value)
        if kind is list:
            return [self.of(v) for v in value]
        write = _PLAIN.get(kind)
        if write is not None:
            tag, plain = write
            return {tag: plain(value)}
        return self.container(value)

    def container(self, value: Any) -> Any:
        """What holds others, or derives from what is plain."""
        if isinstance(value, enum.Enum):  # also where it is a number or a text
            return self.other(value)
        if isinstance(value, tuple):  # also named ones
            return {"~t": [self.of(v) for v in value]}
        if isinstance(value, (set, frozenset)):
            tag = "~s" if isinstance(value, set) else "~fs"
            return {tag: sorted((self.of(v) for v in value), key=dumps)}
        if type(value) in _DICTS or (
            isinstance(value, Mapping) and type(value).__name__ in ("Bunch", "mappingproxy")
        ):
            return self.mapping(value)
        if isinstance(value, (dt.datetime, dt.timedelta)):
            return self._time(value)
        if isinstance(value, pathlib.PurePath):
            return {"~path": str(value)}
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            if isinstance(value, numpy.generic):
                return self.scalar(value)
            if isinstance(value, numpy.ndarray) and not isinstance(value, numpy.ma.MaskedArray):
                return self.array(value)
        return self.other(value)

    def mapping(self, value: Mapping[Any, Any]) -> Any:
        """A dict and its like."""
        of = self.of
        tree = {}
        for name, v in value.items():
            if type(name) is not str or name.startswith("~"):
                return {"~d": [[of(k), of(v)] for k, v in value.items()]}
            tree[name] = of(v)
        return tree

    def _time(self, value: Any) -> Any:
        """A time of a class made from Python's, as pandas' are, where it says no more than that."""
        said = str(value) != "NaT" and not any(
            getattr(value, name, 0) for name in ("nanosecond", "nanoseconds")
        )
        for kind in (dt.datetime, dt.timedelta):
            plain = getattr(value, f"to_py{kind.__name__}", None)
            if said and plain is not None:
                return self.of(plain())
        return self.other(value)

    def scalar(self, value: Any) -> Any:
        """A number of numpy's."""
        if value.dtype.kind in "mM":
            return {"~np": [value.dtype.str, str(value.astype("i8"))]}
        plain = value.item()
        if value.dtype.kind in "fc" and type(plain) not in (float, complex):  # long double
            plain = complex(plain) if value.dtype.kind == "c" else float(plain)
        return self.of(plain) if type(plain) is not type(value) else self.other(value)

    def array(self, value: Any) -> Any:
        """An array of numpy."""
        raise NotImplementedError

    def other(self, value: Any) -> Any:
        """Anything else."""
        raise NotImplementedError


_DICTS = (collections.OrderedDict, collections.defaultdict, collections.Counter)
_PLAIN: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bytes: ("~b", lambda v: base64.b64encode(v).decode()),
    bytearray: ("~ba", lambda v: base64.b64encode(v).decode()),
    complex: ("~c", lambda v: [repr(v.real), repr(v.imag)]),
    dt.datetime: ("~dt", dt.datetime.isoformat),
    dt.date: ("~day", dt.date.isoformat),
    dt.time: ("~time", dt.time.isoformat),
    dt.timedelta: ("~td", lambda v: [v.days, v.seconds, v.microseconds]),
    decimal.Decimal: ("~dec", str),
    fractions.Fraction: ("~frac", str),
    uuid.UUID: ("~uuid", str),
    range: ("~range", lambda v: [v.start, v.stop, v.step]),
}


class _Writing(Encoder):
    """Results: what comes back is what was given, or it is refused."""

    def __init__(self, pickle: bool, files: Files | None) -> None:
        self._pickle = pickle
        self._files = files
        self.blobs: list[tuple[str, bytes]] = []

    def array(self, value: Any) -> Any:
        if value.dtype.hasobject:
            return self.other(value)
        if self._files is not None and value.nbytes >= LARGE:
            return {"~file": self._files.array(value)}
        import numpy as np

        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return self._blob("npy", file.getvalue())

    def other(self, value: Any) -> Any:
        if isinstance(value, Described):
            return {"~is": str(value)}
        if self._files is not None and is_frame(value):
            try:
                return {"~file": self._files.frame(value)}
            except ImportError:
                if not self._pickle:
                    raise NotPlain(
                        f"a {type(value).__name__} is stored as a Parquet file, which needs "
                        "pyarrow: pip install pyarrow"
                    ) from None
            except (TypeError, ValueError) as error:  # those of pyarrow derive from these
                if not self._pickle:
                    raise NotPlain(
                        f"a {type(value).__name__} with such values makes no Parquet file: {error}"
                    ) from None
        if self._pickle:
            import cloudpickle

            data = cloudpickle.dumps(value)
            if self._files is not None and (is_model(value) or is_frame(value)):
                return {"~file": self._files.pickled(value, data)}
            return self._blob("pickle", data)
        raise NotPlain(
            f"{short(value)} of type {type(value).__qualname__} is neither a number, text, list, "
            "dict, array nor DataFrame"
        )

    def _blob(self, kind: str, data: bytes) -> Any:
        self.blobs.append((kind, data))
        return {"~blob": len(self.blobs) - 1}


class _Reading:
    def __init__(self, blobs: Mapping[int, tuple[str, bytes]], pickle: bool, folder: str) -> None:
        self._blobs = blobs
        self._pickle = pickle
        self._folder = folder

    def of(self, tree: Any) -> Any:
        if isinstance(tree, list):
            return [self.of(v) for v in tree]
        if not isinstance(tree, dict):
            return tree
        if len(tree) == 1:
            tag, body = next(iter(tree.items()))
            if tag.startswith("~"):
                return self._tagged(tag, body)
        return {name: self.of(v) for name, v in tree.items()}

    def _tagged(self, tag: str, body: Any) -> Any:
        if tag == "~blob":
            return self._blob(*self._blobs[body])
        if tag == "~file":
            name, summary = body
            return artifact(self._folder, name, summary, self._pickle)
        if tag in _NESTED:
            return _NESTED[tag](self.of(body))
        if tag in _SIMPLE:
            return _SIMPLE[tag](body)
        raise ValueError(f"unknown kind of value {tag!r}: written by a later version?")

    def _blob(self, kind: str, data: bytes) -> Any:
        if kind == "pickle" and self._pickle:
            import pickle

            return pickle.loads(data)
        if kind == "npy":
            import numpy as np

            if not data.startswith(b"\x93NUMPY"):  # `load` takes zip files and pickles too
                raise ValueError("an array does not begin as one")
            return np.load(io.BytesIO(data), allow_pickle=False)
        return Described(f"pickled, {len(data)} bytes")


def _numpy_time(body: Any) -> Any:
    import numpy as np

    return np.array(int(body[1]), "i8").view(body[0])[()]


def _objects(body: Any) -> Any:
    import numpy as np

    shape, values = body
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


_NESTED: dict[str, Callable[[Any], Any]] = {
    "~t": tuple,
    "~s": set,
    "~fs": frozenset,
    "~d": dict,
    "~o": _objects,
}
_SIMPLE: dict[str, Callable[[Any], Any]] = {
    "~f": float,
    "~b": base64.b64decode,
    "~ba": lambda body: bytearray(base64.b64decode(body)),
    "~c": lambda body: complex(*map(float, body)),
    "~dt": dt.datetime.fromisoformat,
    "~day": dt.date.fromisoformat,
    "~time": dt.time.fromisoformat,
    "~td": lambda body: dt.timedelta(*body),
    "~dec": decimal.Decimal,
    "~frac": fractions.Fraction,
    "~uuid": uuid.UUID,
    "~range": lambda body: range(*body),
    "~path": pathlib.Path,
    "~np": _numpy_time,
    "~is": Described,
}


def short(value: Any) -> str:
    """A value for a message."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a user's __repr__ may raise anything
        return "a value"
    return text if len(text) <= 60 else text[:57] + "..."
