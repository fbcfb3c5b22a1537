"""The options of a pool: their defaults, their checks, and where defaults may come from.

From weak to strong: the default here, a pool's hint (``prefer=``), ``PARALLELKIT_*`` in the
environment, ``configure(...)`` as a plain call, ``with configure(...)``, and what a ``Pool`` is
given. To a pool of a library (``library=True``) only resources come from outside.

It is long because each option stands here four times: with its default and its description, its
check, the text that a variable of the environment may have, and its layer.
"""

from __future__ import annotations

import enum
import itertools
import logging
import operator
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack

from .place import host, nesting
from .place.foreign import in_event_loop
from .place.records import Frozen, NamedTuple
from .place.sizes import in_bytes

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = [
    "UNSET",
    "Giver",
    "NumberedSeed",
    "Options",
    "Resolver",
    "Unset",
    "configure",
    "configured",
    "drawn_from",
    "enter",
    "resources",
]

log = logging.getLogger("parallelkit")

BackendName = Literal["process", "thread", "serial", "auto", "dask", "ray"]
BACKENDS = ("process", "thread", "serial", "auto", "dask", "ray")
ON_ERROR = ("raise", "return", "skip")
NESTED = ("thread", "auto", "process")
# What concerns the call at hand, not the calls inside its items.
_NOT_BELOW = (
    "progress",
    "initializer",
    "initargs",
    "giver",
    "timeout",
    "blas_threads",
    "seed",
    "address",
    "preload",
)
# What says where and on how much a call runs, not what comes of it.
RESOURCES = frozenset(
    (
        *("workers", "backend", "progress", "blas_threads", "memory_limit", "max_nbytes"),
        *("temp_folder", "start_method", "nested", "address", "idle", "preload", "most_threads"),
    )
)


class Unset(enum.Enum):
    """The kind of :data:`UNSET`."""

    UNSET = "an option that is not given"

    def __repr__(self) -> str:
        return "pk.UNSET"


UNSET = Unset.UNSET
"""An option that is not given: the same as leaving it out. (None is the option's own default.)"""
MOST_THREADS = 1 << 15


_DEFAULTS: dict[str, Any] = {
    "workers": None,  # given, it may be "fair" too
    "backend": "process",
    "progress": False,
    "on_error": "raise",
    "timeout": None,
    "retries": 0,
    "retry_on": (),
    "retry_wait": 0.0,
    "chunksize": None,
    "start_method": None,
    "initializer": None,
    "initargs": (),
    "finalizer": None,
    "devices": None,
    "tasks_per_worker": None,
    "memory_limit": None,
    "max_nbytes": 65536,
    "temp_folder": None,
    "blas_threads": None,
    "seed": None,
    "same_each_call": False,
    "nested": "thread",
    "strict": True,
    "prefer": None,
    "library": False,
    "address": None,
    "upload": False,
    "idle": 300.0,
    "preload": None,
    "giver": None,  # no option: who has given the initializer
    "named": False,  # no option: whether the pool itself was given its backend
    "most_threads": None,  # no option: what the user's variables let an item's BLAS have
    "fair": False,  # no option: what workers="fair" becomes
    "below": {},  # no option: what holds for calls in items
}
_NO_OPTIONS = ("giver", "named", "fair", "most_threads", "below")
NAMES = tuple(name for name in _DEFAULTS if name not in _NO_OPTIONS)


class Giver:
    """Who gives an initializer: a pool, or who configures one. For each it runs anew.

    Attributes
    ----------
    number : int
        Another one for each, also of several programs that share the workers of a cluster.
    """

    __slots__ = ("__weakref__", "number")

    def __init__(self) -> None:
        self.number = int.from_bytes(os.urandom(8), "big")


_GIVEN_TOGETHER = {"initializer", "initargs"}


