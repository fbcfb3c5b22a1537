"""The scheduler's rules, without a process: events in, instructions and answers out."""

import threading
import time

import helpers
import pytest

import parallelkit as pk
from parallelkit.backends.processes.reactor import Reactor
from parallelkit.backends.processes.scheduler import Scheduler
from parallelkit.backends.processes.state import (
    Call,
    Kill,
    Poke,
    Post,
    Relay,
    SendNested,
    Wake,
    WorkerState,
)
from parallelkit.transport.pickling import Pickled
from parallelkit.values.source import Chunk
from parallelkit.worker import protocol
from parallelkit.worker.protocol import (
    BORROWED_CORES,
    CHUNK_BEGUN,
    ITEM_BEGUN,
    ITEM_OFFSET,
    LAST_BEGUN,
    NOBODY,
    SPARE_CORES,
    TAKEN_BACK,
    WANTED_BACK,
    Grant,
)

PACKET = (b"", 0, 0, (), ())


class Office:
    """A scheduler with ready workers, and calls that are fed by hand."""

    def __init__(self, workers):
        self.scheduler = Scheduler(workers)
        self.workers = [WorkerState(rank, ready=True) for rank in range(workers)]
        for worker in self.workers:
            self.scheduler.joined(worker)

    def call(self, timeout=None, cores=2):
        call = Call(0, None, None, timeout, cores)
        self.scheduler.open(call)
        return call

    def send(self, call, start=0, size=1, depth=1):
        """The assignment of a chunk that a worker has got; None where there is no worker for it."""
        worker = self.scheduler.claim(call, depth)
        if worker is None:
            return None, None
        chunk = Chunk(start, size, (list(range(start, start + size)),))
        return worker, self.scheduler.assign(call, worker, chunk, 0)

    def reply(self, worker, assignment, items=None, final=True):
        items = assignment.chunk.size if items is None else items
        return self.scheduler.replied(worker, assignment.number, PACKET, 0.1, items, final, None)


def test_calls_take_turns():
    """A call that waits gets the next free worker, before the one that has just had it."""
    office = Office(1)
    first, second = office.call(), office.call()
    worker, assignment = office.send(first)
    assert office.send(second) == (None, None)
    out = office.reply(worker, assignment)
    assert [type(one) for one in out] == [Wake, Poke]
    assert out[1].call is second
    assert office.send(first, 1) == (None, None)
    assert office.send(second)[0] is worker


def test_prefetch_is_for_workers_of_the_same_call():
    """A second chunk goes to a worker in advance only where it runs nothing of another call."""
    office = Office(2)
    one, other = office.call(), office.call()
    mine, _ = office.send(one)
    office.send(other)
    again, _ = office.send(one, 1, depth=2)
    assert again is mine
    assert office.send(one, 2, depth=2) == (None, None)


def test_an_idle_worker_gets_what_waits_behind_another():
    """A chunk that was given in advance is taken back, and is then run by who is free."""
    office = Office(2)
    call = office.call()
    busy, first = office.send(call)
    other, second = office.send(call, 1)
    office.send(call, 2, depth=2)  # one of them has two now
    busy, first, other, second = (
        (busy, first, other, second) if len(busy.assignments) == 2 else (other, second, busy, first)
    )
    waiting = busy.assignments[1]
    busy.words[LAST_BEGUN] = first.number
    assert office.scheduler.relieve(call, empty=True) == []  # nobody is free
    office.reply(other, second)
    call.inbox.clear()
    assert [type(one) for one in office.scheduler.relieve(call, empty=True)] == [Wake]
    (answer,) = call.inbox
    assert (answer.chunk.start, answer.lost.started) == (2, False)
    assert busy.words[TAKEN_BACK] == protocol.bit(waiting.number)
    assert office.send(call, 2)[0] is other
    office.scheduler.skipped(busy, waiting.number)  # the worker comes to it, and leaves it out
    assert busy.words[TAKEN_BACK] == 0
    assert len(call.inbox) == 1


