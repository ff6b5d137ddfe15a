import keras
import numpy as np
import pytest
from keras import ops

import keras_adavit as ka

SIZES = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 2}


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype("float32")


def arrays(outputs):
    return {name: ops.convert_to_numpy(value) for name, value in outputs.items()}


def open_to_chance(backbone):
    """Gates of a bias of zero and strong kernels, so that decisions differ between images."""
    rng = np.random.default_rng(1)
    for block in backbone.blocks:
        for gate in (block.token_gate, block.head_gate, block.block_gate):
            if gate:
                gate.kernel.assign(rng.normal(size=gate.kernel.shape))
                gate.bias.assign(np.full(gate.bias.shape, 1.0))  # between thresholds of 0.5 and 0.9
    return backbone


def test_outputs_have_the_shapes_of_the_documentation(images):
    outputs = ka.AdaViTBackbone(**SIZES, gates=ka.GateConfig())(images, details=True)
    shapes = {name: tuple(value.shape) for name, value in outputs.items()}
    assert shapes == {
        "tokens": (4, 17, 24),
        "token_keep": (4, 3, 17),
        "head_keep": (4, 3, 3),
        "block_keep": (4, 3, 2),
        "macs": (4,),
        "token_logits": (4, 3, 16),
        "head_logits": (4, 3, 3),
        "block_logits": (4, 3, 2),
        "class_attention": (4, 3, 3, 17),
        "class_tokens": (4, 3, 24),
    }


def test_details_are_those_asked_for(images):
    backbone = ka.AdaViTBackbone(**SIZES, gates=ka.GateConfig())
    plain = set(backbone(images))
    assert set(backbone(images, details=("class_tokens",))) - plain == {"class_tokens"}
    with pytest.raises(ka.InputError, match="`details` must be a bool or names among"):
        backbone(images, details=("hidden",))


def test_evaluation_is_deterministic_and_training_is_not(images):
    backbone = open_to_chance(ka.AdaViTBackbone(**SIZES, gates=ka.GateConfig()))
    one, other = arrays(backbone(images)), arrays(backbone(images))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    one, other = arrays(backbone(images, training=True)), arrays(backbone(images, training=True))
    assert (one["token_keep"] != other["token_keep"]).any()


# Each option of GateConfig with what it must change; "training" draws noise.
OPTIONS = [
    ({"tokens": False}, "token_logits", False),
    ({"heads": None}, "head_logits", False),
    ({"heads": "partial"}, "tokens", False),
    ({"blocks": False}, "block_logits", False),
    ({"gate_mlp_tokens": False}, "tokens", False),
    ({"first_gated_block": 2}, "head_logits", False),
    ({"first_token_gated_block": 1}, "token_logits", False),
    ({"temperature": 0.1}, "token_keep", True),
    ({"token_threshold": 0.9}, "token_keep", False),
    ({"head_threshold": 0.9}, "head_keep", False),
    ({"block_threshold": 0.9}, "block_keep", False),
    ({"normalize_policy_input": True}, "head_logits", False),
    ({"mlp_heads": "hidden"}, "tokens", False),
]
# These change gradients alone (`test_training_pass.py`, `test_attention.py`), this one the weights of new gates.
GRADIENT_OPTIONS = {"mask_after_softmax", "attention_gradient", "key_gradient", "mlp_token_gradient"}
NEW_GATES = {"initial_bias"}
IN_TEST_MANY_BUDGETS = {"token_context", "follow_budget"}


@pytest.mark.parametrize(("option", "output", "training"), OPTIONS, ids=lambda value: str(value))
def test_every_gate_option_changes_something(option, output, training, images):
    found = []
    for gates in (ka.GateConfig(), ka.GateConfig(**option)):
        keras.utils.set_random_seed(3)
        backbone = open_to_chance(ka.AdaViTBackbone(**SIZES, gates=gates))
        found.append(arrays(backbone(images, training=training, details=True))[output])
    assert (found[0] != found[1]).any()


def test_options_are_all_covered():
    fields = set(ka.GateConfig().get_config())
    changing = {name for option, _, _ in OPTIONS for name in option}
    assert changing | GRADIENT_OPTIONS | NEW_GATES | IN_TEST_MANY_BUDGETS == fields


def test_a_first_bias_of_zero_starts_training_with_what_is_published():
    backbone = ka.AdaViTBackbone(**SIZES, gates=ka.GateConfig(initial_bias=0.0))
    many = np.random.default_rng(0).normal(size=(256, 16, 16, 3)).astype("float32")
    keeps = arrays(backbone(many, training=True))
    assert keeps["token_keep"][:, :, 1:].mean() == pytest.approx(0.12, abs=0.02)
    assert keeps["head_keep"][:, 1:].mean() == pytest.approx(0.5, abs=0.06)
    assert keeps["block_keep"][:, 1:].mean() == pytest.approx(0.5, abs=0.06)


