"""map_blocks: arrays cut into blocks, results put together in place."""

import threading

import numpy as np
import pytest
from helpers import increment

import parallelkit as pk
from parallelkit import blocks as made_of

ONE_START_METHOD = True


@pytest.fixture
def configured(pool):
    """What the pool of this run has, as the default of every call."""
    options = {"workers": 2, "backend": pool.backend}
    if pool.start_method:
        options["start_method"] = pool.start_method
    with pk.configure(**options):
        yield pool


def mult(y, x):
    rows = np.empty((len(y), len(x)))
    for i, value in enumerate(y):
        rows[i] = value * x
    return rows


def test_the_reference_question(configured):
    """``mult`` in row blocks gives the array of the serial call, shared where processes made it."""
    y, x = np.arange(1000.0), np.arange(50.0)
    result = pk.map_blocks(mult, y, x=x)
    np.testing.assert_array_equal(result, mult(y, x))
    assert type(result) is np.ndarray
    assert result.flags.writeable
    assert pk.is_shared(result) == (configured.backend == "process")


@pytest.mark.parametrize("blocks", [None, 1, 3, 10, 99, np.int64(4)])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_any_axis_and_any_number_of_blocks(blocks, axis):
    """However the arrays are cut, the result is that of the whole."""
    a, b = np.arange(10.0 * 11 * 12).reshape(10, 11, 12), np.ones((10, 11, 12), "i2")
    with pk.configure(workers=2, backend="thread"):
        result = pk.map_blocks(np.add, a, b, axis=axis, blocks=blocks)
    np.testing.assert_array_equal(result, a + b)


def test_other_dtypes_and_trailing_axes(configured):
    """Results may have another dtype, fewer or more axes than the blocks."""
    a = np.arange(60.0).reshape(20, 3)
    for func in (
        lambda b: b.sum(axis=1),
        lambda b: b[:, :, None] > np.arange(4),
        lambda b: b.astype("f4"),
        lambda b: b.astype("U8"),
        lambda b: (b + 1j).astype(">c16"),
        lambda b: b.tolist(),
        np.asfortranarray,
    ):
        result = pk.map_blocks(func, a)
        np.testing.assert_array_equal(result, np.asarray(func(a)))
        assert result.dtype == np.asarray(func(a)).dtype


def test_objects(configured):
    """Results of Python objects are put together too."""
    result = pk.map_blocks(lambda b: np.array([{i} for i in b], object), np.arange(9))
    assert result.tolist() == [{i} for i in range(9)]


def test_scalars(configured):
    """A scalar for each block makes a line of them."""
    a = np.arange(60.0)
    result = pk.map_blocks(np.sum, a, blocks=4)
    assert result.tolist() == [float(a[i : i + 15].sum()) for i in range(0, 60, 15)]
    assert pk.map_blocks(len, a, blocks=7).sum() == 60


def test_lengths_that_differ_are_concatenated(configured):
    """Filters, and blocks that happen to keep their length, are joined in order."""
    a = np.arange(100)
    for func in (
        lambda b: b[b % 7 == 0],
        lambda b: np.repeat(b, 2),
        lambda b: b[b < 33],
        lambda b: b[b > 80],
    ):
        np.testing.assert_array_equal(pk.map_blocks(func, a, blocks=9), func(a))


def test_dtypes_that_differ(configured):
    """Blocks of different dtypes are joined in one that holds them all."""
    result = pk.map_blocks(lambda b: b * 0.5 if b[0] else b, np.arange(40), blocks=8)
    assert result.dtype == float
    assert result[:5].tolist() == [0, 1, 2, 3, 4]
    assert result[5:].tolist() == [i * 0.5 for i in range(5, 40)]


