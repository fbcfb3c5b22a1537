"""Weak references and containers, two names of one object, and context variables, as globals of ``__main__``; no guard."""

import collections
import contextvars
import dataclasses
import decimal
import functools
import gc
import sys
import threading
import types
import weakref

from bookkeeping import CURRENT, MARK, current
from cases import case, run_cases

import parallelkit as pk

ITEMS = [0, 1]


class Thing:
    known = weakref.WeakSet()  # noqa: RUF012

    def __init__(self):
        Thing.known.add(self)


def check(function):
    """The parallel call gives what the loop gives."""
    assert pk.map(function, ITEMS) == [function(x) for x in ITEMS]


thing = Thing()
others = [Thing()]
reference = weakref.ref(thing)
to_nobody_elses = [weakref.ref(other) for other in others]
elements = weakref.WeakSet([thing, *others])
by_name = weakref.WeakValueDictionary(thing=thing, other=others[0])
by_thing = weakref.WeakKeyDictionary({thing: 1, others[0]: 2})


def content(_):
    return (
        *(reference() is thing, thing in elements, by_name.get("thing") is thing),
        *(by_thing.get(thing), len(elements), len(by_name), len(by_thing), len(Thing.known)),
    )


@case
def weak_containers():
    global thing
    check(lambda _: reference() is None)
    check(lambda _: [type(ref()) is Thing for ref in to_nobody_elses])
    check(content)
    others.pop()
    check(content)
    thing = Thing()
    gc.collect()
    check(content)
    check(lambda _: reference() is None)


class Model:
    def __init__(self):
        self.layers = []
        self.parent = None


model, held = Model(), Model()
held.parent = weakref.ref(model)
models = {
    "ref": weakref.ref(model),
    "set": weakref.WeakSet([model]),
    "values": weakref.WeakValueDictionary(one=model),
    "keys": weakref.WeakKeyDictionary({model: 1}),
}
first_of = weakref.ref(held)


def who(_):
    refers = models["ref"]() is model, held.parent() is model, models["values"].get("one") is model
    return (*refers, model in models["set"], models["keys"].get(model), len(model.layers))


@case
def weak_references_to_what_is_changed():
    check(who)
    model.layers.append(1)
    check(who)
    held.layers.append(1)
    check(who)
    check(lambda _: (first_of() is held, first_of().parent() is model))
    model.layers.append(2)
    check(lambda _: len(model.layers))  # nothing is asked of those that refer to it
    check(who)
    check(lambda _: len(models["ref"]().layers))
    model.layers.append(3)
    check(lambda _: len(models["ref"]().layers))


first = model


@case
def weak_references_to_what_has_another_name_now():
    global model
    check(who)
    model = Model()
    check(who)
    check(lambda _: (models["ref"]() is first, first in models["set"], len(models["set"])))
    held.parent = weakref.ref(model)
    check(who)


class Other:
    pass


NOTHING, OTHER = object(), Other()


def given(x=NOTHING):
    return x is NOTHING


@case
def bare_objects_are_what_they_are():
    global NOTHING
    check(lambda _: (given(), given(1), given(NOTHING), NOTHING is OTHER))
    assert pk.map(given, [NOTHING, object()]) == [True, False]
    assert [x is NOTHING for x in pk.map(lambda _: NOTHING, ITEMS)] == [True, True]
    assert pk.map(lambda x: x is MARK, [MARK, NOTHING]) == [True, False]
    given.told = 1  # so that something of it is sent again
    check(lambda _: (given(), given(NOTHING), given.told))
    NOTHING = object()
    check(lambda _: (given(), given(NOTHING)))


UNSET = object()
level = contextvars.ContextVar("level", default=1)
marked = contextvars.ContextVar("marked", default=UNSET)
plain = contextvars.ContextVar("plain")


@case
def context_variables_and_their_defaults():
    global level, marked, plain

    def values(_):
        return level.get(), level.get(5), marked.get() is UNSET, plain.get("not set")

    check(values)
    tokens = level.set(2), plain.set("set")
    check(values)
    level.reset(tokens[0])
    plain.reset(tokens[1])
    check(values)
    level = contextvars.ContextVar("level", default=3)
    check(values)
    level.set(4)
    check(values)
    marked, plain = (contextvars.ContextVar(name, default=UNSET) for name in ("marked", "plain"))
    check(lambda _: (level.get(), marked.get() is UNSET, plain.get() is UNSET))


kept = {"a": 1}
second = None


