"""What runs in a worker of another engine: one chunk, in a process that is not ours.

::

    caller                                          a worker of Dask, Ray, an executor
    run(head, order, columns, news, state, setup) ─► versions alike?      no: "differs"
                                                     all of it known?     no: "lacks", with what is
                                                     Runtime: the items
    values, exceptions, what was said             ◄─ "done"

Nobody tells here which worker gets an order, so an order names what it needs (versions of the
script, the task by its key), and a worker that has not got something says what it has. Then the
caller sends the order again, with just that.

The process has its own life: other clients' items may run beside these, and other people's tasks.
So the script, the settings and the logging of a client are put in place while items of it run, and
taken away when none runs any more.
"""

from __future__ import annotations

import _locale
import contextvars
import copy
import importlib
import importlib.metadata
import logging
import os
import pickle
import socket
import sys
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import SimpleNamespace
from typing import Any, NamedTuple

from ..errors import IN_INITIALIZER
from ..place import blas, nesting, recording
from ..place.foreign import granted
from ..place.host import cpu_count
from ..place.nesting import Nesting
from ..place.recording import Traced
from ..transport import mirror, pickling
from ..transport.pickling import Pickled
from ..values.outcome import Reply
from ..values.source import Chunk
from . import output, randomness
from .environment import Surroundings
from .runtime import Runtime, pickled_error
from .task import Progress

__all__ = [
    "Order",
    "Parcel",
    "Settings",
    "head",
    "identity",
    "made_with",
    "own_version",
    "run",
    "settings",
]

VERSION = 1  # of `Order` and of what `run` takes and gives
MOST_TASKS = 32  # that a worker keeps for calls to come
MOST_BYTES = 64 << 20  # of these together, but for the last one
WRITABLE = 1 << 20  # bytes of a buffer that is copied where the engine gives it read-only


class Parcel:
    """A pickle and its buffers, of which engines with protocol 5 copy nothing.

    Parameters
    ----------
    data : bytes
    buffers : list of buffers
    """

    __slots__ = ("__weakref__", "buffers", "data")

    def __init__(self, data: bytes, buffers: list[Any]) -> None:
        self.data = data
        self.buffers = buffers

    @classmethod
    def of(cls, pickled: Pickled) -> Parcel:
        """Pack what was pickled."""
        return cls(b"".join(pickled.pieces), list(pickled.buffers))

    @property
    def nbytes(self) -> int:
        """Bytes of it all."""
        return len(self.data) + sum(memoryview(buffer).nbytes for buffer in self.buffers)

    def __sizeof__(
        self,
    ) -> int:  # by which Dask sees where it is best used, and what memory it takes
        return super().__sizeof__() + self.nbytes

    def open(self, *, copy: bool = True) -> Any:
        """Make the object again; without `copy`, large arrays may be such as cannot be written."""
        buffers = [_writable(buffer, copy) for buffer in self.buffers]
        return pickling.loads(self.data, buffers)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if protocol >= 5:
            return Parcel, (self.data, [pickle.PickleBuffer(buffer) for buffer in self.buffers])
        return Parcel, (self.data, [bytearray(buffer) for buffer in self.buffers])


def _writable(buffer: Any, copied: bool) -> Any:
    view = memoryview(buffer)
    if not view.readonly or (not copied and view.nbytes > WRITABLE):
        return buffer
    return bytearray(view)


class Order(NamedTuple):
    """Run a chunk. It travels as a plain tuple, so that other versions can refuse it."""

    key: str  # of the task
    start: int
    size: int
    needs: tuple[int, ...]  # versions of what it needs of the script
    settings: bytes  # a pickle of `Settings`
    setup: str  # what the initializer is known by; "" where there is none
    budget: float  # seconds after which the reply goes for what is done
    traced: tuple[Any, ...] | None  # a `Traced`, for who can write there


# --- who is who ----------------------------------------------------------------------------------

_identity = 0, ""


def identity() -> str:
    """What this process is called as a client: another one after a fork."""
    global _identity
    if _identity[0] != os.getpid():
        name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(6).hex()}"
        _identity = os.getpid(), name
    return _identity[1]


