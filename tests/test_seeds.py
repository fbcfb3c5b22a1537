"""Random streams: the same for item i whatever runs it, and never the same for two items."""

import itertools
import random
import threading

import numpy as np
import pytest
from running import run_script

import parallelkit as pk


def draw(x):
    return x, random.random(), float(np.random.rand())


def draw_rng(x, rng):
    return x, rng.random()


def draw_keyword(x, *, rng=None, scale=1.0):
    return x, scale * rng.random()


def draw_all(x, rng):
    return x, rng.random(), random.random(), float(np.random.rand())


def nested(x, rng):
    return x, rng.random(), pk.map(draw_rng, range(3)), list(pk.imap(draw_rng, [x]))


def spawning(x, rng):
    """What the item spawns itself, and what stands below it in nested calls."""
    own = [child.random() for one in rng.spawn(2) for child in one.spawn(2)]
    return [*own, *(value for _, value in pk.map(draw_rng, range(2)))]


def fails_at_first(x, rng, folder):
    value = rng.random()
    mark = folder / str(x)
    if not mark.exists():
        mark.touch()
        raise OSError("once")
    return x, value


def serially(func, n=6, seed=7, **frozen):
    with pk.Pool(backend="serial", seed=seed) as pool:
        return pool.map(func, range(n), **frozen)


@pytest.mark.parametrize("func", [draw, draw_rng, draw_keyword, draw_all, nested])
def test_streams_do_not_depend_on_the_backend(pool, func):
    """Every backend draws what the serial one draws."""
    if pool.backend == "thread" and func is draw_all:
        pytest.skip("with an rng, items run side by side, and share the global generators")
    assert pool(seed=7).map(func, range(6)) == serially(func)


def test_streams_do_not_depend_on_workers_chunks_or_the_way_of_the_call(pool):
    """Item i has its stream in any chunk, in any order, in a list or an iterator."""
    expected = serially(draw_rng, 40)
    for options in ({"workers": 1}, {"workers": 3, "chunksize": 7}, {"chunksize": 1}):
        one = pool(seed=7, same_each_call=True, **options)
        assert one.map(draw_rng, range(40)) == expected
        assert list(one.imap(draw_rng, iter(range(40)))) == expected
        assert sorted(one.uimap(draw_rng, range(40))) == expected
        assert one.starmap(draw_rng, [(x,) for x in range(40)]) == expected
        assert one.starmap(draw_rng, [{"x": x} for x in range(40)]) == expected
        assert one.run(pk.delayed(draw_rng)(x) for x in range(40)) == expected


def calls_of(own):
    """Three calls, in three of the ways, one of them empty."""
    return [own.map(draw_rng, range(3)), own.map(draw_rng, []), list(own.imap(draw_rng, range(3)))]


def test_calls_differ_in_a_fixed_order(pool):
    """Two calls of one pool are not correlated; a new pool, on any backend, begins anew."""
    calls = calls_of(pool(seed=7))
    assert len({value for call in calls for _, value in call}) == 6
    with pk.Pool(backend="serial", seed=7) as alone:
        assert calls == calls_of(alone)
        assert alone.submit(draw_rng, 0).result() not in calls[0]


SEEDS = [7, np.random.SeedSequence(7, spawn_key=(3,)), np.random.default_rng, np.random.RandomState]


@pytest.mark.parametrize("seed", SEEDS)
def test_calls_differ_whatever_the_seed(seed):
    """Unless the pool is told otherwise; a generator is then drawn from once."""
    for same in (False, True):
        pools = [
            pk.Pool(backend="serial", seed=seed(7) if callable(seed) else seed, same_each_call=same)
            for _ in range(2)
        ]
        one, other = map(calls_of, pools)
        assert one == other
        assert (one[0] == one[2]) is same


class Slow:
    """A generator from which two threads draw at a time, if they can."""

    bit_generator = None

    def __init__(self, meanwhile):
        self.other = threading.Thread(target=meanwhile)
        self.draws = 0

    def integers(self, _):
        self.draws += 1
        if self.draws == 1:
            self.other.start()
            self.other.join(0.05)
        return self.draws


def test_threads_share_what_is_drawn_once():
    """With the same streams for each call, also where two threads make the first calls at a time."""
    found = []
    generator = Slow(lambda: found.append(own.map(draw_rng, range(3))))
    own = pk.Pool(backend="serial", seed=generator, same_each_call=True)
    found.append(own.map(draw_rng, range(3)))
    generator.other.join()
    assert found[0] == found[1]
    assert generator.draws == 1


