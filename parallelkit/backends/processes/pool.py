"""Worker processes: a call's way through workers that are kept warm.

Workers are shared: a call gets those with its settings, whoever started them. A few idle sets are
kept; they end with `shutdown`, with the process, or when too many others have been used since.

It is long because the way of a chunk is one loop: what is fed, sent, opened and given back goes by
the same few fields of a call, and each step decides by what the others have left there.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from time import perf_counter as clock
from typing import Any, cast

from ...options import Options
from ...place.host import default_start_method
from ...place.recording import record
from ...place.sigint import Shield, held_here
from ...transport import inheritance, pickling
from ...transport.inheritance import Unforked
from ...transport.refusals import is_refused, is_unforked, refusal
from ...transport.script import script
from ...values.outcome import Lost, Reply
from ...values.source import Source
from ...worker.environment import current
from ..base import Done, Setup, Task
from ..serial import SerialPool
from . import forkserver, warden
from .handle import Handle
from .idle import Sleeper
from .scheduler import LONG
from .state import Answer, Call, Expired, Waiter
from .workers import Workers

__all__ = ["ProcessPool", "end_idle", "pool_for", "shutdown"]

TIMEOUT_CHECK = 0.25  # seconds between looks at workers that hold on to the interpreter
PREFETCH_BELOW = 0.02  # seconds; a longer chunk makes the gap between two of no account
LOOK_EVERY = 8  # submitted calls after which who submits looks for results
MOST_METHODS = 64  # sets of arguments whose start method is remembered
MOST_WARM = 4  # sets of workers that are kept while nobody uses them
SOONER = 10  # so many times sooner those end that differ from the last used ones in number alone
LEAST = 0.05  # seconds after which it is looked again whether workers that are in use have ended


class _Owner:
    """What a call's generator holds: its end shows where Ctrl-C has cut off all other ways."""

    __slots__ = ("__weakref__",)


