"""What the package promises its users, whatever these have configured."""

import copy
import os
import pickle

import numpy as np
import pytest
import smallstats

import parallelkit as pk

SAMPLE = [1.0, 2.0, 4.0, 8.0]
HERE = os.getpid()


def mean(numbers):
    return float(numbers.mean())


def fails(numbers):
    raise ValueError("no such statistic")


def alone():
    """What a loop gives."""
    streams = (np.random.default_rng(s) for s in np.random.SeedSequence(3).spawn(9))
    return [mean(rng.choice(SAMPLE, size=len(SAMPLE))) for rng in streams]


WAYS = [
    {},
    {"workers": 1},
    {"workers": 3},
    {"backend": "thread"},
    {"backend": "serial"},
    {"on_error": "skip", "strict": False, "seed": 8, "retries": 2, "chunksize": 4, "timeout": 60},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_user_does_not_change_what_comes(way):
    """Draws, blocks and errors are the same wherever the user has it run."""
    noise = smallstats.noisy(np.zeros(200), 1.0, seed=5)
    with pk.configure(**way):
        assert smallstats.bootstrap(mean, SAMPLE, 9, seed=3) == alone()
        assert np.array_equal(smallstats.noisy(np.zeros(200), 1.0, seed=5), noise)
        with pytest.raises(ValueError, match="no such statistic"):
            smallstats.bootstrap(fails, SAMPLE, 9)
        assert smallstats.norms(np.array([[3.0, 4.0], [5.0, 12.0]])) == [5, 13]
        stream = smallstats.read(str(n) for n in range(1000))
        assert [next(stream), next(stream)] == [0, 1]
        stream.close()


def test_variables_do_not_either(monkeypatch):
    """The same of what stands in the environment."""
    monkeypatch.setenv("PARALLELKIT_ON_ERROR", "skip")
    monkeypatch.setenv("PARALLELKIT_SEED", "8")
    monkeypatch.setenv("PARALLELKIT_WORKERS", "1")
    assert smallstats.bootstrap(mean, SAMPLE, 9, seed=3) == alone()
    with pytest.raises(ValueError, match="no such statistic"):
        smallstats.bootstrap(fails, SAMPLE, 9)
    assert {process for process, _ in smallstats.where(4)} == {HERE}


def test_the_user_says_where():
    """By default processes; a hint of the package is below the user's word, an argument above it."""

    def processes(**options):
        return {process for process, _ in smallstats.where(4, **options)}

    with pk.configure(workers=2):
        assert HERE not in processes()
        assert processes(prefer="thread") == {HERE}
        with pk.configure(backend="process"):
            assert HERE not in processes(prefer="thread")
            assert processes(backend="thread") == {HERE}
        with pk.configure(backend="serial"):
            assert processes() == {HERE}


def test_without_a_seed_nothing_is_repeated():
    """Streams are fresh then; a generator as a seed is drawn from."""
    assert smallstats.bootstrap(mean, range(99), 3) != smallstats.bootstrap(mean, range(99), 3)
    one, same = np.random.default_rng(1), np.random.default_rng(1)
    first = smallstats.bootstrap(mean, range(99), 3, seed=one)
    assert smallstats.bootstrap(mean, range(99), 3, seed=one) != first
    assert smallstats.bootstrap(mean, range(99), 3, seed=same) == first


def test_an_object_that_has_a_pool():
    """Its methods are mapped, its calls differ, a copy of it and a pickle give them from the start."""
    samples = [np.arange(99.0)] * 3
    study = smallstats.Study(mean, seed=2)
    twins = [copy.deepcopy(study), pickle.loads(pickle.dumps(study))]
    calls = [study.all(samples), study.all(samples)]
    assert calls[0] != calls[1]
    for twin in twins:
        assert [twin.all(samples), twin.all(samples)] == calls