def test_further_calls_stand_apart_from_the_first():
    """Their streams are numpy's, and neither those of the items of another call nor of their children."""
    own = pk.Pool(backend="serial", seed=7)
    values = [value for _ in range(2) for row in own.map(spawning, range(3)) for value in row]
    assert len(set(values)) == len(values)
    expected = np.random.default_rng(
        np.random.SeedSequence(7, spawn_key=((1 << 31) + 2, 1))
    ).random()
    assert own.map(draw_rng, range(2))[1] == (1, expected)


def twice(x, own=None):
    """Two calls of a pool, of one that the item makes where it is given none."""
    own = own or pk.Pool(backend="serial", seed=x)
    return own.map(draw_rng, range(2)), own.map(draw_rng, range(2))


def test_in_items_each_counts_its_calls(pool):
    """Nothing depends on which items have run before, whoever has made the pool."""
    mine = pk.Pool(backend="serial", seed=7)
    fresh, given = list(map(twice, range(20))), twice(7)
    assert given[0] != given[1]
    own = pool(chunksize=1)
    assert own.map(twice, range(20)) == fresh
    assert own.map(twice, range(20), own=mine) == [given] * 20


def test_submitted_calls_are_numbered(pool):
    """The calls submitted to a pool are its items, in the order of their submission."""
    with pool(seed=7) as own:
        futures = [own.submit(draw_rng, x) for x in range(6)]
        assert [future.result() for future in futures] == serially(draw_rng)


def test_another_attempt_draws_the_same(pool, tmp_path):
    """An item that is tried again begins its stream anew."""
    own = pool(seed=7, retries=1, retry_on=OSError)
    assert own.map(fails_at_first, range(6), folder=tmp_path) == serially(draw_rng)


def test_an_item_whose_worker_died_draws_the_same(process_pool, tmp_path):
    """A rerun after the death of a worker gives what the first run would have given."""
    own = process_pool(seed=7, retries=1)
    assert own.map(dies_at_first, range(6), folder=tmp_path) == serially(draw_rng)


def dies_at_first(x, rng, folder):
    import os

    from helpers import kill

    value, mark = rng.random(), folder / str(x)
    if x == 3 and not mark.exists():
        mark.touch()
        kill(os.getpid())
    return x, value


def test_seeds_differ(pool):
    """Another seed gives other streams, and every item has one of its own."""
    one, other = (pool(seed=seed).map(draw_rng, range(50)) for seed in (1, 2))
    assert len({value for _, value in one + other}) == 100


def test_a_seed_sequence_is_a_seed(pool):
    """A SeedSequence, also one that was spawned, names the streams that numpy's own rule names."""
    root = np.random.SeedSequence(7, spawn_key=(3,))
    expected = [(i, np.random.default_rng(child).random()) for i, child in enumerate(root.spawn(4))]
    assert pool(seed=np.random.SeedSequence(7, spawn_key=(3,))).map(draw_rng, range(4)) == expected


def test_nested_streams_do_not_meet(pool):
    """What nested calls draw differs from all that the items around them spawn."""
    values = list(itertools.chain.from_iterable(pool(seed=7).map(spawning, range(4))))
    assert len(set(values)) == len(values)


def test_without_a_seed_no_two_items_share_a_stream(pool):
    """Workers do not begin with copies of one generator, and calls do not repeat each other."""
    draws = [pool(chunksize=1).map(draw, range(20)) for _ in range(2)]
    for position in (1, 2):
        values = [row[position] for rows in draws for row in rows]
        assert len(set(values)) == len(values)


