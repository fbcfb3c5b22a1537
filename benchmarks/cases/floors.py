"""The parts of ``benchmarks.floors``: what must happen, whoever does it, each done alone and by hand.

A part takes the data, the sizes and the checks of the case that it belongs to, and replaces what is timed. It runs as
"plain loop", in a process of its own, in turns with the libraries. Some cases of parallelkit's are here too: those that
nothing but the floors asks for.

Workers are forked here because nothing is cheaper; shared memory has been written to before (recycled) where it says
so, because fresh pages cost more than the copy.
"""

import functools
import mmap
import os
import pickle
import select
import socket
import subprocess
import sys

from benchmarks import work
from benchmarks.cases import arrays, containers, memory, overhead, schedule
from benchmarks.cases.base import Case

BYTES = 1 << 16  # the longest message of an exchange
CHUNKS = 16


# ---- an exchange of messages ---------------------------------------------------------------------------------------------


class Child:
    """A forked process that answers messages until its socket is closed: no thread, no queue, no header.

    A message is a pickle of a function and its argument; the function is pickled by reference, or is itself a pickle,
    which is loaded once.
    """

    def __init__(self):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if not self.pid:
            try:
                self.socket.close()
                _serve(theirs)
            finally:
                os._exit(0)
        theirs.close()

    def send(self, func, argument):
        self.socket.send(pickle.dumps((func, argument), 5))

    def receive(self):
        return pickle.loads(self.socket.recv(BYTES))

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)  # the other child may have inherited it
        self.socket.close()
        os.waitpid(self.pid, 0)


def _serve(theirs):
    load = functools.lru_cache(pickle.loads)
    while message := theirs.recv(BYTES):
        func, argument = pickle.loads(message)
        if isinstance(func, bytes):
            func = load(func)
        theirs.send(pickle.dumps(func(argument), 5))


class _WithChildren:
    """For a part that talks to two children."""

    peers = ("serial",)
    tuned = {}

    def setup(self):
        super().setup()
        self.children = [Child(), Child()]

    def close(self):
        for child in self.children:
            child.close()
        super().close()


class Exchange(_WithChildren, overhead.WarmCall):
    name = "floor-exchange"
    title = "two messages to two forked children, then their answers; the function by reference"

    def func(self):
        return work.increment

    def call(self):
        func = self.func()
        for child, argument in zip(self.children, (1, 2), strict=True):
            child.send(func, argument)
        return [child.receive() for child in self.children]


class ExchangeByValue(Exchange):
    name = "floor-exchange-by-value"
    title = "the same, the function of `__main__` pickled by value for each call"

    def setup(self):
        self.original = function_of_main()
        super().setup()

    def func(self):
        import cloudpickle

        return cloudpickle.dumps(self.original, 5)


class ExchangeOne(_WithChildren, overhead.RoundTrip):
    name = "floor-exchange-one"
    title = "one message to a forked child, and its answer"

    def call(self):
        self.children[0].send(work.increment, 1)
        return self.children[0].receive()


class OneByOne(_WithChildren, schedule.Milliseconds):
    """Whichever child has answered gets the next task."""

    name = "floor-one-by-one"
    title = "{n} tasks of 1 ms, one a message, to two forked children"

    def run(self):
        results, tasks, ready = [], iter(self.inputs), select.poll()
        places = {child.socket.fileno(): child for child in self.children}
        for place, child in places.items():
            ready.register(place, select.POLLIN)
            child.send(work.spin, next(tasks))
        while len(results) < self.items:
            for place, _ in ready.poll():
                results.append(places[place].receive())
                if task := next(tasks, None):
                    places[place].send(work.spin, task)
        return results


def function_of_main():
    """``x + 1``, defined in ``__main__``, as in a script."""
    main = vars(sys.modules["__main__"])
    exec("def plus_one(x): return x + 1", main)
    return main["plus_one"]


# ---- cases of parallelkit's ---------------------------------------------------------------------------------------------


class WarmCallOfMain(overhead.WarmCall):
    name = "warm-call-of-main"
    title = "warm call of 2 items, function of `__main__`"
    peers = ("parallelkit", "pool")
    tuned = {}

    def setup(self):
        self.func = function_of_main()

    def call(self):
        return self.peer.map(self.func, [1, 2])


class CallerOfWarmCall(overhead.WarmCall):
    """What our own Python in the caller is of the whole; the rest is the kernel's, the workers', or waiting."""

    name = "caller-of-warm-call"
    title = (
        "processor time of parallelkit's caller, its threads among it, for a warm call of 2 items"
    )
    peers = ("parallelkit",)
    tuned = {}

    def measure(self):
        before = _processor_time()
        found = super().measure()
        calls = self.size.calls + 1
        return {**found, "seconds": (_processor_time() - before) / calls}


