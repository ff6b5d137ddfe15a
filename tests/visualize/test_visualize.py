"""Figures from arrays: what they show, and the files that become of them."""

import xml.etree.ElementTree as ElementTree

import keras
import numpy as np
import pytest
from PIL import Image

import keras_adavit as ka
from keras_adavit import visualize
from keras_adavit.visualize.figure import to_svg
from keras_adavit.visualize.maps import mean_head_usage


@pytest.fixture
def policy():
    rng = np.random.default_rng(0)
    keeps = {"token_keep": (4, 3, 10), "head_keep": (4, 3, 5), "block_keep": (4, 3, 2)}
    found = {name: (rng.random(shape) < 0.6).astype("float32") for name, shape in keeps.items()}
    found["block_keep"][0, 1] = 0  # one image skips block 1
    found["block_keep"][:, 2] = 0  # no image uses block 2
    found["block_keep"][1, 0] = 1
    return found


@pytest.fixture
def pixels():
    return np.random.default_rng(1).random((4, 12, 12, 3)).astype("float32")


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


@pytest.mark.parametrize("columns", [None, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_kept_patches(columns, channels, policy, pixels):
    captions = ["ant", "bee", "cat", "dog,\ntaken for elk"]
    figure = visualize.kept_patches(pixels[..., :channels], policy, [f"MACs {i}" for i in range(4)], captions, columns)
    (axis,) = figure.axes
    assert len(axis.images) == 4 * 4
    said = texts(figure)
    share = policy["token_keep"][1, 0, 1:].mean()
    for part in (*captions, "MACs 3", f"block 0: {share:.0%}", "block 1: none", "skipped"):
        assert part in said
    assert said.count("block 2: none") == 4
    shown = np.asarray(axis.images[3].get_array())  # block 2 of the first image, which is skipped whole
    np.testing.assert_allclose(
        shown, visualize.cover_skipped(np.repeat(pixels[:1, ..., :channels], 3 // channels, -1)[0], np.zeros(9))
    )


def test_only_skipped_patches_are_covered():
    image = np.full((4, 4, 3), 0.5, "float32")
    same = (visualize.cover_skipped(image, np.array([1, 0, 0, 1])) == image).all(axis=-1)
    np.testing.assert_array_equal(same[::2, ::2], [[True, False], [False, True]])


def test_head_usage_is_over_the_images_that_use_the_block(policy):
    found = mean_head_usage(policy["head_keep"], policy["block_keep"])
    assert found.shape == (3, 7)
    active = policy["block_keep"].max(axis=-1) > 0
    np.testing.assert_allclose(found[0, :5], policy["head_keep"][active[:, 0], 0].mean(axis=0))
    assert np.isnan(found[2, :5]).all()
    np.testing.assert_allclose(found[:, 5:], policy["block_keep"].mean(axis=0))
    assert "–" in texts(visualize.head_usage(policy["head_keep"], policy["block_keep"]))


def test_patch_usage_has_a_square_for_each_block(policy):
    figure = visualize.patch_usage(policy["token_keep"], columns=2)
    squares = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert len(squares) == 3
    np.testing.assert_allclose(squares[1], policy["token_keep"][:, 1, 1:].mean(axis=0).reshape(3, 3))


def test_curves():
    figure = visualize.frontier([0.6, 0.3], [0.9, 0.8], labels=["a", "b"], others={"dense": (1.0, 0.95)})
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), [0.3, 0.6])
    assert {"a", "b", "dense", "adaptive"} <= set(texts(figure))
    for shares in ([0.3, 0.4, 0.4, 0.6], [0.5] * 4):
        axis = visualize.macs_histogram(shares, [True, False, True, True]).axes[0]
        assert sum(bar.get_height() for bar in axis.patches) == 4
    assert len(visualize.usage_by_block(*np.full((4, 3), 0.5)).axes[0].lines) == 4


def test_a_tensor_is_as_good_as_an_array(policy, pixels):
    tensors = {name: keras.ops.convert_to_tensor(keep) for name, keep in policy.items()}
    assert len(visualize.kept_patches(keras.ops.convert_to_tensor(pixels), tensors).axes[0].images) == 16
    visualize.patch_usage(tensors["token_keep"])


def test_animation(policy, pixels, tmp_path):
    own = {name: keep[0] for name, keep in policy.items()}
    visualize.save_animation(visualize.animate(pixels[0], own, title="ant", seconds=0.5), tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as found:
        assert (found.n_frames, found.info["duration"]) == (4, 500)


def test_files_of_figures(policy, tmp_path):
    figure = visualize.patch_usage(policy["token_keep"])
    visualize.save(figure, tmp_path / "a.png", dpi=50)
    with Image.open(tmp_path / "a.png") as found:
        assert found.width == round(figure.get_figwidth() * 50)
    assert figure._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ka.InputError, match="cannot be written"):
        visualize.save(figure, tmp_path / "none" / "a.png")


def test_svg_for_a_page(policy):
    found = to_svg(visualize.patch_usage(policy["token_keep"]), "usage", 'Usage of "patches" <by block>')
    root = ElementTree.fromstring(found)
    assert root.attrib.keys() == {"viewBox", "role", "aria-label", "style"}
    assert (root.get("role"), root.get("aria-label")) == ("img", 'Usage of "patches" <by block>')
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(set(ids)) == len(ids)
    assert all(each.startswith("usage-") for each in ids)
    for element in root.iter():
        for name, value in element.attrib.items():
            assert "url(#" not in value or "url(#usage-" in value
            assert name != "href" or value.startswith(("#usage-", "data:"))
    assert "currentColor" in found
    assert "http" not in found
    assert "block 1" in " ".join(root.itertext())


@pytest.mark.parametrize("shape", [(12, 12, 3), (4, 12, 12, 2)])
def test_pixels_of_another_shape(shape, policy):
    with pytest.raises(ka.InputError, match=r"`pixels` must be \(N, S, S, 1\) or \(N, S, S, 3\). Received: shape"):
        visualize.kept_patches(np.zeros(shape), policy)


def test_patches_that_are_no_square():
    with pytest.raises(ka.InputError, match=r"a square of patches. Received: shape \(4, 3, 9\)"):
        visualize.patch_usage(np.zeros((4, 3, 9)))
