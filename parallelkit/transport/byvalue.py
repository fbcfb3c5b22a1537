"""How functions, classes and exceptions cross that the other side cannot import.

A function that is found in its script under its own name, and any class, is named by a token; what
the receiver has not got of them goes ahead of what names them (`script` tells what that is), or
inline where it is new to both. All else is made again here:

- Lambdas, closures and decorated twins go by value, on the globals that the script has there.
- ``functools.lru_cache`` functions are taken apart and made again.
- Exceptions with a constructor of their own are made again without it, see `exceptions`.
- What ``numpy.frompyfunc`` made goes with its Python function.
- Locks and weak references go where their meaning survives the copy; what else pickle refuses, or
  what names itself as a global of ``__main__``, goes by dill.

It is long because each of these is a reduction of its own. What they all ask stands in files of its
own: `importable`, `code_names`, `classes`.
"""

from __future__ import annotations

import _thread
import abc
import copyreg
import enum
import functools
import gc
import importlib
import io
import marshal
import operator
import pickle
import re
import sys
import threading
import types
import typing
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextvars import ContextVar
from importlib.machinery import ModuleSpec
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any, ClassVar, Protocol

from ..errors import StaysHere
from ..place.sigint import pass_on
from . import context_variables, exceptions, inheritance, rebuild
from .classes import bound_as, class_attributes, home, registered, take_members
from .code_names import global_names, handmade, looks_around, names_of_statement, submodules
from .importable import CLOUDPICKLE, importable, is_imported, is_reachable, module_that_has
from .mirror import MAIN, current, source_lines, space_key, tokens, unlisted

__all__ = ["ByValuePickler", "Global", "Needs"]


SMALL = 1 << 14  # bytes of what goes along with an error though nobody may look at it


class Knowledge(Protocol):
    """What tells the pickler how things of the script are named; see `script`."""

    def unit(self, obj: Any) -> Any:
        """What stands for a function or class in all that is known of the script, or None."""
        ...

    def global_unit(self, space: dict[str, Any], name: str) -> Any:
        """What stands for a global."""
        ...

    def surroundings(self, space: dict[str, Any]) -> Any:
        """What stands for all globals."""
        ...

    def inherited(self, lock: Any) -> Any:
        """What stands for a semaphore that only forked workers have."""
        ...

    def of_the_user(self) -> list[str]:
        """Names of the loaded modules that belong to no library."""
        ...


