"""Stands for a package of somebody else that uses parallelkit inside; its users configure it from outside."""

import os
import threading

import parallelkit as pk

_pool = pk.Pool()  # such packages may have a pool of their own, made at import


def place(_):
    return os.getpid(), threading.get_ident()


def places(n=8):
    """Where the items of a plain call run."""
    return pk.map(place, range(n))


def places_in_own_pool(n=8):
    return _pool.map(place, range(n))


def places_lazily(n=8):
    return list(pk.imap(place, range(n)))


def places_behind(n=8):
    """The same behind a second level: a package on top of the package."""
    return [where for part in pk.map(places, [n, n]) for where in part]


EVERYTHING = [places, places_in_own_pool, places_lazily, places_behind]


def options():
    """What a call here would be made with: workers, backend, what an error does."""
    return repr(pk.Pool()), pk.map(reciprocal, [0, 2])


def reciprocal(x):
    return 1 / x
