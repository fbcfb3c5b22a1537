"""What is sent of the script as a whole: a global, a function, a class.

Each unit has a version, which grows when a look at it finds another value, or other content
(`marks`). What is sent of a class that was changed in place is what was changed.

It is long because each kind says all of itself: when it has changed, what it refers to, what is
sent of it, and where its parts are found.
"""

# What the methods of a unit do is told by `Unit`.
# ruff: noqa: D102

from __future__ import annotations

import abc
import enum
import itertools
import sys
from collections.abc import Callable, Collection, Iterable
from types import CodeType, FunctionType, ModuleType
from typing import Any, Generic, Protocol, TypeVar

from ..place.sigint import pass_on
from . import autoreload, rebuild
from .classes import (
    NOT_ATTRIBUTES,
    class_attributes,
    class_statement,
    is_compiled,
    member_attributes,
    registered,
)
from .importable import is_found, is_named, is_reachable
from .marks import (
    ABSENT,
    AnnotationsMark,
    AtomMark,
    FunctionMark,
    Known,
    Mark,
    looked_at,
    marked,
)
from .mirror import IMPORTED, MAIN, class_of_module, namespace, space_key, tokens
from .parts import ATOMS

__all__ = [
    "ClassUnit",
    "Entry",
    "FunctionUnit",
    "GlobalUnit",
    "InheritedUnit",
    "KnownUnits",
    "ModuleUnit",
    "Surroundings",
    "Unit",
    "Unsendable",
]

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


class Entry:
    """Something that is done while news are being unpickled."""

    __slots__ = ("args", "make")

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        self.make = make
        self.args = args

    def __reduce__(self) -> Any:
        return self.make, self.args


class KnownUnits(Known, Protocol):
    """What is known of the script, as far as a unit asks for it; see `script`."""

    reloaded: int  # version of the module that was the last to be
    redefined: bool  # whether a name stands for another function or class than before

    def bound(self, value: Any) -> Unit | None:
        """Unit of a function or class that is the value of a global, under whatever name."""
        ...

    def global_unit(self, space: dict[str, Any], name: str) -> GlobalUnit:
        """Unit of a global."""
        ...


class Unit:
    """What is sent as a whole.

    Attributes
    ----------
    version : int
        0 for what there is nothing to send of.
    needs : tuple of Unit
        What it refers to.
    around : tuple of Unit
        What is found by way of it though nothing names it: sent too, as far as it can be.
    """

    version = 0
    needs: tuple[Unit, ...] = ()
    around: tuple[Unit, ...] = ()
    order = 0  # in which units are sent
    lost = False  # whether workers were told to forget it

    def refresh(self, script: KnownUnits) -> bool:
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

    def survey(self, value: Any, listed: bool = False) -> tuple[Unit, ...]:
        """Return what `value` refers to."""
        _, pickler = looked_at(value, {self: True}, listed)
        return tuple(unit for unit in pickler.needs if unit is not self)


class GlobalUnit(Unit):
    """A global of the script, or of another module that workers cannot import."""

    def __init__(self, space: dict[str, Any], name: str) -> None:
        self.space = space
        self.key = space_key(space)
        module = space.get("__name__")
        self.module = module if isinstance(module, str) else "?"
        self.name = name
        self.mark: Mark = Mark(ABSENT)
        self.identity = 0

    def refresh(self, script: KnownUnits) -> bool:
        value = self.space.get(self.name, ABSENT)
        mark = self.mark
        if mark.same(value, script) and (mark.fixed or id(value) == self.identity):
            return False
        if mark.fixed and self.needs:
            script.redefined = True
        try:
            now, needs = self._looked_at(value, script)
        except Unsendable:
            raise
        except Exception as error:
            pass_on(error)
            raise Unsendable(f"its global {self.name!r}", value) from error
        # The version comes first: a signal handler may raise here, and the change would be lost.
        if self.version or value is not ABSENT:
            self.version = next(_versions)
        self.order, self.needs = _order(value), needs
        self.mark = now
        self.identity = id(value)  # bound anew to what is equal, it takes the worker's place too
        return True

    def _looked_at(self, value: Any, script: KnownUnits) -> tuple[Mark, tuple[Unit, ...]]:
        if value is ABSENT:
            return Mark(ABSENT), ()
        unit = script.bound(value)
        if unit is not None:
            return Mark(value), (unit,)
        mark = marked(value, script, {})
        return mark, () if type(mark) is AtomMark else self.survey(value)

    def is_bound_anew(self) -> bool:
        """Whether it stands for another function or class than at the last look."""
        mark = self.mark
        return mark.fixed and self.space.get(self.name, ABSENT) is not mark.value

    def entries(self, since: int) -> list[tuple[Any, ...]]:  # noqa: ARG002
        # Another thread may have bound it since; what is fixed goes as it was looked at.
        value = self.mark.value if self.mark.fixed else self.space.get(self.name, ABSENT)
        if value is ABSENT:
            return [(rebuild.unbind, self.key, self.module, (self.name,))]
        if self.key.endswith(IMPORTED) and _is_as_imported(value, self.module, self.name):
            return [(rebuild.bind_again, self.key, self.module, self.name, value)]
        bound = rebuild.bind, self.key, self.module, {self.name: value}
        return [bound] if self.mark.fixed else [(rebuild.about, self.name), bound]

    def root(self, since: int) -> tuple[Any, Collection[str] | None] | None:  # noqa: ARG002
        return None if self.mark.fixed else (self.space, (self.name,))

    @property
    def place(self) -> Any:
        return Entry(namespace, self.key, self.module)

    def bound_as(self, other: GlobalUnit) -> tuple[Any, ...]:
        """What binds `other`, the same object, where this one is bound."""
        mine = self.key, self.module, self.name
        return rebuild.bind_same, other.key, other.module, other.name, *mine


