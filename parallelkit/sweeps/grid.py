"""Points to sweep over: grids, samples and their like, made one by one as they are needed."""

from __future__ import annotations

import hashlib
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import outside
from .row import key_of

__all__ = ["Point", "Points", "as_points", "grid", "sample"]

Point = dict[str, Any]
_TURNS = 6  # of the network by which points are shuffled; four are known to be enough


class Points:
    """Points of parameters that can be counted, joined by ``+`` and thinned by :meth:`where`.

    Made by :func:`grid` and :func:`sample`. Nothing is kept but what they are made from: a
    hundred thousand points cost no memory.

    Examples
    --------
    >>> import parallelkit as pk
    >>> points = pk.grid(depth=[1, 2], rate=[0.1]) + pk.grid(depth=[9])
    >>> len(points), list(points)
    (3, [{'depth': 1, 'rate': 0.1}, {'depth': 2, 'rate': 0.1}, {'depth': 9}])
    """

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Point:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Point]:
        return (self[index] for index in range(len(self)))

    def __add__(self, other: Any) -> Points:
        """Points of this one, then those of the other: a grid, or a list of dicts."""
        return _Joined(self, as_points(other))

    def __radd__(self, other: Any) -> Points:
        return _Joined(as_points(other), self)

    def where(self, condition: Callable[[Any], object]) -> Points:
        """Keep the points for which `condition` is true.

        Parameters
        ----------
        condition : callable
            Called with a point as a dict; in the calling process, and more than once.

        Returns
        -------
        Points

        Examples
        --------
        >>> import parallelkit as pk
        >>> list(pk.grid(a=[1, 2], b=[1, 2]).where(lambda p: p["a"] < p["b"]))
        [{'a': 1, 'b': 2}]
        """
        if not callable(condition):
            raise TypeError(f"where takes a condition, called with each point, not {condition!r}")
        return _Where(self, condition)

    def numbered(self, shuffle: int | None = None) -> Iterator[tuple[int, Point]]:
        """Points with their numbers, which rise; in a random order that `shuffle` gives."""
        if shuffle is None:
            yield from enumerate(self)
            return
        import numpy as np

        for index in np.random.default_rng(shuffle).permutation(len(self)).tolist():
            yield index, self[index]

    def __repr__(self) -> str:
        return f"<parallelkit points: {len(self)}>"


class _Grid(Points):
    def __init__(self, lists: Mapping[str, Sequence[Any]]) -> None:
        self._lists = lists
        try:
            self._length = math.prod(map(len, lists.values()))
            range(self._length).__len__()
        except OverflowError:
            raise ValueError(
                "the grid has more points than can be counted: fewer values, or pk.sample"
            ) from None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Point:
        index = _checked(index, self._length)
        point = {}
        for name, values in reversed(list(self._lists.items())):  # the last one varies fastest
            index, at = divmod(index, len(values))
            point[name] = values[at]
        return {name: point[name] for name in self._lists}

    def __repr__(self) -> str:
        told = ", ".join(f"{name}: {len(values)}" for name, values in self._lists.items())
        return f"<parallelkit.grid of {self._length} points ({told})>"


class _Sample(Points):
    def __init__(self, length: int, entropy: Any, draws: Mapping[str, Callable[[Any], Any]]):
        self._length = length
        self._entropy = entropy
        self._draws = draws

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Point:
        import numpy as np

        # A stream for each point: the first points of a longer sample are those of a shorter one.
        stream = np.random.SeedSequence(self._entropy, spawn_key=(_checked(index, self._length),))
        rng = np.random.default_rng(stream)
        return {name: draw(rng) for name, draw in self._draws.items()}

    def __repr__(self) -> str:
        return f"<parallelkit.sample of {self._length} points ({', '.join(self._draws)})>"


