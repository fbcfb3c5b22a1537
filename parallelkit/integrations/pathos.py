"""The pools of pathos, their names and what they mean, on the workers of parallelkit.

>>> from parallelkit.integrations.pathos import ProcessPool
>>> pool = ProcessPool(nodes=2)
>>> pool.map(pow, [1, 2, 3], [2, 2, 2]), pool.amap(abs, [-1]).get(), pool.pipe(pow, 2, 5)
([1, 4, 9], [1], 32)
>>> pool.close()
>>> pool.join()
>>> pool.clear()

As in pathos, pools with the same `id` (by default their number of nodes) are one pool: closing one
closes the other, until `restart` or `clear`; and leaving a ``with`` block closes nothing. Unlike
there, a dead worker costs one item and hangs nothing, and a pool may be used in its own items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Self

from ..place.host import cpu_count
from .asynchronous import AsyncPool, AsyncResult

__all__ = ["ProcessPool", "SerialPool", "ThreadPool"]


class _Server(AsyncPool):
    """A pool that several handles may share, and what tells whether they do."""

    def __init__(self, backend: str, nodes: int, options: dict[str, Any]) -> None:
        workers = None if nodes == cpu_count() else nodes
        named = {"maxtasksperchild": "tasks_per_worker"}
        given = {named.get(name, name): value for name, value in options.items()}
        super().__init__(backend=backend, workers=workers, **given)
        self.nodes = nodes
        self._options = options

    def is_made_with(self, nodes: int, options: dict[str, Any]) -> bool:
        """Whether it has these settings."""
        try:
            return self.nodes == nodes and bool(self._options == options)
        except Exception:  # noqa: BLE001 - those of an initializer may be arrays, or anything
            return False


class _Pool:
    """What :class:`ProcessPool` and :class:`ThreadPool` have in common.

    Parameters
    ----------
    nodes : int, optional
        How many work at a time, also as `ncpus`, `processes` or in first place; by default all
        cores.
    id : hashable, optional
        Pools with the same one share their state; by default `nodes`.
    **options
        ``initializer``, ``initargs``, ``maxtasksperchild``, and all options of
        :class:`parallelkit.Pool`.
    """

    _backend: ClassVar[str]
    __state__: ClassVar[dict[Any, _Server]]

    def __init__(self, *nodes: int, **options: Any) -> None:
        given = [*nodes, *(options.pop(n) for n in ("nodes", "ncpus", "processes") if n in options)]
        if len(given) > 1:
            raise TypeError("got multiple values for the number of nodes; give one")
        self._nodes: int = given[0] if given else cpu_count()
        identity = options.pop("id", None)
        self._id = self._nodes if identity is None else identity
        self._options = options
        self._serve()

    # --- its state, which others may share -------------------------------------------------------

    def _serve(self, nodes: int | None = None) -> _Server:
        """Pool under this id, made anew where there is none with these settings."""
        nodes = nodes or self._nodes
        server = self.__state__.get(self._id)
        if server is None or not server.is_made_with(nodes, self._options):
            self.clear()
            server = self.__state__[self._id] = _Server(self._backend, nodes, self._options)
        return server

    def _mine(self) -> _Server | None:
        server = self.__state__.get(self._id)
        mine = server is not None and server.nodes == self._nodes
        return server if mine else None

    def clear(self) -> None:
        """Close the pool, wait for it, and forget it: the next call makes another one."""
        server = self._mine()
        if server is not None and server.is_made_with(self._nodes, self._options):
            server.close()
            server.join()
            self.__state__.pop(self._id, None)

    def restart(self, force: bool = False) -> _Server | None:
        """Open a pool again that was closed; AssertionError where it is not, unless `force`."""
        server = self._mine()
        if server is None:
            return self.__state__.get(self._id)
        if server._state == "RUN" and not force:
            raise AssertionError("the pool is open; restart(force=True) to begin anew")
        self.clear()
        return self._serve()

    def close(self) -> None:
        """Take no more calls."""
        server = self._mine()
        if server is not None:
            server.close()

    def terminate(self) -> None:
        """Take no more calls, and end those that run."""
        server = self._mine()
        if server is not None:
            server.terminate()

    def join(self) -> None:
        """Wait until a closed pool has done all that was asked for."""
        server = self._mine()
        if server is not None:
            server.join()

    @property
    def nodes(self) -> int:
        """How many work at a time."""
        return self._nodes

    @nodes.setter
    def nodes(self, nodes: int) -> None:
        self._serve(nodes)
        self._nodes = nodes

    ncpus = nodes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass  # as in pathos: results may be asked for later

    def __repr__(self) -> str:
        return f"<pool {type(self).__name__}(ncpus={self._nodes})>"

    # --- calls -----------------------------------------------------------------------------------

    def map(
        self, f: Callable[..., Any], *args: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Call `f` with the elements of `args`, up to the end of the shortest; return a list."""
        return self._serve()._mapping(f, _inputs(args), chunksize)()

    def imap(
        self, f: Callable[..., Any], *args: Iterable[Any], chunksize: int | None = None
    ) -> Iterator[Any]:
        """:meth:`map` as an iterator; all is run whether or not results are taken."""
        return self._serve()._iterator(f, _inputs(args), chunksize, ordered=True)

    def uimap(
        self, f: Callable[..., Any], *args: Iterable[Any], chunksize: int | None = None
    ) -> Iterator[Any]:
        """:meth:`imap` in the order in which items finish."""
        return self._serve()._iterator(f, _inputs(args), chunksize, ordered=False)

    def amap(
        self, f: Callable[..., Any], *args: Iterable[Any], chunksize: int | None = None
    ) -> AsyncResult:
        """Begin :meth:`map`; what is returned has ``get``, ``ready``, ``wait``, ``successful``."""
        server = self._serve()
        return AsyncResult(server._later(server._mapping(f, _inputs(args), chunksize)))

    def pipe(self, f: Callable[..., Any], *args: Any, **kwds: Any) -> Any:
        """Call `f` with `args` in a worker; return its result."""
        return self._serve()._submit(f, args, kwds).result()

    def apipe(self, f: Callable[..., Any], *args: Any, **kwds: Any) -> AsyncResult:
        """Begin :meth:`pipe`; return what :meth:`amap` does."""
        return AsyncResult(self._serve()._submit(f, args, kwds))