@case
def two_names_of_one_object():
    global kept, second

    def one(_):
        return kept is second, second and list(second)

    check(lambda _: list(kept))
    second = kept
    check(one)
    kept["b"] = 2
    check(lambda _: list(second))
    check(one)
    kept = {"a": 1, "b": 2}
    check(one)
    second["c"] = 3
    kept = second
    check(lambda _: list(kept))
    check(one)


PART, KEEP, BASE = [1], {"a": []}, {}


@dataclasses.dataclass(frozen=True)
class Holder:
    part: object


class Slotted:
    __slots__ = ("part",)


LEFT, RIGHT = {"part": PART, "n": 0}, {"part": [PART, 0]}
PAIR = (KEEP, 1)
HOLDER, SLOTTED = Holder(KEEP), Slotted()
SLOTTED.part = KEEP
OF_BASE = {"base": 0}


class Owner:
    part = KEEP


def with_default(part=KEEP):
    return part


@case
def parts_that_two_globals_share():
    def shared(_):
        return LEFT["part"] is RIGHT["part"][0], len(LEFT["part"]), LEFT["n"], RIGHT["part"][1]

    check(shared)
    LEFT["n"] = 1
    check(shared)
    RIGHT["part"] = [PART, 2]
    check(shared)
    PART.append(2)
    check(shared)
    check(lambda _: (PART is LEFT["part"], PART is RIGHT["part"][0], len(PART)))
    RIGHT["part"][1] = 3
    PART.append(3)
    check(lambda _: LEFT["part"][-1])  # of the other one nothing is asked
    check(shared)
    OF_BASE["base"] = BASE
    check(lambda _: OF_BASE["base"] is BASE)


@case
def parts_within_tuples_objects_functions_and_classes():
    global PAIR, HOLDER, SLOTTED

    def one(_):
        parts = PAIR[0], HOLDER.part, SLOTTED.part, Owner.part, with_default()
        return [part is KEEP for part in parts], list(KEEP), KEEP["a"] is parts[0]["a"]

    check(one)
    PAIR, HOLDER, SLOTTED = (KEEP, 2), Holder(KEEP), Slotted()
    SLOTTED.part = KEEP
    check(one)
    Owner.other, Owner.part = 1, Owner.part
    with_default.__defaults__ = (KEEP,)
    check(one)
    KEEP["b"] = 1
    check(one)


FILLED, BESIDE = {"cache": {}}, {"n": 0}
BESIDE["cache"] = FILLED["cache"]


class Account:
    def __init__(self):
        self.booked = []

    def book(self, sum_):
        self.booked.append(sum_)


def of_proxy(proxy):
    return gc.get_referents(proxy)[0]


def of_method(method):
    return method.__self__


def of_partial(part):
    return part.args[0] if part.args else part.keywords["self"]


ACCOUNT_1, ACCOUNT_2, ACCOUNT_3 = Account(), Account(), Account()
ROWS, TABLE = [], {"rows": []}
METHOD, PARTIAL = ACCOUNT_1.book, functools.partial(Account.book, ACCOUNT_2)
HOLDING = types.SimpleNamespace(method=ACCOUNT_3.book, later=functools.partial(ROWS.append, 1))
READ_ONLY, ADD = types.MappingProxyType(TABLE), ROWS.append


@case
def what_methods_and_views_and_partials_are_of():
    """Where these are sent first, and what they are of only later, that is the same object; and the other way round."""
    check(lambda _: [type(one).__name__ for one in (METHOD, PARTIAL, READ_ONLY, ADD)])
    check(lambda _: (type(HOLDING.method).__name__, HOLDING.later.args))

    def same(_):
        accounts = of_method(METHOD) is ACCOUNT_1, of_partial(PARTIAL) is ACCOUNT_2
        held = of_method(HOLDING.method) is ACCOUNT_3, of_method(HOLDING.later.func) is ROWS
        return (*accounts, *held, of_proxy(READ_ONLY) is TABLE, of_method(ADD) is ROWS)

    check(same)
    ACCOUNT_1.booked.append(1)
    TABLE["n"] = 1
    ROWS.append(2)
    check(same)


COUNTS, TOTAL, DONE = {}, Account(), []


