"""What this process knows of another one's script: its module, its functions and classes.

::

    caller                              worker
    __main__  ── what is new ─────────► a module `__main__`, with all of it bound by name
              ── functions by token ──► the same function each time
              ◄── classes by token ──── the caller's own class again

A token stands for one function or class, in whichever process it was made. In the caller a token
and a namespace lead to the originals, in a worker to what was made of them there. The namespace of
a module of the user's that workers import is that module itself there too; see `carried`.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import itertools
import linecache
import os
import sys
import threading
import weakref
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType, ModuleType
from typing import Any

from . import carried, context_variables
from .importable import IMPORTED, MAIN, find_spec, importable, in_library
from .own import Own

__all__ = [
    "IMPORTED",
    "MAIN",
    "Mirror",
    "ScriptModule",
    "class_of_module",
    "current",
    "forget_spaces",
    "leave",
    "module_of",
    "namespace",
    "settle",
    "show_source",
    "source_lines",
    "space_key",
    "tokens",
    "unlisted",
]

_MAIN_OF_SPAWNED = "__mp_main__"  # as `multiprocessing` calls it, and so do results that it gets


class Tokens:
    """Objects of this process by a token, and back. A metaclass may define ``==`` as it likes."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._names: dict[int, tuple[weakref.ref[Any], str]] = {}
        self._objects: dict[str, weakref.ref[Any]] = {}
        self._numbers = itertools.count()
        self._prefix = ""

    def of(self, obj: Any) -> str | None:
        """Token of an object, if it has one."""
        found = self._names.get(id(obj))
        return None if found is None or found[0]() is not obj else found[1]

    def given(self, obj: Any) -> str:
        """Token of an object, made if it has none."""
        token = self.of(obj)
        if token is None:
            with self._lock:  # several threads may ask at once, and are to have the same one
                token = self.of(obj) or self.put(obj, f"{self._own()}{next(self._numbers):x}")
        return token

    def _own(self) -> str:
        if not self._prefix:
            self._prefix = os.urandom(6).hex() + "."
        return self._prefix

    def put(self, obj: Any, token: str) -> str:
        """Let `token` stand for `obj`."""
        key = id(obj)

        def gone(ref: weakref.ref[Any]) -> None:
            with self._lock:
                if self._names.get(key, (None,))[0] is ref:
                    del self._names[key]
                if self._objects.get(token) is ref:
                    del self._objects[token]

        with self._lock:
            ref = weakref.ref(obj, gone)
            self._names[key] = ref, token
            self._objects[token] = ref
        return token

    def find(self, token: str) -> Any:
        """Object of a token, or None."""
        ref = self._objects.get(token)
        return None if ref is None else ref()

    def clear(self) -> None:
        """Forget all, as a process does that was forked."""
        self._lock = threading.RLock()
        self._names.clear()
        self._objects.clear()
        self._prefix = ""


tokens = Tokens()


class ScriptModule(ModuleType):
    """The mirror of `__main__`, which has the script's file.

    Who starts processes inside an item would have them run the script again: not one that has no
    guard against that.
    """

    @property
    def __file__(self) -> Any:
        file = self.__dict__.get("__file__")
        if file is None or _hides(file, sys._getframe(1)):  # noqa: SLF001
            raise AttributeError(f"module {self.__name__!r} has no attribute '__file__'")
        return file

    @__file__.setter
    def __file__(self, file: str | None) -> None:
        self.__dict__["__file__"] = file

    @__file__.deleter
    def __file__(self) -> None:
        if self.__dict__.pop("__file__", None) is None:
            raise AttributeError("__file__")

    @property
    def __spec__(self) -> Any:
        """Say as what ``python -m`` has run it; not that of a package, which would not be run."""
        spec = self.__dict__.get("__spec__")
        if spec is None or not _starts_processes(sys._getframe(1)):  # noqa: SLF001
            return spec
        file, name = self.__dict__.get("__file__"), spec.name.rpartition(".")[2]
        return None if name == MAIN or _hides(file, sys._getframe(1)) else spec  # noqa: SLF001

    @__spec__.setter  # noqa: A003 - a module's own, not the builtins'
    def __spec__(self, spec: Any) -> None:
        self.__dict__["__spec__"] = spec


def _starts_processes(frame: FrameType) -> bool:
    """Whether who asks does so for a process that may run the script again."""
    return str(frame.f_globals.get("__name__")).endswith(".spawn")


