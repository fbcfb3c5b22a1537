"""Whether something of the script has changed since it was last looked at.

A mark is what a look leaves behind for the next one to compare with. A look costs little where
nothing has changed: what cannot change is compared by identity, functions by their code, defaults
and cells, all else by its pickle.
"""

from __future__ import annotations

import functools
import pickle
import sys
import zlib
from collections.abc import Mapping, Sequence
from types import (
    BuiltinFunctionType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    ModuleType,
)
from typing import Any, Protocol

from ..errors import StaysHere
from ..place.sigint import pass_on
from .byvalue import ByValuePickler
from .code_names import handmade, submodules
from .importable import is_found, is_reachable
from .parts import ATOMS

__all__ = [
    "ABSENT",
    "AnnotationsMark",
    "AtomMark",
    "FunctionMark",
    "Known",
    "Mark",
    "looked_at",
    "marked",
]

LARGE_TO_LOOK_AT = 1 << 16  # bytes of a pickle
LARGE = 1 << 20  # bytes of a buffer from which on its checksum is kept, and not its content
ABSENT = type("Absent", (), {"__repr__": lambda _: "<not bound>"})()
_BY_IDENTITY = frozenset(
    {
        *(type(str.join), type(object.__init__)),
        *(GetSetDescriptorType, MemberDescriptorType),
    }
)
_CACHED = type(functools.lru_cache(lambda: None))


class Known(Protocol):
    """What is known of the script, as far as a mark asks for it; see `script`."""

    loaded: int  # modules, when they were last counted

    def unit(self, obj: Any) -> Any:
        """What stands for a function or class that is sent as a whole, or None."""
        ...


def marked(value: Any, script: Known, seen: dict[int, Any]) -> Mark:
    """What a later look compares with."""
    kind = type(value)
    if kind in ATOMS:
        return AtomMark(value)
    if kind is FunctionType:
        if id(value) in seen or is_reachable(value) or script.unit(value) is not None:
            return Mark(value)
        seen[id(value)] = None
        return FunctionMark(value, script, seen)
    if kind is tuple and all(type(part) in ATOMS for part in value):
        return AtomMark(value)
    if kind in (staticmethod, classmethod, property):
        return WrapperMark(value, script, seen)
    if isinstance(value, (type, ModuleType)) or kind in _BY_IDENTITY:
        return Mark(value)
    if kind is BuiltinFunctionType and isinstance(value.__self__, (type, ModuleType, type(None))):
        return Mark(value)
    if kind is _CACHED:
        return CacheMark(value)
    return ContentMark(value)


class Mark:
    """What cannot change, by identity.

    A mark that has found a difference finds it again when it is asked once more: units ask first
    whether something has changed, and then what.
    """

    __slots__ = ("value",)
    fixed = True
    is_large = False  # so that a look takes long

    def __init__(self, value: Any) -> None:
        self.value = value

    def same(self, value: Any, script: Known) -> bool:  # noqa: ARG002 - the others' signature
        """Whether `value` is what was seen before."""
        return value is self.value


class AtomMark(Mark):
    """A number or text: another one that is equal will do."""

    __slots__ = ()

    def same(self, value: Any, script: Known) -> bool:  # noqa: ARG002
        """Whether `value` is what was seen before."""
        mine = self.value
        if value is mine or type(value) is not type(mine):
            return value is mine
        return pickle.dumps(value, 5) == pickle.dumps(mine, 5)  # 0.0 is not -0.0


class FunctionMark(Mark):
    """A function, by its code, defaults, cells and attributes."""

    __slots__ = (
        *("annotations", "attributes", "code", "defaults", "doc", "imports", "keywords", "loaded"),
        *("module", "name", "parts", "qualname", "simple"),
    )
    fixed = False

    def __init__(self, func: FunctionType, script: Known, seen: dict[int, Any]) -> None:
        self.value = func
        self.code = func.__code__
        self.defaults = func.__defaults__
        self.keywords = func.__kwdefaults__
        self.name, self.qualname = func.__name__, func.__qualname__
        self.module, self.doc = func.__module__, func.__doc__
        self.annotations = dict(func.__annotations__)
        self.parts = [marked(part, script, seen) for part in _parts(func)]
        self.attributes = {
            name: marked(value, script, seen) for name, value in func.__dict__.copy().items()
        }
        self.simple = func.__closure__ is None and all(part.fixed for part in self.parts)
        self.loaded = script.loaded
        self.imports = _imports(func)

    def same(self, value: Any, script: Known) -> bool:
        """Whether `value` is what was seen before."""
        if not self.same_body(value, script):
            return False
        marks, attributes = self.attributes, value.__dict__
        if not marks and not attributes:
            return True
        attributes = attributes.copy()  # another thread may change them
        return marks.keys() == attributes.keys() and all(
            mark.same(attributes[name], script) for name, mark in marks.items()
        )

    def same_body(self, value: Any, script: Known) -> bool:
        """Whether it is, but for the attributes that somebody has given it."""
        if (
            value is not self.value
            or value.__code__ is not self.code
            or value.__defaults__ is not self.defaults
            or value.__kwdefaults__ is not self.keywords
            or value.__name__ is not self.name
            or value.__qualname__ is not self.qualname
            or value.__module__ is not self.module
            or value.__doc__ is not self.doc
            or not _are_same(value.__annotations__, self.annotations)
        ):
            return False
        if self.loaded != script.loaded:
            if self.imports != _imports(value):
                return False
            self.loaded = script.loaded
        if self.simple:
            return True
        parts = _parts(value)
        return len(parts) == len(self.parts) and all(
            mark.same(part, script) for mark, part in zip(self.parts, parts, strict=True)
        )


