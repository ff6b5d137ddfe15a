import keras
import numpy as np
import pytest
from gated import both
from harness import check_layer
from keras import ops
from refusals import assert_untouched

import keras_adavit as ka
from keras_adavit import macs
from keras_adavit.layers.conv_stem import ConvStem
from keras_adavit.models.saved import load_model
from keras_adavit.models.start import load_weights
from keras_adavit.training.optimizers import layer_factors, scale_of
from keras_adavit.weights.transfer import initialize_from, weights_by_path

SIZES = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 2.0, "stem": "conv"}
GATES = ka.GateConfig(initial_bias=0.3)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def make_model(gates=GATES, **sizes):
    return ka.AdaViTClassifier(ka.AdaViTBackbone(**SIZES | sizes, gates=gates), num_classes=3)


@pytest.mark.parametrize(("patch_size", "convolutions"), [(2, 1), (8, 3)])
def test_it_does_what_every_layer_must(patch_size, convolutions):
    tokens = (16 // patch_size) ** 2
    check_layer(ConvStem(patch_size, 24), normal(2, 16, 16, 3), (2, tokens, 24), weights=4 * convolutions + 2)


@pytest.mark.parametrize(
    ("patch_size", "width", "widths"),
    [(4, 192, [96, 192]), (16, 384, [48, 96, 192, 384]), (8, 40, [16, 20, 40]), (2, 16, [16])],
)
def test_widths_double_and_are_16_or_more(patch_size, width, widths):
    assert macs.conv_stem_widths(patch_size, width) == widths
    assert ConvStem(patch_size, width).widths == widths


def reference(images, weights):
    """The stem, position by position: each convolution pads one row and column behind the last."""
    grid = images
    *layers, kernel, bias = weights
    for convolution, offset, gamma, beta in zip(*(layers[part::4] for part in range(4)), strict=True):
        padded = np.pad(grid, ((0, 0), (0, 1), (0, 1), (0, 0)))
        side = grid.shape[1] // 2
        grid = np.empty((len(grid), side, side, len(offset)))
        for row, column in np.ndindex(side, side):
            window = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            grid[:, row, column] = np.tensordot(window, convolution, 3) + offset
        grid = (grid - grid.mean(axis=-1, keepdims=True)) / np.sqrt(grid.var(axis=-1, keepdims=True) + 1e-6)
        grid = np.maximum(grid * gamma + beta, 0)
    return grid.reshape(len(grid), -1, grid.shape[-1]) @ kernel + bias


def test_it_is_the_same_on_every_backend():
    stem, images = ConvStem(4, 24), normal(2, 8, 8, 3)
    stem.build(images.shape)
    rng = np.random.default_rng(1)
    for variable in stem.weights:
        variable.assign(rng.normal(size=variable.shape))
    by_layer = [
        weight for pair in zip(stem.convolutions, stem.norms, strict=True) for each in pair for weight in each.weights
    ]
    weights = [ops.convert_to_numpy(weight) for weight in [*by_layer, *stem.projection.weights]]
    np.testing.assert_allclose(ops.convert_to_numpy(stem(images)), reference(images, weights), rtol=1e-3, atol=1e-3)


def test_an_image_does_not_depend_on_its_batch():
    stem, images = ConvStem(4, 24), normal(3, 8, 8, 3)
    together, alone = (ops.convert_to_numpy(stem(batch)) for batch in (images, images[:1]))
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)


def test_macs_are_those_of_a_count():
    first = 8 * 8 * (3 * 3 * 3 * 16 + 5 * 16)
    second = 4 * 4 * (3 * 3 * 16 * 24 + 5 * 24)
    last = 4 * 4 * 24 * 24
    assert make_model().backbone.stem_macs == macs.conv_stem_macs(16, 4, 3, 24) == first + second + last
    outputs = make_model(gates=None)(normal(2, 16, 16, 3))
    np.testing.assert_allclose(ops.convert_to_numpy(outputs["macs"]), make_model().dense_macs, rtol=1e-6)


def test_a_step_of_training_changes_every_weight():
    model = make_model()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), budget=ka.BudgetLoss())
    stem = model.backbone.stem
    before = [ops.convert_to_numpy(variable) for variable in stem.weights]
    model.fit(normal(8, 16, 16, 3), np.arange(8) % 3, verbose=0)
    for variable, value in zip(stem.weights, before, strict=True):
        assert (ops.convert_to_numpy(variable) != value).any(), variable.path


def test_tokens_are_not_rounded_in_mixed_precision():
    stem = ka.AdaViTBackbone(**SIZES, dtype="mixed_bfloat16").stem
    assert keras.backend.standardize_dtype(stem(normal(1, 16, 16, 3)).dtype) == "float32"


def test_packed_is_masked():
    run = lambda model, images: model(images, policy=ka.RandomPolicy(0.5, 0.5, 0.5, seed=1))  # noqa: E731
    masked, packed = both(make_model(), normal(5, 16, 16, 3), run)
    for name, value in masked.items():
        np.testing.assert_allclose(packed[name], value, rtol=1e-4, atol=1e-5)


def test_models_are_saved_and_their_weights_go_into_gated_ones(tmp_path):
    dense, model, images = make_model(gates=None), make_model(), normal(2, 16, 16, 3)
    dense.save(tmp_path / "dense.keras")
    loaded = load_model(tmp_path / "dense.keras")
    expected = ops.convert_to_numpy(dense(images)["logits"])
    np.testing.assert_allclose(ops.convert_to_numpy(loaded(images)["logits"]), expected, rtol=1e-5, atol=1e-6)
    assert loaded.get_config() == dense.get_config()
    assert all("_gate/" in path for path in initialize_from(model, dense))
    opened = model(images, policy=ka.OpenPolicy())["logits"]
    np.testing.assert_allclose(ops.convert_to_numpy(opened), expected, rtol=1e-3, atol=1e-4)
    other = make_model(gates=None, image_size=32)
    assert load_weights(other, tmp_path / "dense.keras").notes == ["positions interpolated from 4×4 to 8×8"]


def test_all_of_it_learns_at_the_rate_of_the_stem():
    factors = layer_factors(0.5, 2)
    paths = [path for path in weights_by_path(make_model()) if path.startswith("stem/")]
    assert len(paths) == 10
    assert {scale_of(path, factors) for path in paths} == {0.5**3}


def test_files_of_published_models_have_no_such_stem(fixtures):
    model = make_model()
    with assert_untouched(model), pytest.raises(ka.InputError, match="`model` must have the stem of a published model"):
        ka.load_torch_checkpoint(model, fixtures / "deit_micro_dense.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 24, "patch_size": 6}, "`patch_size` must be a power of two from 2 with a convolutional stem"),
        (
            {"patch_size": 1},
            "`patch_size` must be a power of two from 2 with a convolutional stem. Received: patch_size=1",
        ),
        ({"width": 15}, "`width` must be 16 or more with a convolutional stem. Received: width=15"),
        ({"patch_size": 0}, "`patch_size` must be 1 or more"),
    ],
)
def test_sizes_that_it_has_not(change, message):
    with pytest.raises(ka.InputError) as error:
        ka.AdaViTBackbone(**SIZES | change)
    assert message in str(error.value)
