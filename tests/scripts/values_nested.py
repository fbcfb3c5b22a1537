"""What outer items have made of the script, as inner items find it that run in another worker.

Where there are no worker processes of the outer pool to help, nothing is to be seen.
"""

import json
import os
import sys
import tempfile
import threading
import time

from cases import case, run_cases

import parallelkit as pk

HELPED = json.loads(sys.argv[1])["backend"] == "process"
NUMBER = 0
TABLE = {"number": 0, "deep": [{"number": 0}]}
SHORT_LIVED = 0
LOCK = None
OF_ONE = 0
TABLE_OF_ONE = {"number": 0}
LARGE = []


class Settings:
    number = 0


class Holder:
    def __init__(self):
        self.number = 0


HOLDER = Holder()


def meet(folder, i):
    """Wait until two have come."""
    with open(os.path.join(folder, str(i)), "w"):
        pass
    until = time.monotonic() + 20
    while len(os.listdir(folder)) < 2:
        assert time.monotonic() < until, "nobody else came"
        time.sleep(0.001)


def inner(i, read, folder):
    meet(folder, i)
    return read(), os.getpid()


def two_inner(how, read, folder, **options):
    """Two inner items, in two processes: what they read."""
    with pk.Pool(chunksize=1, **options) as own:
        if how == "map":
            told = own.map(inner, range(2), read=read, folder=folder)
        elif how == "amap":
            told = own.amap(inner, range(2), read=read, folder=folder).result()
        else:
            told = [own.submit(inner, i, read, folder) for i in range(2)]
            told = [one.result() for one in told]
    assert len({pid for _, pid in told}) == 2
    return [value for value, _ in told]


def outer(i, change, read, how, folder):
    meet(os.path.join(folder, "outer"), i)
    change(i)
    if i == 2:  # its worker has nothing else to do from now on
        return None
    return two_inner(how, read, os.path.join(folder, "inner"))


def after(i, read, folder):
    meet(folder, i)
    return read()


def check(change, read, lender=1, helper=2, how="map"):
    """Inner items find what their outer item has made, and the helper has its own again afterwards."""
    if not HELPED:
        return
    with tempfile.TemporaryDirectory() as folder, pk.Pool(nested="process", chunksize=1) as pool:
        for name in ("outer", "inner", "after"):
            os.mkdir(os.path.join(folder, name))
        told = pool.map(outer, [1, 2], change=change, read=read, how=how, folder=folder)
        assert told == [[lender, lender], None], told
        told = pool.map(after, [1, 2], read=read, folder=os.path.join(folder, "after"))
        assert sorted(told, key=str) == sorted([lender, helper], key=str), told


def number():
    return NUMBER


def set_number(i):
    global NUMBER
    NUMBER = i


def fill(i):
    TABLE["number"] = i
    TABLE["deep"][0]["number"] = 10 * i


# The first of all, since workers are kept.
def fill_and_ask(i, folder):
    """The pool of the inner call alone says who may help with it."""
    meet(os.path.join(folder, "outer"), i)
    fill(i)
    if i == 2:
        return None
    return two_inner(
        "map", lambda: TABLE["number"], os.path.join(folder, "inner"), nested="process"
    )


@case
def a_dict_that_was_changed_before_anybody_knew_of_helpers():
    if HELPED:
        with tempfile.TemporaryDirectory() as folder, pk.Pool(chunksize=1) as pool:
            for name in ("outer", "inner"):
                os.mkdir(os.path.join(folder, name))
            assert pool.map(fill_and_ask, [1, 2], folder=folder) == [[1, 1], None]


@case
def a_global_that_was_bound_anew():
    check(set_number, number)


@case
def for_a_call_that_is_not_waited_for():
    check(set_number, number, how="amap")


@case
def for_calls_that_were_submitted():
    check(set_number, number, how="submit")


@case
def a_dict_that_was_changed_in_place():
    check(fill, lambda: (TABLE["number"], TABLE["deep"][0]["number"]), (1, 10), (2, 20))


def set_holder(i):
    HOLDER.number = i


