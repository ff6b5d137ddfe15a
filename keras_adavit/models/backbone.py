"""The vision transformer: stem, gated blocks, final normalisation."""

import keras
import numpy as np
from keras import ops

from keras_adavit import macs
from keras_adavit.errors import InputError
from keras_adavit.gating.external import given_policy
from keras_adavit.gating.policy import LOGIT_KEYS, POLICY_KEYS, detail_keys, stack_blocks
from keras_adavit.gating.reduction import TokenReduction
from keras_adavit.layers.block import GatedBlock
from keras_adavit.layers.common import LayerNormalization
from keras_adavit.layers.conv_stem import ConvStem
from keras_adavit.layers.patch_dropout import PatchDropout
from keras_adavit.layers.patch_embedding import PatchEmbedding
from keras_adavit.layers.tokens_to_token import TokensToToken
from keras_adavit.models.input_data import check_call
from keras_adavit.models.reduction import run_reduced
from keras_adavit.models.validation import (
    check_bool,
    check_choice,
    check_gates,
    check_integer,
    check_positive,
    check_share,
    check_sizes,
)
from keras_adavit.packed.block import execute_packed
from keras_adavit.packed.blocks import unroll_blocks
from keras_adavit.packed.dispatch import packed as packed_backend


@keras.saving.register_keras_serializable("keras_adavit")
class AdaViTBackbone(keras.Model):
    """Vision transformer in which every block decides, per image, what it uses (Meng et al., CVPR 2022).

    ```python
    backbone = ka.AdaViTBackbone(image_size=64, patch_size=16, width=96, depth=4, num_heads=3, gates=ka.GateConfig())
    outputs = backbone(keras.random.uniform((2, 64, 64, 3)))
    outputs["tokens"]  # (2, 17, 96); also the policy and "macs"
    ```

    Args:
        image_size: Side S of the square images in pixels; a multiple of `patch_size`.
        patch_size: Side of a patch in pixels.
        width: Width D of a token; a multiple of `num_heads`.
        depth: Blocks L.
        num_heads: Attention heads H of a block.
        mlp_ratio: Hidden width of the MLPs over D.
        gates: `GateConfig`; `None` is the dense model.
        channels: Channels of an image.
        positions: `"learned"`, or `"sinusoid"`: fixed, as in the published gated models.
        qkv_bias: Whether query, key and value have biases.
        layer_norm_epsilon: ε of the normalisations.
        drop_path: Largest drop-path probability, in [0, 1), reached linearly at the last block; only for sub-layers
            that no gate decides about.
        patch_dropout: Share of the patches that training leaves out, in [0, 1); only in a dense model.
        stem: `"patch"`; or `"conv"`, a few convolutions in its place, for a patch size that is a power of two from 2
            and a width from 16; or tokens-to-token as in T2T-ViT, with patches of 16 pixels: `"t2t_performer"` or
            `"t2t_transformer"`.
        token_width: Width of the tokens inside a tokens-to-token stem.

    Raises:
        InputError: If an argument is something else, a size does not divide, or the gates fit no block.
    """

    def __init__(
        self,
        image_size=224,
        patch_size=16,
        width=384,
        depth=12,
        num_heads=6,
        mlp_ratio=4.0,
        gates=None,
        channels=3,
        positions="learned",
        qkv_bias=True,
        layer_norm_epsilon=1e-6,
        drop_path=0.0,
        patch_dropout=0.0,
        stem="patch",
        token_width=64,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)  # each layer rounds what it has to
        gates = check_gates(gates)
        self.image_size = image_size = check_integer("image_size", image_size)
        self.patch_size = patch_size = check_integer("patch_size", patch_size)
        self.width = width = check_integer("width", width)
        self.depth = depth = check_integer("depth", depth)
        self.num_heads = num_heads = check_integer("num_heads", num_heads)
        self.mlp_ratio = mlp_ratio = check_positive("mlp_ratio", mlp_ratio)
        self.gates = gates
        self.channels = check_integer("channels", channels)
        check_choice("positions", positions, ("learned", "sinusoid"))
        self.positions = positions
        self.qkv_bias = qkv_bias = check_bool("qkv_bias", qkv_bias)
        self.layer_norm_epsilon = layer_norm_epsilon = check_positive("layer_norm_epsilon", layer_norm_epsilon)
        self.drop_path = drop_path = check_share("drop_path", drop_path)
        self.patch_dropout = patch_dropout = check_share("patch_dropout", patch_dropout)
        if patch_dropout and gates is not None:
            raise InputError(
                f"`patch_dropout` must be 0 in a model with gates, which choose the patches. "
                f"Received: patch_dropout={patch_dropout}"
            )
        self.stem_kind = stem
        self.token_width = token_width = check_integer("token_width", token_width)
        sizes = ("image_size", "patch_size", "width", "depth", "num_heads", "channels", "token_width")
        check_sizes({name: getattr(self, name) for name in sizes}, mlp_ratio, gates, stem)

        self.mlp_dim = int(width * mlp_ratio)
        self.num_tokens = (image_size // patch_size) ** 2 + 1  # tokens T, class token included
        # What a stem gives is not rounded: that would disturb every decision, and its last layer takes few of the MACs.
        if stem == "patch":
            self.stem = PatchEmbedding(patch_size, width, dtype=self.variable_dtype, name="stem")
        elif stem == "conv":
            self.stem = ConvStem(patch_size, width, layer_norm_epsilon, dtype=self.variable_dtype, name="stem")
        else:
            self.stem = TokensToToken(
                stem, token_width, width, layer_norm_epsilon, dtype=self.dtype_policy, name="stem"
            )
        self.drop_patches = PatchDropout(patch_dropout, dtype=self.variable_dtype) if patch_dropout else None
        self.blocks = [
            GatedBlock(
                index,
                width,
                num_heads,
                self.mlp_dim,
                gates,
                qkv_bias,
                layer_norm_epsilon,
                drop_path * index / max(depth - 1, 1),
                dtype=self.dtype_policy,
                name=f"block_{index}",
            )
            for index in range(depth)
        ]
        self.norm = LayerNormalization(epsilon=layer_norm_epsilon, dtype=self.dtype_policy, name="norm")
        self.build((None, image_size, image_size, channels))

    def build(self, input_shape):
        if self.built:
            return
        self.stem.build(input_shape)
        self.class_token = self.add_weight(
            shape=(1, 1, self.width),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            autocast=False,  # tokens stay in the dtype of the weights, see `GatedBlock`
            name="class_token",
        )
        learned = self.positions == "learned"
        self.position = self.add_weight(
            shape=(1, self.num_tokens, self.width),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02) if learned else sinusoid_initializer,
            trainable=learned,
            autocast=False,
            name="position",
        )
        for block in self.blocks:
            block.build((None, self.num_tokens, self.width))
        self.norm.build((None, self.num_tokens, self.width))
        self.built = True

    def __call__(self, images=None, *args, **kwargs):
        """As of Keras, which converts what it is given: what cannot be converted is refused before."""
        check_call(self, images, **kwargs)
        return super().__call__(images, *args, **kwargs)

    def call(
        self,
        images,
        training=False,
        temperature=None,
        details=False,
        policy=None,
        packed=False,
        unroll=False,
        budget_offset=None,
    ):
        """Encodes images.

        Args:
            images: Float tensor (B, S, S, C), channels last, already normalised.
            training: Whether the gates draw noise.
            temperature: Scalar that replaces the gates' own τ in training.
            details: Whether the details below are returned too: all, none, or a tuple of their names.
            policy: Decisions that replace those of the gates: a `RandomPolicy`, an `OpenPolicy`, or a dict of
                `token_keep` (B, L, T), `head_keep` (B, L, H) and `block_keep` (B, L, 2), 1 use and 0 skip, or of
                some of them. The class token, and what is not gated, stays used, whatever is given; logits are then
                zeros. Values are checked where they are known: not those of symbolic tensors and in compiled code.
                A model without gates takes, as any other, a `TopKPolicy` or a `MergePolicy`; under these only what is
                kept is ever computed, packed or not.
            packed: Whether only what is kept is computed, with the same result, where shapes are known well enough;
                neither in training nor with the detail `class_attention`.
            unroll: Whether packed blocks are compiled each by itself; else they share compiled code.
            budget_offset: Scalar in [-1, 1], see `Gate.call`; not packed.

        Returns:
            A dict: `tokens` (B, T, D) normalised, class token first; the policy `token_keep` (B, L, T), `head_keep`
            (B, L, H), `block_keep` (B, L, 2); `macs` (B,) of each image up to here, the gates counted also where
            `policy` replaces them, but for top-k and merging, which do not run them. Details: `token_logits`
            (B, L, T-1), `head_logits` (B, L, H), `block_logits` (B, L, 2); `class_attention` (B, L, H, T) float32, the
            class token's attention; `class_tokens` (B, L, D) in the dtype of the weights, the class token after each
            block.

        Raises:
            InputError: If `images`, `policy` or `details` is something else.
        """
        details = detail_keys(details)
        reduces, given = isinstance(policy, TokenReduction), {}
        if policy is not None and not reduces:
            given = given_policy(policy, self.policy_shapes(ops.shape(images)[0]))
        tokens = self.stem(images, training=training)  # (B, T-1, D)
        tokens = ops.cast(tokens, self.variable_dtype)
        class_token = ops.broadcast_to(self.class_token, (ops.shape(tokens)[0], 1, self.width))
        tokens = ops.concatenate([class_token, tokens], axis=1) + self.position
        if self.drop_patches:
            tokens = self.drop_patches(tokens, training=training)
        if reduces:
            cost = float(self.reduced_macs(policy, tokens.shape[1]))
            tokens, decisions = run_reduced(self.blocks, tokens, policy, details, training)
            cost = ops.full_like(decisions["token_keep"][:, 0, 0], cost)  # (B,)
            return {"tokens": self.norm(tokens), **decisions, "macs": cost}

        def masked_step(block, tokens, given):
            options = {"training": training, "temperature": temperature, "budget_offset": budget_offset}
            attention = ("class_attention",) if "class_attention" in details else ()
            return block(tokens, policy=given, details=attention, **options)

        def packed_step(block, tokens, given):
            decisions, normed = block.decide(tokens, policy=given)
            return execute_packed(block, tokens, decisions, packing, normed), decisions

        def step(block, tokens, given):
            tokens, decisions = (packed_step if packing else masked_step)(block, tokens, given)
            decisions = decisions | {"class_tokens": tokens[:, 0]}
            return tokens, {key: decisions[key] for key in (*POLICY_KEYS, *details)}

        packing = packed_backend.packing(images) if packed else None
        given = [{key: keep[:, index] for key, keep in given.items()} for index in range(self.depth)]
        run_blocks = packing.run_blocks if packing and not unroll else unroll_blocks
        tokens, decisions = run_blocks(self.blocks, step, tokens, given)
        return {"tokens": self.norm(tokens), **decisions, "macs": self.macs(decisions)}

    @property
    def image_shape(self):
        """Shape (S, S, C) of an image."""
        return self.image_size, self.image_size, self.channels

    def policy_shapes(self, batch):
        """Shapes of the policy of `batch` images, a dict."""
        return {
            "token_keep": (batch, self.depth, self.num_tokens),
            "head_keep": (batch, self.depth, self.num_heads),
            "block_keep": (batch, self.depth, 2),
        }

    def policy_without_noise(self, outputs):
        """The policy that evaluation would take from the logits of `outputs`, a dict as `call` returns it; with a
        gradient."""
        decisions = [
            block.decide_without_noise({key: outputs[key][:, index] for key in LOGIT_KEYS})
            for index, block in enumerate(self.blocks)
        ]
        return stack_blocks(decisions)

    def macs(self, policy):
        """MACs of each image under a policy: stem, gates and blocks, without the final normalisation.

        Args:
            policy: Dict of `token_keep` (B, L, T), `head_keep` (B, L, H), `block_keep` (B, L, 2); or a `TopKPolicy` or
                a `MergePolicy`, which cost the same of every image.

        Returns:
            Float32 tensor (B,), differentiable in the policy; or an int.
        """
        if isinstance(policy, TokenReduction):
            return self.reduced_macs(policy, self.num_tokens)
        gates = self.gates
        gated = {"heads": None, "gate_mlp_tokens": False}
        if gates is not None:
            gated = {name: getattr(gates, name) for name in ("heads", "gate_mlp_tokens", "mlp_heads")}
        blocks = macs.block_macs(
            policy,
            width=self.width,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            **gated,
        )
        return ops.sum(blocks, axis=-1) + float(self.fixed_macs)

    def reduced_macs(self, policy, num_tokens):
        """MACs under a `TokenReduction` of images that start with `num_tokens` tokens, gates left out: an int."""
        sizes = {"width": self.width, "num_heads": self.num_heads, "mlp_dim": self.mlp_dim}
        counts = policy.token_counts(num_tokens, self.depth)
        blocks = sum(macs.dense_blocks_macs(count, depth=1, **sizes) for count in counts)
        return self.stem_macs + blocks + policy.macs(counts, self.width // self.num_heads)

    @property
    def fixed_macs(self):
        """MACs that every image costs whatever the gates decide, normalisations of blocks left out: an int."""
        return self.stem_macs + sum(
            macs.gate_macs(
                self.num_tokens,
                width=self.width,
                num_heads=self.num_heads,
                tokens=block.token_gate,
                heads=block.head_gate,
                blocks=block.block_gate,
                context=block.token_gate and block.token_gate.context,
            )
            for block in self.blocks
        )

    @property
    def stem_macs(self):
        """MACs of the stem: an int."""
        return macs.stem_macs(
            self.stem_kind,
            image_size=self.image_size,
            patch_size=self.patch_size,
            channels=self.channels,
            width=self.width,
            token_width=self.token_width,
        )

    @property
    def dense_macs(self):
        """MACs of the dense model of the same size, without the final normalisation: an int."""
        return self.stem_macs + macs.dense_blocks_macs(
            self.num_tokens, width=self.width, depth=self.depth, num_heads=self.num_heads, mlp_dim=self.mlp_dim
        )

    def compute_output_shape(self, input_shape, **kwargs):
        batch = input_shape[0]
        return {
            "tokens": (batch, self.num_tokens, self.width),
            **self.policy_shapes(batch),
            "macs": (batch,),
        }

    def get_config(self):
        return {
            **super().get_config(),
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "width": self.width,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "gates": self.gates.get_config() if self.gates else None,
            "channels": self.channels,
            "positions": self.positions,
            "qkv_bias": self.qkv_bias,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "drop_path": self.drop_path,
            "patch_dropout": self.patch_dropout,
            "stem": self.stem_kind,
            "token_width": self.token_width,
        }


def sinusoid_initializer(shape, dtype=None):
    """Fixed positions of "Attention Is All You Need": sine on even, cosine on odd channels, (1, T, D)."""
    _, num_tokens, width = shape
    rate = 10000.0 ** (-2 * (np.arange(width) // 2) / width)
    angle = np.arange(num_tokens)[:, None] * rate
    table = np.where(np.arange(width) % 2 == 0, np.sin(angle), np.cos(angle))
    return ops.convert_to_tensor(table[None], dtype=dtype)
