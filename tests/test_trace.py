"""pk.trace: what is recorded of a run, on every backend; what is made of it; and nothing without one."""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import textwrap
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest
from helpers import fail_on, identity, increment, meet
from running import run_script

import parallelkit as pk
from parallelkit.place import recording
from parallelkit.traces import story as stories
from parallelkit.traces.advice import advice
from parallelkit.traces.summary import summarize


def run_traced(tmp_path, source, *args, before=(), **options):
    """Run a script, by `python -m parallelkit` perhaps."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(source))
    return run_script([*before, path, *args], **options)


def story_of(trace):
    """What a trace recorded."""
    return trace._told()


def events(path, category=None, name=None):
    """Events of a file, which must be JSON; those of a kind."""
    found = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return [
        event
        for event in found
        if (category is None or event.get("cat") == category)
        and (name is None or event["name"].startswith(name))
    ]


def spawned(x):
    """An item that makes a call."""
    return sum(pk.map(increment, range(x)))


def die_once(x, marker):
    """End the worker of item 3 at its first attempt."""
    if x == 3:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGKILL)
    return x


def hang_on(x, bad):
    while x == bad:
        time.sleep(0.01)
    return x


@pytest.fixture(autouse=True)
def nothing_goes_on():
    """After a trace nothing is recorded."""
    yield
    assert recording.targets() == ()


# ---- what is recorded ----------------------------------------------------------------------------


def test_every_item_once(pool, tmp_path):
    """The file has each item once, with its index, level and attempt, under the name of the function."""
    path = tmp_path / "run.json"
    with pk.trace(path) as trace:
        assert pool(chunksize=3).map(increment, range(20)) == list(range(1, 21))
    items = events(path, "item")
    assert sorted(event["name"] for event in items) == sorted(f"increment[{i}]" for i in range(20))
    assert {(e["args"]["level"], e["args"]["attempt"]) for e in items} == {(1, 1)}
    [call] = events(path, "call")
    name = "executor" if pool.elsewhere else pool.backend
    assert (call["name"], call["args"]["items"]) == (f"increment ({name})", 20)
    assert call["args"]["where"].startswith(f"{__file__}:")
    summary = trace.summary()
    assert (summary.calls, summary.items, summary.failed, summary.died) == (1, 20, 0, 0)


def test_spans_of_a_thread_lie_inside_one_another(pool, tmp_path):
    """In no thread do two spans overlap in part: tools that draw stacks, as speedscope, refuse that."""
    path = tmp_path / "run.json"
    with pk.trace(path):
        pool(on_error="return").map(spawned, [*range(6), "none"])
        pool(chunksize=7).map(increment, range(100))
    threads = {}
    for event in events(path):
        if event["ph"] == "X":
            span = event["ts"], -event["dur"], event["name"]
            threads.setdefault((event["pid"], event["tid"]), []).append(span)
    for spans in threads.values():
        open_ = []
        for begin, minus, name in sorted(spans):
            while open_ and open_[-1][0] <= begin:
                open_.pop()
            assert not open_ or begin - minus <= open_[-1][0], (name, open_[-1])
            open_.append((begin - minus, name))


def test_the_way_of_a_chunk(process_pool):
    """A chunk is pickled, sent, taken, run, answered and read, in this order, by one clock."""
    with pk.trace() as trace:
        process_pool(chunksize=5).map(increment, range(20))
    chunks = story_of(trace).chunks
    assert sorted((c.start, c.size, c.done) for c in chunks) == [(i, 5, 5) for i in (0, 5, 10, 15)]
    for chunk in chunks:
        begin, pickled, sent, _ = chunk.sending
        read, ended, _ = chunk.reading
        moments = [begin, pickled, chunk.taken, chunk.begin, chunk.end, chunk.answered, read, ended]
        assert moments == sorted(moments)
        assert pickled <= sent
        assert chunk.pid != os.getpid()
        assert min(chunk.nbytes, chunk.answer_nbytes, chunk.memory) > 0
        for item in chunk.items:
            assert chunk.begin <= item.begin <= item.end <= chunk.end


@pytest.mark.parametrize("nested", ["thread", "process"])
def test_nested_calls(process_pool, nested):
    """Calls inside items are there, with the item that made them, wherever they run."""
    with pk.trace() as trace:
        assert process_pool(nested=nested).map(spawned, [3, 5]) == [6, 15]
    outer, *inner = story_of(trace).calls
    assert (outer.name, outer.level, outer.parent) == ("spawned", 1, None)
    assert {(c.name, c.level, c.parent, c.index, c.total) for c in inner} == {
        ("increment", 2, outer, 0, 3),
        ("increment", 2, outer, 1, 5),
    }
    assert sorted(item.index for c in inner for item in c.items()) == [0, 0, 1, 1, 2, 2, 3, 4]
    assert trace.summary().items == 10


WAYS = {
    "submit": lambda own: [own.submit(increment, x).result(60) for x in range(4)],
    "amap": lambda own: own.amap(increment, range(4)).result(60),
    "imap": lambda own: list(own.imap(increment, range(4))),
    "uimap": lambda own: sorted(own.uimap(increment, (x for x in range(4)))),
    "starmap": lambda own: own.starmap(increment, [(x,) for x in range(4)]),
    "run": lambda own: own.run([pk.delayed(increment)(x) for x in range(4)]),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_calling(pool, way):
    """Whatever method makes the call, its items are recorded under the function's name."""
    with pk.trace() as trace:
        assert WAYS[way](pool()) == [1, 2, 3, 4]
    story = story_of(trace)
    items = [(item.name or call.name, item.index) for call in story.calls for item in call.items()]
    assert sorted(items) == [("increment", i) for i in range(4)]


