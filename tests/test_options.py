"""Options: what is refused and how, configure, the environment, initializers, the number of cores."""

import gc
import os
import re
import threading
import time
import weakref
from pathlib import Path

import helpers
import psutil
import pytest
from backends import START_METHODS
from helpers import (
    PlainError,
    broken_set_up,
    identity,
    increment,
    mark,
    meet,
    pid,
    place,
    set_up,
    setting,
    wait_until,
)

import parallelkit as pk
from parallelkit.integrations import multiprocessing
from parallelkit.options import Options
from parallelkit.place import system

WRONG = {
    "no workers": ({"workers": 0}, ValueError, "workers"),
    "workers as text": ({"workers": "two"}, TypeError, 'workers.*number, "fair" or None'),
    "workers as a fraction": ({"workers": 1.5}, TypeError, "workers"),
    "unknown backend": ({"backend": "proces"}, ValueError, "backend.*process"),
    "backend of no kind": ({"backend": 3}, (TypeError, ValueError), "backend"),
    "unknown start method": (
        {"start_method": "forksever"},
        ValueError,
        f"start_method.*{START_METHODS[0]}",
    ),
    "unknown option": ({"worker": 2}, TypeError, "worker.*did you mean 'workers'"),
    "another unknown option": (
        {"chunk_size": 2},
        TypeError,
        "chunk_size.*did you mean 'chunksize'",
    ),
    "an option like nothing": ({"zzz": 2}, TypeError, "zzz"),
    "chunk of nothing": ({"chunksize": 0}, ValueError, "chunksize"),
    "negative chunk": ({"chunksize": -3}, ValueError, "chunksize"),
    "chunk as text": ({"chunksize": "big"}, TypeError, "chunksize"),
    "unknown policy": ({"on_error": "retrun"}, ValueError, "on_error.*return"),
    "negative retries": ({"retries": -1}, ValueError, "retries"),
    "no time at all": ({"timeout": 0}, ValueError, "timeout"),
    "negative time": ({"timeout": -1.0}, ValueError, "timeout"),
    "timeout as text": ({"timeout": "soon"}, TypeError, "timeout"),
    "timeout in place": (
        {"timeout": 5, "backend": "serial"},
        ValueError,
        "(?=.*timeout)(?=.*serial)",
    ),
    "initializer of no kind": ({"initializer": 3}, TypeError, "initializer"),
    "no tasks per worker": ({"tasks_per_worker": 0}, ValueError, "tasks_per_worker"),
    "retry on what is no error": ({"retry_on": (3,)}, TypeError, "retry_on"),
}


@pytest.mark.parametrize("how", ["Pool", "configure"])
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_option_is_refused_at_once(case, how):
    """A bad option is named where it is given, with the nearest good name where there is one."""
    options, kind, message = WRONG[case]
    with pytest.raises(kind, match=re.compile(message, re.DOTALL)):
        getattr(pk, how)(**options)


def test_a_refused_configure_changes_nothing():
    """Options beside a bad one are not half taken over."""
    with pytest.raises(ValueError, match="chunksize"):
        pk.configure(backend="serial", chunksize=0)
    assert os.getpid() not in pk.map(pid, range(4))


def test_all_cores():
    """workers=-1 is every core there is, workers=-2 leaves one, and there is always one at least."""
    with (
        pk.Pool(backend="thread", workers=-1) as own,
        pk.Pool(backend="thread", workers=-2) as less,
    ):
        assert len(set(own.map(place, range(200)))) <= pk.cpu_count()
        assert len(set(less.map(place, range(200)))) <= max(1, pk.cpu_count() - 1)


def test_all_cores_run_at_a_time(folder):
    """workers=-1 runs as many items at a time as there are cores."""
    with pk.Pool(backend="thread", workers=-1, chunksize=1) as own:
        cores = pk.cpu_count()
        assert len(set(own.map(meet, range(cores), folder=folder, parties=cores))) == cores


