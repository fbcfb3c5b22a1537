"""How functions and classes are made again that the other side cannot import.

What is called here stands in pickles that `byvalue` writes. A class is made empty, by the nearest
metaclass that can be imported and without the hooks of its bases, and then given all that the
original has: what those hooks did once is part of that.
"""

from __future__ import annotations

import enum
import functools
import importlib
import marshal
import sys
import threading
import typing
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import CellType, CodeType, FunctionType, ModuleType, new_class, resolve_bases
from typing import Any, Self

from . import carried, parts
from .mirror import MAIN, ScriptModule, current, module_of, namespace, show_source, tokens

__all__ = [
    "KeptReference",
    "about",
    "cached",
    "change",
    "change_function",
    "change_members",
    "code",
    "empty_cell",
    "fill_weakly",
    "find",
    "find_global",
    "learn",
    "made",
    "make_alias",
    "make_class",
    "make_function",
    "member",
    "method",
    "module",
    "run_statement",
    "set_alias",
    "set_cell",
    "set_class",
    "set_class_of_module",
    "set_function",
    "share",
    "single_dispatch",
]


# --- what is known already -----------------------------------------------------------------------


def find(token: str, name: str) -> Any:
    """Function or class that came before, or that is this process's own."""
    found = tokens.find(token)
    if found is None:
        raise LookupError(
            f"{name}, a function or class of the script, is not known here any more; "
            "was it removed from its module while the call was running?"
        )
    return found


def find_global(key: str, module: str, name: str) -> Any:
    """Value of a global of the script."""
    found: Any = namespace(key, module)
    for part in name.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    return found


def module(key: str, name: str) -> ModuleType:
    """Module that cannot be imported, as its script has it."""
    return module_of(key, name)


def method(cls: type, name: str) -> Any:
    """Function in a class, as it stands in its namespace."""
    return cls.__dict__[name]


def member(cls: Any, name: str | int) -> Any:
    """Member of an Enum, or a combination of members by its value."""
    return cls._member_map_[name] if isinstance(name, str) else cls(name)


# --- functions -----------------------------------------------------------------------------------


def code(data: bytes) -> CodeType:
    """Code of a function."""
    made: CodeType = marshal.loads(data)  # noqa: S302 - of our own pickles
    return made


def empty_cell() -> CellType:
    """Make a cell, filled when what holds it is there."""
    return CellType()


def set_cell(cell: CellType, content: tuple[Any]) -> None:
    """Fill a cell."""
    cell.cell_contents = content[0]


def make_function(
    token: str | None,
    key: str,
    module: str,
    body: CodeType,
    name: str,
    closure: tuple[CellType, ...] | None,
) -> FunctionType:
    """Make a function on the globals of its module; one that is there is changed in place."""
    known = None if token is None else tokens.find(token)
    if known is not None and len(known.__closure__ or ()) == len(closure or ()):
        for old, new in zip(known.__closure__ or (), closure or (), strict=True):
            try:
                old.cell_contents = new.cell_contents
            except ValueError:  # an empty one
                pass
        if known.__code__ is not body and known.__code__ != body:
            known.__code__ = body
        known.__name__ = name
        return typing.cast(FunctionType, _kept(token, known))
    func = FunctionType(body, namespace(key, module), name, None, closure)
    return typing.cast(FunctionType, _kept(token, func))


def _kept(token: str | None, obj: Any) -> Any:
    """Remember what came under a token; of the client's script, as long as it counts on that."""
    if token is not None:
        if tokens.of(obj) is None:
            tokens.put(obj, token)
        mirror = current()
        if mirror is not None and mirror.learning:
            mirror.known[token] = obj
    return obj


def set_function(func: FunctionType, state: tuple[Any, ...]) -> None:
    """Give a function what it has beside its code."""
    attributes, own, imports, source = state
    for name in imports:
        importlib.import_module(name)
    if source is not None:
        show_source(*source)
    func.__dict__.update(own)
    for name, value in attributes.items():
        setattr(func, name, value)