def test_outer(configured):
    """The grid of y-slices and x-slices gives the array of the whole."""
    y, x = np.arange(100.0), np.arange(40.0)
    for blocks in [(3, 2), (1, 1), (7, 40), None, 4]:
        result = pk.map_blocks(mult, y, x, outer=True, blocks=blocks)
        np.testing.assert_array_equal(result, mult(y, x))
    scalars = pk.map_blocks(lambda a, b: a.sum() * b.sum(), y, x, outer=True, blocks=(3, 2))
    assert scalars.shape == (3, 2)
    assert scalars.sum() == y.sum() * x.sum()
    kept = pk.map_blocks(lambda a, b: mult(a[a > 20], b[b < 30]), y, x, outer=True, blocks=(4, 3))
    np.testing.assert_array_equal(kept, mult(y[y > 20], x[x < 30]))
    cube = pk.map_blocks(
        lambda a, b, c: a[:, None, None] + b[:, None] + c, y, x, x, outer=True, blocks=(2, 2, 2)
    )
    np.testing.assert_array_equal(cube, y[:, None, None] + x[:, None] + x)


@pytest.mark.parametrize("kind", ["plain", "shared", "memmap", "strided", "other dtype"])
def test_out(configured, folder, kind):
    """The result may go into an array that is there already, of whatever memory."""
    y, x = np.arange(64.0), np.arange(8.0)
    out = {
        "plain": lambda: np.empty((64, 8)),
        "shared": lambda: pk.shared_empty((64, 8)),
        "memmap": lambda: np.memmap(folder / "out", float, "w+", shape=(64, 8)),
        "strided": lambda: np.empty((64, 16))[:, ::2],
        "other dtype": lambda: np.empty((64, 8), "f4"),
    }[kind]()
    result = pk.map_blocks(mult, y, x=x, out=out)
    assert result is out
    np.testing.assert_array_equal(out, mult(y, x))


def test_empty_and_short_inputs(configured):
    """One element, and none at all, are cut into one block."""
    assert pk.map_blocks(increment, np.array([5]), blocks=4).tolist() == [6]
    assert pk.map_blocks(lambda b: mult(b, b[:0]), np.empty(0)).shape == (0, 0)


def test_inputs_that_are_shared_or_lists(configured):
    """Inputs are whatever numpy takes for arrays; shared ones cross by name."""
    y = pk.share(np.arange(50.0))
    result = pk.map_blocks(np.add, y, list(range(50)), blocks=5)
    np.testing.assert_array_equal(result, np.arange(50) * 2.0)


def test_in_a_nested_call(configured):
    """It works inside an item too."""
    rows = pk.map(lambda n: pk.map_blocks(np.square, np.arange(n)), [10, 20])
    assert [row.tolist() for row in rows] == [[i * i for i in range(n)] for n in (10, 20)]


def test_shapes_that_do_not_fit(configured):
    """The error names the blocks and their shapes."""

    def uneven(b):
        return np.zeros((len(b), 3 if b[0] < 10 else 4))

    with pytest.raises(ValueError, match=r"block 0 gave shape \(5, 3\), block 2 shape \(5, 4\)"):
        pk.map_blocks(uneven, np.arange(20), blocks=4)
    with pytest.raises(ValueError, match=r"block \d gave an array of shape \(3,\).*axis 1"):
        pk.map_blocks(lambda b: b[0], np.ones((5, 6)), axis=1, blocks=2)
    with pytest.raises(ValueError, match=r"out has shape \(3, 3\), the result shape \(20, 2\)"):
        pk.map_blocks(mult, np.arange(20.0), x=np.ones(2), out=np.empty((3, 3)))
    with pytest.raises(TypeError, match="cannot be cast to int"):
        pk.map_blocks(mult, np.arange(20.0), x=np.ones(2), out=np.empty((20, 2), int))


