"""Functions that workers import by name, and the small tools with which the tests watch them.

Nothing here sleeps to put things in order: items meet at, or wait for, files that a test makes.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from pathlib import Path

# Seconds after which a wait is a failure; far above anything that works. (Engines take long to start.)
PATIENCE = float(os.environ.get("PATIENCE", "60"))


# ---- plain functions -----------------------------------------------------------------------------


def identity(x):
    return x


def increment(x):
    return x + 1


def add(x, y):
    return x + y


def add_all(*terms, p=0):
    return sum(terms) + p


def describe(x):
    """Type and value, as text, of what an item really got."""
    return type(x).__name__, repr(x)


def call_with(*args, **keywords):
    """The call as the function saw it."""
    return args, sorted(keywords.items())


def count_up_to(n):
    yield from range(n)


def consume(n):
    return list(count_up_to(n))


def pid(_=None):
    return os.getpid()


def place(_=None):
    """Where an item runs: process and thread."""
    return os.getpid(), threading.get_ident()


# ---- files as events -----------------------------------------------------------------------------


def mark(folder, name):
    """Leave a file; True for whoever was the first to leave it."""
    try:
        with open(Path(folder, str(name)), "x"):
            return True
    except FileExistsError:
        return False


def wait_until(condition, what):
    """Return once the condition holds; a test that waits in vain fails with the reason."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited in vain for {what}")
        time.sleep(0.002)


def wait_for(path):
    wait_until(Path(path).exists, path)


def wait_at(gate, i):
    """An item that tells that it runs, and waits for a file."""
    mark(gate.parent, f"{gate.name}-{i}")
    wait_for(gate)


def meet(i, folder, parties):
    """An item that ends only when as many items as that are running at the same time."""
    mark(folder, f"item-{i}")
    wait_until(
        lambda: len(os.listdir(folder)) >= parties,
        f"{parties} items at a time, {os.listdir(folder)} came",
    )
    return place()


def record(x, folder):
    """An item that leaves a file behind, so that the items that ran can be counted."""
    mark(folder, f"ran-{x}")
    return x


def first_waits(x, gate):
    """Item 0 ends only after the test has made the gate."""
    if x == 0:
        wait_for(gate)
    return x


def hold(x, folder):
    """An item that tells where it runs and then does not end in the life of a test."""
    Path(folder, f"held-{x}.part").write_text(str(os.getpid()))
    os.rename(Path(folder, f"held-{x}.part"), Path(folder, f"held-{x}"))
    threading.Event().wait(600)


def hold_at(x, at, folder):
    return hold(x, folder) if x == at else x


def fail_then_hold(x, folder):
    """Item 0 fails as soon as item 1 runs, and item 1 would never end."""
    if x == 0:
        wait_for(Path(folder, "held-1"))
        raise ValueError("item 0 is bad")
    return hold(x, folder)


def ended(pids):
    """True when none of the processes runs any more (one that waits to be reaped does not run)."""
    import psutil

    for number in pids:
        try:
            if psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            pass
    return True


KILL = int(getattr(signal, "SIGKILL", 9))  # Windows ends a process with any number as its exit code


def kill(number):
    """End a process, which can do nothing against it."""
    os.kill(number, KILL)


def crash():
    """Look into memory where there is none: SIGSEGV, or an access violation as Windows calls it."""
    faulthandler.disable()
    if sys.platform == "win32":
        faulthandler._read_null()
    os.kill(os.getpid(), signal.SIGSEGV)


# ---- failures ------------------------------------------------------------------------------------


class PlainError(Exception):
    """An error of a module that workers import."""


class TwoPartError(Exception):
    """An error whose own signature is not that of Exception: args alone cannot rebuild it."""

    def __init__(self, code, reason):
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class UnfinishedError(Exception):
    """An error that cannot be pickled."""

    def __init__(self, message):
        super().__init__(message)
        self.lines = (i for i in ())


class OneWayError(Exception):
    """An error that can be pickled and cannot be unpickled."""

    def __reduce__(self):
        return refuse, (str(self),)


class BadRepr:
    def __repr__(self):
        raise RuntimeError("no repr")


def refuse(message):
    raise RuntimeError(f"refused to load {message}")


def divide(x):
    return 12 // x


def fail_on(x, bad, error=ValueError):
    if x in bad:
        raise error(f"bad item {x}")
    return x * 10


def fail_from(x):
    try:
        {}["missing"]
    except KeyError as error:
        raise PlainError(f"no luck with {x}") from error


def two_parts(x):
    if x == 2:
        raise TwoPartError(404, "not found")
    return x


def leave(x):
    if x == 3:
        sys.exit(7)
    return x


def stop_iteration(x):
    if x == 1:
        raise StopIteration("an item may not end the call")
    return x


def generator_on(x, bad):
    return {"inner": [(i for i in ())]} if x == bad else x


def die(x, how):
    """Item 5 takes its worker with it."""
    if x == 5:
        if how == "exit":
            os._exit(3)
        elif how == "SIGKILL":
            kill(os.getpid())
        elif how == "SIGSEGV":
            crash()
        os.kill(os.getpid(), getattr(signal, how))
        threading.Event().wait(600)
    return x * 10


# ---- arguments that misbehave --------------------------------------------------------------------


class Unfinished:
    """An argument with an attribute that cannot travel."""

    def __init__(self):
        self.handle = (i for i in ())


class OneWay:
    """A value that can be pickled and cannot be unpickled."""

    def __reduce__(self):
        return refuse, ("a value",)


def one_way_on(x, bad):
    return OneWay() if x == bad else x


class Counted:
    """A value that counts how often it is pickled here, and leaves a file each time that a process unpickles it."""

    def __init__(self, folder):
        self.folder = str(folder)
        self.dumps = 0

    def __call__(self, x):
        return x + 1

    def __getstate__(self):
        self.dumps += 1
        return {"folder": self.folder, "dumps": 0}

    def __setstate__(self, state):
        self.__dict__.update(state)
        loads = sum(name.startswith(f"{os.getpid()}-") for name in os.listdir(self.folder))
        mark(self.folder, f"{os.getpid()}-{loads}")


def with_counted(x, counted):
    return counted(x)


# ---- initializers --------------------------------------------------------------------------------

SETTING = threading.local()
REMEMBERED = []


def set_up(folder, value):
    SETTING.value = value
    mark(folder, f"started-{os.getpid()}-{threading.get_ident()}")


def setting(x):
    return x, getattr(SETTING, "value", None)


def broken_set_up(folder):
    mark(folder, f"started-{os.getpid()}-{threading.get_ident()}")
    raise PlainError("no device")


def deadly_set_up(folder):
    mark(folder, f"started-{os.getpid()}")
    os._exit(9)