def test_a_sweep_and_joblib():
    """Points of a sweep, and what joblib runs on our backend, are recorded."""
    joblib = pytest.importorskip("joblib")
    import parallelkit.integrations.joblib  # noqa: F401

    with pk.trace() as trace:
        pk.sweep(identity, pk.grid(x=[1, 2, 3]))
        with joblib.parallel_config("parallelkit", n_jobs=2):
            joblib.Parallel()(joblib.delayed(increment)(x) for x in range(5))
    assert trace.summary().items >= 4  # joblib batches its calls
    assert [call.name for call in story_of(trace).calls] == ["identity", "increment"]


def pretend_to_be_elsewhere():
    """In a worker: as if the folder of the trace were on another machine."""
    from parallelkit.worker import remote

    remote._reachable = lambda _: False


def test_workers_on_other_machines(tmp_path):
    """They send what they note along with their answers; nested calls too, and each has a lane."""
    with (
        ProcessPoolExecutor(
            2, multiprocessing.get_context("spawn"), pretend_to_be_elsewhere
        ) as executor,
        pk.trace(tmp_path / "run.json") as trace,
        pk.Pool(backend=executor) as own,
    ):
        assert own.map(spawned, [3, 4]) == [6, 10]
        own.map(meet, range(2), folder=str(tmp_path), parties=0)
    story = story_of(trace)
    assert trace.summary().items == 2 + 3 + 4 + 2
    calls = [(call.name, call.level, call.index) for call in story.calls]
    assert sorted(calls) == [
        ("increment", 2, 0),
        ("increment", 2, 1),
        ("meet", 1, 0),
        ("spawned", 1, 0),
    ]
    for chunk in story.chunks:
        assert story.begin < chunk.taken <= chunk.begin <= chunk.end < story.end
        assert story.workers[chunk.pid].name.startswith(socket.gethostname())
    assert len(events(tmp_path / "run.json", "item")) == 11


def test_clocks_of_other_machines_are_aligned():
    """A clock that is an hour ahead is set right by the fastest of its messages."""
    with pk.trace() as trace:
        here = time.perf_counter()
        [folder] = recording.targets()
        recording.record(
            (folder,),
            ("call", "1", "", 0, "f", "", "dask", 1, 1, 2, *(False,) * 2, "thread", [], 1, here),
        )
        for index, delay in enumerate([0.5, 0.001, 0.2]):
            ahead = here + 3600
            ran = ahead, ahead + 0.1, ahead + 0.2, ahead + 0.3
            items = [(0, ran[1], ran[2], "", 1)]
            fields = ("ran", "1", index, 1, 1, 0, 1, *ran, 0.0, 0.0, 0, 0, 0, items, [])
            sent = time.perf_counter() + 3600 - delay  # by the other clock, before it arrived
            recording.arrived("elsewhere", 7, sent, [((folder,), fields)])
    chunks = story_of(trace).chunks
    assert [round(chunk.begin - here, 1) for chunk in chunks] == [0.1] * 3
    assert [round(chunk.items[0].end - here, 1) for chunk in chunks] == [0.2] * 3
    [worker] = story_of(trace).workers.values()
    assert worker.name == "elsewhere 7"


