"""What to change where workers are not used well, by rules that each look at one cause.

A rule names the call, by file and line, what was measured, and the change. It says nothing where
little could be gained, and speaks once of all calls that are made at one line.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from ..place.host import cpu_count, memory
from .story import Call, Item, Story, covered, startup

__all__ = ["advice", "duration"]

SHORT = 1e-4  # seconds; an item that takes less is not worth a way of its own
LARGE = 1_000_000  # bytes of a task that is sent again and again
MOST = 6


def advice(story: Story) -> list[str]:
    """Return what to change, the most important first."""
    found: list[tuple[float, str]] = []
    for group in _groups(story.top):
        for rule in RULES:
            found += rule(group)
    for group in _groups(story.calls):
        found += _interpreter_lock(group)
        found += _blas(group)
    found += _memory(story)
    found += _deaths(story)
    found += _startup(story)
    found.sort(key=lambda one: -one[0])
    return [text for _, text in found[:MOST]]


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return "0 s" if seconds <= 0 else f"{seconds / 1e-9:.0f} ns"


Found = Iterator[tuple[float, str]]  # seconds that may be gained, and what to do


def _groups(calls: Sequence[Call]) -> list[list[Call]]:
    """Calls that are made at the same place, with the same function."""
    groups: dict[tuple[str, str, str], list[Call]] = defaultdict(list)
    for call in calls:
        groups[call.name, call.where, call.backend].append(call)
    return list(groups.values())


def _at(call: Call) -> str:
    return f"{call.where}: " if call.where else ""


def _seconds(group: Sequence[Call]) -> float:
    return sum(call.seconds for call in group)


def _begun(call: Call) -> float:
    """When its first item began: what was before is start-up."""
    return min((chunk.begin for chunk in call.chunks), default=call.begin)


def _too_small(group: list[Call]) -> Found:
    first = group[0]
    chunks = [chunk for call in group for chunk in call.chunks]
    work, done = sum(c.seconds for c in chunks), sum(c.done for c in chunks)
    if first.backend == "serial" or not done or first.endless:
        return
    running = sum(call.end - _begun(call) for call in group)
    each = work / done
    lost = running - work / max(1, first.workers)
    if each < SHORT and work < 0.75 * running and lost > 0.02:
        told = f"{_at(first)}an item of {first.name} takes {duration(each)}, less than its way"
        remedy = "give items more to do (a slice of the input each) or use a plain loop"
        if len(group) > 1:
            remedy = f"there are {len(group)} such calls: make one of them, or use a plain loop"
        yield lost, f"{told} to a worker and back; {remedy}."


def _submitted(group: list[Call]) -> Found:
    call = group[0]
    if not call.endless or call.backend == "serial":
        return
    chunks = [chunk for one in group for chunk in one.chunks]
    work, done = sum(c.seconds for c in chunks), sum(c.done for c in chunks)
    lost = sum(chunk.transport for chunk in chunks)  # whoever submits may have taken the rest
    if done > 1 and work / done < SHORT and lost > max(work, 0.02):
        names = Counter(item.name for one in group for item in one.items())
        name = next((name for name, _ in names.most_common(1) if name), call.name)
        yield (
            lost,
            f"{_at(call)}{done} calls such as {name} are submitted one by one, and take "
            f"{duration(work / done)} each, less than their way to a worker and back; give "
            "pool.map the whole list, which sends many in one message, or use a plain loop.",
        )


def _helped(call: Call) -> str:
    """How calls in items use idle cores, for the end of a sentence."""
    told = "which use the cores that are idle"
    if call.nested == "thread":
        told += ' (nested="auto" where they are Python loops)'
    return told


def _dominated(group: list[Call]) -> Found:
    """Of many calls at one line: where it is the same item in them, rather than chance."""
    found: dict[int, list[tuple[float, str]]] = defaultdict(list)
    for call in group:
        for index, gain, text in _longest(call):
            found[index].append((gain, text))
    for same in found.values():
        gain = sum(one for one, _ in same)
        if gain >= 0.1 * sum(call.end - _begun(call) for call in group):
            yield gain, max(same)[1]


def _longest(call: Call) -> Iterator[tuple[int, float, str]]:
    """The item that takes most of a call: its index, what may be gained, and how."""
    ran = (item for chunk in call.chunks if not chunk.lost for item in chunk.items)
    items = sorted(ran, key=lambda item: -item.seconds)
    if len(items) < 2 or call.workers < 2 or call.endless:
        return
    longest, running = items[0], call.end - _begun(call)
    even = sum(chunk.seconds for chunk in call.chunks) / call.workers
    own = [inner for inner in call.calls if inner.index == longest.index]
    alone = longest.seconds - _side_by_side(own)
    if alone < longest.seconds / 2:  # it uses idle cores itself
        return
    late = longest.begin - _begun(call) > 0.2 * running
    by_sorting = running - max(longest.seconds, even) if late else 0.0
    by_cutting = alone - even
    stands_out = longest.seconds > max(0.3 * running, 2 * items[1].seconds)
    long = stands_out or (longest.seconds > 0.6 * running and len(items) >= call.workers)
    gain = max(by_sorting, by_cutting)
    if gain < 0.1 * running or not long:
        return
    told = f"{_at(call)}item {longest.index} of {call.name} took {duration(longest.seconds)} "
    told += f"of the call's {duration(running)}, while the other workers had nothing left"
    idle = _helped(call)
    if by_sorting >= by_cutting:
        change = "put long items first: sort the input by what they will take"
    elif own:
        change = f"cut that item into several, or let the calls that it makes do more of it, {idle}"
    else:
        change = f"cut that item into several, or let it make calls of its own, {idle}"
    yield longest.index, gain, f"{told}; {change}."


def _side_by_side(calls: Sequence[Call]) -> float:
    """Seconds in which at least two chunks of these calls ran at a time."""
    chunks = [chunk for call in calls for chunk in call.chunks]
    moments = sorted([(c.begin, 1) for c in chunks] + [(c.end, -1) for c in chunks])
    total, running, since = 0.0, 0, 0.0
    for moment, change in moments:
        if running > 1:
            total += moment - since
        running, since = running + change, moment
    return total


def _few(group: list[Call]) -> Found:
    call = group[0]
    running = _seconds(group)
    if call.total is None or call.lazy or call.endless or len(group) > 1 or call.calls:
        return
    if 0 < call.total < call.workers and running > 0.1:
        gain = running * (1 - call.total / call.workers)
        yield (
            gain,
            f"{_at(call)}{call.total} items cannot keep {call.workers} workers busy; "
            f"cut the items smaller, or let them make calls of their own, {_helped(call)}.",
        )


def _frozen(group: list[Call]) -> Found:
    sent = [call for call in group if call.task_nbytes >= LARGE]
    if len(sent) < 2:
        return
    call = max(sent, key=lambda one: one.task_nbytes)
    seconds = sum(c.task_seconds for c in sent)
    nbytes = f"{call.task_nbytes / 1e6:.3g} MB"
    if call.large:
        key, _, is_array = max(call.large, key=lambda one: one[1])
        if is_array:
            change = f"{key} = pk.share({key}) once, before the calls; {key}={key} stays as it is"
        else:
            change = "have pk.Pool(initializer=...) load it once in each worker"
        what = f"the frozen argument {key}= ({nbytes})"
    else:
        what = f"{nbytes} with the function {call.name}"
        change = "pass what is large as a frozen keyword, and pk.share it once before the calls"
    told = f"{_at(call)}{what} is sent at each of {len(sent)} calls"
    yield max(seconds, 0.01), f"{told}; {change}."


def _idle(call: Call) -> float:
    """Share of its workers' time in which they had nothing to run."""
    running = call.end - _begun(call)
    if running <= 0:
        return 0.0
    return 1 - sum(chunk.seconds for chunk in call.chunks) / (running * max(1, call.workers))


