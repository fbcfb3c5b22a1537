"""What workers know of this process's script, and what each is told before it runs something.

::

    a pickle names functions and classes ─► its needs ─► Script.prepare ─► Prepared
      and what those refer to: globals, other functions, bases              │
                                                 one worker's Sent ─► Prepared.news ─► what it lacks

A unit is what is sent as a whole: a global, a function, a class. Each has a version, which grows
when a look at it finds another value, or other content. A look costs little where nothing has
changed: what cannot change is compared by identity, functions by their code, defaults and cells,
all else by its pickle. What is sent of a class that was changed in place is what was changed.

What a worker has bound or filled by itself stays there, since nothing is sent of a unit that has
not changed here.

It is long because a mark, a unit and what a worker has of it are compared with each other.
"""

from __future__ import annotations

import abc
import enum
import itertools
import os
import pickle
import sys
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    ModuleType,
)
from typing import Any, Generic, TypeVar

from ..errors import StaysHere
from ..place.records import NamedTuple
from . import autoreload, inheritance, parts, pickling, rebuild
from .byvalue import (
    NOT_ATTRIBUTES,
    ByValuePickler,
    class_attributes,
    class_statement,
    handmade,
    in_library,
    is_compiled,
    is_named,
    is_reachable,
    member_attributes,
    registered,
    submodules,
)
from .mirror import MAIN, class_of_module, namespace, space_key, tokens

__all__ = ["Prepared", "Script", "Sent", "Unsendable", "script"]

MOST_CLASSES = 256  # classes made within functions that are kept in mind
MOST_PLANS = 64
MOST_NEWS = 4
LARGE = 1 << 20  # bytes of a buffer from which on its checksum is kept, and not its content
ABSENT = type("Absent", (), {"__repr__": lambda _: "<not bound>"})()
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, type(...), range})
_versions = itertools.count(1)
Name = TypeVar("Name")


class Unsendable(Exception):
    """A part of the script that cannot be pickled.

    Attributes
    ----------
    path : str
        What it is.
    value : object
    """

    def __init__(self, path: str, value: Any) -> None:
        super().__init__(path)
        self.path = path
        self.value = value


# --- whether something has changed ---------------------------------------------------------------


class Mark:
    """What cannot change, by identity."""

    __slots__ = ("value",)
    fixed = True

    def __init__(self, value: Any) -> None:
        self.value = value

    def same(self, value: Any, script: Script) -> bool:  # noqa: ARG002 - the others' signature
        """Whether `value` is what was seen before."""
        return value is self.value


class AtomMark(Mark):
    """A number or text: another one that is equal will do."""

    __slots__ = ()

    def same(self, value: Any, script: Script) -> bool:  # noqa: ARG002
        """Whether `value` is what was seen before."""
        mine = self.value
        return value is mine or (
            type(value) is type(mine) and repr(value) == repr(mine)  # 0.0 is not -0.0
        )


class FunctionMark(Mark):
    """A function, by its code, defaults, cells and attributes."""

    __slots__ = (
        *("attributes", "code", "defaults", "imports", "keywords", "loaded", "parts", "simple"),
    )
    fixed = False

    def __init__(self, func: FunctionType, script: Script, seen: dict[int, Any]) -> None:
        self.value = func
        self.code = func.__code__
        self.defaults = func.__defaults__
        self.keywords = func.__kwdefaults__
        self.parts = [script.mark(part, seen) for part in _parts(func)]
        self.attributes = {name: script.mark(value, seen) for name, value in func.__dict__.items()}
        self.simple = func.__closure__ is None and all(part.fixed for part in self.parts)
        self.loaded = script.loaded
        self.imports = _imports(func)

    def same(self, value: Any, script: Script) -> bool:
        """Whether `value` is what was seen before."""
        if not self.same_body(value, script):
            return False
        marks, attributes = self.attributes, value.__dict__
        if not marks and not attributes:
            return True
        return marks.keys() == attributes.keys() and all(
            mark.same(attributes[name], script) for name, mark in marks.items()
        )

    def same_body(self, value: Any, script: Script) -> bool:
        """Whether it is, but for the attributes that somebody has given it."""
        if (
            value is not self.value
            or value.__code__ is not self.code
            or value.__defaults__ is not self.defaults
            or value.__kwdefaults__ is not self.keywords
        ):
            return False
        if self.loaded != script.loaded:
            self.loaded = script.loaded
            if self.imports != _imports(value):
                return False
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


class WrapperMark(Mark):
    """A static or class method or a property, by the functions in it."""

    __slots__ = ("parts",)
    fixed = False

    def __init__(self, value: Any, script: Script, seen: dict[int, Any]) -> None:
        self.value = value
        self.parts = [script.mark(part, seen) for part in _wrapped(value)]

    def same(self, value: Any, script: Script) -> bool:
        """Whether `value` is what was seen before."""
        return value is self.value and all(
            m.same(p, script) for m, p in zip(self.parts, _wrapped(value), strict=True)
        )


def _wrapped(value: Any) -> Sequence[Any]:
    if isinstance(value, property):
        return value.fget, value.fset, value.fdel
    return (value.__func__,)


