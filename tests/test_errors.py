"""What a user is told when an item fails, and what becomes of the others."""

import dataclasses
import errno
import importlib
import io
import os
import re
import tempfile
import threading
import traceback
from fractions import Fraction
from urllib.error import HTTPError

import pytest
from helpers import (
    BadRepr,
    PlainError,
    divide,
    fail_from,
    fail_on,
    fail_then_hold,
    identity,
    increment,
    leave,
    meet,
    record,
    stop_iteration,
)

import parallelkit as pk
from parallelkit.place.nesting import nesting
from parallelkit.values.source import Chunk
from parallelkit.worker.task import Progress, Task

ONE_START_METHOD = True


def test_code_beside_this_package_is_the_users():
    """A plugin whose name begins as this one's: traces, warnings and tracebacks tell of its lines."""
    path = os.path.dirname(pk.__file__) + "_plugin.py"
    source = """
def trace(pk):
    with pk.trace() as found:
        pk.Pool(2, backend="thread").map(abs, range(3))
    return found

def warn(pk):
    pk.Pool(backend="serial").map(lambda x, **options: x, [1], progress=True)

def fail(pk):
    def failing(x):
        raise ValueError(x)
    return pk.Pool(backend="serial", on_error="return").map(failing, [1])[0].traceback
"""
    plugin = {"__name__": "parallelkit_plugin"}
    exec(compile(source, path, "exec"), plugin)
    assert plugin["trace"](pk)._story.calls[0].where == f"{path}:4"
    with pytest.warns(UserWarning, match="progress") as caught:
        plugin["warn"](pk)
    assert (caught[0].filename, caught[0].lineno) == (path, 8)
    assert f'File "{path}", line 12, in failing' in plugin["fail"](pk)


def failed_inside(_):
    return pk.Pool(backend="serial", on_error="return").map(divide, [0])[0]


def test_a_failure_that_a_submitted_call_returns(pool):
    """It is the result of the call, as any other value: the call itself has not failed."""
    own = pool()
    (inside,) = own.map(failed_inside, [1])
    assert type(own.submit(failed_inside, 1).result(60)) is type(inside) is pk.Failure
    with pytest.raises(ZeroDivisionError):
        own.submit(divide, 0).result(60)


def by_submit(own, function, items):
    return [task.result(60) for task in [own.submit(function, item) for item in items]]


CALLS = {
    "map": lambda own, function, items: own.map(function, items),
    "imap": lambda own, function, items: list(own.imap(function, items)),
    "uimap": lambda own, function, items: list(own.uimap(function, items)),
    "starmap": lambda own, function, items: own.starmap(function, [(item,) for item in items]),
    "run": lambda own, function, items: own.run([pk.delayed(function)(item) for item in items]),
    "amap": lambda own, function, items: own.amap(function, items).result(60),
}


@pytest.mark.parametrize("way", [*CALLS, "submit"])
def test_the_own_error_of_the_item_is_raised(either_pool, way):
    """Whatever the way of calling, the error has the type and the arguments that the function gave it."""
    call = CALLS.get(way, by_submit)
    with pytest.raises(ZeroDivisionError, match="by zero"):
        call(either_pool(), divide, [1, 2, 0, 4])


@pytest.mark.parametrize("way", CALLS)
def test_one_note_names_index_and_arguments(either_pool, way):
    """A single note tells which item failed, and with what."""
    with pytest.raises(ZeroDivisionError) as caught:
        CALLS[way](either_pool(), divide, [701, 702, 703, 0, 705])
    (note,) = caught.value.__notes__
    assert re.search(r"\b3\b", note)
    assert re.search(r"\b0\b", note)


def test_the_note_names_every_argument(pool):
    """Several inputs: the note has the argument from each."""
    with pytest.raises(TypeError) as caught:
        pool().map(lambda a, b: a + b, [1, 2, 41], [4, 5, "forty-two"])
    (note,) = caught.value.__notes__
    assert re.search(r"\b2\b", note)
    assert re.search(r"\b41\b.*forty-two", note, re.DOTALL)


def test_the_note_of_keyword_rows(pool):
    """A row of starmap that is a dict is told by its keywords."""
    with pytest.raises(ZeroDivisionError) as caught:
        pool().starmap(divide, [{"x": 1}, {"x": 0}])
    (note,) = caught.value.__notes__
    assert re.search(r"\bx\b.*\b0\b", note)


def test_long_arguments_are_shortened(pool):
    """A note stays readable, however large the argument."""
    with pytest.raises(TypeError) as caught:
        pool().map(increment, ["y" * 100_000, list(range(100_000))])
    (note,) = caught.value.__notes__
    assert 0 < len(note) < 1000