class _Shuffled(Points):
    """The first points of a grid in random order, none twice."""

    def __init__(self, length: int, entropy: Any, combinations: Points) -> None:
        self._length = length
        self._key = str(entropy).encode()
        self._combinations = combinations
        # The least number of bits that counts them all, as two halves.
        self._half = max(1, -(-(len(combinations) - 1).bit_length() // 2))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Point:
        place = self._permuted(_checked(index, self._length))
        while place >= len(self._combinations):  # it is a permutation, so this comes to an end
            place = self._permuted(place)
        return self._combinations[place]

    def _permuted(self, place: int) -> int:
        """Another place for each, by a Feistel network: a permutation that needs no memory."""
        left, right = place >> self._half, place & ((1 << self._half) - 1)
        for turn in range(_TURNS):
            told = b"%d %d %b" % (turn, right, self._key)
            drawn = int.from_bytes(hashlib.blake2b(told, digest_size=16).digest(), "little")
            left, right = right, left ^ (drawn & ((1 << self._half) - 1))
        return left << self._half | right

    def __repr__(self) -> str:
        return f"<parallelkit.sample of {self._length} of {len(self._combinations)} points>"


class _Listed(Points):
    def __init__(self, points: Sequence[Point]) -> None:
        self._points = points

    def __len__(self) -> int:
        return len(self._points)

    def __getitem__(self, index: int) -> Point:
        return _checked_point(self._points[index])


class _Joined(Points):
    def __init__(self, first: Points, second: Points) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def __getitem__(self, index: int) -> Point:
        index, cut = _checked(index, len(self)), len(self._first)
        return self._first[index] if index < cut else self._second[index - cut]

    def __iter__(self) -> Iterator[Point]:
        yield from self._first
        yield from self._second


class _Where(Points):
    """Points that fit a condition: found by going through all of them."""

    def __init__(self, points: Points, condition: Callable[[Any], object]) -> None:
        self._points, self._condition = points, condition
        self._length: int | None = None

    def __iter__(self) -> Iterator[Point]:
        # A condition that changes its point changes a copy: lists of dicts stay what they are.
        return (point for point in self._points if self._condition(dict(point)))

    def __len__(self) -> int:
        if self._length is None:
            self._length = sum(1 for _ in self)
        return self._length

    def __getitem__(self, index: int) -> Point:
        at = _checked(index, len(self))
        return next(point for here, point in enumerate(self) if here == at)

    def numbered(self, shuffle: int | None = None) -> Iterator[tuple[int, Point]]:
        """Points with their numbers among those that the condition is asked about."""
        numbered = self._points.numbered(shuffle)
        return ((i, point) for i, point in numbered if self._condition(dict(point)))


def grid(**lists: Iterable[Any]) -> Points:
    """All combinations of some values for each parameter; the last parameter varies fastest.

    Parameters
    ----------
    **lists : iterable
        The values of each parameter: lists, ranges, one-dimensional arrays. Without any there is
        one point, which has no parameters.

    Returns
    -------
    Points
        Can be counted, iterated, joined with ``+`` and thinned with ``.where(condition)``.

    Raises
    ------
    TypeError
        If the values of a parameter are a single value, or a string.

    Examples
    --------
    >>> import parallelkit as pk
    >>> list(pk.grid(depth=[3, 5], rate=[0.1, 0.3]))[:2]
    [{'depth': 3, 'rate': 0.1}, {'depth': 3, 'rate': 0.3}]
    """
    return _Grid({name: _values(name, values) for name, values in lists.items()})


def sample(n: int, seed: int | None = None, /, **draws: Any) -> Points:
    """`n` points whose parameters are drawn at random.

    Parameters
    ----------
    n : int
        How many points. A larger `n` begins with the same points.
    seed : int, optional
        The same seed gives the same points. Without one they are different every time, and a
        stored sweep over them begins anew: give one if it is to go on after a crash.
    **draws
        For each parameter: a distribution with a method ``rvs(random_state=...)``, as scipy's; or
        a callable that takes a ``numpy.random.Generator``; or values to choose from: a list, a
        range, an array. Where all are such values, no combination is drawn twice, and a value that
        a list has several times counts once.

    Returns
    -------
    Points

    Warns
    -----
    UserWarning
        If there are fewer than `n` combinations: they are all drawn, once.

    Raises
    ------
    TypeError, ValueError
        If `n` or `seed` is no whole number of 0 or more, or a draw is none of these.

    Examples
    --------
    >>> import parallelkit as pk
    >>> points = pk.sample(3, 42, rate=lambda rng: 10 ** rng.uniform(-3, 0), depth=[3, 5, 7])
    >>> [sorted(point) for point in points] == [["depth", "rate"]] * 3
    True
    >>> list(points) == list(points)
    True
    >>> colors = pk.sample(3, 42, color=["red", "green", "blue"])
    >>> sorted(point["color"] for point in colors)
    ['blue', 'green', 'red']
    """
    _whole("n", n)
    if seed is not None:
        _whole("seed", seed)
    import numpy as np

    entropy = np.random.SeedSequence(seed).entropy
    draws = {name: _choices(how) for name, how in draws.items()}
    drawn = {name: _draw(name, how) for name, how in draws.items()}
    # Of so many that they cannot be counted none comes twice anyway.
    if draws and all(map(_is_list, draws.values())) and _count(draws) <= sys.maxsize:
        combinations = grid(**{name: _different(values) for name, values in draws.items()})
        if n > len(combinations):
            warnings.warn(
                f"{n} points are drawn from {len(combinations)} combinations: each is drawn once; "
                "repeats= runs each several times",
                stacklevel=outside(),
            )
        return _Shuffled(min(int(n), len(combinations)), entropy, combinations)
    return _Sample(int(n), entropy, drawn)


def as_points(points: Any) -> Points:
    """Points of what a user may give for them: a grid, dicts, lists by name."""
    if isinstance(points, Points):
        return points
    if isinstance(points, Mapping):
        return grid(**points)
    if isinstance(points, (str, bytes)):
        raise TypeError(f"the points are {points!r}; give pk.grid(name=[...]) or a list of dicts")
    if hasattr(points, "to_dict") and hasattr(points, "columns"):  # a DataFrame: its rows
        points = points.to_dict("records")
    try:
        listed = points if isinstance(points, (list, tuple)) else list(points)
    except TypeError:
        raise TypeError(
            f"the points are {points!r}; give pk.grid(name=[...]) or a list of dicts"
        ) from None
    for point in listed[:1]:
        _checked_point(point)
    return _Listed(listed)


def _values(name: str, values: Any) -> Sequence[Any]:
    hint = f"the values of {name!r} are {values!r}; give a list: {name}=[...]"
    if isinstance(values, (str, bytes, Mapping)):
        raise TypeError(hint)
    if isinstance(values, (list, tuple, range)):
        return values if isinstance(values, range) else list(values)
    if getattr(values, "ndim", 1) == 0:
        raise TypeError(hint)
    if getattr(values, "ndim", 1) == 1 and hasattr(values, "tolist"):
        return list(values.tolist())
    try:
        return list(values)
    except TypeError:
        raise TypeError(hint) from None


def _draw(name: str, how: Any) -> Callable[[Any], Any]:
    """What draws a value of a parameter with a random generator."""
    if hasattr(how, "rvs"):
        return lambda rng: _plain(how.rvs(random_state=rng))
    if callable(how):
        return lambda rng: _plain(how(rng))
    if _is_list(how):
        return lambda rng: how[int(rng.integers(len(how)))]
    raise TypeError(
        f"{name!r} is drawn from {how!r}; give a distribution with a method rvs, "
        "a callable that takes a numpy.random.Generator, or a list or an array to choose from"
    )


def _choices(how: Any) -> Any:
    """An array or a Series of values to choose from as a list; anything else as it is."""
    if getattr(how, "ndim", None) == 1 and hasattr(how, "tolist") and not hasattr(how, "rvs"):
        return how.tolist()
    return how


def _different(values: Sequence[Any]) -> Sequence[Any]:
    """Values without those that come again; 1, 1.0 and True are three."""
    if isinstance(values, range):
        return values
    return list({key_of(value): value for value in reversed(values)}.values())[::-1]


def _count(lists: Mapping[str, Any]) -> int:
    return math.prod(map(len, lists.values()))


def _is_list(how: Any) -> bool:
    return isinstance(how, (list, tuple, range)) and len(how) > 0


def _plain(value: Any) -> Any:
    """A numpy scalar as Python's, which prints as what it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _checked(index: int, length: int) -> int:
    if not -length <= index < length:
        raise IndexError(f"point {index} of {length}")
    return index % length if length else 0


def _checked_point(point: Any) -> Point:
    if not isinstance(point, Mapping) or not all(isinstance(name, str) for name in point):
        raise TypeError(f"a point must be a dict of parameters by name, not {point!r}")
    return dict(point)


def _whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value.__index__() < 0:
        raise ValueError(f"{name} must be at least 0, not {value!r}")