class ContentMark(Mark):
    """What can change in place, by its pickle."""

    __slots__ = ("content", "kind", "plain")
    fixed = False

    def __init__(self, value: Any) -> None:
        self.value = None  # nothing is to be kept alive for this
        self.kind = type(value)
        self.content, plain = _content(value)
        self.plain = _plain_content(value) if plain else None

    def same(self, value: Any, script: Script) -> bool:  # noqa: ARG002
        """Whether `value` is what was seen before."""
        if type(value) is not self.kind:
            return False
        plain = self.plain
        if plain is not None:
            try:  # most often there is no buffer in it
                now = pickle.dumps(value, 5) if type(plain) is bytes else _plain_content(value)
                if now == plain:
                    return True
            except Exception:  # noqa: BLE001 - it is looked at in earnest
                pass
        return bool(_content(value)[0] == self.content)


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


def _content(value: Any) -> tuple[Any, bool]:
    """Pickle of a value, with functions and classes by name; whether plain pickle does as well."""
    digest, pickler = _looked_at(value, {})
    return digest.content(), pickler.plain


def _looked_at(
    value: Any, defining: Mapping[Any, bool], listed: bool = False
) -> tuple[_Digest, ByValuePickler]:
    """Pickle a value to see what it holds, by dill where pickle refuses.

    `listed` refuses what is in a weak container, as a class is that its library has made.
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
        except Exception:  # noqa: BLE001 - the first reason is the better one
            raise error from None
        pickler.plain = False
    return digest, pickler


def _plain_content(value: Any) -> Any:
    digest = _Digest()
    try:
        data = pickle.dumps(value, 5, buffer_callback=digest.keep)
    except Exception:  # noqa: BLE001 - then it is looked at in earnest
        return None
    return (data, digest.buffers) if digest.buffers else data


def _pickler() -> type[ByValuePickler]:
    """Pickler for contents: what lies on shared memory or in a file is known by its place."""
    if "numpy" not in sys.modules:
        return ByValuePickler
    from .arrays import ContentPickler

    return ContentPickler


# --- units ---------------------------------------------------------------------------------------


class Unit:
    """What is sent as a whole.

    Attributes
    ----------
    version : int
        0 for what there is nothing to send of.
    needs : tuple of Unit
        What it refers to.
    """

    version = 0
    needs: tuple[Unit, ...] = ()
    order = 0  # in which units are sent

    def refresh(self, script: Script) -> bool:
        """Take note of what has changed; whether something has."""
        raise NotImplementedError

    def entries(self, since: int) -> list[tuple[Any, ...]]:
        """What is sent to who has the version `since` (0: nothing)."""
        raise NotImplementedError

    def is_whole(self, since: int) -> bool:  # noqa: ARG002
        """Whether all of it is sent to who has the version `since`."""
        return True

    def root(self, since: int) -> tuple[Any, Collection[str] | None] | None:  # noqa: ARG002
        """Below what its parts are found, by names (all, if None), of what is sent; see `parts`."""
        return None

    @property
    def place(self) -> Any:
        """The same root, for a pickle."""
        return None

    def survey(self, value: Any, listed: bool = False) -> None:
        """Find out what it refers to."""
        _, pickler = _looked_at(value, {self: True}, listed)
        self.needs = tuple(unit for unit in pickler.needs if unit is not self)


class GlobalUnit(Unit):
    """A global of the script, or of another module that workers cannot import."""

    def __init__(self, space: dict[str, Any], name: str) -> None:
        self.space = space
        self.key = space_key(space)
        module = space.get("__name__")
        self.module = module if isinstance(module, str) else "?"
        self.name = name
        self.mark: Mark = Mark(ABSENT)
        self.value: Any = ABSENT
        self.identity = 0

    def refresh(self, script: Script) -> bool:
        value = self.space.get(self.name, ABSENT)
        mark = self.mark
        if mark.same(value, script) and (mark.fixed or id(value) == self.identity):
            return False
        self.identity = id(value)  # bound anew to what is equal, it takes the worker's place too
        if value is not ABSENT:
            try:
                self._look(value, script)
            except Unsendable:
                raise
            except Exception as error:
                raise Unsendable(f"its global {self.name!r}", value) from error
        else:
            self.needs = ()
            self.mark = Mark(ABSENT)
        if self.version or value is not ABSENT:
            self.version = next(_versions)
        return True

    def _look(self, value: Any, script: Script) -> None:
        self.order = _order(value)
        unit = script.bound(value)
        if unit is not None:
            self.mark, self.needs = Mark(value), (unit,)
            return
        mark = script.mark(value, {})
        if type(mark) is AtomMark:
            self.needs = ()
        else:
            self.survey(value)
        self.mark = mark

    def entries(self, since: int) -> list[tuple[Any, ...]]:  # noqa: ARG002
        value = self.space.get(self.name, ABSENT)
        if value is ABSENT:
            return [(rebuild.unbind, self.key, self.module, (self.name,))]
        return [(rebuild.bind, self.key, self.module, {self.name: value})]

    def root(self, since: int) -> tuple[Any, Collection[str] | None] | None:  # noqa: ARG002
        return None if self.mark.fixed else (self.space, (self.name,))

    @property
    def place(self) -> Any:
        return _Entry(namespace, self.key, self.module)

    def bound_as(self, other: GlobalUnit) -> tuple[Any, ...]:
        """What binds `other`, the same object, where this one is bound."""
        mine = self.key, self.module, self.name
        return rebuild.bind_same, other.key, other.module, other.name, *mine


def _order(value: Any) -> int:
    """Modules and plain values come first, then functions, classes, and what is made of them."""
    if type(value) in _ATOMS or isinstance(value, ModuleType):
        return 0
    if isinstance(value, FunctionType):
        return 1
    return 2 if isinstance(value, type) else 3


class Changes(Generic[Name]):
    """Versions in which attributes were changed, by name."""

    def __init__(self) -> None:
        self._made: dict[Name, int] = {}
        self._gone: dict[Name, int] = {}

    def made(self, name: Name, version: int) -> None:
        """Take note of another value."""
        self._made[name] = version
        self._gone.pop(name, None)

    def undone(self, names: Iterable[Name], version: int) -> None:
        """Take note of names that are there no more."""
        for name in names:
            self._made.pop(name, None)
            self._gone[name] = version

    def after(self, version: int) -> tuple[list[Name], list[Name]]:
        """Names that were changed since, and those that are gone."""
        made = [name for name, changed in self._made.items() if changed > version]
        return made, [name for name, changed in self._gone.items() if changed > version]


class FunctionUnit(Unit):
    """A function that its script has a name for."""

    order = 1

    def __init__(self, func: FunctionType) -> None:
        self.func = func
        self.token = tokens.given(func)
        self.mark: FunctionMark | None = None
        self.body = 0  # the version in which more than attributes was changed
        self.changes: Changes[str] = Changes()

    def refresh(self, script: Script) -> bool:
        before = self.mark
        if before is not None and before.same(self.func, script):
            return False
        func = self.func
        try:
            self.survey(func)
            self.mark = mark = FunctionMark(func, script, {id(func): None})
        except Unsendable:
            raise
        except Exception as error:
            raise Unsendable(f"function {func.__qualname__!r}", func) from error
        if is_named(func):
            self.needs += (script.global_unit(func.__globals__, func.__name__),)
        self.version = next(_versions)
        if before is None or not before.same_body(func, script) or hasattr(func, "registry"):
            self.body = self.version
        else:
            for name, value in func.__dict__.items():
                known = before.attributes.get(name)
                if known is None or not known.same(value, script):
                    self.changes.made(name, self.version)
            self.changes.undone(before.attributes.keys() - mark.attributes.keys(), self.version)
        return True

    def is_whole(self, since: int) -> bool:
        return since < self.body

    def entries(self, since: int) -> list[tuple[Any, ...]]:
        changed, gone = self.changes.after(since)
        if self.is_whole(since):  # who gets it may have had it before, as it was
            whole: list[tuple[Any, ...]] = [(rebuild.learn, self.func)]
            return [*whole, (rebuild.change_function, self.func, {}, gone)] if gone else whole
        attributes = {name: self.func.__dict__[name] for name in changed}
        return [(rebuild.change_function, self.func, attributes, gone)]

    def root(self, since: int) -> tuple[Any, Collection[str] | None]:
        return self.func, None if self.is_whole(since) else self.changes.after(since)[0]

    @property
    def place(self) -> Any:
        return self.func


class ClassUnit(Unit):
    """A class that workers cannot import."""

    order = 2

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.token = tokens.given(cls)
        self.marks: dict[str, Mark] = {}
        self.bases: Any = None
        self.changes: Changes[str] = Changes()
        self.statement: CodeType | None = None  # by which it is made, where nothing else will do
        self.registered: list[type] = []
        self.registry: object = None  # another one when some class was registered somewhere
        self.members: list[str] | None = None  # of an Enum
        self.body = 0  # the version in which it got these
        self.given: dict[tuple[str, str], Mark] = {}  # what its members have been given
        self.gifts: Changes[tuple[str, str]] = Changes()

    def refresh(self, script: Script) -> bool:
        cls, marks = self.cls, self.marks
        content = cls.__dict__
        if (
            cls.__bases__ is self.bases
            and len(content) == len(marks)
            and not self._registers()
            and not (self.members is not None and self._gives(script))
        ):
            for name, value in content.items():
                mark = marks.get(name)
                if mark is None or not (
                    (mark.fixed and value is mark.value) or mark.same(value, script)
                ):
                    break
            else:
                return False
        try:
            self._look(script)
        except Unsendable:
            raise
        except Exception as error:
            raise Unsendable(f"class {cls.__qualname__!r}", cls) from error
        return True

    def _registers(self) -> bool:
        """Whether an abstract class was told of others by ``register`` since the last look."""
        if "_abc_impl" not in self.marks or self.registry == abc.get_cache_token():
            return False
        self.registry = abc.get_cache_token()
        return self.registered != registered(self.cls)

    def _gives(self, script: Script) -> bool:
        """Whether members of an Enum have been given something, or have lost it."""
        given, marks = member_attributes(self.cls), self.given
        if given.keys() != marks.keys() or self.members != list(self._member_map()):
            return True
        return not all(mark.same(given[name], script) for name, mark in marks.items())

    def _member_map(self) -> dict[str, Any]:
        found: dict[str, Any] = self.cls.__dict__.get("_member_map_", {})
        return found

    def _look(self, script: Script) -> None:
        cls, before = self.cls, self.marks
        if is_compiled(type(cls)) and self.statement is None:
            self.statement = class_statement(cls)
        kind = type(cls)
        of_library = is_reachable(kind) and kind.__module__ not in ("builtins", "abc", "enum")
        try:
            self.survey(cls, listed=of_library and self.statement is None)
        except Exception:
            if of_library:
                self.statement = class_statement(cls)  # a library keeps its books in it
            if self.statement is None and not of_library:
                raise
            self.survey(cls)
        space = getattr(sys.modules.get(cls.__module__), "__dict__", None)
        name = cls.__qualname__.split(".")[0]
        if space is not None and name in space:
            self.needs += (script.global_unit(space, name),)
        self.version = version = next(_versions)
        seen = {id(cls): None}
        marks = {}
        for name, value in list(cls.__dict__.items()):  # to pickle its instance adds to it
            mark = before.get(name)
            if mark is None or not mark.same(value, script):
                self.changes.made(name, version)
                own = name in NOT_ATTRIBUTES or (name.startswith("_") and name.endswith("_"))
                by_identity = own and not isinstance(value, FunctionType)
                by_identity = by_identity or name in self._member_map()
                by_identity = by_identity or self.statement is not None
                mark = Mark(value) if by_identity else script.mark(value, seen)
            marks[name] = mark
        self.changes.undone(before.keys() - marks.keys(), version)
        self._look_at_members(script, version)
        before_it, self.registered = self.registered, registered(cls)
        if self.registered != before_it:
            self.changes.made("_abc_impl", version)
        if cls.__bases__ is not self.bases:
            self.changes.made("__bases__", version)
        self.registry = abc.get_cache_token()
        self.marks, self.bases = marks, cls.__bases__

    def _look_at_members(self, script: Script, version: int) -> None:
        if not isinstance(self.cls, enum.EnumMeta):
            return
        members = list(self._member_map())
        if members != self.members:
            self.members, self.body = members, version
        before, given = self.given, {}
        for name, value in member_attributes(self.cls).items():
            mark = before.get(name)
            if mark is None or not mark.same(value, script):
                self.gifts.made(name, version)
                mark = script.mark(value, {})
            given[name] = mark
        self.gifts.undone(before.keys() - given.keys(), version)
        self.given = given

    def is_whole(self, since: int) -> bool:
        return not since or self.statement is not None or since < self.body

    def entries(self, since: int) -> list[tuple[Any, ...]]:
        changed, gone = self.changes.after(since)
        changed_of_members, gone_of_members = self.gifts.after(since)
        if self.is_whole(since):  # who gets it may have had it before, as it was
            entries: list[tuple[Any, ...]] = [(rebuild.learn, self.cls)]
            if gone:
                entries.append((rebuild.change, self.cls, {}, gone, []))
            if gone_of_members:
                entries.append((rebuild.change_members, self.cls, {}, gone_of_members))
            return entries
        content = class_attributes(self.cls)
        attributes = {name: content[name] for name in changed if name in content}
        if "__bases__" in changed:
            attributes["__bases__"] = self.cls.__bases__
        told = self.registered if "_abc_impl" in changed else []
        entries = [(rebuild.change, self.cls, attributes, gone, told)]
        if changed_of_members or gone_of_members:
            given = member_attributes(self.cls)
            gifts = {name: given[name] for name in changed_of_members}
            entries.append((rebuild.change_members, self.cls, gifts, gone_of_members))
        return entries

    def root(self, since: int) -> tuple[Any, Collection[str] | None]:
        return self.cls, None if self.is_whole(since) else self.changes.after(since)[0]

    @property
    def place(self) -> Any:
        return self.cls


class Surroundings(Unit):
    """All of a module, for who has it as a whole, or asks for names that are made as it runs.

    What is sent of it is its class, where that is another one than the usual.
    """

    order = 3

    def __init__(self, space: dict[str, Any]) -> None:
        self.space = space
        self.main = space.get("__name__") == MAIN
        self.kind: type[ModuleType] = ModuleType

    def refresh(self, script: Script) -> bool:
        kind = class_of_module(self.space)
        if kind is not self.kind:
            self.kind, self.version = kind, next(_versions)
        unit = script.global_unit
        names = [name for name in list(self.space) if not name.startswith("__")]
        own = {"__doc__", "__file__"} & self.space.keys()
        if not self.main:
            own = self.space.keys() - _OF_MODULES
        names += [name for name in own if name.startswith("__")]
        found = dict.fromkeys(self.needs)  # those too that are not bound any more
        found.update(dict.fromkeys([unit(self.space, name) for name in names]))
        if not is_reachable(self.kind):
            found[script.unit(self.kind)] = None
        needs = tuple(found)
        if needs == self.needs:
            return False
        self.needs = needs
        return True

    def entries(self, since: int) -> list[tuple[Any, ...]]:  # noqa: ARG002
        return [(rebuild.set_class_of_module, space_key(self.space), self.kind)]


class InheritedUnit(Unit):
    """A semaphore that only workers have that were forked after it was given: nothing is sent."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence

    def refresh(self, script: Script) -> bool:  # noqa: ARG002
        return False

    def entries(self, since: int) -> list[tuple[Any, ...]]:  # noqa: ARG002
        return []


