"""Maps for `asyncio`: an iterator whose results are awaited.

::

    input ─► a thread: the engine ─► lists of results ─► the event loop ─► __anext__
               ▲                                                              │
               └──────────── room for another list ◄──────────────────────────┘

The thread alone waits for workers, inputs and room; what runs in the event loop never does.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import closing
from functools import partial
from typing import Any, Self

from ..engine import run as engine
from ..engine.ordering import Part
from ..errors import ParallelError
from ..options import Options
from ..values.call import Call
from ..values.source import Source
from .runner import begin

__all__ = ["AsyncResults"]

AHEAD = 2  # lists of results that wait in the event loop, or are on their way to it
_END = object()


class AsyncResults:
    """Results of a map in input order, for ``async for``.

    Bounded in flight, as :func:`parallelkit.imap`. Closing it, dropping it, and cancelling the
    task that waits for it end the map: items that run are given up.

    Parameters
    ----------
    call : Call
        Its inputs may be asynchronous iterables.
    options : Options
    watch : callable
        Told of the source of the call when it begins.
    """

    def __init__(self, call: Call, options: Options, watch: engine.Watch) -> None:
        self._pump = _Pump(asyncio.get_running_loop(), watch)
        inputs = tuple(map(self._pump.drawn, call.iterables))
        self._pump.start(Call(call.func, inputs, call.frozen), options)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        pump = self._pump
        while not pump.due:
            if pump.over:
                error, pump.error = pump.error, None
                raise error or StopAsyncIteration
            pump.changed.clear()
            try:
                await pump.changed.wait()
            except BaseException:
                pump.stop()
                raise
        values = pump.due[0]
        value = values.popleft()
        if not values:
            pump.due.popleft()
            pump.room.release()
        return value

    async def aclose(self) -> None:
        """End the map, and wait until nothing of it runs any more."""
        pump = self._pump
        pump.stop()
        while not pump.over:
            pump.changed.clear()
            await pump.changed.wait()
        pump.due.clear()
        pump.error = None

    def __del__(self) -> None:
        pump: _Pump | None = self.__dict__.get("_pump")
        if pump is not None:
            pump.stop()


class _Pump:
    """The thread's side; does not refer to the iterator, which may thus be dropped."""

    def __init__(self, loop: asyncio.AbstractEventLoop, watch: engine.Watch) -> None:
        self._loop = loop
        self._watch = watch
        self._source: Source | None = None
        self._pending: set[Future[Any]] = set()  # asynchronous inputs that are waited for
        self._stopped = False
        self.room = threading.Semaphore(AHEAD)
        # What follows belongs to the event loop.
        self.due: deque[deque[Any]] = deque()
        self.over = False
        self.error: BaseException | None = None
        self.changed = asyncio.Event()

    def start(self, call: Call, options: Options) -> None:
        begin("aimap", partial(self._run, call, options))

    def stop(self) -> None:
        """Let the thread come to its end."""
        if self.over or self._stopped:
            return
        self._stopped = True
        self.room.release()
        if self._source is not None:
            self._source.abort(ParallelError("the map was closed"))
        for future in list(self._pending):
            future.cancel()

    def _run(self, call: Call, options: Options) -> None:
        error: BaseException | None = None
        try:
            with closing(engine.stream(call, options, self._begun, True, whole=True)) as parts:
                self._give_all(parts)
        except BaseException as problem:  # noqa: BLE001 - raised where the results are awaited
            error = None if self._stopped else problem
        self._tell(self._end, error)

    def _give_all(self, parts: Iterator[Part]) -> None:
        while True:
            self.room.acquire()
            if self._stopped:
                return
            part = next(parts, None)
            if part is None or not self._tell(self._arrive, deque(part.values)):
                return
            del part

    def _begun(self, source: Source) -> None:
        self._source = source
        self._watch(source)
        if self._stopped:
            source.abort(ParallelError("the map was closed"))

    def _tell(self, what: Callable[[Any], None], told: Any) -> bool:
        try:
            self._loop.call_soon_threadsafe(what, told)
        except RuntimeError:  # the event loop is closed
            return False
        return True

    def _arrive(self, values: deque[Any]) -> None:
        if values:
            self.due.append(values)
            self.changed.set()
        else:
            self.room.release()

    def _end(self, error: BaseException | None) -> None:
        self.over, self.error = True, error
        self.changed.set()

    # --- inputs ----------------------------------------------------------------------------------

    def drawn(self, iterable: Iterable[Any] | AsyncIterable[Any]) -> Iterable[Any]:
        """Return an iterable that a thread can draw from."""
        if not isinstance(iterable, AsyncIterable):
            return iterable
        return self._draw(iterable)

    def _draw(self, iterable: AsyncIterable[Any]) -> Iterator[Any]:
        items = aiter(iterable)

        async def following() -> Any:
            return await anext(items, _END)

        while not self._stopped:
            future = asyncio.run_coroutine_threadsafe(following(), self._loop)
            self._pending.add(future)
            if self._stopped:
                future.cancel()
            try:
                item = future.result()
            except CancelledError:
                return
            finally:
                self._pending.discard(future)
            if item is _END:
                return
            yield item
            del item