def _processor_time():
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class FrozenAnew(arrays.Frozen):
    name = "array-frozen-anew"
    title = "one frozen array of {mb} MB, {n} light tasks, first call of new workers"
    peers = ("parallelkit",)
    tuned = {}

    def prepare(self):
        super().prepare()
        self.peer.close()
        self.peer.start()
        self.warm()


class FrozenRecycled(arrays.Frozen):
    """After so many calls with other arrays that the shared memory has been written to, and mapped."""

    name = "array-frozen-recycled"
    title = "parallelkit: one frozen array of {mb} MB, {n} light tasks, first call with it, the sixth of its kind"
    peers = ("parallelkit",)
    tuned = {}

    def warm(self):
        super().warm()
        for _ in range(5):
            self.prepare()
            self.check(self.run())


# ---- lists -------------------------------------------------------------------------------------------------------------


class _Pickles:
    """The messages of a list, in equal chunks, and their answers."""

    peers = ("serial",)
    tuned = {}

    def setup(self):
        super().setup()
        size = -(-self.items // CHUNKS)
        starts = range(0, self.items, size)
        self.chunks = [self.inputs[at : at + size] for at in starts]
        self.messages = [pickle.dumps(chunk, 5) for chunk in self.chunks]
        self.answers = [pickle.dumps(self.expected[at : at + size], 5) for at in starts]


class _Caller(_Pickles):
    def run(self):
        results = []
        for chunk, answer in zip(self.chunks, self.answers, strict=True):
            pickle.dumps(chunk, 5)
            results += pickle.loads(answer)
        return results


class _Workers(_Pickles):
    def run(self):
        func = type(self).func
        return [
            pickle.dumps([func(item) for item in pickle.loads(message)], 5)
            for message in self.messages
        ]

    def check(self, result):
        assert result == self.answers, "wrong results"


_Million = overhead.LIST_CASES[list(overhead.LISTS).index(overhead.MILLION)]


class MillionCaller(_Caller, _Million):
    name = "floor-list-caller"
    title = "{n} × `x + 1`: the caller pickles the arguments and unpickles the results"


class MillionWorkers(_Workers, _Million):
    name = "floor-list-workers"
    title = "{n} × `x + 1`: all that workers do, by one: unpickle, loop, pickle"


class ListsCaller(_Caller, containers.Lists):
    name = "floor-lists-caller"
    title = "{n} lists of 1 000 ints: the caller pickles the arguments and unpickles the results"


class ListsWorkers(_Workers, containers.Lists):
    name = "floor-lists-workers"
    title = "{n} lists of 1 000 ints: all that workers do, by one: unpickle, sum, pickle"


# ---- arrays ------------------------------------------------------------------------------------------------------------


class _Recycled:
    """With shared memory for all the arrays, every page of which has been written to."""

    peers = ("serial",)
    tuned = {}
    one = False

    def setup(self):
        super().setup()
        count = 1 if self.one else self.items
        self.memory = mmap.mmap(-1, 8 * self.size.length * count)
        self.shared = self.np.frombuffer(self.memory).reshape(count, self.size.length)
        self.shared[:] = 1.0

    def close(self):
        del self.shared  # before its memory
        self.memory.close()
        super().close()


class InCopied(_Recycled, arrays.In):
    name = "floor-in"
    title = "{n} fresh arrays of {mb} MB, copied into recycled shared memory"

    def run(self):
        for place, array in zip(self.shared, self.arrays, strict=True):
            place[:] = array

    def check(self, _):
        super().check([float(place.sum()) for place in self.shared])


class OutWorkers(_Recycled, arrays.OutKept):
    """With the setting of malloc that workers have: the memory of an array serves the next one."""

    name = "floor-out-workers"
    title = (
        "{n} arrays of {mb} MB: all that workers do, by one: make, copy into recycled shared memory"
    )

    def setup(self):
        keep_memory()
        super().setup()

    def run(self):
        for i, place in enumerate(self.shared):
            place[:] = work.filled(i, self.size.length)

    def check(self, _):
        super().check((self.shared, [float(place[::512].mean()) for place in self.shared]))


class OutCaller(_Recycled, arrays.OutKept):
    name = "floor-out-caller"
    title = "{n} arrays of {mb} MB: the caller copies them out of shared memory into fresh arrays, and reads them"

    def setup(self):
        super().setup()
        for i, place in enumerate(self.shared):
            place[:] = i

    def run(self):
        results = [place.copy() for place in self.shared]
        return results, [float(array[::512].mean()) for array in results]


class FrozenCopied(_Recycled, arrays.Frozen):
    name = "floor-frozen"
    title = "an array of {mb} MB, copied into recycled shared memory"
    one = True

    def run(self):
        self.shared[0] = self.data

    def check(self, _):
        super().check([float(x) for x in self.shared[0][: 1_000 * self.items : 1_000]])


class FrozenWritten(arrays.Frozen):
    name = "floor-frozen-anew"
    title = "an array of {mb} MB, written into fresh shared memory"
    peers = ("serial",)
    tuned = {}

    def run(self):
        self.memory = os.memfd_create("floor", os.MFD_CLOEXEC)
        data, at = memoryview(self.data).cast("B"), 0
        while at < len(data):
            at += os.pwrite(self.memory, data[at:], at)

    def check(self, _):
        with os.fdopen(self.memory, "rb"), mmap.mmap(self.memory, 0, prot=mmap.PROT_READ) as read:
            shared = self.np.frombuffer(read)
            found = [float(x) for x in shared[: 1_000 * self.items : 1_000]]
            del shared
        super().check(found)


class BlocksFilled(arrays.Blocks):
    name = "floor-blocks"
    title = "the plain loop, into fresh shared memory"
    peers = ("serial",)
    tuned = {}

    def run(self):
        np = self.np
        nbytes = self.y.nbytes * len(self.x)
        result = np.frombuffer(mmap.mmap(-1, nbytes)).reshape(len(self.y), len(self.x))
        for i, value in enumerate(self.y):
            result[i] = value * self.x
        return result


def _kept(case):
    """A case of temporaries in a loop of its own, with the setting of malloc that workers have."""

    class Kept(case):
        name = f"floor-{case.name}"
        title = f"{case.title}: the plain loop, malloc set as in workers"
        peers = ("serial",)
        tuned = {}

        def setup(self):
            keep_memory()
            super().setup()

    return Kept


TEMPORARIES = [_kept(case) for case in arrays.TEMPORARIES]


def keep_memory():
    """What ``GLIBC_TUNABLES`` would do before the start (see docs/benchmarks.md)."""
    from parallelkit.place import malloc

    malloc.keep()


# ---- processes ---------------------------------------------------------------------------------------------------------


class _Interpreters(Case):
    group = "start"
    peers = ("serial",)
    needs_pool = False
    statements = ()

    def run(self):
        for statement in self.statements:
            subprocess.run([sys.executable, "-c", statement], check=True)

    def check(self, _):
        """Nothing is computed."""


class BareInterpreters(_Interpreters):
    name = "floor-cold-bare"
    title = "a bare interpreter, then another"
    statements = ("pass", "pass")


class Interpreters(_Interpreters):
    name = "floor-cold"
    title = "a bare interpreter, then one that imports `pathos.multiprocessing`"
    statements = ("pass", "import pathos.multiprocessing")


_SERVER = """
import os, sys, numpy
started = [os.fork() or sys.exit(sys.stdin.read()) for _ in range({workers})]
print("ready", flush=True)
sys.stdin.read()
"""


class BareMemory(memory.Idle):
    name = "floor-memory"
    title = "PSS of an interpreter, of one that imports numpy, and of two forked from that"
    peers = ("serial",)
    needs_pool = False

    def measure(self):
        with subprocess.Popen(
            [sys.executable, "-c", _SERVER.format(workers=self.peer.workers)],
            stdin=subprocess.PIPE,  # all of them leave when it is closed
            stdout=subprocess.PIPE,
        ) as server:
            assert server.stdout.readline() == b"ready\n", "it did not start"
            used = memory.of_caller() + memory.of_workers()
        return {"seconds": used, "items": 1, "ideal": None}


PARTS = {
    case.name: case
    for case in (
        Exchange,
        ExchangeByValue,
        ExchangeOne,
        WarmCallOfMain,
        CallerOfWarmCall,
        MillionCaller,
        MillionWorkers,
        ListsCaller,
        ListsWorkers,
        InCopied,
        OutWorkers,
        OutCaller,
        FrozenCopied,
        FrozenWritten,
        BlocksFilled,
        FrozenAnew,
        FrozenRecycled,
        *TEMPORARIES,
        OneByOne,
        BareInterpreters,
        Interpreters,
        BareMemory,
    )
}
