"""What items say beside their results: log records, warnings, context variables, prints."""

import contextvars
import logging
import os
import warnings

import pytest
from helpers import increment

LOG = logging.getLogger("tests.telling")
USER = contextvars.ContextVar("user", default="nobody")


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


@pytest.mark.parametrize("category", [UserWarning, RuntimeWarning, LateWarning])
def test_warnings_reach_the_parents_filters(process_pool, category):
    """A worker's warning is a warning of its category in the parent."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        process_pool().map(
            warn_of, [f"{category.__name__} {os.urandom(4).hex()}"], category=category
        )
    assert category in [warning.category for warning in caught]


def test_context_holds_in_items(pool):
    """A context variable that the caller has set has its value inside items, on every backend."""
    token = USER.set("Ada")
    try:
        assert pool().map(who, range(3)) == ["Ada"] * 3
    finally:
        USER.reset(token)
    assert pool().map(who, range(3)) == ["nobody"] * 3


def test_context_does_not_leak_back(thread_pool):
    """What an item sets on a thread is gone after the call."""
    thread_pool().map(USER.set, ["Eve", "Mallory", "Oscar"])
    assert USER.get() == "nobody"


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
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
