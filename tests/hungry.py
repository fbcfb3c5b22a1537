"""Items that take more than is good for them. Workers import this by name, so it imports little."""

import os

from faults import BAD, strike, tally

LEAKED = []


def allocate(x, nbytes):
    """Item BAD asks for that much memory in one piece."""
    return len(bytes(nbytes)) if x == BAD else x


def allocate_array(x, nbytes):
    import numpy as np

    return np.ones(nbytes // 8).nbytes if x == BAD else x


def grow(x, nbytes):
    """Item BAD asks for it in small pieces."""
    if x == BAD:
        pieces = [bytes(1000) for _ in range(nbytes // 1000)]
        return len(pieces)
    return x


def make_bytes(x, nbytes):
    return bytes(nbytes) if x == BAD else x


def leak(x, nbytes):
    LEAKED.append(bytes(nbytes))
    return x


def minus(x, by, folder):
    """Counts the items of each process."""
    tally(folder, f"process-{os.getpid()}")
    return x - by


def mixed(x):
    """Every fourth item is right, raises, dies, or hangs."""
    if x % 4:
        strike(("raise", "os._exit", "hang")[x % 4 - 1])
    return x


class Swelling:
    """Takes so many bytes when it is unpickled, or if it is told so, when it is pickled."""

    def __init__(self, nbytes, on_the_way_out=False):
        self.nbytes = nbytes
        self.on_the_way_out = on_the_way_out

    def __reduce__(self):
        return int if self.on_the_way_out and bytearray(self.nbytes) else bytearray, (self.nbytes,)


def swell(x, nbytes):
    return Swelling(nbytes, on_the_way_out=True) if x == 2 else x
