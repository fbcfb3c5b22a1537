"""Run the tests that others have written for their own classes, bound to ours, and count them.

What is left out is named in a table with its reason; a test of that table which passes after all
is a failure too, so that the table stays true.
"""

import sys
import unittest

__all__ = ["bind", "missing", "run"]


def bind(cases, ours, bases, namespace):
    """Test cases made of each of their mixins and each of our backends."""
    made = []
    for backend, mixin in ours.items():
        for case in cases:
            name = f"{backend}_{case.__name__.lstrip('_')}"
            namespace[name] = type(
                name, (case, mixin, *bases), {"__module__": namespace["__name__"]}
            )
            made.append(namespace[name])
    return made


def missing(what):
    """Say that this Python comes without its own tests, and end."""
    version = ".".join(map(str, sys.version_info[:3]))
    print(
        f"{what} is not there: this Python ({version}, {sys.executable}) was installed without\n"
        "all of its own tests. Take one that has them: make ... PYTHON=python3.13 VENV=.venv313",
        file=sys.stderr,
    )
    sys.exit(2)


def run(cases, excluded, argv=None):
    """Run all tests of `cases` but the excluded ones; print the counts; return the exit code.

    `excluded` maps ``method``, ``Class.method`` or ``backend_Class.method`` to the reason.
    """
    wanted = (sys.argv if argv is None else argv)[1:]
    suite, reasons = unittest.TestSuite(), {}
    for case in cases:
        for method in unittest.defaultTestLoader.getTestCaseNames(case):
            backend, _, name = case.__name__.partition("_")
            keys = (method, f"{name}.{method}", f"{backend}_{name}.{method}")
            reason = next((excluded[key] for key in keys if key in excluded), None)
            if wanted and not any(part in f"{case.__name__}.{method}" for part in wanted):
                continue
            if reason is None:
                suite.addTest(case(method))
            else:
                reasons[f"{case.__name__}.{method}"] = reason
    result = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(suite)
    bad = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    for name, reason in reasons.items():
        print(f"excluded: {name}: {reason}")
    for test, reason in result.skipped:
        print(f"skipped by itself: {test.id()}: {reason}")
    passed = result.testsRun - bad - len(result.skipped)
    print(
        f"{passed} passed, {bad} failed, {len(reasons)} excluded, "
        f"{len(result.skipped)} skipped by themselves"
    )
    return 1 if bad else 0
