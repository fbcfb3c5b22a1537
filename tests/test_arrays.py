"""Arrays as items, as frozen keywords and as results: equal, writable, private, and shipped without waste."""

import errno
import gc
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers import KILL, ended, identity, kill, meet, wait_until

import parallelkit as pk
from parallelkit.place import system
from parallelkit.transport import anonymous, pickling, segments

ONE_START_METHOD = True

LARGE = 20_000  # elements that are more than a message holds
PAIR = np.dtype([("name", "U5"), ("place", "<f8", (2,))])


class Tagged(np.ndarray):
    """A subclass that adds nothing."""


class Named(np.ndarray):
    """A subclass that pickles its own way, with an attribute."""

    def __array_finalize__(self, source):
        self.name = getattr(source, "name", None)

    def __reduce__(self):
        make, args, state = super().__reduce__()
        return make, args, (*state, self.name)

    def __setstate__(self, state):
        super().__setstate__(state[:-1])
        self.name = state[-1]


@dataclass
class Holder:
    """An object with an array deep inside."""

    inner: dict


def read_only(array):
    array.flags.writeable = False
    return array


def arrays(n):
    """One array of each kind, with about `n` elements."""
    side = max(2, int(n**0.5))
    line = np.arange(n, dtype=float)
    square = np.arange(side * side, dtype=float).reshape(side, side)
    pairs = np.zeros(n, PAIR)
    pairs["name"], pairs["place"][:, 1] = "some", line
    masked = np.ma.masked_less(line.copy(), n // 3)
    masked.fill_value = -1
    named = line.copy().view(Named)
    named.name = "Ada"
    return {
        "line": line,
        "C order": square,
        "Fortran order": np.asfortranarray(square),
        "transposed": square.T,
        "every other": line[::2],
        "reversed": line[::-1],
        "few of many": line[:: max(2, n // 7)],
        "columns": square[:, 1:3],
        "block": square[1:, : side // 2],
        "broadcast": np.broadcast_to(line[:side], (side, side)),
        "windows": np.lib.stride_tricks.sliding_window_view(line[: 2 * side], side),
        "read-only": read_only(line.copy()),
        "read-only columns": read_only(square[:, ::2]),
        "0-d": np.array(3.5),
        "empty": np.empty((0, 3)),
        "empty, long": np.empty((n, 0), "i2"),
        "bool": line > 3,
        "complex": line + 1j,
        "half": (line % 100).astype("f2"),
        "big-endian": line.astype(">f8"),
        "big-endian columns": square.astype(">i4")[:, ::3],
        "structured": pairs,
        "one field": pairs["place"],
        "record": pairs.view(np.recarray),
        "datetime": line.astype("M8[s]"),
        "timedelta, strided": line.astype("m8[ms]")[::2],
        "unicode": np.array(["ä", "beta", ""] * (n // 3)),
        "bytes": np.array([b"x", b"yz"] * (n // 2)),
        "void": line.view("V8"),
        "object": np.array([None, "x", {1: 2}] * (n // 3), dtype=object),
        "masked": masked,
        "masked, nothing": np.ma.array(line.copy()),
        "matrix": square.view(np.matrix),
        "read-only matrix": read_only(square.view(np.matrix)),
        "matrix columns": square.view(np.matrix)[:, 1:],
        "subclass": line.copy().view(Tagged),
        "subclass with a name": named,
    }


KINDS = list(arrays(10))


def properties(array):
    """What must survive: all but the gaps of a view."""
    order = "K"
    if array.flags.c_contiguous or array.flags.f_contiguous:
        order = array.flags.c_contiguous, array.flags.f_contiguous
    return {
        "type": type(array),
        "dtype": array.dtype,
        "shape": array.shape,
        "writeable": array.flags.writeable,
        "order": order,
        "name": array.name if isinstance(array, Named) else None,
        "fill": array.fill_value if isinstance(array, np.ma.MaskedArray) else None,
    }


def check_equal(got, sent):
    expected, found = properties(sent), properties(got)
    if expected["order"] == "K":  # it may have lost its gaps
        del expected["order"], found["order"]
    assert found == expected
    np.testing.assert_array_equal(np.asarray(got), np.asarray(sent))
    np.testing.assert_array_equal(np.ma.getmaskarray(got), np.ma.getmaskarray(sent))


def checked(array, n, kind, frozen):
    """An item that compares what it got with what was sent, and sends it back."""
    check_equal(array, arrays(n)[kind])
    check_equal(frozen["deep"], arrays(n)[kind])
    return array


@pytest.mark.parametrize("n", [30, LARGE], ids=["small", "large"])
def test_every_kind_of_array_arrives_equal(process_pool, n):
    """Type, dtype, shape, order, writability and values survive, as item, frozen keyword and result."""
    own = process_pool()
    for kind, array in arrays(n).items():
        for result in own.map(checked, [array] * 3, n=n, kind=kind, frozen={"deep": array}):
            check_equal(result, array)


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_the_limit_changes_nothing_but_the_way(process_pool, limit):
    """Whether buffers travel in segments or in the pickle, the same arrives."""
    own = process_pool(max_nbytes=limit)
    for kind, array in arrays(100).items():
        for result in own.map(checked, [array], n=100, kind=kind, frozen={"deep": array}):
            check_equal(result, array)


def test_arrays_deep_inside_objects(process_pool):
    """Arrays in dicts, dataclasses and closures arrive in both directions."""
    line = np.arange(LARGE, dtype=float)

    def deep(holder):
        return Holder({"sum": [holder.inner["x"][0] + line]})

    results = process_pool().map(deep, [Holder({"x": [line * i]}) for i in range(4)])
    for i, result in enumerate(results):
        np.testing.assert_array_equal(result.inner["sum"][0], line * (i + 1))


def test_large_bytes_travel(process_pool):
    """bytes, bytearray and plain pickles of any size arrive equal."""
    items = [b"ab" * 10**6, bytearray(10**6), "ä" * 10**6, list(range(10**5))]
    assert process_pool().map(identity, items) == items


def test_pandas_and_arrow_travel(process_pool):
    """What pickles with buffers of its own arrives equal, and is writable where it was."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": np.arange(LARGE), "b": np.arange(LARGE) * 0.5, "c": "text"})
    results = process_pool().map(lambda part, all_of_it: part + part, [frame] * 2, all_of_it=frame)
    for result in results:
        pandas.testing.assert_frame_equal(result, frame + frame)


# ---- only what is needed travels -------------------------------------------------------------------


def sizes(*objects, together=False):
    pickled = pickling.dumps(objects, together=together)
    return sum(len(piece) for piece in pickled.pieces) + sum(b.nbytes for b in pickled.buffers)


@pytest.mark.parametrize(
    "kind", ["every other", "few of many", "columns", "block", "broadcast", "windows"]
)
def test_of_a_large_base_only_what_is_needed_travels(kind):
    """What crosses for a view is never much more than its own elements, and less where they repeat."""
    view = arrays(1_000_000)[kind]
    assert sizes(view) < 1.3 * view.nbytes + 2_000
    if kind in ("broadcast", "windows"):
        assert sizes(view) < 0.1 * view.nbytes


def test_many_views_with_gaps_take_no_time_for_each_pair_of_them():
    """Compared with each other, these would take a minute."""
    base = np.zeros((128, 2000 * 160))
    assert sizes([base[:, i : i + 80] for i in range(0, 2000 * 160, 160)]) < 1.1 * base.nbytes / 2


def test_elements_at_the_ends_of_a_large_base_travel_alone():
    """Two small views far apart do not bring what lies between them."""
    base = np.zeros(10_000_000)
    assert sizes(base[:10], base[-10:], base[::1_000_000], together=True) < 5_000


# ---- frozen keywords ------------------------------------------------------------------------------


def write_and_tell(i, values):
    """Add to a frozen array; the sum of what was added so far in this worker, and its pid."""
    values[0] += 1
    return os.getpid(), float(values[0])


@pytest.mark.parametrize("n", [3, LARGE], ids=["small", "large"])
def test_a_frozen_array_is_a_private_copy_for_each_worker(process_pool, n):
    """Items write into one copy for each worker and call, never into the caller's array."""
    values = np.zeros(n)
    own = process_pool(chunksize=1)
    for _ in range(2):
        seen = own.map(write_and_tell, range(20), values=values)
        for pid in {pid for pid, _ in seen}:
            counts = sorted(count for p, count in seen if p == pid)
            assert counts == [float(c) for c in range(1, len(counts) + 1)]
    assert values[0] == 0


def aliases(i, a, b, c):
    """Which of the arrays see what is written into the first."""
    a[...] = 7
    return bool(b.any()), bool(c.any())


@pytest.mark.parametrize("n", [60, LARGE, 50 * LARGE], ids=["small", "large", "larger"])
def test_views_of_one_frozen_array_stay_one_memory(process_pool, n):
    """The array itself, its slices, strided views and transposes share memory in the worker as they did."""
    base = np.zeros(n)
    square = base.reshape(-1, 10)
    own = process_pool()
    for frozen in [
        {"a": base, "b": base, "c": base[::3]},
        {"a": base[: n // 2], "b": base[n // 4 :], "c": base[n // 2 :].copy()},
        {"a": base[::2], "b": base, "c": base[1::2]},
        {"a": square[2:], "b": square.T, "c": base[:5]},
        {"a": square[:, 3], "b": square[:, 2:5], "c": square[:, :2]},
        {"a": base.view(Tagged), "b": base[::-1], "c": base.view("i8")},
    ]:
        expected = (
            bool(np.shares_memory(frozen["a"], frozen["b"])),
            bool(np.shares_memory(frozen["a"], frozen["c"])),
        )
        assert own.map(aliases, [0], **frozen) == [expected]
    assert not base.any()


def test_views_in_one_item_and_one_result_stay_one_memory(process_pool):
    """Two large views of one array inside an item, or inside a result, are views of one memory."""

    def both(views):
        views[0][...] = 3
        return views[1].all(), views

    base = np.zeros(LARGE)
    ((seen, (first, second)),) = process_pool().map(both, [(base, base[5:])])
    assert seen
    first[...] = 4
    assert (second == 4).all()
    assert not base.any()


# ---- results ---------------------------------------------------------------------------------------


def test_results_are_writable_and_their_own(process_pool):
    """Each result is memory of its own that stays what it is, whatever later calls bring."""
    own = process_pool(chunksize=1)
    results = own.map(lambda i: np.full(LARGE, float(i)), range(20))
    again = own.map(lambda i: np.full(LARGE, -1.0), range(20))
    for i, (result, other) in enumerate(zip(results, again, strict=True)):
        assert result.flags.writeable
        np.add(result, 1, out=result)
        assert (result == i + 1).all()
        assert (other == -1).all()


@pytest.mark.skipif(not system.LINUX, reason="looks into /proc")
def test_workers_let_go_of_frozen_arrays_when_the_call_is_over(process_pool):
    """An idle worker has nothing mapped of the calls that it has worked for."""
    large = np.ones(4_000_000)
    pids = set(process_pool(chunksize=1).map(lambda i, array: os.getpid(), range(8), array=large))

    def mapped():
        maps = [Path(f"/proc/{pid}/maps").read_text().splitlines() for pid in pids]
        entries = [line.split() for lines in maps for line in lines]
        spans = [entry[0].split("-") for entry in entries if "memfd:parallelkit" in entry[-2]]
        return [span for span in spans if int(span[1], 16) - int(span[0], 16) >= large.nbytes]

    wait_until(lambda: not mapped(), "workers to unmap the array")


def test_what_a_worker_keeps_stays(process_pool):
    """An item that a worker holds on to is not overwritten by the items of later calls."""

    def keep(array, kept=[]):  # noqa: B006 - what is kept is the question
        kept.append(array)
        return [float(a[0]) for a in kept] == [float(a[-1]) for a in kept], len(kept)

    own = process_pool(chunksize=1)
    for i in range(3):
        results = own.map(keep, [np.full(LARGE, float(10 * i + j)) for j in range(6)])
        assert all(same for same, _ in results)


def test_results_of_a_worker_that_was_replaced_can_be_read(process_pool):
    """A worker may be gone before the caller reads its large result."""
    results = process_pool(tasks_per_worker=1).map(lambda i: np.full(LARGE, i), range(6))
    assert [int(result.sum()) for result in results] == [i * LARGE for i in range(6)]


def test_a_consumer_that_drops_results_needs_little_memory(process_pool):
    """However long the stream in and out, neither the caller nor a worker grows with it."""
    own = process_pool(chunksize=1)

    def grown(rounds):
        stream = (np.full(LARGE, float(i)) for i in range(rounds))
        theirs = []
        for i, (result, memory) in enumerate(own.imap(double_and_measure, stream)):
            assert result[0] == 2 * i
            theirs.append(memory)
        return psutil.Process().memory_info().rss, theirs[-1]

    before = grown(100)
    after = grown(1000)  # 160 MB each way
    for least, most in zip(before, after, strict=True):
        assert most < least + 100_000_000


def double_and_measure(array):
    return array * 2, psutil.Process().memory_info().rss


# ---- nothing left -----------------------------------------------------------------------------------


def descriptors(_=None):
    """Descriptors of memory that other processes may have, in this process."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            pass
    return sum("parallelkit" in path for path in found)


needs_proc = pytest.mark.skipif(not system.LINUX, reason="looks into /proc")
needs_memfd = pytest.mark.skipif(not system.MEMFD, reason="memory is looked for by its name")
tells_maps = pytest.mark.skipif(
    not os.path.isdir(system.PROC) and not (system.MACOS or system.WINDOWS),
    reason="without /proc nobody can tell whether a file is what was mapped: it goes by value",
)


@needs_proc
def test_segments_are_used_again(process_pool):
    """Calls of the same size do not add to the descriptors that the caller and the workers have.

    One worker may come to run all items of a call while the results of the call before are not
    given back yet: so many a worker may still add. Sixty calls that kept theirs would add 300.
    """
    own = process_pool(chunksize=1)

    def call():
        own.map(lambda a, w: a + w, [np.ones(LARGE)] * 10, w=np.ones(LARGE))
        return descriptors(), max(own.map(descriptors, range(8)))

    few = [call() for _ in range(3)][-1]
    many = [call() for _ in range(60)][-1]
    assert many[0] <= few[0] + 40
    assert many[1] <= few[1] + 40


@needs_proc
def test_a_killed_worker_leaves_no_segment(folder):
    """After the end of a crew whose worker was killed in the middle of large items, no descriptor is left."""
    pk.shutdown()
    before = descriptors()

    def killed(array):
        if array[0] == 3:
            kill(os.getpid())
        return array

    with pk.Pool(2, on_error="return", chunksize=1) as own:
        results = own.map(killed, [np.full(LARGE, i) for i in range(8)])
    assert isinstance(results[3], pk.Failure)
    assert [int(r[0]) for i, r in enumerate(results) if i != 3] == [0, 1, 2, 4, 5, 6, 7]
    del results
    pk.shutdown()
    assert descriptors() == before


KILLED = """
import os, signal, sys
import numpy as np
import parallelkit as pk

if __name__ == "__main__":
    def work(i, table, block, folder):
        open(os.path.join(folder, str(os.getpid())), "a").close()
        return block
    pool = pk.Pool(2, start_method=sys.argv[2])
    table = pk.share(np.ones(100_000))
    results = pool.imap(work, range(10**6), table=table, block=np.ones(50_000), folder=sys.argv[1])
    for _ in range(20):
        next(results)
    os.kill(os.getpid(), 9)
"""


def test_a_killed_caller_leaves_nothing(script, folder, start_method, temp_folder):
    """When the caller is killed its workers end, and no file or named segment stays."""
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    script(KILLED, folder, start_method, code=KILL if system.WINDOWS else -KILL, files=False)
    pids = [int(name) for name in os.listdir(folder)]
    assert pids
    assert ended(pids)
    if os.path.isdir("/dev/shm"):
        assert not {n for n in set(os.listdir("/dev/shm")) - before if "parallelkit" in n}


# ---- files -----------------------------------------------------------------------------------------


@pytest.fixture
def file(folder):
    """A file of 1000 rows of ten floats."""
    path = folder / "table.bin"
    np.arange(10_000.0).tofile(path)
    return path


def about(array):
    """What a file-backed array is in a worker."""
    return (
        type(array).__name__,
        getattr(array, "mode", None),
        str(getattr(array, "filename", None)),
        array.flags.writeable,
        pk.is_shared(array),
        float(array.sum()),
    )


def views(table):
    return [
        table,
        table[5:9],
        table[:, 3],
        table[::-2],
        table.T,
        table[3, 4:5],
        np.asarray(table)[7:],
    ]


@tells_maps
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_memmaps_travel_by_name(process_pool, file, mode):
    """A memmap and its views arrive as views of the same file, in the same mode."""
    if mode == "c" and not os.path.isdir(system.PROC):
        pytest.skip("nobody tells whether a private map was written to: it goes by value")
    table = np.memmap(file, float, mode, shape=(1000, 10))
    items = views(table)
    assert sizes(*items) < 4_000
    expected = [about(item) for item in items]
    assert all(seen[4] for seen in expected)
    assert process_pool().map(about, items) == expected
    assert process_pool().map(lambda i, t: about(t), [0], t=table) == expected[:1]
    saved = file.with_suffix(".npy")
    np.save(saved, np.arange(5.0))
    loaded = np.load(saved, mmap_mode=mode)
    assert process_pool().map(about, [loaded]) == [about(loaded)]


def test_what_is_written_into_a_memmap_is_in_the_file(process_pool, file):
    """Workers write through a memmap that is open for writing, also one that the caller has just made."""

    def write(row, i):
        row[:] = -i
        return row

    table = np.memmap(file, float, "r+", shape=(1000, 10))
    results = process_pool().map(write, list(table[:5]), range(5))
    assert [float(row[0]) for row in table[:5]] == [0, -1, -2, -3, -4]
    table[4, 4] = 99
    assert results[4][4] == 99
    made = np.memmap(file.with_name("new"), float, "w+", shape=(50, 10))
    process_pool().map(write, list(made), range(50))
    assert made[:, 0].tolist() == [-float(i) for i in range(50)]


def test_a_private_memmap_is_private(process_pool, file):
    """What was written into a memmap of mode "c" is seen by the workers and by no one else."""
    table = np.memmap(file, float, "c", shape=(1000, 10))
    table[0, 0] = 50
    assert process_pool().map(lambda t: float(t[0, 0]), [table]) == [50]
    clean = np.memmap(file, float, "c", shape=(1000, 10))

    def spoil(i, t):
        t[1] = -1
        return float(t[1].sum())

    assert process_pool().map(spoil, range(3), t=clean) == [-10.0] * 3
    assert clean[1].sum() == np.arange(10, 20).sum()
    assert np.fromfile(file).sum() == np.arange(10_000).sum()


@pytest.mark.skipif(system.WINDOWS, reason="a file that is mapped stays where it is")
def test_a_memmap_whose_file_is_gone_travels_by_value(process_pool, file):
    """A file that was removed, or replaced by another, does not change what arrives."""
    table = np.memmap(file, float, "r", shape=(1000, 10))
    total = float(table.sum())
    os.replace(file, file.with_name("moved"))
    np.zeros(10_000).tofile(file)
    assert process_pool().map(lambda t: float(t.sum()), [table, table[:]]) == [total, total]
    file.unlink()
    assert process_pool().map(lambda t: float(t.sum()), [table]) == [total]


def test_views_of_one_file_are_one_memory(process_pool, file):
    """Two views of a memmap in one item overlap there as they do here."""
    for mode in ("r+", "c"):
        table = np.memmap(file, float, mode, shape=(1000, 10))
        assert process_pool().map(
            lambda pair: bool(np.shares_memory(*pair)), [(table, table[5:]), (table[:5], table[5:])]
        ) == [True, False]


# ---- shared arrays ----------------------------------------------------------------------------------


def put(i, table):
    table[i] = i + 1
    return os.getpid()


@pytest.fixture(params=["memory", "folder"])
def shared(request, folder):
    """``share`` into memory, and into a file in a folder."""
    if request.param == "memory":
        yield pk.share
    else:
        with pk.configure(temp_folder=str(folder)):
            yield pk.share
        assert os.listdir(folder) == []


def test_a_shared_array_is_one_memory(pool, shared):
    """What workers write is seen by the caller, and what the caller writes by the workers."""
    table = shared(np.zeros(50))
    own = pool(chunksize=1)
    if pool.elsewhere:  # where it is refused by name
        with pytest.raises(pk.TransportError, match=r"pk\.share"):
            own.map(put, range(50), table=table)
        return
    own.map(put, range(50), table=table)
    assert table.tolist() == list(range(1, 51))
    table[:] = 5
    assert own.map(lambda i, t: float(t[i]), range(50), t=table) == [5.0] * 50
    own.map(put, [0] * 50, [table[i:] for i in range(50)])
    assert table.tolist() == [1.0] * 50


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"object", "masked", "masked, nothing"}))
def test_every_kind_of_array_can_be_shared(kind):
    """Values, dtype, shape and memory order are those of the original; the type is the plain one."""
    array = arrays(60)[kind]
    copy = pk.share(array)
    assert type(copy) is np.ndarray
    assert copy.dtype == array.dtype
    assert copy.shape == array.shape
    assert copy.flags.writeable
    if array.flags.f_contiguous:
        assert copy.flags.f_contiguous
    np.testing.assert_array_equal(copy, np.asarray(array))
    assert pk.is_shared(copy)
    assert not pk.is_shared(array)


def test_views_of_a_shared_array_travel_by_name(process_pool):
    """Slices, other dtypes, transposes and what lies inside objects cost a name, and stay that memory."""
    table = pk.share(np.zeros((100, 100)))
    items = [
        table, table[5:7], table[:, ::-3], table.T, table.view("i8"), table[3, 3:4], {"deep": [table]},
        Holder({"x": table[1]}), table.view(Tagged), table[2, 2, ...],
    ]  # fmt: skip
    assert sizes(*items) < 5_000

    def fill(item, value):
        array = (
            item["deep"][0] if isinstance(item, dict) else getattr(item, "inner", {"x": item})["x"]
        )
        array[...] = value
        return pk.is_shared(array), array.shape, array.flags.writeable

    for value, item in enumerate(items, 1):
        (seen,) = process_pool().map(fill, [item], [value])
        assert seen[0]
        assert seen[2]
        assert table.any()
        table[...] = 0
    assert process_pool().map(lambda a: a.flags.writeable, [read_only(table[:])]) == [False]


def test_two_names_of_one_shared_memory_are_one(process_pool):
    """As item, frozen keyword and global of the function at once it is the same memory."""
    table = pk.share(np.zeros(10))

    def check(item, frozen):
        item[0] = 4
        return float(frozen[0] + table[0])

    assert process_pool().map(check, [table], frozen=table) == [8.0]


def test_a_shared_array_comes_back_as_itself(process_pool):
    """A result on the caller's shared memory is that memory; one that a worker made is shared too."""
    table = pk.share(np.zeros(10))
    own = process_pool(chunksize=1)
    for i, part in enumerate(own.map(lambda i, t: t[i : i + 2], range(5), t=table)):
        part[0] = i
        assert table[i] == i
    made = own.map(lambda i: pk.share(np.full(LARGE, i)), range(6))
    assert all(pk.is_shared(array) for array in made)
    own.map(put, [0] * 6, made)
    assert [int(array[0]) for array in made] == [1] * 6
    assert [int(array[1]) for array in made] == list(range(6))


def test_shared_arrays_in_nested_calls(process_pool):
    """A call inside an item passes the same memory on."""

    def inner(j, row):
        row[j] = j

    def outer(row):
        pk.map(inner, range(10), row=row)

    table = pk.shared_empty((4, 10), int)
    process_pool().map(outer, table)
    assert table.tolist() == [list(range(10))] * 4


def test_descriptors_of_shared_memory_that_are_lost():
    """Nothing tells which have come, so none is taken for another."""
    outbox, inbox = segments.Outbox(), segments.Inbox()
    pickled = pickling.dumps((pk.share(np.ones(9)), pk.share(np.ones(9)), np.ones(LARGE)))
    packet, segment = outbox.pack(pickled)
    fds = [segment.fd, *(memory.fd for memory in pickled.shared)]
    for count in (1, 2):
        with pytest.raises(segments.Missing):
            inbox.adopt(packet, [anonymous.duplicate(fd) for fd in fds[:count]])
    inbox.adopt(packet, [anonymous.duplicate(fd) for fd in fds])
    assert [a[0] for a in pickling.loads(*inbox.unpack(packet, copy=True))] == [1, 1, 1]


def test_a_segment_whose_memory_is_gone_is_given_up(monkeypatch):
    """What was in it, when it is to be used again and there is no memory, goes in the message."""
    outbox, array = segments.Outbox(), np.ones(LARGE)
    _, segment = outbox.pack(pickling.dumps(array))
    outbox.free([segment.id])

    def fail(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(segments.Segment, "recycle", fail)
    packet, none = outbox.pack(pickling.dumps(array))
    assert none is None
    assert len(packet[0]) > array.nbytes
    assert outbox.forgotten == [segment.id]
    assert segment.fd == -1


def test_more_shared_arrays_than_one_message_holds(process_pool):
    """Hundreds of shared arrays may be passed in one chunk."""
    many = [pk.share(np.full(3, i)) for i in range(150)]
    assert process_pool(chunksize=150).map(lambda a: int(a.sum()), many) == [
        3 * i for i in range(150)
    ]


def test_replacements_and_initializers_see_shared_memory(process_pool):
    """Workers that are started later, and initializers, get the memory too."""
    table = pk.share(np.zeros(40))

    def begin(t):
        t[-1] = 1

    own = process_pool(tasks_per_worker=3, initializer=begin, initargs=(table,))
    pids = own.map(put, range(39), table=table)
    assert len(set(pids)) > 5
    assert table.tolist() == [*range(1, 40), 1]


@needs_proc
@needs_memfd
def test_shared_memory_is_freed_with_its_last_array(process_pool, tmp_path):
    """When the caller has dropped it and the call is over, no process has it any more."""
    own = process_pool(chunksize=1)
    inherited = mapped_by_both(own, tmp_path / "before")  # by fork, from earlier tests
    before = descriptors_shared()
    table = pk.share(np.ones(LARGE))
    part = table[5:]
    own.map(put, range(8), table=table)
    own.map(put, [1] * 8, [table] * 8)
    del table
    assert descriptors_shared() == before + 1
    del part
    assert descriptors_shared() == before
    assert mapped_by_both(own, tmp_path / "after") == inherited


def mapped_by_both(own, folder):
    """How much shared memory each of the two workers has mapped, by its process."""
    folder.mkdir()
    return dict(own.map(met_with_maps, range(2), folder=folder))


def met_with_maps(i, folder):
    meet(i, folder, 2)
    gc.collect()  # a forked worker has the garbage of earlier tests
    return os.getpid(), maps_shared(i)


def descriptors_shared():
    links = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum("parallelkit-shared" in os.readlink(path) for path in links) // 2  # mmap has its own


def maps_shared(_):
    return Path("/proc/self/maps").read_text().count("parallelkit-shared")


@needs_proc
def test_a_stream_of_shared_arrays_needs_little(process_pool):
    """Shared arrays that are dropped as the stream goes on are gone everywhere."""
    own = process_pool(chunksize=1)
    own.map(identity, range(4))
    stream = (pk.share(np.full(LARGE, i)) for i in range(300))
    counts = [count for _, count in own.imap(lambda a: (a[:3], maps_shared(a)), stream)]
    assert max(counts) < 20
    assert descriptors_shared() < 20


def test_a_shared_array_is_an_ordinary_array():
    """It can be copied and pickled by value, and keeps its memory as long as any view of it."""
    table = pk.share(np.arange(5))
    assert table.copy().base is None
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(table)), table)
    view = table[2:]
    del table
    assert view.tolist() == [2, 3, 4]


def test_sharing_what_is_shared():
    """Such an array is returned as it is."""
    table = pk.share(np.arange(5))
    assert pk.share(table) is table
    assert pk.share(table[1:]).base is not None
    assert np.shares_memory(pk.share(table[1:]), table)


@pytest.mark.parametrize("bad", [np.array([None, 1]), [object()], np.zeros(2, "O,i4")])
def test_objects_cannot_be_shared(bad):
    """An array of Python objects is refused with its reason."""
    with pytest.raises(TypeError, match="Python objects"):
        pk.share(bad)


def test_no_room_is_a_clear_error():
    """Memory that cannot be had is a MemoryError now, not a crash when it is used."""
    with pytest.raises((MemoryError, ValueError), match="room"):
        pk.shared_empty((1 << 50,), "u1")
    with pytest.raises(ValueError, match="negative"):
        pk.shared_empty((-1, 2))


def test_is_shared_tells(file):
    """True for shared arrays, memmaps and their views; false for all else, whatever it is."""
    assert not pk.is_shared(np.ones(3))
    assert not pk.is_shared([1, 2])
    assert not pk.is_shared(None)
    table = np.memmap(file, float, "r")
    assert pk.is_shared(table)
    assert pk.is_shared(np.asarray(table)[5:])
    assert not pk.is_shared(table + 1)


# ---- many small arrays ----------------------------------------------------------------------------


def test_many_small_arrays_are_still_themselves(process_pool):
    """They cross as one, and arrive as arrays of their own, whatever kinds are mixed."""

    def alone(array):
        array += 1  # into no other's memory
        return array

    own = process_pool(chunksize=50)
    lines = [np.full(10, float(i)) for i in range(200)]
    for items in (
        lines,
        [line.reshape(2, 5) for line in lines],
        list(np.array(lines)),
        tuple(lines),
    ):
        results = own.map(alone, items)
        assert [float(a.sum()) for a in results] == [10.0 * i + 10 for i in range(200)]
        assert {a.shape for a in results} == {items[0].shape}
        assert all(a.flags.owndata and a.flags.writeable for a in results)
    mixed = [*lines, np.ones(10, "f4"), np.ones(9), np.ones((10, 1)), read_only(np.ones(10))]
    for result, item in zip(own.map(identity, mixed * 2), mixed * 2, strict=True):
        check_equal(result, item)
    same = own.map(lambda pair: pair[0] is pair[1], [(line, line) for line in lines])
    assert all(same)
    for others in (lines, [(line,) for line in lines]):
        assert all(own.map(lambda a, b: a is (b[0] if type(b) is tuple else b), lines, others))


def test_small_views_of_shared_memory_are_not_copied_together(process_pool):
    """Many rows of a shared array stay rows of it."""
    table = pk.shared_empty((64, 4))
    process_pool(chunksize=32).map(lambda row, i: row.fill(i), list(table), range(64))
    assert table[:, 0].tolist() == list(range(64))