class ProcessPool(_Pool):
    """``pathos.pools.ProcessPool`` on our processes; see there and :class:`_Pool`.

    Parameters
    ----------
    nodes : int, optional
        How many work at a time, also as `ncpus`, `processes` or in first place; by default all
        cores.
    id : hashable, optional
        Pools with the same one share their state; by default `nodes`.
    **options
        ``initializer``, ``initargs``, ``maxtasksperchild``, and all options of
        :class:`parallelkit.Pool`.

    Examples
    --------
    >>> from parallelkit.integrations.pathos import ProcessPool
    >>> pool = ProcessPool(2)
    >>> sorted(pool.uimap(lambda x, y: x + y, [1, 2], [10, 20]))
    [11, 22]
    """

    _backend = "process"
    __state__: ClassVar[dict[Any, _Server]] = {}


class ThreadPool(_Pool):
    """``pathos.pools.ThreadPool`` on our threads; parameters are those of :class:`ProcessPool`.

    Examples
    --------
    >>> from parallelkit.integrations.pathos import ThreadPool
    >>> ThreadPool(2).map(lambda x: x + 1, [1, 2])
    [2, 3]
    """

    _backend = "thread"
    __state__: ClassVar[dict[Any, _Server]] = {}


class SerialPool:
    """``pathos.pools.SerialPool``: the same calls, in place; `map` and `imap` are lazy, as there.

    Examples
    --------
    >>> from parallelkit.integrations.pathos import SerialPool
    >>> list(SerialPool().map(pow, [1, 2], [3, 3])), SerialPool().pipe(pow, 2, 5)
    ([1, 8], 32)
    """

    nodes = 1
    __state__: ClassVar[dict[Any, Any]] = {}

    def __init__(self, *_: Any, **__: Any) -> None:
        self._open = True

    def map(self, f: Callable[..., Any], *args: Iterable[Any], **_: Any) -> Iterator[Any]:
        """Call `f` with the elements of `args`, as results are taken."""
        self._check()
        return map(f, *args)

    def imap(self, f: Callable[..., Any], *args: Iterable[Any], **_: Any) -> Iterator[Any]:
        """The same as :meth:`map`."""
        return self.map(f, *args)

    def pipe(self, f: Callable[..., Any], *args: Any, **kwds: Any) -> Any:
        """Call `f`."""
        self._check()
        return f(*args, **kwds)

    def close(self) -> None:
        """Take no more calls."""
        self._open = False

    terminate = close

    def join(self) -> None:
        """Nothing to wait for; AssertionError where it is not closed."""
        if self._open:
            raise AssertionError("the pool is open; close() it first")

    def clear(self) -> None:
        """Take calls again."""
        self._open = True

    def restart(self, force: bool = False) -> None:
        """Take calls again; AssertionError where it is not closed, unless `force`."""
        if self._open and not force:
            raise AssertionError("the pool is open")
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __repr__(self) -> str:
        return "<pool SerialPool()>"

    def _check(self) -> None:
        if not self._open:
            raise ValueError("Pool not running")


def _inputs(args: tuple[Iterable[Any], ...]) -> tuple[Iterable[Any], ...]:
    if not args:
        raise TypeError("map() requires at least two args: a function, and something to map over")
    return args