def test_workers_may_be_more_than_cores(folder):
    """A given number of workers is honoured: tasks may wait rather than compute."""
    many = pk.cpu_count() + 3
    with pk.Pool(backend="thread", workers=many, chunksize=1) as own:
        assert len(set(own.map(meet, range(many), folder=folder, parties=many))) == many


def test_three_processes(folder):
    """A pool of three processes runs three items at a time, beside warm pools of other sizes."""
    with pk.Pool(workers=3, chunksize=1) as own:
        assert len({p for p, _ in own.map(meet, range(3), folder=folder, parties=3)}) == 3


@pytest.mark.parametrize("chunksize", [1, 3, 1000])
def test_any_chunk_size_gives_the_same(pool, chunksize):
    """The chunk size is a matter of speed only."""
    own = pool(chunksize=chunksize)
    assert own.map(increment, range(100)) == list(range(1, 101))
    assert list(own.imap(increment, (i for i in range(100)))) == list(range(1, 101))


# ---- configure -----------------------------------------------------------------------------------


def test_configure_holds_within_its_block():
    """Functions and pools below take the options; afterwards, also after an error, they are as before."""
    with pk.configure(backend="serial"):
        assert pk.map(pid, range(3)) == [os.getpid()] * 3
        with pk.Pool() as own:
            assert own.map(pid, range(3)) == [os.getpid()] * 3
    assert os.getpid() not in pk.map(pid, range(4))
    with pytest.raises(KeyError), pk.configure(backend="serial"):
        raise KeyError
    assert os.getpid() not in pk.map(pid, range(4))


def test_configure_nests():
    """An inner block adds to the outer one, and what a pool is given wins."""
    with pk.configure(backend="serial", on_error="skip"):
        with pk.configure(on_error="return"):
            results = pk.map(increment, [1, "two"])
            assert (results[0], type(results[1])) == (2, pk.Failure)
            assert pk.map(pid, [1]) == [os.getpid()]
        assert pk.map(increment, [1, "two"]) == [2]
        with pk.Pool(on_error="raise") as own, pytest.raises(TypeError):
            own.map(increment, [1, "two"])


def test_a_plain_configure_holds_for_the_process(command):
    """configure without ``with`` sets the defaults from there on, for every thread."""
    source = """
import os, threading
import parallelkit as pk
from parallelkit.options import Options
pk.configure(backend="serial")
seen = [pk.map(lambda _: os.getpid(), [1])]
thread = threading.Thread(target=lambda: seen.append(pk.map(lambda _: os.getpid(), [1])))
thread.start(); thread.join()
pk.configure(on_error="skip")
seen.append(pk.map(lambda x: os.getpid() // x, [0, 1]))
print(seen == [[os.getpid()]] * 3)
"""
    assert command(["-c", source]).out == "True\n"


@pytest.mark.parametrize("name", ["imap", "uimap"])
def test_options_of_an_iterator_are_those_of_its_call(name):
    """An iterator that is consumed after the block keeps the options with which it was made."""
    with pk.configure(backend="serial", on_error="skip"):
        results = getattr(pk, name)(increment, [1, "two", 3])
    assert list(results) == [2, 4]


# ---- environment ---------------------------------------------------------------------------------

SHOW = """
import os, threading
import parallelkit as pk
from parallelkit.options import Options
print(len(set(pk.map(lambda _: threading.get_ident(), range(50)))), pk.map(lambda _: os.getpid(), [1])[0] == os.getpid())
"""


def test_options_come_from_the_environment(command):
    """PARALLELKIT_ and the option's name in capitals is a default of the process."""
    assert command(["-c", SHOW], env={"PARALLELKIT_BACKEND": "serial"}).out == "1 True\n"
    one = {"PARALLELKIT_BACKEND": "thread", "PARALLELKIT_WORKERS": "1"}
    assert command(["-c", SHOW], env=one).out == "1 True\n"
    source = "import parallelkit as pk; print(pk.map(lambda x: 1 // x, [0, 1]))"
    skip = {
        "PARALLELKIT_ON_ERROR": "skip",
        "PARALLELKIT_BACKEND": "serial",
        "PARALLELKIT_CHUNKSIZE": "5",
    }
    assert command(["-c", source], env=skip).out == "[1]\n"


