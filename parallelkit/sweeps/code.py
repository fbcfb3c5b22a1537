"""What a row was computed with: a digest of a function's code and of all that it reaches.

::

    the function ─► its code, defaults, closure, object
         │
         └─► the globals that it names ─┬─► functions and classes of the project: the same again
                                        ├─► modules of the project: what it takes from them
                                        ├─► what is installed: its name (versions: provenance.py)
                                        └─► values: a digest

It is made of byte code, so that comments, line numbers, file names and doc strings do not count,
and each part keeps its own digest, so that a change can be named. Byte code differs from one
Python to the next: the version of Python is a part as well.

It is long because each kind of object that a function may reach has its own way into the digest.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import importlib.util
import itertools
import marshal
import opcode
import operator
import os
import re
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from . import canonical
from .artifacts import is_frame
from .values import dumps

__all__ = ["Code", "changes", "code_of", "listed"]

SHOWN = 6  # changes in a message
MANY = 1000  # elements of a container from which on it is not gone through one by one
LARGE = 1 << 16  # bytes of an array from which on its digest is kept
_ATOMS = (int, float, str, bool, bytes, complex, type(None))
_LIVING = ("random", "_random", "_thread", "threading", "_io", "weakref", "_weakref", "os")


class Code(NamedTuple):
    """What a function computes with.

    Attributes
    ----------
    digest : str
    parts : dict
        Digests by what they are of, such as ``score()`` and ``LIMIT``.
    packages : list of str
        Names of the installed packages that it uses, as they are imported.
    """

    digest: str
    parts: dict[str, str]
    packages: list[str]


def code_of(func: Callable[..., Any]) -> Code:
    """Return a digest of what `func` computes with, part by part."""
    reach = _Reach()
    reach.root(func)
    reach.follow()
    parts = {label: _digest(told) for label, told in reach.told.items()}
    parts["Python"] = f"{sys.version_info.major}.{sys.version_info.minor}"
    whole = "\n".join(f"{label} {parts[label]}" for label in sorted(parts))
    return Code(_digest(whole)[:8], parts, sorted(reach.packages))


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Names of the parts that are not the same in both, each with what happened to it."""
    told = []
    for label in sorted(old.keys() | new.keys()):
        if label not in old:
            told.append(f"{label} (new)")
        elif label not in new:
            told.append(f"{label} (gone)")
        elif label == "Python" and old[label] != new[label]:
            told.append(f"Python ({old[label]}, now {new[label]})")
        elif old[label] != new[label]:
            told.append(label)
    return told


def listed(changed: list[str]) -> str:
    """Changes in a message: the first ones, and how many more there are."""
    more = len(changed) - SHOWN
    return ", ".join([*changed[:SHOWN], *([f"{more} more"] if more > 0 else [])])


