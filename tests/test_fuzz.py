"""Generated calls, compared with the builtin map on processes, threads and in place."""

import itertools
import tempfile
from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest
from faults import tallies, tally
from helpers import add_all
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import grow

import parallelkit as pk

BACKENDS = [{"backend": "process"}, {"backend": "thread"}, {"backend": "serial"}]
IDS = [options["backend"] for options in BACKENDS]


class Own:
    """Something of a user's that can be iterated, and has a length."""

    def __init__(self, values):
        self.values = values

    def __iter__(self):
        return iter(self.values)

    def __len__(self):
        return len(self.values)


MAKERS = {
    "list": list,
    "tuple": tuple,
    "iterator": iter,
    "generator": lambda values: (value for value in values),
    "array": lambda values: np.array(values, dtype=np.int64),
    "keys": lambda values: dict.fromkeys(range(len(values))).keys(),
    "values": lambda values: dict(enumerate(values)).values(),
    "deque": deque,
    "map": lambda values: map(int, values),
    "range": lambda values: range(values[0], values[-1] + 1) if values else range(0),
    "own": Own,
    "column": lambda values: np.array([values, values], dtype=np.int64).T[:, 0],  # not contiguous
}


def work(*args, bad=(), odd=(), p=0, depth=0, way="map"):
    """Adds up, fails for some in one of two ways, and calls itself in parallel on request."""
    total = int(sum(args))
    if total in bad:
        raise ArithmeticError(total)
    if total in odd:
        raise KeyError(total)
    if depth:
        inner = getattr(pk, way, map_by_loop)(
            work, range(depth), range(depth), p=total, depth=depth - 1, way=way
        )
        return list(inner)
    return add_all(*args, p=p)


def map_by_loop(func, *columns, **frozen):
    return [func(*row, **frozen) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Call:
    columns: list
    kinds: list
    frozen: dict
    options: dict

    def inputs(self):
        return [MAKERS[kind](column) for kind, column in zip(self.kinds, self.columns, strict=True)]

    def expected(self):
        """What a loop gives: for each row a value, or the error."""
        outcomes = []
        for row in zip(*self.inputs(), strict=True):
            try:
                outcomes.append(work(*row, **{**self.frozen, "way": "loop"}))
            except (ArithmeticError, KeyError) as error:
                outcomes.append(error)
        return outcomes


@st.composite
def calls(draw):
    size = draw(st.sampled_from([0, 1, 2, 3, 10, 150]))
    width = draw(st.integers(1, 3))
    start = draw(st.integers(-5, 5))
    step = draw(st.integers(1, 3))
    columns = [[start + k + step * i for i in range(size)] for k in range(width)]
    kinds = [draw(st.sampled_from(sorted(MAKERS))) for _ in range(width)]
    for k, kind in enumerate(kinds):
        if kind == "range":  # whose step is one
            columns[k] = [start + k + i for i in range(size)]
    frozen = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "bad": st.lists(st.integers(-10, 60), max_size=4),
                "odd": st.lists(st.integers(-10, 60), max_size=2),
                "p": st.integers(-3, 3),
                "depth": st.integers(0, 2),
                "way": st.sampled_from(["map", "imap"]),
            },
        )
    )
    if size > 10:
        frozen.pop("depth", None)
    options = draw(
        st.fixed_dictionaries(
            {"on_error": st.sampled_from(["raise", "return", "skip"])},
            optional={
                "chunksize": st.integers(1, 12),
                "strict": st.booleans(),
                "workers": st.sampled_from([1, 2]),
                "retry_on": st.sampled_from([(), KeyError, (ArithmeticError, KeyError)]),
                "retries": st.integers(0, 2),
            },
        )
    )
    return Call(columns, kinds, frozen, options)


def plain(outcome):
    """An outcome as something that can be compared and sorted."""
    if isinstance(outcome, pk.Failure):
        outcome = outcome.exception
    return (
        type(outcome).__name__,
        repr(outcome.args if isinstance(outcome, Exception) else outcome),
    )


def under_policy(outcomes, policy):
    """The results that the policy leaves, and the error that it raises."""
    errors = [o for o in outcomes if isinstance(o, Exception)]
    if policy == "skip":
        return [o for o in outcomes if not isinstance(o, Exception)], None
    if policy == "raise" and errors:
        return list(itertools.takewhile(lambda o: not isinstance(o, Exception), outcomes)), errors
    return outcomes, None


@pytest.mark.parametrize("options", BACKENDS, ids=IDS)
@pytest.mark.parametrize("name", ["map", "imap", "uimap", "amap", "starmap", "run"])
@settings(max_examples=25)
@given(call=calls())
def test_calls_give_what_a_loop_gives(options, name, call):
    """Any inputs, options and failures, by any way of calling: results and errors are those of a loop."""
    expected, errors = under_policy(call.expected(), call.options["on_error"])
    got, raised = [], None
    with pk.Pool(**{"workers": 2, **options, **call.options}) as own:
        try:
            for result in results_of(own, name, call):
                got.append(result)  # noqa: PERF402 (what came before an error counts)
        except (ArithmeticError, KeyError) as error:
            raised = error
    assert (raised is not None) == (errors is not None)
    if errors is not None:
        assert plain(raised) in [plain(error) for error in errors]
        if name == "imap":
            assert list(map(plain, got)) == list(map(plain, expected))
    elif name == "uimap":
        assert sorted(map(plain, got)) == sorted(map(plain, expected))
    else:
        assert list(map(plain, got)) == list(map(plain, expected))