# What the import system puts there, and does so at the other side.
_OF_MODULES = frozenset({"__builtins__", "__cached__", "__loader__", "__name__", "__spec__"})


class ModuleUnit(Unit):
    """A module of the user's, of which this is sent: that it was reloaded, or imported anew.

    Or that IPython has changed it, and what its source was before.
    """

    order = -1

    def __init__(self, module: ModuleType, name: str) -> None:
        self.name = name
        self.module = module
        self.spec = module.__dict__.get("__spec__")
        self.anew = 0  # version in which another module took the place of this one
        self.again = 0  # the last in which it was reloaded
        self.source = autoreload.source_of(module)
        self.patched: list[tuple[int, str]] = []  # versions, and the source before each

    def refresh(self, script: Script) -> bool:
        module = sys.modules.get(self.name)
        spec = getattr(module, "__spec__", None)
        before, source = self.source, autoreload.sources().get(self.name)
        patched = source is not None and source is not before and source != before
        self.source = source or before
        if module is None or (spec is self.spec and not (patched and before)):
            return False
        self.version = script.reloaded = next(_versions)
        if spec is self.spec:
            self.patched.append((self.version, before or ""))
        else:
            self.again = self.version
        if module is not self.module:
            self.module, self.anew = module, self.version
        self.spec = spec
        return True

    def entries(self, since: int) -> list[tuple[Any, ...]]:
        if self.again > since:
            return [(rebuild.reload, self.name, self.anew > since)]
        before = next(before for version, before in self.patched if version > since)
        return [(autoreload.patch, self.name, before)]


