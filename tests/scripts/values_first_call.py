"""What a script's first call sends, before an executor forks its workers, and functions that are defined anew; no guard."""

import contextvars

from cases import case, run_cases

import parallelkit as pk

ITEMS = [0, 1]
UNSET = object()
level = contextvars.ContextVar("level", default=1)
marked = contextvars.ContextVar("marked", default=UNSET)
plain = contextvars.ContextVar("plain")


def check(function):
    """The parallel call gives what the loop gives."""
    assert pk.map(function, ITEMS) == [function(x) for x in ITEMS]


@case
def defaults_stay_the_objects_that_they_are():
    """Workers that know different functions are told things twice; each still has one object for each of the caller's."""
    global values
    for _ in range(10):

        def values(_):
            return level.get(), level.get(5), marked.get() is UNSET, plain.get("not set")

        check(values)
        tokens = level.set(2), plain.set("set")
        check(values)
        level.reset(tokens[0])
        plain.reset(tokens[1])
        check(values)


run_cases()
