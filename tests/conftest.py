"""What the tests share: seeds, and where the reference numbers lie."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def fixtures():
    """Folder of the golden numbers, computed by the published PyTorch code."""
    return FIXTURES