# --- what a call needs ---------------------------------------------------------------------------


class Sent:
    """What one worker has been sent: units in their versions. Belongs to the worker's handle."""

    __slots__ = ("_before", "deaths", "plans", "versions")

    def __init__(self) -> None:
        self.versions: dict[Unit, int] = {}
        self.plans: dict[int, int] = {}
        self.deaths = 0
        self._before: dict[Unit, int] = {}

    def copy(self) -> Sent:
        """For another worker, that has been sent the same."""
        other = Sent()
        other.versions.update(self.versions)
        other.plans.update(self.plans)
        other.deaths = self.deaths
        return other

    def took(self, units: dict[Unit, int]) -> None:
        """Take note of what is being sent, with the versions that were there before."""
        self._before = units
        self.versions.update((unit, unit.version) for unit in units)

    def undo(self) -> None:
        """Take back what was sent last: it could not be read."""
        self.plans.clear()
        self.versions.update(self._before)
        self._before = {}


class Same(NamedTuple):
    """What of that which is sent a receiver has as an object already."""

    names: Mapping[GlobalUnit, GlobalUnit]  # globals, by another name
    parts: list[tuple[Unit, parts.Path, Unit, parts.Path]]  # which, where; and where it is found

    def key(self) -> tuple[Any, ...]:
        """Another one for what is not the same."""
        pairs = tuple((id(unit), id(other)) for unit, other in self.names.items())
        return pairs, repr([(id(a), b, id(c), d) for a, b, c, d in self.parts])


