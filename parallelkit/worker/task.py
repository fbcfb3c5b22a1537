"""The task of a call: what a worker needs besides the items, and how it runs a chunk of them.

The same object runs on every backend. Processes get it pickled, once a call and worker; threads
and the serial pool use it as it is.
"""

from __future__ import annotations

import contextvars
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Self

from .. import options
from ..errors import StaysHere, formatted
from ..place import nesting
from ..place.attributes import attribute
from ..place.nesting import GivenUp, Nesting
from ..transport.own import Sent, Told
from ..values import seeds
from ..values.call import around, unpacks
from ..values.caller import CALLER, beside, beside_each, placed
from ..values.outcome import Raised, Reply
from ..values.sizer import LARGEST_BYTES
from ..values.source import Chunk
from ..values.weight import weight
from . import context
from .environment import LOOK

if TYPE_CHECKING:
    from ..place.recording import Traced
    from .lap import Lap
    from .patience import Limited

__all__ = ["Interrupted", "Progress", "Task", "format_error"]

BUDGET = 0.05  # seconds after which a worker answers for what it has and gives the rest back
UNCHECKED = 256  # part of a chunk that runs between two looks at the clock
FLUSH = 0.001  # with a time limit: seconds of finished work at risk when the worker is ended
_ATOMS = (type(None), bool, int, float, complex, str, bytes)
_NOTHING = nullcontext()
PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")


class Interrupted(BaseException):
    """Raised inside an item of a call that was given up, to free its worker."""


class Progress:
    """What is finished of a chunk, for somebody else to look at while it runs.

    ``mark``, where it is given, is called with the offset of each item before it starts.
    """

    def __init__(self, mark: Callable[[int], None] | None = None) -> None:
        self.values: list[Any] = []
        self.raised: list[Raised] = []
        self.mark = mark