def results_of(own, name, call):
    if name == "starmap":
        return own.starmap(work, zip(*call.inputs(), strict=True), **call.frozen)
    if name == "run":
        return own.run(
            pk.delayed(work)(*row, **call.frozen) for row in zip(*call.inputs(), strict=True)
        )
    results = getattr(own, name)(work, *call.inputs(), **call.frozen)
    return results.result(60) if name == "amap" else results


@pytest.mark.parametrize("options", BACKENDS, ids=IDS)
@pytest.mark.parametrize("name", ["imap", "uimap"])
@settings(max_examples=25)
@given(
    taken=st.integers(0, 40),
    size=st.sampled_from([1, 5, 40, None]),
    chunksize=st.sampled_from([None, 1, 3, 50]),
    leave=st.sampled_from(["close", "drop", "raise"]),
)
def test_any_early_close_leaves_a_good_pool(options, name, taken, size, chunksize, leave):
    """Wherever an iterator is left, what was taken is right, and so is the next call."""
    source = itertools.count() if size is None else iter(range(size))
    with pk.Pool(workers=2, chunksize=chunksize, **options) as own:
        results = getattr(own, name)(add_all, source, p=1)
        got = list(itertools.islice(results, taken))
        if leave == "close":
            results.close()
        elif leave == "raise":
            with pytest.raises(KeyError):
                results.throw(KeyError("left"))
        del results
        assert own.map(add_all, range(5), p=7) == [7, 8, 9, 10, 11]
    count = taken if size is None else min(taken, size)
    assert len(set(got)) == len(got) == count
    if name == "imap":
        assert got == list(range(1, count + 1))


@dataclass(frozen=True)
class Round:
    """What is done with an iterator while another one is open."""

    take: int
    other: str
    close: bool


@pytest.mark.parametrize("options", BACKENDS, ids=IDS)
@settings(max_examples=15)
@given(
    rounds=st.lists(
        st.builds(
            Round,
            st.integers(0, 12),
            st.sampled_from(["map", "imap", "uimap", "submit", "nest"]),
            st.booleans(),
        ),
        max_size=4,
    ),
    endless=st.booleans(),
    chunksize=st.sampled_from([None, 1, 4]),
)
def test_calls_beside_an_open_iterator(options, rounds, endless, chunksize):
    """Whatever is called, and left half read, while an iterator is open: each gives what a loop gives."""
    with pk.Pool(workers=2, chunksize=chunksize, **options) as own:
        results = own.imap(add_all, itertools.count() if endless else range(60), p=1)
        taken, left = 0, []
        for one in rounds:
            assert list(itertools.islice(results, one.take)) == list(
                range(taken + 1, taken + one.take + 1)
            )
            taken += one.take
            if one.other == "map":
                assert own.map(add_all, range(9), p=-1) == list(range(-1, 8))
            elif one.other == "submit":
                assert own.submit(add_all, 4, p=2).result(60) == 6
            elif one.other == "nest":
                assert own.map(work, [1, 2], depth=2) == map_by_loop(
                    work, [1, 2], depth=2, way="loop"
                )
            else:
                inner = getattr(own, one.other)(add_all, itertools.count(), p=5)
                first = list(itertools.islice(inner, 3))
                assert len(set(first)) == 3
                assert first == [5, 6, 7] or one.other == "uimap"
                if one.close:
                    inner.close()
                left.append(inner)
        if not endless:
            assert list(results) == list(range(taken + 1, 61))


@pytest.mark.parametrize("options", BACKENDS, ids=IDS)
@settings(max_examples=15)
@given(
    failures=st.dictionaries(st.integers(0, 11), st.integers(1, 3), max_size=5),
    retries=st.integers(0, 3),
    chunksize=st.sampled_from([None, 1, 5]),
    way=st.sampled_from(["map", "imap", "amap"]),
)
def test_retries_give_what_a_loop_with_retries_gives(options, failures, retries, chunksize, way):
    """Items that fail as often as that before they succeed: results, errors and attempts are those of a loop."""
    with tempfile.TemporaryDirectory() as folder:
        rule = {"retries": retries, "retry_on": OSError, "on_error": "return"}
        with pk.Pool(workers=2, chunksize=chunksize, **rule, **options) as own:
            results = getattr(own, way)(stumble, range(12), failures=failures, folder=folder)
            results = results.result(60) if way == "amap" else list(results)
        begun = tallies(folder)
    for x, result in enumerate(results):
        wanted = failures.get(x, 0)
        if wanted <= retries:
            assert result == x
        else:
            assert isinstance(result.exception, OSError)
            assert result.attempts == retries + 1
        assert begun[f"item-{x}"] == min(wanted, retries) + 1


def stumble(x, failures, folder):
    if tally(folder, f"item-{x}") <= failures.get(x, 0):
        raise OSError(x)
    return x


@settings(max_examples=5)
@given(
    random=st.randoms(use_true_random=True),
    cores=st.integers(2, 6),
    fewer=st.integers(0, 4),
    options=st.sampled_from([{}, {"nested": "process"}, {"nested": "auto"}, {"chunksize": 1}]),
    backend=st.sampled_from(["process", "thread"]),
)
def test_trees_of_nested_calls_keep_the_budget(random, cores, fewer, options, backend):
    """A loop's sum, and at no moment more leaves that run than cores; on as many workers, or on fewer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("parallelkit.place.nesting.cpu_count", lambda: cores)
        patch.setattr("parallelkit.backends.processes.scheduler.HOLD", 5.0)  # on a busy machine
        workers = max(2, cores - fewer)
        assert grow(random, workers=workers, backend=backend, **options) <= cores
