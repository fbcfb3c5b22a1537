"""The libraries compared, each behind the same few methods.

An adapter is thin: it spells a call the way the library's own documentation does, and adds no cleverness.
``map`` gives a list, ``imap`` an iterator in order, ``uimap`` one in order of completion, ``call`` sends one item
and waits. Keywords beside the items are constants of the function.

A peer runs at its default settings unless a case gives it others: ``chunksize`` (items per message) and
``start_method``. Pools are started once and stay warm.
"""

import functools
import importlib.metadata
import importlib.util
import itertools
import multiprocessing


class Peer:
    """Base of the adapters.

    Attributes
    ----------
    name : str
        What the command line and the JSON file call it.
    title : str
        What the tables call it.
    package : str or None
        The distribution to install; None for the standard library.
    kind : {"none", "process", "thread"}
    """

    name = ""
    title = ""
    package = None
    module = None
    kind = "process"

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

    def call(self, func, item):
        raise NotImplementedError

    def map_inherited(self, func, items, **frozen):
        """``map`` on new workers that get the constants in the cheapest way this library knows."""
        raise NotImplementedError

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


def bind(func, frozen):
    return functools.partial(func, **frozen) if frozen else func


class Serial(Peer):
    name, title, kind = "serial", "plain loop", "none"

    def map(self, func, items, **frozen):
        return [func(item, **frozen) for item in items]

    def imap(self, func, items):
        return map(func, items)

    uimap = imap

    def call(self, func, item):
        return func(item)


class Ours(Peer):
    name, title, package, module = "parallelkit", "parallelkit", "parallelkit", "parallelkit"
    options = {}

    def start(self):
        import parallelkit as pk

        options = dict(self.options)
        if self.chunksize:
            options["chunksize"] = self.chunksize
        if self.start_method:
            options["start_method"] = self.start_method
        self.pool = pk.Pool(workers=self.workers, **options)

    def close(self):
        import parallelkit as pk

        self.pool.close()
        pk.shutdown()

    def map(self, func, items, **frozen):
        return self.pool.map(func, items, **frozen)

    def imap(self, func, items):
        return self.pool.imap(func, items)

    def uimap(self, func, items):
        return self.pool.uimap(func, items)

    def call(self, func, item):
        return self.pool.submit(func, item).result()


class OursThreads(Ours):
    name, title, kind = "parallelkit-threads", "parallelkit, threads", "thread"
    options = {"backend": "thread"}


class OursReturn(Ours):
    """For ``benchmarks.faults``: failures take their item's place."""

    name, title = "parallelkit-return", 'parallelkit, on_error="return"'
    options = {"on_error": "return"}


class OursRetry(Ours):
    """For ``benchmarks.faults``: an item whose worker died is tried again."""

    name, title = "parallelkit-retry", "parallelkit, retries=1"
    options = {"retries": 1}


class Pathos(Peer):
    name, title, package, module = "pathos", "pathos", "pathos", "pathos"
    fresh = itertools.count()

    def start(self):
        from pathos.pools import ProcessPool

        self.pool = ProcessPool(nodes=self.workers)

    def close(self):
        self.pool.terminate()
        self.pool.join()
        self.pool.clear()

    def _chunks(self):
        return {"chunksize": self.chunksize} if self.chunksize else {}

    def map(self, func, items, **frozen):
        return self.pool.map(bind(func, frozen), items, **self._chunks())

    def imap(self, func, items):
        return self.pool.imap(func, items, **self._chunks())

    def uimap(self, func, items):
        return self.pool.uimap(func, items, **self._chunks())

    def call(self, func, item):
        return self.pool.apipe(func, item).get()

    def map_inherited(self, func, items, **frozen):
        from pathos.pools import ProcessPool

        from benchmarks import work

        pool = ProcessPool(
            nodes=self.workers,
            id=f"inherited {next(self.fresh)}",
            initializer=work.inherit,
            initargs=(frozen,),
        )
        try:
            return pool.map(functools.partial(work.with_inherited, func), items)
        finally:
            pool.terminate()
            pool.join()
            pool.clear()


class PathosThreads(Pathos):
    name, title, kind = "pathos-threads", "pathos ThreadPool", "thread"

    def start(self):
        from pathos.pools import ThreadPool

        self.pool = ThreadPool(nodes=self.workers)


class MultiprocessingPool(Peer):
    name, title = "pool", "multiprocessing.Pool"

    def start(self):
        self.pool = multiprocessing.get_context(self.start_method).Pool(self.workers)

    def close(self):
        self.pool.terminate()
        self.pool.join()

    def map(self, func, items, **frozen):
        return self.pool.map(bind(func, frozen), items, self.chunksize)

    def imap(self, func, items):
        return self.pool.imap(func, items, self.chunksize or 1)

    def uimap(self, func, items):
        return self.pool.imap_unordered(func, items, self.chunksize or 1)

    def call(self, func, item):
        return self.pool.apply_async(func, (item,)).get()

    def map_inherited(self, func, items, **frozen):
        from benchmarks import work

        with multiprocessing.Pool(self.workers, work.inherit, (frozen,)) as pool:
            return pool.map(functools.partial(work.with_inherited, func), items)