class _Reach:
    """Goes through what a function reaches, each thing once."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}
        self.packages: set[str] = set()
        self._seen: set[int] = set()
        self._names: set[tuple[int, str]] = set()
        self._modules: set[tuple[int, int]] = set()
        self._home: str | None = None
        self._own: dict[str, bool] = {}  # modules, and whether they are the project's
        self._kept: list[Any] = []  # so that no id is given twice
        self._next: list[Callable[[], None]] = []  # calls of calls may be deep

    # --- what the user gave ------------------------------------------------------------------

    def root(self, func: Any) -> None:
        """Follow the function of the sweep, whatever it is."""
        if isinstance(func, functools.partial):
            self._value("its arguments (partial)", [func.args, func.keywords])
            self.root(func.func)
        elif isinstance(func, types.MethodType):
            self._value("its object (self)", func.__self__)
            self.root(func.__func__)
        elif isinstance(func, types.FunctionType):
            self._is_project(func.__module__)
            self._function(func)
        elif isinstance(func, type):
            self._any(func.__qualname__, func)
        elif isinstance(func, types.BuiltinFunctionType):
            owner = func.__self__
            if owner is not None and not isinstance(owner, types.ModuleType):
                self._value("its object (self)", owner)
        else:
            inner = _wrapped(func)
            if inner is None:
                self._value("its object (self)", func)
            else:
                self.root(inner)

    def follow(self) -> None:
        """Go through what was reached, and through what is reached from there."""
        while self._next:
            self._next.pop()()

    # --- functions and classes ---------------------------------------------------------------

    def _function(self, func: types.FunctionType) -> None:
        if self._first(func):
            self._label(func)  # the first one is at home
            self._next.append(functools.partial(self._read_function, func))

    def _read_function(self, func: types.FunctionType) -> None:
        label = f"{self._label(func)}()"
        own = not _is_foreign(func.__code__.co_filename)
        if own:  # else it is a wrapper that a library has made
            read = _read(func.__code__)
            self._add(label, read.told)
            self._globals(read, func.__globals__)
        names = func.__code__.co_varnames[: func.__code__.co_argcount]
        defaults = func.__defaults__ or ()
        by_name = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
        for name, value in (by_name | (func.__kwdefaults__ or {})).items():
            self._value(f"{name} (default of {label})", value)
        for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=True):
            value = canonical.content(cell)
            # Of a library's wrapper only what it wraps is the user's.
            if own or isinstance(value, (types.FunctionType, type, types.MappingProxyType)):
                self._any(f"{name} (closure of {label})", value)
        inner = getattr(func, "__wrapped__", None)
        if inner is not None:
            self._any(label, inner)

    def _class(self, kind: type) -> None:
        if self._first(kind):
            self._label(kind)
            self._next.append(functools.partial(self._read_class, kind))

    def _read_class(self, kind: type) -> None:
        """A class: what stands in its body, and in those of its bases."""
        label = self._label(kind)
        self._add(label, " ".join(canonical.function_name(base) for base in kind.__bases__))
        for base in (*kind.__bases__, type(kind)):
            self._any(label, base)
        members = dict(vars(kind))
        if issubclass(kind, enum.Enum):
            members = {m.name: m.value for m in kind} | {
                name: value for name, value in members.items() if callable(value)
            }
        for name, value in members.items():
            if callable(value) or not name.startswith("__"):  # documentation, annotations, ...
                for one in _members(value):
                    self._member(f"{label}.{name}", one, kind)

    def _member(self, label: str, value: Any, kind: type) -> None:
        """What a class has under a name."""
        if isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType)):
            return
        if not isinstance(value, types.FunctionType):
            self._any(label, value)
        elif value.__qualname__.startswith(f"{kind.__qualname__}."):
            made = ("<string>", "<attrs")  # by dataclasses and their like
            if not value.__code__.co_filename.startswith(made):
                self._function(value)
        elif not _is_foreign(value.__code__.co_filename):
            self._any(label, value)

    # --- what they name ----------------------------------------------------------------------

    def _globals(self, read: _Read, space: dict[str, Any]) -> None:
        """Follow the globals that some code names, and what it imports."""
        for code, names, imports in read.uses:
            for name in names:
                if name not in space:
                    continue
                value = space[name]
                if isinstance(value, types.ModuleType):
                    self._module(value, code)
                elif (id(space), name) not in self._names:
                    self._names.add((id(space), name))
                    self._any(self._qualified(name, space), value)
            for name in imports:
                self._imported(name, space)

    def _module(self, module: types.ModuleType, code: types.CodeType) -> None:
        """Of a module of the project, what some code takes from it by name."""
        if not self._is_project(module.__name__):
            return
        place = (id(module), id(code))
        if place in self._modules:
            return
        self._modules.add(place)
        space = vars(module)
        for name in code.co_names:
            if name in space and not name.startswith("__"):
                value = space[name]
                if isinstance(value, types.ModuleType):
                    if value is not module:
                        self._module(value, code)
                else:
                    self._any(self._qualified(name, space), value)

    def _imported(self, name: str, space: dict[str, Any]) -> None:
        """Follow an import within a function: it need not have happened yet, here or anywhere.

        So its file is read. What was imported already says the same, for functions and classes.
        """
        package = space.get("__package__") or ""
        for full in ([f"{package}.{name}"] if package else []) + [name]:
            top = full.partition(".")[0]
            if top in sys.stdlib_module_names or top in _OWN:
                return
            path = _file_of(full)
            if path is None:
                continue
            if not _in_project(path):
                self.packages.add(top)
            elif path.endswith(".py") and f"the module {full}" not in self.told:
                try:
                    with open(path, "rb") as file:
                        module = compile(file.read(), path, "exec", dont_inherit=True)
                except (OSError, SyntaxError, ValueError):
                    return
                uses: list[Use] = []
                self._add(f"the module {full}", _code(module, uses))
                below = {"__package__": full.rpartition(".")[0]}
                for _, _, imports in uses:
                    for other in imports:
                        if f"the module {other}" not in self.told:
                            self._imported(other, below)
            return

    # --- anything ----------------------------------------------------------------------------

    def _any(self, label: str, value: Any) -> None:
        """Whatever a name is bound to."""
        if isinstance(value, types.FunctionType):
            if self._is_project(value.__module__) or value.__closure__:
                self._add(label, canonical.function_name(value))
                self._function(value)
            else:
                self._add(label, canonical.function_name(value))
        elif isinstance(value, type):
            self._add(label, canonical.function_name(value))
            if self._is_project(value.__module__):
                self._class(value)
        elif isinstance(value, (types.BuiltinFunctionType, types.ModuleType)):
            self._add(label, str(getattr(value, "__name__", "")))
            self._is_project(getattr(value, "__module__", None) or value.__name__)
        else:
            inner = _wrapped(value)
            if inner is None:
                self._value(label, value)
            else:
                self._any(label, inner)

    def _value(self, label: str, value: Any) -> None:
        """Add a digest of a value; follow the functions and classes in it."""
        if type(value) in _ATOMS:
            self._add(label, repr(value))
            return
        if _lives(type(value)):
            self._add(label, f"some {canonical.function_name(type(value))}")
            self._is_project(type(value).__module__)
            return
        stating = _Stated()
        try:
            told = _quickly(value) or dumps(stating.of(value))
        except Exception:  # noqa: BLE001 - not plain, too deep, or whatever a user's own raises
            told = f"some {canonical.function_name(type(value))}"
        self._add(label, told)
        for one in stating.found:
            self._any(label, one)

    # --- help --------------------------------------------------------------------------------

    def _add(self, label: str, told: str) -> None:
        before = self.told.get(label)
        if before is None:
            self.told[label] = told
        elif before != told and not before.endswith(f"\n{told}"):
            self.told[label] = f"{before}\n{told}"

    def _first(self, value: Any) -> bool:
        if id(value) in self._seen:
            return False
        self._seen.add(id(value))
        self._kept.append(value)
        return True

    def _label(self, value: Any) -> str:
        code = getattr(value, "__code__", None)  # where `functools.wraps` has not been
        name = value.__qualname__ if code is None else code.co_qualname
        name = name.replace("<locals>.", "")
        module = canonical.function_name(value).partition(":")[0]
        if self._home is None:
            self._home = module
        return str(name) if module == self._home else f"{module}.{name}"

    def _qualified(self, name: str, space: dict[str, Any]) -> str:
        module = canonical.module_name(space.get("__name__"))
        return name if module == self._home else f"{module}.{name}"

    def _is_project(self, module: str | None) -> bool:
        """Whether a module is the user's own; the names of others are noted."""
        if module is None or module in ("builtins", "typing", "types", "enum"):
            return False
        known = self._own.get(module)
        if known is not None:
            return known
        found = self._own[module] = _is_own(module)
        if not found:
            top = module.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in _OWN:
                self.packages.add(top)
        return found