def test_nothing_is_taken_back_from_a_worker_that_takes_no_longer_than_was_expected():
    """What waits behind a chunk of the usual length would only be sent again."""
    office = Office(1)
    call = office.call()
    worker, first = office.send(call)
    office.send(call, 1, depth=2)
    worker.words[LAST_BEGUN] = first.number
    worker.since -= 1.0
    assert office.scheduler.relieve(call, empty=False, patience=100.0) == []
    assert len(worker.assignments) == 2
    assert [type(one) for one in office.scheduler.relieve(call, empty=False, patience=0.5)] == [
        Wake
    ]
    assert len(worker.assignments) == 1


@pytest.mark.parametrize("left_out", [True, False])
def test_a_chunk_that_was_begun_when_it_is_taken_back(left_out):
    """Worker and parent write at the same time: the worker tells whether it has run it."""
    office = Office(2)
    call = office.call()
    office.scheduler.workers[1].retired = True
    worker, first = office.send(call)
    _, second = office.send(call, 1, depth=2)
    office.scheduler.workers[1].retired = False
    worker.words[LAST_BEGUN] = second.number  # the reply to the first is on its way
    assert office.scheduler.relieve(call, empty=True) == []
    office.reply(worker, first)
    call.inbox.clear()
    if left_out:
        office.scheduler.skipped(worker, second.number)
        assert [answer.lost.started for answer in call.inbox] == [False]
    else:
        office.reply(worker, second)
        assert [answer.lost for answer in call.inbox] == [None]
    assert call.assignments == 0
    assert worker.words[TAKEN_BACK] == 0


@pytest.mark.parametrize(("begun", "started"), [(True, True), (False, False)])
def test_a_dead_worker_costs_what_it_had_begun(begun, started):
    """Of two chunks only the one that was running is blamed; the other was not started."""
    office = Office(1)
    call = office.call()
    worker, running = office.send(call)
    office.send(call, 1, depth=2)
    worker.words[CHUNK_BEGUN] = running.number if begun else 0
    office.scheduler.died(worker, "gone")
    assert [answer.lost.started for answer in call.inbox] == [started, False]
    assert [answer.chunk.start for answer in call.inbox] == [0, 1]
    assert call.assignments == 0
    assert isinstance(call.inbox[0].lost.reason, pk.WorkerDied)


def test_an_item_that_waits_is_lost_with_the_chunk_that_runs_meanwhile():
    """A chunk of another worker's call kills the worker: the item that waited below it had begun too."""
    office = Office(1)
    call = office.call()
    worker, _ = office.send(call)
    _, meanwhile = office.send(call, 1, depth=3)
    office.send(call, 2, depth=3)
    worker.words[CHUNK_BEGUN] = meanwhile.number
    office.scheduler.died(worker, "gone")
    assert [answer.lost.started for answer in call.inbox] == [True, True, False]


def test_what_was_answered_is_not_lost_with_the_worker():
    """A worker dies in the middle of a chunk that it answers in parts."""
    office = Office(1)
    call = office.call()
    worker, assignment = office.send(call, size=5)
    worker.words[CHUNK_BEGUN] = assignment.number
    office.reply(worker, assignment, items=2, final=False)
    office.scheduler.died(worker, "gone")
    part, rest = call.inbox
    assert (part.chunk.start, part.count) == (0, 2)
    assert (rest.chunk.start, rest.chunk.size, rest.lost.started) == (2, 3, True)


def test_workers_that_never_begin_anything_end_the_call():
    """Workers die one after the other before their initializer is done: that is told, not tried for ever."""
    office = Office(1)
    call = office.call()
    deaths = 0
    while call.failed is None:
        for worker in list(office.scheduler.workers):
            office.scheduler.died(worker, "exit code 1")
            deaths += 1
        office.scheduler.joined(WorkerState(0))
        assert deaths < 1000
    assert isinstance(call.failed, pk.WorkerDied)
    with pytest.raises(pk.WorkerDied):
        office.call()


def test_an_item_over_its_time_is_alone_to_blame():
    """Items before and after the one that took too long were not run, and the worker takes nothing more."""
    office = Office(1)
    call = office.call(timeout=1)
    worker, assignment = office.send(call, size=4)
    office.scheduler.timed_out(worker, assignment.number, 1)
    told = [(a.chunk.start, a.chunk.size, a.lost.started, type(a.lost.reason)) for a in call.inbox]
    assert told == [
        (0, 1, False, pk.ParallelError),
        (1, 1, True, TimeoutError),
        (2, 2, False, pk.ParallelError),
    ]
    assert worker.retired
    assert office.send(call) == (None, None)


