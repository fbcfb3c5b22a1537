"""timeout=: seconds for each item from when it starts; what runs longer ends alone, nothing else is lost or run twice."""

import contextvars
import importlib
import os
import sys
import threading

import faults
import pytest
from faults import SHORT, WAYS, outcomes, tallies
from helpers import ended, fail_then_hold, hold, hold_at, increment, wait_for, wait_until

import parallelkit as pk

PLENTY = 30.0  # seconds; nothing here runs as long

ONE_START_METHOD = True


def once_each(count):
    return {f"item-{x}": 1 for x in range(count)}


def test_a_limit_beyond_all_measure(process_pool, capfd):
    """As many seconds as one likes are no error."""
    assert process_pool(timeout=1e10).map(increment, range(3)) == [1, 2, 3]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("chunksize", [1, 20])
@pytest.mark.parametrize("way", WAYS)
def test_what_hangs_is_ended_alone(process_pool, folder, way, chunksize):
    """Items that hang become TaskTimeout, all others complete, and each item was begun exactly once."""
    own = process_pool(timeout=SHORT, on_error="return", chunksize=chunksize)
    found = outcomes(own, way, faults.counted, range(20), folder=str(folder), bad=(3, 19))
    for x in (3, 19):
        assert type(found.pop(x)) is pk.TaskTimeout
    assert found == {x: x for x in range(20) if x not in (3, 19)}
    assert tallies(folder) == once_each(20)


@pytest.mark.parametrize("way", ["map", "imap", "uimap"])
def test_the_first_timeout_is_raised(process_pool, way):
    """Without a policy TaskTimeout is raised: a TimeoutError too, with the limit in it, and a note that names the item."""
    own = process_pool(timeout=SHORT)
    with pytest.raises(TimeoutError, match=f"timeout={SHORT:g} ") as caught:
        list(getattr(own, way)(faults.run_bad, range(5), fault="hang"))
    assert type(caught.value) is pk.TaskTimeout
    assert any(f"item {faults.BAD} " in note for note in caught.value.__notes__)


@pytest.mark.each_start_method
def test_timeouts_are_skipped(process_pool):
    """on_error="skip" leaves the item out."""
    own = process_pool(timeout=SHORT, on_error="skip")
    assert own.map(faults.run_bad, range(5), fault="hang") == [0, 1, 3, 4]


@pytest.mark.each_start_method
def test_the_worker_that_hung_is_gone(process_pool, folder):
    """The process that ran the item is ended, not left to itself."""
    own = process_pool(timeout=SHORT, on_error="return")
    own.map(hold_at, range(5), at=2, folder=folder)
    number = int((folder / "held-2").read_text())
    wait_until(lambda: ended([number]), f"the end of {number}")


@pytest.mark.parametrize("way", WAYS)
def test_a_hang_that_holds_the_interpreter_lock(process_pool, folder, way):
    """C code that never gives the lock back is ended as well, though no thread of its process can run."""
    own = process_pool(timeout=SHORT, on_error="return", chunksize=4)
    found = outcomes(own, way, faults.counted, range(8), folder=folder, bad=(1,), fault="hang in C")
    assert type(found.pop(1)) is pk.TaskTimeout
    assert found == {x: x for x in range(8) if x != 1}
    assert tallies(folder)["item-1"] == 1


def test_every_item_hangs(process_pool):
    """Where everything hangs, every item is told in its place."""
    results = process_pool(timeout=0.05, on_error="return").map(lambda _: faults.hang(), range(6))
    assert [r.index for r in results] == list(range(6))
    assert {type(r.exception) for r in results} == {pk.TaskTimeout}
    assert {r.attempts for r in results} == {1}


def test_the_clock_starts_with_the_item(process_pool, folder):
    """Waiting for a worker is not running: many items that together take far longer than the limit all complete."""
    own = process_pool(timeout=1.0, chunksize=64)
    assert own.map(faults.square_slowly, range(64), seconds=0.03) == [x * x for x in range(64)]