def _hides(file: Any, frame: FrameType) -> bool:
    """Whether the script is not to be run by the processes for which somebody asks."""
    asks = frame.f_globals.get("__name__")
    return _starts_processes(frame) and not (asks in _RUN_AGAIN and _is_guarded(str(file)))


_RUN_AGAIN = frozenset({"multiprocessing.spawn", "multiprocess.spawn"})  # others send by value


@functools.cache
def _is_guarded(file: str) -> bool:
    """Whether a script says what it does only where it is ``__main__``."""
    try:
        statements = ast.parse("".join(linecache.getlines(file))).body
    except (SyntaxError, ValueError):
        return False
    return any(
        isinstance(one, ast.If)
        and isinstance(one.test, ast.Compare)
        and {"__name__", "'__main__'"}
        == {ast.unparse(one.test.left), *map(ast.unparse, one.test.comparators)}
        for one in statements
    )


class Mirror:
    """In a worker: what has come of the script of one client.

    Parameters
    ----------
    client : str
        Whose script it is. Two scripts may use one worker.
    alone : bool
        Whether no other client has a part of this process, so that what this one has in modules
        that are imported may be put into them. Else each has copies.

    Attributes
    ----------
    spaces : dict
        By key: the globals of each module of which something came.
    known : dict
        By token: functions and classes that came; kept, as the client counts on them.
    objects : dict
        By id: those without content, with the key, the module and the name of their global.
    bare : dict
        By key and name of a global: the latest of those, with its version.
    own : Own
        What items have made of all that; kept track of where no other client has a part.
    """

    def __init__(self, client: str = "", alone: bool = False) -> None:
        self.client = client
        self.alone = alone
        self.spaces: dict[str, dict[str, Any]] = {}
        self.known: dict[str, Any] = {}
        self.objects: dict[int, tuple[object, str, str, str]] = {}
        self.bare: dict[tuple[str, str], tuple[int, object]] = {}
        self.about: str | None = None  # the global that is being made
        self.learning = False  # whether what comes now is the client's, who knows that it is here
        self.own = Own(self.spaces, self.known)
        self._came: list[tuple[Any, Iterable[str] | None]] = []  # of the client, just now
        self._modules: dict[str, ModuleType] = {}
        self.space(MAIN, MAIN)

    def space(self, key: str, name: str) -> dict[str, Any]:
        """Globals of the module `name`; made if nothing of it has come yet."""
        if self.is_own(key):
            with suppress(ImportError):  # it is here in another way than there, or not at all
                found = importlib.import_module(name).__dict__
                carried.note()
                self.spaces[key] = found
                return found
        space = self.spaces.get(key)
        if space is None:
            module = ScriptModule(name) if key == MAIN else ModuleType(name)
            space = self.spaces[key] = module.__dict__
            # The C pickler imports by way of the builtins of the globals that it finds.
            space["__builtins__"] = builtins
            self._modules[key] = module
            if key.removesuffix(IMPORTED) == name:
                self._install(module)
        return space

    def is_own(self, key: str) -> bool:
        """Whether the globals called `key` are those of this process's own module."""
        return self.alone and key.endswith(IMPORTED) and key not in self._modules

    def _install(self, module: ModuleType) -> None:
        """Let a module be found by its name, where nothing else is."""
        name = module.__name__
        parent = name.rpartition(".")[0]
        if parent and parent not in sys.modules and find_spec(parent.partition(".")[0]):
            with suppress(Exception):  # whatever a package may raise
                importlib.import_module(parent)
        there = sys.modules.get(name)
        if name == MAIN or getattr(there, _OURS, False) or find_spec(name) is None:
            module.__dict__.setdefault(_OURS, True)
            if name != MAIN and "." in name:
                parent, _, last = name.rpartition(".")
                if parent in sys.modules:
                    setattr(sys.modules[parent], last, module)
            sys.modules[name] = module
            if name == MAIN:
                sys.modules[_MAIN_OF_SPAWNED] = module

    def enter(self) -> None:
        """Let it be the script of this process from now on."""
        global _current
        _current = self
        for key, module in self._modules.items():
            if key.removesuffix(IMPORTED) == module.__name__:
                self._install(module)

    def came(self, place: str | tuple[str] | None, names: Iterable[str] | None = None) -> None:
        """Take note that something is coming: globals, or attributes of what has a token."""
        if self.alone and place is not None:
            self._came.append((place, names))

    def settled(self) -> None:
        """All that was coming is there."""
        for place, names in self._came:
            self.own.note(place, names)
        self._came.clear()

    def forget(self, gone: Iterable[str]) -> None:
        """Keep functions and classes no longer that the client will not name again."""
        for token in gone:
            self.known.pop(token, None)
            self.own.forget(token)

    def module(self, key: str) -> ModuleType:
        """Module whose globals are called `key`."""
        return self._modules[key]