def single_dispatch(
    token: str | None, registry: Mapping[type, Callable[..., Any]], own: dict[str, Any]
) -> Any:
    """Make what ``functools.singledispatch`` makes."""
    func = None if token is None else tokens.find(token)
    if func is None:
        func = _kept(token, functools.singledispatch(registry[object]))
    for kind, implementation in registry.items():
        if kind is not object and func.registry.get(kind) is not implementation:
            func.register(kind, implementation)
    func.__dict__.update(own)
    return func


def cached(func: Callable[..., Any], parameters: Mapping[str, Any]) -> Any:
    """Make what ``functools.lru_cache`` makes."""
    return functools.lru_cache(**parameters)(func)


# --- classes -------------------------------------------------------------------------------------


def make_class(
    token: str,
    metaclass: type,
    name: str,
    bases: tuple[Any, ...],
    early: dict[str, Any],
    foreign: bool,
) -> type:
    """Make a class without its content, or find the one that is there."""
    known = tokens.find(token)
    if known is not None:
        _set(known, "__name__", name)
        _set(known, "__qualname__", early["__qualname__"])
        return typing.cast(type, _kept(token, known))
    cls = None
    if foreign:  # a library's metaclass keeps books
        try:
            keywords = {"metaclass": metaclass}
            cls = new_class(name, bases, keywords, lambda space: space.update(early))
        except Exception:  # noqa: BLE001 - it demands what only the class statement has
            cls = None
    if cls is None:
        cls = _bare(metaclass, name, bases, early)
    _kept(token, cls)
    return cls


def _bare(metaclass: type, name: str, bases: tuple[Any, ...], early: dict[str, Any]) -> type:
    """Make a class with no hook of a metaclass or base of the script being called."""
    real = resolve_bases(bases)
    maker = next(m for m in metaclass.__mro__ if _can_make(m))
    space: Any = dict(early)
    if issubclass(maker, enum.EnumMeta):
        space = enum.EnumMeta.__prepare__(name, real)
        for key, value in early.items():
            dict.__setitem__(space, key, value)
    hooks = {
        base: base.__dict__["__init_subclass__"]
        for one in real
        for base in one.__mro__
        if "__init_subclass__" in base.__dict__ and base.__module__ not in ("builtins", "typing")
    }
    with _making:
        for base in hooks:
            type.__setattr__(base, "__init_subclass__", _say_nothing)
        try:
            return typing.cast(type, maker.__new__(metaclass, name, real, space))
        finally:
            for base, hook in hooks.items():
                type.__setattr__(base, "__init_subclass__", hook)


_making = threading.RLock()


@classmethod  # type: ignore[misc]
def _say_nothing(cls: type, **_: Any) -> None:
    """Stand for what a base does when it gets a subclass: that has been done."""


def _can_make(metaclass: type) -> bool:
    """Whether a metaclass makes classes without demands."""
    if metaclass is type:
        return True
    return metaclass.__module__ in ("abc", "enum") and "__new__" in metaclass.__dict__


def run_statement(
    token: str, key: str, module: str, statement: CodeType, name: str, names: Mapping[str, Any]
) -> type:
    """Make a class by its class statement, on the globals of its module."""
    known = tokens.find(token)
    if known is None:
        space = namespace(key, module)
        if _is_imported_here(key):
            space = dict(space)
        space.update(names)
        exec(statement, space)  # noqa: S102 - the script's own
        known = space[name]
    return typing.cast(type, _kept(token, known))


def set_class(cls: type, state: tuple[Any, ...]) -> None:
    """Give a class its content."""
    attributes, members, registered = state
    for name, value in attributes.items():
        _set(cls, name, value)
    if members is not None:
        _set_members(cls, members)
    for subclass in registered:
        cls.register(subclass)  # type: ignore[attr-defined]


def _set(cls: type, name: str, value: Any) -> None:
    try:
        type.__setattr__(cls, name, value)
    except (AttributeError, TypeError):
        try:
            setattr(cls, name, value)
        except (AttributeError, TypeError):  # set by Python itself
            pass