class _Stated(canonical._Stating):  # noqa: SLF001 - the same form, and what is met on the way
    """The state of a value, with the functions and classes that it holds."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def named(self, value: Any) -> str:
        if isinstance(value, (type, types.FunctionType)):
            self.found.append(value)
        return canonical.function_name(value)

    def array(self, value: Any) -> Any:
        if value.nbytes < LARGE or value.dtype.hasobject or value.dtype.names is not None:
            return super().array(value)
        return _kept.of(value, lambda: canonical._Stating.array(self, value))  # noqa: SLF001

    def container(self, value: Any) -> Any:
        if _lives(type(value)):
            return {"~is": f"some {canonical.function_name(type(value))}"}
        return super().container(value)


def _wrapped(value: Any) -> types.FunctionType | None:
    """The function in what wraps one, as functools.lru_cache does."""
    try:
        inner = getattr(value, "__wrapped__", None)
    except Exception:  # noqa: BLE001 - a user's own may raise anything
        return None
    return inner if isinstance(inner, types.FunctionType) else None


def _quickly(value: Any) -> str | None:
    """Digest of a large container of plain values, or of a large frame; None for others."""
    kind = type(value)
    if kind in (list, tuple, dict):
        if len(value) < MANY:
            return None
        flat: Any = value
        if kind is dict:
            if set(map(type, value)) != {str} and set(map(type, value)) != {int}:
                return None
            flat = value = sorted(value.items(), key=operator.itemgetter(0))
        kinds = set(map(type, flat))
        if kinds <= {list, tuple}:
            kinds = set(map(type, itertools.chain.from_iterable(flat)))
        if not kinds.issubset(_ATOMS):
            return None
        # Version 2 has no references, which would depend on which of equal values are the same.
        data: Any = marshal.dumps(value, 2)
    elif is_frame(value) and value.size >= MANY:
        from pandas.util import hash_pandas_object

        names = [str(value.dtypes), str(getattr(value, "columns", ""))]
        data = "\n".join(names).encode() + hash_pandas_object(value).to_numpy().tobytes()
    else:
        return None
    return f"{kind.__name__} {hashlib.blake2b(data, digest_size=16).hexdigest()}"


def _lives(kind: type) -> bool:
    """Whether objects of a class change by themselves: random streams, locks, files, our pools."""
    module = kind.__module__
    top = module.partition(".")[0]
    return top in _LIVING or top in _OWN or module.startswith("numpy.random")


class _Kept:
    """Digests of large arrays, by identity: kept while neither the array nor its bytes change.

    Whether they did is seen by sums over all of them, which costs as much as reading them once;
    a digest costs five times as much.
    """

    def __init__(self) -> None:
        self._of: dict[int, tuple[weakref.ref[Any], Any, Any]] = {}

    def of(self, array: Any, make: Callable[[], Any]) -> Any:
        """Return the digest of an array: the one that is kept, or the one that `make` makes."""
        signature = _sums(array)
        kept = self._of.get(id(array))
        if kept is not None and kept[0]() is array and kept[1] == signature:
            return kept[2]
        made = make()
        try:
            number = id(array)
            gone = weakref.ref(array, functools.partial(_forget, self._of, number))
        except TypeError:
            return made
        self._of[number] = gone, signature, made
        return made


def _forget(kept: dict[int, Any], number: int, _gone: Any) -> None:
    """Drop what is kept of something that is gone; names of this module may be gone, too."""
    kept.pop(number, None)


_kept = _Kept()
_BLOCK = 1021  # words; a prime, so that what moves within a usual shape is seen


def _sums(array: Any) -> Any:
    """What changes when any byte of an array does."""
    import numpy as np

    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    cut = flat.size // (8 * _BLOCK) * 8 * _BLOCK
    words = flat[:cut].view(np.uint64).reshape(-1, _BLOCK)
    sums = words.sum(axis=0, dtype=np.uint64)  # wraps round, as it may
    told = hashlib.blake2b(sums.tobytes() + flat[cut:].tobytes(), digest_size=16).digest()
    return array.shape, array.dtype.str, array.strides, told


# --- byte code ----------------------------------------------------------------------------------

_CONSTANTS = re.compile(b"[%s]" % b"".join(re.escape(bytes([op])) for op in opcode.hasconst))
_EXTENDED = opcode.opmap["EXTENDED_ARG"]
_LOAD_GLOBAL = opcode.opmap["LOAD_GLOBAL"]
_LOAD_NAME = opcode.opmap["LOAD_NAME"]
_IMPORT_NAME = opcode.opmap["IMPORT_NAME"]
_HAS_DOC = 0x4000000  # a flag of code since Python 3.13
_OPTIMIZED = 1  # a flag of functions: their names are not looked up by LOAD_NAME

Use = tuple[types.CodeType, list[str], list[str]]  # code, its globals and what it imports


class _Read(NamedTuple):
    """What is read from a function's code: what it does, and what it and the code in it name."""

    told: str
    uses: list[Use]