def test_what_is_submitted_belongs_to_the_trace_of_that_moment():
    """One pool, in a trace and outside of it: only what was submitted inside is recorded."""
    with pk.Pool(2) as own:
        own.submit(increment, 1).result(60)
        with pk.trace() as trace:
            own.submit(increment, 2).result(60)
            own.submit(increment, 3).result(60)
        own.submit(increment, 4).result(60)
    assert trace.summary().items == 2


def test_many_short_items_are_sampled():
    """Of many items some are told, sums are of all, and the file stays small."""
    with pk.trace() as trace:
        pk.Pool(2).map(identity, range(300_000))
    story = story_of(trace)
    assert trace.summary().items == 300_000
    assert 0 < sum(len(chunk.items) for chunk in story.chunks) < 20_000
    for chunk in story.chunks:
        moments = [moment for item in chunk.items for moment in (item.begin, item.end)]
        assert moments == sorted(moments)
        indexes = [index for i in chunk.items for index in (i.index, i.index + i.count)]
        assert indexes == sorted(indexes)
        assert chunk.start <= indexes[0] <= indexes[-1] <= chunk.start + chunk.size


def test_a_trace_that_is_full_says_so(monkeypatch):
    """When there is no room for more the call goes on, and the summary tells until when it was seen."""
    monkeypatch.setattr(recording, "MOST_BYTES", 5_000)
    with pk.trace() as trace:
        assert pk.Pool(backend="serial", chunksize=1).map(increment, range(100)) == list(
            range(1, 101)
        )
    summary = trace.summary()
    assert 0 < summary.items < 100
    assert "recorded     only" in str(summary)
    with pk.trace() as trace:
        pk.Pool(backend="serial").map(increment, range(100))
    assert trace.summary().recorded is None


# ---- what goes wrong -----------------------------------------------------------------------------


def test_items_that_fail(pool):
    """An item that raises is marked with what it raised."""
    with pk.trace() as trace:
        pool(on_error="return", chunksize=4).map(fail_on, range(12), bad=[2, 7])
    failed = [e for e in story_of(trace).events if e.kind == "failed"]
    assert sorted((e.index, e.text.partition(":")[0]) for e in failed) == [
        (2, "ValueError"),
        (7, "ValueError"),
    ]
    assert trace.summary().failed == 2


def unsendable(x):
    return (y for y in range(x))


def test_what_cannot_be_sent(process_pool):
    """A result, and an argument, that cannot be pickled is a failed item as well."""
    own = process_pool(on_error="return")
    with pk.trace() as trace:
        own.map(unsendable, range(3))
        own.map(increment, [1, unsendable(2)])
    found = [(e.kind, e.call.name, e.index) for e in story_of(trace).events if e.call]
    assert sorted(one for one in found if one[0] != "divided") == [
        ("failed", "unsendable", 0),
        ("failed", "unsendable", 1),
        ("failed", "unsendable", 2),
        ("lost", "increment", 1),
    ]
    assert trace.summary().failed == 4


def test_a_worker_that_dies_is_replaced(process_pool, tmp_path, folder):
    """The item that was lost, the worker's end, its successor and the second attempt are recorded."""
    marker = str(tmp_path / "marker")
    with pk.trace() as trace:
        own = process_pool(chunksize=1, retries=1)
        assert own.map(die_once, range(8), marker=marker) == list(range(8))
        own.map(meet, range(2), folder=folder, parties=2)  # its successor is there
    story = story_of(trace)
    [lost] = [e for e in story.events if e.kind == "lost"]
    assert (lost.index, lost.text.partition(":")[0]) == (3, "WorkerDied")
    [dead] = [w for w in story.workers.values() if w.obituary]
    assert "SIGKILL" in dead.obituary
    assert [w.replaces for w in story.workers.values() if w.replaces] == [dead.pid]
    tried = [chunk for chunk in story.calls[0].chunks if chunk.start == 3]
    attempts = [(chunk.attempts, chunk.pid == dead.pid) for chunk in tried]
    assert attempts == [(1, True), (2, False)]
    summary = trace.summary()
    assert (summary.items, summary.died, summary.retried) == (10, 1, 1)
    assert any("item 3 of die_once ended the worker" in text for text in summary.advice)