class ProcessPool:
    """Runs chunks in the processes of one set of workers.

    Parameters
    ----------
    workers : Workers
    wanted : tuple
        What `pool_for` was asked for, to have the same again.
    """

    def __init__(self, workers: Workers, wanted: tuple[Options, int, int, bool]) -> None:
        self._workers = workers
        self._wanted = wanted

    def run(self, task: Task, source: Source) -> Generator[Done | None, None, None]:
        """Run all chunks of `source` in the workers, or in others once these were idle for long."""
        while (yield from self._run(task, source)):
            _wait_for_more(source)  # what was submitted meanwhile has been taken by nobody
            if source.finished:
                if source.aborted is not None:
                    raise source.aborted
                return
            other = pool_for(*self._wanted)
            if not isinstance(other, ProcessPool):
                yield from other.run(task, source)
                return
            self._workers = other._workers  # noqa: SLF001 - of the same class

    def _run(  # noqa: C901, PLR0912, PLR0915 - the one way of a call
        self, task: Task, source: Source
    ) -> Generator[Done | None, None, bool]:
        """Run chunks until there are no more, or the workers have ended; whether that is so."""
        workers = self._workers
        call: Call | None = None
        owner = _Owner()
        expired = False
        try:
            try:
                if workers.interrupted():
                    yield from SerialPool(Setup(None, ())).run(task, source)
                    return False
                try:
                    call = workers.open(task)
                except Unforked as error:
                    options, size = self._wanted[:2]
                    if options.start_method not in (None, "fork") or not hasattr(os, "fork"):
                        raise task.refusal(error) from error
                    other = _handed_out(options, size, "fork", error.inherits)
                    with _lock:
                        workers.handed_out -= 1
                    workers = self._workers = other
                    call = workers.open(task)
                call.owner = weakref.ref(owner, partial(workers.orphaned, call))
                workers.begin(
                    call, source.endless
                )  # by now whatever strikes finds the call to be closed
            finally:
                with _lock:
                    workers.handed_out -= 1
            opened = call
            source.wake = lambda: workers.reactor.poke(opened)
            source.push = lambda: self._push(opened, source)
            if source.endless:
                source.help = partial(self._help, opened, source)
            self._feed(call, source)
            if source.lazy:  # nobody waits before the first `next`: others shall have workers
                self._sated(call)
            yield None
            while True:
                end = workers.abandoned or source.aborted
                if end is not None:
                    raise end
                if not call.exhausted or not source.finished:
                    self._feed(call, source)
                if (answer := _next(call.inbox)) is not None:
                    done = self._open(call, answer)
                    del answer
                    if workers.scheduler.line:
                        self._sated(call)  # the consumer may keep us waiting
                    yield done
                    del done  # it belongs to the consumer alone from now on
                    if source.lazy:
                        workers.reactor.look(call)
                elif call.failed is not None:
                    raise call.failed
                elif not call.assignments and source.finished:
                    return False
                elif source.endless:
                    workers.attend(call, source.hurried, not source.idle)
                    if call.timeout is not None:
                        workers.end_overdue(call)
                elif call.timeout is None:
                    workers.wait(call)
                else:
                    workers.wait(call, TIMEOUT_CHECK)
                    workers.end_overdue(call)
        except Expired:
            expired = True
        finally:
            source.wake = source.push = source.help = None
            if call is not None:
                workers.close_call(call)
            if workers.broken is not None and not expired:
                workers.close()
        return expired

    def _push(self, call: Call, source: Source) -> None:
        """Send what has just been put into `source`, from the thread that put it there."""
        workers = self._workers
        self._feed(call, source)
        call.pushed += 1
        if call.inbox or (not call.pushed % LOOK_EVERY and call.assignments):
            workers.reactor.look(call)
            self._take_in(call, source)
        if call.inbox:
            workers.reactor.poke(call)
        elif call.asleep:
            workers.reactor.rouse(call)

    def _help(
        self,
        call: Call,
        source: Source,
        done: Callable[[], bool],
        wakes: list[Callable[[], None]],
        timeout: float | None,
    ) -> None:
        """Wait for one result of a call, and take in what comes for the others meanwhile.

        Each has whoever waits for it, or the call's own thread where it is to be told of in that.
        """
        workers = self._workers
        waiter = Waiter(call, done)
        if call.inbox:
            self._take_in(call, source)
        wake = partial(workers.reactor.rouse, waiter)
        wakes.append(wake)
        try:
            workers.wait(waiter, timeout)
        finally:
            wakes.remove(wake)
        self._take_in(call, source)
        if call.ready():
            workers.reactor.rouse(call)

    def _take_in(self, call: Call, source: Source) -> None:
        """Give results to their owners, and send what there is a worker for now."""
        kept: list[Answer] = []
        with Shield():
            try:
                while True:
                    while (answer := _next(call.inbox)) is not None:
                        if source.elsewhere(answer.chunk):
                            kept.append(answer)
                        elif source.deliver is not None:
                            source.deliver(*self._open(call, answer))
                    call.poked = False  # its turn is taken now
                    self._feed(call, source)
                    if not call.inbox:
                        break
            except BaseException as error:  # noqa: BLE001 - raised where the call is run
                call.failed = error
            call.inbox.extend(kept)

    def _sated(self, call: Call) -> None:
        """Let others have a worker: this call wants none for now."""
        if self._workers.scheduler.line:
            self._workers.carry_out(self._workers.scheduler.sated(call))

    def _feed(self, call: Call, source: Source) -> None:
        """Send chunks while there are both chunks and workers."""
        with call.feeding:
            call.thread = threading.get_ident()
            while not (source.idle or source.finished):
                if not self._send_chunk(call, source):
                    break
            else:
                self._sated(call)  # it may stand in line for what somebody else has taken since
        finished = source.finished
        if finished is not call.exhausted:
            self._workers.scheduler.exhausted(call, finished)
        if call.assignments > 1:
            self._relieve(call, finished or source.idle)

    def _relieve(self, call: Call, empty: bool) -> None:
        """Take back what waits in vain; a look now and then, while there is more to be sent."""
        if not empty:
            now = time.monotonic()
            if call.assignments <= self._workers.size or now - call.relieved < LONG:
                return
            call.relieved = now
        out = self._workers.scheduler.relieve(call, empty)
        if out:
            self._workers.carry_out(out)

    def _send_chunk(self, call: Call, source: Source) -> bool:  # noqa: C901 - the way of a chunk
        """Send the next chunk; false if there is no worker, or nothing right now."""
        workers = self._workers
        scheduler = workers.scheduler
        # A chunk in advance hides the way to the worker and back; near the end, and behind a
        # long one, it could come to wait while another worker has nothing to do.
        depth = source.depth(workers.size, PREFETCH_BELOW)
        worker = scheduler.claim(call, min(depth, workers.most_ahead))
        if worker is None:
            return False
        chunk = source.take()
        if chunk is None:
            scheduler.release(call, worker)
            self._sated(call)
            return False
        begin = clock()
        try:
            pickled = pickling.dumps(chunk.columns, workers.max_nbytes)
            if pickled.needs:
                pickled = script.ready(pickled)
                workers.require(pickled.needs)
        except BaseException as error:
            scheduler.release(call, worker)
            refused = isinstance(error, Unforked) or is_refused(chunk.columns)
            if isinstance(error, KeyboardInterrupt) or not refused:
                source.put_back(chunk)
                raise
            if chunk.size == 1:
                columns = chunk.args(0)
                told = columns[0] if len(columns) == 1 else columns
                error = refusal(f"argument of item {chunk.start}", told, error)
            call.inbox.append(Answer(chunk, lost=Lost(error)))
            return True
        if source.endless:  # what was submitted just now finds what is around it now
            call.environment = current()
        pickled_at = clock()
        if not workers.send(call, cast(Handle, worker), chunk, pickled):
            source.put_back(chunk)
        elif call.traced is not None:
            where = chunk.start, chunk.size, chunk.attempts, cast(Handle, worker).pid
            times = pickled.nbytes, threading.get_native_id(), begin, pickled_at, clock()
            record(call.traced.folders, ("sent", call.traced.call, *where, *times))
        if scheduler.line:  # several workers may be free: the next in turn has one
            workers.carry_out(scheduler.turn())
        return True

    def _open(self, call: Call, answer: Answer) -> Done:
        """Unpickle an answer in the thread of its call."""
        chunk = answer.chunk
        if answer.packet is None:
            assert answer.lost is not None
            return chunk, answer.lost
        begin = 0.0 if call.traced is None else clock()
        inbox = cast(Handle, answer.worker).inbox
        try:
            values, raised = pickling.loads(*inbox.unpack(answer.packet, copy=True))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            try:
                pickling.loads(*inbox.unpack(answer.packet, copy=True))
            except BaseException:  # noqa: BLE001
                return chunk.part(0, answer.count), Lost(error)
            raise  # by a signal handler
        finally:
            inbox.done(answer.packet)
        if call.traced is not None:
            where = chunk.start, answer.count, cast(Handle, answer.worker).pid
            times = threading.get_native_id(), begin, clock()
            record(call.traced.folders, ("back", call.traced.call, *where, *times))
        # Large results make small chunks too: what is copied out while it is still in the cache.
        nbytes = max(1, answer.nbytes, answer.packet[2])  # none would be no news to the sizer
        return chunk, Reply(values, raised, answer.seconds, answer.final, nbytes)

    def close(self) -> None:
        """End the workers."""
        self._workers.close()

    def hold(self) -> None:
        """Keep the workers, in place of the call that this pool is for."""
        with _lock:
            self._workers.holders.add(self)
            self._workers.handed_out -= 1

    def settle(self) -> None:
        """Wait until the initializer is done in all of the workers."""
        self._workers.settle()

    def let_go(self) -> None:
        """Keep the workers no longer; end them if nobody needs them and their initializer runs."""
        workers = self._workers
        with _lock:
            workers.holders.discard(self)
            over = workers.idle and not workers.settled()
            if over:
                for key in [key for key, other in _warm.items() if other is workers]:
                    del _warm[key]
        if over:
            workers.close()


