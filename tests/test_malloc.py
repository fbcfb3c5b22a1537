"""What workers do with the memory of temporaries: kept between items, given back when there are none."""

import os
import platform
import threading

import numpy as np
import psutil
import pytest
from helpers import wait_until

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

MEGABYTE = 2**20
PAGES = 10 * 4 * MEGABYTE // 4096  # of ten temporaries of 4 MB


def use_temporaries(megabytes=4, times=10):
    for _ in range(times):
        np.ones(megabytes * MEGABYTE // 8)


def faults(_):
    """Pages that were taken from the kernel for temporaries, when the same were used just before."""
    import resource

    use_temporaries()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use_temporaries()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def faults_in_thread(_):
    results = []
    thread = threading.Thread(target=lambda: results.append(faults(0)))
    thread.start()
    thread.join()
    return results[0]


def grow(megabytes):
    """Use and free memory; this process' id, and its size before and after."""
    process = psutil.Process()
    before = process.memory_info().rss
    blocks = [np.ones(megabytes * MEGABYTE // 8) for _ in range(5)]  # a fork may have room for one
    del blocks
    return os.getpid(), before, process.memory_info().rss


@pytest.mark.parametrize("func", [faults, faults_in_thread])
def test_temporaries_reuse_memory(process_pool, func):
    """Large temporaries of an item use memory that is there, in threads of a worker too."""
    assert process_pool(workers=1).map(func, range(3))[-1] < PAGES / 10


def test_idle_workers_give_memory_back(process_pool):
    """A worker keeps what was freed while it has items, and gives it back when it has none."""
    [(pid, before, after)] = process_pool(workers=1).map(grow, [31])
    assert after - before > 15 * MEGABYTE
    wait_until(
        lambda: psutil.Process(pid).memory_info().rss < after - 15 * MEGABYTE,
        "memory to be given back",
    )


def test_it_can_be_turned_off(script):
    """PARALLELKIT_MALLOC=0 leaves malloc as it is."""
    source = """
import numpy as np, os, resource
import parallelkit as pk

def faults(_):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(2**22)  # 32 MB: from the kernel each time, whatever malloc has learned
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min(pk.map(faults, range(4))))
"""
    ran = script(source, env={"PARALLELKIT_MALLOC": "0"})
    assert ran.values[0] >= 10  # one for each at least, however large the pages are
