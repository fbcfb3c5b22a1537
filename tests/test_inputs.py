"""Every kind of input, good and bad, on every backend."""

import array
import collections
import io
import itertools
import os

import numpy as np
import psutil
import pytest
from helpers import add, add_all, describe, identity, increment, pid, record

import parallelkit as pk
from parallelkit.engine.inputs import source_of
from parallelkit.values.sizer import Sizer

ONE_START_METHOD = True


class OldSequence:
    """An iterable of the oldest protocol: __getitem__ and nothing else."""

    def __getitem__(self, i):
        if i >= 5:
            raise IndexError(i)
        return i * i


class SizedIterable:
    """Sized and iterable, and not a sequence."""

    def __len__(self):
        return 4

    def __iter__(self):
        return iter("abcd")


INPUTS = {
    "list": lambda: [1, 2.5, "three", None],
    "tuple": lambda: (1, (2, 3), [4]),
    "range": lambda: range(3, 300, 7),
    "set": lambda: {1, 2, 3},
    "dict": lambda: {"a": 1, "b": 2},
    "dict keys": {"a": 1, "b": 2}.keys,
    "dict values": {"a": 1, "b": 2}.values,
    "dict items": {"a": 1, "b": 2}.items,
    "generator": lambda: (i * i for i in range(50)),
    "iterator": lambda: iter([3, 1, 2]),
    "zip": lambda: zip([1, 2], "ab", strict=True),
    "builtin map": lambda: map(str, range(20)),
    "islice": lambda: itertools.islice(itertools.count(), 30),
    "string": lambda: "text",
    "bytes": lambda: b"bytes",
    "bytearray": lambda: bytearray(b"bytes"),
    "memoryview": lambda: memoryview(b"bytes"),
    "array": lambda: array.array("d", [1.5, 2.5]),
    "deque": lambda: collections.deque([1, 2, 3]),
    "Counter": lambda: collections.Counter("abracadabra"),
    "lines of a file": lambda: io.StringIO("one\ntwo\n"),
    "old sequence": OldSequence,
    "sized iterable": SizedIterable,
    "one item": lambda: [7],
    "nested lists": lambda: [[i] * 100 for i in range(20)],
    "large items": lambda: [bytes([i]) * 200_000 for i in range(5)],
}

