"""memory_limit, tasks_per_worker, retries and retry_on: what an item may take, and how often it is tried."""

import platform
import sys
from pathlib import Path

import faults
import hungry
import pytest
from faults import BAD, WAYS, outcomes, tallies
from helpers import PlainError, increment, pid
from running import run_script

import parallelkit as pk

MB = 1 << 20
TOO_MUCH = 4096 * MB

ONE_START_METHOD = True


def limit(make, room=1024):
    """A limit of so many MB; for a forked worker beyond what this process has, which it has too."""
    own = Path("/proc/self/status")
    inherited = 0
    if make.start_method == "fork" and own.exists():
        (line,) = (line for line in own.read_text().splitlines() if line.startswith("VmData"))
        inherited = int(line.split()[1]) * 1024
    return inherited + room * MB


# ---- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_an_allocation_past_the_limit(process_pool, way):
    """What would take more memory than a worker may have is a MemoryError of that item; the worker lives on."""
    own = process_pool(memory_limit=limit(process_pool), on_error="return")
    before = set(own.map(pid, range(50)))
    found = outcomes(own, way, hungry.allocate, range(5), nbytes=TOO_MUCH)
    assert type(found.pop(BAD)) is MemoryError
    assert found == {0: 0, 1: 1, 3: 3, 4: 4}
    assert before & set(own.map(pid, range(50)))


def test_the_error_names_the_item(process_pool):
    """The MemoryError is raised with a note that names the item."""
    with pytest.raises(MemoryError) as caught:
        process_pool(memory_limit=limit(process_pool)).map(
            hungry.allocate, range(5), nbytes=TOO_MUCH
        )
    assert any(f"item {BAD} " in note for note in caught.value.__notes__)


@pytest.mark.each_start_method
def test_numpy_meets_the_limit(process_pool):
    """Arrays count as well as objects."""
    own = process_pool(memory_limit=limit(process_pool), on_error="return")
    results = own.map(hungry.allocate_array, range(5), nbytes=TOO_MUCH)
    assert isinstance(results.pop(BAD).exception, MemoryError)
    assert results == [0, 1, 3, 4]


def test_memory_in_small_pieces(process_pool):
    """A structure that grows object by object meets the limit too, and its item is told or its worker replaced."""
    own = process_pool(memory_limit=limit(process_pool, 384), on_error="return")
    results = own.map(hungry.grow, range(5), nbytes=2048 * MB)
    assert isinstance(results.pop(BAD).exception, (MemoryError, pk.WorkerDied))
    assert results == [0, 1, 3, 4]


def test_a_result_near_the_limit(process_pool):
    """A result that fits the memory but not once more on its way back arrives or is an error of its item."""
    own = process_pool(memory_limit=limit(process_pool), on_error="return")
    found = own.map(hungry.make_bytes, range(4), nbytes=500 * MB)[BAD]
    if isinstance(found, pk.Failure):
        assert isinstance(found.exception, (MemoryError, pk.ParallelError))
    else:
        assert len(found) == 500 * MB
    assert own.map(increment, range(3)) == [1, 2, 3]


def test_what_comes_and_goes_meets_the_limit(process_pool):
    """An argument or a result that takes too much on its way through the worker is a MemoryError of its item too."""
    own = process_pool(memory_limit=limit(process_pool), on_error="return", chunksize=1)
    for results in (
        own.map(type, [0, 1, hungry.Swelling(TOO_MUCH)]),
        own.map(hungry.swell, range(3), nbytes=TOO_MUCH),
    ):
        assert type(results.pop().exception) is MemoryError
        assert results in ([int, int], [0, 1])


@pytest.mark.each_start_method
def test_the_limit_leaves_the_caller_alone(process_pool):
    """The limit is that of the workers; the process of the caller may have what it likes."""
    import resource

    before = [resource.getrlimit(kind) for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS)]
    assert process_pool(memory_limit=limit(process_pool)).map(increment, range(3)) == [1, 2, 3]
    after = [resource.getrlimit(kind) for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS)]
    assert before == after


def test_a_leak_is_mended_by_replacement(process_pool):
    """Workers that leak never reach the limit where they are replaced after so many items."""
    own = process_pool(memory_limit=limit(process_pool), tasks_per_worker=2, chunksize=5)
    assert own.map(hungry.leak, range(14), nbytes=100 * MB) == list(range(14))


# ---- tasks_per_worker ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "chunksize"), [("map", 1), ("imap", 10), ("uimap", None), ("submit", None)]
)
def test_items_count_not_chunks(process_pool, folder, way, chunksize):
    """No worker runs more items than that, whatever the chunks and the calls, and each item runs once."""
    own = process_pool(tasks_per_worker=3, chunksize=chunksize, on_error="return")
    for begin in (0, 10):
        items = range(begin, begin + 10)
        found = outcomes(own, way, hungry.minus, [*items], by=begin, folder=folder)
        assert found == {x: x for x in range(10)}
    told = tallies(folder)
    assert sum(told.values()) == 20
    assert max(told.values()) <= 3