def head() -> tuple[Any, ...]:
    """What goes before all else: whose order it is, and what it was made with."""
    return identity(), *made_with()


def own_version() -> str:
    """Version of this package."""
    return str(sys.modules["parallelkit"].__version__)  # which nothing down here may import


_versions: tuple[tuple[str, str], ...] = ()


def made_with() -> tuple[tuple[str, str], ...]:
    """Versions that caller and worker must have in common."""
    global _versions
    if not _versions:
        cloudpickle = ".".join(importlib.metadata.version("cloudpickle").split(".")[:2])
        _versions = (
            ("Python", "{}.{}".format(*sys.version_info)),
            ("parallelkit", own_version()),
            ("cloudpickle", cloudpickle),
            ("the order of parallelkit", str(VERSION)),
        )
    return _versions


def _difference(theirs: tuple[tuple[str, str], ...]) -> str:
    """What is of another version here; empty if nothing is."""
    for (name, version), (_, mine) in zip(theirs, made_with(), strict=False):
        if version != mine:
            return f"{name} {mine}, while the caller has {version}"
    return ""


# --- what the caller has around it ---------------------------------------------------------------


class Settings(NamedTuple):
    """What of the caller's surroundings makes sense in somebody else's process."""

    host: str
    folder: str | None
    path: list[str]
    variables: dict[str, str | None]  # that the script has set or removed
    log_levels: dict[str, int]
    level_names: dict[int, str]
    logger_classes: dict[str, Any]
    warning_filters: list[output.Filter]
    recursion: int
    digits: int
    umask: int
    locale: str


def settings(now: Surroundings) -> bytes:
    """Settings of a caller with these surroundings, as they travel."""
    own = Settings(
        *(socket.gethostname(), now.folder, [os.path.abspath(p) for p in now.path], _variables()),
        *(now.log_levels, now.level_names, now.logger_classes, now.warning_filters),
        *(now.recursion, now.digits, now.umask, now.locale),
    )
    return b"".join(pickling.dumps(tuple(own), sys.maxsize).pieces)


def _variables() -> dict[str, str | None]:
    """Variables that this process has set or removed since it started."""
    global _started_with
    if _started_with is None:
        try:
            with open("/proc/self/environ", "rb") as file:
                entries = [os.fsdecode(entry) for entry in file.read().split(b"\0") if entry]
            _started_with = dict(entry.split("=", 1) for entry in entries if "=" in entry)
        except OSError:  # not on Linux
            _started_with = dict(os.environ)
    now = os.environ
    changed: dict[str, str | None] = {
        name: value for name, value in now.items() if _started_with.get(name) != value
    }
    changed |= dict.fromkeys(_started_with.keys() - now.keys())
    return {
        name: value
        for name, value in changed.items()
        if name not in blas.VARIABLES and not name.startswith(_ENGINES_OWN)
    }


# By these an engine tells its worker who it is, which is another one than the caller.
_ENGINES_OWN = ("RAY_", "DASK_", "OMPI_", "PMI", "SLURM_", "CUDA_VISIBLE_DEVICES")
_started_with: dict[str, str] | None = None


class _Said:
    """What an item says while it runs, and which one it is."""

    __slots__ = ("messages", "progress", "start")

    def __init__(self, start: int, progress: Progress) -> None:
        self.messages: list[tuple[str, tuple[Any, ...]]] = []
        self.start = start
        self.progress = progress


_saying: contextvars.ContextVar[_Said | None] = contextvars.ContextVar("saying", default=None)


def _tell(kind: str, fields: tuple[Any, ...]) -> None:
    said = _saying.get()
    if said is not None:
        said.messages.append((kind, fields))


def _index() -> int | None:
    said = _saying.get()
    return None if said is None else said.start + len(said.progress.values)


