"""Which sizes make a backbone."""

from keras_adavit.errors import InputError
from keras_adavit.gating.config import GateConfig
from keras_adavit.layers.tokens_to_token import TOKEN_LAYERS, TOTAL_STRIDE


def check_sizes(sizes, gates, positions, drop_path, patch_dropout, stem):
    """Raises `InputError` for a backbone that cannot be built."""
    for name, value in sizes.items():
        if value <= 0:
            raise InputError(f"`{name}` must be positive. Received: {name}={value}")
    for size, divisor in (("image_size", "patch_size"), ("width", "num_heads")):
        if sizes[size] % sizes[divisor]:
            raise InputError(
                f"`{size}` must be a multiple of `{divisor}`. "
                f"Received: {size}={sizes[size]}, {divisor}={sizes[divisor]}"
            )
    if stem != "patch" and stem not in TOKEN_LAYERS:
        names = ", ".join(repr(name) for name in ("patch", *TOKEN_LAYERS))
        raise InputError(f"`stem` must be one of {names}. Received: stem={stem!r}")
    if stem != "patch" and sizes["patch_size"] != TOTAL_STRIDE:
        raise InputError(
            f"`patch_size` must be {TOTAL_STRIDE} with a tokens-to-token stem. "
            f"Received: patch_size={sizes['patch_size']}"
        )
    if positions not in ("learned", "sinusoid"):
        raise InputError(f"`positions` must be 'learned' or 'sinusoid'. Received: positions={positions!r}")
    if not 0 <= drop_path < 1:
        raise InputError(f"`drop_path` must be in [0, 1). Received: drop_path={drop_path}")
    if not 0 <= patch_dropout < 1:
        raise InputError(f"`patch_dropout` must be in [0, 1). Received: patch_dropout={patch_dropout}")
    if patch_dropout and gates is not None:
        raise InputError(
            f"`patch_dropout` must be 0 in a model with gates, which choose the patches. "
            f"Received: patch_dropout={patch_dropout}"
        )
    if gates is not None and not isinstance(gates, GateConfig):
        raise InputError(f"`gates` must be a `GateConfig` or None. Received: gates={gates!r}")
    if gates and not any(
        gates.gates_tokens(block) or gates.gates_heads(block) or gates.gates_sublayers(block)
        for block in range(sizes["depth"])
    ):
        raise InputError(
            f"`first_gated_block` and `first_token_gated_block` must leave a block of {sizes['depth']} to gate."
            f" Received: {gates.first_gated_block} and {gates.first_token_gated_block}"
        )