@pytest.mark.each_start_method
def test_one_item_for_each_worker(process_pool):
    """tasks_per_worker=1 gives each item a process of its own."""
    numbers = process_pool(tasks_per_worker=1).map(pid, range(10))
    assert len(set(numbers)) == 10


def test_failures_count_as_items(process_pool, folder):
    """Items that fail, hang or kill their worker do not put the count out."""
    own = process_pool(tasks_per_worker=2, on_error="return", timeout=faults.SHORT, chunksize=6)
    results = own.map(hungry.mixed, range(12))
    kinds = [type(r.exception) if isinstance(r, pk.Failure) else r for r in results]
    expected = [0, PlainError, pk.WorkerDied, pk.TaskTimeout]
    assert kinds == [*expected, 4, *expected[1:], 8, *expected[1:]]


# ---- retries and retry_on ------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_worker_that_dies_now_and_then(process_pool, folder, way):
    """An item whose worker dies is tried again, `retries` times, and nothing else is run twice."""
    own = process_pool(retries=2, chunksize=1, on_error="return")
    found = outcomes(own, way, faults.flaky, range(6), folder=folder, failures=2, error=None)
    assert found == {x: x for x in range(6)}
    assert tallies(folder) == {f"item-{x}": 3 if x == BAD else 1 for x in range(6)}


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_the_attempts_are_told(process_pool, folder, retries):
    """The failure says how often the item was tried, and so does a note on its error."""
    own = process_pool(retries=retries, on_error="return", chunksize=1)
    failure = own.map(faults.flaky, range(6), folder=folder, failures=99, error=None)[BAD]
    assert type(failure.exception) is pk.WorkerDied
    assert failure.attempts == retries + 1
    assert tallies(folder)[f"item-{BAD}"] == retries + 1
    if retries:
        assert f"after {retries + 1} attempts" in failure.exception.__notes__


@pytest.mark.parametrize("way", WAYS)
def test_retry_on_an_exception(either_pool, folder, way):
    """Exceptions named by retry_on are tried again on every backend; all items are right in the end."""
    own = either_pool(retries=2, retry_on=(PlainError,), on_error="return", chunksize=3)
    found = outcomes(own, way, faults.flaky, range(6), folder=folder, failures=2)
    assert found == {x: x for x in range(6)}
    assert tallies(folder) == {f"item-{x}": 3 if x == BAD else 1 for x in range(6)}


def test_retry_on_runs_out(pool, folder):
    """After `retries` more attempts the exception is the item's failure, with the attempts told."""
    own = pool(retries=2, retry_on=PlainError, on_error="return")
    failure = own.map(faults.flaky, range(6), folder=folder, failures=99)[BAD]
    assert type(failure.exception) is PlainError
    assert failure.attempts == 3
    with pytest.raises(PlainError) as caught:
        pool(retries=1, retry_on=PlainError).map(faults.flaky, [0, BAD], folder=folder, failures=99)
    assert "after 2 attempts" in caught.value.__notes__


def test_retry_on_names_other_exceptions(pool, folder):
    """What is not named is not tried again."""
    own = pool(retries=5, retry_on=(OSError, KeyError), on_error="return")
    failure = own.map(faults.flaky, range(6), folder=folder, failures=1)[BAD]
    assert type(failure.exception) is PlainError
    assert failure.attempts == 1


@pytest.mark.parametrize("kind", [pk.TaskTimeout, TimeoutError, pk.ParallelError])
def test_retry_on_a_timeout(process_pool, folder, kind):
    """A timeout is tried again where retry_on names it, by any of its names, and else not."""
    own = process_pool(retries=1, retry_on=kind, on_error="return", timeout=faults.SHORT)
    failure = own.map(faults.counted, range(4), folder=folder, bad=(BAD,))[BAD]
    assert type(failure.exception) is pk.TaskTimeout
    assert failure.attempts == 2
    assert tallies(folder)[f"item-{BAD}"] == 2


def test_timeouts_are_not_retried_unasked(process_pool, folder):
    """`retries` alone is for workers that died."""
    own = process_pool(retries=3, on_error="return", timeout=faults.SHORT)
    assert own.map(faults.counted, range(4), folder=folder, bad=(BAD,))[BAD].attempts == 1
    assert tallies(folder)[f"item-{BAD}"] == 1


@pytest.mark.each_start_method
def test_retry_on_too_little_memory(process_pool):
    """A MemoryError can be tried again like any other."""
    own = process_pool(
        memory_limit=limit(process_pool), retries=2, retry_on=MemoryError, on_error="return"
    )
    failure = own.map(hungry.allocate, range(4), nbytes=TOO_MUCH)[BAD]
    assert (type(failure.exception), failure.attempts) == (MemoryError, 3)