_read_before: dict[int, tuple[weakref.ref[types.CodeType], _Read]] = {}


def _read(code: types.CodeType) -> _Read:
    """Read code, once for as long as it lives."""
    number = id(code)
    before = _read_before.get(number)
    if before is not None and before[0]() is code:
        return before[1]
    uses: list[Use] = []
    read = _Read(_code(code, uses), uses)
    gone = weakref.ref(code, functools.partial(_forget, _read_before, number))
    _read_before[number] = gone, read
    return read


def _code(code: types.CodeType, uses: list[Use]) -> str:
    """What code does, but for the places of its constants: a doc string takes the first one."""
    raw = code.co_code
    ops = raw[::2]
    uses.append(
        (
            code,
            _named(code, ops, raw, _LOAD_GLOBAL if code.co_flags & _OPTIMIZED else _LOAD_NAME),
            _named(code, ops, raw, _IMPORT_NAME),
        )
    )
    args = bytearray(raw[1::2])
    constants = code.co_consts
    used: list[Any] = []
    if _EXTENDED in ops and len(constants) > 255:  # some places take more than a byte
        used.extend(constants[1:] if _documented(code) else constants)
    else:
        for match in _CONSTANTS.finditer(ops):
            at = match.start()
            used.append(constants[args[at]])
            args[at] = 0
        if "__doc__" in code.co_names and not code.co_flags & _OPTIMIZED:
            # A module or the body of a class stores its own, which is the first or second text.
            used = [one for at, one in enumerate(used) if at > 1 or not isinstance(one, str)]
    told = [
        f"{code.co_flags & ~_HAS_DOC} {code.co_argcount} {code.co_posonlyargcount}",
        ops.hex(),
        args.hex(),
        code.co_exceptiontable.hex(),
        *code.co_names,
        *code.co_varnames[: code.co_argcount + code.co_kwonlyargcount],
        *[_code(one, uses) if type(one) is types.CodeType else _constant(one) for one in used],
    ]
    return "\n".join(told)


