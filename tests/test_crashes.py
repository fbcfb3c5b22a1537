"""The crash matrix: what may go wrong, where, however it is called; and the pool answers the next call.

What a result does in the process of the caller while it is unpickled is the caller's own code, run where the
caller lives: an exception there is told as the item's, a C exit or a crash there ends the program, as it would
in a call of the function itself. Those cells are not tested.
"""

import faults
import pytest
from faults import BAD, SHORT, WAYS, outcomes
from helpers import PlainError, increment

import parallelkit as pk
from parallelkit.place import system

ONE_START_METHOD = True

ITEMS = 5

DIES, OVERDUE, UNREAD = pk.WorkerDied, pk.TaskTimeout, pk.TransportError
RIGHT = None  # the item's result, whatever happens besides

# what happens: while an argument is unpickled, the item runs, its result is pickled, is unpickled, the argument ends
TABLE = {
    "segfault": (DIES, DIES, DIES, ..., RIGHT),
    "abort": (DIES, DIES, DIES, ..., RIGHT),
    "sys.exit": (UNREAD, SystemExit, UNREAD, UNREAD, RIGHT),
    "os._exit": (DIES, DIES, DIES, ..., RIGHT),
    "raise": (UNREAD, PlainError, UNREAD, UNREAD, RIGHT),
    "hang": (OVERDUE, OVERDUE, OVERDUE, ..., RIGHT),
}
PLACES = ("load argument", "run", "dump result", "load result", "del argument")
CELLS = [
    pytest.param(fault, place, expected, id=f"{fault}-{place}".replace(" ", "-"))
    for fault, row in TABLE.items()
    for place, expected in zip(PLACES, row, strict=True)
    if expected is not ...
]


def call(place, fault):
    """Function, items and keywords of a call in which that happens."""
    items = list(range(ITEMS))
    if place == "load argument":
        items[BAD] = faults.BadLoad(fault)
        return faults.take, items, {}
    if place == "del argument":
        items[BAD] = faults.BadEnd(fault)
        return faults.take, items, {}
    func = {
        "run": faults.run_bad,
        "dump result": faults.dump_bad,
        "load result": faults.load_bad,
    }[place]
    return func, items, {"fault": fault}


def options(fault):
    return {"on_error": "return", "timeout": SHORT if fault == "hang" else None}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("fault", "place", "expected"), CELLS)
def test_a_fault_costs_its_own_place(process_pool, fault, place, expected, way):
    """Whatever happens to one item, the others are right, that one tells, and the next call is right."""
    own = process_pool(**options(fault))
    func, items, keywords = call(place, fault)
    found = outcomes(own, way, func, items, **keywords)
    error = found.pop(BAD)
    assert found == {x: x for x in range(ITEMS) if x != BAD}
    if expected is RIGHT:
        assert error == BAD
    else:
        assert type(error) is expected
    assert outcomes(own, way, increment, [-1, 0, 1]) == {0: 0, 1: 1, 2: 2}


# ---- initializers --------------------------------------------------------------------------------

INITIALIZERS = {
    "segfault": (pk.ParallelError, "SIGSEGV"),
    "abort": (pk.ParallelError, "SIGABRT"),
    "sys.exit": (SystemExit, "7"),
    "os._exit": (pk.ParallelError, r"\b3\b"),
    "raise": (PlainError, "on purpose"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", INITIALIZERS)
def test_a_fault_in_an_initializer(process_pool, folder, fault, way):
    """The call ends with what happened, workers are not started for ever, and once it is mended the pool works."""
    broken = folder / "broken"
    broken.touch()
    own = process_pool(initializer=faults.start_bad, initargs=(fault, str(folder)))
    kind, text = INITIALIZERS[fault]
    with pytest.raises(kind, match=text):
        if way == "submit":
            own.submit(increment, 1).result(60)
        else:
            list(getattr(own, way)(increment, range(ITEMS)))
    assert len(list(folder.glob("started-*"))) <= 12
    broken.unlink()
    assert outcomes(own, way, increment, [-1, 0, 1]) == {0: 0, 1: 1, 2: 2}


if system.WINDOWS:
    INITIALIZERS["segfault"] = (pk.ParallelError, "access violation")
    INITIALIZERS["abort"] = (pk.ParallelError, r"\b3\b")

# ---- with the default policy ---------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", [fault for fault in TABLE if fault != "hang"])
def test_the_first_fault_is_raised(process_pool, fault, way):
    """Without a policy the fault of an item is raised, with a note that names the item."""
    own = process_pool()
    expected = TABLE[fault][PLACES.index("run")]
    with pytest.raises(expected) as caught:
        if way == "submit":
            own.submit(faults.run_bad, BAD, fault=fault).result(60)
        else:
            list(getattr(own, way)(faults.run_bad, range(ITEMS), fault=fault))
    if way != "submit":
        assert any(f"item {BAD} " in note for note in caught.value.__notes__)
    assert own.map(increment, range(3)) == [1, 2, 3]


@pytest.mark.parametrize("place", ["load argument", "run", "dump result"])
def test_an_item_that_kills_every_worker(process_pool, place):
    """With retries the deadly item is tried as often as that, and never takes more than its own place."""
    own = process_pool(on_error="return", retries=2)
    func, items, keywords = call(place, "os._exit")
    results = own.map(func, items * 4, **keywords)
    bad = [r.index for r in results if isinstance(r, pk.Failure)]
    assert bad == [BAD + ITEMS * i for i in range(4)]
    assert {r.attempts for r in results if isinstance(r, pk.Failure)} == {3}
    assert [r for r in results if not isinstance(r, pk.Failure)] == [0, 1, 3, 4] * 4


@pytest.mark.parametrize("fault", ["segfault", "sys.exit", "raise"])
def test_a_fault_while_the_function_is_loaded(process_pool, fault):
    """A frozen keyword or a function that does harm to each worker that loads it ends its call, not the pool."""
    own = process_pool()
    with pytest.raises((pk.ParallelError, PlainError, SystemExit)):
        own.map(faults.take, range(ITEMS), keyword=faults.BadLoad(fault))
    assert own.map(increment, range(3)) == [1, 2, 3]


def test_an_overflow_of_the_c_stack(process_pool):
    """A recursion that ends the process costs its own item."""
    own = process_pool(on_error="return")
    results = own.map(faults.run_deep, range(ITEMS))
    assert isinstance(results.pop(BAD).exception, (pk.WorkerDied, RecursionError))
    assert results == [0, 1, 3, 4]