class Options(Frozen):
    """Options of a :class:`Pool`, checked. See *Options* in the documentation."""

    __slots__ = tuple(_DEFAULTS)

    workers: int | None
    backend: str | Executor
    progress: bool | str | Mapping[str, Any]
    on_error: str
    timeout: float | None
    retries: int
    retry_on: tuple[type[BaseException], ...]
    retry_wait: float
    chunksize: int | None
    start_method: str | None
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    finalizer: Callable[[], object] | None
    devices: Sequence[Any] | Mapping[str, Sequence[Any]] | None
    tasks_per_worker: int | None
    memory_limit: int | None
    max_nbytes: int
    temp_folder: str | None
    blas_threads: int | None
    seed: Any
    same_each_call: bool
    nested: str
    strict: bool
    prefer: str | None
    library: bool
    address: str | None
    upload: bool
    idle: float | None
    preload: tuple[str, ...] | None
    giver: Giver | None
    named: bool
    most_threads: int | None
    fair: bool
    below: Mapping[str, Any]

    def __init__(self, **given: Any) -> None:
        if not given.keys() <= _DEFAULTS.keys():
            check_names(given, _NO_OPTIONS)
        for name, value in {**_DEFAULTS, **given}.items():
            object.__setattr__(self, name, value)
        self._check()

    def but(self, **changes: Any) -> Options:
        """Return the same with other values for some of them."""
        return Options(**{**{name: getattr(self, name) for name in _DEFAULTS}, **changes})

    def _check(self) -> None:  # noqa: C901, PLR0912 - of each
        if isinstance(self.workers, str) and self.workers == "fair":
            object.__setattr__(self, "workers", None)
            object.__setattr__(self, "fair", True)
        _workers(self.workers)
        _backend(self.backend)
        _one_of("prefer", "auto" if self.prefer is None else self.prefer, BACKENDS)
        _flag("library", self.library)
        _one_of("on_error", self.on_error, ON_ERROR)
        _one_of("nested", self.nested, NESTED)
        if self.start_method is not None:
            _one_of("start_method", self.start_method, host.start_methods())
        _whole("retries", self.retries, least=0)
        _whole("chunksize", self.chunksize, least=1, none=True)
        _whole("tasks_per_worker", self.tasks_per_worker, least=1, none=True)
        if self.memory_limit is not None:
            object.__setattr__(self, "memory_limit", in_bytes("memory_limit", self.memory_limit, 1))
        object.__setattr__(self, "max_nbytes", in_bytes("max_nbytes", self.max_nbytes))
        _whole("blas_threads", self.blas_threads, least=1, none=True)
        if self.blas_threads is not None:  # libraries take a C int, and have limits below this one
            object.__setattr__(self, "blas_threads", min(self.blas_threads, MOST_THREADS))
        _seconds("timeout", self.timeout)
        _seconds("idle", self.idle)
        _flag("same_each_call", self.same_each_call)
        object.__setattr__(self, "preload", _modules("preload", self.preload))
        # numpy's SeedSequence, Generator and RandomState
        if not any(hasattr(self.seed, n) for n in ("spawn_key", "bit_generator", "randint")):
            _whole("seed", self.seed, least=0, none=True)
        if not (self.address is None or isinstance(self.address, str)):
            raise TypeError(f"address must be text such as 'tcp://...', not {self.address!r}")
        _flag("upload", self.upload)
        for name, why in cannot(self.backend).items():
            if getattr(self, name) == _DEFAULTS[name]:
                continue
            if self.backend in ("thread", "serial"):
                raise ValueError(f"{name}= needs backend='process', not {self.backend!r}: {why}")
            if self.backend not in HERE:
                raise ValueError(f"{name}= cannot be had with backend={_told(self.backend)}: {why}")
        if self.initializer is not None and not callable(self.initializer):
            raise TypeError(f"initializer must be callable, not {self.initializer!r}")
        object.__setattr__(self, "initargs", _tuple("initargs", self.initargs))
        giver = None if self.initializer is None else self.giver or Giver()
        object.__setattr__(self, "giver", giver)
        if self.finalizer is not None and not callable(self.finalizer):
            raise TypeError(f"finalizer must be callable, not {self.finalizer!r}")
        object.__setattr__(self, "devices", _devices(self.devices))
        _waiting("retry_wait", self.retry_wait)
        _flag("strict", self.strict)
        _folder("temp_folder", self.temp_folder)
        object.__setattr__(self, "retry_on", _exceptions("retry_on", self.retry_on))
        if not isinstance(self.progress, (bool, str, Mapping)):
            raise TypeError(
                "progress must be True, False, a label or a mapping of tqdm keywords, "
                f"not {self.progress!r}"
            )


