import numpy as np
import pytest

from keras_adavit.weights.positions import bicubic_weights, can_resize, resize_positions


@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14), (14, 7), (4, 6), (1, 5), (2, 3), (5, 1), (3, 50)])
def test_as_torch_interpolates(old, new):
    torch = pytest.importorskip("torch")
    positions = np.random.default_rng(0).normal(size=(1, old**2 + 1, 6)).astype("float32")
    found = resize_positions(positions, new**2 + 1)
    assert (found.shape, found.dtype) == ((1, new**2 + 1, 6), positions.dtype)
    np.testing.assert_array_equal(found[:, 0], positions[:, 0])
    grid = torch.from_numpy(positions[:, 1:].reshape(1, old, old, 6)).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    np.testing.assert_allclose(found[0, 1:].reshape(new, new, 6), expected[0].permute(1, 2, 0).numpy(), atol=1e-5)


def test_weights():
    """Golden numbers of the kernel with a = −0.75, halfway between points and at the edge."""
    np.testing.assert_allclose(bicubic_weights(6, 3)[1], [0, -0.09375, 0.59375, 0.59375, -0.09375, 0])
    np.testing.assert_allclose(bicubic_weights(3, 3), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(bicubic_weights(7, 12).sum(axis=1), 1)


@pytest.mark.parametrize(
    ("source", "target", "possible"),
    [
        ((1, 5, 8), (1, 10, 8), True),
        ((1, 5, 8), (1, 5, 8), False),
        ((1, 5, 8), (1, 10, 9), False),
        ((1, 6, 8), (1, 10, 8), False),
        ((5, 8), (1, 10, 8), False),
    ],
)
def test_what_can_be_resized(source, target, possible):
    assert can_resize(source, target) == possible
