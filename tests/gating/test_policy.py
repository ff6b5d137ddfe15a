import numpy as np
from keras import ops

from keras_adavit.gating import policy


def test_head_usage_counts_blocks_with_a_sublayer_alone():
    head_keep = ops.convert_to_tensor(np.float32([[[1, 1], [0, 0]], [[1, 0], [1, 1]]]))  # (2, 2, 2)
    block_keep = ops.convert_to_tensor(np.float32([[[1, 0], [0, 0]], [[0, 1], [0, 0]]]))
    assert float(policy.head_usage(head_keep, block_keep)) == 0.75
    assert float(policy.head_usage(head_keep, ops.zeros_like(block_keep))) == 0.0


def test_sublayer_usage_is_in_the_order_of_the_names():
    attention, mlp = policy.sublayer_usage(ops.convert_to_tensor(np.float32([[[1, 0], [1, 1]]])))
    assert policy.SUBLAYERS == ("attention", "mlp")
    assert (float(attention), float(mlp)) == (1.0, 0.5)


def test_stack_blocks_puts_depth_second():
    blocks = [{"a": ops.zeros((4, 3)), "b": ops.ones((4, 2))} for _ in range(5)]
    stacked = policy.stack_blocks(blocks)
    assert {key: tensor.shape for key, tensor in stacked.items()} == {"a": (4, 5, 3), "b": (4, 5, 2)}