def test_a_bad_repr_does_not_hide_the_error(pool):
    """An argument whose repr raises is named somehow, and the item's error still arrives."""
    with pytest.raises(TypeError) as caught:
        pool().map(increment, [1, BadRepr()])
    (note,) = caught.value.__notes__
    assert re.search(r"\b1\b", note)


def test_the_traceback_of_the_worker_is_told(pool):
    """The full story, printed in the caller, names the function that failed and the line in it."""
    with pytest.raises(ValueError) as caught:
        pool().map(fail_on, range(5), bad=[3])
    story = "".join(traceback.format_exception(caught.value))
    assert "in fail_on" in story
    assert "raise error(" in story


def test_the_cause_holds_the_traceback_of_the_worker(process_pool):
    """On processes the cause of the error is the text of the worker's traceback."""
    with pytest.raises(ValueError) as caught:
        process_pool().map(fail_on, range(5), bad=[3])
    assert "in fail_on" in str(caught.value.__cause__)
    assert "Traceback" in str(caught.value.__cause__)


def test_the_chain_of_the_worker_is_told(pool):
    """``raise ... from`` inside an item is part of the story."""
    with pytest.raises(PlainError) as caught:
        pool().map(fail_from, [1])
    story = "".join(traceback.format_exception(caught.value))
    assert "KeyError: 'missing'" in story
    assert "direct cause" in story


def fail_twice(way):
    """Raise an error while another one is handled, which holds what cannot be pickled."""
    try:
        raise ZeroDivisionError("first", [threading.Lock()] if way == "locked" else way)
    except ZeroDivisionError as error:
        if way == "bare":
            raise PlainError("second")  # noqa: B904 - the case
        raise PlainError("second") from (None if way == "hidden" else error)


@pytest.mark.parametrize("way", ["from", "locked", "bare", "hidden"])
def test_what_an_error_was_raised_from_is_there(pool, way):
    """The cause and the context of an error are exceptions, as they are in a loop."""
    with pytest.raises(PlainError, match="second") as caught:
        pool().map(fail_twice, [way])
    first = caught.value.__context__
    assert type(first) is ZeroDivisionError
    assert first.args[0] == "first"
    if way in ("from", "locked"):
        assert caught.value.__cause__ is first
        assert "".join(traceback.format_exception(caught.value)).count("in fail_twice") == 2
    else:
        assert first not in (caught.value.__cause__, first.__cause__)


def test_system_exit_is_the_error_of_its_item(pool):
    """An item that calls sys.exit raises SystemExit in the caller, with its code, and its worker goes on."""
    own = pool()
    with pytest.raises(SystemExit) as caught:
        own.map(leave, range(6))
    assert caught.value.code == 7
    results = pool(on_error="return").map(leave, range(6))
    assert isinstance(results[3].exception, SystemExit)
    assert results[:3] + results[4:] == [0, 1, 2, 4, 5]


def test_stop_iteration_ends_no_call(pool):
    """StopIteration in an item is its error, and never cuts the results."""
    with pytest.raises(StopIteration, match="may not end"):
        pool().map(stop_iteration, range(4))
    for chunksize in (1, 4):
        own = pool(on_error="return", chunksize=chunksize)
        results = own.map(stop_iteration, range(4))
        assert isinstance(results[1].exception, StopIteration)
        assert [results[0], *results[2:]] == [0, 2, 3]
        assert len(list(own.imap(stop_iteration, range(4)))) == 4


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    row: int


class StubbornError(Exception):
    def __setattr__(self, name, value):
        raise AttributeError("read-only")


def refuse_rows(x, kind):
    if x == 1:
        raise kind(x)
    return x


@pytest.mark.parametrize("kind", [FrozenError, StubbornError])
def test_exceptions_that_refuse_assignments(pool, kind):
    """They come as they are, with the traceback of the worker where there is one, and cost no other item."""
    own = pool(on_error="return")
    zero, failure, two = own.map(refuse_rows, range(3), kind=kind)
    assert (zero, two) == (0, 2)
    assert type(failure.exception) is kind
    assert failure.exception.args == (1,)
    assert "refuse_rows" in failure.traceback
    assert type(own.submit(refuse_rows, 1, kind).exception(60)) is kind


def test_groups_arrive_whole(pool):
    """An exception group keeps its members."""

    def fail(x):
        raise ExceptionGroup("several", [ValueError(x), KeyError("k")])

    with pytest.raises(ExceptionGroup, match="several") as caught:
        pool().map(fail, [1])
    assert [type(e) for e in caught.value.exceptions] == [ValueError, KeyError]


class Refused(Exception):
    def __init__(self, message, connection, *, number):
        super().__init__(message)
        self.connection = connection
        self.number = number


class Unreadable(OSError):
    def __init__(self, path, why):
        super().__init__(errno.EACCES, why, path)


