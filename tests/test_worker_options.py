"""Options about a worker's life and about trying again: devices, finalizer, retry_wait."""

import functools
import os
import time
from pathlib import Path

import pytest
from helpers import wait_until

import parallelkit as pk

ONE_START_METHOD = True


def variable(_, name):
    return os.environ.get(name)


def met(_, folder, name):
    """The value of a variable, when both workers are there."""
    Path(folder, str(os.getpid())).touch()
    wait_until(lambda: len(os.listdir(folder)) == 2, "the other worker")
    return os.environ.get(name)


@pytest.mark.each_start_method
@pytest.mark.parametrize(
    ("devices", "name", "seen"),
    [([3, 5], "CUDA_VISIBLE_DEVICES", {"3", "5"}), ({"MY_DEVICE": ["a"]}, "MY_DEVICE", {"a"})],
)
def test_each_worker_sees_its_device(process_pool, folder, devices, name, seen):
    """Worker k sees device k modulo their number; the caller's environment stays as it is."""
    own = process_pool(devices=devices, chunksize=1)
    assert set(own.map(met, range(2), folder=folder, name=name)) == seen
    assert name not in os.environ


def device_at_start(folder):
    Path(folder, os.environ["CUDA_VISIBLE_DEVICES"]).touch()


def test_the_device_is_there_before_the_initializer(folder):
    """An initializer opens what the device is for."""
    with pk.Pool(2, devices=["7"], initializer=device_at_start, initargs=(folder,)) as own:
        own.map(abs, range(4))
    assert os.listdir(folder) == ["7"]


def leave(folder):
    Path(folder, f"ended-{os.getpid()}").touch()


@pytest.mark.each_start_method
def test_a_finalizer_runs_once_in_each_worker(process_pool, folder):
    """Whatever ends a worker in an orderly way: a shutdown, or a number of items."""
    own = process_pool(finalizer=functools.partial(leave, folder), tasks_per_worker=1)
    pids = set(own.map(lambda _: os.getpid(), range(3)))
    pk.shutdown()
    ended = {int(name.partition("-")[2]) for name in os.listdir(folder)}
    assert len(pids) == 3
    assert pids <= ended


def end_badly():
    raise RuntimeError("the end")


def test_a_finalizer_that_fails_spoils_nothing(capfd):
    """Its traceback is printed; results are as they were."""
    with pk.Pool(1, finalizer=end_badly, memory_limit="64GB") as own:
        assert own.map(abs, [-1]) == [1]
    pk.shutdown()
    assert "RuntimeError: the end" in capfd.readouterr().err


def fail_twice(x, folder):
    """Fail the first two times; leave the time of each."""
    times = Path(folder, f"times-{x}")
    with times.open("a") as file:
        file.write(f"{time.monotonic()}\n")
    if len(times.read_text().splitlines()) < 3:
        raise OSError(x)
    return x


def test_waits_before_an_item_is_tried_again(pool, folder):
    """At least as long as it says, and twice as long the next time; the other items go on meanwhile."""
    own = pool(retries=2, retry_on=(OSError,), retry_wait=0.05, chunksize=1)
    assert own.map(fail_twice, range(3), folder=folder) == [0, 1, 2]
    for x in range(3):
        first, second, third = map(float, Path(folder, f"times-{x}").read_text().splitlines())
        assert second - first >= 0.05
        assert third - second >= 0.1


def test_an_error_does_not_wait_for_what_would_be_tried_again(pool):
    """Another item ends the call: it ends then, and not when the wait is over."""
    own = pool(retries=1, retry_on=(OSError,), retry_wait=3600, chunksize=1)
    if own.workers == 1:
        pytest.skip("the wait is in the one thread that there is")
    with pytest.raises(ZeroDivisionError):
        own.map(lambda x: 1 // x if x == 0 else fail(x), range(2))


def fail(x):
    raise OSError(x)


@pytest.mark.parametrize(
    "options",
    [
        {"devices": []},
        {"devices": "01"},
        {"devices": {"": [1]}},
        {"devices": 3},
        {"retry_wait": -1},
        {"retry_wait": "1"},
        {"retry_wait": float("nan")},
        {"finalizer": 3},
        {"backend": "thread", "devices": [1]},
        {"backend": "serial", "finalizer": print},
    ],
)
def test_bad_values(options):
    """Each is an error that names the option."""
    with pytest.raises((TypeError, ValueError), match=r"devices|retry_wait|finalizer"):
        pk.Pool(**options)


AT_THE_END = """
import atexit, os
import parallelkit as pk
def finish(): os.write(1, b"finalizer ")
def handler(): os.write(1, b"handler ")
def item(x):
    atexit.register(handler)
    return x
assert pk.Pool(1, finalizer=finish, start_method=METHOD).map(item, [1, 2]) == [1, 2]
"""


def test_workers_end_in_an_orderly_way_at_the_end_of_a_script(script, start_method):
    """Without `shutdown`, too, their finalizers and what items have registered are called."""
    ran = script(AT_THE_END.replace("METHOD", repr(start_method)))
    assert (ran.out, ran.err) == ("finalizer handler handler ", "")