HERE = ("process", "thread", "serial", "auto")
_NOT_OURS = {
    "timeout": "its workers are not ours to end; let the function limit itself",
    "memory_limit": "give a limit to the engine's own workers when they are started",
    "tasks_per_worker": "its workers are not ours to replace; let the engine do it",
    "start_method": "its workers have been started by the engine",
    "temp_folder": "nothing is put into files there",
    "idle": "its workers are not ours to end",
    "preload": "its workers import what they need",
    "finalizer": "its workers are not ours to end",
    "devices": "the engine gives its workers their devices",
    "nested": "calls that items make run on threads, with the share of their worker",
}


def cannot(backend: object) -> dict[str, str]:
    """Options that a backend cannot do, each with what to do instead."""
    if backend in ("thread", "serial"):
        unable = {
            "finalizer": "threads are shared, and end with the program",
            "devices": "the variables are those of a whole process",
        }
        if backend == "serial":
            unable["timeout"] = "what runs in place cannot be left, a thread or a process can"
        return unable
    unable = {} if isinstance(backend, str) and backend in HERE else dict(_NOT_OURS)
    if backend not in ("dask", "ray"):
        unable["address"] = "an address is that of a cluster: of backend='dask' or 'ray'"
    if backend != "dask":
        unable["upload"] = "only Dask can be sent the package"
    return unable


def _told(backend: object) -> str:
    return repr(backend) if isinstance(backend, str) else f"an executor ({type(backend).__name__})"


# What the same is called elsewhere.
_ELSEWHERE = {
    "n_jobs": "workers",
    "nodes": "workers",
    "processes": "workers",
    "max_workers": "workers",
    "desc": "progress",
    "tqdm": "progress",
}


def check_names(names: Mapping[str, Any], more: Sequence[str] = ()) -> None:
    """Refuse a name that is no option, nor one of `more`, with the nearest one that is."""
    known = [*more, *NAMES]
    for name in names:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, [*known, *_ELSEWHERE], n=1)
            near = [_ELSEWHERE.get(n, n) for n in near]
            hint = f"; did you mean {near[0]!r}?" if near else f"; options are {', '.join(known)}"
            raise TypeError(f"unknown option {name!r}{hint}")


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those that are unset; None is the default of each, but for `idle`."""
    check_names(options)
    return {
        name: _DEFAULTS[name] if value is None and name != "idle" else value
        for name, value in options.items()
        if value is not UNSET
    }


# --- the seed of a call ----------------------------------------------------------------------


class NumberedSeed(NamedTuple):
    """The seed of a call that is not the first with it; see `values.seeds.root`."""

    seed: Any
    number: int
    spawn_key: tuple[int, ...] = ()  # by which a seed is told that is no number


def drawn_from(seed: Any) -> int | None:
    """Draw a seed from a generator of numpy; None if it is none."""
    if hasattr(seed, "bit_generator"):
        return int(seed.integers(1 << 63))
    return int(seed.randint(1 << 31)) if hasattr(seed, "randint") else None  # a RandomState


class _Calls:
    """Numbers the calls that draw from one seed, in the order in which they are made.

    Items run in no fixed order: there each item counts for itself.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def number(self) -> int:
        """Return the number of the next one."""
        if nesting.nesting_level() == 0:
            return next(self._numbers)
        seen = _in_item.get()
        number = seen.get(self, 0)
        _in_item.set({**seen, self: number + 1})
        return number


_in_item: ContextVar[Mapping[_Calls, int]] = ContextVar("parallelkit_calls", default={})  # noqa: B039 - never changed


# --- configure -------------------------------------------------------------------------------


