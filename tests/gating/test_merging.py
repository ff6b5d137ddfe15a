import numpy as np
import pytest
from keras import ops

import keras_adavit as ka
from keras_adavit.gating import merging

RNG = np.random.default_rng(0)


def reference_match(keys, merged):
    """The paper's five steps for one image (H, K, d): sources, best first, and the targets of each."""
    keys = keys.mean(axis=0)
    keys = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    edges = []
    for source in range(2, len(keys), 2):  # not the class token
        likeness = {target: keys[source] @ keys[target] for target in range(1, len(keys), 2)}
        target = max(likeness, key=likeness.get)
        edges.append((likeness[target], source, target))
    edges.sort(reverse=True)
    return {source: target for _, source, target in edges[:merged]}


@pytest.mark.parametrize(("num_tokens", "merged"), [(9, 3), (10, 4), (17, 8), (3, 1), (9, 1), (9, 0)])
def test_matching_is_that_of_the_paper(num_tokens, merged):
    keys = RNG.normal(size=(4, 2, num_tokens, 5)).astype("float32")
    order, targets = map(ops.convert_to_numpy, merging.match(ops.convert_to_tensor(keys), merged))
    for own, tokens, into in zip(keys, order, targets, strict=True):
        expected = reference_match(own, merged)
        stay, leave = tokens[: num_tokens - merged], tokens[num_tokens - merged :]
        assert sorted(tokens) == list(range(num_tokens))
        assert stay[0] == 0  # the class token
        assert dict(zip(leave.tolist(), into.tolist(), strict=True)) == expected
        assert stay.tolist() == sorted(stay)


def test_merging_keeps_the_weighted_sum_and_the_size():
    tokens = RNG.normal(size=(3, 9, 4)).astype("float32")
    sizes = RNG.integers(1, 5, (3, 9)).astype("float32")
    sources, targets = np.array([[2, 4, 8]] * 3), np.array([[1, 3, 5], [7, 7, 1], [5, 5, 5]])
    found, total = map(
        ops.convert_to_numpy, merging.merge(*map(ops.convert_to_tensor, (tokens, sizes, sources, targets)))
    )
    expected, expected_sizes = tokens.copy(), sizes.copy()
    for image in range(3):
        for target in set(targets[image]):
            group = [target, *sources[image][targets[image] == target]]
            expected[image, target] = np.average(tokens[image, group], axis=0, weights=sizes[image, group])
            expected_sizes[image, target] = sizes[image, group].sum()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(total, expected_sizes)
    stay = np.setdiff1d(np.arange(9), [2, 4, 8])
    np.testing.assert_array_equal(total[:, stay].sum(axis=1), sizes.sum(axis=1))
    np.testing.assert_allclose(
        (found * total[:, :, None])[:, stay].sum(axis=1), (tokens * sizes[:, :, None]).sum(axis=1), rtol=1e-4, atol=1e-5
    )
    untouched = np.array([0, 6])
    np.testing.assert_array_equal(found[:, untouched], tokens[:, untouched])


def test_counts():
    assert ka.MergePolicy(13).token_counts(197, 12) == [197 - 13 * block for block in range(12)]
    assert ka.MergePolicy(8).token_counts(17, 5) == [17, 9, 5, 3, 2]  # of few patches, half
    assert ka.MergePolicy(0).token_counts(17, 3) == [17, 17, 17]
    assert ka.MergePolicy(5).token_counts(17, 1) == [17]


def test_cost_of_the_matching():
    assert ka.MergePolicy(3).macs([17, 14, 11], 4) == 8 * 8 * 4 + 6 * 7 * 4
    assert ka.MergePolicy(0).macs([17, 17, 17], 4) == 0


@pytest.mark.parametrize("merged", [-1, 0.5, True, "8"])
def test_wrong_arguments(merged):
    with pytest.raises(ka.InputError, match=r"`merged` must be a whole number from 0 to 2147483647. Received: merged="):
        ka.MergePolicy(merged)