def test_arguments_that_make_no_sense():
    """Each is refused before anything runs, with its reason."""
    with pytest.raises(ValueError, match=r"differ in length along axis 0: \[3, 4\]"):
        pk.map_blocks(np.add, np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match=r"array 1 of shape .* has no axis 1"):
        pk.map_blocks(np.add, np.ones((3, 3)), np.ones(3), axis=1)
    with pytest.raises(TypeError, match="no array"):
        pk.map_blocks(np.add)
    for bad in (0, -1, 2.5, True, (1, 2)):
        with pytest.raises(ValueError, match="blocks must be"):
            pk.map_blocks(np.sum, np.ones(3), blocks=bad if isinstance(bad, tuple) else (bad,))
    with pytest.raises(ValueError, match="out must be an array"):
        pk.map_blocks(np.sqrt, np.ones(3), out=[1])


def test_an_error_names_its_block(configured):
    """What a block raises is raised, with a note that names it, and the call ends."""

    def bad(b):
        if b[0] == 5:
            raise KeyError("no such block")
        return b

    with pytest.raises(KeyError, match="no such block") as caught:
        pk.map_blocks(bad, np.arange(100), blocks=20)
    assert "item 1" in caught.value.__notes__[0]
    assert "block 1" in caught.value.__notes__[0]
    assert threading.active_count() < 50


def nested_block(i, given):
    a = np.arange(i, i + 40.0)
    out = np.full(40, -1.0) if given else None
    whole = pk.map_blocks(lambda a, b: a * 4 + b, a, blocks=4, b=i, out=out)
    assert out is None or whole is out
    return bool(np.array_equal(whole, a * 4 + i))


@pytest.mark.parametrize("given", [False, True])
def test_blocks_in_items_that_idle_workers_help(given):
    """Under nested="process" blocks run in other workers too: each arrives, also in an `out` that is not shared."""
    with pk.Pool(2, nested="process", chunksize=2) as pool:
        for _ in range(20):
            assert pool.map(nested_block, range(6), given=given) == [True] * 6


def test_a_worker_never_writes_into_a_copy():
    """A place that is not the caller's memory is left alone, and the value is returned."""
    place = np.zeros(3)
    for caller, told in ((made_of._here(), made_of._Placed), ((1, b"elsewhere"), None)):
        place[...] = 0
        index, value = made_of._run(
            made_of.Block((0,), (np.ones(3),), place, caller), _map_blocks_func=np.copy
        )
        assert index == (0,)
        assert (value is told) == (told is not None)
        assert place.tolist() == ([1, 1, 1] if told else [0, 0, 0])


# ---- frames --------------------------------------------------------------------------------------


@pytest.fixture
def frame():
    pd = pytest.importorskip("pandas")
    return pd.DataFrame(
        {"k": pd.Categorical(list("abcab")), "x": np.arange(5, dtype="int16"), "y": np.arange(5.0)},
        index=[50, 40, 30, 20, 10],
    )


def test_options_that_are_given_to_a_function(frame):
    """They live on the pool, of arrays and of frames."""
    for whole in (np.arange(5), frame):
        for give in (pk.map_blocks, pk.Pool(2).map_blocks):
            with pytest.raises(TypeError, match=r"takes no workers=: .*pk.Pool\(workers=...\)"):
                give(increment, whole, workers=2)


@pytest.mark.parametrize("blocks", [1, 2, 5, None])
def test_frames_give_frames(frame, blocks):
    """Blocks of a DataFrame are DataFrames, and so is the result: index, order and dtypes are those of the whole."""
    with pk.configure(workers=2, backend="thread"):
        result = pk.map_blocks(
            lambda block, by: block.assign(z=block["y"] * by), frame, by=2, blocks=blocks
        )
        assert result.equals(frame.assign(z=frame["y"] * 2))
        assert list(result.dtypes) == list(frame.assign(z=0.0).dtypes)
        empty = pk.map_blocks(lambda block: block, frame[:0])
        assert empty.equals(frame[:0])


def test_frames_cross_to_processes(frame):
    """The same in worker processes, with an array cut beside the frame."""
    with pk.configure(workers=2):
        result = pk.map_blocks(lambda block, a: block["x"] + a, frame, np.arange(5), blocks=2)
    assert result.equals(frame["x"] + np.arange(5))


