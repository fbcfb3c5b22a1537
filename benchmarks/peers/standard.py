"""What Python brings along: multiprocessing's pools and the executors of concurrent.futures."""

import functools
import multiprocessing

from benchmarks.peers.base import Peer, bind


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

    def submit(self, func, item):
        return self.pool.apply_async(func, (item,)).get

    def map_inherited(self, func, items, **frozen):
        from benchmarks import work

        context = multiprocessing.get_context("fork")
        with context.Pool(self.workers, work.inherit, (frozen,)) as pool:
            return pool.map(functools.partial(work.with_inherited, func), items)

    @classmethod
    def forks(cls):
        return cls.kind == "process" and multiprocessing.get_start_method() == "fork"


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

    def submit(self, func, item):
        return self.pool.submit(func, item).result

    def map_inherited(self, func, items, **frozen):
        from concurrent.futures import ProcessPoolExecutor

        from benchmarks import work

        with ProcessPoolExecutor(
            self.workers, multiprocessing.get_context("fork"), work.inherit, (frozen,)
        ) as pool:
            return list(pool.map(functools.partial(work.with_inherited, func), items))

    @classmethod
    def forks(cls):
        return cls.kind == "process" and multiprocessing.get_start_method() == "fork"


class ThreadExecutor(Executor):
    name, title, kind = "thread-executor", "ThreadPoolExecutor", "thread"

    def start(self):
        from concurrent.futures import ThreadPoolExecutor

        self.pool = ThreadPoolExecutor(self.workers)
