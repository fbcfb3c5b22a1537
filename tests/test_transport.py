"""What cannot be pickled or unpickled, and what crosses to a worker how often."""

import re
import socket
import sys
import threading

import numpy as np
import pytest
from helpers import (
    Counted,
    OneWay,
    OneWayError,
    TwoPartError,
    Unfinished,
    UnfinishedError,
    add_all,
    fail_on,
    generator_on,
    identity,
    increment,
    one_way_on,
    two_parts,
    with_counted,
)

import parallelkit as pk
from parallelkit.transport.channel import Channel
from parallelkit.transport.mirror import Tokens, space_key
from parallelkit.transport.script import MOST_PLANS_SENT, Prepared, Script, Sent

ONE_START_METHOD = True


def told(error):
    """All that a user sees of an error: its message and its notes."""
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


def call(own, name, function, items, **frozen):
    """The same call as a list, by each way to make it."""
    results = getattr(own, name)(function, items, **frozen)
    return results.result(60) if name == "amap" else list(results)


WAYS = ["map", "imap", "uimap", "amap"]


@pytest.mark.parametrize("way", WAYS)
def test_an_argument_that_cannot_be_pickled(process_pool, way):
    """The error names the item and the attribute that cannot travel."""
    items = [0, 1, 2, Unfinished(), 4]
    with pytest.raises(pk.TransportError, match="generator") as caught:
        call(process_pool(), way, identity, items)
    assert "3" in told(caught.value)
    assert "handle" in told(caught.value)


@pytest.mark.parametrize("way", WAYS)
def test_a_keyword_that_cannot_be_pickled(process_pool, way):
    """The error names the keyword, and no item."""
    with pytest.raises(pk.TransportError, match="setting") as caught:
        call(process_pool(), way, with_counted, [1, 2], setting={"deep": [Unfinished()]})
    assert "generator" in told(caught.value)


def test_a_function_that_cannot_be_pickled(process_pool):
    """A closure over something that cannot travel is a TransportError that tells what it is."""
    lines = (i for i in ())

    def reading(x):
        return next(lines, x)

    def holding(x, *, held={"a": [lines]}):  # noqa: B006 - the case
        return x, held

    for function, where in (
        (reading, "its variable 'lines' (a generator)"),
        (holding, "its default of 'held'['a'][0] (a generator)"),
    ):
        named = f"function '{function.__qualname__}' cannot be sent between processes because of"
        with pytest.raises(pk.TransportError, match=re.escape(f"{named} {where}: TypeError")):
            process_pool().map(function, [1, 2])


@pytest.mark.parametrize("way", WAYS)
def test_a_result_that_cannot_be_pickled(process_pool, way):
    """The error names the item whose result could not travel."""
    with pytest.raises(pk.TransportError, match="generator") as caught:
        call(process_pool(), way, generator_on, range(10, 20), bad=17)
    assert "7" in told(caught.value)


def test_submit_and_what_cannot_travel(process_pool):
    """An argument, keyword or result of submit that cannot travel is the future's error."""
    own = process_pool()
    assert isinstance(own.submit(identity, Unfinished()).exception(60), pk.TransportError)
    assert isinstance(own.submit(add_all, 1, p=Unfinished()).exception(60), pk.TransportError)
    assert isinstance(own.submit(generator_on, 1, bad=1).exception(60), pk.TransportError)


def test_a_generator_is_no_result(process_pool):
    """A function whose result is a generator says so, instead of hanging."""
    with pytest.raises(pk.TransportError, match="generator"):
        process_pool().map(lambda x: (i for i in range(x)), [1, 2])


@pytest.mark.parametrize("way", WAYS)
def test_an_argument_that_cannot_be_unpickled(process_pool, way):
    """Loading that fails in the worker is the error of that item."""
    with pytest.raises(Exception, match="refused to load a value") as caught:
        call(process_pool(chunksize=1), way, identity, [0, 1, OneWay(), 3])
    assert "2" in told(caught.value)


