"""Arrays of every dtype, order, strides, flags and kind, in every place, beside what they were.

python tests/test_fuzz_arrays.py [SECONDS [SEED]]     the long form, as in `make fuzz`
"""

import copy
import functools
import random
import sys
import time

import numpy as np
import pytest

import parallelkit as pk
from parallelkit.transport import pickling, script  # noqa: F401 (by which classes of a script go)

DTYPES = [
    "?", "i1", "u2", "i4", ">i4", "i8", "f2", "f4", "f8", ">f8", "g", "c8", ">c16",
    "S3", "U2", ">U2", "V5", "M8[s]", ">M8[ns]", "m8[D]", ">m8[us]", "O",
    [("a", "i2"), ("b", ">f8")],
    [("when", ">M8[s]"), ("n", "i1")],
    [("inner", [("x", "f4", (2,)), ("t", "m8[s]")]), ("s", "U1")],
    ("i4", [("lo", "i2"), ("hi", "i2")]),
    {"names": ["a", "b"], "formats": ["i4", "u1"], "offsets": [4, 0], "itemsize": 12},
]  # fmt: skip
SHAPES = [(), (0,), (1,), (5,), (3, 0), (2, 3), (1, 4), (2, 3, 4), (2, 1, 3), (9000,), (90, 100), (20, 30, 15)]  # fmt: skip


class Own(np.ndarray):
    pass


def filled(rng, dtype, shape):
    """Any values of that type."""
    count = int(np.prod(shape, dtype=int))
    if dtype.hasobject:
        flat = np.empty(count, dtype)
        flat[:] = [rng.choice(["a", None, 1.5, (1, 2)]) for _ in range(count)]
        return flat.reshape(shape)
    data = random.Random(rng.random()).randbytes(count * dtype.itemsize)
    if dtype.kind in "?b":
        data = bytes(byte & 1 for byte in data)
    if dtype.kind == "U":  # not all bytes are characters
        return np.arange(count).astype(dtype).reshape(shape)
    if dtype.names:
        array = np.zeros(count, dtype)
        for name in dtype.names:
            if not dtype[name].names:
                array[name] = filled(rng, dtype[name], array[name].shape)
        return array.reshape(shape)
    return np.frombuffer(data, dtype, count).reshape(shape).copy()


def layout(rng, array):
    """The array, or another one of the same type, laid out in any way."""
    ways = ["as it is", "fortran", "permuted", "reversed", "steps", "broadcast", "window", "part"]
    for _ in range(rng.choice([0, 1, 1, 2])):
        way = rng.choice(ways)
        if way == "fortran":
            array = np.asfortranarray(array)
        elif way == "permuted":
            array = array.transpose(rng.sample(range(array.ndim), array.ndim))
            array = array.copy(order="K") if rng.random() < 0.5 else array
        elif way == "reversed" and array.ndim:
            array = array[tuple(slice(None, None, rng.choice([1, -1])) for _ in array.shape)]
        elif way == "steps" and array.ndim:
            array = array[tuple(slice(None, None, rng.choice([1, 2])) for _ in array.shape)]
        elif way == "broadcast" and array.ndim < 4:
            array = np.broadcast_to(array, (rng.choice([1, 3]), *array.shape))
        elif way == "window" and array.ndim and array.shape[0] > 1 and array.size < 3000:
            array = np.lib.stride_tricks.sliding_window_view(array, 2, axis=0)
        elif way == "part" and array.ndim:
            array = array[: rng.choice([1, 2, 7000])]
    return array


def any_array(rng):
    dtype = np.dtype(rng.choice(DTYPES))
    if rng.random() < 0.1 and not dtype.names:
        dtype = np.dtype(dtype, metadata={"unit": "m"})
    array = layout(rng, filled(rng, dtype, rng.choice(SHAPES)))
    kind = rng.choice(["ndarray"] * 4 + ["own", "recarray", "matrix", "masked", "shared"])
    if kind == "own":
        array = array.view(Own)
    elif kind == "recarray" and dtype.names:
        array = array.view(np.recarray)
    elif kind == "matrix" and array.ndim == 2:
        array = array.view(np.matrix)
    elif kind == "masked" and not dtype.names and not dtype.hasobject:
        array = np.ma.MaskedArray(
            array, np.ones(array.shape, bool) if rng.random() < 0.5 else False
        )
    elif kind == "shared" and not dtype.hasobject and array.size:
        array = pk.share(array)
    if rng.random() < 0.4 and type(array) is not np.ma.MaskedArray and not dtype.hasobject:
        array.flags.writeable = False
    return array