class Task:
    """Function, frozen keywords and surroundings of one call.

    Parameters
    ----------
    func : callable
        Called with one element of each varying input, and `frozen`.
    frozen : Mapping
        Keywords that are the same for all items.
    stop_at_error : bool
        Whether the first exception ends a chunk.
    places : sequence of Nesting
        Place of each worker by its rank.
    configured : Mapping
        Options that calls inside the items inherit.
    cores : int
        What all places have together.
    timeout : float, optional
        Seconds per item.
    blas_threads : int, optional
        Threads of numerical libraries within an item; by default the cores of the place.
    seed : tuple, optional
        A :class:`~parallelkit.values.seeds.Seed`: where the items' random streams begin.
    alone : bool
        Whether one item runs at a time, so that it may have `random` and `numpy.random` to itself.
    variables : tuple
        Context variables of the caller, in a process other than its own.
    own : tuple
        What the items of a worker that makes the call have made of the script; see `own`.
    """

    budget = BUDGET  # longer where a reply has a longer way

    def __init__(
        self,
        func: Callable[..., Any],
        frozen: Mapping[str, Any],
        stop_at_error: bool,
        places: Sequence[Nesting],
        configured: Mapping[str, Any],
        cores: int,
        timeout: float | None = None,
        blas_threads: int | None = None,
        seed: tuple[Any, ...] | None = None,
        alone: bool = False,
        variables: context.Variables = (),
        own: Sent = (),
    ) -> None:
        self.func = func
        self.frozen = frozen
        self.stop_at_error = stop_at_error
        self.places: Sequence[Nesting] = places
        self.configured = configured
        self.cores = cores
        self.timeout = timeout
        self.blas_threads = blas_threads
        self.seed = None if seed is None else seeds.Seed(*seed)
        self.alone = alone
        self.variables = variables
        self.own = Told(own)
        self.traced: Traced | None = None  # not of the state: it is another one for each call
        self.patience: float | None = None  # likewise: `timeout` where no process is ended
        self.alters = False  # whether items have been seen to set context variables

    @classmethod
    def of(cls, state: Sequence[Any]) -> Self:
        """Make a task of its :meth:`state`."""
        func, frozen, stop_at_error, places, *rest = state
        return cls(func, frozen, stop_at_error, [Nesting(*place) for place in places], *rest)

    def state(self, variables: context.Variables, own: Sent = ()) -> tuple[Any, ...]:
        """What another process makes the task of; `variables` and `own` are the caller's."""
        places = tuple(map(tuple, self.places))
        return (
            *(self.func, self.frozen, self.stop_at_error, places),
            *(self.configured, self.cores, self.timeout, self.blas_threads),
            *(None if self.seed is None else tuple(self.seed), self.alone),
            *(variables, own),
        )

    def may_be_kept(self) -> bool:
        """Whether nothing that items do to a worker's copy can change another call's results.

        What functions have in their modules' globals is the worker's own in any case.
        """
        for value in self.frozen.values():
            if type(value) not in _ATOMS:
                return False
        func = self.func
        if type(func) is FunctionType:
            return func.__closure__ is None and not func.__defaults__ and not func.__kwdefaults__
        return type(func) is BuiltinFunctionType and func.__module__ is not None

    def place(self, rank: int) -> Nesting:
        """Place of the worker `rank`."""
        return self.places[rank % len(self.places)]

    def threads(self, rank: int) -> int:
        """How many threads numerical libraries may use in the worker `rank`."""
        return self.blas_threads or self.place(rank).cores

    def run(
        self,
        chunk: Chunk,
        rank: int,
        stop: Callable[[], bool] | None = None,
        progress: Progress | None = None,
        spare: Callable[[], int] | None = None,
        put_back: Callable[[], bool] | None = None,
        lap: Lap | None = None,
        given_up: Callable[[], bool] | None = None,
    ) -> Reply:
        """Run the items of a chunk, from its first until it is done or has taken too long.

        A `KeyboardInterrupt` in the main process is the user's, not the item's, and goes through.
        With `progress` every item is marked there before it starts. `spare` tells how many cores
        the items may use beyond the share of their place, at the moment of asking. `given_up` tells
        whether nobody waits for them any more: then no item is begun, of this chunk and of calls
        that its items make, and `GivenUp` is raised.

        An item runs in a copy of its call's context. Very short ones share one, a few at a time,
        until one of them is seen to have set something. So it is with what they set for the whole
        process, in a worker, where `put_back` undoes that and tells whether there was something.
        """
        progress, apart = progress or Progress(), contextvars.copy_context()
        if self.traced is None:
            run = self._run
            return apart.run(run, chunk, rank, stop, progress, spare, put_back, None, given_up)
        alone = lap is None  # else whoever sends the answer writes it down
        lap = lap or self.lap(chunk, rank, time.perf_counter())
        reply = None
        try:
            run = self._run
            reply = apart.run(run, chunk, rank, stop, progress, spare, put_back, lap, given_up)
        finally:
            lap.ran(progress.raised)
            if alone or reply is None:
                lap.answered(0)
        return reply

    def lap(self, chunk: Chunk, rank: int, taken: float) -> Lap:
        """What measures a chunk of a call that is traced; `taken` is when the work on it began."""
        from .lap import Lap  # nobody needs it without a trace

        assert self.traced is not None
        return Lap(self.traced, chunk, rank, taken)

    def _run(  # noqa: C901, PLR0912, PLR0915 - the one loop over items
        self,
        chunk: Chunk,
        rank: int,
        stop: Callable[[], bool] | None,
        progress: Progress,
        spare: Callable[[], int] | None,
        put_back: Callable[[], bool] | None,
        lap: Lap | None,
        given_up: Callable[[], bool] | None,
    ) -> Reply:
        place, outer = self.place(rank), nesting.given_up()
        asked = None if given_up is None else _Asked(given_up, outer)
        left = asked or outer
        nesting.enter(place, spare, left)
        options.enter(self.below(place))
        context.enter(self.variables, apart=put_back is not None)
        columns, size = chunk.columns, chunk.size
        call = self._callable(chunk.start)
        limited = None if self.patience is None else self._limited(call, rank)
        call = limited or call
        items = iter(columns[0]) if len(columns) == 1 else zip(*columns, strict=True)
        apply = placed(_apply if len(columns) == 1 else _apply_row, self.func)
        values, raised, mark = progress.values, progress.raised, progress.mark
        budget = self.budget if mark is None else FLUSH
        begin, nbytes = time.perf_counter(), 0
        looked = begin
        # A look at the clock for each item; in a large chunk, whose items are short, for a few.
        batch = 1 if mark is not None or self.alters else max(1, size // UNCHECKED)
        if lap is not None:
            call = lap.around(call, self.func, values, batch)
        context_of_all = contextvars.copy_context()
        with seeds.kept() if self.alone else _NOTHING, limited or _NOTHING, asked or _NOTHING:
            while len(values) < size:
                if left is not None and left():
                    raise GivenUp
                if mark is not None:
                    mark(len(values))
                before = len(values)
                own = context_of_all.copy()
                some = islice(items, min(batch, size - len(values)))
                try:
                    own.run(apply, call, some, values.append)
                except BaseException as error:
                    if _is_ours(error):
                        raise
                    if len(values) == size:  # a signal handler's, which came just after the last
                        values.pop()
                    raised.append(Raised(len(values), error, format_error(error)))
                    values.append(None)
                    if self.stop_at_error:
                        break
                if not self.alters and _differ(own, context_of_all):
                    self.alters, batch = True, 1
                now = time.perf_counter()
                if lap is not None:
                    lap.some(before, len(values) - before, now)
                if now - begin > budget or (stop is not None and stop()):
                    break
                if put_back is not None and (self.alters or now - looked > LOOK):
                    looked = now
                    if put_back():
                        self.alters, batch = True, 1
                nbytes += weight(values[-1]) * (len(values) - before)
                if nbytes > LARGEST_BYTES:  # large results go one after the other
                    break
        return Reply(values, raised, time.perf_counter() - begin, True, nbytes)

    def _callable(self, start: int) -> Callable[..., Any]:
        """What is called for each item, from that with the index `start` on."""
        if self.seed is not None:
            return seeds.Seeded(self.func, self.frozen, self.seed, start, self.alone)
        func = around(self.func, beside_each()) if unpacks(self.func) else self.func
        return functools.partial(func, **self.frozen) if self.frozen else func

    def _limited(self, call: Callable[..., Any], rank: int) -> Limited:
        from .patience import Limited  # nobody needs it without a limit

        assert self.patience is not None
        return Limited(beside(call), self.patience, self.threads(rank))

    def refusal(self, error: BaseException) -> BaseException:
        """Error that names what of the task could not be pickled; `error` itself if all can be.

        Then it comes from elsewhere: a signal handler has raised it meanwhile.
        """
        from ..transport.refusals import check, refusal

        inherited = not isinstance(error, StaysHere)
        for name, value in self.frozen.items():
            try:
                check(value, inherited)
            except Exception as problem:  # noqa: BLE001 - a user's __reduce__ may raise anything
                return refusal(f"keyword {name!r}", value, problem)
        try:
            check(self.state(()), inherited)
        except Exception:  # noqa: BLE001
            name = attribute(self.func, "__qualname__", self.func)
            return refusal(f"function {name!r}", self.func, error)
        return error

    def below(self, place: Nesting) -> Mapping[str, Any]:
        """What is configured holds below too; a number of workers only within the share."""
        workers = self.configured.get("workers")
        if workers is None:
            return self.configured
        if workers == "fair":  # which is for the program as a whole
            return {name: value for name, value in self.configured.items() if name != "workers"}
        # Where cores are not a worker's alone, and where the number says no more than all of them.
        if self.configured.get("nested") == "process" or workers >= max(self.cores, 1):
            return {name: value for name, value in self.configured.items() if name != "workers"}
        return {**self.configured, "workers": min(workers, place.cores) if workers > 0 else None}


class _Asked:
    """Tells, while a chunk runs, whether its call was given up, or an item around that.

    What its items leave behind, such as the iterators that they return, is not given up with them
    later. What has been given up by the end of the chunk, such as calls that they have submitted
    and that wait for a worker, remains so.
    """

    def __init__(self, *asked: Callable[[], bool] | None) -> None:
        self._asked = [each for each in asked if each is not None]

    def __call__(self) -> bool:
        return any(each() for each in self._asked)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._asked = [_yes] if self() else []


def _yes() -> bool:
    return True


# Not values.extend(map(call, items)): that would take a StopIteration of `call` for the end.


def _apply(call: Callable[[Any], Any], items: Iterator[Any], append: Callable[[Any], None]) -> None:
    for item in items:
        append(call(item))


def _apply_row(
    call: Callable[..., Any], rows: Iterator[Any], append: Callable[[Any], None]
) -> None:
    for row in rows:
        append(call(*row))


def _differ(one: contextvars.Context, other: contextvars.Context) -> bool:
    try:
        return one != other  # a matter of nanoseconds where nothing was set
    except Exception:  # noqa: BLE001 - variables may hold anything, and compare it as it likes
        return True


def _is_ours(error: BaseException) -> bool:
    """Whether an exception that comes up in an item is not the item's."""
    if isinstance(error, KeyboardInterrupt):
        return not nesting.in_worker_process()
    return isinstance(error, (Interrupted, GivenUp))


def _is_of_ours(code: CodeType) -> bool:
    return code.co_name == CALLER or code.co_filename.startswith(PACKAGE)


def format_error(error: BaseException) -> str:
    """Traceback text of an item's error, from the user's own code on."""
    tb = error.__traceback__
    while tb is not None and _is_of_ours(tb.tb_frame.f_code):
        tb = tb.tb_next
    return formatted(error, tb or error.__traceback__)