class ByValuePickler(pickle.Pickler):
    """The C pickler, with reducers for what goes by value.

    Parameters
    ----------
    file
        What has a ``write`` method.
    buffer_callback : callable, optional
    defining : mapping
        Units whose content goes along, where others are named; false for a class of which only what
        has changed does.

    Attributes
    ----------
    needs : dict
        What the receiver must have: units in the caller, their keys in a worker.
    comparing : bool
        Whether the pickle is compared only.
    sizing : bool
        Whether only its size is of interest.
    by_dill : bool
        Whether dill is asked where pickle refuses.
    shared : list
        What has descriptors that must go beside the pickle: memory, or a `Descriptor`.
    weakly : bool
        Whether what lies in weak containers may be copied.
    plain : bool
        Whether plain pickle would say the same of the content, as long as names stand for what
        they stand for now: that of `named`.
    named : list
        Functions and classes that are known by a token.
    """

    knowledge: ClassVar[Knowledge]

    def __init__(
        self,
        file: Any,
        buffer_callback: Callable[[pickle.PickleBuffer], bool] | None = None,
        defining: Mapping[Any, bool] = types.MappingProxyType({}),
    ) -> None:
        self._reducers: dict[Any, Any] = copyreg.dispatch_table.copy()  # and more, on demand
        self.dispatch_table = self._reducers
        self._left: set[type] = set()  # types whose instances are all left to pickle
        self.needs: dict[Any, None] = {}
        self.defining = defining
        self.shared: list[Any] = []
        self.plain = True
        self.named: list[Any] = []
        self.by_dill = self.comparing = self.sizing = False
        self.weakly = True
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)

    def dump(self, obj: Any) -> None:
        """Write the pickle of `obj`."""
        try:
            super().dump(obj)
        except RecursionError as error:
            told = "it is nested too deeply: sys.setrecursionlimit() may allow for it"
            raise pickle.PicklingError(told) from error

    def reducer_override(self, obj: Any) -> Any:
        """Reduce `obj`, or leave it to pickle (NotImplemented); called for most objects."""
        return NotImplemented if type(obj) in self._left else self.reduce(obj)

    def reduce(self, obj: Any) -> Any:  # noqa: C901, PLR0912 - one kind after the other
        """Reduce `obj`, whose type is not known to be simple."""
        kind = type(obj)
        if isinstance(obj, type):
            return self._class(obj)
        if kind is FunctionType:
            return self._function(obj)
        if isinstance(obj, BaseException):
            return exceptions.reduced(obj, self._is_small)
        own = _OWN.get(kind)
        if own is not None:
            return own(self, obj)
        if kind.__name__ == "ufunc" and kind.__module__ == "numpy":
            return _ufunc(obj)
        package = inheritance.made_by(kind)
        of_ctypes = type(kind).__module__ == "_ctypes"
        if package or kind is inheritance.Handed or (of_ctypes and hasattr(obj, "_wrapper")):
            shared = self._shared(obj, package)
            if shared is not None:
                return shared
        if of_ctypes:
            return NotImplemented  # the next one of its type may be shared
        if isinstance(obj, ModuleType):
            return self._module(obj)
        if isinstance(kind, enum.EnumMeta) and kind._member_map_.get(obj._name_) is obj:
            return rebuild.member, (kind, obj._name_)  # its value need not be equal to a copy
        if kind in _FOR_CLOUDPICKLE or kind.__module__ in _MODULES_FOR_CLOUDPICKLE:
            self._reducers.update(_cloudpickle().Pickler._dispatch_table)
        if kind.__module__ == MAIN and kind.__dict__.get("__reduce__") is not None:
            name = obj.__reduce_ex__(5)  # of a singleton, what its module calls it
            if isinstance(name, str):
                made = copyreg.__newobj__, (kind,), getattr(obj, "__dict__", None)  # type: ignore[attr-defined]
                return self._global(obj, name) or made
        if kind in self.dispatch_table or _never_by_dill(kind):
            if self.by_dill and kind not in self.dispatch_table:
                return self._if_refused(obj)
            self._left.add(kind)
            return NotImplemented
        if getattr(obj, "__module__", None) == MAIN and isinstance(obj.__reduce_ex__(5), str):
            return self._global(obj, obj.__reduce_ex__(5)) or _by_dill(obj)
        return self._if_refused(obj) if self.by_dill else NotImplemented

    def _is_small(self, obj: object) -> bool:
        """Whether something can be pickled, in few bytes."""
        if self.sizing:  # what holds its own error is taken apart once
            return False
        size = _Size()
        pickler = ByValuePickler(size, size.count, self.defining)
        pickler.comparing = pickler.sizing = True
        try:
            pickler.dump(obj)
        except Exception as error:  # noqa: BLE001 - a user's __reduce__ may raise anything
            pass_on(error)
            return False
        return True

    # --- classes ---------------------------------------------------------------------------------

    def _class(self, cls: type) -> Any:
        if is_reachable(cls):
            return NotImplemented
        module = module_that_has(cls)
        if module is not None:
            return getattr, (module, cls.__name__)
        if cls.__module__ == "builtins":  # one of Python's own that has no name anywhere
            return _cloudpickle()._class_reduce(cls)
        made_of = cls.__dict__.get("__pydantic_generic_metadata__") or {}
        if made_of.get("origin") is not None:  # it is kept by that, and so found again
            return operator.getitem, (made_of["origin"], made_of["args"])
        token = self._named(cls)
        if token is not None:
            return rebuild.find, (token, cls.__qualname__)
        if current() is None:
            statement = self.knowledge.unit(cls).statement
            if statement is not None:
                return self._class_statement(cls, statement)
        return self._class_definition(cls, tokens.given(cls))

    def _class_statement(self, cls: type, statement: CodeType) -> Any:
        """Have a class made by its statement; what that looks up as it runs goes along."""
        space = home(cls).__dict__
        self._need_globals(space, global_names(statement))
        names = [n for n in names_of_statement(statement) if n in space and space[n] is not cls]
        args = (
            *(tokens.given(cls), space_key(space), space["__name__"]),
            *(statement, bound_as(cls, space), {name: space[name] for name in names}),
        )
        return rebuild.run_statement, args

    def _named(self, obj: Any) -> str | None:
        """Token of a function or class that the receiver has, or will have; None to define it."""
        mirror = current()
        if mirror is not None:
            token = tokens.of(obj)
            if token is None or token not in mirror.known:
                return None
            self.needs[token] = None
            return token
        unit = self.knowledge.unit(obj)
        if unit is None:
            return None
        self.needs[unit] = None
        self.named.append(obj)
        return None if self.defining.get(unit) else unit.token

    def _class_definition(self, cls: type, token: str) -> Any:
        attributes = class_attributes(cls)
        members = None
        early: dict[str, Any] = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
        if isinstance(cls, enum.EnumMeta):
            members = take_members(cls, attributes)
        else:
            slots = cls.__dict__.get("__slots__")
            named_tuple = issubclass(cls, tuple) and hasattr(cls, "_fields")
            if slots is not None and not named_tuple:
                early["__slots__"] = slots if isinstance(slots, str) else tuple(slots)
        if "__orig_bases__" in cls.__dict__:
            early["__orig_bases__"] = cls.__dict__["__orig_bases__"]
        self._names_of_annotations(attributes.get("__annotations__"), cls.__module__)
        space = getattr(sys.modules.get(cls.__module__), "__dict__", {})
        if "__file__" in space:  # where `inspect` looks for its source
            self._need_globals(space, ("__file__",))
        metaclass = type(cls)
        foreign = metaclass not in _USUAL and is_reachable(metaclass)
        bases = cls.__dict__.get("__orig_bases__", cls.__bases__) if foreign else cls.__bases__
        args = token, metaclass, cls.__name__, tuple(bases), early, foreign
        state = attributes, members, registered(cls)
        return rebuild.make_class, args, state, None, None, rebuild.set_class

    def _names_of_annotations(self, annotations: Any, module: str) -> None:
        """Names in annotations that are strings: who looks for hints evaluates them."""
        if isinstance(annotations, Mapping) and current() is None:
            space = getattr(sys.modules.get(module), "__dict__", None)
            if space is not None:
                for value in annotations.values():
                    if isinstance(value, str):
                        self._need_globals(space, re.findall(r"[^\W\d]\w*", value))

    def _need_globals(self, space: dict[str, Any], names: Collection[str]) -> None:
        mirror = current()
        if mirror is None:
            unit = self.knowledge.global_unit
            for name in names:  # those of builtins too, which may come to be bound
                self.needs[unit(space, name)] = None
        else:
            key = space_key(space)
            if key in mirror.spaces:
                for name in names:
                    if name in space:
                        self.needs[key, name] = None

    # --- functions -------------------------------------------------------------------------------

    def _function(self, func: FunctionType) -> Any:
        if is_reachable(func):
            return NotImplemented
        token = self._named(func)
        if token is not None:
            return rebuild.find, (token, func.__qualname__)
        owner = self._owner(func)
        if owner is not None:
            return rebuild.method, (owner, func.__name__)
        mirror = current()
        unit = None if mirror is not None else self.knowledge.unit(func)
        name = None if unit is None else unit.token
        if hasattr(func, "registry") and hasattr(func, "dispatch"):  # functools.singledispatch
            own = {k: v for k, v in func.__dict__.items() if k not in _DISPATCHER}
            return rebuild.single_dispatch, (name, dict(func.registry), own)
        space = func.__globals__
        module = space.get("__name__")
        code = func.__code__
        self._need_globals(space, global_names(code))
        if mirror is None:
            self._need_more(code, space)
            self._need_handmade(code)
        if func.__annotations__:
            self._names_of_annotations(func.__annotations__, func.__module__)
        args = (
            *(name, space_key(space), module if isinstance(module, str) else "?"),
            *(code, func.__name__, func.__closure__),
        )
        attributes = {key: getattr(func, key) for key in _FUNCTION_STATE}
        if getattr(func, "__type_params__", ()):
            attributes["__type_params__"] = getattr(func, "__type_params__")  # noqa: B009 - 3.12
        lines = source_lines(code.co_filename)
        source = None if lines is None else (code.co_filename, *lines)
        state = attributes, dict(func.__dict__), submodules(code, space), source
        return rebuild.make_function, args, state, None, None, rebuild.set_function

    def _need_more(self, code: CodeType, space: dict[str, Any]) -> None:
        """Need what code may ask for by other means than the names of globals."""
        if "__file__" in space:  # for processes that it may start
            self._need_globals(space, ("__file__",))
        if isinstance(space.get("__spec__"), ModuleSpec) and space["__name__"] == MAIN:
            self._need_globals(space, ("__spec__",))  # and for imports relative to its package
        if looks_around(code):
            self.needs[self.knowledge.surroundings(space)] = None

    def _need_handmade(self, code: CodeType) -> None:
        """Need modules that code imports, and that nobody else could."""
        for imported in handmade(code) if current() is None else ():
            around = sys.modules[imported].__dict__
            self.needs[self.knowledge.surroundings(around)] = None

    def _owner(self, func: FunctionType) -> type | None:
        """Class through which a method is named; None where it goes by value, as with its class."""
        path = func.__qualname__.split(".")
        if len(path) < 2 or "<locals>" in path or func.__module__ not in sys.modules:
            return None
        owner: Any = sys.modules[func.__module__]
        for part in path[:-1]:
            owner = getattr(owner, "__dict__", {}).get(part)
        if not isinstance(owner, type) or owner.__dict__.get(func.__name__) is not func:
            return None
        mirror = current()
        if mirror is not None:
            return owner if tokens.of(owner) in mirror.known else None
        return None if self.knowledge.unit(owner) in self.defining else owner

    # --- other things that have a name -----------------------------------------------------------

    def _global(self, obj: Any, name: str) -> Any:
        """Reduce to its name what is a global of the script; None if it is not, or goes along."""
        module = getattr(obj, "__module__", None)
        if not isinstance(module, str) or importable(module):
            return None
        found: Any = sys.modules.get(module)
        space = getattr(found, "__dict__", None)
        if space is None or space.get(name) is not obj:
            return None
        key = space_key(space)
        if current() is None:
            unit = self.knowledge.global_unit(space, name)
            self.needs[unit] = None
            if unit in self.defining:
                return None
        else:
            self.needs[key, name] = None
        return rebuild.find_global, (key, module, name)

    def _bare_object(self, obj: object) -> Any:
        """Reduce an ``object()`` to the name that a module has for it: it is nothing else."""
        mirror = current()
        if mirror is not None:
            known = mirror.objects.get(id(obj))
            if known is None:
                return self._bare_object_of_modules(obj)
            key, module, name = known[1:]
            self.needs[key, name] = None
            return rebuild.find_global, (key, module, name)
        space = sys.modules[MAIN].__dict__
        for name, value in list(space.items()):
            if value is obj:
                unit = self.knowledge.global_unit(space, name)
                self.needs[unit] = None
                key = space_key(space)
                if unit in self.defining:
                    return rebuild.bare, (key, name, unit.version)
                return rebuild.find_global, (key, MAIN, name)
        return self._bare_object_of_modules(obj)

    def _bare_object_of_modules(self, obj: object) -> Any:
        for module in self.knowledge.of_the_user():
            for name, value in list(getattr(sys.modules.get(module), "__dict__", {}).items()):
                if value is obj and importable(module):
                    return getattr, (sys.modules[module], name)
        return NotImplemented

    def _cache(self, func: Any) -> Any:
        if is_reachable(func):
            return NotImplemented
        return self._global(func, getattr(func, "__qualname__", "")) or (
            rebuild.cached,
            (func.__wrapped__, func.cache_parameters()),
        )

    def _type_name(self, obj: Any) -> Any:
        """Reduce a TypeVar, NewType, and so on."""
        if is_reachable(obj):
            return NotImplemented
        found = self._global(obj, obj.__name__)
        if found is not None:
            return found
        kind, module = type(obj), getattr(obj, "__module__", None) or MAIN
        token = tokens.given(obj)
        if kind is _ALIAS:
            if obj.__type_params__:
                keywords = {"type_params": obj.__type_params__}
                named = (obj.__name__, obj.__value__)
                return rebuild.made, (token, kind, named, keywords, module)
            alias = token, obj.__name__, module
            return rebuild.make_alias, alias, (obj.__value__,), None, None, rebuild.set_alias
        if kind is typing.NewType:
            return rebuild.made, (token, kind, (obj.__name__, obj.__supertype__), {}, module)
        keywords = {}
        args: tuple[Any, ...] = (obj.__name__,)
        if kind is not typing.TypeVarTuple:
            if obj.__bound__ is not None and obj.__bound__ is not type(None):
                keywords["bound"] = obj.__bound__
            keywords["covariant"] = obj.__covariant__
            keywords["contravariant"] = obj.__contravariant__
            args += getattr(obj, "__constraints__", ())
        if getattr(obj, "__infer_variance__", False):
            keywords["infer_variance"] = True
        has_default = getattr(obj, "has_default", None)
        if has_default is not None and has_default():
            keywords["default"] = obj.__default__
        return rebuild.made, (token, kind, args, keywords, module)

    # --- what multiprocessing shares -------------------------------------------------------------

    def _shared(self, obj: Any, package: str | None) -> Any:
        """Reduce what all processes are to have one of; None if that is nothing of the sort."""
        if type(obj) is inheritance.Handed:
            if self.comparing:
                return int, (obj.fd,)
            descriptor = inheritance.Descriptor.of(obj.fd)
            self.shared.append(descriptor)
            return inheritance.found, (descriptor.token,)
        package = package or inheritance.made_by(type(obj._wrapper))  # of a ctypes object
        if package is None:
            return None
        self.plain = False
        if not inheritance.is_unnamed(obj, package):
            return inheritance.reduction(obj, package)
        token = inheritance.token_of(obj)
        if current() is None:
            self.needs[self.knowledge.inherited(obj)] = None
        return inheritance.inherit, (token,)

    # --- modules ---------------------------------------------------------------------------------

    def _module(self, module: ModuleType) -> Any:
        """Reduce a module to its name; one that cannot be imported is mirrored, with all it has."""
        name, space = module.__name__, module.__dict__
        if sys.modules.get(name) is module and is_imported(name):
            return importlib.import_module, (name,)
        mirror = current()
        key = space_key(space)
        if mirror is None:
            self.needs[self.knowledge.surroundings(space)] = None
            unlisted[key] = module
        elif key not in mirror.spaces:  # made here: who gets it has not got it
            content = {k: v for k, v in space.items() if k != "__builtins__"}
            return _cloudpickle().dynamic_subimport, (name, content)
        return rebuild.module, (key, name)

    # --- what only dill carries ------------------------------------------------------------------

    def _reference(self, ref: Any) -> Any:
        """Reduce a weak reference: its object goes along, and is kept by the script or by it."""
        obj = ref()
        if obj is None:
            return _dead_reference, ()
        (stand_in,), own = self._kept_by_script([obj])
        return rebuild.KeptReference if own else weakref.ref, (stand_in,)

    def _weak_container(self, container: Any) -> Any:
        """Reduce a weak set or dict: what keeps its elements here may not be there."""
        kind = type(container)
        if not self.weakly:
            raise StaysHere(f"a {kind.__name__} of a library is its own")
        if kind is weakref.WeakSet:
            content, own = self._kept_by_script(list(container))
        else:
            pairs = list(container.items())
            keys, others = [key for key, _ in pairs], [other for _, other in pairs]
            if kind is weakref.WeakKeyDictionary:
                keys, own = self._kept_by_script(keys)
            else:
                others, own = self._kept_by_script(others)
            content = list(zip(keys, others, strict=True))
        return kind, (), (content, own), None, None, rebuild.fill_weakly

    def _kept_by_script(self, objects: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Objects, those that are globals of the script by their names; and all others of them."""
        space = {} if current() is not None else sys.modules[MAIN].__dict__
        wanted = {id(obj) for obj in objects}
        names = {id(value): name for name, value in list(space.items()) if id(value) in wanted}
        found: list[Any] = []
        for obj in objects:
            name = names.get(id(obj))
            if name is not None:
                unit = self.knowledge.global_unit(space, name)
                self.needs[unit] = None
                if self.comparing:  # another object of that name is another element, and a
                    found.append((name, id(obj), obj))  # changed one is sent anew, and so this is
                    continue
                if unit not in self.defining:
                    found.append(Global(space, name))
                    continue
            found.append(obj)
        return found, [obj for obj in objects if id(obj) not in names]

    def _if_refused(self, obj: Any) -> Any:
        """Reduce by dill what pickle refuses."""
        try:
            reduced = obj.__reduce_ex__(5)
        except TypeError:
            return _by_dill(obj)
        return reduced if not isinstance(reduced, str) else NotImplemented


class _Size:
    """File and buffer callback for a pickle of which only the size is of interest."""

    def __init__(self) -> None:
        self.nbytes = 0

    def write(self, data: Any) -> None:
        """Count a piece of the pickle."""
        self.nbytes += len(data)
        if self.nbytes > SMALL:
            raise OverflowError

    def count(self, buffer: pickle.PickleBuffer) -> bool:
        """Count a buffer."""
        self.nbytes += buffer.raw().nbytes
        return self.nbytes > SMALL  # then it is written, which is too much


# --- what cloudpickle knows how to take apart -----------------------------------------------------

_plain: dict[Any, Any] = {}
_ordered: OrderedDict[Any, Any] = OrderedDict()
# Many programs have none of these in what they send, and it takes milliseconds to import.
_FOR_CLOUDPICKLE = frozenset(
    {
        *(classmethod, staticmethod, property, memoryview, io.TextIOWrapper, weakref.WeakSet),
        *(types.MethodType, types.GetSetDescriptorType, typing.TypeVar),
        *(abc.abstractclassmethod, abc.abstractstaticmethod, abc.abstractproperty),
        *(type(view()) for view in (_plain.keys, _plain.values, _plain.items)),
        *(type(view()) for view in (_ordered.keys, _ordered.values, _ordered.items)),
    }
)
_MODULES_FOR_CLOUDPICKLE = frozenset({"logging", "dataclasses"})


def _cloudpickle() -> Any:
    return importlib.import_module(CLOUDPICKLE)


_FUNCTION_STATE = (
    *("__defaults__", "__kwdefaults__", "__qualname__", "__module__", "__doc__"),
    "__annotations__",
)
_DISPATCHER = frozenset({"registry", "dispatch", "register", "_clear_cache", "__wrapped__"})


def _code(pickler: ByValuePickler, code: CodeType) -> Any:
    try:  # the older format does not depend on who else refers to a constant
        return rebuild.code, (marshal.dumps(code, 2 if pickler.comparing else marshal.version),)
    except ValueError:  # with constants that no compiler puts there
        return _cloudpickle()._code_reduce(code)


def _cell(_: ByValuePickler, cell: CellType) -> Any:
    try:
        content = (cell.cell_contents,)
    except ValueError:
        return rebuild.empty_cell, ()
    return rebuild.empty_cell, (), content, None, None, rebuild.set_cell


_USUAL = frozenset({type, enum.EnumMeta, abc.ABCMeta})


# --- what is taken apart and made again -------------------------------------------------------


def _cached_property(_: ByValuePickler, made: Any) -> Any:  # before 3.12 it holds a lock
    return functools.cached_property, (made.func,), {"attrname": made.attrname}


def _spec(_: ByValuePickler, spec: ModuleSpec) -> Any:
    """Reduce what ``python -m`` has run to its name: its loader is of this process."""
    if sys.modules[MAIN].__dict__.get("__spec__") is not spec:
        return NotImplemented
    return ModuleSpec, (spec.name, None)


def _proxy(_: ByValuePickler, proxy: Any) -> Any:  # of the dict itself, which others may have too
    return types.MappingProxyType, (gc.get_referents(proxy)[0],)


def _ufunc(func: Any) -> Any:
    """Reduce what ``numpy.frompyfunc`` made, which numpy itself would look up by its name."""
    inner = next(filter(callable, gc.get_referents(func)), None)
    if inner is None or not func.__name__.endswith(" (vectorized)"):
        return NotImplemented
    import numpy as np

    if func.identity is None:
        return np.frompyfunc, (inner, func.nin, func.nout)
    return functools.partial(np.frompyfunc, identity=func.identity), (inner, func.nin, func.nout)


def _lock(_: ByValuePickler, lock: Any) -> Any:
    kind = type(lock)
    free = not lock.locked() if hasattr(lock, "locked") else "count=0" in repr(lock)
    if not free:
        raise StaysHere(
            f"a {kind.__name__} that is held at this moment keeps nobody in another process out; "
            "give a multiprocessing.Lock by initargs= instead"
        )
    return threading.Lock if kind is _thread.LockType else threading.RLock, ()


def _local(_: ByValuePickler, local: Any) -> Any:
    return threading.local, (), dict(local.__dict__) or None, None, None, _set_local


def _set_local(local: Any, state: dict[str, Any]) -> None:
    local.__dict__.update(state)


class Global:
    """Stands in a pickle for what its receiver has as a global of the script."""

    def __init__(self, space: dict[str, Any], name: str) -> None:
        self.space = space
        self.name = name

    def __reduce__(self) -> Any:
        return rebuild.find_global, (space_key(self.space), self.space["__name__"], self.name)


def _dead_reference() -> Any:
    return weakref.ref(type("Gone", (), {})())


class Needs:
    """Stands beside a pickle within a pickle, for what that needs; arrives as nothing."""

    def __init__(self, needs: Iterable[Any]) -> None:
        self.needs = tuple(needs)


def _needs(pickler: ByValuePickler, obj: Needs) -> Any:
    pickler.needs.update(dict.fromkeys(obj.needs))
    return tuple, ()


_WEAK_CONTAINERS = (weakref.WeakSet, weakref.WeakValueDictionary, weakref.WeakKeyDictionary)
_ALIAS: Any = getattr(typing, "TypeAliasType", None)
_TYPE_NAMES = (typing.TypeVar, typing.ParamSpec, typing.TypeVarTuple, typing.NewType)
_OWN: dict[Any, Callable[[Any, Any], Any]] = {
    Needs: _needs,
    object: ByValuePickler._bare_object,
    CodeType: _code,
    CellType: _cell,
    functools._lru_cache_wrapper: ByValuePickler._cache,
    functools.cached_property: _cached_property,
    ContextVar: context_variables.reduced,
    types.MappingProxyType: _proxy,
    ModuleSpec: _spec,
    weakref.ref: ByValuePickler._reference,
    **dict.fromkeys(_WEAK_CONTAINERS, ByValuePickler._weak_container),
    _thread.LockType: _lock,
    _thread.RLock: _lock,
    threading.local: _local,
    **dict.fromkeys(_TYPE_NAMES, ByValuePickler._type_name),
}
if _ALIAS is not None:
    _OWN[_ALIAS] = ByValuePickler._type_name


# --- what names itself as a global ------------------------------------------------------------


def _by_dill(obj: Any) -> Any:
    """Reduce by dill what would travel as a bare name of ``__main__``, or not at all."""
    import dill

    return _undill, (dill.dumps(obj, recurse=True),)


def _never_by_dill(kind: Any) -> bool:
    """Whether no instance of `kind` would travel as a bare name of ``__main__``."""
    if kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__:
        return True
    if kind.__dictoffset__ or type(vars(kind).get("__module__", "")) is not str:
        return False  # each instance may name a module of its own
    return bool(kind.__module__ != MAIN)


def _undill(data: bytes) -> Any:
    import dill

    return dill.loads(data)
