"""What the tests share: seeds, and where the reference numbers lie."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest

FIXTURES = Path(__file__).parent / "fixtures"


def pytest_addoption(parser):
    parser.addoption("--exhaustive", action="store_true", help="all cases of the property-based tests, not a share")


@pytest.fixture(scope="session")
def exhaustive(request):
    return request.config.getoption("--exhaustive")


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def fixtures():
    """Folder of the golden numbers, computed by the published PyTorch code."""
    return FIXTURES
