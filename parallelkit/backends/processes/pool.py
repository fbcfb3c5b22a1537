"""Worker processes: a call's way through workers that are kept warm.

Workers are shared: a call gets those with its settings, whoever started them. A few idle sets are
kept; they end with `shutdown`, with the process, or when too many others have been used since.

It is long because the way of a chunk is one loop: what is fed, sent, opened and given back goes by
the same few fields of a call, and each step decides by what the others have left there.
"""

from __future__ import annotations

import contextvars
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from time import perf_counter as clock
from typing import Any, cast

from ...options import Options
from ...place import limits
from ...place.host import default_start_method
from ...place.recording import record
from ...place.sigint import Shield, held_here
from ...transport import inheritance, pickling
from ...transport.inheritance import Unforked
from ...transport.script import script
from ...values.outcome import Lost, Reply
from ...values.source import Chunk, Source
from ...worker.environment import current
from ..base import Done, Setup, Task
from ..serial import SerialPool
from . import forkserver
from .handle import Handle
from .idle import Sleeper
from .scheduler import LONG
from .state import Answer, Call, Expired, Waiter
from .workers import Workers

__all__ = ["ProcessPool", "end_idle", "pool_for", "shutdown"]

CHECK = 0.25  # seconds between looks at workers that hold on to the interpreter
PREFETCH_BELOW = 0.03  # seconds; a longer chunk makes the gap between two of no account
LOOK_EVERY = 8  # submitted calls after which who submits looks for results
MOST_METHODS = 64  # sets of arguments whose start method is remembered
MOST_LEFT = 4  # sets of workers that finish what they run while others go on
MOST_WARM = 4  # sets of workers that are kept while nobody uses them
SOONER = 10  # so many times sooner those end that differ from the last used ones in number alone
LEAST = 0.05  # seconds after which it is looked again whether workers that are in use have ended


class _Owner:
    """What a call's generator holds: its end shows where Ctrl-C has cut off all other ways."""

    __slots__ = ("__weakref__",)


class ProcessPool:
    """Runs chunks in the processes of one set of workers, or of another where these cannot.

    Parameters
    ----------
    workers : Workers
    wanted : tuple
        Their options and number, to have the same again.
    """

    def __init__(self, workers: Workers, wanted: tuple[Options, int]) -> None:
        self._workers = workers
        self._wanted = wanted

    def run(self, task: Task, source: Source) -> Generator[Done | None, None, None]:
        """Run all chunks of `source`; where workers lack what only a fork gives, in forked ones."""
        forks = self._wanted[0].start_method in (None, "fork") and hasattr(os, "fork")
        left: deque[threading.Thread] = deque()
        try:
            while not self._workers.interrupted():
                run = _Run(self._workers, task, source, forks)
                try:
                    yield from run.outcomes()
                    return
                except Expired:
                    if not _is_more(source):
                        return
                    self._workers = _handed_out(*self._wanted)
                except Unforked as error:
                    if not forks:
                        raise task.refusal(error) from error
                    run.finish(left)
                    self._workers = _handed_out(*self._wanted, "fork", error.inherits)
            with _lock:
                self._workers.handed_out -= 1
            yield from SerialPool(Setup(None, ())).run(task, source)
        except BaseException as error:
            if left:
                source.abort(error)
            raise
        finally:
            for thread in left:
                thread.join()

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


