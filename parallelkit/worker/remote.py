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

What of the client's surroundings is there while its items run is the matter of `stage`.
"""

from __future__ import annotations

import contextvars
import copy
import os
import socket
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

from ..errors import IN_INITIALIZER, note
from ..place import blas, nesting, recording
from ..place.foreign import granted
from ..place.host import cpu_count
from ..place.nesting import Nesting
from ..place.recording import Traced
from ..place.records import NamedTuple
from ..transport import mirror
from ..values.outcome import Reply
from ..values.source import Chunk
from . import output, randomness
from .parcel import Behind, Parcel, writable
from .runtime import Runtime, pickled_error
from .stage import Said, Stage, put_main, saying
from .task import Progress
from .versions import difference, identity

__all__ = ["Order", "run"]

MOST_TASKS = 32  # that a worker keeps for calls to come
MOST_BYTES = 64 << 20  # of these together, but for the last one
LARGE = 1 << 20  # bytes of a task that is not kept for calls to come
BY_ITSELF = 2e-4  # seconds that a chunk may take whatever its items do
IDLE = 2.0  # seconds without a chunk of it, after which its call counts as over


class Order(NamedTuple):
    """Run a chunk. It travels as a plain tuple, so that other versions can refuse it."""

    key: str  # of the task
    start: int
    size: int
    needs: tuple[int, ...]  # versions of what it needs of the script
    settings: bytes  # a pickle of `Settings`
    setup: str  # what the initializer is known by; "" where there is none
    call: str  # at whose beginning that is to have run
    budget: float  # seconds after which the reply goes for what is done
    traced: tuple[Any, ...] | None  # a `Traced`, for who can write there


_stage = Stage()
_alone = threading.RLock()  # held by items that have `random` to themselves
_guests: dict[str, Guest] = {}
MOST_GUESTS = 8
_setup: tuple[Guest | None, str] = None, ""  # whose initializer was the last to run, and which
MOST_BEGUN = 256  # calls of a client that are known to have begun


def _after_fork() -> None:
    global _stage, _alone
    _stage, _alone = Stage(), threading.RLock()
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
        self.running: Counter[str] = Counter()  # chunks, by their tasks
        self.until: dict[str, float] = {}  # when large tasks will have been idle for long
        self.initialized = False  # by any of its pools
        self.begun: OrderedDict[str, None] = OrderedDict()  # calls that have what theirs sets
        self.context = contextvars.copy_context()
        self.context.run(nesting.be_guest)

    def loads(self, parcel: Parcel) -> Any:
        """Make what came of this client."""
        with _stage.script_of(self):
            return self.context.run(parcel.open, copy=False)

    def lacks(self, order: Order, news: Any, state: Any) -> bool:
        """Take in what came with an order; whether something is missing all the same."""
        missing = set() if self.own else set(order.needs) - self.held
        known = order.key in self.sizes
        if missing:
            if news is None:
                return True
            versions, parcel, anyhow = news
            if not missing <= versions or (self.held & versions and not anyhow):
                return True
            with _stage.script_of(self):
                self.context.run(self.runtime.learn_script, parcel.data, _buffers(parcel))
            self.held |= versions
        if not known:
            if state is None:
                return True
            with _stage.script_of(self):
                self.context.run(self.runtime.learn, order.key, state.data, _buffers(state))
            self.sizes[order.key] = state.nbytes
            self._forget()
        if (missing or not known) and not self.own:
            _stage.imported()
        self.sizes.move_to_end(order.key)
        return False

    def _forget(self) -> None:
        while len(self.sizes) > 1 and (
            len(self.sizes) > MOST_TASKS or sum(self.sizes.values()) > MOST_BYTES
        ):
            self.runtime.forget([self.sizes.popitem(last=False)[0]])

    @contextmanager
    def using(self, key: str) -> Iterator[None]:
        """Keep a task while a chunk of it runs; let go of a large one when none has run for long.

        Nobody tells a worker that a call is over: the engine decides where an order goes, and a
        caller may have been killed.
        """
        with _stage.lock:
            self.running[key] += 1
        try:
            yield
        finally:
            with _stage.lock:
                self.running[key] -= 1
                if not self.running[key]:
                    del self.running[key]
                    if self.sizes.get(key, 0) > LARGE:
                        watched = key in self.until
                        self.until[key] = time.monotonic() + IDLE
                        if not watched:
                            self._look_in(IDLE, key)

    def _look_in(self, seconds: float, key: str) -> None:
        timer = threading.Timer(seconds, self._let_go, (key,))
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:  # no thread more can be started: the next chunk tries again
            self.until.pop(key, None)

    def _let_go(self, key: str) -> None:
        with _stage.lock:
            left = self.until[key] - time.monotonic()
            idle = key in self.sizes and key not in self.running
            if idle and left > 0:
                self._look_in(left, key)
                return
            del self.until[key]
            if not idle:
                return
            task = self.runtime.tasks.get(key)
            del self.sizes[key]
            self.runtime.forget([key])
        del task  # without the lock: what is in it may have a `__del__` that waits for something

    def unset(self, order: Order) -> bool:
        """Whether the user's initializer is to run: another one has, or none, and a call begins."""
        return bool(order.setup and order.call not in self.begun and _setup != (self, order.setup))

    def initialize(self, order: Order, setup: Parcel | None) -> None:
        """Run the user's initializer, if it is to run in this process."""
        global _setup
        with _stage.lock:
            if setup is not None and self.unset(order):
                initializer, initargs = self.loads(setup)
                _setup = None, ""
                try:
                    self.context.run(initializer, *initargs)
                except BaseException as error:
                    note(error, IN_INITIALIZER)
                    raise
                _setup = self, order.setup
                self.initialized = True
            self.begun[order.call] = None
            if len(self.begun) > MOST_BEGUN:
                self.begun.popitem(last=False)