def test_a_variable_without_sense_is_refused(monkeypatch):
    """The message names the variable, and says what it may be."""
    monkeypatch.setenv("PARALLELKIT_WORKERS", "fare")
    with pytest.raises(ValueError, match=r"PARALLELKIT_WORKERS='fare'.*\"fair\" or None"):
        pk.Pool(backend="serial").map(abs, [1])


def test_a_misspelt_variable_is_told_once(command):
    """A PARALLELKIT_ variable that nobody reads is told with the one that may be meant; other variables are not."""
    source = "import parallelkit as pk; pk.map(abs, [1, 2]); pk.Pool(2).map(abs, [1])"
    env = {"PARALLELKIT_WORKRES": "2", "PARALLELKIT_MALLOC": "0", "PARALLEL": "1"}
    told = command(["-c", source], env=env).err
    assert told.count("PARALLELKIT_WORKRES") == 1
    assert "did you mean PARALLELKIT_WORKERS?" in told
    assert "MALLOC" not in told


def test_what_is_configured_beats_the_environment(command):
    """configure and Pool come before the environment."""
    source = """
import os
import parallelkit as pk
from parallelkit.options import Options
with pk.Pool(backend="process") as own:
    print(own.map(lambda _: os.getpid(), [1])[0] == os.getpid())
pk.configure(backend="process")
print(pk.map(lambda _: os.getpid(), [1])[0] == os.getpid())
"""
    assert command(["-c", source], env={"PARALLELKIT_BACKEND": "serial"}).out == "False\nFalse\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKERS", "0"),
        ("WORKERS", "many"),
        ("BACKEND", "proces"),
        ("CHUNKSIZE", "-1"),
        ("START_METHOD", "frok"),
    ],
)
def test_a_bad_variable_is_named(command, name, value):
    """A value of the environment that makes no sense is an error that names the variable."""
    ran = command(
        ["-c", "import parallelkit as pk; pk.map(abs, [1, 2])"],
        env={f"PARALLELKIT_{name}": value},
        code=1,
    )
    assert f"PARALLELKIT_{name}" in ran.err
    assert ran.err.rstrip().splitlines()[-1].startswith(("ValueError", "TypeError"))


# ---- initializers --------------------------------------------------------------------------------


def test_an_initializer_runs_once_in_each_worker(pool, folder):
    """Every item finds what the initializer set up in its worker, and no worker sets up twice."""
    own = pool(initializer=set_up, initargs=(str(folder), "ready"))
    for _ in range(3):
        assert own.map(setting, range(50)) == [(i, "ready") for i in range(50)]
    started = os.listdir(folder)
    assert 1 <= len(started) <= (1 if pool.backend == "serial" else 2)


def test_pools_with_other_initializers_have_other_workers(process_pool, folder):
    """Warm workers are shared by pools with the same settings only."""
    one = process_pool(initializer=set_up, initargs=(str(folder), 1))
    two = process_pool(initializer=set_up, initargs=(str(folder), 2))
    assert one.map(setting, [0]) + two.map(setting, [0]) + one.map(setting, [0]) == [
        (0, 1),
        (0, 2),
        (0, 1),
    ]


def test_a_local_initializer(pool):
    """An initializer may be a closure."""
    value = {"deep": [1, 2]}

    def remember(key):
        helpers.REMEMBERED.append(value[key])

    own = pool(initializer=remember, initargs=("deep",))
    assert own.map(lambda _: helpers.REMEMBERED[-1], range(4)) == [[1, 2]] * 4


def keep(value):
    """An initializer that sets state of its process and of its thread."""
    helpers.REMEMBERED[:] = [value]
    helpers.SETTING.value = value


def kept(_):
    return helpers.REMEMBERED[-1]


def kept_by_thread(_):
    return helpers.SETTING.value


