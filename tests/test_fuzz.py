"""Generated calls, compared with the builtin map on processes, threads and in place."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from helpers import add_all
from hypothesis import given, settings
from hypothesis import strategies as st

import parallelkit as pk

BACKENDS = [{"backend": "process"}, {"backend": "thread"}, {"backend": "serial"}]
IDS = [options["backend"] for options in BACKENDS]
MAKERS = {
    "list": list,
    "tuple": tuple,
    "iterator": iter,
    "generator": lambda values: (value for value in values),
    "array": lambda values: np.array(values, dtype=np.int64),
    "keys": lambda values: dict.fromkeys(range(len(values))).keys(),
}


def work(*args, bad=(), p=0, depth=0):
    """Adds up, fails for some, and calls itself in parallel on request."""
    if sum(args) in bad:
        raise ArithmeticError(int(sum(args)))
    if depth:
        return pk.map(add_all, range(depth), range(depth), p=int(args[0]))
    return add_all(*args, p=p)


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
                outcomes.append(work(*row, **self.frozen))
            except ArithmeticError as error:
                outcomes.append(error)
        return outcomes


@st.composite
def calls(draw):
    size = draw(st.sampled_from([0, 1, 2, 3, 10, 150]))
    width = draw(st.integers(1, 3))
    start = draw(st.integers(-5, 5))
    step = draw(st.integers(1, 3))
    columns = [[start + k + step * i for i in range(size)] for k in range(width)]
    frozen = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "bad": st.lists(st.integers(-10, 60), max_size=4),
                "p": st.integers(-3, 3),
                "depth": st.integers(0, 3),
            },
        )
    )
    options = draw(
        st.fixed_dictionaries(
            {"on_error": st.sampled_from(["raise", "return", "skip"])},
            optional={"chunksize": st.integers(1, 12), "strict": st.booleans()},
        )
    )
    kinds = [draw(st.sampled_from(sorted(MAKERS))) for _ in range(width)]
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
    with pk.Pool(workers=2, **options, **call.options) as own:
        try:
            for result in results_of(own, name, call):
                got.append(result)  # noqa: PERF402 (what came before an error counts)
        except ArithmeticError as error:
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
