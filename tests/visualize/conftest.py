"""What matplotlib computes is the same on every backend."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _on_one_backend(one_backend):
    pass
