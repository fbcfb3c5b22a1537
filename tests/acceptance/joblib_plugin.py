"""Enrols our backends in joblib's own tests, before their lists of backends are computed.

``register_parallel_backend`` brings them into the lists that joblib makes of its registry; where a
test names joblib's own backends one by one, the processes are added. Scripts that tests write
import our module. What is left out stands in ``joblib.toml``, with the reason.
"""

import tomllib
from pathlib import Path

import pytest

TABLE = Path(__file__).with_name("joblib.toml")
IMPORT, OURS = "from joblib import Parallel, delayed", "import parallelkit.integrations.joblib"
NAMED = {"backend", "parent_backend", "child_backend", "outer_backend", "inner_backend"}


def pytest_configure():
    """Register the backends."""
    import parallelkit.integrations.joblib  # noqa: F401


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc):
    """Add our processes to lists of names that have joblib's processes."""
    for mark in metafunc.definition.iter_markers("parametrize"):
        names, values = mark.args[:2]
        lists = names in NAMED and isinstance(values, list)
        if lists and "loky" in values and "parallelkit" not in values:
            values.append("parallelkit")


def pytest_collection_modifyitems(items):
    """Skip what is left out, and tell why; have scripts import our module."""
    for module in {item.module for item in items}:
        for name, value in list(vars(module).items()):
            if isinstance(value, str) and IMPORT in value:
                setattr(module, name, value.replace(IMPORT, f"{IMPORT}\n{OURS}"))
    table = tomllib.loads(TABLE.read_text())
    for item in items:
        name = item.nodeid.rpartition("::")[2]
        for entry in table["excluded"]:
            if name in entry["tests"] or name.partition("[")[0] in entry["tests"]:
                item.add_marker(pytest.mark.skip(reason=entry["reason"]))