UNMADE = """
import os
import parallelkit as pk
caller = os.getpid()
class Device:
    def __reduce__(self):
        return opened, ()
def opened():
    if os.getpid() != caller:
        raise OSError("it is open elsewhere")
    return Device()
SETTINGS = {"rate": 2}
DEVICES = {"first": Device()}
pk.configure(workers=2, start_method="METHOD")
try:
    pk.map(lambda x: (SETTINGS, DEVICES, x), range(4))
except pk.TransportError as error:
    print("it is open elsewhere" in str(error), "the global 'DEVICES'" in str(error))
print(pk.map(lambda x: SETTINGS["rate"] * x, range(4)))
"""


def test_a_global_that_cannot_be_unpickled(script, start_method):
    """The error names the global of the script that a worker could not make again."""
    ran = script(UNMADE.replace("METHOD", start_method))
    assert (ran.out, ran.err) == ("True True\n[0, 2, 4, 6]\n", "")


@pytest.mark.parametrize("way", WAYS)
def test_a_result_that_cannot_be_unpickled(process_pool, way):
    """Loading that fails in the caller is the error of that item."""
    with pytest.raises(Exception, match="refused to load a value") as caught:
        call(process_pool(chunksize=1), way, one_way_on, range(10, 20), bad=17)
    assert "7" in told(caught.value)


@pytest.mark.parametrize("chunksize", [1, 4, None])
def test_the_others_complete(process_pool, chunksize):
    """Under on_error="return" what cannot travel takes its own place only, in either direction."""
    own = process_pool(on_error="return", chunksize=chunksize)
    for items, function, frozen in [
        ([0, 1, 2, 3, 4, Unfinished(), 6, 7], identity, {}),
        ([0, 1, 2, 3, 4, OneWay(), 6, 7], identity, {}),
        (range(8), generator_on, {"bad": 5}),
        (range(8), one_way_on, {"bad": 5}),
    ]:
        results = own.map(function, items, **frozen)
        assert isinstance(results[5], pk.Failure)
        assert results[5].index == 5
        assert results[:5] + results[6:] == [0, 1, 2, 3, 4, 6, 7]


def test_threads_and_serial_need_no_pickling(pool):
    """What cannot be pickled is no hindrance where nothing has to travel."""
    if pool.pickles:
        with pytest.raises(pk.TransportError):
            pool().map(identity, [Unfinished()])
    else:
        item = Unfinished()
        assert pool().map(identity, [item]) == [item]
        assert len(pool().map(generator_on, [1, 2], bad=1)) == 2


# ---- errors that travel --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [UnfinishedError, OneWayError])
def test_an_error_that_cannot_be_pickled(process_pool, kind):
    """It arrives by its parts, with the traceback of the worker."""
    with pytest.raises(kind, match="bad item 2") as caught:
        process_pool().map(fail_on, range(4), bad=[2], error=kind)
    assert "fail_on" in str(caught.value.__cause__)


def test_an_error_with_its_own_signature(pool):
    """An error whose ``__init__`` takes other arguments than its ``args`` arrives as itself."""
    with pytest.raises(TwoPartError, match="404: not found") as caught:
        pool().map(two_parts, range(4))
    assert (caught.value.code, caught.value.reason) == (404, "not found")


# ---- how often -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_frozen_keywords_cross_once(pool, folder, way):
    """A frozen keyword is pickled once a call and unpickled once by each worker, however many messages there are."""
    counted = Counted(folder)
    results = call(pool(chunksize=1), way, with_counted, range(300), counted=counted)
    assert sorted(results) == list(range(1, 301))
    pids = [path.name.partition("-")[0] for path in folder.iterdir()]
    assert len(pids) == len(set(pids)) <= 2
    assert counted.dumps <= 1
    assert (counted.dumps == 0) == (not pool.pickles)