ARRAYS = {
    "integers": lambda: np.arange(100),
    "small integers": lambda: np.arange(20, dtype=np.int8),
    "floats": lambda: np.linspace(0, 1, 33),
    "complex": lambda: np.arange(4) * 1j,
    "booleans": lambda: np.arange(6) % 2 == 0,
    "rows": lambda: np.arange(12).reshape(4, 3),
    "planes": lambda: np.arange(24).reshape(2, 3, 4),
    "columns first": lambda: np.asfortranarray(np.arange(12).reshape(4, 3)),
    "strided": lambda: np.arange(40).reshape(8, 5)[::2, ::-1],
    "big endian": lambda: np.arange(5, dtype=">i4"),
    "strings": lambda: np.array(["a", "long"]),
    "dates": lambda: np.array(["2026-01-01", "2026-02-01"], dtype="datetime64[D]"),
    "objects": lambda: np.array([1, "two", None, {3}], dtype=object),
    "records": lambda: np.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "masked": lambda: np.ma.masked_equal(np.arange(6).reshape(3, 2), 3),
    "rows of no width": lambda: np.empty((3, 0)),
    "no rows": lambda: np.empty((0, 3)),
    "read only": lambda: np.broadcast_to(np.arange(3), (4, 3)),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_items_are_those_of_the_builtin_map(either_pool, kind):
    """Whatever can be iterated gives the same items, of the same types, as with the builtin map."""
    make, own = INPUTS[kind], either_pool()
    expected = list(map(describe, make()))
    assert own.map(describe, make()) == expected
    assert list(own.imap(describe, make())) == expected
    assert sorted(own.uimap(describe, make())) == sorted(expected)


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_are_iterated_along_their_first_axis(either_pool, kind):
    """A numpy array gives the items that iterating over it gives: type, dtype, shape and values."""
    values = ARRAYS[kind]()
    expected = list(map(describe, values))
    assert either_pool().map(describe, values) == expected
    assert either_pool(chunksize=1).map(describe, values) == expected
    assert list(either_pool().imap(describe, values)) == expected


def test_arrays_beside_other_inputs(pool):
    """Arrays, ranges, lists and iterators may vary together."""
    got = pool().map(add_all, np.arange(50), range(50), [1] * 50, itertools.count())
    assert got == [3 * i + 1 for i in range(50)]


def set_first(row):
    row[0] = -1
    return row


def test_rows_and_results_are_writable(pool):
    """An item may change its row, and the caller may change the array that comes back."""
    results = pool().map(set_first, np.ones((6, 3)))
    for result in results:
        result[1] = 5
    assert [list(result) for result in results] == [[-1, 5, 1]] * 6


def test_large_inputs_and_results(pool):
    """Items and results far larger than a message arrive whole, several at a time."""
    blocks = [np.full(300_000, i, dtype=float) for i in range(8)]
    results = pool().map(increment, blocks)
    assert [(len(r), r.min(), r.max()) for r in results] == [
        (300_000, i + 1, i + 1) for i in range(8)
    ]


def test_many_small_items(pool):
    """A hundred thousand items arrive in order."""
    assert pool().map(increment, range(100_000)) == list(range(1, 100_001))


@pytest.mark.parametrize("empty", [list, lambda: range(0), lambda: iter([]), lambda: np.empty(0)])
def test_an_empty_input_gives_nothing(either_pool, empty):
    """No items: an empty list or an iterator at its end."""
    own = either_pool()
    assert own.map(identity, empty()) == own.starmap(identity, empty()) == own.run(empty()) == []
    for results in (own.imap(identity, empty()), own.uimap(identity, empty())):
        assert iter(results) is results
        assert list(results) == []


def test_an_empty_input_starts_no_worker(start_method):
    """A call without items starts no process."""
    pk.shutdown()
    before = psutil.Process().children(recursive=True)
    with pk.Pool(workers=2, start_method=start_method) as own:
        assert own.map(identity, []) == [] == list(own.imap(identity, iter(())))
        assert own.amap(identity, []).result(60) == []
        assert psutil.Process().children(recursive=True) == before


# ---- bad inputs ----------------------------------------------------------------------------------


# The caller alone looks at inputs: what runs the items makes no difference.
NAMES = ["map", "imap", "uimap", "amap"]


def call_in_place(name, *args):
    results = getattr(pk.Pool(backend="serial"), name)(*args)
    return list(results.result(60) if name in ("amap", "submit") else results)


@pytest.mark.parametrize("name", NAMES)
def test_uneven_lengths_are_named(folder, name):
    """Sized inputs of different lengths are a ValueError that names each length, before anything runs."""
    with pytest.raises(ValueError, match=r"(?s)(?=.*\b3\b)(?=.*\b7\b)(?=.*\b11\b)") as caught:
        call_in_place(name, add_all, range(3), [0] * 7, np.zeros(11))
    assert "length" in str(caught.value)
    with pytest.raises(ValueError, match="length"):
        call_in_place(name, record, range(3), [folder] * 4)
    assert os.listdir(folder) == []


def test_lenient_pools_cut_at_the_shortest(pool):
    """strict=False cuts at the shortest input, sized or not, as zip does."""
    own = pool(strict=False)
    assert own.map(add, range(10), [1, 2, 3]) == [1, 3, 5]
    assert own.map(add, range(10), iter([1, 2])) == [1, 3]
    assert list(own.imap(add, [1, 2, 3], itertools.count(10))) == [11, 13, 15]
    assert own.map(add, range(10), []) == []


@pytest.mark.parametrize(
    "endless", [itertools.count, lambda: itertools.repeat(0), lambda: iter(int, 1)]
)
def test_an_iterator_may_be_longer(either_pool, endless):
    """An endless iterator beside a sized input is cut at the size."""
    expected = list(map(add, range(25), endless()))
    assert either_pool().map(add, range(25), endless()) == expected
    assert list(either_pool().imap(add, range(25), endless())) == expected


def test_a_list_that_is_shortened_meanwhile():
    """An error says so, after the items that were there: in a loop it would end, and elsewhere go on at random."""
    several, seen = list(range(1000)), []
    results = pk.Pool(backend="serial").imap(lambda *row: row, several, "ab" * 500)
    with pytest.raises(ValueError, match=r"1000 items was shortened .* after 100: give a copy"):
        for x, _ in results:
            seen.append(x)
            del several[100:]
    assert seen == list(range(100))


class Torn(np.ndarray):
    """An array of which all behind the sixth item cannot be read."""

    def __getitem__(self, key):
        if isinstance(key, slice) and (key.stop or 0) > 6:
            raise OSError("torn")
        return super().__getitem__(key)


@pytest.mark.parametrize("name", ["map", "imap", "uimap"])
def test_an_array_that_cannot_be_read(pool, name):
    """Whoever takes a chunk meets the error, which is raised where the results are taken."""
    own = pool(chunksize=1)
    with pytest.raises(OSError, match="torn"):
        list(getattr(own, name)(float, np.arange(40.0).view(Torn)))
    assert own.map(float, range(4)) == [0.0, 1.0, 2.0, 3.0]


def test_an_iterator_may_not_be_shorter(pool):
    """An iterator that ends before the sized inputs is a ValueError."""
    with pytest.raises(ValueError):
        pool().map(add, range(10), iter([1, 2, 3]))


def test_imap_gives_what_came_before_the_end_of_a_short_iterator(pool):
    """imap raises for a short iterator after the results of the complete rows."""
    results = pool().imap(add, range(10), iter([1, 2, 3]))
    assert [next(results) for _ in range(3)] == [1, 3, 5]
    with pytest.raises(ValueError):
        next(results)


@pytest.mark.parametrize(
    "constant", [5, None, 2.5, object(), np.float64(3), np.array(3)], ids=lambda c: type(c).__name__
)
def test_a_constant_is_told_to_be_a_keyword(constant):
    """An input that cannot be iterated is a TypeError that says to pass constants by keyword."""
    for name in NAMES:
        with pytest.raises(TypeError, match="keyword"):
            call_in_place(name, add, [1, 2], constant)


@pytest.mark.parametrize("name", NAMES)
def test_no_input_at_all(name):
    """A call without any iterable is a TypeError."""
    with pytest.raises(TypeError):
        call_in_place(name, identity)


@pytest.mark.parametrize("name", [*NAMES, "starmap", "submit"])
def test_a_function_must_be_callable(name):
    """What is not callable is a TypeError of the call, and not of an item."""
    with pytest.raises(TypeError, match="callable") as caught:
        call_in_place(name, "identity", [1])
    assert not getattr(caught.value, "__notes__", [])


def test_delayed_needs_a_callable():
    """delayed refuses at once what cannot be called."""
    with pytest.raises(TypeError, match="callable"):
        pk.delayed(3)(4)


@pytest.mark.parametrize("rows", [[1, 2], [(1,), 2], [None]], ids=repr)
def test_rows_must_be_tuples_or_dicts(either_pool, rows):
    """A row of starmap that is neither positional nor keyword arguments is a TypeError."""
    with pytest.raises(TypeError):
        either_pool().starmap(identity, rows)


def test_wrong_arguments_are_the_error_of_the_item(pool):
    """Too many inputs for the function: the TypeError that calling it gives, naming the item."""
    with pytest.raises(TypeError, match="positional argument") as caught:
        pool().map(increment, [1, 2], [3, 4])
    assert len(caught.value.__notes__) == 1
    with pytest.raises(TypeError, match="unexpected keyword"):
        pool().map(pid, [1, 2], wrong=3)


@pytest.mark.parametrize("quick", [0.0, 1e-6])
@pytest.mark.parametrize("drawn", [False, True])
def test_a_chunk_of_large_arguments_is_small(quick, drawn):
    """What is on its way takes memory: 8 MB at a time, also where the items are known to be quick."""
    arrays = [np.zeros(500_000) for _ in range(40)]  # 4 MB each
    sizer = Sizer(2, remembered=quick)
    source = source_of(
        [iter(arrays) if drawn else arrays], sizer=sizer, lazy=False, strict=True, inline=False
    )
    sizer.settle(source.total)
    sizes = []
    while not source.finished:
        if (chunk := source.take()) is not None:
            sizes.append(chunk.size)
            sizer.observe(chunk.size, 1e-5)
            assert source.depth(2, 0.02) <= 2  # and a second chunk in advance, no more
    assert sum(sizes) == 40
    assert max(sizes) <= 2


@pytest.mark.parametrize("length", [0, 6])
def test_items_that_change_their_input(length):
    """A call in place maps what was in the list when it began, whether it grows or shrinks meanwhile."""
    numbers = [1, 2, 3]

    def change(x):
        numbers[:] = [0] * length
        return x

    assert pk.Pool(1).map(change, numbers) == [1, 2, 3]