class _Layer(NamedTuple):
    """What one block set, over what is set around it."""

    options: dict[str, Any]
    around: _Layer | None
    ended: list[bool]  # not empty where the block was left in another context than this one
    calls: _Calls | None = None  # with the seed that holds in it


class _Set(dict[str, Any]):
    """What one plain call set."""

    calls: _Calls  # with its seed


_process: list[_Set] = []  # what plain calls set, the last one last
_of_environment = _Calls()  # with the seed that the environment gives
_version = object()  # another one whenever that changes
_with_main: list[_Layer] = []  # blocks of the main thread, which hold for all threads
_with_here: ContextVar[_Layer | None] = ContextVar("parallelkit_options", default=None)
_NOTHING: dict[str, Any] = {}


def _layer() -> _Layer | None:
    """The innermost block around the caller that has not ended."""
    layer = _with_here.get()
    if layer is None:
        if not _with_main or threading.current_thread() is threading.main_thread():
            return None
        main = _with_main[-1:]
        return main[0] if main else None
    while layer is not None and layer.ended:
        layer = layer.around
    return layer


def _block() -> dict[str, Any]:
    """What `with` blocks around the caller set."""
    layer = _layer()
    return _NOTHING if layer is None else layer.options


def configured() -> dict[str, Any]:
    """What is configured around the caller, by name."""
    plain = {name: value for options in _process for name, value in options.items()}
    outside, block = {**_environment(), **plain}, _block()
    if block.get("library"):
        outside = resources(outside)
    return {**outside, **block}


def resources(options: Mapping[str, Any]) -> dict[str, Any]:
    """What of `options` may come to a library's calls from outside."""
    return {name: value for name, value in options.items() if name in RESOURCES}


class Resolver:
    """Options of one pool: what it was given, over what is configured where it is used."""

    def __init__(self, own: Mapping[str, Any]) -> None:
        self._own = given(own)
        Options(**self._own)
        self.giver = Giver()
        self._known: tuple[tuple[object, ...], Options | None] = (), None
        self._calls = _Calls()
        self._drawing = threading.RLock()
        self._drawn: tuple[object, int] = None, 0  # for all calls: from which generator, and what

    @property
    def own(self) -> dict[str, Any]:
        """What the pool was given."""
        return dict(self._own)

    def __call__(self) -> Options:
        """Return the options as they are now."""
        # A call costs microseconds, checking all options too: so only when something changed.
        key = _environment(), _version, _block()
        known, options = self._known
        if options is None or not all(map(operator.is_, key, known)):
            options = self._resolved()
            self._known = key, options
        return options

    def of_call(self) -> Options:
        """Return the options for one call; with a seed it has random streams of its own."""
        options = self()
        if options.seed is None:
            return options
        seed = options.seed
        with self._drawing:  # threads may make their first calls at a time
            again = options.same_each_call and self._drawn[0] is seed
            drawn = self._drawn[1] if again else drawn_from(seed)
            if drawn is not None:
                self._drawn = seed, drawn
        if drawn is not None:
            return options.but(seed=drawn)
        number = 0
        if not options.same_each_call:
            number = (self._calls if "seed" in self._own else _calls_outside()).number()
        return options.but(seed=NumberedSeed(seed, number)) if number else options

    def _resolved(self) -> Options:
        own, outside = self._own, configured()
        below = {k: v for k, v in outside.items() if k not in _NOT_BELOW}
        if not isinstance(below.get("backend", ""), str):  # an executor stays with its owner
            del below["backend"]
        if own.get("library", outside.get("library")):
            # Its items are the library's own code.
            below = {**resources(below), "library": True}
        if own.get("library"):
            outside = resources(outside)
        if "prefer" in own and own["prefer"] is not None:
            outside.setdefault("backend", own["prefer"])
        together = {**outside, **own}
        if own.keys() & _GIVEN_TOGETHER:
            together["giver"] = self.giver
        # The user's time limit meets a library's threads, or a library's the user's wish to debug.
        for name in cannot(together.get("backend", "process")).keys() & together.keys():
            if together[name] != _DEFAULTS[name] and not {name, "backend"} <= {*own}:
                log.debug("%s= is left out: backend=%r cannot do it", name, together["backend"])
                together[name] = _DEFAULTS[name]
        options = Options(**together, named="backend" in own)
        if options.nested != "thread":  # the pool's own word for all that is below it
            below["nested"] = options.nested
        object.__setattr__(options, "below", below)
        return options