def test_series_and_plain_results(frame):
    """A Series is cut too; what is no frame becomes an array, as for arrays."""
    with pk.configure(workers=2, backend="thread"):
        assert pk.map_blocks(lambda s: s * 2, frame["y"], blocks=2).equals(frame["y"] * 2)
        assert pk.map_blocks(len, frame, blocks=2).tolist() == [2, 3]
        assert pk.map_blocks(lambda b: b["y"].to_numpy(), frame, blocks=2).tolist() == [
            0,
            1,
            2,
            3,
            4,
        ]


def test_what_frames_cannot(frame):
    """What has no meaning for frames is refused, with what to do."""
    with pk.configure(workers=2, backend="thread"):
        for wrong in ({"axis": 1}, {"outer": True}, {"out": np.empty(5)}):
            with pytest.raises(ValueError, match="to_numpy"):
                pk.map_blocks(len, frame, **wrong)
        with pytest.raises(ValueError, match="differ in length"):
            pk.map_blocks(len, frame, np.arange(3))
        with pytest.raises(TypeError, match="block 1 a int"):
            pk.map_blocks(lambda b: b if 50 in b.index else 1, frame, blocks=2)
        polars = type("DataFrame", (), {"__module__": "polars.dataframe.frame"})
        with pytest.raises(TypeError, match="iter_slices"):
            pk.map_blocks(len, polars())


MASKED = np.ma.masked_array(
    np.arange(24.0).reshape(6, 4), mask=np.arange(24).reshape(6, 4) % 5 == 0, fill_value=-1.0
)


def assert_same_masked(result, expected):
    assert type(result) is np.ma.MaskedArray
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(np.ma.getmaskarray(result), np.ma.getmaskarray(expected))
    np.testing.assert_array_equal(result.filled(0), expected.filled(0))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("blocks", [None, 3])
def test_masks_are_kept(configured, axis, blocks):
    """What a block masks is masked in the whole, whichever axis is cut."""
    result = pk.map_blocks(lambda block: block * 2, MASKED, axis=axis, blocks=blocks)
    assert_same_masked(result, MASKED * 2)
    assert result.fill_value == (MASKED * 2).fill_value


def test_masks_of_some_blocks(configured):
    """Blocks without a mask, of other lengths, and the constant for all that is masked are joined with others."""
    numbers = np.ma.masked_array(np.arange(10), mask=[0] * 5 + [1, 1, 0, 0, 1])
    sums = pk.map_blocks(lambda block: block.sum(), numbers, blocks=10)
    assert_same_masked(sums, numbers)
    some = pk.map_blocks(lambda b: b.filled(0) if b[0] == 0 else b[:1], numbers, blocks=5)
    assert_same_masked(some, np.ma.concatenate([numbers[:2], numbers[2::2]]))
    grid = pk.map_blocks(
        lambda a, b: a[:, None] * b, numbers, np.arange(3), outer=True, blocks=(3, 2)
    )
    assert_same_masked(grid, numbers[:, None] * np.arange(3))
    assert type(pk.map_blocks(lambda block: block.filled(0), numbers)) is np.ndarray


def test_masks_where_the_result_is_to_go(configured):
    """A masked array takes masks; what has none refuses them, rather than show what is masked."""
    out = np.ma.zeros(MASKED.shape)
    assert pk.map_blocks(lambda block: block * 2, MASKED, out=out) is out
    assert_same_masked(out, MASKED * 2)
    with pytest.raises(TypeError, match=r"block 0 gave a masked array, and out has no mask"):
        pk.map_blocks(lambda block: block * 2, MASKED, out=np.zeros(MASKED.shape))


@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (2, 0, 4)])
def test_arrays_without_elements(configured, shape):
    """They keep their shape, whichever axis is cut, also where their memory is shared."""
    for array in (np.zeros(shape), pk.shared_empty(shape)):
        for axis in range(len(shape)):
            assert pk.map_blocks(lambda b: b, array, axis=axis, blocks=3).shape == shape