class Prepared:
    """What a pickle needs, all that is below it included.

    Attributes
    ----------
    key : tuple
        Another one when something of it has changed.
    inherits : int
        How many semaphores a worker must have inherited; see `inheritance`.
    """

    __slots__ = (
        *("_around", "_required", "_script"),
        *("inherits", "key", "number", "roots", "stamp", "units"),
    )

    def __init__(self, script: Script, number: int, roots: tuple[Unit, ...]) -> None:
        self._script = script
        self.number = number
        self.roots = roots
        self.units: list[Unit] = []
        self.stamp = self.inherits = 0
        self.key = number, 0
        self._required = 0  # units at the beginning that must be there
        self._around = False  # whether all of the script is wanted

    def refresh(self) -> None:
        """Look whether something has changed."""
        script, changed = self._script, not self.units or self._around
        for unit in self.units[: self._required]:
            if unit.refresh(script) or unit.version > self.stamp:  # another call may have seen it
                changed = True
        if script.look_at_modules():
            changed = True
        if changed:
            self._collect()
            self.stamp = max([unit.version for unit in self.units], default=0)
            self.key = self.number, self.stamp

    def _collect(self) -> None:
        """Find all units that are needed, each looked at."""
        script = self._script
        found: dict[Unit, None] = dict.fromkeys(u for u in script.modules if u.version)
        around: list[Unit] = []
        todo = list(self.roots)
        while todo:
            unit = todo.pop()
            if unit not in found:
                unit.refresh(script)
                found[unit] = None
                if type(unit) is Surroundings:
                    around += unit.needs
                else:
                    todo += unit.needs
        self._required, self._around = len(found), bool(around)
        while around:
            unit = around.pop()
            if unit not in found:
                try:
                    unit.refresh(script)
                except Exception:  # noqa: BLE001, S112 - only what can be sent is there by name
                    continue
                found[unit] = None
                around += unit.needs
        self.units = list(found)
        inherited = (unit.sequence for unit in found if isinstance(unit, InheritedUnit))
        self.inherits = max(inherited, default=0)

    @property
    def versions(self) -> frozenset[int]:
        """Versions of all that is needed, as they are now."""
        return frozenset(unit.version for unit in self.units if unit.version)

    def missing(self, sent: Sent) -> list[Unit]:
        """Units that a worker has not got, or in another version."""
        versions = sent.versions
        return [unit for unit in self.units if versions.get(unit, 0) != unit.version]