def _buffers(parcel: Parcel) -> list[Any]:
    return [writable(buffer, False) for buffer in parcel.buffers]


def _guest_of(client: str) -> Guest:
    with _stage.lock:
        guest = _guests.pop(client, None)
        if guest is None:
            main = sys.modules.get(mirror.MAIN)
            guest = Guest(client)
            if not guest.own:
                put_main(main)
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
        ``"differs", what``; ``"lacks", versions that are there``; ``"behind", number, how much``
        of what grows is there; ``"unset", error`` where the initializer raised; ``"unlearnt",
        error`` where the script or the task cannot be made; ``"unreadable", error`` where the
        arguments cannot; or
        ``"done", (values, raised), seconds, what was said``. Errors and values are parcels.
    """
    client, *theirs = made_by
    what = difference(tuple(theirs))
    if what:
        return "differs", f"{what} (on {socket.gethostname()})"
    told = Order(*order)
    guest = _guest_of(client)
    with guest.using(told.key):
        if guest.own:
            return _run(guest, told, columns, news, state, setup)
        with _stage.of(guest, told.settings):
            if _stage.alone and not guest.initialized:
                randomness.renew()
            return _run(guest, told, columns, news, state, setup)


def _run(
    guest: Guest,
    order: Order,
    columns: Parcel,
    news: Any,
    state: Parcel | None,
    setup: Parcel | None,
) -> tuple[Any, ...]:
    failed = "unlearnt"
    try:
        with _stage.lock:
            if guest.lacks(order, news, state) or (setup is None and guest.unset(order)):
                return "lacks", tuple(guest.held)
            task = copy.copy(guest.runtime.tasks[order.key])
        failed = "unset"
        if order.setup:
            guest.initialize(order, setup)
        failed = "unreadable"
        begin = time.perf_counter()
        chunk = Chunk(order.start, order.size, guest.loads(columns))
        del columns
    except Behind as behind:
        return "behind", behind.number, behind.has
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
    # What large arguments take counts; what each chunk takes does not, whatever it has of items.
    seconds = max(reply.seconds, time.perf_counter() - begin - BY_ITSELF)
    with _stage.script_of(guest):
        pickled = guest.runtime.pickled(reply)
    return "done", Parcel.of(pickled), seconds, said


def _reachable(folders: Iterable[str]) -> bool:
    """Whether what is noted can be left here: on the caller's machine, and not on another one."""
    return all(map(os.path.isdir, folders))


def _items(task: Any, chunk: Chunk, own: bool) -> tuple[Reply, list[Any]]:
    progress = Progress()
    said = Said(chunk.start, progress)
    if not own:
        saying.set(said)
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