def test_a_worker_that_ignores_its_time_limit_is_ended():
    """Long after the limit of the item that it has begun."""
    office = Office(1)
    call = office.call(timeout=1)
    worker, assignment = office.send(call)
    worker.words[CHUNK_BEGUN] = assignment.number
    worker.times[ITEM_BEGUN] = 100.0
    assert office.scheduler.overdue(call, 101.1) == []
    assert Kill(worker) in office.scheduler.overdue(call, 110.0)
    assert [type(answer.lost.reason) for answer in call.inbox] == [TimeoutError]


class Changing:
    """The time in a control block, as another item begins between two looks at it."""

    def __init__(self):
        self.left = [time.monotonic() - 1000, time.monotonic()]

    def __getitem__(self, _):
        return self.left.pop(0)


def test_a_torn_look_at_a_worker_blames_nobody():
    """An item that has just begun is not taken for the one before it, which had lasted too long."""
    office = Office(1)
    worker = office.workers[0]
    worker.times = Changing()
    worker.words[ITEM_OFFSET] = NOBODY
    assert office.scheduler.overdue(office.call(timeout=60), time.monotonic()) == []
    assert worker.times.left == []


def test_a_call_that_is_given_up_ends_what_still_runs_of_it():
    """What comes for it later is dropped; a worker that does not leave is ended."""
    office = Office(2)
    call, other = office.call(), office.call()
    worker, assignment = office.send(call)
    busy, kept = office.send(other)
    worker.words[CHUNK_BEGUN], busy.words[CHUNK_BEGUN] = assignment.number, kept.number
    left, _ = office.scheduler.withdraw(call)
    assert left == [(worker, call)]
    assert office.scheduler.part_with(call) == [Kill(worker)]
    office.reply(worker, assignment)
    assert not call.inbox
    office.reply(busy, kept)
    assert len(other.inbox) == 1


def test_idle_cores_at_the_end_of_a_call():
    """When no chunk is left, workers that still run share the cores of those that do not."""
    office = Office(2)
    call = office.call(cores=4)
    worker, _ = office.send(call)
    other, assignment = office.send(call, 1)
    office.scheduler.exhausted(call, exhausted=True)
    assert worker.words[SPARE_CORES] == 0
    office.reply(other, assignment)
    assert (worker.words[SPARE_CORES], other.words[SPARE_CORES]) == (4, 0)
    office.call()
    assert worker.words[SPARE_CORES] == 0


def test_a_call_that_begins_waits_for_its_cores(monkeypatch):
    """While a thread of another call is still on the core of an idle worker, a new call waits, but not for long."""
    office = Office(2)
    first = office.call()
    worker, _ = office.send(first)
    office.scheduler.exhausted(first, exhausted=True)
    assert worker.words[SPARE_CORES] == 2
    worker.words[BORROWED_CORES] = 1
    second = office.call()
    assert office.send(second) == (None, None)
    assert worker.words[SPARE_CORES] == 0
    worker.words[BORROWED_CORES] = 0
    assert office.scheduler.turn() == [Poke(second)]  # as when the worker tells of it
    assert office.send(second)[0] is not None

    monkeypatch.setattr("parallelkit.backends.processes.scheduler.HOLD", 0.0)
    office = Office(2)
    first = office.call()
    worker, _ = office.send(first)
    office.scheduler.exhausted(first, exhausted=True)
    worker.words[BORROWED_CORES] = 1
    assert office.send(office.call())[0] is not None


def seeking(office, call):
    """A worker with an item of `call` that makes a call with chunks for helpers."""
    lender, assignment = office.send(call)
    lender.words[CHUNK_BEGUN] = assignment.number
    out = office.scheduler.seek(lender, 1, call.number)
    return lender, out


