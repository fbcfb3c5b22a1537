"""The first calls of a process, made by several threads at once."""

import pytest
from running import run_script

TOGETHER = """
import json, threading
import parallelkit as pk

start, told = threading.Barrier(8), []

def work(backend):
    start.wait()
    try:
        told.append(pk.Pool(2, backend=backend, seed=SEED).map(abs, [-1, -2]))
    except BaseException as error:
        told.append(repr(error))

threads = [threading.Thread(target=work, args=(b,)) for b in BACKENDS * 4]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(told))
"""


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("backends", [["process", "thread"], ["thread", "serial"]])
def test_they_wait_for_one_anothers_imports(backends, seed):
    """All get their results, whatever each of them is the first to import."""
    ran = run_script(["-"], TOGETHER.replace("SEED", str(seed)).replace("BACKENDS", str(backends)))
    assert ran.values == [[[1, 2]] * 8]


def test_those_of_spawned_workers_do_too():
    """What starts them is imported by their first call, while others import the same for threads."""
    options = 'pk.configure(start_method="spawn")\nstart, told ='
    script = TOGETHER.replace("start, told =", options).replace("SEED", "None")
    ran = run_script(["-"], script.replace("BACKENDS", "['process', 'thread']"))
    assert ran.values == [[[1, 2]] * 8]