def test_pools_in_turns_find_what_their_own_initializers_set(pool):
    """Another pool's initializer may have overwritten it in the same process; then it is set again."""
    pools = [pool(initializer=keep, initargs=(value,)) for value in (1, 2)]
    for _ in range(2):
        assert [own.map(kept, range(4)) for own in pools] == [[1] * 4, [2] * 4]
    for _ in range(2):
        assert [own.submit(kept, 0).result(60) for own in pools] == [1, 2]
    assert [own.map(kept, range(4)) for own in pools] == [[1] * 4, [2] * 4]


@pytest.mark.parametrize("backend", ["thread", "serial"])
def test_what_initializers_set_in_a_thread(backend):
    """A thread that other pools have used as well has what the call's own pool sets."""
    for value in (1, 2, 1, 2, 2, 1):
        with pk.Pool(2, backend=backend, initializer=keep, initargs=(value,)) as own:
            assert own.map(kept_by_thread, range(4)) == [value] * 4
        with pk.PoolExecutor(2, backend=backend, initializer=keep, initargs=(-value,)) as own:
            assert list(own.map(kept_by_thread, range(4))) == [-value] * 4


def inner_pools(x):
    """What items of inner pools find, each of which has an initializer."""
    with pk.Pool(2, initializer=keep, initargs=(x,)) as own:
        found = own.map(kept, range(3))
    with pk.PoolExecutor(2, initializer=keep, initargs=(x + 10,)) as own:
        found += own.map(kept, range(3))
    with multiprocessing.Pool(2, initializer=keep, initargs=(x + 20,)) as own:
        return found + own.map(kept, range(3))


@pytest.mark.parametrize("nested", ["thread", "auto", "process"])
@pytest.mark.parametrize("workers", [1, 2])
def test_initializers_of_pools_in_items(workers, nested):
    """One process runs an item after the other; each has the state of its own inner pools."""
    own = pk.Pool(workers, backend="process", nested=nested, chunksize=1)
    for _ in range(2):
        found = own.map(inner_pools, [0, 1, 0, 1])
        assert found == [[x] * 3 + [x + 10] * 3 + [x + 20] * 3 for x in (0, 1, 0, 1)]


def keep_content(path):
    keep(Path(path).read_text())


def test_each_pool_has_its_initializer_run_anew(pool, folder):
    """What it reads may be another than for the pool before, whose settings were the same."""
    path = folder / "setting"
    for content in ("1", "2", "3"):
        path.write_text(content)
        with pool(initializer=keep_content, initargs=(str(path),)) as own:
            for _ in range(2):
                assert own.map(kept, range(4)) == [content] * 4


def test_a_configured_initializer_runs_once_in_each_worker(process_pool, folder):
    """Pools and calls that have it from outside share the workers; another block has others."""
    start_method = process_pool.start_method
    shared = {"workers": 2, "backend": "process", "start_method": start_method}
    found = []
    for _ in range(2):
        with pk.configure(**shared, initializer=set_up, initargs=(str(folder), "ready")):
            for _ in range(2):
                assert pk.map(setting, range(8)) == [(i, "ready") for i in range(8)]
                assert pk.Pool().map(setting, range(8)) == [(i, "ready") for i in range(8)]
            found.append(len(os.listdir(folder)))
    assert 1 <= found[0] <= 2
    assert found[0] < found[1] <= 4


def test_workers_of_pools_that_are_gone_end():
    """No pool has their initializer any more, so the next workers that are started replace them."""
    seen = []
    for _ in range(3):
        with pk.Pool(1, initializer=keep, initargs=(1,)) as own:
            seen += own.map(pid, [0])
    del own
    pk.Pool(1, initializer=keep, initargs=(1,)).map(pid, [0])
    wait_until(lambda: not any(map(psutil.pid_exists, seen)), "the end of the workers before")


def count_keep(folder, value):
    keep(value)
    mark(folder, f"{value}-{time.monotonic_ns()}-{threading.get_ident()}")