def _input(group: list[Call]) -> Found:
    for call in group:
        running = call.end - _begun(call)
        slow_consumer = call.consumer > 0.5 * running
        if call.total is not None or call.endless or slow_consumer or running < 0.1:
            continue
        items = sum(chunk.done for chunk in call.chunks)
        if _idle(call) > 0.4 and items and sum(c.seconds for c in call.chunks) / items > SHORT:
            yield (
                _idle(call) * running,
                f"{_at(call)}workers of {call.name} wait for the input, which gives an item every "
                f"{duration(running / items)}; let the items do that work themselves (pass file "
                "names instead of contents, say).",
            )


def _consumer(group: list[Call]) -> Found:
    for call in group:
        running = call.end - _begun(call)
        if call.lazy and call.consumer > 0.6 * running and _idle(call) > 0.4 and running > 0.1:
            yield (
                _idle(call) * running,
                f"{_at(call)}workers of {call.name} wait for the loop that takes the results, "
                f"which is at work for {duration(call.consumer)} of {duration(running)}; move "
                f"work from the loop into {call.name}.",
            )


def _results(group: list[Call]) -> Found:
    call = group[0]
    chunks = [chunk for one in group for chunk in one.chunks]
    nbytes = sum(chunk.answer_nbytes for chunk in chunks)
    work, transport = sum(c.seconds for c in chunks), sum(c.transport for c in chunks)
    if nbytes > 50_000_000 and transport > 0.3 * (work + transport):
        yield (
            transport,
            f"{_at(call)}results of {call.name} take {nbytes / 1e6:.3g} MB, and their way "
            f"{duration(transport)}; return less, or write into an array of pk.shared_empty().",
        )


def _imports(group: list[Call]) -> Found:
    for call in group:
        first: dict[int, float] = {}  # of each worker: what its first chunk took to be unpickled
        for chunk in call.chunks:
            if chunk.sending is not None:
                first.setdefault(chunk.pid, chunk.begin - chunk.taken)
        spent = max(first.values(), default=0.0)
        if spent > 0.1 and spent > 0.1 * call.seconds:
            yield (
                spent,
                f"{_at(call)}a worker took {duration(spent)} of {duration(call.seconds)} to "
                f"unpickle its first item of {call.name}, which mostly is to import what that "
                "needs; workers are kept warm, so give them more to do, or import less where the "
                "function is defined.",
            )


