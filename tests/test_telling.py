"""What items say beside their results: log records, warnings, context variables, prints."""

import contextlib
import contextvars
import functools
import io
import logging
import os
import sys
import warnings

import pytest
from backends import START_METHODS
from helpers import increment

ONE_START_METHOD = True

LOG = logging.getLogger("tests.telling")
USER = contextvars.ContextVar("user", default="nobody")
LIKE_OURS = contextvars.ContextVar("parallelkit_user", default="nobody")
LIKE_DECIMALS = contextvars.ContextVar("decimal_context", default="nobody")


def log_it(x):
    LOG.debug("debug %s", x)
    LOG.warning("item %s", x)
    return os.getpid()


def log_failure(x):
    try:
        raise ValueError(f"bad {x}")
    except ValueError:
        LOG.exception("failed")


def warn_of(x, category):
    warnings.warn(f"careful with {x}", category, stacklevel=1)
    return x


def who(_):
    return USER.get()


class LateWarning(UserWarning):
    """A category of a user's own."""


def test_records_reach_the_parents_handlers(process_pool, caplog):
    """Each record arrives once, with the worker's pid and the index of its item."""
    with caplog.at_level(logging.WARNING):
        pids = process_pool().map(log_it, range(10))
    records = [r for r in caplog.records if r.name == LOG.name]
    assert sorted(r.getMessage() for r in records) == sorted(f"item {x}" for x in range(10))
    assert {r.item: r.process for r in records} == dict(enumerate(pids))
    assert all(r.processName.startswith("parallelkit-worker-") for r in records)


def test_levels_are_the_callers(process_pool, caplog):
    """A level that is set between two calls holds in workers that are warm already."""
    own = process_pool()
    own.map(increment, range(4))
    with caplog.at_level(logging.DEBUG, LOG.name):
        own.map(log_it, [7])
    assert "debug 7" in caplog.messages
    caplog.clear()
    own.map(log_it, [8])
    assert "debug 8" not in caplog.messages


def test_tracebacks_arrive_as_text(process_pool, caplog):
    """logging.exception in an item tells where it happened."""
    process_pool().map(log_failure, [3])
    (record,) = (r for r in caplog.records if r.name == LOG.name)
    assert "ValueError: bad 3" in record.exc_text
    assert "in log_failure" in record.exc_text


LOGGING = """
import logging
import sys
import parallelkit as pk

def logger(stream):
    log = logging.getLogger("app")
    if not log.HAS:
        log.addHandler(logging.StreamHandler(stream))
        log.setLevel("INFO")
    log.propagate = PROPAGATE  # in a worker the caller's handlers have its records nevertheless
    return log

def tell(x):
    log = logger(sys.stdout)
    log.info("told %s", x)
    log.warning("warned %s", x)
    log.getChild("part").warning("part of %s", x)
    logging.getLogger("other").warning("other %s", x)

pool = pk.Pool(2, backend="process", start_method="METHOD")
pool.map(abs, range(4))
BEFORE
pool.map(tell, range(4))
pool.map(tell, range(4, 8))
"""


def told_of(*names):
    return sorted(f"{name} {x}" for name in names for x in range(8))


def with_logging(method, has="handlers", propagate=True, before="logger(sys.stderr)"):
    words = {"METHOD": method, "HAS": has, "PROPAGATE": str(propagate), "BEFORE": before}
    return functools.reduce(lambda text, word: text.replace(*word), words.items(), LOGGING)


@pytest.mark.parametrize("propagate", [True, False])
@pytest.mark.parametrize("has", ["handlers", "hasHandlers()"])
@pytest.mark.parametrize("start_method", START_METHODS)
def test_items_find_handlers_where_the_caller_has_some(script, start_method, has, propagate):
    """An item that would add a handler if its logger had none adds none, and each record is shown once."""
    ran = script(with_logging(start_method, has, propagate))
    assert ran.out == ""
    assert sorted(ran.err.splitlines()) == told_of("told", "warned", "part of", "other")


@pytest.mark.parametrize("start_method", START_METHODS)
def test_records_are_shown_by_the_handlers_that_items_add(script, start_method):
    """Where the caller has none they stay with the level of their logger, as in a loop."""
    ran = script(with_logging(start_method, before=""))
    assert sorted(ran.out.splitlines()) == told_of("told", "warned", "part of")
    assert sorted(ran.err.splitlines()) == told_of("other")


SET_UP = """
import logging
import sys
import parallelkit as pk

def set_up(own):
    if own == "logger":
        log = logging.getLogger("app")
        log.addHandler(logging.StreamHandler(sys.stdout))
        log.propagate = False
    else:
        logging.basicConfig(stream=sys.stdout, format="%(message)s", force=True)

logging.getLogger("app").addHandler(logging.StreamHandler(sys.stderr))
logging.getLogger("app").propagate = False
pool = pk.Pool(2, backend="process", initializer=set_up, initargs=(sys.argv[1],))
pool.map(lambda x: logging.getLogger("app").warning("told %s", x), range(8))
"""


@pytest.mark.parametrize("own", ["logger", "root"])
def test_records_stay_with_the_handlers_of_an_initializer(script, own):
    """Those of a logger that propagates nothing, or whose root logger was configured anew, are shown there alone."""
    ran = script(SET_UP, own)
    assert (sorted(ran.out.splitlines()), ran.err) == (told_of("told"), "")


