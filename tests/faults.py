"""Things that go wrong on purpose, for functions, arguments, results and initializers in workers.

``HOME`` travels with a value that may only do its harm away from the process of the test.
"""

import ctypes
import os
import sys
import threading
import time
from pathlib import Path

from helpers import PlainError, crash, mark, wait_until

import parallelkit as pk
from parallelkit.place import system

HANG = 600.0  # seconds; whatever waits for that has hung
SHORT = 1.5  # seconds; on a busy machine only what hangs for good runs longer


# ---- what may happen -----------------------------------------------------------------------------


def segfault():
    _quietly()
    crash()
    threading.Event().wait(HANG)


def abort():
    _quietly()
    os.abort()


def overflow():
    """Use up the C stack: the destruction, and the repr, of a deep nest go down it in C."""
    _quietly()
    sys.setrecursionlimit(10**8)
    nest = ()
    for _ in range(10**6):
        nest = (nest,)
    repr(nest)


def leave():
    sys.exit(7)


def c_exit():
    os._exit(3)


def fail():
    raise PlainError("on purpose")


def hang():
    threading.Event().wait(HANG)


def hang_with_the_lock():
    """Sleep in C without giving the interpreter lock back: no thread of the process can run."""
    if system.WINDOWS:
        ctypes.PyDLL("kernel32").Sleep(int(HANG * 1000))
        return
    ctypes.PyDLL(None).sleep(int(HANG))


def _quietly():
    """Die without a stack on stderr or a core file: this is not news."""
    if system.WINDOWS:
        return  # there is no signal, but an end at once with its number
    import faulthandler
    import resource

    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


FAULTS = {
    "segfault": segfault,
    "abort": abort,
    "sys.exit": leave,
    "os._exit": c_exit,
    "raise": fail,
    "hang": hang,
    "hang in C": hang_with_the_lock,
}


def strike(fault, home=None):
    """Let it happen, but not in the process `home`."""
    if os.getpid() != home:
        FAULTS[fault]()
    return 2


# ---- where it may happen -------------------------------------------------------------------------

BAD = 2  # the item that goes wrong


class BadLoad:
    """A value at whose unpickling it happens."""

    def __init__(self, fault, home=None):
        self.fault = fault
        self.home = home

    def __reduce__(self):
        return strike, (self.fault, self.home)


class BadDump:
    """A value at whose pickling it happens."""

    def __init__(self, fault):
        self.fault = fault

    def __reduce__(self):
        strike(self.fault)
        return int, (BAD,)


class BadEnd:
    """A value at whose end it happens, though not in the process that made it."""

    def __init__(self, fault):
        self.fault = fault
        self.home = os.getpid()

    def __del__(self):
        if os.getpid() != self.home:
            FAULTS[self.fault]()


def take(x):
    """An item of which only the argument matters."""
    return x if isinstance(x, int) else BAD


def value_of(thing):
    return thing.value


def run_bad(x, fault):
    if x == BAD:
        strike(fault)
    return x


def run_deep(x):
    if x == BAD:
        overflow()
    return x


def defy(x):
    """Item BAD lets nothing that is raised in it end it."""
    while x == BAD:
        try:
            hang()
        except BaseException:
            continue
    return x


def nest(x):
    """An item that maps; in that of item BAD an inner item hangs."""
    return pk.map(lambda y: hang() if (x, y) == (BAD, 1) else x + y, range(3))


def dump_bad(x, fault):
    return BadDump(fault) if x == BAD else x


def load_bad(x, fault):
    """Item BAD gives a result that strikes the parent."""
    return BadLoad(fault) if x == BAD else x


def start_bad(fault, folder):
    """An initializer in whose way it comes until somebody has removed the file."""
    mark(folder, f"started-{os.getpid()}")
    if Path(folder, "broken").exists():
        strike(fault)


# ---- asking in each way --------------------------------------------------------------------------

WAYS = ("map", "imap", "uimap", "submit")


def outcomes(pool, way, func, items, **frozen):
    """What became of each item by its place: its result, or the exception. Needs on_error="return"."""
    if way == "submit":
        futures = [pool.submit(func, item, **frozen) for item in items]
        errors = [future.exception(60) for future in futures]
        return {
            i: future.result() if error is None else error
            for i, (future, error) in enumerate(zip(futures, errors, strict=True))
        }
    results = list(getattr(pool, way)(func, items, **frozen))
    found = {}
    for place, result in enumerate(results):
        if isinstance(result, pk.Failure):
            assert way == "uimap" or result.index == place
            found[result.index] = result.exception
        else:
            assert way == "uimap" or result == place
            found[result] = result
    assert len(found) == len(results)
    return found


# ---- counting ------------------------------------------------------------------------------------


def tally(folder, name):
    """Leave one more file for `name`; how many there are now, this one included."""
    count = 0
    while not mark(folder, f"{name}#{count}"):
        count += 1
    return count + 1


def tallies(folder):
    """How often each name was told."""
    found = {}
    for path in Path(folder).glob("*#*"):
        name = path.name.split("#")[0]
        found[name] = found.get(name, 0) + 1
    return found


def flaky(x, folder, failures, error=PlainError):
    """Item BAD fails as often as that, and is right after it."""
    if tally(folder, f"item-{x}") <= failures and x == BAD:
        if error is None:
            os._exit(5)
        raise error(f"no luck with {x}")
    return x


def counted(x, folder, bad=(), fault="hang"):
    """An item that is counted as often as it is begun, and then fails if it is bad."""
    tally(folder, f"item-{x}")
    if x in bad:
        strike(fault)
    return x


# ---- the workers, as seen from outside -----------------------------------------------------------


def warm():
    """The sets of workers that this process keeps warm. Which there are is nobody else's business."""
    from parallelkit.backends.processes import pool

    return list(pool._warm.values())


def workers():
    """Those of all sets."""
    return [worker for each in warm() for worker in each.handles()]


def busy(seconds):
    """Compute for that long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def square_slowly(x, seconds):
    busy(seconds)
    return x * x


def wait_for_files(folder, count, what="held-*"):
    wait_until(lambda: len(list(Path(folder).glob(what))) >= count, f"{count} × {what}")