def test_temperature_of_a_call_replaces_the_gates_own(images):
    backbone = open_to_chance(ka.AdaViTBackbone(**SIZES, gates=ka.GateConfig()))
    hot = arrays(backbone(images, training=True, temperature=100.0))["token_keep"][:, :, 1:]
    assert hot.mean() < 0.05  # a threshold of 0.6 is hardly ever passed


def test_first_blocks_are_ungated(images):
    gates = ka.GateConfig(first_gated_block=2, first_token_gated_block=1)
    outputs = arrays(open_to_chance(ka.AdaViTBackbone(**SIZES, gates=gates))(images))
    assert (outputs["head_keep"][:, :2] == 1).all()
    assert (outputs["block_keep"][:, :2] == 1).all()
    assert (outputs["token_keep"][:, 0] == 1).all()
    assert (outputs["token_keep"][:, :, 0] == 1).all()  # the class token
    assert (outputs["token_keep"][:, 1:] == 0).any()


ROUND_TRIPS = {
    "dense": None,
    "gated": ka.GateConfig(heads="partial", temperature=2.0),
    "other options": ka.GateConfig(
        mlp_heads="hidden",
        mask_after_softmax=True,
        attention_gradient=True,
        mlp_token_gradient=False,
        initial_bias=-0.5,
    ),
}


@pytest.mark.parametrize("gates", ROUND_TRIPS.values(), ids=ROUND_TRIPS)
def test_config_round_trip(gates, images):
    backbone = ka.AdaViTBackbone(**SIZES, gates=gates, positions="sinusoid", qkv_bias=False, drop_path=0.1)
    copy = ka.AdaViTBackbone.from_config(backbone.get_config())
    copy.set_weights(backbone.get_weights())
    assert copy.get_config() == backbone.get_config()
    np.testing.assert_array_equal(arrays(backbone(images))["tokens"], arrays(copy(images))["tokens"])


def test_sinusoid_positions_are_fixed_and_tell_places_apart():
    backbone = ka.AdaViTBackbone(**SIZES, positions="sinusoid")
    table = ops.convert_to_numpy(backbone.position)[0]
    assert not backbone.position.trainable
    np.testing.assert_allclose(table[0, :2], [0, 1], atol=1e-6)
    np.testing.assert_allclose(table[3, :2], [np.sin(3), np.cos(3)], atol=1e-6)
    assert len(np.unique(table.round(5), axis=0)) == 17


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 5}, "`image_size` must be a multiple of `patch_size`. Received: image_size=16, patch_size=5"),
        ({"num_heads": 5}, "`width` must be a multiple of `num_heads`. Received: width=24, num_heads=5"),
        (
            {"mlp_ratio": 1.25, "num_heads": 4, "gates": ka.GateConfig(mlp_heads="hidden")},
            "Received: mlp_ratio=1.25, a hidden width of 30, num_heads=4",
        ),
        ({"depth": 0}, "`depth` must be 1 or more, a whole number. Received: depth=0"),
        ({"positions": "none"}, "`positions` must be 'learned' or 'sinusoid'. Received: positions='none'"),
        ({"drop_path": 1.0}, "`drop_path` must be in [0, 1). Received: drop_path=1.0"),
        ({"gates": "all"}, "`gates` must be a `GateConfig` or None. Received: gates='all'"),
        (
            {"gates": ka.GateConfig(first_gated_block=3, first_token_gated_block=3)},
            "must leave a block of 3 to gate. Received: 3 and 3",
        ),
        # The usage of heads in no block would be no number.
        ({"depth": 1, "gates": ka.GateConfig()}, "must leave a block of 1 to gate. Received: 1 and 0"),
        ({"gates": ka.GateConfig(first_token_gated_block=3)}, "must leave a block of 3 to gate. Received: 1 and 3"),
    ],
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises(ka.InputError) as error:
        ka.AdaViTBackbone(**{**SIZES, **change})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": "all"}, "`heads` must be one of 'full', 'partial' or None. Received: heads='all'"),
        ({"tokens": False, "heads": None, "blocks": False}, "`GateConfig` must gate at least one of"),
        (
            {"first_gated_block": -1},
            "`first_gated_block` must be a whole number from 0 to 2147483647. Received: first_gated_block=-1",
        ),
        ({"temperature": 0.0}, "`temperature` must be a positive number from 1e-15 to 1e15. Received: temperature=0.0"),
        ({"token_threshold": 1.0}, "`token_threshold` must be a number in (0, 1). Received: token_threshold=1.0"),
        (
            {"heads": "partial", "mlp_heads": "hidden"},
            "`mlp_heads` must be 'input' unless `heads` is 'full'. Received: mlp_heads='hidden', heads='partial'",
        ),
        ({"initial_bias": float("nan")}, "`initial_bias` must be a number from -1e15 to 1e15"),
        ({"mask_after_softmax": 1}, "`mask_after_softmax` must be True or False. Received: mask_after_softmax=1"),
    ],
)
def test_impossible_gates_are_refused(change, message):
    with pytest.raises(ka.InputError) as error:
        ka.GateConfig(**change)
    assert message in str(error.value)
