"""Workers that nobody uses end: when they are due, never under a call, and others take their place."""

import gc
import os
import threading
import time

import pytest
from helpers import identity, increment, pid, wait_for, wait_until
from psutil import pid_exists

import parallelkit as pk
from parallelkit.place import system

QUICK = "spawn" if system.WINDOWS else "fork"


def end_idle(seconds):
    """End the workers that would be due after so many seconds; when to look again."""
    from parallelkit.backends.processes import pool  # which the first call imports

    return pool.end_idle(time.monotonic() + seconds)


def pids(pool):
    return set(pool.map(pid, range(8)))


def gone(workers):
    return not any(map(pid_exists, workers))


def draw(x, rng):
    return x, float(rng.random())


def waits(x, gate):
    wait_for(gate)
    return os.getpid()


def test_workers_end_when_they_have_been_idle(process_pool):
    """Not before their time is over; the next calls have new ones."""
    pool = process_pool()
    workers = pids(pool) | {pool.submit(pid).result()}
    end_idle(200)
    assert not gone(workers)
    assert end_idle(301) is None
    assert gone(workers)
    assert pool.submit(increment, 1).result() == 2
    assert pool.map(increment, [1, 2]) == [2, 3]


@pytest.fixture
def forked_pool():
    """Two workers that are there at once."""
    with pk.Pool(2, start_method=QUICK) as pool:
        yield pool


def test_calls_that_are_submitted_go_on_with_new_workers():
    """A pool from which nothing is asked for has no workers; its calls are numbered on."""
    pool = pk.Pool(2, start_method=QUICK, seed=7)
    first = [pool.submit(draw, x).result() for x in range(3)]
    worker = pool.submit(pid).result()
    assert end_idle(301) is None
    assert gone([worker])
    later = [pool.submit(draw, x) for x in range(4, 7)]
    together = [*first, (3, None), *(future.result() for future in later)]
    alone = pk.Pool(backend="serial", seed=7).map(draw, range(7))
    assert together[:3] + together[4:] == alone[:3] + alone[4:]


def test_what_goes_wrong_once_is_looked_at_again(monkeypatch, forked_pool):
    """After an error of the thread that ends idle workers, the next call has another one."""
    from parallelkit.backends.processes import idle, pool

    looks = []

    def look():
        looks.append(threading.current_thread())
        if len(looks) == 1:
            raise OSError("too many open files")

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(pool, "_sleeper", idle.Sleeper(look))
    pids(forked_pool)
    wait_until(lambda: looks and not looks[0].is_alive(), "the end of the thread")
    pids(forked_pool)
    wait_until(lambda: len(looks) == 2, "another look")


def test_nothing_is_kept_of_workers_that_have_ended():
    """A pool may go on for months, and its workers end each time that nothing is submitted."""
    from parallelkit.backends.processes.workers import Workers

    def sets():
        gc.collect()
        return [one for one in gc.get_objects() if type(one) is Workers]

    of_others = {id(one) for one in sets()}
    pool = pk.Pool(2, start_method=QUICK)
    for x in range(4):
        assert pool.submit(increment, x).result() == x + 1
        assert end_idle(301) is None
    assert sum(id(one) not in of_others for one in sets()) <= 1


def test_a_pool_without_workers_can_be_closed(forked_pool):
    """It need not start any for that."""
    pool = forked_pool
    pool.submit(pid).result()
    end_idle(301)
    pool.close()
    with pytest.raises(ValueError, match="closed"):
        pool.submit(pid)


def test_workers_in_use_are_left_alone(forked_pool, folder):
    """Neither an item that runs nor an iterator that is not read to its end loses them."""
    pool, gate = forked_pool, folder / "gate"
    running = pool.submit(waits, 0, gate=gate)
    results = pool.imap(increment, range(1000))
    wait_until(running.running, "the item")
    assert next(results) == 1
    assert end_idle(1e6) is not None
    gate.touch()
    assert pid_exists(running.result())
    assert list(results) == list(range(2, 1001))


def test_they_end_by_themselves():
    """A thread sees to it, which then ends too."""
    with pk.Pool(2, start_method=QUICK, idle=0.01) as pool:
        workers = pids(pool)
        wait_until(lambda: gone(workers), "the end of the workers")
        assert pool.map(increment, [1]) == [2]


def test_calls_meet_the_end_of_workers():
    """Workers that end all the time cost no call its result."""
    with pk.Pool(2, start_method=QUICK, idle=0.001) as pool:
        for x in range(12):
            assert pool.submit(identity, x).result() == x
            assert pool.map(increment, [x, x]) == [x + 1] * 2


def test_the_last_call_says_how_long(monkeypatch):
    """None is for ever, also over what is configured; those of another number of workers end sooner."""
    monkeypatch.setenv("PARALLELKIT_IDLE", "1000")
    with pk.configure(start_method=QUICK):
        other, mine = pids(pk.Pool(3)), pids(pk.Pool(2))
        end_idle(200)
        assert gone(other)
        assert not gone(mine)
        pids(pk.Pool(2, idle=None))
        assert end_idle(1e9) is None
        assert not gone(mine)
        pids(pk.Pool(2))
        end_idle(1001)
        assert gone(mine)
        monkeypatch.setenv("PARALLELKIT_IDLE", "never")
        mine = pids(pk.Pool(2))
        assert end_idle(1e9) is None
        assert not gone(mine)


@pytest.mark.parametrize(("idle", "error"), [(0, ValueError), (-1, ValueError), ("5", TypeError)])
def test_a_bad_time_is_refused(idle, error):
    """Of the pool, by name."""
    with pytest.raises(error, match="idle"):
        pk.Pool(idle=idle)
