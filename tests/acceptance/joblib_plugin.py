"""Enrols our backends in joblib's own tests, before their lists of backends are computed.

``register_parallel_backend`` brings them into the lists that joblib makes of its registry, the
processes as the default; where a test names joblib's own backends one by one, the processes are
added. Scripts that tests write import our module. What cannot pass stands in ``joblib.toml``, with
the reason; what stands there and passes is a failure.
"""

import tomllib
from pathlib import Path

import pytest

TABLE = Path(__file__).with_name("joblib.toml")
IMPORT, OURS = "from joblib import Parallel, delayed", "import parallelkit.integrations.joblib"
NAMED = {"backend", "parent_backend", "child_backend", "outer_backend", "inner_backend"}


def pytest_configure():
    """Register the backends."""
    from joblib.parallel import register_parallel_backend

    from parallelkit.integrations.joblib import ParallelkitBackend

    register_parallel_backend("parallelkit", ParallelkitBackend, make_default=True)


def _expected_to_fail(entry):
    return pytest.mark.xfail(reason=entry["reason"], strict=entry.get("strict", True))


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc):
    """Add our processes to lists of names that have joblib's processes."""
    for mark in metafunc.definition.iter_markers("parametrize"):
        names, values = mark.args[:2]
        lists = names in NAMED and isinstance(values, list)
        if lists and "loky" in values and "parallelkit" not in values:
            values.append("parallelkit")


def pytest_collection_modifyitems(items):
    """Expect to fail what is left out; have scripts import our module."""
    for module in {item.module for item in items}:
        for name, value in list(vars(module).items()):
            if isinstance(value, str) and IMPORT in value:
                setattr(module, name, value.replace(IMPORT, f"{OURS}; {IMPORT}"))
    for entry in tomllib.loads(TABLE.read_text())["excluded"]:
        for item in items:
            if item.nodeid.rpartition("::")[2] in entry["tests"]:
                item.add_marker(_expected_to_fail(entry))