class _Entry:
    """Something that is done while news are being unpickled."""

    __slots__ = ("args", "make")

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        self.make = make
        self.args = args

    def __reduce__(self) -> Any:
        return self.make, self.args


class Script:
    """All that this process has found out about its script."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._globals: dict[tuple[int, str], GlobalUnit] = {}
        self._named: dict[int, Unit] = {}  # by id: functions and classes of modules
        self._local: OrderedDict[int, ClassUnit] = OrderedDict()  # classes of functions
        self._around: dict[int, Surroundings] = {}
        self._inherited: dict[int, InheritedUnit] = {}
        self._plans: OrderedDict[tuple[Unit, ...], Prepared] = OrderedDict()
        self._news: OrderedDict[Any, Any] = OrderedDict()
        self._numbers = itertools.count(1)
        self._gone: dict[str, int] = {}
        self._deaths = 0
        self.modules: list[ModuleUnit] = []
        self._watched: dict[str, ModuleType] = {}
        self.loaded = 0  # modules, when they were last counted
        self._newest: str | None = None  # the last of them
        self.reloaded = 0  # version of the module that was the last to be
        self._specs: list[int] = []  # by which that is seen

    # --- what there is ---------------------------------------------------------------------------

    def unit(self, obj: Any) -> Any:
        """Unit of a class that goes by value, or of a function that its script has a name for."""
        found = self._named.get(id(obj)) or self._local.get(id(obj))
        if found is not None:
            return found
        if isinstance(obj, type):
            unit = ClassUnit(obj)
            if "<locals>" in obj.__qualname__ or not _is_there(obj):
                with self._lock:
                    self._local[id(obj)] = unit
                    if len(self._local) > MOST_CLASSES:
                        self._lose(self._local.popitem(last=False)[1])
            else:
                self._named[id(obj)] = unit
            return unit
        if is_named(obj):
            return self._function(obj)
        return None

    def _function(self, func: FunctionType) -> FunctionUnit:
        unit = FunctionUnit(func)
        self._named[id(func)] = unit
        return unit

    def _lose(self, unit: Any) -> None:
        self._deaths += 1
        self._gone[unit.token] = self._deaths
        if len(self._gone) > 4 * MOST_CLASSES:
            for token in list(self._gone)[:MOST_CLASSES]:
                del self._gone[token]

    def bound(self, value: Any) -> Unit | None:
        """Unit of a function or class that is the value of a global, under whatever name."""
        if type(value) is FunctionType:
            if is_reachable(value):
                return None
            found = self.unit(value) or self._function(value)
            return found if isinstance(found, Unit) else None
        if isinstance(value, type) and not is_reachable(value):
            unit: Unit = self.unit(value)
            return unit
        return None

    def global_unit(self, space: dict[str, Any], name: str) -> GlobalUnit:
        """Unit of a global."""
        key = id(space), name
        unit = self._globals.get(key)
        if unit is None:
            unit = self._globals[key] = GlobalUnit(space, name)
        return unit

    def of_the_user(self) -> list[str]:
        """Names of the loaded modules that belong to no library."""
        if len(sys.modules) != self.loaded:
            with self._lock:
                self.count_modules()
        return [unit.name for unit in self.modules]

    def surroundings(self, space: dict[str, Any]) -> Surroundings:
        """All of a script."""
        unit = self._around.get(id(space))
        if unit is None:
            unit = self._around[id(space)] = Surroundings(space)
        return unit

    def inherited(self, lock: Any) -> InheritedUnit:
        """A semaphore that only forked workers have."""
        number = inheritance.sequence(lock)
        unit = self._inherited.get(number)
        if unit is None:
            unit = self._inherited[number] = InheritedUnit(number)
        return unit

    def mark(self, value: Any, seen: dict[int, Any]) -> Mark:
        """What a later look compares with."""
        kind = type(value)
        if kind in _ATOMS:
            return AtomMark(value)
        if kind is FunctionType:
            if id(value) in seen or is_reachable(value) or self.unit(value) is not None:
                return Mark(value)
            seen[id(value)] = None
            return FunctionMark(value, self, seen)
        if kind is tuple and all(type(part) in _ATOMS for part in value):
            return AtomMark(value)
        if kind in (staticmethod, classmethod, property):
            return WrapperMark(value, self, seen)
        if isinstance(value, (type, ModuleType, BuiltinFunctionType)) or kind in _BY_IDENTITY:
            return Mark(value)
        return ContentMark(value)

    # --- calls -----------------------------------------------------------------------------------

    def prepare(self, needs: Iterable[Any]) -> Prepared | None:
        """What a pickle with these needs needs in all; None if a worker has it from the start.

        Raises
        ------
        Unsendable
            If something of it cannot be pickled.
        """
        roots = tuple(needs)
        with self._lock:
            if len(sys.modules) != self.loaded:
                self.count_modules()
            plan = self._plans.get(roots)
            if plan is None:
                self.look_at_modules()
                if not roots and not self.reloaded:
                    return None
                plan = Prepared(self, next(self._numbers), roots)
                self._plans[roots] = plan
                if len(self._plans) > MOST_PLANS:
                    self._plans.popitem(last=False)
            else:
                self._plans.move_to_end(roots)
            plan.refresh()
            return plan

    def named(self, keys: Iterable[Any]) -> list[Any]:
        """Units by what a worker calls them: a token, or the key of a namespace and a name."""
        found: list[Any] = []
        for key in keys:
            if isinstance(key, str):
                obj = tokens.find(key)
                unit = None if obj is None else self.unit(obj) or self._function(obj)
            else:
                space = namespace(key[0], key[0].split("#")[0])
                unit = self.global_unit(space, key[1])
            if unit is not None:
                found.append(unit)
        return found

    def look_at_modules(self) -> bool:
        """Whether some of the user's modules were reloaded since the last look."""
        get = sys.modules.get
        specs = [id(getattr(get(unit.name), "__spec__", None)) for unit in self.modules]
        sources = autoreload.sources()
        if sources:
            specs += [id(sources.get(unit.name)) for unit in self.modules]
        if specs == self._specs:
            return False
        self._specs = specs
        before = self.reloaded
        for unit in self.modules:
            unit.refresh(self)
        return self.reloaded != before

    def count_modules(self) -> None:
        """Look for modules of the user among those that are new.

        All are looked at only where some are gone: after a fork, each that is looked at costs a
        page of memory, which its count of references is written to.
        """
        grown, self.loaded = len(sys.modules) - self.loaded, len(sys.modules)
        found = []
        if grown > 0 and self._newest is not None:
            with suppress(RuntimeError):  # another thread imports
                found = list(itertools.islice(reversed(sys.modules.items()), grown + 1))
        if not found or found.pop()[0] != self._newest:
            found = list(reversed(list(sys.modules.items())))
        self._newest = found[0][0]
        for name, module in reversed(found):
            if self._watched.get(name) is module:
                continue
            if isinstance(module, ModuleType):
                known = name in self._watched
                self._watched[name] = module
                if not known and name != MAIN and not in_library(module):
                    self.modules.append(ModuleUnit(module, name))

    def news(self, sent: Sent, *prepared: Any) -> Any:
        """What a worker lacks of all that is needed, as a pickle; None if it has everything.

        It counts as sent from now on.
        """
        plans, versions = sent.plans, sent.versions
        for plan in prepared:
            if plan and plans.get(plan.number) != plan.stamp:
                break
        else:
            return None
        with self._lock:
            missing: dict[Unit, int] = {}
            for plan in prepared:
                if plan:
                    for unit in plan.missing(sent):
                        missing[unit] = versions.get(unit, 0)
                    plans[plan.number] = plan.stamp
            gone = self._gone_since(sent)
            if not missing and not gone:
                return None
            same = None
            if versions:
                same = self._same_objects(missing, lambda unit: versions.get(unit) == unit.version)
            pickled = self._pickled_news(missing, gone, same)
            sent.took(missing)
            return pickled

    def news_without(
        self, held: Collection[int], prepared: Iterable[Prepared]
    ) -> tuple[frozenset[int], Any]:
        """Versions of what a receiver lacks that has the versions `held`, and their pickle.

        For receivers of whom nothing is kept in mind here: a version stands for one state of one
        unit, so that its number alone tells whether that is there.
        """
        with self._lock:
            missing: dict[Unit, int] = {}
            for plan in prepared:
                for unit in plan.units:
                    if unit.version and unit.version not in held:
                        missing[unit] = 0
            same = None
            if held:
                same = self._same_objects(missing, lambda unit: unit.version in held)
            versions = frozenset(unit.version for unit in missing)
            there = {unit.token for unit in self._local.values()}  # lost, and used again
            gone = tuple(token for token in self._gone if token not in there)
            return versions, self._pickled_news(missing, gone, same)

    def _gone_since(self, sent: Sent) -> tuple[str, ...]:
        if sent.deaths == self._deaths:
            return ()
        gone = tuple(token for token, death in self._gone.items() if death > sent.deaths)
        sent.deaths = self._deaths
        for unit in [u for u in sent.versions if getattr(u, "token", None) in set(gone)]:
            del sent.versions[unit]
        return gone

    def _same_objects(self, missing: dict[Unit, int], has: Callable[[Unit], bool]) -> Same:
        """Of what is being sent, what the receiver has that object of, or a part of it.

        Where the caller has changed that object since, all goes along that it belongs to.
        """
        names: dict[GlobalUnit, GlobalUnit] = {}
        wanted: dict[int, list[GlobalUnit]] = {}
        for unit in missing:
            if type(unit) is GlobalUnit and not unit.mark.fixed:
                wanted.setdefault(unit.identity, []).append(unit)
        if wanted:
            for other in list(self._globals.values()):
                if other.identity not in wanted or other in missing or not has(other):
                    continue
                found = id(other.space.get(other.name, ABSENT))
                if found == other.identity and self._add_if_changed(other, missing, has):
                    names.update(dict.fromkeys(wanted[other.identity], other))
        return Same(names, self._same_parts(missing, names, has))

    def _same_parts(
        self,
        missing: dict[Unit, int],
        names: Mapping[GlobalUnit, GlobalUnit],
        has: Callable[[Unit], bool],
    ) -> list[tuple[Unit, parts.Path, Unit, parts.Path]]:
        """Parts of what is being sent that the receiver has as parts of something else."""
        found: dict[int, list[tuple[Unit, parts.Path]]] = {}
        for unit, since in missing.items():
            root = unit.root(since)
            if root is not None and unit not in names:
                for number, paths in parts.shared_outside(*root).items():
                    found.setdefault(number, []).extend((unit, path) for path in paths)
        shared: list[tuple[Unit, parts.Path, Unit, parts.Path]] = []
        count = len(missing)
        for other in self._all_units() if found else ():
            root = other.root(0)
            if root is None or other in missing or not other.version or not has(other):
                continue
            there = parts.find(*root, found)
            if there and self._add_if_changed(other, missing, has):
                for number, path in there.items():
                    shared += [(*one, other, path) for one in found.pop(number)]
        if len(missing) > count:  # what was added has parts too
            return self._same_parts(missing, names, has)
        return sorted(shared, key=lambda one: len(one[1]))

    def _all_units(self) -> list[Unit]:
        return [*self._globals.values(), *self._named.values(), *self._local.values()]

    def _add_if_changed(
        self, unit: Unit, missing: dict[Unit, int], has: Callable[[Unit], bool]
    ) -> bool:
        """Let what has changed since its last look be sent too; whether it has not."""
        added: dict[Unit, int] = {}
        try:
            if not unit.refresh(self):
                return True
            todo = [unit]
            while todo:
                one = todo.pop()
                if one.version and one not in missing and one not in added and not has(one):
                    added[one] = 0
                    for needed in one.needs:
                        needed.refresh(self)
                        todo.append(needed)
        except Unsendable:  # it is told when a call needs it
            return False
        missing.update(added)
        return False

    def _pickled_news(
        self, missing: dict[Unit, int], gone: tuple[str, ...], same: Same | None = None
    ) -> Any:
        units = tuple((id(unit), unit.version, since) for unit, since in missing.items())
        key = units, gone, None if same is None else same.key()
        pickled = self._news.get(key)
        if pickled is None:
            entries = news_entries(missing, gone, same)
            pickled = self._news[key] = pickling.dumps_defining(entries, _defined(missing))
            if len(self._news) > MOST_NEWS:
                self._news.popitem(last=False)
        return pickled

    def ready(self, pickled: Any) -> Any:
        """Prepare what a pickle needs; it then has that in ``needs``."""
        return type(pickled)(*pickled[:-1], self.prepare(pickled.needs))

    def addressed(self, obj: Any, sent: Sent) -> Any:
        """Pickle `obj` together with what one receiver lacks, which counts as sent."""
        pickled = pickling.dumps(obj)
        if not pickled.needs:
            return pickled
        with self._lock:
            prepared = self.prepare(pickled.needs)
            assert prepared is not None
            missing = {unit: sent.versions.get(unit, 0) for unit in prepared.missing(sent)}
            if missing:
                entries = news_entries(missing, ())
                whole = _Entry(second, entries, obj)
                pickled = pickling.dumps_defining(whole, _defined(missing))
                sent.took(missing)
            sent.plans[prepared.number] = prepared.stamp
            return pickled

    def forked(self) -> None:
        """In a forked child: the lock may be another thread's that is not there."""
        self._lock = threading.RLock()

    def clear(self) -> None:
        """Forget all, as a worker does that was forked."""
        self.__init__()  # type: ignore[misc]