def test_functions_cross_once(pool, folder):
    """The function is pickled once a call, and unpickled once by each worker."""
    counted = Counted(folder)
    assert pool(chunksize=1).map(counted, range(300)) == list(range(1, 301))
    pids = [path.name.partition("-")[0] for path in folder.iterdir()]
    assert len(pids) == len(set(pids)) <= 2
    assert counted.dumps <= 1


@pytest.mark.parametrize("way", WAYS)
def test_a_changed_keyword_is_seen_by_the_next_call(pool, way):
    """Frozen means for one call: a value that changed in between arrives changed."""
    own, weights = pool(), np.zeros(50_000)
    assert call(own, way, lambda x, w: float(w.sum()), range(4), w=weights) == [0.0] * 4
    weights[0] = 1
    assert call(own, way, lambda x, w: float(w.sum()), range(4), w=weights) == [1.0] * 4


@pytest.mark.parametrize(
    "value",
    [
        b"x" * 3_000_000,
        np.arange(500_000),
        {"deep": [np.ones(100_000)] * 3},
        [None] * 100_000,
        increment,
    ],
    ids=["bytes", "array", "nested arrays", "list", "function"],
)
def test_frozen_values_of_every_type(pool, value):
    """Large or small, of any type: a frozen keyword arrives as it was."""
    assert pool().map(describe_size, range(3), value=value) == [describe_size(0, value)] * 3


def describe_size(x, value):
    size = len(value) if hasattr(value, "__len__") else value(0)
    return type(value).__name__, size


def test_an_array_twice_in_a_call(pool):
    """One array as item and as frozen keyword, and twice within one item, arrives whole each time."""
    block = np.arange(200_000.0)
    results = pool().map(
        lambda a, b, frozen: (a + b + frozen).sum(), [block, block], [block, block], frozen=block
    )
    assert results == [3 * block.sum()] * 2


def test_a_call_that_ends_while_a_message_is_read(monkeypatch):
    """The garbage collector may end a call, which reads too, in the middle of reading: nobody waits for himself."""
    here, there = map(Channel, socket.socketpair())
    there.send(("first",))
    there.send(("second",))
    cut, within = here._cut, []

    def collect(data):
        within.append(here.receive())
        return cut(data)

    monkeypatch.setattr(here, "_cut", collect)
    assert [message.body for message in here.receive()] == [("first",), ("second",)]
    assert within == [[]]
    here.close()
    there.close()


def test_what_is_remembered_of_a_worker_is_bounded():
    """However many functions a program has made and called, little is kept of what a worker has of them."""
    own, sent = Script(), Sent()  # the program's own may have news: what is gone
    for number in range(3 * MOST_PLANS_SENT):
        assert own.news(sent, Prepared(own, number, ())) is None
    assert len(sent.plans) <= MOST_PLANS_SENT + 1


def test_threads_that_name_a_global_at_once():
    """They have one unit for it, and one key for its module."""
    both, found, own = threading.Barrier(2), [], Script()

    class Space(dict):
        def get(self, *args):
            both.wait(60)  # so neither has found anything when the other one looks
            return super().get(*args)

    space = Space(__name__="cell", x=1)
    ask = [threading.Thread(target=lambda: found.append(own.global_unit(space, "x"))) for _ in "ab"]
    for thread in ask:
        thread.start()
    for thread in ask:
        thread.join()
    assert found[0] is found[1]
    assert found[0].key == space_key(space)


def test_threads_that_give_a_token_at_once():
    """A class has one token, whichever thread was first."""
    tokens, kinds = Tokens(), [type("Kind", (), {}) for _ in range(3000)]
    found = [[] for _ in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        ask = [
            threading.Thread(target=lambda own: own.extend(map(tokens.given, kinds)), args=(own,))
            for own in found
        ]
        for thread in ask:
            thread.start()
        for thread in ask:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert found == [found[0]] * 4