def _interpreter_lock(group: list[Call]) -> Found:
    call = group[0]
    if call.backend not in ("thread", "serial"):  # what began in place may go on with threads
        return
    chunks = [chunk for one in group for chunk in one.chunks]
    elapsed = sum(one.end - _begun(one) for one in group)
    busy = sum(chunk.seconds for chunk in chunks)
    processor = sum(chunk.thread_seconds for chunk in chunks)
    if elapsed < 0.02 or busy < 1.2 * elapsed or not 0.6 * elapsed < processor < 1.3 * elapsed:
        return
    threads = max(call.workers, len({(chunk.pid, chunk.tid) for chunk in chunks}))
    gain = elapsed - processor / min(threads, cpu_count())
    told = f"{_at(call)}threads of {call.name} wait for each other at the interpreter lock: "
    told += f"{busy / elapsed:.2g} ran at a time, on {processor / elapsed:.2g} cores"
    change = 'use backend="process"'
    if call.level > 1:
        auto = call.nested == "thread"  # else it was given, and has not seen that they wait
        nested = 'nested="auto"' if auto else 'nested="process"'
        change = f"give the outer pool {nested}, so that idle workers take such items over"
        if _outermost(call).backend == "thread":  # there are no processes that could
            change = f'use backend="process" for the outer call, with {nested}'
    if gain > 0.1 * elapsed:
        yield gain, f"{told}; {change}."


def _outermost(call: Call) -> Call:
    while call.parent is not None:
        call = call.parent
    return call


def _blas(group: list[Call]) -> Found:
    call = group[0]
    if call.backend != "process" or call.calls:
        return
    chunks = [chunk for one in group for chunk in one.chunks if not chunk.lost]
    busy = sum(chunk.seconds for chunk in chunks)
    processor = sum(chunk.process_seconds for chunk in chunks)
    thread = sum(chunk.thread_seconds for chunk in chunks)
    elapsed = sum(one.end - _begun(one) for one in group)
    if busy < 0.1 or elapsed <= 0:
        return
    wanted = processor / elapsed
    others = processor - thread
    if others > 0.3 * thread and wanted > 0.7 * cpu_count() and busy > 1.3 * elapsed:
        yield (
            others / 4,
            f"{_at(call)}inside the items of {call.name} numerical libraries run threads of their "
            f"own ({processor / max(busy, 1e-9):.2g} cores an item), beside {call.workers} "
            "workers; use blas_threads=1.",
        )


def _memory(story: Story) -> Found:
    most: dict[int, int] = {}
    for chunk in story.chunks:
        most[chunk.pid] = max(most.get(chunk.pid, 0), chunk.memory, chunk.most_memory)
    whole, used = memory(), sum(most.values())
    if whole and used > 0.8 * whole:
        yield (
            max(1.0, story.end - story.begin),
            f"the workers' memory came to {used / 1e9:.3g} GB of {whole / 1e9:.3g} GB; use fewer "
            "workers, or memory_limit= so that an item that takes too much fails alone.",
        )


def _no_memory(item: Item) -> bool:
    return item.failed.partition(":")[0].endswith("MemoryError")  # numpy has one of its own


def _memory_errors(group: list[Call]) -> Found:
    failed = [item for call in group for item in call.items() if _no_memory(item)]
    if failed:
        more = "" if len(failed) == 1 else f", and {len(failed) - 1} more,"
        yield (
            1.0,
            f"{_at(group[0])}item {failed[0].index} of {group[0].name}{more} ran out of memory; "
            "use fewer workers, a larger memory_limit= where there is one, or smaller items.",
        )


def _deaths(story: Story) -> Found:
    lost = [event for event in story.events if event.kind == "lost" and event.call is not None]
    died = [event for event in lost if "WorkerDied" in event.text]
    late = [event for event in lost if "Timeout" in event.text]
    look = "run it alone in a process of its own to see why, or bound memory with memory_limit="
    for events, told, change in (
        (died, "ended the worker that ran it", look),
        (late, "ran into the time limit", "raise timeout=, or let retries= try again"),
    ):
        if events:
            call = events[0].call
            assert call is not None
            more = "" if len(events) == 1 else f", and {len(events) - 1} more like it"
            yield (
                1.0,
                f"{_at(call)}item {events[0].index} of {call.name} {told}{more}; {change}.",
            )


def _startup(story: Story) -> Found:
    spent = sum(startup(call, story) for call in story.top)
    whole = covered((call.begin, call.end) for call in story.top)
    first = next((call for call in story.top if startup(call, story)), None)
    if first is not None and spent > 0.5 * whole and spent > 0.05:
        yield (
            spent,
            f"{_at(first)}{duration(spent)} of {duration(whole)} went by until workers were "
            "there; they are kept warm for later calls, so it weighs less the more there is to "
            "do. For work this short use a plain loop.",
        )


# Of calls that no item has made.
RULES = (
    *(_too_small, _submitted, _dominated, _few, _frozen),
    *(_input, _consumer, _results, _imports, _memory_errors),
)