def _is_as_imported(value: Any, module: str, name: str) -> bool:
    """Whether it is the function or class that a module has made under this name."""
    return (
        isinstance(value, (FunctionType, type))
        and (value.__module__, value.__qualname__) == (module, name)
        and is_reachable(value)
    )


def _order(value: Any) -> int:
    """Modules and plain values come first, then functions, classes, and what is made of them."""
    if type(value) in ATOMS or isinstance(value, ModuleType):
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

    def refresh(self, script: KnownUnits) -> bool:
        before = self.mark
        if before is not None and before.same(self.func, script):
            return False
        func = self.func
        try:
            needs = self.survey(func)
            mark = FunctionMark(func, script, {id(func): None})
        except Unsendable:
            raise
        except Exception as error:
            pass_on(error)
            raise Unsendable(f"function {func.__qualname__!r}", func) from error
        if is_named(func):
            needs += (script.global_unit(func.__globals__, func.__name__),)
        self.needs, self.version = needs, next(_versions)
        if before is None or not before.same_body(func, script) or hasattr(func, "registry"):
            self.body = self.version
        else:
            for name, value in func.__dict__.copy().items():
                known = before.attributes.get(name)
                if known is None or not known.same(value, script):
                    self.changes.made(name, self.version)
            self.changes.undone(before.attributes.keys() - mark.attributes.keys(), self.version)
        self.mark = mark  # last, since a signal handler may raise before
        return True

    def is_whole(self, since: int) -> bool:
        return since < self.body

    def entries(self, since: int) -> list[tuple[Any, ...]]:
        changed, gone = self.changes.after(since)
        if self.is_whole(since):  # who gets it may have had it before, as it was
            whole: list[tuple[Any, ...]] = [(rebuild.learn, self.func)]
            return [*whole, (rebuild.change_function, self.func, {}, gone)] if gone else whole
        now = self.func.__dict__.copy()  # another thread may have taken some away since
        attributes = {name: now[name] for name in changed if name in now}
        return [(rebuild.change_function, self.func, attributes, gone)]

    def root(self, since: int) -> tuple[Any, Collection[str] | None]:
        return self.func, None if self.is_whole(since) else self.changes.after(since)[0]

    @property
    def place(self) -> Any:
        return self.func


_NAMES = ("__name__", "__qualname__")  # of a class


