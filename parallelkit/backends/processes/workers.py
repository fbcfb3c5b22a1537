"""The workers of one process pool, kept warm, shared by calls and threads.

::

    Host ── a new process ──► Handle ── messages ──► Reactor ─► receive ─► Scheduler
                                 ▲                                            │
                                 └───────────── carry_out ◄── instructions ───┘

The rule about locks: the scheduler's is held while it decides, and nothing of the user's runs and
nothing is sent or read meanwhile; a worker's is held while a message is written to it; `_reading`
while what a worker has sent is read and handed on. A signal handler or a finalizer may run in any
of these moments all the same, in the very thread. The calls that it makes then run in place, and
the calls that it ends are ended when the moment is over.

It is long because that rule is kept in one place: what is done under one of these locks is here.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ...errors import IN_INITIALIZER, ParallelError, RemoteTraceback, TransportError, assign, note
from ...place import recording
from ...place.descriptors import LOST, keep
from ...place.sigint import UNSHIELDED, Shield, held_here
from ...transport import anonymous, inheritance, pickling
from ...transport.by_name import by_name
from ...transport.channel import Closed
from ...transport.inheritance import Unforked
from ...transport.pickling import Pickled
from ...transport.script import Sent, script
from ...transport.segments import Missing, Packet
from ...values.outcome import Lost
from ...values.source import MOST_AHEAD, Chunk
from ...worker import output
from ...worker.context import variables_with
from ...worker.environment import current
from ...worker.parentage import own_name
from ...worker.protocol import (
    VERSION,
    Abort,
    Failed,
    Hello,
    NestedChunk,
    NestedReply,
    NestedTask,
    Quit,
    Ready,
    Released,
    Replied,
    Retired,
    Returned,
    Said,
    Seek,
    Settled,
    Skipped,
    TimedOut,
    Unreadable,
    Waiting,
    decode,
    encode,
)
from . import launch
from .family import interrupt
from .handle import Handle, exit_code, obituary
from .hosting import host_of
from .reactor import Reactor
from .scheduler import GRACE, HOLD, Scheduler
from .state import (
    Abandon,
    Answer,
    Call,
    Drop,
    Instruction,
    Kill,
    NestedCall,
    Poke,
    Post,
    Refuse,
    Relay,
    SendNested,
    Waiter,
    Wake,
    WorkerState,
)
from .tasks import Tasks

if TYPE_CHECKING:
    from ..base import Task

__all__ = ["Workers"]

IDLE = 2.0  # seconds of waiting after which there is time for what can be done later
SETTLING = 0.25  # seconds between looks at workers whose initializers are waited for
_OUT_OF_MEANS = (MemoryError, OSError, KeyError)  # no memory, or no descriptor and so no segment


class Workers:
    """Worker processes with the same settings.

    Parameters
    ----------
    size : int
    start_method : str
    users : tuple
        The user's initializer and its arguments, run in each worker before its first item, and the
        finalizer, run in each that ends in an orderly way.
    settings : Mapping
        ``tasks_per_worker``, ``memory_limit``, ``max_nbytes``, ``temp_folder`` and ``devices``.

    Raises
    ------
    TransportError
        If the initializer or its arguments cannot be pickled.
    """

    def __init__(
        self,
        size: int,
        start_method: str,
        users: tuple[Callable[..., object] | None, tuple[Any, ...], Callable[[], object] | None],
        settings: Mapping[str, Any],
    ) -> None:
        initializer, _, finalizer = users
        self.size = size
        theirs = initializer is not None or finalizer is not None
        self.settings = {**settings, "workers": size, "users": theirs}
        # Chunks for a worker that may end after the first of them are sent in vain.
        self.most_ahead = MOST_AHEAD if settings["tasks_per_worker"] is None else 2
        self.max_nbytes: int = settings["max_nbytes"]
        self.abandoned: BaseException | None = None  # in a forked child, where locks may be stuck
        self.origin: object = None
        self.giver: weakref.ref[Any] | None = None  # of the initializer; dead when no pool has it
        self.handed_out = 0  # pools on it whose call is yet to be opened
        self.patience: float | None = None  # seconds that it may idle, by the last call
        self.started = time.monotonic()
        self.holders: weakref.WeakSet[Any] = weakref.WeakSet()  # who keeps it without a call
        self.pid = os.getpid()
        self.scheduler = Scheduler(size)
        self.tasks = Tasks(settings["temp_folder"])
        self.reactor = Reactor(self._receive, self._bury)
        self._reading = threading.RLock()
        self._adding = threading.RLock()
        self._to_close: deque[Call] = deque()
        self._known_to: tuple[str, ...] = ()  # traces that have been told of all workers
        self._thread = 0  # the last that has begun a call here
        self._threads = 0  # how often that was another one than before
        try:
            self._sent = Sent()  # what a new worker has of the script
            hello = script.addressed(by_name(users), self._sent)
            self.inherits = inheritance.count() if start_method == "fork" else 0
            self.require(script.prepare(hello.needs))
        except Exception as error:
            self._let_go()
            from ...transport.refusals import refusal

            raise refusal("initializer, initargs or finalizer", users, error) from error
        self._hello, segment = self.tasks.outbox.pack(hello)
        self._hello_fds = [] if segment is None else [segment.fd]
        self._hello_shared = hello.shared
        self._hello_fds += [memory.fd for memory in hello.shared]
        try:
            self.host: Any = host_of(size, start_method, self._add, self.fail)
        except BaseException:
            self.scheduler.closed = True  # for what another thread is starting at this moment
            for worker in self.handles():
                worker.kill()
            self._let_go()
            raise

    def handles(self) -> list[Handle]:
        """The workers that live."""
        return cast("list[Handle]", list(self.scheduler.workers))

    @property
    def broken(self) -> BaseException | None:
        """Why these workers are of no use any more."""
        return self.scheduler.broken

    @property
    def idle(self) -> bool:
        """Whether nobody needs them."""
        return not (self.scheduler.calls or self.handed_out or self.holders)

    def used(self) -> float:
        """When something was last done here."""
        return max(self.started, self.scheduler.used())

    def retire(self) -> bool:
        """Take no more calls, if nobody needs these workers; whether that is so.

        Calls that are open for what is submitted need none while there is nothing. They are told
        by `close`, which is to follow, and go on with other workers.
        """
        return not (self.handed_out or self.holders) and self.scheduler.retire()

    def interrupted(self) -> bool:
        """Whether this thread is in the middle of something here, interrupted by who asks."""
        if held_here(self.scheduler.lock, self._reading, self.reactor.lock):
            return True
        for worker in self.handles():  # noqa: SIM110 - asked twice a call
            if worker.sending._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001
                return True
        return False

    # --- workers come and go ----------------------------------------------------------------------

    def _add(self, process: Any, sock: socket.socket) -> None:
        """Greet a new worker; called by whichever thread has started it."""
        scheduler = self.scheduler
        with self._adding:
            if scheduler.closed:
                sock.close()
                process.kill()
                return
            worker = Handle(process, sock, self._rank(), self.settings["temp_folder"])
            worker.on_unread = self.reactor.recall
            worker.environment = current()
            self._greet(worker)
            if recording.on:
                self._note("started", worker)
            out = scheduler.joined(worker)
            self.reactor.add(worker)
        self.carry_out(out)
        anonymous.close(worker.control_fd)

    def _note(self, what: str, worker: Handle, told: str = "") -> None:
        """Tell open traces of a worker."""
        where = worker.pid, worker.rank, id(self)
        recording.note("worker", what, *where, time.perf_counter(), told)

    def _rank(self) -> int:
        """The lowest rank that no living worker has."""
        taken = {w.rank for w in self.handles() if w.process.exitcode is None}
        return next(rank for rank in range(len(taken) + 1) if rank not in taken)

    def _greet(self, worker: Handle) -> None:
        parentage = worker.rank + 1, own_name(), os.getpid()
        folder = getattr(sys.modules.get("tempfile"), "tempdir", None)
        origin = sys.argv, folder, launch.standard_modules(), parentage
        around = tuple(worker.environment or ())
        worker.script_sent = self._sent.copy()
        hello = Hello(VERSION, self._hello, around, self.settings, origin)
        try:
            worker.channel.send(encode(hello), [worker.control_fd, *self._hello_fds])
        except Closed:
            pass  # it is dead already; the reactor will tell

    def _bury(self, worker: Handle) -> None:
        """Take a dead worker out, when what it has sent is read."""
        with Shield(), self._reading:
            if worker.dead:
                return
            if not self.reactor.is_open():
                self.lose()
                return
            self.reactor.remove(worker)
            self._drain(worker)
            code = exit_code(worker.process)
            told = obituary(worker.pid, code)
            if recording.on:
                died = code and not (worker.given_up or worker.retired)  # by no doing of ours
                self._note("ended", worker, told if died else "")
            out = self.scheduler.died(worker, told)
            self.tasks.bury(worker)
            worker.close()
            if not self.scheduler.closed:
                self.host.replace()
            self.carry_out(out)

    def _drain(self, worker: Handle) -> None:
        try:
            while True:
                self._hand_on(worker)
                if not worker.channel.wait(worker.channel.LATE):
                    break
        except Closed:
            pass

    def fail(self, error: BaseException) -> None:
        """Nothing more can be done with these workers: tell all calls."""
        self.carry_out(self.scheduler.fail(error))
        self.reactor.nudge()

    def close(self) -> None:
        """End the workers. Calls that are under way fail."""
        if os.getpid() != self.pid:
            return
        if not self.reactor.is_open():
            self.lose()
            return
        scheduler = self.scheduler
        with self._adding:
            if scheduler.closed:
                return
            scheduler.closed = True
        self.fail(ParallelError("the workers were shut down while the call was running"))
        self.host.replace_no_more()
        self.settled()  # or those are killed that can end by themselves
        for worker in self.handles():
            worker.hang_up()
        self.host.close()
        with scheduler.lock:
            for worker in self.handles():
                worker.dead = True
                self.reactor.remove(worker)
                worker.close()
            scheduler.workers.clear()
            last = not scheduler.calls
        if last:
            self._let_go()  # else the last of the calls does

    def settled(self) -> bool:
        """Whether all workers have run their initializer, whether or not a call has waited."""
        if os.getpid() != self.pid:
            return True  # they are the parent's
        for worker in self.handles():
            if not worker.ready and not worker.dead:
                self._receive(worker)
        return self.broken is not None or all(worker.ready for worker in self.handles())

    def settle(self) -> None:
        """Wait until that is so."""
        while not self.settled():
            waited = [w.channel for w in self.handles() if not w.ready and not w.dead]
            # Another thread may read what comes, and close any of them.
            waited[0].wait_with(waited[1:], SETTLING)

    def abandon(self) -> None:
        """In a forked child: close our copies of what is the parent's, and touch nothing else."""
        self.abandoned = self.scheduler.broken = ParallelError(
            "these workers belong to the process this one was forked from"
        )
        self.scheduler.closed = True
        handles = self.handles()
        for worker in handles:
            worker.dead = True
            worker.channel.close()
        self.host.disown([worker.process for worker in handles])
        self._let_go()

    def lose(self) -> None:
        """Somebody has closed our descriptors: end the workers, and touch nothing else."""
        scheduler = self.scheduler
        with self._adding:
            if scheduler.closed:
                return
            scheduler.closed = self.reactor.lost = True
        keep(self)
        self.carry_out(scheduler.fail(ParallelError(LOST)))
        workers = self.handles()
        scheduler.workers.clear()
        self.host.lose([worker.process for worker in workers])
        for worker in workers:
            worker.dead = True

    def _let_go(self) -> None:
        if self.reactor.lost:
            return
        self.tasks.close()
        self.reactor.close()

    # --- calls ------------------------------------------------------------------------------------

    def open(self, task: Task) -> Call:
        """Make a call, which `begin` begins."""
        try:
            begin = 0.0 if task.traced is None else time.perf_counter()
            variables = variables_with(task)
            prepared = self.tasks.find(task, variables)
            if prepared is None:
                state = task.state(variables)
                pickled = pickling.dumps(state, self.max_nbytes, together=True)
                ready = script.ready(pickled)
                self.require(ready.needs)
                prepared = self.tasks.prepare(ready, task.may_be_kept())
                self.tasks.keep(task, variables, prepared, pickled.needs)
            elif prepared.script is not None and prepared.script.inherits > self.inherits:
                self.tasks.end(prepared, ())
                raise Unforked(prepared.script.inherits)
        except Unforked:
            raise
        except Exception as error:
            told = task.refusal(error)
            if told is error:
                raise
            raise told from error
        call = Call(0, prepared, current(), task.timeout, task.cores)
        if task.traced is not None:
            call.traced = traced = task.traced
            took = prepared.pickled.nbytes, begin, time.perf_counter()
            recording.record(traced.folders, ("task", traced.call, *took))
            if traced.folders != self._known_to:  # started before these traces began
                self._known_to = traced.folders
                for worker in self.handles():
                    self._note("there", worker)
        return call

    def require(self, needs: Any) -> None:
        """Raise where workers lack a semaphore that only forked ones have, and not all of those."""
        if needs and needs.inherits > self.inherits:
            raise Unforked(needs.inherits)

    def begin(self, call: Call, many: bool) -> None:
        """Begin a call, for whose results `many` threads may wait.

        Whoever does is to close it, also where this raises.
        """
        thread = threading.get_ident()
        if thread != self._thread:
            self._thread = thread
            self._threads += 1
        if many:
            self._threads += 1
            call.endless = True
        if self._to_close:
            self._close_left()
        self.scheduler.open(call)
        if self.scheduler.line:
            self._step_aside(thread)
        if call.task is not None and call.task.pickled.buffers:
            self.reactor.look(call)  # a segment of the last call may be free by now

    def _step_aside(self, thread: int) -> None:
        """Let calls that a signal handler or a finalizer has interrupted wait for those it makes.

        They cannot take their turns before that; afterwards they are to line up again.
        """
        for other in list(self.scheduler.line):
            if other.thread == thread:
                self.carry_out(self.scheduler.sated(other))
                self.reactor.poke(other)
                self.reactor.nudge()

    def send(self, call: Call, worker: Handle, chunk: Chunk, pickled: Pickled) -> bool:
        """Send a chunk to a worker that was claimed for it; false if one of them is gone."""
        nbytes = pickled.nbytes if pickled.buffers else 0
        assignment = self.scheduler.assign(call, worker, chunk, nbytes)
        if assignment is None:
            return False
        worker.run(call, assignment, chunk, pickled, self.tasks)
        return True

    def close_call(self, call: Call) -> None:
        """End a call; give it up in the workers that still have chunks of it."""
        if os.getpid() != self.pid:
            return  # a copy of the call, in a forked child
        if call.closed:
            return
        if self.interrupted():
            self._to_close.append(call)
            return
        left: list[tuple[WorkerState, Call]] = []
        settled = False
        try:
            with Shield() if len(self.scheduler.calls) > 1 else UNSHIELDED:
                self.reactor.leave(call)
                left, out = self.scheduler.withdraw(call)
                if out:
                    self.carry_out(out)
            if left and self.broken is None:
                self._give_up(call, left)
            settled = not left
        finally:  # also where Ctrl-C, once more, has cut that short
            with Shield() if self.scheduler.calls or not settled else UNSHIELDED:
                self.scheduler.calls.pop(call.number, None)
                out = [] if settled else self.scheduler.part_with(call)
                assert call.task is not None
                for worker in self.tasks.end(call.task, self.handles()):
                    worker.let_forget()
                if out:
                    self.carry_out(out)
                call.closed, call.owner = True, None
                if self.scheduler.closed and not self.scheduler.calls and not self.handles():
                    self._let_go()  # else close() does, which is under way in another thread
            if call.said or self.scheduler.unclaimed:
                self._retell(call)

    def orphaned(self, call: Call, _: object) -> None:
        """Have a call closed by whoever waits next, since who ran it is gone without that.

        Called by the collector, at any moment and in any thread.
        """
        if not call.closed and os.getpid() == self.pid:
            self._to_close.append(call)
            self.reactor.nudge()

    def _close_left(self) -> None:
        """Close calls that could not be closed when they ended."""
        while self._to_close:
            try:
                call = self._to_close.popleft()
            except IndexError:  # another thread had it
                return
            self.close_call(call)

    def _give_up(self, call: Call, left: list[tuple[WorkerState, Call]]) -> None:
        """Ask workers to leave the items of `call`, and give them a moment for it."""
        self._abort(left)
        deadline = time.monotonic() + GRACE
        while any(one.assignments for one in {call, *(one for _, one in left)}):
            patience = deadline - time.monotonic()
            if patience <= 0 or self.scheduler.closed:
                break
            self.wait(call, patience)

    def _abort(self, left: Iterable[tuple[WorkerState, Call]]) -> None:
        """Ask workers to leave the items of calls that are over."""
        left = cast(list[tuple[Handle, Call]], list(left))
        for worker, call in left:
            worker.post(Abort, (call.number,))
        for worker in {worker for worker, _ in left}:
            if worker.ready and not worker.dead:
                interrupt(worker.pid)

    def wait(self, call: Call | Waiter, timeout: float | None = None) -> None:
        """Wait until something may have come for `call`."""
        if call.call.held:  # then it is to look again
            timeout = HOLD if timeout is None else min(timeout, HOLD)
        if self.host.is_early and (timeout is None or timeout > IDLE):
            began = time.monotonic()
            self.reactor.wait(call, IDLE)
            silent = not call.ready() and time.monotonic() - began >= IDLE
            if silent and self.reactor.is_open():
                self.host.hand_over_if_possible()
        else:
            self.reactor.wait(call, timeout)
        self._waited(call.call)

    def attend(self, call: Call, hurried: bool, queued: bool) -> None:
        """Wait for a call for whose results others wait; see the reactor."""
        self.reactor.attend(call, hurried, queued)
        self._waited(call)

    def _waited(self, call: Call) -> None:
        if self.reactor.lost:
            self.lose()
        if call.said or self.scheduler.unclaimed:
            self._retell(call)
        if self._to_close:
            self._close_left()

    def _retell(self, call: Call) -> None:
        """Log, warn and print what items of a call told, in its own thread and without the lock.

        So handlers may do anything, and one that takes its time holds up no other call.
        """
        for told in (call.said, self.scheduler.unclaimed):
            while told:
                try:
                    kind, fields = told.popleft()
                except IndexError:  # another thread had it
                    break
                output.retell(kind, fields)

    def end_overdue(self, call: Call) -> None:
        """End workers that did not do that when an item's time was over."""
        self.carry_out(self.scheduler.overdue(call, time.monotonic()))

    # --- what workers send ------------------------------------------------------------------------

    def _receive(self, worker: Handle) -> None:
        # A reply that is read and not handed on would be lost to another call; one of another
        # thread may be opened, and answered, in this very moment.
        if self._threads > 1 or len(self.scheduler.calls) > 1:
            with Shield():
                self._read(worker)
        else:
            self._read(worker)

    def _read(self, worker: Handle) -> None:
        with self._reading:
            try:
                self._hand_on(worker)
            except Closed:
                self._bury(worker)

    def _hand_on(self, worker: Handle) -> None:
        """Do what the messages ask for that a worker has sent; Closed if it has hung up."""
        for body, fds in worker.channel.receive():
            message = decode(body)
            out = self._HANDLERS[type(message)](self, worker, message, fds)
            if out:
                self.carry_out(out)

    def _replied(self, worker: Handle, message: Replied, fds: list[int]) -> list[Instruction]:
        number, packet, seconds, count, final, released, tasks, forgotten = message
        lost = None
        if fds or packet[0] is None or packet[4]:
            try:
                worker.inbox.adopt(packet, fds)
                worker.inbox.require(packet)
            except (OSError, Missing):
                worker.inbox.done(packet)
                lost = TransportError(str(Missing()))
                # It will name that segment again, without its descriptor; its successor will not.
                worker.given_up = True
                worker.kill()
        if released or tasks or forgotten:
            self._freed(worker, released, tasks, forgotten)
        return self.scheduler.replied(worker, number, packet, seconds, count, final, lost)

    def _freed(
        self, worker: Handle, released: list[int], tasks: list[int], forgotten: list[int]
    ) -> None:
        """Take note of what a worker says of segments: which are free, and which are gone."""
        worker.freed += released
        worker.inbox.forget(forgotten)
        self.tasks.freed(worker, tasks)

    def _unreadable(self, worker: Handle, message: Unreadable, fds: list[int]) -> list[Instruction]:
        return self.scheduler.unreadable(worker, message.number, self._error(worker, message, fds))

    def _failed(self, worker: Handle, message: Failed, fds: list[int]) -> list[Instruction]:
        """A task that cannot be unpickled, or (key 0) an initializer that raised."""
        error = self._error(worker, message, fds)
        if message.task:
            worker.known.discard(message.task)
            worker.script_sent.undo()
            return self.scheduler.task_failed(message.task, error)
        note(error, IN_INITIALIZER)
        return self.scheduler.fail(error)

    def _error(self, worker: Handle, message: Failed | Unreadable, fds: list[int]) -> BaseException:
        error, text = self._loaded_error(self._passed_on(worker, message, fds))
        assign(error, __cause__=RemoteTraceback(text))
        return error

    @staticmethod
    def _loaded_error(pickled: Pickled) -> tuple[BaseException, str]:
        try:
            return cast(
                tuple[BaseException, str], pickling.loads(pickled.pieces[0], pickled.buffers)
            )
        except BaseException as problem:  # noqa: BLE001 - a user's class may raise anything
            return ParallelError(f"an error that cannot be read: {problem}"), ""

    def _passed_on(self, worker: Handle, message: Any, fds: list[int]) -> Pickled:
        """Take the pickle of a message out, unread, to be kept or sent on."""
        worker.inbox.adopt(message.packet, fds)
        self._freed(worker, message.released, message.released_tasks, message.forgotten)
        return _taken(worker, message.packet)

    def _nested_task(
        self, worker: Handle, message: NestedTask, fds: list[int]
    ) -> list[Instruction]:
        try:
            pickled = self._passed_on(worker, message, fds)
        except _OUT_OF_MEANS:
            pickled = Pickled([b""], [])  # which cannot be unpickled either, and that is told
        nested = self.scheduler.nested_task(worker, message.inner)
        if nested is not None:
            pickled = script.ready(pickled._replace(needs=script.named(message.needs)))
            nested.task = self.tasks.prepare(pickled, again=False)
            nested.traced = message.traced
        return []

    def _nested_chunk(
        self, worker: Handle, message: NestedChunk, fds: list[int]
    ) -> list[Instruction]:
        chunk = Chunk(message.start, message.size, ())
        try:
            pickled = self._passed_on(worker, message, fds)
        except _OUT_OF_MEANS as error:
            nested = self.scheduler.nested_task(worker, message.inner)
            return [] if nested is None else [Relay(nested, Answer(chunk, lost=Lost(error)))]
        if message.needs:
            pickled = script.ready(pickled._replace(needs=script.named(message.needs)))
        return self.scheduler.nested_chunk(worker, message.inner, chunk, message.ahead, pickled)

    def _ready(self, worker: Handle, _: Ready, __: list[int]) -> list[Instruction]:
        if recording.on:
            self._note("ready", worker)
        return self.scheduler.ready(worker)

    def _released(self, worker: Handle, message: Released, _: list[int]) -> list[Instruction]:
        self._freed(worker, message.released, message.released_tasks, [])
        return []

    _HANDLERS: ClassVar[dict[type, Callable[..., list[Instruction]]]] = {
        Replied: _replied,
        Unreadable: _unreadable,
        Failed: _failed,
        Released: _released,
        NestedTask: _nested_task,
        NestedChunk: _nested_chunk,
        Ready: _ready,
        Skipped: lambda self, worker, m, _: self.scheduler.skipped(worker, m.number),
        TimedOut: lambda self, worker, m, _: self.scheduler.timed_out(worker, *m),
        Retired: lambda self, worker, _, __: self.scheduler.retired(worker),
        Returned: lambda self, _, __, ___: self.scheduler.turn(),
        Said: lambda self, worker, m, _: self.scheduler.said(worker, *m),
        Seek: lambda self, worker, m, _: self.scheduler.seek(worker, *m),
        Quit: lambda self, worker, m, _: self.scheduler.quit(worker, m.inner),
        Settled: lambda self, worker, m, _: self.scheduler.settled(worker, m.inner),
        Waiting: lambda self, worker, m, _: self.scheduler.waiting(worker, *m),
    }

    # --- what was decided -------------------------------------------------------------------------

    def carry_out(self, instructions: list[Instruction]) -> None:
        """Do what the scheduler has decided."""
        for instruction in instructions:
            self._CARRIED_OUT[type(instruction)](self, *instruction)

    def _wake(self, call: Call) -> None:
        self.reactor.wake(call)

    def _poke(self, call: Call) -> None:
        self.reactor.poke(call)

    def _drop(self, answer: Answer) -> None:
        if answer.packet is not None:
            cast(Handle, answer.worker).inbox.done(answer.packet)

    def _kill(self, worker: Handle) -> None:
        worker.kill()

    def _post(self, worker: Handle, message: tuple[Any, ...]) -> None:
        worker.post(type(message), message)

    def _relay(self, call: NestedCall, answer: Answer) -> None:
        """Pass what came of a chunk on to the worker whose item makes the call."""
        chunk, lost, pickled = answer.chunk, answer.lost, Pickled([], [])
        lender = cast(Handle, call.lender)
        size = chunk.size
        if answer.packet is not None:
            size = answer.count
            try:
                pickled = _taken(cast(Handle, answer.worker), answer.packet)
            except _OUT_OF_MEANS as error:
                lost = Lost(error)
        if lost is not None:
            told = pickling.portable(lost.reason), lost.started
            pickled = script.addressed(told, lender.script_sent)
        head = call.inner, chunk.start, size, answer.seconds, lost is not None
        lender.post(NestedReply, head, pickled)
        if answer.final and answer.packet is not None and size < chunk.size:
            left = chunk.part(size, chunk.size)
            gone = Lost(ParallelError("not run"), started=False)
            self._relay(call, Answer(left, lost=gone))

    def _refuse(self, call: NestedCall, error: BaseException) -> None:
        lender = cast(Handle, call.lender)
        pickled = script.addressed((pickling.portable(error), True), lender.script_sent)
        lender.post(NestedReply, (call.inner, 0, 0, 0.0, True), pickled)

    def _send_nested(
        self, call: NestedCall, helper: Handle | None, chunk: Chunk, pickled: Pickled
    ) -> None:
        if helper is None or call.task is None or not self.send(call, helper, chunk, pickled):
            gone = ParallelError("not run")
            self._relay(call, Answer(chunk, lost=Lost(gone, started=False)))
        self.carry_out(self.scheduler.turn())

    def _abandon(self, call: NestedCall, left: list[WorkerState]) -> None:
        self._abort([(worker, call) for worker in left])
        if call.task is not None:
            for worker in self.tasks.end(call.task, self.handles()):
                worker.let_forget()

    _CARRIED_OUT: ClassVar[dict[type, Callable[..., None]]] = {
        Wake: _wake,
        Poke: _poke,
        Drop: _drop,
        Kill: _kill,
        Post: _post,
        Relay: _relay,
        Refuse: _refuse,
        SendNested: _send_nested,
        Abandon: _abandon,
    }


def _taken(worker: Handle, packet: Packet) -> Pickled:
    """Take a packet of `worker` to be sent to another one, unread."""
    data, buffers = worker.inbox.unpack(packet, copy=True)
    pickled = Pickled([bytes(data)], buffers, getattr(buffers, "held", None) or ())
    worker.inbox.done(packet)
    return pickled