def _imports(func: FunctionType) -> list[str]:
    """Modules that must be there before a function runs, as they are loaded now."""
    return [*submodules(func.__code__, func.__globals__), *handmade(func.__code__)]


def _parts(func: FunctionType) -> list[Any]:
    parts = list(func.__defaults__ or ())
    if func.__kwdefaults__:
        parts += func.__kwdefaults__.values()
    for cell in func.__closure__ or ():
        try:
            parts.append(cell.cell_contents)
        except ValueError:
            parts.append(ABSENT)
    return parts


class AnnotationsMark(Mark):
    """Annotations of a class."""

    __slots__ = ("known",)
    fixed = False

    def __init__(self, value: dict[str, Any]) -> None:
        self.value = value
        self.known = dict(value)

    def same(self, value: Any, script: Known) -> bool:  # noqa: ARG002
        """Whether `value` is what was seen before."""
        return value is self.value and _are_same(value, self.known)


def _are_same(annotations: dict[str, Any], known: dict[str, Any]) -> bool:
    try:
        return annotations == known
    except Exception as error:  # noqa: BLE001 - what is there may compare as it likes
        pass_on(error)
        return False


class WrapperMark(Mark):
    """A static or class method or a property, by the functions in it."""

    __slots__ = ("parts",)
    fixed = False

    def __init__(self, value: Any, script: Known, seen: dict[int, Any]) -> None:
        self.value = value
        self.parts = [marked(part, script, seen) for part in _wrapped(value)]

    def same(self, value: Any, script: Known) -> bool:
        """Whether `value` is what was seen before."""
        return value is self.value and all(
            m.same(p, script) for m, p in zip(self.parts, _wrapped(value), strict=True)
        )


def _wrapped(value: Any) -> Sequence[Any]:
    if isinstance(value, property):
        return value.fget, value.fset, value.fdel
    return (value.__func__,)


class CacheMark(Mark):
    """A function with a cache, which somebody may clear: by how often it was asked.

    Where it has been asked as often again since, it is not seen that it was cleared.
    """

    __slots__ = ("asked",)
    fixed = False

    def __init__(self, value: Any) -> None:
        self.value = value
        self.asked = _asked(value)

    def same(self, value: Any, script: Known) -> bool:  # noqa: ARG002
        """Whether `value` is what was seen before, and was not cleared since."""
        if value is not self.value:
            return False
        asked = _asked(value)
        if asked < self.asked:
            return False
        self.asked = asked
        return True


def _asked(value: Any) -> int:
    info = value.cache_info()
    return int(info.hits + info.misses)


class ContentMark(Mark):
    """What can change in place, by its pickle."""

    __slots__ = ("content", "is_large", "kind", "named", "plain")
    fixed = False

    def __init__(self, value: Any) -> None:
        self.value = None  # nothing is to be kept alive for this
        self.kind = type(value)
        digest, pickler = looked_at(value, {})
        self.content = digest.content()
        self.named = list({id(one): one for one in pickler.named}.values())
        self.plain = _plain_content(value) if pickler.plain else None
        pickled, buffers = self.content
        self.is_large = len(pickled) > LARGE_TO_LOOK_AT or bool(buffers)

    def same(self, value: Any, script: Known) -> bool:  # noqa: ARG002
        """Whether `value` is what was seen before."""
        if type(value) is not self.kind:
            return False
        plain = self.plain
        if plain is not None and all(map(is_found, self.named)):
            try:  # most often there is no buffer in it
                now = pickle.dumps(value, 5) if type(plain) is bytes else _plain_content(value)
                if now == plain:
                    return True
            except Exception as error:  # noqa: BLE001 - it is looked at in earnest
                pass_on(error)
        return bool(looked_at(value, {})[0].content() == self.content)


class _Digest:
    """File and buffer callback for a pickle that is only compared."""

    __slots__ = ("buffers", "parts")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.buffers: list[Any] = []

    def write(self, data: Any) -> None:
        """Take a piece of the pickle."""
        self.parts.append(bytes(data))

    def keep(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer: its content, or of a large one its checksum."""
        view = buffer.raw()
        if view.nbytes < 64:
            return True
        self.buffers.append(_summary(view))
        return False

    def content(self) -> Any:
        """What is compared."""
        return b"".join(self.parts), self.buffers


def _summary(view: memoryview) -> Any:
    return view.tobytes() if view.nbytes < LARGE else (view.nbytes, zlib.crc32(view))


def looked_at(
    value: Any, defining: Mapping[Any, bool], listed: bool = False
) -> tuple[_Digest, ByValuePickler]:
    """Pickle a value to see what it holds, with functions and classes by name.

    By dill where pickle refuses. `listed` refuses what is in a weak container, as a class is that
    its library has made.
    """
    kind = _pickler()
    digest = _Digest()
    pickler = kind(digest, digest.keep, defining)
    pickler.comparing = True
    pickler.weakly = not listed
    try:
        pickler.dump(value)
    except StaysHere:
        raise
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        digest = _Digest()
        pickler = kind(digest, digest.keep, defining)
        pickler.by_dill = pickler.comparing = True
        try:
            pickler.dump(value)
        except Exception as problem:  # noqa: BLE001 - the first reason is the better one
            pass_on(problem)
            raise error from None
        pickler.plain = False
    return digest, pickler


def _plain_content(value: Any) -> Any:
    digest = _Digest()
    try:
        data = pickle.dumps(value, 5, buffer_callback=digest.keep)
    except Exception as error:  # noqa: BLE001 - then it is looked at in earnest
        pass_on(error)
        return None
    return (data, digest.buffers) if digest.buffers else data


def _pickler() -> type[ByValuePickler]:
    """Pickler for contents: what lies on shared memory or in a file is known by its place."""
    if "numpy" not in sys.modules:
        return ByValuePickler
    from .arrays import ContentPickler

    return ContentPickler
