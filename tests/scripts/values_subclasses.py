"""Classes that code finds by ``__subclasses__()`` and not by name, as plug-ins are found."""

import abc

from cases import case, run_cases

import parallelkit as pk

ITEMS = [1, 2, 3]
FACTOR = 2


def factor():
    return FACTOR


class Shape:
    pass


class Square(Shape):
    def area(self, x):
        return factor() * x * x


class Round(Shape):
    def area(self, x):
        raise NotImplementedError


class Disc(Round):
    def area(self, x):
        return 3 * x * x


def leaves(cls):
    below = cls.__subclasses__()
    return [leaf for sub in below for leaf in leaves(sub)] if below else [cls]


def areas(x):
    return {leaf.__name__: leaf().area(x) for leaf in leaves(Shape)}


@case
def subclasses_of_subclasses_arrive_with_what_they_name():
    assert pk.map(areas, ITEMS) == list(map(areas, ITEMS))
    assert pk.map(areas, [1]) == [{"Square": 2, "Disc": 3}]


@case
def what_they_name_is_that_of_the_call():
    global FACTOR
    pk.map(areas, ITEMS)
    FACTOR = 5
    assert pk.map(areas, [1]) == [{"Square": 5, "Disc": 3}]
    FACTOR = 2


@case
def they_come_back_as_they_are():
    assert pk.map(lambda _: leaves(Shape), [0]) == [[Square, Disc]]
    assert pk.map(lambda disc: [type(disc), *leaves(Shape)], [Disc()]) == [[Disc, Square, Disc]]


class Reader(abc.ABC):
    formats = ()

    @classmethod
    def for_format(cls, name):
        return next(sub for sub in cls.__subclasses__() if name in sub.formats)()

    @abc.abstractmethod
    def read(self, x): ...


class Text(Reader):
    formats = ("txt",)

    def read(self, x):
        return f"text {x}"


def read(x, name):
    return Reader.for_format(name).read(x)


@case
def subclasses_that_are_defined_after_the_first_call():
    assert pk.map(read, ITEMS, name="txt") == ["text 1", "text 2", "text 3"]
    assert pk.map(lambda x: Reader.for_format("txt").read(x), [4]) == ["text 4"]

    global Table

    class Table(Reader):
        formats = ("csv",)

        def read(self, x):
            return f"table {x}"

    assert pk.map(read, ITEMS, name="csv") == ["table 1", "table 2", "table 3"]
    assert pk.map(lambda x: Reader.for_format("csv").read(x), [4]) == ["table 4"]


class Model:
    def names(self):
        return {sub.__name__ for sub in type(self).__subclasses__()}


class Linear(Model):
    order = 1


class Open(Model):
    states = (x for x in ITEMS)  # cannot be sent


class OfOpen(Open):
    order = 3


NOT_SENT = ({"Linear"}, {"Linear", "Open"})  # to threads it need not be sent


@case
def a_subclass_that_cannot_be_sent_is_left_out():
    for _ in range(2):
        (names,) = pk.map(Model.names, [Model()])
        assert names in NOT_SENT, names
    assert pk.map(lambda model: model.order, [Linear()]) == [1]


@case
def a_class_that_cannot_be_sent_is_left_out_of_all_globals():
    (names,) = pk.map(lambda _: {"Linear", "Open"} & globals().keys(), [0])
    assert names in NOT_SENT, names


class Rule:
    pass


class Strict(Rule):
    order = 1


@case
def subclasses_that_are_defined_anew():
    def orders(rule):
        return {sub.__name__: sub.order for sub in type(rule).__subclasses__()}

    assert pk.map(orders, [Rule()]) == [{"Strict": 1}]

    global Strict

    class Strict(Rule):
        order = 2

    assert pk.map(orders, [Rule()]) == [{"Strict": 2}]


class Part:
    pass


class Case:
    class Inner(Part):
        def size(self):
            return 7


@case
def subclasses_within_classes():
    assert pk.map(lambda _: [sub().size() for sub in Part.__subclasses__()], [0]) == [[7]]


@case
def items_that_make_calls_find_them():
    inner = pk.map(lambda x: pk.Pool(1).map(areas, [x]), ITEMS)
    assert inner == [[areas(x)] for x in ITEMS]


run_cases()