def _documented(code: types.CodeType) -> bool:
    if sys.version_info >= (3, 13):
        return bool(code.co_flags & _HAS_DOC)
    return bool(code.co_consts) and isinstance(code.co_consts[0], str)


def _constant(value: Any) -> str:
    if isinstance(value, frozenset):  # its order is another one in each process
        return repr(sorted(map(_constant, value)))
    return repr(value)


def _named(code: types.CodeType, ops: bytes, raw: bytes, op: int) -> list[str]:
    """Names that an instruction takes, in their order; not those with two underscores."""
    at = ops.find(op)
    if at < 0:
        return []
    names = code.co_names
    found: dict[str, None] = {}
    while at >= 0:
        number = raw[2 * at + 1]
        if at and ops[at - 1] == _EXTENDED:
            number |= raw[2 * at - 1] << 8  # a second one would be for 65 536 names
        if op == _LOAD_GLOBAL:
            number >>= 1  # the lowest bit says whether it is called
        if number < len(names) and names[number][:2] != "__":
            found[names[number]] = None
        at = ops.find(op, at + 1)
    return list(found)


# --- whose it is --------------------------------------------------------------------------------

_OWN = (__name__.partition(".")[0],)


def _is_own(module: str) -> bool:
    """Whether a module belongs to the user's project: it is neither Python's nor installed."""
    if module == "__main__":
        return True
    top = module.partition(".")[0]
    if top in _OWN or top in sys.stdlib_module_names:
        return False
    found = sys.modules.get(module)
    path = getattr(found, "__file__", None)
    if path is None:  # made by hand, or built in
        return getattr(found, "__spec__", None) is None
    return _in_project(path)


@functools.lru_cache(4096)
def _in_project(path: str) -> bool:
    # What is compiled has no code that could be read.
    return path.endswith((".py", ".ipynb")) and not _is_foreign(path)


@functools.lru_cache(4096)
def _is_foreign(path: str) -> bool:
    """Whether a file is Python's own or that of an installed package."""
    if path.startswith("<"):
        return path.startswith("<frozen")
    if _is_installed(path):
        return True
    path = os.path.realpath(path)
    return _is_installed(path) or path.startswith(_standard_library())


def _is_installed(path: str) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(path.split(os.sep))


@functools.cache
def _standard_library() -> str:
    return f"{os.path.dirname(os.path.realpath(os.__file__))}{os.sep}"


def _file_of(module: str) -> str | None:
    """File of a module, without importing it or its packages."""
    found = sys.modules.get(module)
    if found is not None:
        return getattr(found, "__file__", None)
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    if not rest:
        return spec.origin
    for folder in spec.submodule_search_locations or ():
        base = os.path.join(folder, *rest)
        for path in (f"{base}.py", os.path.join(base, "__init__.py")):
            if os.path.exists(path):
                return path
    return None


def _members(value: Any) -> Iterator[Any]:
    """What stands behind a name in a class: functions, and what wraps them."""
    if isinstance(value, (staticmethod, classmethod)):
        yield value.__func__
    elif isinstance(value, property):
        yield from (one for one in (value.fget, value.fset, value.fdel) if one is not None)
    elif isinstance(value, functools.cached_property):
        yield value.func
    else:
        yield value


def _digest(text: str) -> str:
    return _blake(text.encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()


_blake = hashlib.blake2b
