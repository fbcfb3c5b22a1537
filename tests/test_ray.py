"""Items on Ray, on this machine: the part of the contract that is its own, and workers that are lost."""

import logging
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import PlainError, fail_from, increment, mark, wait_for, wait_until
from running import run_script

import parallelkit as pk
from parallelkit.backends.ray_start import patience

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.timeout(360)  # engines take their time to start on a busy machine

SETTING = "as it was"


@pytest.fixture(scope="module")
def ray_pool():
    """A pool on a Ray of two CPUs that is there already; it is not ours, and stays when we are done."""
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    with patience(ray):
        ray.init("local", num_cpus=2, **quiet)
    yield lambda **options: pk.Pool(backend="ray", **options)
    pk.shutdown()
    assert ray.is_initialized()
    ray.shutdown()


@pytest.fixture
def on_ray(ray_pool):
    """The same; afterwards it answers, and nothing that was put is referred to."""
    yield ray_pool
    assert ray_pool().map(increment, range(8)) == list(range(1, 9))
    worker = ray._private.worker.global_worker.core_worker
    wait_until(lambda: not worker.get_all_reference_counts(), "the end of all references")


class Point:
    pass


def test_the_calls(on_ray, caplog):
    """Calls, the script as it is now, errors with notes, records, seeds, blocks."""
    global SETTING
    own = on_ray()
    assert own.workers == 2
    assert own.map(lambda x, y, p: x + y + p, [1, 2], [10, 20], p=100) == [111, 122]
    assert list(own.imap(increment, iter(range(1000)))) == list(range(1, 1001))
    assert own.submit(pow, 2, 5).result(60) == 32
    assert own.map(lambda _: SETTING, [1]) == ["as it was"]
    SETTING = "changed"
    assert own.map(lambda _: SETTING, [1]) == ["changed"]
    assert type(own.map(lambda _: Point(), [1])[0]) is Point
    with pytest.raises(PlainError, match="no luck") as caught:
        own.map(fail_from, [7])
    assert any("item 0" in note for note in caught.value.__notes__)
    with caplog.at_level(logging.INFO):
        own.map(lambda x: logging.getLogger("theirs").info("item %d", x), [3])
    assert "item 3" in caplog.messages
    local, there = pk.Pool(2, seed=5), on_ray(seed=5)
    for _ in range(2):
        assert local.map(_draw, range(9)) == there.map(_draw, range(9))
    assert own.map(lambda _: pk.map(lambda _: pk.nesting().level, [1, 2]), [1]) == [[2, 2]]
    with pk.configure(backend="ray"):
        assert np.array_equal(pk.map_blocks(np.sqrt, np.arange(9.0)), np.sqrt(np.arange(9.0)))


def _draw(_):
    return np.random.random()


def test_large_keywords_lie_in_the_store(on_ray):
    """They are put once, and not sent with each chunk."""
    table = np.ones(1_000_000)
    assert on_ray(chunksize=1).map(lambda i, t: t[i] + i, range(20), t=table) == [
        i + 1 for i in range(20)
    ]


def test_a_worker_that_is_killed_costs_nothing(on_ray, folder):
    """An item whose worker is killed from outside runs again, also if that was alone with it the next time."""

    def twice_killed(x, folder):
        if x == 7 and (mark(folder, "killed") or mark(folder, "again")):
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    pool = on_ray(chunksize=1)
    assert pool.map(twice_killed, range(12), folder=folder) == list(range(12))


def test_the_item_that_kills_is_named_and_no_other(on_ray):
    """An item that takes its worker along is a WorkerDied, and its neighbours have their results."""

    def deadly(x):
        if x == 5:
            os._exit(3)
        return x

    results = on_ray(on_error="return", chunksize=1).map(deadly, range(8))
    assert [r for i, r in enumerate(results) if i != 5] == [0, 1, 2, 3, 4, 6, 7]
    assert isinstance(results[5].exception, pk.WorkerDied)


def test_iterators_that_are_dropped(on_ray):
    """What was under way ends, the workers are free for others; Ray survives it at whatever moment that is."""
    for n in range(1, 31):
        results = on_ray(chunksize=1).imap(increment, range(100_000))
        assert [next(results) for _ in range(n)] == list(range(1, n + 1))
        results.close()


def test_an_item_that_nobody_waits_for_is_interrupted(on_ray, folder):
    """A call that ends early leaves no worker busy for long."""

    def endless(x, folder):
        mark(folder, "begun")
        try:
            wait_for(folder / "never")
        finally:
            mark(folder, "ended")

    results = on_ray(chunksize=1).uimap(endless, [1], folder=folder)
    with pytest.raises(KeyboardInterrupt):
        threading.Thread(target=_interrupt_after, args=(folder / "begun",)).start()
        next(results)
    wait_for(folder / "ended")


def _interrupt_after(path):
    wait_for(path)
    os.kill(os.getpid(), signal.SIGINT)


def test_an_address_where_nobody_is(script):
    """It is named, and soon."""
    ran = script(
        'import parallelkit as pk\npk.Pool(backend="ray", address="127.0.0.1:9").map(abs, [1])',
        code=1,
        timeout=300,
    )
    assert "no Ray cluster answers at 127.0.0.1:9" in ran.err


NODES = Path(__file__).parent / "scripts" / "ray_nodes.py"


def test_nodes_come_and_go_and_the_head_is_lost():
    """A node that joins gets work, one that leaves costs none; without its head, Ray is told to be lost."""
    ran = run_script([NODES], files=False, timeout=300)
    lines = [line for line in ran.out.splitlines() if line.startswith(("60 items", "the head"))]
    assert lines[0] == "60 items on 2 nodes"
    assert "the head of Ray does not answer" in lines[1]
