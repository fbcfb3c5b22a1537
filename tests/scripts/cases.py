"""What the scripts of values share: a mark for a case, and a loop that runs the cases.

A script is run as ``script.py '{"backend": "process", "start_method": "spawn"}'`` and prints a line of JSON for each
case: its name, and null or the traceback.
"""

import json
import sys
import traceback

import parallelkit as pk

CASES = []


def case(function):
    CASES.append(function)
    return function


def run_cases():
    pk.configure(workers=2, **json.loads(sys.argv[1]))
    for function in CASES:
        try:
            function()
            outcome = None
        except BaseException:
            outcome = traceback.format_exc()
        print(json.dumps([function.__name__, outcome]), flush=True)