def told(array):
    """All that has to arrive, as something that can be compared."""
    plain = np.ma.getdata(array) if isinstance(array, np.ma.MaskedArray) else np.asarray(array)
    flag = (
        None
        if isinstance(array, np.ma.MaskedArray) or plain.dtype.hasobject
        else array.flags.writeable
    )
    if plain.dtype.hasobject:
        values = repr(plain.tolist())
    else:  # what lies between fields need not arrive
        values = [plain[name].tobytes() for name in plain.dtype.names or [...]]
    mask = np.ma.getmaskarray(array).tobytes() if isinstance(array, np.ma.MaskedArray) else None
    unit = dict(plain.dtype.metadata or {})
    return type(array).__name__, repr(array.dtype), unit, array.shape, flag, values, mask


def around(trip, array, rng):
    """The array by way of `trip`, in a place of an object."""
    place = rng.choice(["alone", "list", "dict", "nested", "column"])
    if place == "list":
        return trip([array, 1])[0]
    if place == "dict":
        return trip({"a": array})["a"]
    if place == "nested":
        return trip(({"a": [array, (array,)]},))[0]["a"][1][0]
    if place == "column":  # many small ones may cross as one
        return trip(([array] * 3 + [copy.copy(array) for _ in range(9)], None))[0][0]
    return trip(array)


def by_pickle(obj, max_nbytes):
    pickled = pickling.dumps(obj, max_nbytes)
    return pickling.loads(b"".join(bytes(piece) for piece in pickled.pieces), pickled.buffers)


def check(rng, trip):
    array = any_array(rng)
    wanted = told(array)
    assert told(around(trip, array, rng)) == wanted
    assert told(array) == wanted
    twin = copy.deepcopy(array)  # where numpy itself keeps all but the flag, so do we
    assert told(twin)[3] == wanted[3]
    assert told(twin)[5] == wanted[5]


def rounds(seed, count, max_nbytes):
    for n in range(count):
        rng = random.Random(f"{seed} {n}")
        try:
            check(rng, functools.partial(by_pickle, max_nbytes=max_nbytes))
        except BaseException as error:
            error.add_note(f"seed {seed!r}, array {n}, max_nbytes {max_nbytes}")
            raise


@pytest.mark.parametrize("max_nbytes", [0, 1, 1 << 16, 1 << 62])
def test_arrays_are_pickled_whole(max_nbytes):
    """Values, type, dtype, metadata, shape, mask and flags of any array are what they were, whatever its size."""
    rounds(1, 1000, max_nbytes)


PLACES = ["item", "frozen", "result", "global", "submit"]
holder = {}


def same(array):
    return array


def frozen(_, array):
    return told(array), array


def make(text):
    return any_array(random.Random(text))


def by_call(pool, place, text):
    array = make(text)
    if place == "item":
        return pool.map(told, [array])[0], pool.map(same, [array])[0]
    if place == "frozen":
        return pool.map(frozen, [0], array=array)[0]
    if place == "result":
        got = pool.map(make, [text])[0]
        return told(got), got
    if place == "global":
        space = {"array": array, "told": told}
        exec("def inside(_):\n    return told(array), array", space)  # its own globals, by value
        return pool.map(space["inside"], [0])[0]
    return pool.submit(told, array).result(60), pool.submit(same, array).result(60)


def check_calls(pool, seed, count):
    for n in range(count):
        text = f"{seed} {n}"
        for place in PLACES:
            inside, outside = by_call(pool, place, text)
            wanted = told(make(text))
            assert inside == wanted, (text, place)
            assert told(outside) == wanted, (text, place)


@pytest.mark.parametrize("max_nbytes", [0, 1 << 16, 1 << 40])
def test_arrays_arrive_whole(max_nbytes):
    """The same through workers: as item, frozen keyword, result, global and submitted argument."""
    with pk.Pool(2, max_nbytes=max_nbytes) as pool:
        check_calls(pool, 2, 20)


if __name__ == "__main__":
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 32)
    end, done = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        limit = random.Random(f"{seed} {done}").choice([0, 1, 100, 1 << 16, 1 << 20, 1 << 62])
        rounds(f"{seed}-{done}", 500, limit)
        with pk.Pool(2, max_nbytes=limit) as pool:
            check_calls(pool, f"{seed}-{done}", 20)
        done += 1
    print(f"{done * 500} arrays pickled and {done * 100} calls without a difference, seed {seed}")