_OURS = "__mirrored__"
_current: Mirror | None = None


def current() -> Mirror | None:
    """What this process has of its client's script; None where it is no worker of ours."""
    return _current


def settle(client: str = "", alone: bool = False) -> Mirror:
    """Make this process a worker that knows nothing yet, whatever it was forked from."""
    tokens.clear()
    context_variables.forget()
    forget_spaces()
    if _current is not None:
        carried.forget()
    mirror = Mirror(client, alone)
    mirror.enter()
    return mirror


def leave() -> None:
    """Be no client's worker any more, until a mirror is entered again."""
    global _current
    _current = None


# --- the caller's side of namespaces -------------------------------------------------------------

_spaces: dict[int, tuple[str, dict[str, Any]]] = {}  # by id; and kept, so that the id is not reused
_keys: dict[str, dict[str, Any]] = {}
_numbers = itertools.count(1)


def forget_spaces() -> None:
    """Name all namespaces anew, and keep none of them alive."""
    _spaces.clear()
    _keys.clear()


def space_key(space: dict[str, Any]) -> str:
    """What the globals of a module are called when something by value names them."""
    found = _spaces.get(id(space))
    if found is not None:
        return found[0]
    name = space.get("__name__")
    if not isinstance(name, str):
        name = "?"
    mirror = _current
    if mirror is not None:
        for key, known in mirror.spaces.items():
            if known is space:
                return key
    module = sys.modules.get(name)
    if module is not None and getattr(module, "__dict__", None) is space:
        key = name
        if importable(name) and not in_library(module):
            key += IMPORTED
    else:
        key = f"{name}#{os.getpid()}.{next(_numbers)}"
    if len(_spaces) > _MOST_SPACES:
        for number in list(_spaces)[: _MOST_SPACES // 2]:
            _keys.pop(_spaces.pop(number)[0], None)
    key = _spaces.setdefault(id(space), (key, space))[0]  # another thread may have named it too
    _keys[key] = space
    return key


_MOST_SPACES = 4096
unlisted: weakref.WeakValueDictionary[str, ModuleType] = weakref.WeakValueDictionary()  # by key


def module_of(key: str, name: str) -> ModuleType:
    """Module whose globals are called `key`: itself in the caller, its mirror in a worker."""
    space = namespace(key, name)
    if _current is not None:
        return sys.modules[name] if _current.is_own(key) else _current.module(key)
    module = sys.modules.get(name)
    if module is None or module.__dict__ is not space:
        module = unlisted.get(key)
    if module is None:
        module = ModuleType(name)
        module.__dict__.update(space)
    return module


def class_of_module(space: dict[str, Any]) -> type[ModuleType]:
    """Class of the module that has these globals, which somebody may have made their own."""
    module = sys.modules.get(str(space.get("__name__")))
    if getattr(module, "__dict__", None) is not space:
        module = unlisted.get(space_key(space))
    kind = type(module)
    return kind if issubclass(kind, ModuleType) else ModuleType


def namespace(key: str, name: str) -> dict[str, Any]:
    """Globals that are called `key`: the module itself in the caller, its mirror in a worker."""
    if _current is not None and (key in _current.spaces or _current.is_own(key)):
        return _current.space(key, name)
    space = _keys.get(key)
    if space is not None:
        return space
    if _current is not None:
        return _current.space(key, name)
    module = sys.modules.get(name) if key.removesuffix(IMPORTED) == name else None
    if module is not None:
        return module.__dict__
    space = _keys[key] = {"__name__": name, "__builtins__": builtins}
    _spaces[id(space)] = key, space
    return space


# --- source lines --------------------------------------------------------------------------------


def source_lines(filename: str) -> tuple[int, list[str]] | None:
    """Source of a file that exists in this process only, as the cells of a notebook do."""
    entry = linecache.cache.get(filename)
    if entry is None or len(entry) != 4 or entry[1] is not None:
        return None
    return entry[0], entry[2]


def show_source(filename: str, size: int, lines: list[str]) -> None:
    """Let tracebacks and `inspect` find that source."""
    linecache.cache[filename] = size, None, lines, filename
