"""What the tests share: seeds, where the reference numbers lie, what runs on one backend alone."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# What XLA compiles here runs a few times: compiling it well would take longer than it saves.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false",
)

import keras
import pytest

FIXTURES = Path(__file__).parent / "fixtures"


def pytest_addoption(parser):
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="all cases of the property-based tests, not a share; what does not depend on the backend on each",
    )


@pytest.fixture(scope="session")
def exhaustive(request):
    """If all cases are wanted, not the share that a run of all tests has time for."""
    return request.config.getoption("--exhaustive")


@pytest.fixture(scope="session")
def one_backend(exhaustive):
    """Skips on all backends but one, of what does the same on each."""
    if keras.backend.backend() != "tensorflow" and not exhaustive:
        pytest.skip("the same on every backend: runs on TensorFlow, and with --exhaustive")


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def fixtures():
    """Folder of the golden numbers, computed by the published PyTorch code."""
    return FIXTURES