class ClassUnit(Unit):
    """A class that workers cannot import."""

    order = 2

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.token = tokens.given(cls)
        self.marks: dict[str, Mark] = {}
        self.bases: Any = None
        self.names: Any = None
        self.changes: Changes[str] = Changes()
        self.statement: CodeType | None = None  # by which it is made, where nothing else will do
        self.registered: list[type] = []
        self.registry: object = None  # another one when some class was registered somewhere
        self.members: list[str] | None = None  # of an Enum
        self.body = 0  # the version in which it got these
        self.given: dict[tuple[str | int, str], Mark] = {}  # what its members have been given
        self.gifts: Changes[tuple[str | int, str]] = Changes()

    def refresh(self, script: KnownUnits) -> bool:
        cls, marks = self.cls, self.marks
        content = cls.__dict__
        subclasses: list[type] = type.__subclasses__(cls)
        if subclasses:
            self._look_at_subclasses(subclasses, script)
        if (
            cls.__bases__ is self.bases
            and (cls.__name__, cls.__qualname__) == self.names
            and len(content) == len(marks)
            and not self._registers()
            and not (self.members is not None and self._gives(script))
        ):
            for name, value in list(content.items()):
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
            pass_on(error)
            raise Unsendable(f"class {cls.__qualname__!r}", cls) from error
        return True

    def _look_at_subclasses(self, subclasses: list[type], script: KnownUnits) -> None:
        """Have the globals around that these classes are found by; those too that were before."""
        found = dict.fromkeys(self.around)
        for cls in subclasses:
            if not is_reachable(cls) and is_found(cls):
                space = sys.modules[cls.__module__].__dict__
                found[script.global_unit(space, cls.__qualname__.partition(".")[0])] = None
        if len(found) > len(self.around):
            self.around = tuple(found)

    def _registers(self) -> bool:
        """Whether an abstract class was told of others by ``register`` since the last look."""
        if "_abc_impl" not in self.marks or self.registry == abc.get_cache_token():
            return False
        token = abc.get_cache_token()
        if self.registered != registered(self.cls):
            return True
        self.registry = token
        return False

    def _gives(self, script: KnownUnits) -> bool:
        """Whether members of an Enum have been given something, or have lost it."""
        given, marks = member_attributes(self.cls), self.given
        if given.keys() != marks.keys() or self.members != list(self._member_map()):
            return True
        return not all(mark.same(given[name], script) for name, mark in marks.items())

    def _member_map(self) -> dict[str, Any]:
        found: dict[str, Any] = self.cls.__dict__.get("_member_map_", {})
        return found

    def _look(self, script: KnownUnits) -> None:
        cls, before = self.cls, self.marks
        if is_compiled(type(cls)) and self.statement is None:
            self.statement = class_statement(cls)
        kind = type(cls)
        of_library = is_reachable(kind) and kind.__module__ not in ("builtins", "abc", "enum")
        try:
            needs = self.survey(cls, listed=of_library and self.statement is None)
        except Exception as error:
            pass_on(error)
            if of_library:
                self.statement = class_statement(cls)  # a library keeps its books in it
            if self.statement is None and not of_library:
                raise
            needs = self.survey(cls)
        space = getattr(sys.modules.get(cls.__module__), "__dict__", None)
        name, *inner = cls.__qualname__.split(".")
        # A class of a class is found by way of that; one of a function needs nothing of it.
        if space is not None and name in space and "<locals>" not in inner:
            needs += (script.global_unit(space, name),)
        # The marks come last: a signal handler may raise here, and a change would be lost.
        self.needs, self.version = needs, next(_versions)
        version = self.version
        seen = {id(cls): None}
        marks = {}
        for name, value in list(cls.__dict__.items()):  # to pickle its instance adds to it
            mark = before.get(name)
            if mark is None or not mark.same(value, script):
                self.changes.made(name, version)
                mark = self._marked(name, value, script, seen)
            marks[name] = mark
        self.changes.undone(before.keys() - marks.keys(), version)
        self._look_at_members(script, version)
        token, now = abc.get_cache_token(), registered(cls)
        if now != self.registered:
            self.changes.made("_abc_impl", version)
        self._look_at_names(version)
        self.registered, self.registry, self.marks = now, token, marks

    def _look_at_names(self, version: int) -> None:
        """Look at what is not in its namespace."""
        cls, names = self.cls, (self.cls.__name__, self.cls.__qualname__)
        if cls.__bases__ is not self.bases:
            self.changes.made("__bases__", version)
        if names != self.names:
            for name in _NAMES:
                self.changes.made(name, version)
        self.bases, self.names = cls.__bases__, names

    def _marked(self, name: str, value: Any, script: KnownUnits, seen: dict[int, Any]) -> Mark:
        if name == "__annotations__" and type(value) is dict:
            return AnnotationsMark(value)
        own = name in NOT_ATTRIBUTES or (name.startswith("_") and name.endswith("_"))
        by_identity = own and not isinstance(value, FunctionType)
        by_identity = by_identity or name in self._member_map()
        by_identity = by_identity or self.statement is not None
        return Mark(value) if by_identity else marked(value, script, seen)

    def _look_at_members(self, script: KnownUnits, version: int) -> None:
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
                mark = marked(value, script, {})
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
        for name in ("__bases__", *_NAMES):
            if name in changed:
                attributes[name] = getattr(self.cls, name)
        told = self.registered if "_abc_impl" in changed else []
        entries = [(rebuild.change, self.cls, attributes, gone, told)]
        if changed_of_members or gone_of_members:
            given = member_attributes(self.cls)
            gifts = {name: given[name] for name in changed_of_members if name in given}
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

    def refresh(self, script: KnownUnits) -> bool:
        kind = class_of_module(self.space)
        if kind is not self.kind and not space_key(self.space).endswith(IMPORTED):
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

    def refresh(self, script: KnownUnits) -> bool:  # noqa: ARG002
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

    def refresh(self, script: KnownUnits) -> bool:
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
