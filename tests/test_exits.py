"""An interpreter on its way out: functions that Python calls at its end, and daemon threads that still map."""

import re

import pytest

HEAD = """
import os, sys, threading
import parallelkit as pk
pk.configure(workers=2, start_method="METHOD")
"""


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("warm", [True, False])
def test_calls_at_exit(script, start_method, order, warm):
    """Functions that Python calls at its end may map, also after our own clean-up, and leave no worker."""
    import_ = HEAD.replace("METHOD", start_method)
    register = """
import atexit
def last():
    print(pk.Pool(2).map(abs, [-1, -2]), flush=True)
atexit.register(last)
"""
    parts = [register, import_] if order == "before" else [import_, register]
    ran = script("".join([*parts, "pk.map(abs, [-1])\n" if warm else ""]))
    assert (ran.out, ran.err) == ("[1, 2]\n", "")


LOOPS = {
    "map": "pool.map(abs, range(100))",
    "imap": "next(pool.imap(abs, range(100)))",
    "submit": "pool.submit(abs, 1).result()",
    "start": "pk.Pool(2).map(abs, range(10)); pk.shutdown()",
    "hold": "pool.map(lambda x: threading.Event().wait(x), [600])",
}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_daemon_thread_that_maps_to_the_end(script, start_method, loop):
    """A daemon thread in the middle of a call does not keep Python from ending; all that is said is what its call met."""
    source = """
pool = pk.Pool()
pool.map(abs, [1])
begun = threading.Event()
def work():
    while True:
        begun.set()
        LOOP
threading.Thread(target=work, daemon=True).start()
begun.wait()
sys.exit(3)
"""
    ran = script(
        (HEAD + source).replace("METHOD", start_method).replace("LOOP", LOOPS[loop]), code=3
    )
    assert ran.out == ""
    assert "Fatal" not in ran.err
    assert "ignored" not in ran.err
    said = [line for line in ran.err.splitlines() if not line.startswith((" ", "Traceback"))]
    assert not said or re.fullmatch(
        r"Exception in thread .*(parallelkit.errors.ParallelError: .*)?", "".join(said)
    )