class Made(LookupError):
    def __new__(cls, *, key):
        return super().__new__(cls)

    def __init__(self, *, key):
        super().__init__("made")
        self.key = key


class Broken(TimeoutError):
    def __reduce__(self):
        raise TypeError("not to be pickled")


UNUSUAL = {
    "lock": lambda: Refused("busy", (i for i in "ab"), number=3),
    "deep": lambda: ValueError("busy", [1, {"lock": (i for i in "ab")}]),
    "group": lambda: ExceptionGroup("several", [Refused("busy", (i for i in "ab"), number=3)]),
    "reply": lambda: HTTPError("http://a", 404, "no", {}, io.BufferedReader(io.BytesIO(b"n"))),
    "os": lambda: Unreadable("data.csv", "no rights"),
    "new": lambda: Made(key=1),
    "reduce": lambda: Broken(errno.ETIMEDOUT, "late"),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_errors_keep_their_class(either_pool, name):
    """`except` and `retry_on` meet an error whose parts cannot be sent, or whose constructor is its own."""
    made = UNUSUAL[name]()

    def fail(x, path, name):
        with open(path, "a") as file:
            file.write("x")
        if os.path.getsize(path) < 3:
            error = UNUSUAL[name]()
            raise error
        return "done"

    with tempfile.TemporaryDirectory() as folder:
        (failure,) = either_pool(on_error="return").map(fail, [1], path=f"{folder}/one", name=name)
        retried = either_pool(retries=2, retry_on=(type(made),)).map(
            fail, [1], path=f"{folder}/two", name=name
        )
    error = failure.exception
    assert (type(error), str(error)) == (type(made), str(made)) or name == "deep"
    assert getattr(error, "errno", None) == getattr(made, "errno", None)
    assert retried == ["done"]


def refuse(_):
    raise Refused("busy", (i for i in "ab"), number=3)


def test_what_an_error_left_behind_is_told(process_pool):
    """A part that could not be sent has a stand-in that says so, and a note names it; the others are there."""
    with pytest.raises(Refused) as caught:
        process_pool().map(refuse, [1])
    error = caught.value
    assert error.number == 3
    assert "a generator that could not be sent between processes" in repr(error.connection)
    assert "without connection, which could not be sent between processes" in error.__notes__
    with pytest.raises(AttributeError, match="no 'send': this is <a generator that could not"):
        error.connection.send(None)


def test_a_class_that_cannot_be_sent(process_pool):
    """What stands for an error of such a class is an error of its base class too, with its text."""

    def fail(x):
        class Local(ConnectionError):
            lock = (i for i in "ab")

        raise Local(x)

    with pytest.raises(ConnectionError, match=r"Local: 1 .* could not be sent") as caught:
        process_pool().map(fail, [1])
    assert isinstance(caught.value, pk.TransportError)


# ---- policies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 5, None])
@pytest.mark.parametrize("way", CALLS)
def test_failures_take_their_places(either_pool, way, chunksize):
    """on_error="return": a Failure stands where the result would."""
    results = CALLS[way](
        either_pool(on_error="return", chunksize=chunksize), divide, [1, 0, 3, 0, 5, 6]
    )
    failures = {r.index: r for r in results if isinstance(r, pk.Failure)}
    assert sorted(failures) == [1, 3]
    assert sorted(r for r in results if not isinstance(r, pk.Failure)) == [2, 2, 4, 12]
    if way != "uimap":
        assert [i for i, r in enumerate(results) if isinstance(r, pk.Failure)] == [1, 3]


def test_what_a_failure_tells(pool):
    """Index, arguments, error, traceback as text, and the number of attempts."""
    _, failure = pool(on_error="return").map(fail_on, [10, 11], bad=[11])
    assert failure.index == 1
    assert failure.args == (11,)
    assert isinstance(failure.exception, ValueError)
    assert str(failure.exception) == "bad item 11"
    assert "in fail_on" in failure.traceback
    assert failure.attempts == 1
    assert "ValueError" in repr(failure)
    assert len(repr(pk.Failure(0, ("x" * 10_000,), {}, ValueError(), ""))) < 200


def test_a_failure_of_a_keyword_row(pool):
    """The keywords of a row are the failure's keywords."""
    (failure,) = pool(on_error="return").starmap(divide, [{"x": 0}])
    assert failure.args == ()
    assert failure.kwargs == {"x": 0}


@pytest.mark.parametrize("way", CALLS)
def test_failures_are_skipped(either_pool, way):
    """on_error="skip": the results without the failures, in order where there is one."""
    results = CALLS[way](either_pool(on_error="skip"), divide, [1, 0, 3, 0, 6])
    assert sorted(results) == [2, 4, 12]
    if way != "uimap":
        assert results == [12, 4, 2]


def test_all_items_may_fail(pool):
    """Every item failing is no special case."""
    assert pool(on_error="skip").map(divide, [0] * 50) == []
    assert [f.index for f in pool(on_error="return").map(divide, [0] * 50)] == list(range(50))
    with pytest.raises(ZeroDivisionError):
        pool().map(divide, [0] * 50)


# ---- the first failure ends the call -------------------------------------------------------------


def fail_or_record(x, folder):
    return record(x, folder) if x else divide(x)


def test_queued_items_are_dropped(pool, folder):
    """Items that have not begun when the call fails never run."""
    own = pool(chunksize=1)
    with pytest.raises(ZeroDivisionError):
        own.map(fail_or_record, range(20_000), folder=folder)
    assert own.map(identity, range(100)) == list(range(100))
    assert sum(1 for _ in folder.iterdir()) < 10_000


@pytest.mark.parametrize("way", ["map", "imap", "uimap", "amap"])
def test_running_items_are_dropped(process_pool, tmp_path, folder, way):
    """An item that would never end does not hold the call that failed, nor the next one."""
    own = process_pool(chunksize=1)
    with pytest.raises(ValueError, match="item 0 is bad"):
        results = getattr(own, way)(fail_then_hold, range(4), folder=tmp_path)
        list(results.result(60) if way == "amap" else results)
    assert len(set(own.map(meet, range(2), folder=folder, parties=2))) == 2


def test_one_failing_call_does_not_touch_another(pool):
    """Two calls on one pool at the same time: the failure of one is not the other's."""
    own = pool()
    good, bad = own.amap(increment, range(2000)), own.amap(divide, [1] * 50 + [0])
    assert isinstance(bad.exception(60), ZeroDivisionError)
    assert good.result(60) == list(range(1, 2001))


def test_failing_again_and_again(pool):
    """A pool does not wear out by failures."""
    own = pool()
    for _ in range(30):
        with pytest.raises(ZeroDivisionError):
            own.map(divide, [3, 2, 1, 0])
    assert own.map(divide, [1, 2]) == [12, 6]


class Odd:
    """Raises something of its own for each attribute that is looked for, as some proxies do."""

    def __getattr__(self, name):
        if name in ("__reduce_ex__", "__getstate__", "__setstate__"):
            raise AttributeError(name)
        raise LookupError(name)

    def __call__(self, x):
        return increment(x)


class OddError(Exception):
    def __getattr__(self, name):
        raise LookupError(name)


def fail_oddly(_):
    raise OddError("odd")


@pytest.mark.parametrize("way", [*CALLS, "submit"])
def test_callables_and_errors_whose_attributes_raise(either_pool, way):
    """What is looked for on the user's objects may be missing in any way."""
    call = CALLS.get(way, by_submit)
    assert sorted(call(either_pool(), Odd(), [1, 2])) == [2, 3]
    with pytest.raises(OddError):
        call(either_pool(), fail_oddly, [1, 2])


class StruckAfter(list):
    """The values of a chunk, whose last one is followed at once by what a signal handler raises."""

    struck = False

    def append(self, value):
        super().append(value)
        if len(self) == 2 and not self.struck:
            self.struck = True
            raise TimeoutError("struck")


def test_a_handler_that_raises_when_the_last_item_is_done():
    """It counts to that item: there is none after it."""
    task = Task(increment, {}, True, [nesting()], {}, 1)
    progress = Progress()
    progress.values = StruckAfter()
    task.run(Chunk(0, 2, ([1, 2],)), 0, progress=progress)
    assert progress.values == [2, None]
    assert [(one.offset, str(one.exception)) for one in progress.raised] == [(1, "struck")]


def raise_own(kind):
    if kind == "name":
        not_there  # noqa: B018, F821
    if kind == "attribute":
        Fraction(1, 3).not_there  # noqa: B018
    if kind == "import":
        importlib.import_module("not_there")
    if kind == "set later":
        error = OSError("told by nobody")
        error.errno, error.filename = errno.EIO, "later"
        raise error
    raise AttributeError("m", name="n", obj=bytes(1 << 20))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("name", {"name": "not_there"}),
        ("attribute", {"name": "not_there", "obj": Fraction(1, 3)}),
        ("import", {"name": "not_there"}),
        ("set later", {"errno": errno.EIO, "filename": "later"}),
        ("too large", {"name": "n", "obj": None}),
    ],
)
def test_what_built_in_errors_know_arrives(process_pool, kind, fields):
    """The name that was not found, and what it was looked for in if that is small; pickle leaves both out."""
    with pytest.raises((NameError, AttributeError, ImportError, OSError)) as caught:
        process_pool().map(raise_own, [kind])
    assert {name: getattr(caught.value, name) for name in fields} == fields
