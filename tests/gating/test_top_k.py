import numpy as np
import pytest
from keras import ops

import keras_adavit as ka
from keras_adavit.gating.top_k import default_blocks, keep_count, patch_scores


def test_counts_of_a_published_model():
    """EViT's own figures for DeiT: 197 tokens, keep rate 0.7 at the 4th, 7th and 10th block."""
    counts = ka.TopKPolicy(tokens=0.7).token_counts(197, 12)
    assert counts == [197] * 3 + [139] * 3 + [98] * 3 + [69] * 3


def test_blocks_may_be_given():
    assert ka.TopKPolicy(tokens=0.5, blocks=(1, 3)).token_counts(17, 5) == [17, 9, 9, 5, 5]
    assert ka.TopKPolicy(tokens=0.5, blocks=[2]) == ka.TopKPolicy(tokens=0.5, blocks=(2,))  # JSON has no tuples
    assert ka.TopKPolicy(tokens=0.001).token_counts(197, 12)[-1] == 2  # a patch goes on
    assert ka.TopKPolicy().token_counts(17, 1) == [17]


def test_default_blocks_are_at_the_quarters():
    assert [default_blocks(depth) for depth in (1, 2, 3, 4, 12)] == [(), (1,), (1, 2), (1, 2, 3), (3, 6, 9)]


def test_a_share_is_rounded_up_but_not_for_rounding_errors():
    assert [keep_count(share, patches) for share, patches in ((0.7, 196), (0.55, 100), (0.1, 3), (1.0, 7))] == [
        138,
        55,
        1,
        7,
    ]


def test_patches_are_ranked_by_the_mean_over_heads():
    attention = np.random.default_rng(0).random((3, 2, 6)).astype("float32")
    scores = ops.convert_to_numpy(patch_scores(ops.convert_to_tensor(attention)))
    np.testing.assert_allclose(scores, attention.mean(axis=1)[:, 1:], rtol=1e-6)
    tokens = ops.zeros((3, 6, 4))
    same, sizes, order = ka.TopKPolicy().reduce(tokens, None, {"class_attention": ops.convert_to_tensor(attention)}, 3)
    assert same is tokens
    assert sizes is None
    for own, found in zip(scores, ops.convert_to_numpy(order), strict=True):
        best = np.argsort(-own) + 1
        assert found.tolist() == [0, *sorted(best[:2]), *sorted(best[2:])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": 0}, "`tokens` must be a number in (0, 1]. Received: tokens=0"),
        ({"tokens": 1.5}, "`tokens` must be a number in (0, 1]. Received: tokens=1.5"),
        ({"blocks": (0, 3)}, "`blocks` must be one or more whole numbers from 1 or None. Received: blocks=(0, 3)"),
        ({"blocks": ()}, "`blocks` must be one or more whole numbers from 1 or None. Received: blocks=()"),
        ({"blocks": 3}, "`blocks` must be one or more whole numbers from 1 or None. Received: blocks=3"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ka.InputError) as error:
        ka.TopKPolicy(**arguments)
    assert str(error.value) == message


def test_blocks_that_a_model_has_not():
    with pytest.raises(ka.InputError, match=r"`blocks` must be below the depth of the model, 3. Received: blocks="):
        ka.TopKPolicy(blocks=(1, 3)).token_counts(17, 3)