TORCH = """
import random
DEFAULT = 67280421310721

class Generator:
    def __init__(self):
        self.manual_seed(DEFAULT)
    def manual_seed(self, seed):
        self.seed, self.random = seed, random.Random(seed)

default_generator = Generator()
def manual_seed(seed): default_generator.manual_seed(seed)
def initial_seed(): return default_generator.seed
def rand(): return default_generator.random.random()
def get_rng_state(): return default_generator.random.getstate()
def set_rng_state(state): default_generator.random.setstate(state)
"""
DRAWING_WITH_TORCH = """
import json, sys, threading
import parallelkit as pk
HERE

def draw(x):
    WITHIN
    threading.Event().wait(0.02)  # so that both workers have some
    return torch.rand()

def seeded(x):
    import torch
    torch.manual_seed(0)

if __name__ == "__main__":
    with pk.Pool(2, backend="process", start_method=METHOD, chunksize=1) as pool:
        pool.map(seeded, range(4))
        print(json.dumps(pool.map(draw, range(6)) + pool.map(draw, range(6))))
    drawn = []
    for backend in ("process", "thread", "serial"):
        with pk.Pool(2, backend=backend, seed=5) as pool:
            drawn.append(pool.map(draw, range(4)))
    import torch
    print(json.dumps(drawn))
    torch.manual_seed(3)
    state = torch.get_rng_state()
    pk.Pool(backend="serial", seed=5).map(draw, [1])
    print(json.dumps(torch.get_rng_state() == state))
    torch.manual_seed(4)
    with pk.Pool(2, backend="process", start_method=METHOD, initializer=torch.manual_seed, initargs=(4,)) as pool:
        print(json.dumps(pool.map(draw, [1]) == [torch.rand()]))
"""


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("method", [None, "spawn"])
def test_draws_of_torch(tmp_path, method, early):
    """Its generator begins with one seed in every process; workers do not, and items with a seed draw the same everywhere.

    A stand-in for torch, which would take long to be imported.
    """
    (tmp_path / "torch.py").write_text(TORCH)
    places = ("import torch; torch.manual_seed(3)", "pass") if early else ("", "import torch")
    source = DRAWING_WITH_TORCH.replace("HERE", places[0]).replace("WITHIN", places[1])
    source = source.replace("METHOD", repr(method))
    (tmp_path / "drawing.py").write_text(source)
    ran = run_script([str(tmp_path / "drawing.py")], "", cwd=tmp_path)
    values, drawn, kept, own = ran.values
    assert len(set(values)) == len(values)
    assert kept is own is True
    if early:  # else an item imports it, when it has been seeded
        assert drawn == [drawn[0]] * 3


def test_a_given_rng_is_left_alone(pool):
    """A generator that the caller gives, frozen or varying, is the one that the item gets."""
    mine = np.random.default_rng(0).random()
    own = pool(seed=7)
    assert own.map(draw_rng, [1], rng=np.random.default_rng(0)) == [(1, mine)]
    assert own.map(draw_rng, [1], [np.random.default_rng(0)]) == [(1, mine)]


def test_the_callers_generators_are_left_alone(pool):
    """After a call with a seed the caller's own streams go on as if it had not been."""
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.rand()
    random.seed(1)
    np.random.seed(1)
    pool(seed=7).map(draw, range(3))
    assert (random.random(), np.random.rand()) == expected


def test_configured_seeds_hold_at_their_own_level():
    """``configure(seed=)`` seeds the calls of its block; calls inside them follow from it."""
    block = pk.configure(seed=7, backend="thread", workers=2)
    with block:
        one = pk.map(nested, range(3))
        assert pk.map(nested, range(3)) != one
    with block:
        assert one == pk.map(nested, range(3)) == serially(nested, 3)
    inner = [value for row in one for _, value in row[2]]
    assert len(set(inner)) == len(inner)


@pytest.mark.parametrize(
    ("seed", "error"), [(-1, ValueError), (1.5, TypeError), ("1", TypeError), (True, TypeError)]
)
def test_a_bad_seed_is_refused(seed, error):
    """What is neither a whole number nor a SeedSequence is refused by name."""
    with pytest.raises(error, match="seed"):
        pk.Pool(seed=seed)


@pytest.mark.parametrize("rows", [[5], [{"x": 1, "scale": 2}]])
def test_wrong_rows_fail_as_they_do_without_a_seed(pool, rows):
    """A row that cannot be unpacked, or names a frozen keyword, is the same error as ever."""
    with pytest.raises(TypeError) as plain:
        pool().starmap(draw_keyword, rows, scale=1)
    with pytest.raises(TypeError) as seeded:
        pool(seed=7).starmap(draw_keyword, rows, scale=1)
    assert type(plain.value) is type(seeded.value)


def test_seed_sequence_of_a_numpy_number():
    """The entropy of a SeedSequence may be a whole number of numpy."""
    from numpy.random import SeedSequence

    def draw(_, rng):
        return float(rng.random())

    drawn = [pk.Pool(2, seed=SeedSequence(n)).map(draw, [0, 1]) for n in (5, np.int64(5))]
    assert drawn[0] == drawn[1]