def test_a_time_limit():
    """An item that is ended by its time limit is told as such."""
    with pk.trace() as trace, pk.Pool(2, timeout=0.3, on_error="return", chunksize=1) as own:
        own.map(hang_on, range(4), bad=2)
    lost = [e for e in story_of(trace).events if e.kind == "lost"]
    assert (2, "TimeoutError") in [(e.index, e.text.partition(":")[0]) for e in lost]
    summary = trace.summary()
    assert (summary.items, summary.failed, summary.died) == (4, 1, 0)
    assert any("of hang_on ran into the time limit" in text for text in summary.advice)


ENDINGS = {
    "raise ValueError('gone')": 1,
    "import os, signal; os.kill(os.getpid(), signal.SIGINT); time.sleep(60)": None,
    "sys.exit(7)": 7,
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("way", ["block", "variable", "command"])
def test_the_file_is_whole_however_the_script_ends(tmp_path, way, ending):
    """After an exception, Ctrl-C and sys.exit the file has what ran until then, and the exit code stays."""
    path = tmp_path / "run.json"
    code = ENDINGS[ending]
    code = ({"command": 130}.get(way, -signal.SIGINT)) if code is None else code
    block = f"with pk.trace({str(path)!r}):" if way == "block" else "if True:"
    source = f"""
        import sys, time
        import parallelkit as pk

        {block}
            pk.map(abs, range(6))
            {ending}
        """
    if way == "command":
        ran = run_traced(
            tmp_path, source, before=["-m", "parallelkit", "trace", "--to", path], code=code
        )
        assert "6 items in 1 call" in ran.err
    else:
        env = {"PARALLELKIT_TRACE": str(path)} if way == "variable" else {}
        run_traced(tmp_path, source, code=code, env=env)
    assert len(events(path, "item")) == 6


def test_an_unwritable_path_is_told_at_once(tmp_path):
    """The error comes before the block runs, names the file, and leaves nothing behind."""
    for path, kind in [
        (tmp_path / "no" / "run.json", FileNotFoundError),
        (tmp_path, IsADirectoryError),
    ]:
        with pytest.raises(kind, match="a trace cannot be written") as caught, pk.trace(path):
            pytest.fail("the block was entered")
        assert str(path) in str(caught.value)
    kept = tmp_path / "run.json"
    kept.write_text("what was there before")
    with pytest.raises(ZeroDivisionError), pk.trace(kept):
        assert kept.read_text() == "what was there before"
        raise ZeroDivisionError
    assert events(kept, "item") == []
    with pytest.raises(RuntimeError, match="nothing was recorded yet"):
        pk.trace().summary()


# ---- several traces ------------------------------------------------------------------------------


def test_nested_traces():
    """The inner trace has what is inside of it; the outer one has all."""
    with pk.trace() as outer:
        pk.map(increment, range(3))
        with pk.trace() as inner:
            pk.map(increment, range(4))
        pk.map(increment, range(5))
    assert (outer.summary().items, inner.summary().items) == (12, 4)


def test_two_threads():
    """A trace that a thread begins is that thread's own; one of the main thread has all threads."""
    own, both = {}, threading.Barrier(2)

    def work(items):
        with pk.trace() as trace:
            both.wait(60)
            pk.Pool(2, backend="thread").map(increment, range(items))
            both.wait(60)
        own[items] = trace.summary().items

    with pk.trace() as whole:
        threads = [threading.Thread(target=work, args=(items,)) for items in (3, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert own == {3: 3, 7: 7}
    assert whole.summary().items == 10


def traced_item(x):
    with pk.trace() as trace:
        pk.map(increment, range(x))
    return trace.summary().items


def test_a_trace_inside_an_item(pool):
    """It has the calls of that item, with and without a trace around."""
    assert pool().map(traced_item, [2, 3]) == [2, 3]
    with pk.trace() as outer:
        assert pool().map(traced_item, [2, 3]) == [2, 3]
    assert outer.summary().items == 7
    assert pool().map(traced_item, [4]) == [4]


def test_a_fork(tmp_path):
    """What a forked child calls is in its parent's trace, which the child does not end."""
    path = tmp_path / "run.json"
    with pk.trace(path) as trace:
        pk.Pool(2, backend="thread").map(increment, range(2))
        child = os.fork()
        if not child:
            try:
                pk.Pool(backend="serial").map(increment, range(3))
                trace.__exit__(None, None, None)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert not path.exists()
    assert trace.summary().items == 5
    assert len(events(path, "item")) == 5


def test_a_trace_is_used_once_at_a_time():
    """A second block of the same trace, inside of it, is an error; afterwards it begins anew."""
    trace = pk.trace()
    with trace:
        pk.map(increment, range(2))
        assert trace.summary().items == 2  # so far
        with pytest.raises(RuntimeError, match="open already"), trace:
            pass
    with trace:
        pk.map(increment, range(3))
    assert trace.summary().items == 3


# ---- what is made of it --------------------------------------------------------------------------


def a_call(**options):
    """A call at second 10, by hand."""
    call = stories.Call(
        *("1", None, 0, "fit", "run.py:7", "process", 2, 1, 4),
        *(False, False, [], 1, 1, 10.0, 12.0),
    )
    for name, value in options.items():
        setattr(call, name, value)
    return call


def a_chunk(call, start, begin, end, pid=2, items=1, **options):
    """A chunk of one item, or of many, by hand."""
    chunk = stories.Chunk(call, start, items, pid, pid, begin, end, done=items)
    chunk.taken, chunk.answered = begin, end
    step = (end - begin) / items
    chunk.items = [
        stories.Item(start + n, begin + n * step, begin + (n + 1) * step, "", "")
        for n in range(items)
    ]
    for name, value in options.items():
        setattr(chunk, name, value)
    call.chunks.append(chunk)
    return chunk


def a_story(*calls, workers=(2, 3), events=()):
    """A story of calls, whose workers were there before."""
    known = {pid: stories.Worker(pid, rank, 1) for rank, pid in enumerate(workers)}
    return stories.Story(1, 9.0, 13.0, list(calls), known, list(events))


def test_the_numbers():
    """Two workers for two seconds: one works for both, the other for one of them."""
    call = a_call(total=3)
    a_chunk(call, 0, 10.0, 11.0)
    a_chunk(call, 1, 11.0, 12.0)
    a_chunk(call, 2, 10.0, 11.0, pid=3)
    summary = summarize(a_story(call))
    assert (summary.seconds, summary.work, summary.workers, summary.items) == (2.0, 3.0, 2, 3)
    assert (summary.speedup, summary.utilisation, summary.idle_tail) == (1.5, 0.75, 0.25)
    assert summary.ceiling == 2.0
    assert (summary.transport, summary.startup, summary.slow) == (0.0, 0.0, ())


def test_an_inner_call_that_outlives_its_item():
    """Its time counts, and threads that take turns are not idle for more than there are workers."""
    outer, inner = a_call(total=1, end=10.5), a_call(number="2", level=2, begin=10.5, end=12.0)
    inner.parent = outer
    outer.calls = [inner]
    a_chunk(outer, 0, 10.0, 10.5)
    for item in range(6):
        a_chunk(inner, item, 10.5 + item / 4, 10.75 + item / 4, tid=20 + item)
    summary = summarize(a_story(outer, inner))
    assert (summary.seconds, summary.work, summary.workers) == (2.0, 2.0, 2)
    assert summary.speedup == 1.0
    assert summary.idle_tail == 0.25 / 4


def test_a_call_that_had_just_begun():
    """A call that is open where the trace ends, and took no time, counts as one without items."""
    call = a_call(total=1)
    a_chunk(call, 0, 10.0, 11.0)
    summary = summarize(a_story(call, a_call(number="2", begin=12.0, end=12.0)))
    assert (summary.calls, summary.items, summary.workers) == (2, 1, 2)


def test_work_is_counted_once():
    """An item that waits for its own call does not work; what waits, crosses and comes back adds up."""
    outer, inner = a_call(total=1), a_call(number="2", level=2, begin=10.5, end=11.5, total=2)
    inner.parent = outer
    outer.calls.append(inner)
    whole = a_chunk(outer, 0, 10.2, 11.8, sending=(10.0, 10.1, 10.1, 1), reading=(11.9, 12.0, 1))
    whole.taken, whole.answered = 10.15, 11.85
    a_chunk(inner, 0, 10.5, 11.5)
    a_chunk(inner, 1, 10.5, 11.5, pid=3)
    summary = summarize(a_story(outer, inner))
    assert summary.work == pytest.approx(0.6 + 2.0)
    assert whole.crossing == pytest.approx(0.05)
    assert whole.returning == pytest.approx(0.05)
    assert whole.transport == pytest.approx(0.1 + 0.05 + 0.05 + 0.1)


def test_threads_of_inner_calls_are_workers(monkeypatch):
    """Two processes whose items run on two threads each keep four cores busy."""
    monkeypatch.setattr("parallelkit.traces.summary.cpu_count", lambda: 4)
    outer = a_call(total=2)
    inner = []
    for pid in (2, 3):
        a_chunk(outer, pid, 10.0, 12.0, pid=pid)
        call = a_call(number=str(pid), index=pid, level=2, backend="thread", total=2)
        call.parent = outer
        outer.calls.append(call)
        a_chunk(call, 0, 10.0, 12.0, pid=pid)
        a_chunk(call, 1, 10.0, 12.0, pid=pid, tid=pid + 100)
        inner.append(call)
    summary = summarize(a_story(outer, *inner))
    assert (summary.workers, summary.work, summary.speedup) == (4, 8.0, 4.0)
    assert summary.utilisation == 1.0


def test_waiting_behind_another_chunk():
    """A chunk that was sent ahead waits until the one before it is answered; the rest is its way."""
    call = a_call()
    first = a_chunk(call, 0, 10.0, 11.0)
    second = a_chunk(call, 1, 11.3, 12.0, sending=(10.0, 10.1, 10.2, 1), taken=11.2)
    second.previous = first
    assert second.waited == pytest.approx(0.8)
    assert second.crossing == pytest.approx(0.2)


def too_small():
    call = a_call(total=8000, name="abs")
    for n in range(8):
        a_chunk(call, 1000 * n, 10 + n / 4, 10 + n / 4 + 0.01, items=1000)
    return a_story(call)


def dominated(late):
    call = a_call(end=14.0 if late else 13.0)
    for n in range(4):
        a_chunk(call, n, 10 + n / 4, 10.25 + n / 4, pid=3)
    a_chunk(call, 4, 11.0 if late else 10.0, 14.0 if late else 13.0)
    return a_story(call)


def dominated_by_a_nest(cores, nested="thread"):
    """The same: the item makes a call of four items, that has one core or two."""
    story = dominated(False)
    [call] = story.calls
    call.nested = nested
    inner = a_call(number="2", parent=call, index=4, level=2, begin=10.0, end=13.0, name="leaf")
    call.calls.append(inner)
    for n in range(4):
        begin, length = 10.0 + 3 * (n // cores) * cores / 4, 3 * cores / 4
        a_chunk(inner, n, begin, begin + length, pid=2 + n % cores)
    return a_story(call, inner)


def submitted():
    call = a_call(total=None, endless=True, name="submit")
    for n in range(200):
        begin = 10 + n / 100
        chunk = a_chunk(call, n, begin, begin + 1e-5, taken=begin - 3e-4)
        chunk.items[0].name = "half"
    return a_story(call)


def frozen(is_array=True):
    calls = [
        a_call(number=str(n), begin=10.0 + n, end=11.0 + n, task_nbytes=80_000_000)
        for n in range(3)
    ]
    for n, call in enumerate(calls):
        call.large, call.task_seconds = [("data", 80_000_000, is_array)], 0.2
        a_chunk(call, 0, 10.1 + n, 11.0 + n)
        a_chunk(call, 1, 10.1 + n, 11.0 + n, pid=3)
    return a_story(*calls)


def slow_input():
    call = a_call(total=None)
    for n in range(4):
        a_chunk(call, n, 10 + n / 2, 10.1 + n / 2, pid=2 + n % 2)
    return a_story(call)


def slow_consumer():
    call = a_call(total=None, lazy=True, consumer=1.9)
    for n in range(4):
        a_chunk(call, n, 10 + n / 2, 10.1 + n / 2, pid=2 + n % 2)
    return a_story(call)


def interpreter_lock(level, outer="process", nested="thread", backend="thread"):
    workers = 4 if backend == "thread" else 1
    call = a_call(backend=backend, level=level, workers=workers, nested=nested)
    if level > 1:
        call.parent = a_call(number="2", backend=outer, end=10.0)
    for tid in range(4):
        a_chunk(call, tid, 10.0, 12.0, tid=tid, thread_seconds=0.5, process_seconds=2.0)
    return a_story(call)


def blas():
    call = a_call(workers=2)
    cores = pk.cpu_count()
    for pid in (2, 3):
        seconds = 2.0 * max(cores, 2) / 2
        a_chunk(call, pid, 10.0, 12.0, pid=pid, thread_seconds=0.9, process_seconds=seconds)
    return a_story(call)


def memory():
    call = a_call()
    for pid in (2, 3):
        a_chunk(call, pid, 10.0, 12.0, pid=pid, memory=10**7, most_memory=10**15)
    return a_story(call)


def no_memory():
    call = a_call()
    for pid in (2, 3):
        [item] = a_chunk(call, pid, 10.0, 12.0, pid=pid).items
        item.failed = "_ArrayMemoryError: Unable to allocate 8 GiB"
    return a_story(call)


def noise():
    """Eight calls, in each of which another item takes longest."""
    calls = [a_call(number=str(n), begin=10.0 + n, end=11.0 + n) for n in range(8)]
    for n, call in enumerate(calls):
        for index in range(8):
            a_chunk(call, index, 10.0 + n, 10.02 + n + 0.88 * (index == n), pid=2 + index % 2)
    return a_story(*calls)


def few():
    call = a_call(workers=8, total=2)
    a_chunk(call, 0, 10.0, 12.0)
    a_chunk(call, 1, 10.0, 12.0, pid=3)
    return a_story(call)


def start_up():
    call = a_call(begin=10.0, end=10.5)
    a_chunk(call, 0, 10.4, 10.5)
    a_chunk(call, 1, 10.4, 10.5, pid=3)
    story = a_story(call)
    story.workers[2].started = 10.1
    return story


def results():
    call = a_call(name="load")
    for pid in (2, 3):
        a_chunk(call, pid, 10.0, 11.0, pid=pid, answer_nbytes=10**8).answered = 12.0
    return a_story(call)


def imports():
    call = a_call()
    for pid in (2, 3):
        a_chunk(call, pid, 11.0, 12.0, pid=pid, sending=(10.0, 10.0, 10.0, 1)).taken = 10.2
    return a_story(call)


ADVICE = {
    "imports": (
        imports(),
        "a worker took 800 ms of 2 s to unpickle its first item of fit",
        "import",
    ),
    "too small": (too_small(), "run.py:7: an item of abs takes 10 µs", "slice of the input"),
    "submitted": (submitted(), "run.py:7: 200 calls such as half are submitted", "pool.map"),
    "one item": (dominated(False), "item 4 of fit took 3 s of the call's 3 s", "cut that item"),
    "one item that makes calls": (
        dominated_by_a_nest(1),
        "item 4 of fit took 3 s of the call's 3 s",
        'let the calls that it makes do more of it, which use the cores that are idle (nested="auto"',
    ),
    "one item that makes calls on processes": (
        dominated_by_a_nest(1, "process"),
        "item 4 of fit took 3 s of the call's 3 s",
        "let the calls that it makes do more of it, which use the cores that are idle.",
    ),
    "late item": (dominated(True), "item 4 of fit took 3 s of the call's 4 s", "long items first"),
    "frozen": (
        frozen(),
        "the frozen argument data= (80 MB) is sent at each of 3 calls",
        "pk.share(data)",
    ),
    "frozen, no array": (
        frozen(is_array=False),
        "the frozen argument data= (80 MB) is sent at each of 3 calls",
        "have pk.Pool(initializer=...) load it once in each worker",
    ),
    "input": (slow_input(), "workers of fit wait for the input", "every 500 ms"),
    "consumer": (slow_consumer(), "wait for the loop that takes the results", "1.9 s of 2 s"),
    "lock": (
        interpreter_lock(1),
        "interpreter lock: 4 ran at a time, on 1 cores",
        'backend="process"',
    ),
    "lock below": (
        interpreter_lock(2),
        "interpreter lock",
        'give the outer pool nested="auto"',
    ),
    "lock below threads": (
        interpreter_lock(2, "thread"),
        "interpreter lock",
        'backend="process" for the outer call, with nested="auto"',
    ),
    "lock below, begun in place": (
        interpreter_lock(2, backend="serial"),
        "interpreter lock",
        'give the outer pool nested="auto"',
    ),
    "lock below, unseen": (
        interpreter_lock(2, nested="auto"),
        "interpreter lock",
        'give the outer pool nested="process"',
    ),
    "BLAS": (blas(), "numerical libraries run threads of their own", "blas_threads=1"),
    "memory": (memory(), "the workers' memory came to", "memory_limit="),
    "no memory": (no_memory(), "item 2 of fit, and 1 more, ran out of memory", "fewer workers"),
    "few": (few(), "2 items cannot keep 8 workers busy", 'nested="auto"'),
    "start-up": (start_up(), "400 ms of 500 ms went by until workers were there", "kept warm"),
    "results": (results(), "results of load take 200 MB", "shared_empty"),
}


@pytest.mark.parametrize("case", ADVICE)
def test_advice(case):
    """Each rule sees its own cause, names the line, and no other rule speaks of it."""
    story, told, change = ADVICE[case]
    [text] = advice(story)
    assert told in text
    assert change in text
    assert text.startswith("run.py:7: ") or case == "memory"


def test_no_advice_where_all_is_well():
    """Two busy workers: nothing to change."""
    call = a_call()
    for n in range(4):
        a_chunk(call, n, 10 + n // 2, 11 + n // 2, pid=2 + n % 2)
    assert advice(a_story(call)) == []
    assert "advice" not in str(summarize(a_story(call)))
    assert advice(noise()) == []
    assert advice(dominated_by_a_nest(2)) == []  # the long item uses the idle core itself


def test_the_report():
    """The text has the numbers, and what went wrong."""
    call = a_call(total=2)
    a_chunk(call, 0, 10.0, 11.0)
    a_chunk(call, 1, 10.0, 12.0, pid=3)
    lost = stories.Event("lost", 11.0, 2, "WorkerDied: signal 9", call, 0)
    report = str(summarize(a_story(call, events=[lost])))
    assert report.splitlines()[:3] == [
        "2 items in 1 call, 2 s with 2 workers",
        "  speed-up     1.50 of at most 1.50 (3 s of work)",
        "  utilisation  75%",
    ]
    assert "1 failed" in report


def test_a_picture(tmp_path):
    """The picture is written in the kind that its name says."""
    pytest.importorskip("matplotlib")
    with pk.trace(tmp_path / "run.svg") as trace, pk.Pool(2, on_error="return") as own:
        own.map(fail_on, range(6), bad=[1])
    figure = trace.plot(tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "run.svg").read_text()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"fail_on", "failed"} <= set(labels)


def test_a_page(tmp_path):
    """The page is one file: nothing is fetched, and the data is in it, whatever names it has."""
    path = tmp_path / "run.html"

    def hostile(x):
        return x

    hostile.__qualname__ = "</script><b>"
    with pk.trace(path) as trace:
        pk.Pool(2).map(hostile, range(6))
    text = path.read_text(encoding="utf-8")
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("</script>") == 2
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert data["names"] == ["</script><b>"]
    assert sum(bar[4] for lane in data["lanes"] for bar in lane["bars"]) == 6
    assert data["summary"]["items"] == trace.summary().items == 6


def test_an_empty_trace(tmp_path):
    """Without a call there is a file, a report, a picture and a page, all with nothing in them."""
    with pk.trace(tmp_path / "run.json") as trace:
        pass
    assert events(tmp_path / "run.json", "item") == []
    assert str(trace.summary()).startswith("0 items in 0 calls")
    trace.html(tmp_path / "run.html")
    if "matplotlib" in sys.modules:
        trace.plot(tmp_path / "run.png")


# ---- without a trace -----------------------------------------------------------------------------


def test_nothing_is_written_without_a_trace(pool, monkeypatch):
    """No record is made, here or in a worker, and after a trace workers make none."""
    own = pool()
    with pk.trace() as trace:
        own.map(increment, range(4))
    before = Counter(c.pid for c in story_of(trace).chunks)
    monkeypatch.setattr(recording, "record", None)
    assert own.map(increment, range(4)) == [1, 2, 3, 4]
    assert sum(before.values()) >= 1


def test_the_variable_is_for_this_process_alone(tmp_path):
    """Programs that the traced one starts do not write the same file; nor do workers."""
    path = tmp_path / "run.json"
    run_traced(
        tmp_path,
        """
        import os, parallelkit as pk
        def names(_):
            return "PARALLELKIT_TRACE" in os.environ
        assert pk.map(names, range(4)) == [False] * 4
        assert "PARALLELKIT_TRACE" not in os.environ
        """,
        env={"PARALLELKIT_TRACE": str(path)},
    )
    assert len(events(path, "item")) == 4


def test_the_command_runs_scripts_as_python_does(tmp_path):
    """The script has its arguments, its name and its folder; the default file is trace.json, here."""
    path = tmp_path / "trace.json"
    ran = run_traced(
        tmp_path,
        """
        import sys, parallelkit as pk
        FACTOR = 3
        def scaled(x):
            return FACTOR * x
        if __name__ == "__main__":
            print(sys.argv[1:], pk.map(scaled, range(3)))
        """,
        "--its-own",
        "argument",
        before=["-m", "parallelkit", "trace"],
        cwd=tmp_path,
    )
    assert ran.out == "['--its-own', 'argument'] [0, 3, 6]\n"
    assert "written to trace.json" in ran.err
    assert len(events(path, "item")) == 3