class _Run:
    """One call in one set of workers.

    Parameters
    ----------
    workers : Workers
        They count it as handed out until it is open.
    task : Task
    source : Source
    forks : bool
        Whether others may go on that are forked for what these ones lack.

    Attributes
    ----------
    left : bool
        Whether they are to, with what is submitted from now on: this one is to be finished.
    """

    _call: Call

    def __init__(self, workers: Workers, task: Task, source: Source, forks: bool) -> None:
        self._workers = workers
        self._task = task
        self._source = source
        self._forks = forks
        self.left = False

    def outcomes(self) -> Generator[Done | None, None, None]:  # noqa: C901, PLR0912 - the one way
        """Run chunks until there are no more.

        Raises
        ------
        Expired, Unforked
            Where other workers are to go on.
        """
        workers, source = self._workers, self._source
        call: Call | None = None
        owner = _Owner()
        try:
            try:
                call = self._call = workers.open(self._task)
                call.owner = weakref.ref(owner, partial(workers.orphaned, call))
                workers.begin(
                    call, source.endless
                )  # by now whatever strikes finds the call to be closed
            finally:
                with _lock:
                    workers.handed_out -= 1
            source.wake = partial(workers.reactor.poke, call)
            source.push, source.help = self._push, self._help
            self._feed()
            if source.lazy:  # nobody waits before the first `next`: others shall have workers
                self._sated()
            yield None
            while True:
                end = workers.abandoned or source.aborted
                if end is not None:
                    raise end
                if not call.exhausted or not source.finished:
                    self._feed()
                if (answer := _next(call.inbox)) is not None:
                    done = self._open(answer)
                    del answer
                    if workers.scheduler.line:
                        self._sated()  # the consumer may keep us waiting
                    yield done
                    del done  # it belongs to the consumer alone from now on
                    if source.lazy:
                        workers.reactor.look(call)
                elif call.failed is not None:
                    error, call.failed = call.failed, None
                    raise error
                elif not (call.assignments or call.inbox) and source.finished:
                    return
                else:
                    self._wait()
        finally:
            source.wake = source.push = source.help = None
            if self.left:
                self._call.owner = None  # what is left of it has a thread that ends it
            elif call is not None:
                workers.close_call(call)
            if workers.broken is not None and not isinstance(workers.broken, Expired):
                workers.close()

    def _wait(self) -> None:
        workers, call, source = self._workers, self._call, self._source
        if source.endless:
            workers.attend(call, source.hurried, source.waits)
        else:
            workers.wait(call, None if call.timeout is None else CHECK)
        if call.timeout is not None:
            workers.end_overdue(call)

    def finish(self, threads: deque[threading.Thread]) -> None:
        """Have what still runs here delivered by one thread more, while others go on."""
        if self.left:
            if len(threads) == MOST_LEFT:
                threads.popleft().join()
            run = contextvars.copy_context().run
            thread = threading.Thread(target=run, args=(self._finish,), daemon=True)
            limits.start(thread)
            threads.append(thread)

    def _finish(self) -> None:
        workers, call, source = self._workers, self._call, self._source
        try:
            while (call.assignments or call.inbox) and source.aborted is None:
                if (answer := _next(call.inbox)) is not None:
                    assert source.deliver is not None
                    source.deliver(*self._open(answer))
                    wake = source.wake
                    if wake is not None:
                        wake()  # it may have been put back
                elif call.failed is not None:
                    raise call.failed
                else:
                    workers.wait(call, CHECK)
                    workers.end_overdue(call)
        except BaseException as error:  # noqa: BLE001 - raised where the call is run
            source.abort(error)
        finally:
            workers.close_call(call)

    def _push(self) -> None:
        """Send what has just been put into the source, from the thread that put it there."""
        workers, call = self._workers, self._call
        self._feed()
        call.pushed += 1
        if call.inbox or (not call.pushed % LOOK_EVERY and call.assignments):
            workers.reactor.look(call)
            self._take_in()
        if call.inbox:
            workers.reactor.poke(call)
        elif call.asleep:
            workers.reactor.rouse(call)

    def _help(
        self,
        done: Callable[[], bool],
        wakes: list[Callable[[], None]],
        timeout: float | None,
    ) -> None:
        """Wait for one result of a call, and take in what comes for the others meanwhile.

        Each has whoever waits for it, or the call's own thread where it is to be told of in that.
        """
        workers, call = self._workers, self._call
        waiter = Waiter(call, done)
        if call.inbox:
            self._take_in()
        wake = partial(workers.reactor.rouse, waiter)
        wakes.append(wake)
        try:
            workers.wait(waiter, timeout)
        finally:
            wakes.remove(wake)
        self._take_in()
        if call.ready():
            workers.reactor.rouse(call)

    def _take_in(self) -> None:
        """Give results to their owners, and send what there is a worker for now."""
        call, source = self._call, self._source
        kept: list[Answer] = []
        with Shield():
            try:
                while True:
                    while (answer := _next(call.inbox)) is not None:
                        if source.elsewhere(answer.chunk):
                            kept.append(answer)
                        elif source.deliver is not None:
                            source.deliver(*self._open(answer))
                    call.poked = False  # its turn is taken now
                    self._feed()
                    if not call.inbox:
                        break
            except BaseException as error:  # noqa: BLE001 - raised where the call is run
                call.failed = error
            call.inbox.extend(kept)

    def _sated(self) -> None:
        """Let others have a worker: this call wants none for now."""
        if self._workers.scheduler.line:
            self._workers.carry_out(self._workers.scheduler.sated(self._call))

    def _feed(self) -> None:
        """Send chunks while there are both chunks and workers."""
        call, source = self._call, self._source
        with call.feeding:
            if self.left:
                return
            call.thread = threading.get_ident()
            while not (source.idle or source.finished):
                if not self._send_chunk():
                    break
            else:
                self._sated()  # it may stand in line for what somebody else has taken since
        finished = source.finished
        if finished is not call.exhausted:
            self._workers.scheduler.exhausted(call, finished)
        if call.assignments > 1:
            self._relieve(finished or source.idle)

    def _relieve(self, empty: bool) -> None:
        """Take back what waits in vain; a look now and then, while there is more to be sent."""
        call = self._call
        if not empty:
            now = time.monotonic()
            if call.assignments <= self._workers.size or now - call.relieved < LONG:
                return
            call.relieved = now
        out = self._workers.scheduler.relieve(call, empty, 2 * self._source.sizer.seconds)
        if out:
            self._workers.carry_out(out)

    def _send_chunk(self) -> bool:
        """Send the next chunk; false if there is no worker, or nothing right now."""
        workers, call, source = self._workers, self._call, self._source
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
            self._sated()
            return False
        begin = clock()
        try:
            pickled = pickling.dumps(chunk.columns, workers.max_nbytes)
            if pickled.needs:
                pickled = script.ready(pickled)
                workers.require(pickled.needs)
        except BaseException as error:  # noqa: BLE001 - what is no item's own is raised there
            scheduler.release(call, worker)
            return self._refused(chunk, error)
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

    def _refused(self, chunk: Chunk, error: BaseException) -> bool:
        """See to a chunk that could not be pickled; whether the next one is to be sent."""
        call, source = self._call, self._source
        if source.endless and self._forks and isinstance(error, Unforked):
            source.put_back(chunk)
            self.left, call.failed = True, error
            self._workers.reactor.poke(call)
            return False
        from ...transport.refusals import is_refused, refusal

        refused = isinstance(error, Unforked) or is_refused(chunk.columns)
        if isinstance(error, KeyboardInterrupt) or not refused:
            source.put_back(chunk)
            raise error
        if chunk.size == 1:
            columns = chunk.args(0)
            told = columns[0] if len(columns) == 1 else columns
            error = refusal(f"argument of item {chunk.start}", told, error)
        call.inbox.append(Answer(chunk, lost=Lost(error)))
        return True

    def _open(self, answer: Answer) -> Done:
        """Unpickle an answer in the thread of its call."""
        chunk, traced = answer.chunk, self._call.traced
        if answer.packet is None:
            assert answer.lost is not None
            return chunk, answer.lost
        begin = 0.0 if traced is None else clock()
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
        if traced is not None:
            where = chunk.start, answer.count, cast(Handle, answer.worker).pid
            times = threading.get_native_id(), begin, clock()
            record(traced.folders, ("back", traced.call, *where, *times))
        # Large results make small chunks too: what is copied out while it is still in the cache.
        nbytes = max(1, answer.nbytes, answer.packet[2])  # none would be no news to the sizer
        return chunk, Reply(values, raised, answer.seconds, answer.final, nbytes)