def _calls_outside() -> _Calls:
    """Calls with the seed that is configured around the caller."""
    layer = _layer()
    if layer is not None and layer.calls is not None:
        return layer.calls
    return next((o.calls for o in reversed(_process) if "seed" in o), _of_environment)


def enter(options: Mapping[str, Any]) -> None:
    """Let this context see `options` as configured: how they reach into workers."""
    # The same dictionary where nothing changes: pools know by it what they have resolved.
    layer = _layer()
    if layer is None or layer.options != options:
        layer = _Layer(dict(options), None, [])
    _with_here.set(layer)


def settle(options: Mapping[str, Any]) -> None:
    """Let threads that an item starts in this process, a worker, see `options` as configured."""
    _with_main[:] = [_Layer(dict(options), None, [])]


def forget() -> None:
    """In a copy of a process: what was configured there is told anew with each call."""
    _set_process([])
    _with_main.clear()


if TYPE_CHECKING:

    class _Common(TypedDict, total=False):
        progress: bool | str | Mapping[str, Any] | Unset | None
        timeout: float | Unset | None
        retries: int | Unset | None
        retry_on: type[BaseException] | tuple[type[BaseException], ...] | Unset | None
        retry_wait: float | Unset | None
        chunksize: int | Unset | None
        start_method: Literal["forkserver", "spawn", "fork"] | Unset | None
        initializer: Callable[..., object] | Unset | None
        initargs: Iterable[Any] | Unset | None
        finalizer: Callable[[], object] | Unset | None
        devices: Sequence[Any] | Mapping[str, Sequence[Any]] | Unset | None
        tasks_per_worker: int | Unset | None
        memory_limit: int | str | Unset | None
        max_nbytes: int | str | Unset | None
        temp_folder: str | Unset | None
        blas_threads: int | Unset | None
        nested: Literal["thread", "auto", "process"] | Unset | None
        strict: bool | Unset | None
        prefer: BackendName | Unset | None
        library: bool | Unset | None
        address: str | Unset | None
        upload: bool | Unset | None
        idle: float | Unset | None
        preload: Iterable[str] | Unset | None

    class OtherOptions(_Common, total=False):
        """Options of a pool but `workers`, `backend` and `on_error`, to type checkers."""

        seed: Any
        same_each_call: bool | Unset | None

    class PoolOptions(OtherOptions, total=False):
        """Options of a pool but `workers` and `backend`, to type checkers."""

        on_error: Literal["raise", "return", "skip"] | Unset | None

    class AllOptions(PoolOptions, total=False):
        """All options of a pool, to type checkers."""

        workers: int | Literal["fair"] | Unset | None
        backend: BackendName | Executor | Unset | None

    class SweepOptions(_Common, total=False):
        """What a sweep takes of a pool's options, to type checkers."""

        workers: int | Literal["fair"] | Unset | None
        backend: BackendName | Executor | Unset | None