def _defined(missing: Mapping[Unit, int]) -> dict[Unit, bool]:
    return {unit: unit.is_whole(since) for unit, since in missing.items()}


def second(_: Any, obj: Any) -> Any:
    """Return `obj`, for which the first was made ready."""
    return obj


def news_entries(
    missing: dict[Unit, int], gone: tuple[str, ...], same: Same | None = None
) -> tuple[Any, ...]:
    """What is done at the receiver, in order."""
    entries = [_Entry(rebuild.begin)]
    if gone:
        entries.append(_Entry(rebuild.forget, gone))
    names = {} if same is None else same.names
    for unit in sorted(missing, key=lambda unit: unit.order):
        if type(unit) is GlobalUnit and unit in names:
            entries.append(_Entry(*names[unit].bound_as(unit)))
        else:
            entries += [_Entry(*entry) for entry in unit.entries(missing[unit])]
    for unit, path, other, other_path in () if same is None else same.parts:
        entries.append(_Entry(rebuild.share, unit.place, path, other.place, other_path))
    return (*entries, _Entry(rebuild.end))


def _is_there(cls: type) -> bool:
    """Whether a class is found in its module."""
    found: Any = sys.modules.get(cls.__module__)
    for part in cls.__qualname__.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found is cls


_BY_IDENTITY = frozenset(
    {
        *(type(len), type(str.join), type(object.__init__)),
        *(GetSetDescriptorType, MemberDescriptorType),
        type(__import__("functools").lru_cache(lambda: None)),
    }
)

script = Script()
ByValuePickler.knowledge = script

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=script.forked)
