"""Arrays cut into blocks: a function on each, the results put together in place.

::

    arrays ─► cut ─► first blocks ──────────────► results come back ─► shape and dtype are known
                  └► all others, with their place in the result ─► written there by the worker

Until the first result is there nobody knows what the whole looks like. So only as many blocks as
there are workers start without a place; theirs are copied by the caller.

It is long because of its first part, which says, and checks, how arrays may be cut and joined.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .backends import TABLE
from .engine.plan import plan
from .engine.run import begin, stream
from .frames import is_frame, map_frames, refuse_others
from .options import Options, Resolver
from .place.nesting import nesting
from .transport.shared import is_shared, new_array, ready_to_write, writes_through
from .values.call import Call, refuse_options
from .values.seeds import needs_rng, takes_rng

__all__ = ["map_blocks"]

SEEDED_BLOCKS = 64  # where a seed is given
BLOCKS_PER_WORKER = 16  # so that workers finish together, and temporaries stay small

Array = NDArray[Any]
Index = tuple[int, ...]


class Frame(Protocol):
    """A DataFrame or a Series, to type checkers."""

    @property
    def iloc(self) -> Any:
        """Its rows by number."""


@overload
def map_blocks(
    func: Callable[..., Any], /, *arrays: Frame, blocks: int | None = None, **frozen: Any
) -> Any: ...


@overload
def map_blocks(
    func: Callable[..., Any],
    /,
    *arrays: ArrayLike,
    axis: int = 0,
    blocks: int | Sequence[int] | None = None,
    outer: bool = False,
    out: Array | None = None,
    **frozen: Any,
) -> Array: ...


def map_blocks(
    func: Callable[..., Any],
    /,
    *arrays: Any,
    axis: int = 0,
    blocks: int | Sequence[int] | None = None,
    outer: bool = False,
    out: Array | None = None,
    **frozen: Any,
) -> Any:
    """Call `func` on blocks of arrays in parallel; put the results together in one array.

    Parameters
    ----------
    func : callable
        Called with one block of each array, and `frozen`. Gives an array, or a scalar.
    *arrays : array_like, DataFrame or Series
        Cut along `axis`, where they must have the same length, unless `outer`. Frames and series of
        pandas are cut by their rows, and their blocks are frames and series.
    axis : int
        Along which the arrays are cut, and the results joined.
    blocks : int or tuple of int, optional
        How many blocks; by default sixteen for each worker. One number for each array if `outer`.
    outer : bool
        Call `func` for each combination of blocks. Axis 0 of the result then belongs to the
        first array, axis 1 to the second, and so on.
    out : ndarray, optional
        Where the result goes: shared, a memmap, or any array of its shape, to whose dtype it
        can be cast (``"same_kind"``).
    **frozen
        Keywords that are the same for all blocks. They are not cut, and sent once a call.

    Returns
    -------
    numpy.ndarray
        `out`, or a new array; one that is shared (:func:`is_shared`) if processes made it.
        Scalars give one element for each block. Blocks whose results are longer or shorter along
        `axis` than they are themselves are concatenated. A masked array, not a shared one, if a
        block gave one; of other subclasses the elements alone are kept.
    DataFrame or Series
        If pandas' frames were cut and `func` gives frames: joined by ``pandas.concat``, so that
        index and dtypes are kept.

    Raises
    ------
    ValueError
        If the arrays differ in length along `axis`, or the results of two blocks, or a result and
        `out`, do not fit; the message names blocks and shapes.
    TypeError
        If the result cannot be cast to the dtype of `out`, or is masked and `out` is not, or some
        blocks gave frames and others did not, or for a frame of polars.

    Examples
    --------
    >>> import numpy as np
    >>> import parallelkit as pk
    >>> y, x = np.arange(4.0), np.array([1.0, 10.0])
    >>> def mult(y, x):
    ...     return y[:, None] * x
    >>> pk.map_blocks(mult, y, x=x)
    array([[ 0.,  0.],
           [ 1., 10.],
           [ 2., 20.],
           [ 3., 30.]])
    >>> pk.map_blocks(mult, y, x, outer=True, blocks=(2, 2)).shape
    (4, 2)
    >>> pk.map_blocks(np.sum, y, blocks=2)
    array([1., 5.])
    """
    how = (axis, blocks, outer, out)
    return blocks_with(_default.of_call(), lambda _: None, func, arrays, how, frozen)


_default = Resolver({})


def blocks_with(
    options: Options,
    watch: Callable[[Any], object],
    func: Callable[..., Any],
    arrays: Sequence[Any],
    how: tuple[int, int | Sequence[int] | None, bool, Array | None],
    frozen: Mapping[str, Any],
) -> Any:
    """:func:`map_blocks` with the options of a pool; `watch` is told of its source."""
    refuse_options(frozen, func)
    axis, blocks, outer, out = how
    for array in arrays:
        refuse_others(array)
    options = options.but(chunksize=1, on_error="raise")
    takes = takes_rng(func, len(arrays), frozenset(frozen))
    if options.seed is not None and blocks is None and not outer:
        blocks = SEEDED_BLOCKS  # streams belong to blocks, which must not depend on the workers
    planned = plan(options, nesting(), takes)
    if any(is_frame(array) for array in arrays):
        if axis != 0 or outer or out is not None:
            raise ValueError(
                "map_blocks cuts a DataFrame or Series by its rows: axis=, outer= and out= are for "
                "arrays; give frame.to_numpy() to use them"
            )
        framed = [array if is_frame(array) else np.asanyarray(array) for array in arrays]
        cut = _cuts(framed, 0, blocks, False, planned.workers)[0]
        return map_frames(func, framed, cut, frozen, options, watch)
    inputs = [np.asanyarray(array) for array in arrays]
    where = TABLE[planned.backend]
    away = where.elsewhere and not where.shares_memory  # where nothing of ours can be mapped
    if away:
        inputs = [np.array(array) if is_shared(array) else array for array in inputs]
    cuts = _cuts(inputs, axis, blocks, outer, planned.workers)
    given: object = out
    if given is not None and not (isinstance(given, np.ndarray) and given.flags.writeable):
        raise ValueError(f"out must be an array that can be written, not {type(out).__name__}")
    # Whatever is not known to run all items in this process may run some elsewhere.
    result = _Result(cuts, axis, outer, out, not where.shares_memory, away)
    jobs = _Jobs(inputs, axis, result, planned.workers)
    # A block's function gets its stream by way of ours, where it has room for one.
    run = _run if not takes else (_run_drawing if needs_rng(func) else _run_may_draw)
    call = Call(run, (jobs.draw(),), {"_map_blocks_func": func, **frozen})
    begin(options, func, takes)  # the blocks are drawn by a thread
    done = stream(call, options, watch, ordered=False)
    try:
        for index, value in done:
            result.put(index, value)
            jobs.known.set()
    finally:
        jobs.end()
        done.close()
    return result.whole()


@dataclass(frozen=True, slots=True)
class Block:
    """One call: a block of each array, and its place in the result if that is known."""

    index: Index
    arrays: tuple[Array, ...]
    place: Array | None
    caller: tuple[int, bytes]  # the process that puts the results together, see _here

    def __repr__(self) -> str:
        shapes = ", ".join(str(array.shape) for array in self.arrays)
        return f"<block {self.index if len(self.index) > 1 else self.index[0]} of shape {shapes}>"


class _Placed:
    """Stands for a result that the worker has put in its place."""


def _run(block: Block, /, _map_blocks_func: Callable[..., Any], **frozen: Any) -> tuple[Index, Any]:
    value = _as_array(_map_blocks_func(*block.arrays, **frozen))
    place = block.place
    if place is None or not _fits(value, place):
        return block.index, value
    # Where the items of a call run is decided for each anew: idle workers may join the caller. So
    # it is the process that tells whether this place is the result's memory or a copy of it.
    if block.caller != _here() and not writes_through(place):
        return block.index, value
    ready_to_write(place)
    place[...] = value
    return block.index, _Placed


def _run_drawing(block: Block, /, rng: Any, **frozen: Any) -> tuple[Index, Any]:
    return _run(block, rng=rng, **frozen)


def _run_may_draw(block: Block, /, rng: Any = None, **frozen: Any) -> tuple[Index, Any]:
    return _run(block, **frozen) if rng is None else _run(block, rng=rng, **frozen)


_token = os.urandom(8)


def _here() -> tuple[int, bytes]:
    """What tells this process from all others: forked children, and those of other machines."""
    return os.getpid(), _token


def _fits(value: Array, place: Array) -> bool:
    return value.shape == place.shape and value.dtype == place.dtype and not _is_masked(value)


def _as_array(value: Any) -> Array:
    """What a block gave, as an array; a mask stays, and of other subclasses the elements alone."""
    return value if _is_masked(value) else np.asarray(value)


def _is_masked(value: Any) -> bool:
    masked = sys.modules.get("numpy.ma")  # nobody has such an array who has not imported it
    return masked is not None and isinstance(value, masked.MaskedArray)


class _Jobs:
    """The calls, in order; those beyond the first wait until the shape of the result is known."""

    def __init__(self, inputs: list[Array], axis: int, result: _Result, ahead: int) -> None:
        self._inputs = inputs
        self._axis = axis
        self._result = result
        self._ahead = ahead
        self._consumer = threading.get_ident()
        self._ended = False
        self.known = threading.Event()

    def draw(self) -> Iterator[Block]:
        result, here = self._result, _here()
        for number, index in enumerate(result.grid):
            # Where the caller itself draws, it cannot wait for what it does next.
            if number >= self._ahead and threading.get_ident() != self._consumer:
                self.known.wait()
                if self._ended:
                    return
            which = index if result.outer else index * len(self._inputs)
            cuts = result.cuts if result.outer else result.cuts * len(self._inputs)
            parts = tuple(
                _part(array, self._axis, cut[i])
                for array, cut, i in zip(self._inputs, cuts, which, strict=True)
            )
            yield Block(index, parts, result.place(index, direct=True), here)

    def end(self) -> None:
        self._ended = True
        self.known.set()


class _Result:
    """What the results of blocks become."""

    def __init__(
        self,
        cuts: list[list[slice]],
        axis: int,
        outer: bool,
        out: Array | None,
        processes: bool,
        away: bool,
    ) -> None:
        self.cuts = cuts
        self.outer = outer
        self.processes = processes and not away
        self._away = away
        self.grid: list[Index] = list(itertools.product(*(range(len(cut)) for cut in cuts)))
        self._axis = axis
        self._out = out
        self._target: Array | None = None
        self._scalars = False
        self._direct = False
        self._loose: dict[Index, Array] = {}  # results that did not fit where they were expected
        self._known = False

    def put(self, index: Index, value: Any) -> None:
        """Take the result of a block in."""
        if not self._known:
            self._expect(index, value)
            self._known = True
        if value is _Placed:
            return
        place = self.place(index)
        if place is not None and _fits(value, place):
            place[...] = value
        else:
            self._loose[index] = value

    def place(self, index: Index, direct: bool = False) -> Array | None:
        """Where the result of a block belongs, if that is known; `direct`: to a worker."""
        if self._target is None or (direct and not self._direct):
            return None
        if self._scalars:
            corner: tuple[Any, ...] = (*index, ...)
            return self._target[corner]  # type: ignore[no-any-return]
        where: list[slice] = [slice(None)] * self._target.ndim
        for ax, cut, i in zip(self._axes(self._target.ndim), self.cuts, index, strict=True):
            where[ax] = cut[i]
        return self._target[tuple(where)]

    def whole(self) -> Array:
        """The result, when all blocks are in."""
        if not self._loose and self._target is not None:
            return self._target
        values = {i: self._loose[i] if i in self._loose else self.place(i) for i in self.grid}
        return self._assemble({i: value for i, value in values.items() if value is not None})

    def _axes(self, ndim: int) -> list[int]:
        """Axes of a block's result along which it is joined with others."""
        if self.outer:
            return list(range(len(self.cuts)))
        return [self._axis if self._axis >= 0 else ndim + self._axis]

    def _expect(self, index: Index, value: Array) -> None:
        """From the first result, tell what the whole will be, if all others are like it."""
        self._scalars = value.ndim == 0
        if self._scalars:
            shape = [len(cut) for cut in self.cuts]
        else:
            axes = self._checked_axes(index, value)
            shape = list(value.shape)
            for ax, cut, i in zip(axes, self.cuts, index, strict=True):
                if value.shape[ax] != cut[i].stop - cut[i].start:
                    return  # joined by what comes
                shape[ax] = cut[-1].stop
        if _is_masked(value) or _is_masked(self._out):
            return  # a view has no part in the mask of the whole
        if self._out is not None:
            if self._out.shape == tuple(shape) and self._out.dtype == value.dtype:
                self._target = self._out
                self._direct = not self._away and (not self.processes or writes_through(self._out))
            return
        self._direct = not value.dtype.hasobject and not self._away
        self._target = self._new(shape, value.dtype, reserve=False)

    def _new(self, shape: Sequence[int], dtype: np.dtype[Any], reserve: bool = True) -> Array:
        if self.processes and dtype.kind in "biufcmMSUV" and not dtype.hasobject:
            return new_array(shape, dtype, reserve)
        return np.empty(shape, dtype)

    def _checked_axes(self, index: Index, value: Array) -> list[int]:
        axes = self._axes(value.ndim)
        for ax in axes:
            if not 0 <= ax < value.ndim:
                wanted = f"axis {ax}" if self.outer else f"axis {self._axis}"
                raise ValueError(
                    f"block {_name(index)} gave an array of shape {value.shape}, which has no "
                    f"{wanted} along which to join it with others"
                )
        return axes

    def _assemble(self, values: dict[Index, Array]) -> Array:
        """Join results of any lengths along the axes that are cut."""
        first_index, first = next(iter(values.items()))
        masked = [index for index, value in values.items() if _is_masked(value)]
        dtype = _common_type(list(values.values()), bool(masked))
        if first.ndim == 0:
            shape = [len(cut) for cut in self.cuts]
            axes: list[int] = []
        else:
            axes = self._checked_axes(first_index, first)
            shape = list(first.shape)
        starts = _starts(values, axes)
        for ax, start in zip(axes, starts, strict=True):
            shape[ax] = start[-1]
        if self._out is not None:
            whole = self._out
        elif masked:
            fill: Any = getattr(values[masked[0]], "fill_value", None) if axes else None
            whole = np.ma.array(np.empty(shape, dtype), fill_value=fill)
        else:
            whole = self._new(shape, dtype)
        if masked and not _is_masked(whole):
            raise TypeError(
                f"block {_name(masked[0])} gave a masked array, and out has no mask: give a "
                "masked array as out=, or fill the result in the function: .filled(0)"
            )
        if whole.shape != tuple(shape):
            raise ValueError(
                f"out has shape {whole.shape}, the result shape {tuple(shape)} (block "
                f"{_name(first_index)} gave shape {first.shape})"
            )
        if not np.can_cast(dtype, whole.dtype, "same_kind"):
            raise TypeError(f"the result has dtype {dtype}, which cannot be cast to {whole.dtype}")
        for index, value in values.items():
            where: list[Any] = [slice(None)] * len(shape) if axes else [*index]
            for ax, start, i in zip(axes, starts, index, strict=False):
                where[ax] = slice(start[i], start[i + 1])
            whole[tuple(where)] = value
        return whole