def _is_more(source: Source) -> bool:
    """Wait, without workers, until something is submitted or nothing will be any more."""
    changed = threading.Event()
    source.wake = changed.set
    while source.idle and not source.finished:
        changed.wait()
        changed.clear()
    if source.finished and source.aborted is not None:
        raise source.aborted from None
    return not source.finished


def _next(inbox: deque[Answer]) -> Answer | None:
    """Take what has come first; other threads may do so as well."""
    try:
        return inbox.popleft()
    except IndexError:
        return None


# --- workers that are kept warm -----------------------------------------------------------------

_lock = threading.RLock()
_warm: dict[tuple[Any, ...], Workers] = {}  # the last used ones last


def pool_for(options: Options, workers: int, level: int, wished: bool) -> ProcessPool | SerialPool:  # noqa: ARG001 - as all backends
    """Pool on the warm workers with these settings, started if there are none.

    A signal handler or a finalizer that has interrupted just that makes its call in place.
    """
    if held_here(_lock):
        return SerialPool(Setup(None, ()))
    return ProcessPool(_handed_out(options, workers), (options, workers))


def _handed_out(
    options: Options, size: int, start_method: str | None = None, inherits: int = 0
) -> Workers:
    """Workers for a call; they count it as theirs until it is opened.

    `inherits` sets those apart that were forked for what other ones could not have.
    """
    start_method = start_method or options.start_method or _default_for(options)
    key = (
        *(size, start_method, options.giver and options.giver.number),
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
        if found.patience != options.idle or (options.idle and _sleeper.thread is None):
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
    from ...transport.refusals import is_unforked  # nobody needs it else

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
    # The key holds an id: keep what it is of alive.
    workers.origin = users
    if options.giver is not None:
        workers.giver = weakref.ref(options.giver)
    idle = [k for k, other in _warm.items() if other.idle]
    gone = [k for k in idle if (giver := _warm[k].giver) is not None and giver() is None]
    kept = [k for k in idle if k not in gone]
    for k in [*gone, *kept[: max(0, len(_warm) - len(gone) + 1 - MOST_WARM)]]:
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
            warden = sys.modules.get(f"{__package__}.warden")  # imported by who has need of it
            if warden is not None and hasattr(warden, "shutdown"):
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
