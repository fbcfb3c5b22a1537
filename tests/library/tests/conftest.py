import pytest

import parallelkit as pk


@pytest.fixture(scope="session", autouse=True)
def end_of_workers():
    """Workers write down what coverage has counted when they end."""
    yield
    pk.shutdown()
