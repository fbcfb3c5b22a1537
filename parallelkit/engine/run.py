"""A call's way, top to bottom and back.

::

    Call ─► plan ─► Source ─► pool.run(Task) ─► failures ─► bar ─► ordering ─► results

`gather` and `stream` are its two ends, a list and a lazy iterator. Lifetimes are owned here, by
one generator for each call: the pool's, the source and the bar end together, however the call
ends.
"""

from __future__ import annotations

import importlib
import sys
import weakref
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ..backends import TABLE, end_all, prepare
from ..backends.base import Pool, Setup
from ..backends.serial import SerialPool
from ..options import Options
from ..place import blas, importing, limits, recording
from ..place.nesting import nesting
from ..place.sigint import Shield, pass_on
from ..values.call import Call
from ..values.remembered import Remembered
from ..values.seeds import draws, fresh, needs, of_next_call, root
from ..values.sizer import LARGEST, LARGEST_LAZY, Sizer
from ..values.source import Source
from . import inplace
from .failures import Failures
from .inputs import source_of
from .ordering import Part, gathered, in_order
from .plan import Plan, needs_process, plan, without_processes

if TYPE_CHECKING:
    from .progress import Bar
    from .recorded import Recorded

__all__ = ["Watch", "begin", "gather", "hold", "run_source", "shutdown", "stream"]

# Told of the source of each call when it begins, or of what stands for it.
Watch = Callable[[Any], object]

# Seconds to see whether an iterator gives nothing at all, in which case no worker is started.
FIRST_ITEM_PATIENCE = 0.05
LEARN_FROM = 1e-4  # seconds of a call in place from which on it is remembered what it took
_TASK = f"{__package__.rpartition('.')[0]}.worker.task"  # needed from the first call on
_BEGUN = Part(0, 0, [])  # stands before the results of a call, when its work has begun


def gather(call: Call, options: Options, watch: Watch) -> list[Any]:
    """Run a call; return its results in input order."""
    options = _with_seed(call, options)
    plan_ = _plan(call, options)
    taken: list[Part] = []
    task = None
    if plan_.level > 1 or plan_.backend == "serial":  # for short calls this takes half of the time
        begun = _in_place(call, options, plan_, watch)
        if begun is not None:
            found, task, size = begun
            taken.append(found)
            if found.items == size:  # whatever its items have put into the input meanwhile
                return found.values
    source = _source(call, options, plan_, lazy=False)
    if taken:
        source.drawn = taken[0].items
    watch(source)
    parts = _parts(call, options, plan_, source, None, task)
    try:
        next(parts)
        for part in parts:
            if part.error is not None:
                raise part.error
            taken.append(part)
    finally:
        parts.close()
    _raise_if_ended(source)
    return gathered(taken)


def _in_place(
    call: Call, options: Options, plan_: Plan, watch: Watch
) -> tuple[Part, Any, int] | None:
    """Run what can be run in place of a short call; tell of how many. None if that is nothing.

    What is left of it is to be run by the same task, whose place among random streams is its own.
    """
    cost = _costs.of(call.func)
    chunk = inplace.chunk_of(call, options, plan_, cost)
    if chunk is None:
        return None
    importing.whole(_TASK)
    here = inplace.Here()
    watch(here)
    task = _task(call, options, plan_, chunk.size)
    reply = inplace.run(chunk, task, options, plan_, here)
    if reply.raised:
        source = _source(call, options, plan_, lazy=False)
        for part in Failures(options, source, call).settle(chunk, reply):
            if part.error is not None:
                raise part.error
    if reply.seconds > LEARN_FROM and call.inner is not None:
        _learn_cost(call.func, reply.seconds / len(reply.values))
    return Part(0, len(reply.values), reply.values), task, chunk.size


def stream(
    call: Call,
    options: Options,
    watch: Watch,
    ordered: bool,
    lazy: bool = True,
    whole: bool = False,
) -> Generator[Any, None, None]:
    """Run a call; return an iterator over its results, in input order or as they finish.

    What can be wrong with the input is raised here, and work starts here, not at the first
    ``next``. One that is not `lazy` goes on whether or not results are taken; a `whole` one gives
    what arrives together, with its indexes and attempts: a
    :class:`~parallelkit.engine.ordering.Part`, which belongs to whoever takes it.
    """
    options = _with_seed(call, options)
    plan_ = _plan(call, options)
    source = _source(call, options, plan_, lazy)
    watch(source)
    results = _stream(call, options, plan_, source, ordered, whole)
    next(results)  # runs up to where the call has begun; from there on closing it ends the call
    _streams.add(results)
    return results


