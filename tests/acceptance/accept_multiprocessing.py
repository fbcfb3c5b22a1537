"""CPython's own tests of ``multiprocessing.Pool``, bound to ours: ``make accept-multiprocessing``."""

import multiprocessing
import sys
import unittest

import runner

import parallelkit as pk
from parallelkit.integrations import multiprocessing as ours

try:
    from test import _test_multiprocessing as theirs
except ModuleNotFoundError:
    runner.missing("test._test_multiprocessing")


class Shutdown:
    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        pk.shutdown()


class Processes(Shutdown):
    TYPE = "processes"
    Pool = staticmethod(ours.Pool)


class Threads(Shutdown):
    TYPE = "threads"
    Pool = staticmethod(ours.ThreadPool)


POOL = runner.bind(
    [theirs._TestPool], {"process": Processes, "thread": Threads}, (unittest.TestCase,), globals()
)
WORKERS = runner.bind(
    [theirs._TestPoolWorkerErrors, theirs._TestPoolWorkerLifetime],
    {"process": Processes},
    (unittest.TestCase,),
    globals(),
)

EXCLUDED = {
    "test_make_pool": "counts the processes in the private list `_pool`; that bad numbers are a "
    "ValueError is tested in tests/test_dropins.py",
    "test_pool_worker_lifetime": "looks at private members (`_pool`, `_repopulate_pool`); that "
    "workers are replaced is tested in tests/test_dropins.py",
    "test_resource_warning": "a pool that is not closed holds nothing that has to be closed",
    "test_imap_handle_iterable_exception": "wants the results of the last chunk to be lost when "
    "the input raises; they come, and then the error",
    "process_TestPool.test_map_unplicklable": "wants the error of `__reduce__` as it is; it is the "
    "cause of a TransportError that names the item",
    "process_TestPool.test_traceback": "wants the private class of the remote traceback; ours says "
    "the same under another name",
    "test_unpickleable_result": "its result that cannot be pickled is a lambda, which is no "
    "problem here",
    "thread_TestPool.test_terminate": "leaves threads that sleep for five minutes, which nothing "
    "can end, and which this suite would wait for",
}

if __name__ == "__main__":
    import accept_multiprocessing as suite  # under a name by which workers find it

    multiprocessing.Pool = ours.Pool  # some tests make theirs by the module's name
    sys.exit(runner.run([*suite.POOL, *suite.WORKERS], suite.EXCLUDED))
