"""What every library is asked to do, behind the same few methods.

An adapter is thin: it spells a call the way the library's own documentation does, and adds no cleverness.
"""

import functools
import importlib.metadata
import importlib.util


class Peer:
    """Base of the adapters.

    ``map`` gives a list, ``imap`` an iterator in order, ``uimap`` one in order of completion; ``submit`` sends one
    item and gives a function that waits for its result. Keywords beside the items are constants of the function.

    A peer runs at its default settings unless a case gives it others: ``chunksize`` (items per message) and
    ``start_method``. Pools are started once and stay warm.

    Attributes
    ----------
    name : str
        What the command line and the JSON file call it.
    title : str
        What the tables call it.
    package : str or None
        The distribution to install; None for the standard library.
    kind : {"none", "process", "thread"}
    cluster : bool
        Whether it brings processes of its own beside the workers (a scheduler, a store).
    """

    name = ""
    title = ""
    package = None
    module = None
    kind = "process"
    cluster = False

    def __init__(self, workers, chunksize=None, start_method=None):
        self.workers = workers
        self.chunksize = chunksize
        self.start_method = start_method

    def start(self):
        """Start the pool."""

    def close(self):
        """Leave the pool the way its ``with`` block does."""

    def map(self, func, items, **frozen):
        raise NotImplementedError

    def imap(self, func, items):
        raise NotImplementedError

    def uimap(self, func, items):
        raise NotImplementedError

    def submit(self, func, item):
        raise NotImplementedError

    def map_inherited(self, func, items, **frozen):
        """``map`` on new workers that get the constants in the cheapest way this library knows."""
        raise NotImplementedError

    def map_blocks(self, func, array, **frozen):
        """Run a function on blocks of an array and put the results together, as a user would do it."""
        import numpy as np

        return np.concatenate(self.map(func, np.array_split(array, 4 * self.workers), **frozen))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.close()

    @classmethod
    def version(cls):
        """Its version, or None when it is not installed."""
        if cls.module is None:
            return "standard library"
        if importlib.util.find_spec(cls.module) is None:
            return None
        try:
            return importlib.metadata.version(cls.package)
        except importlib.metadata.PackageNotFoundError:
            return "from this folder"

    @classmethod
    def forks(cls):
        """Whether its workers are forked from the program unless it is told otherwise.

        Such workers hang once the program has used OpenMP.
        """
        return False


def bind(func, frozen):
    return functools.partial(func, **frozen) if frozen else func


class Serial(Peer):
    name, title, kind = "serial", "plain loop", "none"

    def map(self, func, items, **frozen):
        return [func(item, **frozen) for item in items]

    def imap(self, func, items):
        return map(func, items)

    uimap = imap

    def submit(self, func, item):
        return functools.partial(func, item)

    def map_blocks(self, func, array, **frozen):
        return func(array, **frozen)