class MultiprocessingThreads(MultiprocessingPool):
    name, title, kind = "thread-pool", "multiprocessing ThreadPool", "thread"

    def start(self):
        from multiprocessing.pool import ThreadPool

        self.pool = ThreadPool(self.workers)


class Executor(Peer):
    name, title = "executor", "ProcessPoolExecutor"

    def start(self):
        from concurrent.futures import ProcessPoolExecutor

        context = multiprocessing.get_context(self.start_method) if self.start_method else None
        self.pool = ProcessPoolExecutor(self.workers, context)

    def close(self):
        self.pool.shutdown()

    def map(self, func, items, **frozen):
        return list(self.pool.map(bind(func, frozen), items, chunksize=self.chunksize or 1))

    def imap(self, func, items):
        return self.pool.map(func, items, chunksize=self.chunksize or 1)

    def uimap(self, func, items):
        from concurrent.futures import as_completed

        for future in as_completed([self.pool.submit(func, item) for item in items]):
            yield future.result()

    def call(self, func, item):
        return self.pool.submit(func, item).result()

    def map_inherited(self, func, items, **frozen):
        from concurrent.futures import ProcessPoolExecutor

        from benchmarks import work

        with ProcessPoolExecutor(
            self.workers, initializer=work.inherit, initargs=(frozen,)
        ) as pool:
            return list(pool.map(functools.partial(work.with_inherited, func), items))


class ThreadExecutor(Executor):
    name, title, kind = "thread-executor", "ThreadPoolExecutor", "thread"

    def start(self):
        from concurrent.futures import ThreadPoolExecutor

        self.pool = ThreadPoolExecutor(self.workers)


class Joblib(Peer):
    name, title, package, module = "joblib", "joblib", "joblib", "joblib"
    backend = "loky"

    def start(self):
        self.parallel = self._parallel()
        self.parallel.__enter__()

    def close(self):
        self.parallel.__exit__(None, None, None)

    def _parallel(self, **options):
        from joblib import Parallel

        if self.chunksize:
            options["batch_size"] = self.chunksize
        return Parallel(n_jobs=self.workers, backend=self.backend, **options)

    def map(self, func, items, **frozen):
        from joblib import delayed

        return self.parallel(delayed(func)(item, **frozen) for item in items)

    def imap(self, func, items, order="generator"):
        from joblib import delayed

        # loky's workers are shared by all Parallel objects, so these are warm too
        return self._parallel(return_as=order)(delayed(func)(item) for item in items)

    def uimap(self, func, items):
        return self.imap(func, items, "generator_unordered")


class JoblibThreads(Joblib):
    name, title, kind = "joblib-threads", "joblib, threading", "thread"
    backend = "threading"


class Mpire(Peer):
    name, title, package, module = "mpire", "mpire", "mpire", "mpire"

    def start(self):
        from mpire import WorkerPool

        self.pool = WorkerPool(n_jobs=self.workers, keep_alive=True)

    def close(self):
        self.pool.terminate()

    @staticmethod
    def _single(items):
        """mpire spreads an item that is a list or tuple over the arguments: wrap those."""
        if isinstance(items, list) and items and isinstance(items[0], (list, tuple)):
            return [(item,) for item in items]
        return items

    def map(self, func, items, **frozen):
        return self.pool.map(
            bind(func, frozen),
            self._single(items),
            chunk_size=self.chunksize,
            concatenate_numpy_output=False,
        )

    def imap(self, func, items):
        return self.pool.imap(func, self._single(items), chunk_size=self.chunksize)

    def uimap(self, func, items):
        return self.pool.imap_unordered(func, self._single(items), chunk_size=self.chunksize)

    def call(self, func, item):
        return self.pool.apply_async(func, (item,)).get()

    def map_inherited(self, func, items, **frozen):
        from mpire import WorkerPool

        from benchmarks import work

        if func is not work.pick:
            raise NotImplementedError("mpire needs a function that takes its shared objects first")
        with WorkerPool(n_jobs=self.workers, shared_objects=frozen["data"]) as pool:
            return pool.map(work.pick_shared, items, iterable_len=len(items))


ALL = {
    peer.name: peer
    for peer in (
        Serial,
        Ours,
        Pathos,
        MultiprocessingPool,
        Executor,
        Joblib,
        Mpire,
        OursThreads,
        ThreadExecutor,
        MultiprocessingThreads,
        PathosThreads,
        JoblibThreads,
        OursReturn,
        OursRetry,
    )
}

#: The sets that cases choose from.
PROCESSES = ("serial", "parallelkit", "pathos", "pool", "executor", "joblib", "mpire")
THREADS = (
    "serial",
    "parallelkit-threads",
    "thread-executor",
    "thread-pool",
    "pathos-threads",
    "joblib-threads",
)
SENSIBLE_THREADS = ("parallelkit-threads", "thread-executor", "joblib-threads")
