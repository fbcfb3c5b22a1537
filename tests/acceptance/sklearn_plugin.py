"""Makes our processes what scikit-learn's own tests run on, where they run in parallel.

As joblib's default backend; with ``--everywhere`` also with two workers wherever a test does not say
how many, which makes nearly all of them parallel. What cannot pass stands in ``sklearn.toml``, with
the reason.
"""

import tomllib
from pathlib import Path

import pytest

TABLE = Path(__file__).with_name("sklearn.toml")


def pytest_addoption(parser):
    """Choose the backend, to compare."""
    parser.addoption("--joblib-backend", default="parallelkit", help="joblib's name of a backend")
    parser.addoption("--everywhere", action="store_true", help="two workers by default")


def pytest_configure(config):
    """Make the backend joblib's default."""
    import joblib

    import parallelkit.integrations.joblib  # noqa: F401

    name = config.getoption("joblib_backend")
    joblib.register_parallel_backend(name, joblib.parallel.BACKENDS[name], make_default=True)
    if config.getoption("everywhere"):
        joblib.parallel_config(name, n_jobs=2)  # holds from the call on


def pytest_collection_modifyitems(items):
    """Expect to fail what is left out."""
    for entry in tomllib.loads(TABLE.read_text())["excluded"]:
        for item in items:
            if item.nodeid.rpartition("::")[2] in entry["tests"]:
                item.add_marker(pytest.mark.xfail(reason=entry["reason"], strict=True))