@case
def what_was_there_before_methods_and_views_of_it():
    global count_of, book, view, done
    check(lambda _: (len(COUNTS), len(TOTAL.booked), len(DONE)))
    count_of, book = COUNTS.get, functools.partial(Account.book, self=TOTAL)
    view, done = types.MappingProxyType(COUNTS), DONE.append
    check(lambda _: (of_method(count_of) is COUNTS, of_partial(book) is TOTAL))
    check(lambda _: (of_proxy(view) is COUNTS, of_method(done) is DONE))


@case
def what_items_have_put_into_a_part_stays():
    if not any(ours in sys.argv[1] for ours in ("process", "thread", "serial")):
        return  # where an item runs, others decide
    with pk.Pool(1) as pool:
        pool.map(lambda x: FILLED["cache"].update(x=x), [1])
        BESIDE["n"] = 1
        assert pool.map(lambda _: dict(BESIDE["cache"]), [1]) == [{"x": 1}]


Params = collections.namedtuple("Params", "rate parts")  # noqa: PYI024 - it keeps functions in a namespace of its own
PARAMS = Params(2, [3])


@case
def a_named_tuple_as_a_global():
    check(lambda x: (PARAMS.rate * x, PARAMS.parts, type(PARAMS) is Params))
    PARAMS.parts.append(4)
    check(lambda x: (PARAMS.rate * x, PARAMS.parts, type(PARAMS) is Params))


class Missing:
    def __reduce__(self):
        return "MISSING"


MISSING = Missing()


@case
def a_singleton_that_is_pickled_by_its_name():
    assert pk.map(lambda x: x is MISSING, [MISSING, 1]) == [True, False]
    assert pk.map(lambda _: MISSING, ITEMS) == [MISSING] * 2


SETTINGS = {"scale": 1}
setting = SETTINGS.get


@case
def a_method_of_what_is_changed():
    """`get = SETTINGS.get`, as scripts save a look-up, is a part of that dict and changes with it."""
    for scale in (1, 1000):
        SETTINGS["scale"] = scale
        check(lambda x: (x * setting("scale"), SETTINGS["scale"]))


RATE = 1


@functools.cache
def price(x):
    return x * RATE


@case
def a_cache_that_the_caller_clears():
    global RATE
    assert [price(x) for x in ITEMS] == pk.map(price, ITEMS) == [0, 1]
    RATE = 10
    assert [price(x) for x in ITEMS] == [0, 1]  # as in a loop, what was found is kept
    price.cache_clear()
    assert pk.map(price, ITEMS) == [0, 10]


class Shop:
    @staticmethod
    @functools.cache
    def price(x):
        return x * RATE


def price_of_shop(x):
    return Shop.price(x)


def price_of_attribute(x):
    return price_of_attribute.asks(x)


price_of_attribute.asks = functools.cache(lambda x: x * RATE)


@case
def a_cache_in_a_class_or_of_a_function_that_the_caller_clears():
    global RATE
    for ask, cache in (
        (price_of_shop, Shop.price),
        (price_of_attribute, price_of_attribute.asks),
    ):
        RATE = 1
        assert [ask(x) for x in ITEMS] == pk.map(ask, ITEMS) == [0, 1]
        RATE = 10
        cache.cache_clear()
        assert pk.map(ask, ITEMS) == [0, 10]


request = contextvars.ContextVar("request", default=0)


def its_request(_=None):
    return request.get(), decimal.getcontext().prec


@case
def context_variables_of_threads_that_call_at_once():
    """Each call has those of its thread, whatever another one has told workers meanwhile."""
    wrong = []

    def serve(number):
        request.set(number)
        for _ in range(20):
            found = {one[0] for one in pk.map(its_request, ITEMS)}
            if found != {number}:
                wrong.append((number, found))

    threads = [threading.Thread(target=serve, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [], wrong


@case
def a_context_variable_of_a_module():
    """The script's name for it and the module's own stand for one variable."""
    pool = pk.Pool()
    for number in (0, 1, 2):
        CURRENT.set(number)
        check(lambda _: (CURRENT.get(), current()))
        assert pool.submit(lambda: (CURRENT.get(), current())).result() == (number, number)


@case
def context_variables_of_submitted_calls():
    """Each has those of the moment at which it was submitted, and none that only an earlier one had."""
    pool = pk.Pool()
    precision = decimal.getcontext().prec
    futures = []
    for number in (11, 12):
        token = request.set(number)
        decimal.getcontext().prec = number
        futures.append(pool.submit(its_request))
        assert futures[-1].result() == (number, number)
        request.reset(token)
        decimal.getcontext().prec = precision
    last = pool.submit(its_request).result()
    assert last == (0, precision), last


run_cases()