@case
def a_dict_that_was_given_something_large():
    check(
        fill_with_much,
        lambda: (TABLE["number"], len(TABLE["deep"][0]["text"])),
        (1, 1 << 21),
        (2, 2 << 21),
    )


def fill_with_much(i):
    TABLE["number"] = i
    TABLE["deep"][0]["text"] = bytes(i << 21)


@case
def an_attribute_of_an_object():
    check(set_holder, lambda: HOLDER.number)


def set_class(i):
    Settings.number = i


@case
def an_attribute_of_a_class():
    check(set_class, lambda: Settings.number)


def set_function(i):
    set_function.number = i


@case
def an_attribute_of_a_function():
    check(set_function, lambda: set_function.number)


def make(i):
    global MADE
    MADE = i


@case
def a_global_that_no_one_else_has():
    check(make, lambda: MADE)


def unbind_in_the_first(i):
    global SHORT_LIVED
    if i == 1:
        del SHORT_LIVED


@case
def a_global_that_was_unbound():
    check(unbind_in_the_first, lambda: globals().get("SHORT_LIVED", "gone"), "gone", 0)


def change_in_the_second(i):
    global OF_ONE
    if i == 2:
        OF_ONE = TABLE_OF_ONE["number"] = i


@case
def what_the_helper_alone_has_changed():
    check(change_in_the_second, lambda: (OF_ONE, TABLE_OF_ONE["number"]), (0, 0), (2, 2))


def hold(i):
    global LOCK, NUMBER
    LOCK = threading.Lock()
    LOCK.acquire()
    NUMBER = i


def kinds():
    return NUMBER, type(LOCK).__name__


@case
def what_cannot_be_pickled_is_each_workers_own():
    check(hold, kinds, (1, "lock"), (2, "lock"))


def bind_large(i):
    global LARGE
    LARGE = [i] * 1_000_000


@case
def a_large_global_that_was_bound_anew():
    check(bind_large, lambda: LARGE[-1])


def number_of():
    return 0


def anew(i):
    globals()["number_of"] = (lambda: 10) if i == 1 else (lambda: 20)


def ask():
    return number_of()


@case
def a_function_that_was_defined_anew():
    check(anew, ask, 10, 20)


def twice(i, folder):
    """Calls that are submitted one after the other, with another value each time."""
    global NUMBER
    if i:
        return None
    told = []
    with pk.Pool() as own:
        for NUMBER in (3, 4):
            where = os.path.join(folder, str(NUMBER))
            both = [own.submit(inner, j, number, where) for j in range(2)]
            told += [one.result()[0] for one in both]
    return told


@case
def what_is_changed_between_calls_that_are_submitted():
    if HELPED:
        with tempfile.TemporaryDirectory() as folder, pk.Pool(nested="process") as pool:
            for name in "34":
                os.mkdir(os.path.join(folder, name))
            assert pool.map(twice, [0, 1], folder=folder)[0] == [3, 3, 4, 4]


def deeper(i, folder):
    """An inner item sets what the items of its own call find, in whatever worker they run."""
    global NUMBER
    meet(os.path.join(folder, "outer"), i)
    NUMBER = 5 + i
    with pk.Pool(chunksize=1) as own:
        told = own.map(even_deeper, range(8))
    return told == [[10 * (5 + i) + j] * 4 for j in range(8)] and 5 + i == NUMBER


def even_deeper(j):
    global NUMBER
    mine = NUMBER = 10 * NUMBER + j
    with pk.Pool(chunksize=1) as own:
        told = own.map(number_after, range(4))
    NUMBER = mine // 10
    return told


def number_after(k):
    time.sleep(0.0005)
    return NUMBER


@case
def three_levels_that_help_each_other():
    if HELPED:
        with tempfile.TemporaryDirectory() as folder, pk.Pool(nested="process") as pool:
            os.mkdir(os.path.join(folder, "outer"))
            for _ in range(3):
                assert pool.map(deeper, [0, 1], folder=folder) == [True, True]


run_cases()
