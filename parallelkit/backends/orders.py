"""A call whose items run in other processes: what goes there with a chunk, and what comes back.

::

    order, arguments ─► a worker ─► "done"
                                    "lacks" the task or part of the script: again, with just that
                                    "behind" with what grows meanwhile: again, with all from there

What is large, and the same for all chunks, is put where workers fetch it, once.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from ..errors import INHERITED, ParallelError, RemoteTraceback, TransportError, assign
from ..place.recording import called
from ..transport import pickling
from ..transport.by_name import by_name
from ..transport.pickling import Pickled
from ..transport.refusals import is_refused, refusal
from ..transport.script import script
from ..values.outcome import Lost, Reply
from ..worker import output, remote
from ..worker.context import variables_with
from ..worker.environment import current
from ..worker.parcel import Parcel, since
from ..worker.remote import Order
from ..worker.stage import settings
from ..worker.versions import head, own_version
from .cluster import is_missing, short
from .dispatch import Dispatch, Flight

__all__ = ["There"]

SMALL = 1 << 14  # bytes that go with each order rather than be asked for
LARGE = 1 << 20  # bytes of arguments that are put where workers fetch them
BUDGET = 0.05  # seconds of a chunk, as `worker.task` has it, for a pace of 1


class There(Dispatch):
    """A call whose items run in other processes."""

    def open(self) -> None:
        """Pickle the task."""
        task, options = self._task, self._options
        # The place is found where the work arrives: what it would be here is of no account.
        task.places, task.cores = [task.places[0]._replace(cores=1)], 1
        self._head = head()
        self._name = called(task.func) or type(task.func).__name__
        try:
            pickled = _ready(pickling.dumps(task.state(variables_with(task)), together=True))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            told = task.refusal(error)
            if told is error:
                raise
            raise told from error
        self._refuse_shared(pickled, "a keyword or the function")
        self._plan = pickled.needs or None
        self._parcel: Any = Parcel.of(pickled)
        self._state: Any = self._sent(self._parcel)
        # A digest of what is large, and was put, would take longer than to fetch it once more.
        put = self._state is not self._parcel and self._parcel.nbytes > LARGE
        anew = put or not task.may_be_kept()
        self._key = os.urandom(8).hex() if anew else _digest(self._parcel)
        self._setup: Any = None
        self._setup_key = self._call = ""
        if options.initializer is not None:
            users = by_name((options.initializer, options.initargs))
            packed = _ready(pickling.dumps(users))
            self._setup_plan = packed.needs or None
            setup = Parcel.of(packed)
            self._setup, self._setup_key = setup, str(options.giver and options.giver.number)
            self._call = os.urandom(8).hex()
        else:
            self._setup_plan = None
        self._settings = settings(current())
        self._news: tuple[Any, Any, int] | None = None  # for who knows nothing

    def _refuse_shared(self, pickled: Pickled, what: str) -> None:
        if getattr(pickled.needs, "inherits", 0) or any(not len(one) for one in pickled.shared):
            raise TransportError(f"{what} cannot be sent to {self._cluster.name}: {INHERITED}")
        if pickled.shared:
            raise TransportError(
                f"{what} lies in memory of pk.share, which workers of {self._cluster.name} cannot "
                "see; give a plain array: it is sent once a call and worker"
            )

    def _sent(self, parcel: Parcel) -> Any:
        """What goes with an order for a parcel: itself, or where it was put if it is large."""
        if parcel.nbytes > SMALL:
            return self._cluster.put(parcel) or parcel
        return parcel

    def close(self) -> None:
        """Give up what is under way, and what was put: who keeps an error keeps this call too."""
        super().close()
        self._state = self._parcel = self._setup = self._news = None

    def _prepare(self, flight: Flight) -> bool:
        chunk, source = flight.chunk, self._source
        try:
            pickled = _ready(pickling.dumps(chunk.columns))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or not is_refused(chunk.columns):
                raise
            if chunk.size == 1:
                args = chunk.args(0)
                told = args[0] if len(args) == 1 else args
                error = refusal(f"argument of item {chunk.start}", told, error)
            self._ready.append((chunk, Lost(error)))
            return False
        try:
            self._refuse_shared(pickled, f"an argument of item {chunk.start}")
        except TransportError as error:
            self._ready.append((chunk, Lost(error)))
            return False
        if source.endless:  # what was submitted just now finds what is around it now
            self._settings = settings(current())
        plans = [self._plan, self._setup_plan, pickled.needs or None]
        flight.plans = [plan for plan in plans if plan is not None]
        columns = Parcel.of(pickled)
        flight.nbytes = columns.nbytes
        large = columns.nbytes > LARGE
        flight.columns = (self._cluster.put(columns) or columns) if large else columns
        return True

    def _start(self, flight: Flight) -> Any:
        chunk = flight.chunk
        if self._call and self._source.endless and len(self._flights) == 1:
            self._call = os.urandom(8).hex()  # nothing else of it runs: it begins anew
        # As it is now: another chunk may have found out more of the same parts of the script.
        flight.needs = tuple(frozenset[int]().union(*(plan.versions for plan in flight.plans)))
        order = Order(
            *(self._key, chunk.start, chunk.size, flight.needs, self._settings),
            *(self._setup_key, self._call, BUDGET * self._pace),
            self._task.traced and tuple(self._task.traced),
        )
        if flight.lacked and self._state is self._parcel:  # no worker was there when it was made
            self._state = self._sent(self._parcel)
        news, state, setup = self._news_for(flight), self._state, self._setup
        if not flight.lacked:  # who has not got what is large says so
            state = None if isinstance(state, Parcel) and state.nbytes > SMALL else state
            setup = None if setup is not None and setup.nbytes > SMALL else setup
        return self._cluster.submit(
            self._name,
            remote.run,
            *(self._head, tuple(order), flight.columns, news, state, setup),
        )

    def _news_for(self, flight: Flight) -> Any:
        if not flight.needs:
            return None
        if flight.lacked:
            # Two workers that have different parts could ask in turns for what the other one has.
            again = flight.lacked > 2
            held = frozenset[int]() if again else frozenset(flight.held)
            versions, pickled = script.news_without(held, flight.plans)
            return versions, Parcel.of(pickled), again
        if self._news is None or not self._news[0] >= frozenset(flight.needs):
            versions, pickled = script.news_without((), flight.plans)
            parcel = Parcel.of(pickled)
            self._news = versions, parcel, parcel.nbytes
        versions, parcel, nbytes = self._news
        return (versions, parcel, False) if nbytes <= SMALL else None

    def _opened(self, flight: Flight, result: Any) -> None:
        kind, *rest = result
        if kind == "done":
            self._answered(flight, *rest)
        elif kind == "lacks":
            self._lacks(flight, *rest)
        elif kind == "behind":
            self._behind(flight, *rest)
        elif kind == "unreadable":
            self._ready.append((flight.chunk, Lost(_error(rest[0]))))
        elif kind == "differs":
            raise ParallelError(
                f"a worker of {self._cluster.name} has {rest[0]}: caller and workers must have "
                "the same versions, since functions travel as code"
            )
        else:  # the initializer, the script or the task
            raise _error(rest[0])

    def _answered(self, flight: Flight, parcel: Parcel, seconds: float, said: list[Any]) -> None:
        for kind, fields in said:
            output.retell(kind, fields)
        chunk = flight.chunk
        try:
            values, raised = parcel.open()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            try:
                parcel.open()
            except BaseException:  # noqa: BLE001 - a user's __setstate__ may raise anything
                self._ready.append((chunk, Lost(error)))
                return
            raise  # by a signal handler
        nbytes = max(parcel.nbytes, flight.nbytes)
        self._ready.append((chunk, Reply(values, raised, seconds, True, nbytes)))

    def _lacks(self, flight: Flight, held: tuple[int, ...]) -> None:
        """Send an order again, with what its worker has not got."""
        flight.lacked += 1
        flight.held = held
        self._launch(flight)

    def _behind(self, flight: Flight, number: int, has: int) -> None:
        """Send arguments anew, with all that their worker has not got of what grows.

        Where that lands on another worker, which has still less, all of it goes along.
        """
        known = since.set({number: 0 if flight.behind else has})
        flight.behind = True
        try:
            sent = self._prepare(flight)
        finally:
            since.reset(known)
        if sent:
            self._launch(flight)

    def _failed(self, flight: Flight, error: BaseException) -> None:
        if is_missing(error):
            verdict = self._cluster.verdict(error)  # which may know of a better way
            if isinstance(verdict, BaseException) and "pip install" in str(verdict):
                raise verdict from error
            raise self._missing(error) from error
        super()._failed(flight, error)

    def _missing(self, error: BaseException) -> ParallelError:
        return ParallelError(
            f"the workers of {self._cluster.name} have no parallelkit, or another version of "
            f"it ({error}); run there: pip install parallelkit=={own_version()}"
        )

    def _lost_by_chance(self, flight: Flight, error: BaseException) -> None:
        if self._state is not self._parcel and not self._cluster.there(self._state):
            self._state = self._sent(self._parcel)
        super()._lost_by_chance(flight, error)


def _ready(pickled: Pickled) -> Pickled:
    """Look up what a pickle needs of the script; it then has that in ``needs``."""
    return script.ready(pickled)  # type: ignore[no-any-return]


def _digest(parcel: Parcel) -> str:
    digest = hashlib.sha256(parcel.data)
    for buffer in parcel.buffers:
        digest.update(buffer)
    return digest.hexdigest()


def _error(parcel: Parcel) -> BaseException:
    """Error that came up at a worker, outside of all items, with the traceback that it had."""
    try:
        error, text = parcel.open()
    except Exception as problem:  # noqa: BLE001 - a user's class may raise anything
        return TransportError(f"an error of a worker could not be unpickled: {short(problem)}")
    if error.__cause__ is None:
        assign(error, __cause__=RemoteTraceback(text))
    return error  # type: ignore[no-any-return]