def _wait_for_more(source: Source) -> None:
    """Wait, without workers, until something is submitted or nothing will be any more."""
    changed = threading.Event()
    source.wake = changed.set
    while source.idle and not source.finished:
        changed.wait()
        changed.clear()


def _next(inbox: deque[Answer]) -> Answer | None:
    """Take what has come first; other threads may do so as well."""
    try:
        return inbox.popleft()
    except IndexError:
        return None


# --- workers that are kept warm -----------------------------------------------------------------

_lock = threading.RLock()
_warm: dict[tuple[Any, ...], Workers] = {}  # the last used ones last


def pool_for(options: Options, workers: int, level: int, wished: bool) -> ProcessPool | SerialPool:
    """Pool on the warm workers with these settings, started if there are none.

    A signal handler or a finalizer that has interrupted just that makes its call in place.
    """
    if held_here(_lock):
        return SerialPool(Setup(None, ()))
    start_method = options.start_method or _default_for(options)
    found = _handed_out(options, workers, start_method)
    return ProcessPool(found, (options, workers, level, wished))


def _handed_out(options: Options, size: int, start_method: str, inherits: int = 0) -> Workers:
    """Workers for a call; they count it as theirs until it is opened.

    `inherits` sets those apart that were forked for what other ones could not have.
    """
    key = (
        *(size, start_method, id(options.initializer), tuple(map(id, options.initargs))),
        *(id(options.finalizer), options.devices),
        *(options.tasks_per_worker, options.memory_limit),
        *(options.max_nbytes, options.temp_folder, inherits),
    )
    with _lock:
        found = _warm.get(key)
        if found is None or found.broken is not None or not found.reactor.is_open():
            found = _start(key, options, size, start_method, found)
        elif next(reversed(_warm)) != key:  # it is the last used one now
            _warm[key] = _warm.pop(key)
        found.handed_out += 1  # until it has the call that it is wanted for
        if found.patience != options.idle:
            found.patience = options.idle
            _sleeper.begin()
    return found


