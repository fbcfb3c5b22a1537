"""Libraries that run on one machine: pathos, joblib, mpire."""

import functools
import itertools
import sys

from benchmarks.peers.base import Peer, bind


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

    def submit(self, func, item):
        return self.pool.apipe(func, item).get

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

    @classmethod
    def forks(cls):
        return cls.kind == "process" and sys.platform.startswith("linux")


class PathosThreads(Pathos):
    name, title, kind = "pathos-threads", "pathos ThreadPool", "thread"

    def start(self):
        from pathos.pools import ThreadPool

        self.pool = ThreadPool(nodes=self.workers)


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

    def map_anew(self, func, items, **frozen):
        """``map`` by a ``Parallel`` of its own; loky's workers are shared by all of them, so they are warm."""
        from joblib import delayed

        return self._parallel()(delayed(func)(item, **frozen) for item in items)

    def imap(self, func, items, order="generator"):
        from joblib import delayed

        # loky's workers are shared by all Parallel objects, so these are warm too
        return self._parallel(return_as=order)(delayed(func)(item) for item in items)

    def uimap(self, func, items):
        return self.imap(func, items, "generator_unordered")


class JoblibThreads(Joblib):
    name, title, kind = "joblib-threads", "joblib, threading", "thread"
    backend = "threading"


class JoblibOnOurs(Joblib):
    """joblib and whatever calls it, on our workers: the same code, another name of a backend."""

    name, title = "joblib-ours", "joblib, our backend"
    backend = "parallelkit"

    def start(self):
        import parallelkit.integrations.joblib  # noqa: F401 - it registers the backends

        super().start()


class JoblibOnOurThreads(JoblibOnOurs):
    name, title, kind = "joblib-ours-threads", "joblib, our threads", "thread"
    backend = "parallelkit-threads"


class Mpire(Peer):
    name, title, package, module = "mpire", "mpire", "mpire", "mpire"

    def start(self):
        from mpire import WorkerPool

        method = {"start_method": self.start_method} if self.start_method else {}
        self.pool = WorkerPool(n_jobs=self.workers, keep_alive=True, **method)

    def close(self):
        self.pool.terminate()

    @staticmethod
    def _single(items):
        """mpire spreads an item that is a list, tuple or dict over the arguments: wrap those."""
        if isinstance(items, list) and items and isinstance(items[0], (list, tuple, dict)):
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

    def submit(self, func, item):
        return self.pool.apply_async(func, (item,)).get

    def map_inherited(self, func, items, **frozen):
        from mpire import WorkerPool

        from benchmarks import work

        if func is not work.pick:
            raise NotImplementedError("mpire needs a function that takes its shared objects first")
        with WorkerPool(n_jobs=self.workers, shared_objects=frozen["data"]) as pool:
            return pool.map(work.pick_shared, items, iterable_len=len(items))

    @classmethod
    def forks(cls):
        return sys.platform.startswith("linux")