class _Stage:
    """The process, set up for the client whose items run in it.

    Where items of several clients run at a time, in several threads, the settings are those of the
    one that began last; each has its own script at all times.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._running = 0
        self._guest: Guest | None = None
        self._settings = b""
        self._undo: list[Callable[[], object]] = []

    @contextmanager
    def of(self, guest: Guest, told: bytes) -> Iterator[None]:
        """Have the stage for a chunk."""
        with self.lock:
            if self._running and (self._settings != told or self._guest is not guest):
                self._clear()
            if not self._undo:
                self._set(guest, told)
            self._running += 1
        try:
            yield
        finally:
            with self.lock:
                self._running -= 1
                if not self._running:
                    self._clear()

    @property
    def alone(self) -> bool:
        """Whether one chunk runs here."""
        return self._running == 1

    @contextmanager
    def script_of(self, guest: Guest) -> Iterator[None]:
        """Pickle or unpickle something of a client."""
        with self.lock:
            here = self._guest
            if here is not guest:
                guest.mirror.enter()
            try:
                yield
            finally:
                if here is not None and here is not guest:
                    here.mirror.enter()

    def again(self) -> None:
        """Put the script of who runs here in place again, after another one's was made."""
        mirror.leave()
        if self._guest is not None:
            self._guest.mirror.enter()

    def _set(self, guest: Guest, told: bytes) -> None:
        self._guest, self._settings = guest, told
        undo, own = self._undo, Settings(*pickling.loads(told))
        main = sys.modules.get(mirror.MAIN)
        undo.append(lambda: _put_main(main))
        undo.append(mirror.leave)
        guest.mirror.enter()
        undo.append(_enter_path(own.path))
        undo.append(_enter_variables(own.variables))
        if own.host == socket.gethostname():
            if own.folder is not None:
                undo.append(_enter_folder(own.folder))
            umask = os.umask(own.umask)
            undo.append(lambda: os.umask(umask))
        undo.append(_enter_limits(own))
        undo.append(_enter_levels(own))
        undo.append(_enter_warnings(own))

    def _clear(self) -> None:
        while self._undo:
            with suppress(Exception):
                self._undo.pop()()
        self._guest = None


def _put_main(module: Any) -> None:
    if module is not None:
        sys.modules[mirror.MAIN] = module


def _enter_path(path: list[str]) -> Callable[[], object]:
    """Find what the caller finds, after all that is found here."""
    more = [entry for entry in path if entry not in sys.path and os.path.isdir(entry)]
    if more:
        importlib.invalidate_caches()
    sys.path.extend(more)  # it stays: modules may be imported later, by threads of an item
    return lambda: None


def _enter_variables(wanted: dict[str, str | None]) -> Callable[[], object]:
    before = {name: os.environ.get(name) for name in wanted}
    _set_variables({name: value for name, value in wanted.items() if value != before[name]})
    return lambda: _set_variables(before)


def _set_variables(wanted: dict[str, str | None]) -> None:
    for name, value in wanted.items():
        if value is None:
            os.environ.pop(name, None)
        elif os.environ.get(name) != value:
            os.environ[name] = value
    if "TZ" in wanted and hasattr(time, "tzset"):
        time.tzset()


def _enter_folder(folder: str) -> Callable[[], object]:
    try:
        before = os.getcwd()
        if before != folder:
            os.chdir(folder)
            return lambda: os.chdir(before)
    except OSError:  # it is not there: the function will tell if it needs it
        pass
    return lambda: None


def _enter_limits(own: Settings) -> Callable[[], object]:
    before = sys.getrecursionlimit(), sys.get_int_max_str_digits()
    with suppress(RecursionError):
        sys.setrecursionlimit(max(own.recursion, before[0]))
    sys.set_int_max_str_digits(own.digits)
    there = _locale.setlocale(_locale.LC_ALL, None)
    if there != own.locale:
        with suppress(Exception):  # not every machine has it
            _locale.setlocale(_locale.LC_ALL, own.locale)

    def undo() -> None:
        with suppress(Exception):
            if there != own.locale:
                _locale.setlocale(_locale.LC_ALL, there)
        sys.set_int_max_str_digits(before[1])
        sys.setrecursionlimit(before[0])

    return undo