def _common_type(values: list[Array], masked: bool) -> np.dtype[Any]:
    if masked:  # the constant, which stands for a number of any type, says that it is a float
        values = [value for value in values if value is not np.ma.masked] or values
    return np.result_type(*{value.dtype for value in values})


def _starts(values: dict[Index, Array], axes: list[int]) -> list[list[int]]:
    """Where the results of blocks begin along each axis that is joined, and where the last ends."""
    first_index, first = next(iter(values.items()))
    lengths: list[dict[int, tuple[int, Index]]] = [{} for _ in axes]
    for index, value in values.items():
        fits = value.ndim == first.ndim and all(
            value.shape[ax] == n for ax, n in enumerate(first.shape) if ax not in axes
        )
        for ax, known, i in zip(axes, lengths, index, strict=False):
            if fits and known.setdefault(i, (value.shape[ax], index))[0] != value.shape[ax]:
                first_index, first, fits = known[i][1], values[known[i][1]], False
        if not fits:
            raise ValueError(
                f"the results of blocks do not fit: block {_name(first_index)} gave shape "
                f"{first.shape}, block {_name(index)} shape {value.shape}"
            )
    return [
        list(itertools.accumulate((known[i][0] for i in sorted(known)), initial=0))
        for known in lengths
    ]


# --- cutting --------------------------------------------------------------------------------------