class configure:  # noqa: N801 - reads as the function that it is used as
    """Set the defaults of every pool and call below it.

    As a plain call for the whole process, from now on; as a context manager for the block, and
    for the calls that items of the block's own calls make, in whatever thread or worker. Threads
    and asyncio tasks each have blocks of their own. A block of the main thread, entered outside of
    an event loop, holds for threads started by other means as well.

    It may be entered again, also within itself, and left in another context than it was entered in
    (an asynchronous fixture): then it holds nowhere any more.

    Parameters
    ----------
    **options
        Any option of :class:`Pool`. None is the option's default (of ``idle``: never); one that is
        :data:`UNSET` is not set. With ``library=True`` only resources that are set outside of the
        block hold within it.

    Raises
    ------
    TypeError, ValueError
        For an unknown option or a bad value.

    Examples
    --------
    >>> import parallelkit as pk
    >>> with pk.configure(workers=2, backend="thread"):
    ...     pk.map(abs, [-1, 2])
    [1, 2]
    """

    def __init__(self, **options: Unpack[AllOptions]) -> None:
        self._options = _Set(given(options))
        self._options.calls = _Calls()
        if self._options.keys() & _GIVEN_TOGETHER:
            self._options["giver"] = Giver()
        Options(**self._options)
        self._entered: list[tuple[_Layer, Token[_Layer | None]]] = []
        # One that is hidden altogether need not be kept.
        own = self._options
        _set_process([*(o for o in _process if o.keys() - own.keys()), own])

    def __enter__(self) -> Self:
        # What the plain call set for the whole process moves to this block alone.
        if any(o is self._options for o in _process):
            _set_process([o for o in _process if o is not self._options])
        around = _layer()
        outside = _NOTHING if around is None else around.options
        if self._options.get("library"):
            outside = resources(outside)
        calls = None if around is None else around.calls
        if "seed" in self._options:
            calls = _Calls()
        layer = _Layer({**outside, **self._options}, around, [], calls)
        if threading.current_thread() is threading.main_thread() and not in_event_loop():
            _with_main.append(layer)
        self._entered.append((layer, _with_here.set(layer)))
        return self

    def __exit__(self, *_: object) -> None:
        # Several threads and tasks may be inside: the block that ends is that of this context.
        here = _with_here.get()
        which = next((e for e in reversed(self._entered) if e[0] is here), self._entered[-1])
        self._entered.remove(which)
        layer, token = which
        try:
            _with_here.reset(token)
        except ValueError:  # entered in another context
            layer.ended.append(True)
        _with_main[:] = [entry for entry in _with_main if entry is not layer]


def _set_process(layers: list[_Set]) -> None:
    global _process, _version
    _process = layers
    _version = object()


# --- the environment -------------------------------------------------------------------------

PREFIX = "PARALLELKIT_"
_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "workers": lambda text: int(text) if text.strip().lstrip("+-").isdecimal() else text,
    "backend": str,
    "address": str,
    "progress": lambda text: {"0": False, "false": False, "1": True, "true": True}.get(
        text.lower(), text
    ),
    "on_error": str,
    "timeout": float,
    "retries": int,
    "retry_wait": float,
    "chunksize": int,
    "start_method": str,
    "tasks_per_worker": int,
    "memory_limit": str,
    "max_nbytes": str,
    "temp_folder": str,
    "blas_threads": int,
    "seed": int,
    "nested": str,
    "strict": lambda text: text.lower() not in ("0", "false", "no"),
    "preload": lambda text: tuple(text.replace(",", " ").split()),
    "idle": lambda text: None if text.lower() in ("none", "never") else float(text),
}
_VARIABLES = tuple(PREFIX + name.upper() for name in _FROM_TEXT)
_read = host.Variables(_VARIABLES).read
_last_environment: tuple[dict[str, str], dict[str, Any]] = {}, {}

# Variables that are no options.
_OTHERS = tuple(PREFIX + name for name in ("MALLOC", "TRACE", "FORK_SERVER", "WITHOUT"))
_names_checked = False


def _check_names_of_variables() -> None:
    """Warn, once, of a ``PARALLELKIT_*`` in the environment that nobody reads."""
    global _names_checked
    _names_checked = True
    for variable in os.environ:
        if not variable.startswith(PREFIX) or variable in (*_VARIABLES, *_OTHERS):
            continue
        import difflib

        near = difflib.get_close_matches(variable, [*_VARIABLES, *_OTHERS], n=1, cutoff=0.75)
        hint = f"did you mean {near[0]}?" if near else f"those are {', '.join(_VARIABLES)}"
        if not nesting.in_worker_process():  # which has them from its parent
            warnings.warn(f"{variable} is not a variable of parallelkit; {hint}", stacklevel=2)