def _enter_levels(own: Settings) -> Callable[[], object]:
    """Let records of items go to the caller, made as its loggers would make them."""
    levels, classes = output.levels(), output.logger_classes()
    usual = logging.Logger.callHandlers
    forward = output.forwarder(_tell, _index)

    def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
        if _saying.get() is None:
            usual(logger, record)
        else:
            forward.handle(record)

    logger_class: Any = logging.Logger
    logger_class.callHandlers = call_handlers
    said = output.say_by(_tell)
    output.set_level_names(own.level_names)
    output.set_logger_classes(own.logger_classes)
    output.set_levels(own.log_levels)

    def undo() -> None:
        logger_class.callHandlers = usual
        output.set_levels(levels)
        output.set_logger_classes(classes)
        output.say_by(said)

    return undo


def _enter_warnings(own: Settings) -> Callable[[], object]:
    kept = warnings.catch_warnings()
    kept.__enter__()
    output.set_filters(own.warning_filters)
    usual: Any = warnings.showwarning
    tell = output.warnings_to(_tell)

    def show(*args: Any, **keywords: Any) -> None:
        (usual if _saying.get() is None else tell)(*args, **keywords)

    warnings.showwarning = show
    return lambda: kept.__exit__(None, None, None)


_stage = _Stage()
_alone = threading.RLock()  # held by items that have `random` to themselves
_guests: dict[str, Guest] = {}
MOST_GUESTS = 8


def _after_fork() -> None:
    global _stage, _alone
    _stage, _alone = _Stage(), threading.RLock()
    _guests.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# --- what is known of a client -------------------------------------------------------------------


class Guest:
    """In a worker: one client, with its script and its tasks."""

    def __init__(self, client: str) -> None:
        self.own = client == identity()  # threads of the caller itself, such as a local Dask's
        known: Any
        if self.own:
            known = SimpleNamespace(learning=False, enter=lambda: None)
        elif _guests or nesting.in_worker_process():
            known = mirror.Mirror(client)
        else:
            known = mirror.settle(client)
            randomness.settle()
        self.mirror = known
        self.runtime = Runtime(_spare, None, known)
        self.held: set[int] = set()
        self.sizes: OrderedDict[str, int] = OrderedDict()  # of the tasks, the last used last
        self.initialized: set[str] = set()
        self.context = contextvars.copy_context()
        self.context.run(nesting.be_guest)

    def loads(self, parcel: Parcel) -> Any:
        """Make what came of this client."""
        with _stage.script_of(self):
            return self.context.run(parcel.open, copy=False)

    def lacks(self, order: Order, news: Any, state: Any) -> bool:
        """Take in what came with an order; whether something is missing all the same."""
        missing = set() if self.own else set(order.needs) - self.held
        if missing:
            if news is None:
                return True
            versions, parcel, anyhow = news
            if not missing <= versions or (self.held & versions and not anyhow):
                return True
            with _stage.script_of(self):
                self.context.run(self.runtime.learn_script, parcel.data, _buffers(parcel))
            self.held |= versions
        if order.key not in self.sizes:
            if state is None:
                return True
            with _stage.script_of(self):
                self.context.run(self.runtime.learn, order.key, state.data, _buffers(state))
            self.sizes[order.key] = state.nbytes
            self._forget()
        self.sizes.move_to_end(order.key)
        return False

    def _forget(self) -> None:
        while len(self.sizes) > 1 and (
            len(self.sizes) > MOST_TASKS or sum(self.sizes.values()) > MOST_BYTES
        ):
            self.runtime.forget([self.sizes.popitem(last=False)[0]])

    def initialize(self, key: str, setup: Parcel) -> None:
        """Run the user's initializer, once in this process."""
        with _stage.lock:
            if key in self.initialized:
                return
            initializer, initargs = self.loads(setup)
            try:
                self.context.run(initializer, *initargs)
            except BaseException as error:
                error.add_note(IN_INITIALIZER)
                raise
            self.initialized.add(key)


def _buffers(parcel: Parcel) -> list[Any]:
    return [_writable(buffer, False) for buffer in parcel.buffers]


def _guest_of(client: str) -> Guest:
    with _stage.lock:
        guest = _guests.pop(client, None)
        if guest is None:
            main = sys.modules.get(mirror.MAIN)
            guest = Guest(client)
            if not guest.own:
                _put_main(main)
                _stage.again()
        _guests[client] = guest
        if len(_guests) > MOST_GUESTS:
            del _guests[next(iter(_guests))]
        return guest


