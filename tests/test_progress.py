"""The bar: counts items, knows its total when it can be known, and always closes."""

import io
import itertools
import re

import pytest
from backends import START_METHODS
from helpers import add, divide, fail_on, identity, increment

import parallelkit as pk

ONE_START_METHOD = True


@pytest.fixture
def bar():
    """A bar that writes every step into a text."""
    return {"file": io.StringIO(), "desc": "fits", "mininterval": 0, "miniters": 1, "ascii": True}


def text(bar):
    return bar["file"].getvalue()


def counts(bar):
    """The counts that were shown, in order."""
    return [int(n) for n in re.findall(r"(?:\| |: |\r)(\d+)(?:/\d+ |it )\[", text(bar))]


def closed(bar):
    """A closed bar has ended its line."""
    return text(bar).endswith("\n")


CALLS = {
    "map": lambda own, xs: own.map(identity, xs),
    "imap": lambda own, xs: list(own.imap(identity, xs)),
    "uimap": lambda own, xs: list(own.uimap(identity, xs)),
    "starmap": lambda own, xs: own.starmap(identity, [(x,) for x in xs]),
    "run": lambda own, xs: own.run([pk.delayed(identity)(x) for x in xs]),
    "amap": lambda own, xs: own.amap(identity, xs).result(60),
}


@pytest.mark.parametrize("chunksize", [1, 10, None])
@pytest.mark.parametrize("way", CALLS)
def test_items_are_counted(either_pool, bar, way, chunksize):
    """The bar ends at the number of items, out of that number, however they were chunked."""
    CALLS[way](either_pool(progress=bar, chunksize=chunksize), range(35))
    assert "35/35" in text(bar)
    assert max(counts(bar)) == 35
    assert closed(bar)


@pytest.mark.parametrize("way", ["map", "imap", "uimap"])
def test_counts_only_grow(pool, bar, way):
    """The counts that are shown grow from zero, and never beyond the total."""
    CALLS[way](pool(progress=bar, chunksize=3), range(30))
    shown = counts(bar)
    assert shown == sorted(shown)
    assert (shown[0], shown[-1]) == (0, 30)


def test_the_total_is_that_of_any_sized_input(pool, bar):
    """A generator beside a sized input: the total is known."""
    assert len(list(pool(progress=bar).imap(add, itertools.count(), range(12)))) == 12
    assert "12/12" in text(bar)


def test_an_unknown_total_is_no_total(pool, bar):
    """A generator alone: items are counted without a total."""
    assert len(pool(progress=bar).map(identity, (i for i in range(12)))) == 12
    assert "12it" in text(bar)
    assert "/" not in re.sub(r"it/s|s/it|\[.*?\]", "", text(bar))
    assert closed(bar)


def test_rate_and_time_are_shown(pool, bar):
    """The bar tells the elapsed time, the remaining time and the rate."""
    pool(progress=bar).map(identity, range(10))
    assert re.search(r"\[\d\d:\d\d<(\d\d:\d\d|\?), .*(it/s|s/it)\]", text(bar))


def test_workers_beside_the_bar(pool, bar):
    """With workers=True the bar tells how many are busy, what failed, and what was tried again."""
    own = pool(progress={**bar, "workers": True}, on_error="skip", retries=1, retry_on=ValueError)
    assert own.map(fail_on, range(12), bad=[5]) == [10 * x for x in range(12) if x != 5]
    size = 1 if pool.backend == "serial" else 2
    busy = [int(n) for n in re.findall(rf"(\d)/{size} busy", text(bar))]
    assert max(busy) <= size
    assert busy[-1] == 0
    assert "1 failed, 1 tried again" in text(bar)
    assert "12/12" in text(bar)
    assert closed(bar)


@pytest.mark.parametrize("progress", [True, "my fits"])
def test_true_or_a_label(pool, capsys, progress):
    """True gives a bar on stderr; a text is its label."""
    assert pool(progress=progress).map(increment, range(7)) == list(range(1, 8))
    shown = capsys.readouterr()
    assert "7/7" in shown.err
    assert shown.out == ""
    if progress != True:  # noqa: E712  (a label is true as well)
        assert "my fits:" in shown.err


def test_no_bar_by_default(pool, capfd):
    """Without the option nothing is written."""
    assert pool().map(increment, range(7)) == list(range(1, 8))
    assert tuple(capfd.readouterr()) == ("", "")