@pytest.mark.parametrize("category", [UserWarning, RuntimeWarning, LateWarning])
def test_warnings_reach_the_parents_filters(process_pool, category):
    """A worker's warning is a warning of its category in the parent."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        process_pool().map(
            warn_of, [f"{category.__name__} {os.urandom(4).hex()}"], category=category
        )
    assert category in [warning.category for warning in caught]


class RowWarning(UserWarning):
    """A category that is not made of a text."""

    def __init__(self, column, row):
        super().__init__(column, row)
        self.told = f"bad value in {column}:{row}"

    def __str__(self):
        return self.told


def warn_of_row(x):
    warnings.warn(RowWarning("c", x), stacklevel=1)
    return x


def test_warnings_with_arguments_of_their_own(process_pool):
    """They reach the parent's filters as warnings of their category, with their text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert process_pool().map(warn_of_row, [3]) == [3]
    (told,) = (w for w in caught if issubclass(w.category, RowWarning))
    assert str(told.message) == "bad value in c:3"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RowWarning)
        assert process_pool().map(warn_of_row, [4]) == [4]


def warn_about_a_file(x):
    warnings.warn_explicit("a wrong value", UserWarning, "model.txt", 7)
    return x


def test_warnings_about_a_file(process_pool):
    """What is warned about a line of a file that is no module of anybody arrives as in a loop."""
    for action, often in (("default", 2), ("once", 1), ("ignore", 0)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter(action)
            process_pool().map(warn_about_a_file, range(2))
        assert [(w.filename, w.lineno) for w in caught] == [("model.txt", 7)] * often


def test_context_holds_in_items(pool):
    """A context variable that the caller has set has its value inside items, on every backend."""
    token = USER.set("Ada")
    try:
        assert pool().map(who, range(3)) == ["Ada"] * 3
    finally:
        USER.reset(token)
    assert pool().map(who, range(3)) == ["nobody"] * 3


def who_and_then(name):
    before = USER.get()
    USER.set(name)
    return before


@pytest.mark.parametrize("count", [8, 20_000])
def test_context_is_an_items_own(pool, count):
    """What an item sets is not seen by the items after it, in one chunk or another."""
    token = USER.set("Ada")
    try:
        assert pool().map(who_and_then, map(str, range(count))) == ["Ada"] * count
        assert set(pool(chunksize=200).imap(who_and_then, ["Eve"] * 400)) == {"Ada"}
    finally:
        USER.reset(token)


def value_of(name):
    return globals()[name].get()


@pytest.mark.parametrize("name", ["LIKE_OURS", "LIKE_DECIMALS"])
def test_a_context_variable_may_have_any_name(pool, name):
    """One that is called as this package calls its own, or as `decimal` does, holds in items like any other."""
    token = globals()[name].set("Ada")
    try:
        assert pool().map(value_of, [name] * 3) == ["Ada"] * 3
        assert pool().submit(value_of, name).result() == "Ada"
    finally:
        globals()[name].reset(token)


def test_context_does_not_leak_back(thread_pool):
    """What an item sets on a thread is gone after the call."""
    thread_pool().map(USER.set, ["Eve", "Mallory", "Oscar"])
    assert USER.get() == "nobody"


@pytest.mark.parametrize("start_method", START_METHODS)
def test_prints_are_not_lost(command, start_method):
    """What items print appears on the parent's standard output, all of it, before the results."""
    source = (
        "import parallelkit as pk\n"
        f"pk.Pool(2, start_method={start_method!r}).map(lambda x: print('line', x), range(20))\n"
        "print('end')\n"
    )
    lines = command(["-c", source]).out.splitlines()
    assert lines[-1] == "end"
    assert sorted(lines[:-1]) == sorted(f"line {x}" for x in range(20))


def speak(x):
    print("out", x)
    print("half", end=" ")
    print("err", x, file=sys.stderr)
    sys.stdout.write("a line\n")


def test_prints_follow_the_parents_streams(process_pool):
    """Where sys.stdout is an object of somebody's, as in a notebook, what items print gets there, by whole lines."""
    own, plain = process_pool(), process_pool()
    for _ in range(2):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            own.map(speak, range(5))
        assert sorted(out.getvalue().splitlines()) == sorted(
            [f"out {x}" for x in range(5)] + ["half a line"] * 5
        )
        assert sorted(err.getvalue().splitlines()) == [f"err {x}" for x in range(5)]
        plain.map(increment, range(5))


def test_prints_in_ipython(process_pool):
    """A cell whose output is captured captures that of its items, from calls and iterators."""
    pytest.importorskip("IPython")
    from IPython.utils.capture import capture_output

    own = process_pool()
    for call in (
        own.map,
        lambda *args: list(own.imap(*args)),
        lambda *args: own.amap(*args).result(),
    ):
        with capture_output() as cell:
            call(print, ["one", "two"])
        assert sorted(cell.stdout.split()) == ["one", "two"]


def test_prints_do_not_tear_the_bar(process_pool):
    """What items print under a progress bar stands in lines of its own, and the bar below them."""
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        process_pool(progress={"file": screen, "mininterval": 0}).map(speak, range(20))
    *lines, bar = screen.getvalue().removesuffix("\n").split("\n")
    seen = [line.rpartition("\r")[2] for line in lines]
    assert sorted(seen) == sorted(
        f"{line}" for x in range(20) for line in (f"out {x}", f"err {x}", "half a line")
    )
    assert "20/20" in bar


def test_a_closed_stream_is_no_failure_of_an_item(process_pool):
    """Items may print where the parent could not."""
    closed = io.StringIO()
    closed.close()
    with contextlib.redirect_stdout(closed):
        assert process_pool().map(speak, range(3)) == [None] * 3