def test_an_item_that_takes_its_time_within_the_limit(process_pool):
    """A limit that is not reached changes nothing, not even for quick items by the thousand."""
    own = process_pool(timeout=PLENTY)
    assert own.map(increment, range(5000)) == list(range(1, 5001))
    assert list(own.uimap(increment, [])) == []


def test_an_idle_worker_is_not_overdue(process_pool, folder):
    """A limit counts while items run, not while a consumer or a live input makes the workers wait."""
    own = process_pool(timeout=SHORT, on_error="return", chunksize=1)
    go = threading.Event()

    def slow_input():
        yield 0
        go.wait(60)
        yield 1

    results = own.uimap(faults.counted, slow_input(), folder=str(folder))
    assert next(results) == 0
    threading.Timer(1.2 * SHORT, go.set).start()  # longer than the limit
    assert next(results) == 1
    assert tallies(folder) == once_each(2)


def test_a_timeout_spares_another_call(process_pool, folder):
    """Two calls share the workers: what hangs in one is no loss of the other, which knows no limit."""
    limited = process_pool(timeout=SHORT, on_error="return")
    free = process_pool()
    other = free.amap(increment, range(20_000))
    found = outcomes(limited, "map", faults.counted, range(6), folder=folder, bad=(0, 5))
    assert [type(found[x]) for x in (0, 5)] == [pk.TaskTimeout] * 2
    assert other.result(60) == list(range(1, 20_001))
    assert tallies(folder) == once_each(6)


def test_a_stop_in_time(process_pool, folder):
    """An error in one item while another hangs ends the call at once, long before the limit."""
    own = process_pool(timeout=PLENTY * 10, chunksize=1)
    with pytest.raises(ValueError, match="item 0 is bad"):
        own.map(fail_then_hold, range(2), folder=folder)


def test_a_future_of_a_hung_item(process_pool, folder):
    """The future holds TaskTimeout, while others that were submitted run on the other worker."""
    own = process_pool(timeout=SHORT)
    hung = own.submit(hold, 0, folder)
    wait_for(folder / "held-0")
    assert own.submit(increment, 1).result(60) == 2
    assert type(hung.exception(60)) is pk.TaskTimeout


def test_an_interrupted_sleep_is_no_way_out(process_pool):
    """An item that catches everything it can is ended all the same."""
    own = process_pool(timeout=2 * SHORT, on_error="return")
    results = own.map(faults.defy, range(3))
    assert type(results.pop(faults.BAD).exception) is pk.TaskTimeout
    assert results == [0, 1]


SLOW = """
import os, time
if os.getpid() != HOME:
    time.sleep(LONG)  # as long as it takes to load something large
class Thing:
    value = 3
def double(x):
    return 2 * x
"""