def test_calls_at_the_same_time_do_not_repeat_initializers(folder):
    """Each thread runs the initializer at the beginning of a call, not again at each of the items."""
    begun, met = folder / "begun", folder / "met"
    begun.mkdir()
    met.mkdir()

    def call(value):
        def meet(x):
            mark(str(met), f"{x}-{value}")
            wait_until((met / f"{x}-{3 - value}").exists, "the other call")
            return x

        own = pk.Pool(
            2, backend="thread", chunksize=1, initializer=count_keep, initargs=(str(begun), value)
        )
        assert own.map(meet, range(20)) == list(range(20))

    threads = [threading.Thread(target=call, args=(value,)) for value in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for value in (1, 2):
        assert 1 <= sum(name.startswith(f"{value}-") for name in os.listdir(begun)) <= 2


def test_an_initializer_that_failed_half_way(pool):
    """What it has set before it raised is not taken for what another one had set."""
    good = pool(initializer=keep, initargs=(1,))
    assert good.map(kept, range(2)) == [1, 1]
    with pytest.raises(PlainError, match="half-way"):
        pool(initializer=fail_half_way).map(kept, range(2))
    assert good.map(kept, range(2)) == [1, 1]


def fail_half_way():
    keep(2)
    raise PlainError("half-way")


@pytest.mark.parametrize("backend", ["thread", "serial"])
def test_what_an_initializer_was_given_is_let_go_of(backend):
    """Threads outlive a pool, and keep in mind that they have had its initializer, not what that was given."""
    large = PlainError()
    seen = weakref.ref(large)
    with pk.Pool(2, backend=backend, initializer=identity, initargs=(large,)) as own:
        own.map(increment, range(4))
    del large, own
    gc.collect()
    wait_until(lambda: seen() is None, "the end of what only the pool had")


def test_a_raising_initializer_ends_the_call(pool, folder):
    """Its own error is raised by the call, with the worker's traceback, and workers are not started for ever."""
    own = pool(initializer=broken_set_up, initargs=(str(folder),))
    with pytest.raises(PlainError, match="no device") as caught:
        own.map(identity, range(10))
    if pool.backend == "process":
        assert "in broken_set_up" in str(caught.value.__cause__)
    with pytest.raises(PlainError, match="no device"):
        list(own.imap(identity, range(10)))
    assert isinstance(own.submit(identity, 1).exception(60), PlainError)
    assert 1 <= len(os.listdir(folder)) <= 12


def test_initargs_that_cannot_be_pickled(process_pool):
    """What an initializer cannot be given is an error of the first call."""
    own = process_pool(initializer=identity, initargs=((x for x in ()),))
    with pytest.raises(pk.TransportError):
        own.map(identity, [1])


# ---- cores ---------------------------------------------------------------------------------------


def test_cores_are_those_that_may_be_used(command):
    """cpu_count respects the affinity mask of the process."""
    assert 1 <= pk.cpu_count() <= (os.cpu_count() or 1)
    if not system.AFFINITY:
        pytest.skip("this system has no affinity mask")
    source = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); import parallelkit as pk; print(pk.cpu_count())"
    assert command(["-c", source]).out == "1\n"


FAR = 10**30


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("workers", (1, None, -1, -FAR)),
        ("chunksize", (1, None, FAR)),
        ("retries", (0, 1, FAR)),
        ("tasks_per_worker", (1, None, FAR)),
        ("memory_limit", (None, FAR, "1000 PB")),
        ("max_nbytes", (0, 1, 1 << 16, FAR, "1GB")),
        ("blas_threads", (1, None, FAR)),
        ("timeout", (None, 1e300)),
    ],
)
def test_numbers_at_their_ends(name, values):
    """The least, the default, and far above what makes sense: the results are the same."""
    for value in values:
        with pk.Pool(**{"workers": 2, name: value}) as own:
            assert own.map(increment, range(5)) == [1, 2, 3, 4, 5]