def _set_members(cls: Any, members: Iterable[tuple[Any, Any, tuple[Any, ...], Any]]) -> None:
    """Give an Enum its members, with all that their making has given them."""
    for name, maker, args, state in members:
        if not isinstance(name, str):
            vars(member(cls, name)).update(state)
            continue
        if maker is None:  # another name of one before
            cls._member_map_[name] = cls._member_map_[args[0]]
        else:
            made = cls._member_map_.get(name)
            if made is None:
                made = maker.__new__(cls, *args)
            made.__dict__.update(state)
            made.__objclass__ = cls
            cls._member_map_[name] = made
            if state.pop("__listed__", True) and name not in cls._member_names_:
                cls._member_names_.append(name)
            try:
                cls._value2member_map_.setdefault(made._value_, made)
            except TypeError:  # not hashable: found by a search
                unhashable = getattr(cls, "_unhashable_values_", None)
                if unhashable is not None and made._value_ not in unhashable:
                    unhashable.append(made._value_)
        type.__setattr__(cls, name, cls._member_map_[name])


def change(
    obj: Any, attributes: Mapping[str, Any], gone: Iterable[str], registered: Iterable[type]
) -> None:
    """Change a class as its original was changed."""
    for name, value in attributes.items():
        _set(obj, name, value)
    for name in gone:
        try:
            type.__delattr__(obj, name)
        except (AttributeError, TypeError):
            pass
    for subclass in registered:
        obj.register(subclass)
    _came(obj, [*attributes, *gone])


def change_members(
    cls: Any, given: Mapping[tuple[str | int, str], Any], gone: Iterable[tuple[str | int, str]]
) -> None:
    """Change what was given to members of an Enum as it was given to the originals."""
    for (name, key), value in given.items():
        vars(member(cls, name))[key] = value
    for name, key in gone:
        vars(member(cls, name)).pop(key, None)


def change_function(func: FunctionType, attributes: Mapping[str, Any], gone: Iterable[str]) -> None:
    """Change what was given to a function as it was given to its original."""
    func.__dict__.update(attributes)
    for name in gone:
        func.__dict__.pop(name, None)
    _came(func, [*attributes, *gone])


# --- names of types ------------------------------------------------------------------------------


def made(
    token: str,
    kind: Callable[..., Any],
    args: tuple[Any, ...],
    keywords: dict[str, Any],
    module: str,
) -> Any:
    """Make a TypeVar or the like, or find the one that came before."""
    known = tokens.find(token)
    if known is None:
        known = kind(*args, **keywords)
        try:
            known.__module__ = module
        except AttributeError:
            pass
        _kept(token, known)
    return known


def make_alias(token: str, name: str, module: str) -> Any:
    """Make a type alias that may name itself; its value comes later."""
    known = tokens.find(token)
    if known is None:
        space: dict[str, Any] = {"__name__": module, "_value": None}
        exec(f"type {name} = _value", space)  # noqa: S102 - its value is looked up when asked for
        known = _kept(token, space[name])
        _alias_spaces[id(known)] = space
    return known


_alias_spaces: dict[int, dict[str, Any]] = {}


def set_alias(alias: Any, value: tuple[Any]) -> None:
    """Give an alias its value."""
    space = _alias_spaces.pop(id(alias), None)
    if space is not None:
        space["_value"] = value[0]


class KeptReference(weakref.ref[Any]):
    """A weak reference to a copy that nobody else would keep."""

    __slots__ = ("strong",)

    strong: Any

    def __new__(cls, obj: Any, callback: Any = None) -> Self:
        """Refer to `obj`, and keep it."""
        made = super().__new__(cls, obj, callback)
        made.strong = obj
        return made

    def __init__(self, obj: Any, callback: Any = None) -> None:
        super().__init__(obj, callback)  # type: ignore[call-arg] # which wants the same again

    def __reduce__(self) -> Any:
        return KeptReference, (self(),)


def fill_weakly(container: Any, state: tuple[list[Any], list[Any]]) -> None:
    """Fill a weak set or dict; it keeps those copies that nobody else would."""
    content, container.kept = state
    container.update(content)