def test_a_helper_is_granted_when_it_has_nothing_else_to_do():
    """An idle worker helps; its answer goes to the worker that made the call."""
    office = Office(2)
    lender, out = seeking(office, office.call())
    assert out == [Post(lender, Grant(1))]
    helper = office.workers[1 - lender.rank]
    chunk = Chunk(7, 1, ())
    (sent,) = office.scheduler.nested_chunk(lender, 1, chunk, ahead=False, pickled=Pickled([], []))
    assert (type(sent), sent.helper, sent.chunk) == (SendNested, helper, chunk)
    assignment = office.scheduler.assign(sent.call, helper, chunk, 0)
    relayed = office.reply(helper, assignment)[0]
    assert (type(relayed), relayed.answer.chunk) == (Relay, chunk)


def test_no_helper_while_another_worker_still_has_its_core():
    """Threads that ran on the core of an idle worker end first; then it helps."""
    office = Office(2)
    outer = office.call()
    lender, assignment = office.send(outer)
    lender.words[CHUNK_BEGUN] = assignment.number
    lender.words[BORROWED_CORES] = 1
    assert office.scheduler.seek(lender, 1, outer.number) == []
    lender.words[BORROWED_CORES] = 0
    assert office.scheduler.turn() == [Post(lender, Grant(1))]


def test_cores_for_good_are_for_helpers_while_they_are_sought():
    """While an item seeks helpers, all workers are told to keep to their own cores, new ones too."""
    office = Office(2)
    lender, _ = seeking(office, office.call())
    assert [worker.words[WANTED_BACK] for worker in office.workers] == [1, 1]
    office.scheduler.settled(lender, 1)
    assert [worker.words[WANTED_BACK] for worker in office.workers] == [0, 0]


def test_calls_of_this_process_come_before_helping():
    """While a call waits for a worker, no worker is granted as a helper."""
    office = Office(2)
    outer, other = office.call(), office.call()
    lender, _ = office.send(outer)
    busy, assignment = office.send(other)
    assert office.send(other, 1) == (None, None)
    assert [type(one) for one in office.scheduler.seek(lender, 1, outer.number)] == [Poke]
    assert [type(one) for one in office.reply(busy, assignment)] == [Wake, Poke]
    assert office.send(other, 1)[0] is busy


def test_a_helper_that_dies_is_told_to_the_lender():
    """Its chunk is lost for the worker that made the call, which tries it elsewhere or itself."""
    office = Office(2)
    lender, _ = seeking(office, office.call())
    chunk = Chunk(0, 1, ())
    (sent,) = office.scheduler.nested_chunk(lender, 1, chunk, ahead=False, pickled=Pickled([], []))
    assignment = office.scheduler.assign(sent.call, sent.helper, chunk, 0)
    sent.helper.words[CHUNK_BEGUN] = assignment.number
    relayed = office.scheduler.died(sent.helper, "gone")[0]
    assert (type(relayed), relayed.answer.lost.started) == (Relay, True)


@pytest.mark.parametrize(
    "body",
    [(), (999,), (protocol.encode(Grant(1))[0],), (-1, 1), ("?",), None],
    ids=["empty", "unknown", "cut short", "negative", "a word", "nothing"],
)
def test_a_message_that_is_none(body):
    """Of another version, cut short or of no kind: it is told, by what it says."""
    with pytest.raises(pk.ParallelError, match="none of ours"):
        protocol.decode(body)


def test_every_message_comes_back_as_it_was():
    message = protocol.Replied(3, PACKET, 0.5, 2, True, [], [4], [])
    assert protocol.decode(protocol.encode(message)) == message


def test_who_looks_and_who_waits_for_one_call(monkeypatch):
    """A thread that submits to a call looks for its results; the call's own thread, which begins to wait meanwhile, drives then."""
    reactor = Reactor(id, id)
    call = Office(1).call()
    waits = threading.Thread(target=reactor.attend, args=(call, True, True), daemon=True)

    def drive(timeout):
        waits.start()
        helpers.wait_until(lambda: call in reactor._waiting, "the call's own thread")

    monkeypatch.setattr(reactor, "_drive", drive)
    reactor.look(call)
    waits.join(helpers.PATIENCE)  # it has been woken
    assert not waits.is_alive()
    reactor.close()
