import pytest
from keras import ops

from keras_adavit.training.metrics import PolicyMetrics


def test_macs_of_models_beyond_32_bits():
    metrics = PolicyMetrics(depth=1)
    metrics.update_policy({"macs": ops.convert_to_tensor([1e9, 3e9])}, None, 4_607_955_840)
    assert float(metrics.means["macs_share"].result()) == pytest.approx(2e9 / 4_607_955_840, rel=1e-5)
