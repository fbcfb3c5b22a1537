"""What the scripts of values share: a mark for a case, and a loop that runs the cases.

A script is run as ``script.py '{"backend": "process", "start_method": "spawn"}'`` and prints a line of JSON for each
case: its name, and null or the traceback.
"""

import json
import multiprocessing
import os
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor

import parallelkit as pk

CASES = []


def case(function):
    CASES.append(function)
    return function


def run_cases():
    options = json.loads(sys.argv[1])
    if options["backend"] == "executor":  # whose processes need no guard
        context = multiprocessing.get_context("fork")
        options["backend"] = ProcessPoolExecutor(2, mp_context=context)
    elif options["backend"] == "loky":
        from loky import get_reusable_executor

        if os.environ.get("CASES_RUN"):  # its workers run the script, which has no guard
            return
        os.environ["CASES_RUN"] = "elsewhere"
        options["backend"] = get_reusable_executor(2)
    elif options["backend"] == "mpi":
        from mpi4py.futures import MPIPoolExecutor

        options["backend"] = MPIPoolExecutor(main=False)  # which would run the script there
    pk.configure(workers=2, **options)
    for function in CASES:
        try:
            function()
            outcome = None
        except BaseException:
            outcome = traceback.format_exc()
        print(json.dumps([function.__name__, outcome]), flush=True)