_methods: dict[tuple[int, ...], tuple[object, str]] = {}  # what the ids are of, and the method


def _default_for(options: Options) -> str:
    """Start method of workers with this initializer, of whose parts some may only be inherited."""
    method = default_start_method()
    if method == "forkserver":
        method = forkserver.DEFAULT
    users = options.initializer, options.initargs, options.finalizer
    if users == (None, (), None) or not hasattr(os, "fork") or not inheritance.is_there():
        return method
    key = id(options.initializer), *map(id, options.initargs), id(options.finalizer)
    if key not in _methods:
        if len(_methods) > MOST_METHODS:
            _methods.clear()
        _methods[key] = users, "fork" if is_unforked(users) else method
    return _methods[key][1]


def _start(
    key: tuple[Any, ...], options: Options, size: int, start_method: str, broken: Workers | None
) -> Workers:
    if broken is not None:
        del _warm[key]
        broken.close()
    settings = {
        name: getattr(options, name)
        for name in ("tasks_per_worker", "memory_limit", "max_nbytes", "temp_folder")
    }
    settings["devices"] = None if options.devices is None else tuple(options.devices)
    users = options.initializer, options.initargs, options.finalizer
    if start_method in forkserver.METHODS:
        forkserver.renew(start_method, options.preload)
    try:
        workers = Workers(size, start_method, users, settings)
    finally:
        forkserver.clear_stock()
    # The key holds ids: keep what they are of alive.
    workers.origin = users
    idle = [k for k, other in _warm.items() if other.idle]
    for k in idle[: max(0, len(_warm) + 1 - MOST_WARM)]:
        _warm.pop(k).close()
    _warm[key] = workers
    return workers


def shutdown() -> None:
    """End all workers; the fork server too, unless another thread has begun a call meanwhile."""
    _sleeper.stop()
    with _lock:
        ended = list(_warm.values())
        _warm.clear()
    _end(ended)


def _end(ended: list[Workers]) -> None:
    for workers in ended:
        workers.close()
    with _lock:
        if not _warm:
            forkserver.shutdown()
            warden.shutdown()


def end_idle(now: float | None = None) -> float | None:
    """End workers that have been idle for as long as they may, the fork server with the last.

    Returns in how many seconds the next may be due; None if there are none. `now` is the time
    of `time.monotonic`.
    """
    ended: list[Workers] = []
    soonest: float | None = None
    with _lock:
        now = time.monotonic() if now is None else now
        last = next(reversed(_warm), ())
        for key, workers in list(_warm.items()):
            patience = workers.patience
            if patience is None:
                continue
            if key != last and key[1:] == last[1:]:
                patience /= SOONER
            left = workers.used() + patience - now
            if left <= 0 and workers.retire():
                ended.append(_warm.pop(key))
                continue
            left = left if left > 0 else max(LEAST, patience)
            soonest = left if soonest is None else min(soonest, left)
    if ended:
        _end(ended)
    return soonest


def _after_fork() -> None:
    """In a forked child: the workers are the parent's. Forget them without a word to them."""
    global _lock, _sleeper
    _lock = threading.RLock()
    _sleeper = Sleeper(end_idle)
    for workers in _warm.values():
        workers.abandon()
    _warm.clear()


_sleeper = Sleeper(end_idle)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