def test_parallel_shows_a_bar_on_request(capsys):
    """show=True of parallel is the bar; the function does not see it."""
    for thread in (False, True):
        assert pk.parallel(increment, range(100), show=True, thread=thread) == list(range(1, 101))
        assert "100/100" in capsys.readouterr().err
        assert pk.parallel(increment, range(100), thread=thread) == list(range(1, 101))
        assert capsys.readouterr().err == ""


def test_an_error_closes_the_bar(pool, bar):
    """A call that fails leaves a closed bar that did not reach its end."""
    with pytest.raises(ValueError):
        pool(progress=bar, chunksize=1).map(fail_on, range(50), bad=[20])
    assert closed(bar)
    assert "50/50" not in text(bar)


@pytest.mark.parametrize("name", ["imap", "uimap"])
def test_leaving_early_closes_the_bar(pool, bar, name):
    """Closing the iterator closes its bar."""
    results = getattr(pool(progress=bar), name)(identity, itertools.count())
    for _ in range(5):
        next(results)
    results.close()
    assert closed(bar)


def test_an_input_that_raises_closes_the_bar(pool, bar):
    """The error of the input closes the bar too."""

    def source():
        yield from range(5)
        raise OSError("torn")

    with pytest.raises(OSError):
        pool(progress=bar).map(identity, source())
    assert closed(bar)


@pytest.mark.parametrize("policy", ["return", "skip"])
def test_failures_are_counted(pool, bar, policy):
    """Items that failed are items: the bar reaches its end."""
    pool(progress=bar, on_error=policy).map(divide, [0, 1, 0, 2, 0])
    assert "5/5" in text(bar)


def test_an_empty_call_with_a_bar(pool, bar):
    """No items: no error, and no bar that stays open."""
    assert pool(progress=bar).map(identity, []) == []
    assert text(bar) == "" or closed(bar)


def test_unknown_keywords_of_the_bar(pool):
    """A keyword that tqdm does not know is an error, and not silently ignored."""
    with pytest.raises((TypeError, ValueError, KeyError), match="colr"):
        pool(progress={"colr": "red"}).map(identity, range(3))


def test_a_bar_lasts_for_one_call(pool, bar):
    """The same pool shows a new bar for each call."""
    own = pool(progress=bar)
    own.map(identity, range(4))
    own.map(identity, range(6))
    assert text(bar).index("4/4") < text(bar).index("6/6")


# ---- nested --------------------------------------------------------------------------------------

NESTED = """
import sys
import parallelkit as pk

def inner(x, show):
    if show:
        return sum(pk.parallel(lambda y: x + y, range(5), show=True))
    return sum(pk.map(lambda y: x + y, range(5)))

with pk.configure(progress=True, workers=2, **OPTIONS):
    print(pk.map(inner, range(3), show=sys.argv[1] == "show"))
"""


@pytest.mark.parametrize("backend", [START_METHODS[0], "thread", "serial"])
def test_inner_calls_are_silent_unless_asked(script, backend):
    """A bar around nested calls shows the outer call only; an inner call with show=True shows its own too."""
    options = {"backend": backend} if backend in ("thread", "serial") else {"start_method": backend}
    source = NESTED.replace("OPTIONS", repr(options))
    silent = script(source, "silent")
    assert silent.out == "[10, 15, 20]\n"
    assert "3/3" in silent.err
    assert "/5" not in silent.err
    shown = script(source, "show")
    assert shown.out == "[10, 15, 20]\n"
    assert "3/3" in shown.err
    assert "5/5" in shown.err


def test_bars_of_nested_threads_do_not_garble_each_other(bar):
    """Bars that are written by several threads keep to themselves: no piece of a line belongs to two."""

    def inner(x):
        with pk.Pool(workers=2, backend="thread", progress={**bar, "desc": f"inner-{x}"}) as own:
            return own.map(increment, range(20))

    with pk.Pool(workers=2, backend="thread", progress={**bar, "desc": "outer"}) as own:
        assert own.map(inner, range(6)) == [list(range(1, 21))] * 6
    pieces = re.split(r"[\r\n]|\x1b\[A", text(bar))
    owners = [re.findall(r"outer|inner-\d", piece) for piece in pieces]
    assert all(len(names) <= 1 for names in owners)
    assert {name for names in owners for name in names} == {
        "outer",
        *(f"inner-{x}" for x in range(6)),
    }
    assert text(bar).count("20/20") >= 6
    assert "6/6" in text(bar)