def _environment() -> dict[str, Any]:
    """Options from ``PARALLELKIT_*`` as the environment is now; parsed again when it changed."""
    global _last_environment
    if not _names_checked:
        _check_names_of_variables()
    seen = _read()
    if seen == _last_environment[0]:
        return _last_environment[1]
    options = {}
    for (name, read), variable in zip(_FROM_TEXT.items(), _VARIABLES, strict=True):
        text = seen.get(variable)
        if text:
            try:
                options[name] = read(text)
                Options(**{name: options[name]})
            except (TypeError, ValueError) as error:
                raise ValueError(f"environment variable {variable}={text!r}: {error}") from None
    _last_environment = seen, options
    return options


# --- checks ----------------------------------------------------------------------------------


def _whole(name: str, value: object, least: int | None = None, none: bool = False) -> None:
    if value is None and none:
        return
    try:
        number = value.__index__()  # type: ignore[attr-defined]
    except AttributeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number{' or None' if none else ''}, not {value!r}")
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")


def _workers(value: object) -> None:
    if isinstance(value, str):
        raise TypeError(f'workers must be a whole number, "fair" or None, not {value!r}')
    _whole("workers", value, none=True)
    if value == 0:
        raise ValueError("workers must not be 0; use workers=1, or -1 for all cores")


def _backend(value: object) -> None:
    if _is_executor(value):
        if type(value).__module__.startswith("parallelkit."):
            raise TypeError("backend= takes an executor of another library; ours is a pool itself")
        return
    if not isinstance(value, str):
        raise TypeError(f"backend must be a name or an Executor, not {value!r}")
    _one_of("backend", value, BACKENDS)


def _is_executor(value: object) -> bool:
    """Whether it is one; a value that is has had its module imported."""
    futures = sys.modules.get("concurrent.futures._base")
    return isinstance(value, getattr(futures, "Executor", ()))


def _flag(name: str, value: object) -> None:
    if type(value) is not bool:
        raise TypeError(f"{name} must be True or False, not {value!r}")


def _seconds(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds or None, not {value!r}")
    if not value > 0:
        raise ValueError(f"{name} must be more than 0 seconds, not {value!r}")


def _tuple(name: str, value: Any) -> tuple[Any, ...]:
    try:
        return tuple(value)
    except TypeError:
        raise TypeError(f"{name} must be a tuple, not {value!r}") from None


def _modules(name: str, value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    found = () if isinstance(value, str) else _tuple(name, value)
    if isinstance(value, str) or not all(
        isinstance(module, str) and all(part.isidentifier() for part in module.split("."))
        for module in found
    ):
        raise TypeError(
            f'{name} must be a tuple of modules\' names, such as ("numpy",), not {value!r}'
        )
    return found


def _exceptions(name: str, value: Any) -> tuple[type[BaseException], ...]:
    kinds: tuple[Any, ...] = value if isinstance(value, tuple) else (value,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"{name} must name exception types, not {kind!r}")
    return kinds


def _folder(name: str, value: str | None) -> None:
    if value is not None and not os.path.isdir(value):
        raise ValueError(f"{name} must be a folder that exists, not {value!r}")


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        import difflib

        near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown {name} {value!r}{hint} (one of {', '.join(map(repr, known))})")


def _waiting(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise ValueError(f"{name} must be a number of seconds from 0 on, not {value!r}")


class Devices(tuple[tuple[str, tuple[str, ...]], ...]):
    """Variables that tell a worker its device: their names, and values for one after the other."""

    __slots__ = ()


def _devices(value: Any) -> Devices | None:
    if value is None or isinstance(value, Devices):
        return value
    named = value if isinstance(value, Mapping) else {"CUDA_VISIBLE_DEVICES": value}
    found = []
    for name, ones in named.items():
        good = isinstance(name, str) and name and not {"=", "\0"} & {*name}
        if not good or isinstance(ones, (str, bytes)) or not isinstance(ones, Sequence) or not ones:
            raise ValueError(
                "devices must be a list such as [0, 1], or a dictionary of such lists by the name "
                f"of an environment variable, not {value!r}"
            )
        found.append((name, tuple(str(one) for one in ones)))
    return Devices(found)