# ---- descriptors -------------------------------------------------------------------------------

RUN_OUT = """
import json, os, resource
import numpy as np
import parallelkit as pk

def large(x):
    return np.full(300_000, float(x))

pool = pk.Pool(2, chunksize=1)
pool.map(abs, range(4))
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0) + 1, hard))
try:
    pool.map(large, range(8))
    told = "nothing"
except pk.ParallelError as error:
    told = str(error)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
for _ in range(3):
    assert [array[-1] for array in pool.map(large, range(8))] == list(range(8))
print(json.dumps("ulimit -n" in told))
"""


def test_descriptors_that_run_out():
    """An error that names the limit, and a pool that works as soon as there are enough."""
    assert run_script(["-"], RUN_OUT).values == [True]


# ---- threads -------------------------------------------------------------------------------------

FEW_THREADS = """
import json, threading
import parallelkit as pk

allowed = 0
really_start = threading.Thread.start

def start(thread):
    global allowed
    if not allowed:
        raise RuntimeError("can't start new thread")
    allowed -= 1
    really_start(thread)

def double(x):
    return 2 * x

def outer(x):
    return pk.Pool(2, backend="thread").map(double, [x])[0]

ways = {
    "map": lambda pool: pool.map(double, range(10)),
    "imap": lambda pool: list(pool.imap(double, range(10))),
    "nested": lambda pool: pool.map(outer, range(10)),
    "submit": lambda pool: [future.result(20) for future in [pool.submit(double, x) for x in range(10)]],
}
threading.Thread.start = start
right, found, told = [2 * x for x in range(10)], {}, []
for name, way in ways.items():
    for few in range(9):  # four threads, and those of pathos that see to them
        allowed = few
        try:
            found[f"{name}, {few}"] = way(pk.Pool(4, backend="thread")) == right
        except pk.ParallelError as error:
            told.append((name, few, "no more processes and threads" in str(error)))
        allowed = 1000
        found[f"{name}, {few}, then enough"] = way(pk.Pool(4, backend="thread")) == right
        pk.shutdown()
print(json.dumps([[name for name, as_expected in found.items() if not as_expected], told]))
"""


def test_threads_that_run_out():
    """A call makes do with the threads there are; one that is submitted needs one, and says so. Then all is well again."""
    wrong, told = run_script(["-"], FEW_THREADS).values[0]
    assert wrong == []
    assert told == [["submit", 0, True]]


# ---- where there are no processes ----------------------------------------------------------------

SANDBOX = """
import ctypes, json, logging, struct, sys
def deny():
    # Threads can be started, and no processes.
    LOAD, EQUAL, SET, RETURN = 0x20, 0x15, 0x45, 0x06
    EPERM, ENOSYS, ALLOW = 0x50001, 0x50026, 0x7FFF0000
    program = [
        (LOAD, 0, 0, 0),            # number of the call
        (EQUAL, 7, 0, 57),          # fork
        (EQUAL, 6, 0, 58),          # vfork
        (EQUAL, 6, 0, 435),         # clone3: the C library tries clone then
        (EQUAL, 1, 0, 56),          # clone
        (RETURN, 0, 0, ALLOW),
        (LOAD, 0, 0, 16),           # its flags
        (SET, 0, 1, 0x10000),       # CLONE_THREAD
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, EPERM),
        (RETURN, 0, 0, ENOSYS),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    filters = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
    if libc.prctl(22, 2, filters):
        print(json.dumps("no filters here"))
        sys.exit()

class Told(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())

told = []
logging.getLogger("parallelkit").addHandler(Told())
import parallelkit as pk

deny()
found = [pk.map(lambda x: x + 1, [1, 2]), list(pk.imap(abs, [-1])), pk.Pool().submit(abs, -1).result()]
found.append(pk.Pool(2, seed=1).map(lambda x, rng: x, [1, 2]))
errors = []
for options in ({"backend": "process"}, {"start_method": "spawn"}, {"start_method": "fork"}, {"timeout": 5}):
    try:
        pk.Pool(2, **options).map(abs, [-1, -2])
    except pk.ParallelError as error:
        errors.append("lets this process start no others" in str(error))
print(json.dumps([found, errors, len(told), "calls run on threads" in told[0]]))
"""


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the filter is of its kernel"
)
def test_where_processes_are_denied():
    """In a sandbox the default runs on threads, and says so once; what was asked for is an error."""
    (seen,) = run_script(["-"], SANDBOX).values
    if seen == "no filters here":
        pytest.skip("the system takes no filters of calls")
    assert seen == [[[2, 3], [1], 1, [1, 2]], [True] * 4, 1, True]