def test_sizes_with_units(monkeypatch):
    """Where an option takes bytes it takes "1GB" too, also from the environment."""
    assert Options(memory_limit="1GB", max_nbytes="512 KiB").memory_limit == 10**9
    monkeypatch.setenv("PARALLELKIT_MAX_NBYTES", "1 MiB")
    with pk.Pool(2) as own:
        assert own._resolve().max_nbytes == 1 << 20
    with pytest.raises(ValueError, match="memory_limit must be a number of bytes, or a text such"):
        pk.Pool(memory_limit="much")


def takes_any(x, **settings):
    """Takes what it is given."""
    return x, settings


def takes_timeout(x, timeout):
    """Has a parameter that is also called like an option."""
    return x, timeout


def test_options_that_are_given_to_a_function():
    """What the function does not take is refused; what it may only take by accident, told once."""
    with pytest.raises(TypeError, match=r"takes no workers=: .*the pool: pk.Pool\(workers=...\)"):
        pk.map(abs, [1], workers=2)
    with pytest.raises(TypeError, match=r"takes no workers=: .*the pool: pk.Pool\(workers=...\)"):
        pk.Pool(backend="thread").submit(abs, 1, workers=2)
    with pytest.raises(TypeError, match=r"a sweep: pk.Sweep\(store=...\)"):
        list(pk.imap(lambda x: x, [1], store="runs.db"))
    with pytest.warns(
        UserWarning, match=r"workers= goes to the function .*pk.Pool\(workers=...\)"
    ) as told:
        assert pk.map(takes_any, [1], workers=2) == [(1, {"workers": 2})]
    assert told[0].filename == __file__
    assert pk.map(takes_any, [1], workers=2) == [(1, {"workers": 2})]  # which warns no more
    assert pk.map(takes_any, [1], depth=2) == [(1, {"depth": 2})]
    assert pk.map(takes_timeout, [1], timeout=2) == [(1, 2)]


def where_and_when(x, folder=None):
    """Where an item runs."""
    return os.getpid(), threading.current_thread() is threading.main_thread()


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "process"},
        {"start_method": "spawn"},
        {"timeout": 60},
        {"memory_limit": "64GB"},
        {"tasks_per_worker": 1},
        {"initializer": abs, "initargs": (1,)},
        {"finalizer": abs},
        {"devices": [0]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_one_worker_that_must_be_a_process(options):
    """What only a process can have, or was asked for by name, has one."""
    if "start_method" in options and options["start_method"] not in START_METHODS:
        pytest.skip("there is no such start method")
    with pk.Pool(workers=1, **options) as own:
        ((pid, _),) = own.map(where_and_when, [0])
    assert pid != os.getpid()


def test_one_worker_is_this_process(command):
    """Items of a call with workers=1 run here, in order, whoever has set it; two workers are processes."""
    here = [(os.getpid(), True)] * 3
    own = pk.Pool(workers=1)
    assert own.map(where_and_when, range(3)) == here
    assert list(own.imap(where_and_when, range(3))) == here
    assert own.submit(where_and_when, 0).result()[0] == os.getpid()
    assert own.amap(where_and_when, [0]).result()[0][0] == os.getpid()
    with pk.configure(workers=1):
        assert pk.map(where_and_when, range(3)) == here
        assert os.getpid() not in [pid for pid, _ in pk.Pool(workers=2).map(where_and_when, [0])]
    source = "import os; import parallelkit as pk; print(pk.map(lambda x: os.getpid(), [0]) == [os.getpid()])"
    assert command(["-c", source], env={"PARALLELKIT_WORKERS": "1"}).out == "True\n"


def giver(_):
    return pk.Pool(initializer=increment, initargs=(1,))._resolve.giver.number


def test_initializers_of_several_programs_are_told_apart(process_pool):
    """Pools of programs that share the workers of a cluster have other numbers, whatever came before in each."""
    numbers = [giver(0), *process_pool(tasks_per_worker=1, chunksize=1).map(giver, range(3))]
    assert len(set(numbers)) == 4