def _with_seed(call: Call, options: Options) -> Options:
    """Let items draw from fresh streams that cannot do without and are given no seed."""
    return options.but(seed=fresh()) if options.seed is None and needs(call) else options


def _plan(call: Call, options: Options) -> Plan:
    return plan(options, nesting(), options.seed is not None and draws(call))


def _stream(
    call: Call, options: Options, plan_: Plan, source: Source, ordered: bool, whole: bool
) -> Generator[Any, None, None]:
    with closing(_parts(call, options, plan_, source, FIRST_ITEM_PATIENCE)) as parts:
        yield next(parts)
        for part in in_order(parts) if ordered else parts:
            if whole:
                yield part
            else:
                yield from part.values
            if part.error is not None:
                raise part.error
            source.consumed(part.items)
    _raise_if_ended(source)


def _raise_if_ended(source: Source) -> None:
    """Raise what ended the input early: an error of its own, or that of who ended the call."""
    error = source.error if source.aborted is None else source.aborted
    if error is not None:
        raise error


def _source(call: Call, options: Options, plan_: Plan, lazy: bool) -> Source:
    largest = LARGEST_LAZY if lazy else LARGEST
    source = source_of(
        call.iterables,
        sizer=Sizer(*(plan_.workers, options.chunksize, largest, _costs.of(call.func), plan_.pace)),
        lazy=lazy,
        strict=options.strict,
        inline=TABLE[plan_.backend].inline,
    )
    source.sizer.settle(source.total)
    return source


# Seconds that an item of a function has taken, so that a short call need not find it out anew.
_costs = Remembered(1000, 0.0)


def _learn_cost(func: Callable[..., Any], seconds: float) -> None:
    """Remember a call. The longer ones count: what is taken for quick is not shared out."""
    _costs.keep(func, max(seconds, (_costs.of(func) + seconds) / 2))


def _parts(
    call: Call,
    options: Options,
    plan_: Plan,
    source: Source,
    patience: float | None,
    task: Any = None,
) -> Generator[Part, None, None]:
    """Run a call; yield `_BEGUN` when it has begun, then its results as they are settled.

    Pool, bar and source end with it. (A ``with`` for each would take microseconds.)
    """
    try:
        if source.known_empty(patience):
            yield _BEGUN
            return
        failures, bar = Failures(options, source, call), None
        if options.progress is not False:
            bar = _bar(options, source, failures, plan_.workers)
        try:
            outcomes = run_source(call, options, plan_, source, task)
            try:
                for outcome in outcomes:
                    if outcome is None:
                        yield _BEGUN
                        continue
                    for part in failures.settle(*outcome):
                        if bar is not None and part.error is None:  # what ends it is not done
                            bar.update(part.items)
                        yield part
            finally:
                outcomes.close()
        finally:
            if bar is not None:
                bar.close()
    finally:
        source.end()
        cost = source.sizer.cost
        if cost and call.inner is not None:  # else each item is a call of its own
            _learn_cost(call.func, cost)


def _bar(options: Options, source: Source, failures: Failures, workers: int) -> Bar:
    from .progress import bar, follow  # nobody needs it else

    opened = bar(options.progress, source.total)
    follow(opened, source, failures, workers)
    return opened


def run_source(
    call: Call, options: Options, plan_: Plan, source: Source, task: Any = None
) -> Generator[Any, None, None]:
    """Run what `source` gives in the pool that was planned."""
    recorded = _recorded(call, options, plan_, source) if recording.on else None
    pool = _pool(options, plan_, options.seed is None or draws(call), call.inner)
    if task is None:
        task = _task(call, options, plan_, source.total)
    if recorded is None:
        return pool.run(task, source)
    task.traced = recorded.traced
    return recorded.watch(pool.run(task, source))


