"""Functions of ``__main__``, in a script without a guard."""

import functools
import threading

from cases import case, run_cases

import parallelkit as pk

ITEMS = list(range(8))
OFFSET = 1
TABLE = {"factor": 2}


def check(function, expected=None):
    """The parallel call gives what the loop gives."""
    assert pk.map(function, ITEMS) == (expected or [function(x) for x in ITEMS])


@case
def plain_lambda():
    check(lambda x: x * x)


@case
def closure():
    depth = 3
    check(lambda x: [y + depth for y in range(x)])


@case
def nested_function():
    def outer(x):
        def inner(y):
            return y * x

        return [inner(y) for y in range(3)]

    check(outer)


def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)


@case
def recursive_function():
    check(factorial)


def even(n):
    return True if n == 0 else odd(n - 1)


def odd(n):
    return False if n == 0 else even(n - 1)


@case
def mutually_recursive_functions():
    check(even)


@case
def recursive_closure():
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    check(fib)


def squares(n):
    yield from (i * i for i in range(n))


@case
def generator_function():
    check(lambda n: list(squares(n)))


@functools.lru_cache(maxsize=4)
def cached(x):
    return x * 7


@case
def lru_cached_function():
    check(cached)


@functools.lru_cache
def cached_fib(n):
    return n if n < 2 else cached_fib(n - 1) + cached_fib(n - 2)


@case
def recursive_lru_cached_function():
    check(cached_fib)


@case
def lru_cached_function_used_by_another():
    check(lambda x: cached(x) + 1)


def doubled(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return 2 * function(*args, **kwargs)

    return wrapper


@doubled
def wrapped(x):
    """Documented."""
    return x + 1


@case
def wrapped_function():
    check(wrapped)
    check(lambda _: (wrapped.__name__, wrapped.__doc__))


@case
def partial_of_a_function():
    check(functools.partial(lambda a, x, b: a * x + b, 3, b=4))


def with_defaults(x, y=5, *, z=OFFSET + 6):
    return x + y + z


@case
def defaults():
    check(with_defaults)


def uses_globals(x):
    return x * TABLE["factor"] + OFFSET


def calls_uses_globals(x):
    return uses_globals(x)


@case
def globals_as_they_are_now():
    global OFFSET
    check(calls_uses_globals, [2 * x + 1 for x in ITEMS])
    OFFSET, TABLE["factor"] = 100, 3
    check(calls_uses_globals, [3 * x + 100 for x in ITEMS])


def tagged(x):
    return x + tagged.offset


@case
def attributes_of_functions_as_they_are_now():
    tagged.offset = 1
    check(tagged, [x + 1 for x in ITEMS])
    tagged.offset = 2
    check(tagged, [x + 2 for x in ITEMS])


@case
def a_function_defined_anew():
    global wrapped
    first, wrapped = wrapped, lambda x: -x
    check(lambda x: wrapped(x) + 0, [-x for x in ITEMS])
    wrapped = first
    check(lambda x: wrapped(x) + 0, [2 * (x + 1) for x in ITEMS])


class Counter:
    unit = 2

    def __init__(self, start):
        self.start = start

    def __call__(self, x):
        return self.start + x

    def add(self, x):
        return self.start + x

    @classmethod
    def times(cls, x):
        return cls.unit * x

    @staticmethod
    def minus(x):
        return -x


@case
def methods():
    check(Counter(5).add)
    check(Counter.times)
    check(Counter.minus)
    check(functools.partial(Counter.add, Counter(3)))


@case
def callable_with_state():
    check(Counter(7))


@case
def inner_calls_from_methods():
    class Model:
        def part(self, y, offset=0):
            return y + offset

        def whole(self, x, thread):
            return x + sum(pk.parallel(self.part, [2, 3, 4], offset=2, thread=thread))

    for thread in (False, True):
        assert pk.map(Model().whole, range(10), thread=thread) == [x + 15 for x in range(10)]


@case
def frozen_functions_and_delayed_ones():
    assert pk.map(lambda x, f: f(x), ITEMS, f=lambda x: x + OFFSET) == [x + OFFSET for x in ITEMS]
    assert pk.run([pk.delayed(lambda x: x + 1)(1), pk.delayed(factorial)(4)]) == [2, 24]


@case
def functions_as_items_and_results():
    assert pk.map(lambda f: f(3), [factorial, lambda x: x + 1]) == [6, 4]
    assert [f(2) for f in pk.map(lambda x: lambda y: x + y, ITEMS)] == [x + 2 for x in ITEMS]
    assert pk.map(lambda f: f, [factorial])[0](5) == 120


@case
def calls_from_a_thread():
    results = []
    caller = threading.Thread(target=lambda: results.extend(pk.map(lambda x: x + OFFSET, ITEMS)))
    caller.start()
    caller.join()
    assert results == [x + OFFSET for x in ITEMS]


def told(x: int):
    """What is told of a function."""
    return x


class Told:
    """What is told of a class."""

    x: int

    def method(self):
        """What is told of a method."""


@case
def what_is_told_of_functions_and_classes():
    """Names, texts and annotations that were changed since the first call."""

    def texts(_):
        method = Told.method
        names = [(one.__name__, one.__qualname__, one.__doc__) for one in (told, method, Told)]
        return names, list(told.__annotations__.items()), list(Told.__annotations__.items())

    check(texts)
    told.__name__ = "other"
    check(texts)
    told.__qualname__, told.__doc__ = "a.other", "Other."
    told.__annotations__["y"] = str
    check(texts)
    told.__annotations__ = {"z": float}
    told.__name__, told.__qualname__ = "told", "told"
    Told.__doc__, Told.method.__doc__ = "Other.", "Another."
    Told.__annotations__["y"] = str
    check(texts)
    Told.__name__, Told.__qualname__, Told.method.__name__ = "Named", "Named", "named"
    Told.__annotations__["y"] = float
    check(texts)
    assert all(pk.map(lambda one: type(one) is Told, [Told(), Told()]))
    Told.__name__ = Told.__qualname__ = "Told"
    assert [type(one) is Told for one in pk.map(lambda _: Told(), ITEMS)] == [True] * 8


run_cases()