# --- news ----------------------------------------------------------------------------------------


def learn(obj: Any) -> None:
    """Take in a function or class: what its making did is all there is to it."""
    _came(obj)


def _came(obj: Any, names: Iterable[str] | None = None) -> None:
    """Let the attributes of a function or class, or some, count as the caller's."""
    mirror = current()
    if mirror is not None:
        mirror.came(tokens.of(obj), names)


def begin() -> None:
    """From here on all comes from the client's script."""
    mirror = current()
    if mirror is not None:
        mirror.learning, mirror.about = True, None


def end() -> None:
    """What comes from here on may have been made by another worker."""
    mirror = current()
    if mirror is not None:
        mirror.learning, mirror.about = False, None
        mirror.settled()


def about(name: str) -> None:
    """Say which global is made next, for an error that its making may raise."""
    mirror = current()
    if mirror is not None:
        mirror.about = name


def bind(key: str, module: str, names: Mapping[str, Any]) -> None:
    """Bind globals of the script."""
    space = namespace(key, module)
    if _is_imported_here(key):
        names = {k: v for k, v in names.items() if carried.is_news(module, k, v)}
    space.update(names)
    mirror = current()
    if mirror is not None:
        mirror.came((key,), names)
        for name, value in names.items():
            if type(value) is object:
                mirror.objects[id(value)] = value, key, module, name


def bare(key: str, name: str, version: int) -> object:
    """Make an ``object()`` that a global is bound to; once, however often that version comes."""
    mirror = current()
    if mirror is None:
        return object()
    known = mirror.bare.get((key, name))
    if known is None or known[0] != version:
        known = mirror.bare[key, name] = version, object()
    return known[1]


def bind_same(
    key: str, module: str, name: str, other_key: str, other_module: str, other_name: str
) -> None:
    """Bind a global to what another one is bound to."""
    bind(key, module, {name: namespace(other_key, other_module)[other_name]})


def bind_again(key: str, module: str, name: str, value: Any) -> None:
    """Bind a global to the function or class that an import has bound it to."""
    if _is_imported_here(key):
        value = carried.original(module, name) or value
    bind(key, module, {name: value})


def _is_imported_here(key: str) -> bool:
    """Whether globals are those of a module that this worker imports, and nobody else has."""
    mirror = current()
    return mirror is not None and mirror.is_own(key)


def share(root: Any, path: parts.Path, other: Any, other_path: parts.Path) -> None:
    """Let a part of what has come be what stands for the same object of the caller here."""
    with suppress(Exception):  # items have put something else there
        there = parts.part(other, other_path)
        if type(parts.part(root, path)) is type(there):
            parts.place(root, path, there)


def set_class_of_module(key: str, kind: type[ModuleType]) -> None:
    """Let a module be of the class that it has in the script."""
    module = module_of(key, key)
    own = ScriptModule if key == MAIN else ModuleType  # which knows what it has as its file
    if kind is ModuleType or own is ModuleType:
        module.__class__ = own if kind is ModuleType else kind
    else:
        module.__class__ = type(kind.__name__, (kind, own), {"__module__": kind.__module__})


def unbind(key: str, module: str, names: Iterable[str]) -> None:
    """Unbind globals of the script."""
    space = namespace(key, module)
    for name in names:
        space.pop(name, None)
    mirror = current()
    if mirror is not None:
        mirror.came((key,), names)


def forget(gone: Iterable[str]) -> None:
    """Keep functions and classes no longer."""
    mirror = current()
    if mirror is not None:
        mirror.forget(gone)


def reload(name: str, anew: bool) -> None:
    """Run a module again that was reloaded in the caller; leave it to be imported if `anew`."""
    importlib.invalidate_caches()
    module = sys.modules.get(name)
    if anew:
        sys.modules.pop(name, None)
        package, _, last = name.rpartition(".")
        if module is not None and getattr(sys.modules.get(package), last, None) is module:
            delattr(sys.modules[package], last)
    elif module is not None:
        importlib.reload(module)
    carried.note_again(name)
