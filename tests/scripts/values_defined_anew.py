"""Functions and classes of ``__main__`` that are defined anew, as cells of a notebook do; no guard."""

import enum
import gc
import itertools
import sys
import threading
import time
import weakref

from cases import case, run_cases

import parallelkit as pk

ITEMS = [0, 1, 2]
TIMES = 48  # more than the tasks that any worker keeps


class Ballast:
    """What a function or class has, and what nobody has any more when it is gone."""

    there = weakref.WeakSet()  # noqa: RUF012

    def __init__(self, number):
        self.number = number
        Ballast.there.add(self)


def count(_):
    gc.collect()
    return len(Ballast.there)


def check_that_they_are_gone():
    end = time.monotonic() + 60
    while count(None) > 8 and time.monotonic() < end:
        time.sleep(0.01)  # threads that have not woken up yet still have calls that are over
    assert count(None) <= 8
    assert max(pk.map(count, range(8))) <= 40


@case
def functions_are_gone():
    global scaled
    for number in range(TIMES):

        def scaled(x, ballast=Ballast(number)):  # noqa: B008
            return x * ballast.number

        scaled.__qualname__ = "scaled"
        assert pk.map(scaled, ITEMS) == [0, number, 2 * number]
    del scaled
    check_that_they_are_gone()


@case
def functions_that_others_call_are_gone():
    global helper

    def main(x):
        return helper(x)

    for number in range(TIMES):

        def helper(x, ballast=Ballast(number)):  # noqa: B008
            return x * ballast.number

        helper.__qualname__ = "helper"
        assert pk.map(main, ITEMS) == [0, number, 2 * number]
    check_that_they_are_gone()


@case
def classes_are_gone():
    global Scaled
    for number in range(TIMES):

        class Scaled:
            __qualname__ = "Scaled"
            ballast = Ballast(number)

            def __init__(self, x):
                self.value = x * self.ballast.number

            def __eq__(self, other):
                return type(other) is __class__ and self.value == other.value

            __hash__ = None

        assert pk.map(Scaled, ITEMS) == [Scaled(x) for x in ITEMS]
    del Scaled
    check_that_they_are_gone()


def raised(x):
    return x**2


@case
def the_old_one_by_another_name():
    global raised
    old, kept = raised, [raised]
    for power in range(3, 8):

        def raised(x, power=power):
            return x**power

        raised.__qualname__ = "raised"
        kept.append(raised)
        assert pk.map(raised, ITEMS) == [0, 1, 2**power]
        assert pk.map(old, ITEMS) == [0, 1, 4]
        assert pk.map(lambda x: [one(x) for one in kept], [2]) == [
            [2**k for k in range(2, power + 1)]
        ]


class Point:
    def __init__(self, x):
        self.x = x

    def moved(self):
        return Point(self.x + 1)


def point(x):
    return Point(x)


@case
def results_of_a_call_that_had_begun():
    """What began before it knows the old class to its end, whatever is called meanwhile."""
    global Point
    old = Point
    results = pk.Pool(chunksize=1).imap(old, range(40))
    first = next(results)
    for _ in range(3):

        class Point:
            __qualname__ = "Point"

            def __init__(self, x):
                self.x = -x

        assert [p.x for p in pk.map(point, ITEMS)] == [0, -1, -2]
    rest = list(results)
    assert [type(p) for p in [first, *rest]] == [old] * 40
    assert [p.x for p in [first, *rest]] == list(range(40))
    Point = old


RULES = {}
MODELS = [None]
CELL = """
def clean(x):
    return x {change}

class Model:
    def predict(self, x):
        return x {change}
"""


def cleaned(x):
    return RULES["clean"](x), MODELS[0].predict(x), type(MODELS[0]) is Model  # noqa: F821 - of a cell


@case
def what_containers_have_of_them():
    """A cell is written anew, and what it defines is put in the places of the old ones."""
    for change in ("+ 1", "* 100", "- 1"):
        exec(CELL.format(change=change), globals())
        RULES["clean"] = clean  # noqa: F821
        MODELS[0] = Model()  # noqa: F821
        expected = [(eval(f"{x} {change}"),) * 2 + (True,) for x in ITEMS]
        assert pk.map(cleaned, ITEMS) == expected


def shifted(x):
    return x


@case
def several_threads_at_once():
    """Each gets the answers of the function that it has called, whoever defines another one."""
    wrong = []

    def work(rank):
        global shifted
        for number in range(12):

            def shifted(x, by=100 * rank + number):
                return x + by

            shifted.__qualname__ = "shifted"
            mine = shifted
            by = mine.__defaults__[0]
            found = pk.map(mine, ITEMS)
            if found != [x + by for x in ITEMS]:
                wrong.append((by, found))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class Settled:
    pass


class Light(enum.Enum):
    ON = 1


def untouched(_):
    return Settled, Light.ON


@case
def what_another_thread_gives_and_takes_meanwhile():
    """Calls get on while what functions, classes and members of Enums have comes and goes."""
    given = untouched, Settled, Light.ON
    over = threading.Event()

    def work():
        for number in itertools.cycle(range(7)):
            for one in given:
                setattr(one, f"given_{number}", number)
            for one in given:
                delattr(one, f"given_{number}")
            if over.is_set():
                return

    thread = threading.Thread(target=work)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        for _ in range(100):
            assert pk.map(untouched, ITEMS) == [(Settled, Light.ON)] * 3
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(before)


run_cases()
