"""Classes of ``__main__``, in a script without a guard: what comes back is of the very classes that went."""

import abc
import collections
import enum
import threading
from dataclasses import dataclass, field
from typing import ClassVar, Generic, NamedTuple, TypeVar

from bookkeeping import Booked, base
from cases import case, run_cases

import parallelkit as pk

ITEMS = list(range(6))
T = TypeVar("T")


def same(value):
    return value


def check(values, probe=same):
    """Values go and come back: equal, and of the same classes."""
    values = list(values)
    results = pk.map(probe, values)
    expected = [probe(value) for value in values]
    assert results == expected, (results, expected)
    assert [type(r) for r in results] == [type(e) for e in expected]
    assert all(isinstance(r, type(e)) for r, e in zip(results, expected, strict=True))


@dataclass
class Point:
    x: int
    tags: list = field(default_factory=list)

    def moved(self):
        return Point(self.x + 1, [*self.tags, "moved"])


@dataclass(frozen=True, order=True, slots=True)
class Frozen:
    x: int
    y: int = 2


@case
def dataclasses():
    check([Point(i) for i in ITEMS], Point.moved)
    check([Frozen(i) for i in ITEMS])
    check(ITEMS, Point)
    assert pk.map(lambda p: isinstance(p, Point), [Point(1)]) == [True]


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"

    def other(self):
        return Colour.BLUE if self is Colour.RED else Colour.RED