def _spare() -> int:
    return granted() or 0


def _share() -> int:
    """Cores of who runs here: what is known of the engine, or its ranks by the launcher of MPI."""
    cores = granted()
    if cores is not None:
        return cores
    for name in ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"):
        ranks = os.environ.get(name, "")
        if ranks.isdecimal() and int(ranks):
            return max(1, cpu_count() // int(ranks))
    return cpu_count()


# --- an order ------------------------------------------------------------------------------------


def run(
    made_by: tuple[Any, ...],
    order: tuple[Any, ...],
    columns: Parcel,
    news: tuple[Collection[int], Parcel, bool] | None,
    state: Parcel | None,
    setup: Parcel | None,
) -> tuple[Any, ...]:
    """Run a chunk, or tell why not. Raises nothing that concerns the caller's own objects.

    Returns
    -------
    tuple
        ``"differs", what``; ``"lacks", versions that are there``; ``"unset", error`` where the
        initializer raised; ``"unlearnt", error`` where the script or the task cannot be made;
        ``"unreadable", error`` where the arguments cannot; or
        ``"done", (values, raised), seconds, what was said``. Errors and values are parcels.
    """
    begin = time.perf_counter()
    client, *theirs = made_by
    difference = _difference(tuple(theirs))
    if difference:
        return "differs", f"{difference} (on {socket.gethostname()})"
    told = Order(*order)
    guest = _guest_of(client)
    if guest.own:
        return _run(guest, told, columns, news, state, setup, begin)
    with _stage.of(guest, told.settings):
        if _stage.alone and not guest.initialized:
            randomness.renew()
        return _run(guest, told, columns, news, state, setup, begin)


def _run(
    guest: Guest,
    order: Order,
    columns: Parcel,
    news: Any,
    state: Parcel | None,
    setup: Parcel | None,
    begin: float,
) -> tuple[Any, ...]:
    failed = "unlearnt"
    try:
        with _stage.lock:
            unset = order.setup and order.setup not in guest.initialized
            if guest.lacks(order, news, state) or (unset and setup is None):
                return "lacks", tuple(guest.held)
            task = copy.copy(guest.runtime.tasks[order.key])
        failed = "unset"
        if setup is not None:
            guest.initialize(order.setup, setup)
        failed = "unreadable"
        chunk = Chunk(order.start, order.size, guest.loads(columns))
        del columns
    except BaseException as error:  # noqa: BLE001 - a user's __setstate__ may raise anything
        with _stage.script_of(guest):
            return failed, Parcel.of(pickled_error(error))
    cores = _share()
    task.places, task.cores, task.budget = [Nesting(1, cores)], cores, order.budget
    task.traced = None if order.traced is None else Traced(*order.traced)
    with _stage.lock:
        context = guest.context.copy()
    reply, said = context.run(_items, task, chunk, guest.own)
    known = guest.runtime.tasks.get(order.key)
    if known is not None and task.alters:
        known.alters = True
    reply = reply._replace(seconds=max(reply.seconds, time.perf_counter() - begin))
    with _stage.script_of(guest):
        pickled = guest.runtime.pickled(reply)
    return "done", Parcel.of(pickled), reply.seconds, said


def _reachable(folders: Iterable[str]) -> bool:
    """Whether what is noted can be left here: on the caller's machine, and not on another one."""
    return all(map(os.path.isdir, folders))


def _items(task: Any, chunk: Chunk, own: bool) -> tuple[Reply, list[Any]]:
    progress = Progress()
    said = _Said(chunk.start, progress)
    if not own:
        _saying.set(said)
    noted = None
    if task.traced is not None and not _reachable(task.traced.folders):
        noted = recording.collect()
    cores = task.places[0].cores
    threads = task.blas_threads or cores
    with blas.lent(threads, cores), _alone if task.alone else nullcontext():
        reply = task.run(chunk, 0, progress=progress, spare=_spare)
    if noted:
        now = time.perf_counter()
        said.messages.append((output.NOTED, (socket.gethostname(), os.getpid(), now, noted)))
    return reply, said.messages