@pytest.mark.parametrize("what", ["function", "argument"])
def test_imports_are_not_the_items_time(process_pool, tmp_path, monkeypatch, what):
    """A module that a worker has to import first, for the function or an argument, may take longer than an item."""
    name = f"slow_{what}_{process_pool.start_method}"
    (tmp_path / f"{name}.py").write_text(
        SLOW.replace("HOME", str(os.getpid())).replace("LONG", str(2 * SHORT))
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    own = process_pool(timeout=SHORT, chunksize=2)
    module = importlib.import_module(name)
    if what == "function":
        assert own.map(module.double, range(8)) == [2 * x for x in range(8)]
    else:
        assert own.map(faults.value_of, [module.Thing() for _ in range(8)]) == [3] * 8


def test_what_runs_in_place_has_no_limit():
    """Where nobody can leave an item the option is refused, with the reason."""
    with pytest.raises(ValueError, match=r"timeout= needs backend='process'.*cannot be left"):
        pk.Pool(2, "serial", timeout=1)


# ---- on threads ----------------------------------------------------------------------------------


def wait_until_set(event):
    """Give the event back when it is set; None needs no waiting."""
    if event is not None:
        assert event.wait(60)
    return event


@pytest.fixture
def held():
    """Items that go on until the end of the test."""
    events = [threading.Event() for _ in range(3)]
    yield events
    for event in events:
        event.set()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("way", ["map", "uimap", "submit"])
def test_on_threads_an_item_is_left_to_finish_alone(held, workers, way):
    """The items that take too long are failures, the others have their results, and nobody waits."""
    items = [None, held[0], None, None, held[1], None, held[2]]
    with pk.Pool(workers, "thread", timeout=0.5, on_error="return", chunksize=3) as own:
        if way == "submit":
            futures = [own.submit(wait_until_set, item) for item in items]
            results = [future.exception() or future.result() for future in futures]
        else:
            results = list(getattr(own, way)(wait_until_set, items))
    late = [r for r in results if r is not None]
    if way == "submit":
        assert [type(error) for error in late] == [pk.TaskTimeout] * 3
    else:
        assert [type(failure.exception) for failure in late] == [pk.TaskTimeout] * 3
        assert sorted(failure.index for failure in late) == [1, 4, 6]
        assert "timeout=0.5" in str(late[0].exception)
    assert len(results) == 7


def test_on_threads_the_first_late_item_ends_the_call(held):
    """With on_error="raise" the error names the item, and the call does not wait for it."""
    with pk.Pool(2, "thread", timeout=0.5) as own, pytest.raises(pk.TaskTimeout) as raised:
        own.map(wait_until_set, [None, held[0]])
    assert "in item 1 of the input" in raised.value.__notes__[0]
    assert isinstance(raised.value, TimeoutError)


def test_on_threads_a_late_item_is_tried_again(held):
    """`retry_on` counts on threads as on processes."""
    begun = []

    def late_once(x):
        begun.append(x)
        if begun.count(x) == 1:
            wait_until_set(held[x])
        return x

    own = pk.Pool(2, "thread", timeout=0.5, retries=1, retry_on=TimeoutError)
    assert own.map(late_once, range(3)) == [0, 1, 2]


def test_on_threads_items_in_time_are_as_without_a_limit():
    """Results, errors, context and level are those of a call without the option, and no thread is left."""
    variable = contextvars.ContextVar("variable", default=0)

    def item(x):
        before, level = variable.get(), pk.nesting().level
        variable.set(x)
        if x == 3:
            raise StopIteration(x)
        return before, level, sum(pk.map(abs, [-x, x]))

    variable.set(7)
    before = set(threading.enumerate())
    plain, limited = (
        pk.Pool(2, "thread", on_error="return", **options).map(item, range(5))
        for options in ({}, {"timeout": 60})
    )
    assert (
        limited[:3] + limited[4:] == plain[:3] + plain[4:] == [(7, 1, 2 * x) for x in (0, 1, 2, 4)]
    )
    assert type(limited[3].exception) is type(plain[3].exception) is StopIteration
    left = {t for t in threading.enumerate() if t.name == "parallelkit-item"} - before
    for thread in left:
        thread.join(60)
        assert not thread.is_alive()


def limited_inside(x):
    """A call with a limit of its own, one of whose items never ends."""
    late = threading.Event()
    inner = pk.Pool(2, timeout=0.5, on_error="return").map(wait_until_set, [None, late, None])
    late.set()
    return [type(getattr(one, "exception", None)) is pk.TaskTimeout for one in inner]


def test_a_call_in_an_item_may_have_a_limit(pool):
    """It runs on threads, so that its late items are left to finish alone."""
    assert pool(workers=2).map(limited_inside, range(2)) == [[False, True, False]] * 2


@pytest.mark.each_start_method
def test_a_nested_call_runs_within_the_limit_of_its_item(process_pool):
    """The limit of a call is not that of the calls in its items: those are threads, and their item has the limit."""
    own = process_pool(timeout=SHORT, on_error="return", chunksize=1)
    results = own.map(faults.nest, range(3))
    assert type(results.pop(faults.BAD).exception) is pk.TaskTimeout
    assert results == [[0, 1, 2], [1, 2, 3]]