def _cuts(
    inputs: list[Array], axis: int, blocks: int | Sequence[int] | None, outer: bool, workers: int
) -> list[list[slice]]:
    """Where to cut: one list of slices for all arrays, or with `outer` one for each."""
    if not inputs:
        raise TypeError("no array to cut: give at least one")
    lengths = []
    for number, array in enumerate(inputs):
        if not -array.ndim <= axis < array.ndim:
            raise ValueError(f"array {number} of shape {array.shape} has no axis {axis}")
        lengths.append(array.shape[axis])
    count = len(inputs) if outer else 1
    if not outer and len(set(lengths)) > 1:
        raise ValueError(f"the arrays differ in length along axis {axis}: {lengths}")
    if blocks is None:
        most = BLOCKS_PER_WORKER * workers
        wanted = [most] if count == 1 else [max(1, round(most ** (1 / count)))] * count
    else:
        wanted = [blocks] * count if isinstance(blocks, (int, np.integer)) else list(blocks)
    if len(wanted) != count or any(
        isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1 for n in wanted
    ):
        needs = f"a tuple of {count} positive numbers" if outer else "a positive number"
        raise ValueError(f"blocks must be {needs}, not {blocks!r}")
    return [_edges(length, int(n)) for length, n in zip(lengths, wanted, strict=False)]


def _edges(length: int, count: int) -> list[slice]:
    """Slices of nearly the same length; at least one, at most one for each element."""
    count = max(1, min(count, length))
    edges = [length * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _part(array: Array, axis: int, cut: slice) -> Array:
    where: list[slice] = [slice(None)] * array.ndim
    where[axis] = cut
    return array[tuple(where)]


def _name(index: Index) -> str:
    return str(index[0] if len(index) == 1 else index)