def _task(call: Call, options: Options, plan_: Plan, total: int | None) -> Any:
    """What workers are told of a call."""
    below = options.below
    places = plan_.places(total)
    threads = options.blas_threads
    most = blas.limit() if plan_.level == 1 else options.most_threads
    if most is not None:
        below = {**below, "most_threads": most}
        if threads is None:  # and none that fall free later
            threads = min(most, *(place.cores for place in places))
    stop_at_error = options.on_error == "raise" and not options.retry_on
    task = sys.modules[_TASK].Task(  # an import statement takes a microsecond
        call.func,
        call.frozen,
        stop_at_error,
        places,
        below,
        plan_.cores,
        options.timeout,
        threads,
        of_next_call() if options.seed is None else root(options.seed),
        options.seed is not None and TABLE[plan_.backend].alone,
    )
    if plan_.backend in ("thread", "serial", "outer"):
        task.patience = options.timeout
    return task


def _recorded(call: Call, options: Options, plan_: Plan, source: Source) -> Recorded | None:
    from .recorded import begun  # nobody needs it without a trace

    return begun(call, plan_, source, options.nested)


def _pool(
    options: Options,
    plan_: Plan,
    takes_rng: bool = True,
    func: Callable[..., Any] | None = None,
) -> Pool:
    if sys.is_finalizing():  # a finalizer calls, when no thread can be started any more
        importlib.import_module(_TASK)
        return SerialPool(Setup(None, ()))
    try:
        backend = _backends.get(plan_.backend) or _first_of(plan_.backend, options, func)
        made: Pool = backend.pool_for(options, plan_.workers, plan_.level, plan_.wished)
    except (OSError, RuntimeError, MemoryError) as error:
        if plan_.backend == "process" and limits.is_denied(error) and not needs_process(options):
            return _pool(options, without_processes(options, plan_, takes_rng))
        limits.explain(error)
    return made


def begin(options: Options, func: Callable[..., Any] | None, takes_rng: bool = True) -> None:
    """Prepare for the first call of `func` now, as far as that is done once for all calls.

    For who is about to start a thread or to open a file, beside which no process may be forked.
    What goes wrong is left to the call, which meets it again.
    """
    if isinstance(options.backend, str) and options.backend in _backends:
        return
    try:
        planned = plan(options, nesting(), takes_rng)
        kind = TABLE[planned.backend]
        if kind.alone and not (kind.inline or kind.elsewhere):
            _pool(options, planned, takes_rng, func)
    except Exception as error:  # noqa: BLE001 - whatever keeps workers from being started
        pass_on(error)


def hold(options: Options) -> Any:
    """Start the workers that calls with these options have, and return the pool that keeps them.

    None where such calls have no workers of their own.
    """
    planned = plan(options, nesting())
    if planned.backend == "serial" and options.backend == "thread":
        planned.backend = "thread"  # calls of one thread run in place; this is none
    pool: Any = _pool(options, planned)
    if not hasattr(pool, "hold"):
        return None
    pool.hold()
    return pool


_backends: dict[str, Any] = {}  # modules of those that have had a call


def _first_of(backend: str, options: Options, func: Callable[..., Any] | None) -> Any:
    """Import what a backend needs, at its first call; first calls of several threads take turns.

    Ctrl-C waits until that is done: half-way through, dill and pathos would take it for a module
    that is missing.
    """
    with importing.lock, Shield(), importing.uncollected():
        if backend not in _backends:  # another thread may have been first
            module = prepare(backend, options, func)
            importlib.import_module(_TASK)
            importing.at_exit()
            _backends[backend] = module
        return _backends[backend]


_streams: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()


def _at_exit() -> None:
    """End what still runs, while everything that this takes is still there."""
    launch = sys.modules.get("parallelkit.backends.processes.launch")
    if launch is not None and hasattr(launch, "end"):
        launch.end()
    for results in list(_streams):
        try:
            results.close()
        except ValueError:  # it runs, in a thread that the end of the process ends
            pass
    shutdown()
    transport = sys.modules.get("parallelkit.transport.script")
    if transport is not None and hasattr(transport, "let_go"):
        transport.let_go()


importing.at_exit(_at_exit)


def shutdown() -> None:
    """End all workers that this process keeps warm.

    Calls that are under way on processes fail with :class:`ParallelError`; the next call starts
    new workers. It is called at exit by itself.

    Examples
    --------
    >>> import parallelkit as pk
    >>> pk.shutdown()
    """
    end_all()
    recording.remove_all()
    fair = sys.modules.get("parallelkit.place.fair")  # imported by who has asked for it
    if fair is not None and hasattr(fair, "leave"):
        fair.leave()