class Unequal(enum.Enum):
    NOTHING = float("nan")
    ANYTHING = (object, Point(1).moved)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mode(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


@case
def enums():
    assert pk.map(Colour.other, list(Colour) * 3) == [Colour.BLUE, Colour.RED] * 3
    assert all(r is Colour.RED for r in pk.map(lambda _: Colour.RED, ITEMS))
    both = [Colour.RED, Colour.BLUE]
    assert pk.map(lambda c, red: c is red, both, red=Colour.RED) == [True, False]
    assert pk.map(same, list(Level)) == list(Level)
    assert all(r is e for r, e in zip(pk.map(same, list(Level)), Level, strict=True))
    assert all(r is e for r, e in zip(pk.map(same, list(Unequal)), Unequal, strict=True))
    assert pk.map(same, [Mode.READ | Mode.WRITE]) == [Mode.READ | Mode.WRITE]
    assert pk.map(len, [Colour] * 2) == [2, 2]


@case
def what_enums_and_their_members_are_given():
    def given(_):
        return (
            *(getattr(Colour, "shade", None), getattr(Colour.RED, "note", None)),
            *(getattr(Level.LOW, "note", None), len(Colour)),
            getattr(Mode.READ | Mode.WRITE, "note", None),
        )

    def check_given():
        assert pk.map(given, ITEMS) == [given(0)] * len(ITEMS)

    check_given()
    Colour.RED.note, (Mode.READ | Mode.WRITE).note = ["warm"], "both"
    check_given()
    Colour.RED.note.append("bright")
    Colour.shade, Level.LOW.note, (Mode.READ | Mode.WRITE).note = 1, "low", "all"
    check_given()
    del Colour.shade, Colour.RED.note, (Mode.READ | Mode.WRITE).note
    check_given()


Plain = collections.namedtuple("Plain", "left right")  # noqa: PYI024 (the point of the case)


class Typed(NamedTuple):
    left: int
    right: str = "r"

    def both(self):
        return f"{self.left}{self.right}"


HELD = threading.Lock()
HELD.acquire()


def local_class():
    assert HELD.locked()  # which can go to no other process, and is not asked to

    class Local:
        def plus(self, x):
            return x + 1

    return Local


@case
def a_local_class_needs_nothing_of_its_function():
    local = local_class()
    assert pk.map(local().plus, ITEMS) == [x + 1 for x in ITEMS]
    check([local()], type)
    assert type(pk.map(same, [local()])[0]) is local


@case
def named_tuples():
    check([Plain(i, Plain(i, i)) for i in ITEMS])
    check([Typed(i) for i in ITEMS])
    check([Typed(i) for i in ITEMS], Typed.both)


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...


class Square(Shape):
    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side**2


@Shape.register
class Blob:
    def area(self):
        return 0


@case
def abstract_classes():
    check([Square(i) for i in ITEMS], lambda s: s.area())
    assert all(isinstance(r, Shape) for r in pk.map(Square, ITEMS))
    assert pk.map(lambda s: isinstance(s, Shape), [Square(1), Blob(), 3]) == [True, True, False]


class Registry(type):
    known: ClassVar[list] = []

    def __new__(cls, name, bases, space):
        made = super().__new__(cls, name, bases, space)
        cls.known.append(name)
        return made

    def shout(cls):
        return cls.__name__.upper()


class Registered(metaclass=Registry):
    pass


@case
def metaclasses():
    assert [type(r) for r in pk.map(lambda _: Registered(), ITEMS)] == [Registered] * 6
    assert pk.map(lambda c: c.shout(), [Registered] * 2) == ["REGISTERED"] * 2
    assert Registry.known == ["Registered"]


class Measured(metaclass=Booked):
    height = range(3)


Ours = base()
if Ours.fields() == {}:

    class Wide(Ours):
        width = range(2)


@case
def classes_that_a_library_keeps_books_of():
    check([Measured] * 2, lambda c: (c.fields(), c.by_class[c]))
    check([Wide] * 2, lambda c: (c.fields(), Ours.fields(), c.__bases__[0] is Ours))


class Box(Generic[T]):
    def __init__(self, content: T):
        self.content = content

    def __eq__(self, other):
        return isinstance(other, Box) and other.content == self.content

    __hash__ = None


class IntBox(Box[int]):
    pass


@case
def generics_and_type_variables():
    check([Box(i) for i in ITEMS])
    check([IntBox(i) for i in ITEMS])
    assert pk.map(same, [T, Box[int]]) == [T, Box[int]]
    assert pk.map(lambda t: t is T, [T]) == [True]


class Slotted:
    __slots__ = ("unset", "x")

    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Slotted and other.x == self.x

    __hash__ = None


@case
def slots():
    check([Slotted(i) for i in ITEMS])
    assert not hasattr(pk.map(same, [Slotted(1)])[0], "unset")


class Base:
    def __init__(self, x):
        self.x = x

    def name(self):
        return f"base {self.x}"


class Derived(Base):
    def __init__(self, x):
        super().__init__(x + 1)

    def name(self):
        return "derived " + super().name()


@case
def super_calls():
    check([Derived(i) for i in ITEMS], Derived.name)
    assert all(isinstance(r, Base) and type(r) is Derived for r in pk.map(Derived, ITEMS))


class CodeError(Exception):
    def __init__(self, code, reason):
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class KeywordError(Exception):
    def __init__(self, *, limit):
        super().__init__("over the limit")
        self.limit = limit


def fail(x):
    if x == 3:
        raise CodeError(404, "not found")
    if x == 30:
        raise KeywordError(limit=5)
    return x


@case
def errors_are_caught():
    caught = []
    try:
        pk.map(fail, ITEMS)
    except CodeError as error:
        caught.append((error.code, error.reason, str(error)))
    try:
        pk.map(fail, [30])
    except KeywordError as error:
        caught.append(error.limit)
    assert caught == [(404, "not found", "404: not found"), 5]


@case
def errors_are_values():
    assert [type(r) for r in pk.map(lambda x: CodeError(x, "why"), ITEMS)] == [CodeError] * 6
    with pk.Pool(on_error="return") as pool:
        results = pool.map(fail, ITEMS)
    assert type(results[3].exception) is CodeError and results[4] == 4


@case
def classes_are_values():
    classes = [Point, Colour, Plain, Square, Registered, Box, Slotted, Derived, CodeError]
    assert all(r is e for r, e in zip(pk.map(same, classes), classes, strict=True))


@case
def local_classes():
    class Outer:
        class Inner:
            def __init__(self, x):
                self.x = x

    results = pk.map(Outer.Inner, ITEMS)
    assert [type(r) for r in results] == [Outer.Inner] * 6
    assert [r.x for r in results] == ITEMS


@case
def cycles():
    ring = Base(1)
    ring.itself = ring
    (result,) = pk.map(same, [ring])
    assert result.itself is result and type(result) is Base


@case
def every_iterator_keeps_classes():
    assert {type(r) for r in pk.imap(Point, ITEMS)} == {Point}
    assert {type(r) for r in pk.uimap(Point, ITEMS)} == {Point}
    assert {type(r) for r in pk.starmap(Point, [(1,), {"x": 2}])} == {Point}


run_cases()
