"""One transformer block whose gates decide, per image, what of it is used."""

import keras
from keras import ops

from keras_adavit.gating.config import GateConfig
from keras_adavit.gating.policy import LOGIT_KEYS, POLICY_KEYS
from keras_adavit.kernels.dispatch import gradient_barrier
from keras_adavit.layers.attention import GatedAttention
from keras_adavit.layers.common import LayerNormalization
from keras_adavit.layers.dropout import Dropout
from keras_adavit.layers.gate import Gate
from keras_adavit.layers.mlp import GatedMLP


@keras.saving.register_keras_serializable("keras_adavit")
class GatedBlock(keras.layers.Layer):
    """Pre-norm transformer block with token, head and sub-layer gates (paper, section 3.1).

    In mixed precision its tokens stay in the dtype of the weights, float32, as torch's autocast keeps them: branches
    are rounded, their sum is not, so that rounding seldom turns a decision.

    Args:
        index: Number of the block, which decides with `gates` what is gated in it.
        width: Width D.
        num_heads: Heads H.
        mlp_dim: Width of the MLP's hidden layer.
        gates: `GateConfig`, or `None` for a dense block.
        qkv_bias: Whether query, key and value have biases.
        layer_norm_epsilon: ε of the normalisations.
        drop_path: Probability in [0, 1) with which an image skips a residual branch in training. A branch that the
            block gate decides about has none: the gate's noise does that work.
    """

    def __init__(
        self,
        index,
        width,
        num_heads,
        mlp_dim,
        gates=None,
        qkv_bias=True,
        layer_norm_epsilon=1e-6,
        drop_path=0.0,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.index = index
        self.width = width
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.gates = GateConfig(**gates) if isinstance(gates, dict) else gates
        self.qkv_bias = qkv_bias
        self.layer_norm_epsilon = layer_norm_epsilon
        self.drop_path = drop_path

        def norm(name, gated=False):
            # What a gate reads is not rounded either.
            dtype = self.variable_dtype if gated else self.dtype_policy
            return LayerNormalization(epsilon=layer_norm_epsilon, dtype=dtype, name=name)

        def gate(enabled, units, kind):
            if not enabled:
                return None
            threshold = getattr(gates, f"{kind}_threshold")
            context = kind == "token" and gates.token_context
            options = {"context": context, "follow_budget": gates.follow_budget, "name": f"{kind}_gate"}
            return Gate(units, gates.temperature, threshold, gates.initial_bias, **options)

        gates = self.gates
        self.token_gate = gate(gates and gates.gates_tokens(index), 1, "token")
        self.head_gate = gate(gates and gates.gates_heads(index), num_heads, "head")
        self.block_gate = gate(gates and gates.gates_sublayers(index), 2, "block")
        reads_class_token = self.head_gate or self.block_gate
        self.policy_norm = (
            norm("policy_norm", gated=True) if reads_class_token and gates.normalize_policy_input else None
        )
        self.norm1 = norm("norm1", gated=self.token_gate is not None)
        self.norm2 = norm("norm2")
        partial_heads = self.head_gate is not None and gates.heads == "partial"
        masking = (gates.mask_after_softmax, gates.attention_gradient, gates.key_gradient) if gates else ()
        self.attention = GatedAttention(
            width, num_heads, qkv_bias, partial_heads, *masking, dtype=self.dtype_policy, name="attention"
        )
        head_channels = gates.mlp_heads if gates else "input"
        self.mlp = GatedMLP(width, mlp_dim, num_heads, head_channels, dtype=self.dtype_policy, name="mlp")
        rate = 0.0 if self.block_gate else drop_path
        self.drop = Dropout(rate, whole_images=True, dtype=self.dtype_policy, name="drop_path")

    def build(self, input_shape):
        batch, num_tokens, width = input_shape
        for layer in (self.norm1, self.norm2, self.attention, self.mlp, self.drop):
            layer.build(input_shape)
        if self.token_gate:
            self.token_gate.build((batch, num_tokens - 1, width))
        for layer in (self.policy_norm, self.head_gate, self.block_gate):
            if layer:
                layer.build((batch, width))

    def call(self, inputs, training=False, temperature=None, policy=None, details=(), budget_offset=None):
        """Decides, then computes masked.

        Args:
            inputs: Tensor (B, T, D), class token first.
            training: Whether the gates draw noise, and branches are dropped.
            temperature: Scalar that replaces the gates' own τ in training.
            policy: Decisions that replace those of the gates: a dict of `token_keep` (B, T), `head_keep` (B, H) and
                `block_keep` (B, 2), or of some of them. What is not gated stays used.
            details: Names of what of its attention is returned too, see `GatedAttention.call`.
            budget_offset: Scalar in [-1, 1], see `Gate.call`.

        Returns:
            The block's output (B, T, D) in the dtype of the weights, and the dict of `decide` with the details.
        """
        decisions, normed = self.decide(inputs, training, temperature, policy, budget_offset)
        outputs, found = self.execute(inputs, decisions, normed, training, details)
        return outputs, decisions | found

    def decide(self, inputs, training=False, temperature=None, policy=None, budget_offset=None):
        """Decides what the block uses. Arguments are those of `call`.

        Returns:
            A dict of `token_keep` (B, T), `head_keep` (B, H), `block_keep` (B, 2), and of their logits `token_logits`
            (B, T-1), `head_logits`, `block_logits`, zeros where no gate decided; and `inputs` after the first
            normalisation (B, T, D), which the token gate reads, or `None` without one.
        """
        inputs, given = ops.cast(inputs, self.variable_dtype), policy or {}
        sampling = {"training": training, "temperature": temperature, "budget_offset": budget_offset}
        batch, num_tokens = ops.shape(inputs)[0], inputs.shape[1]
        ones = ops.ones((batch, 1), dtype="float32")

        class_token = inputs[:, 0]
        if self.policy_norm:
            class_token = self.policy_norm(class_token)
        block_keep, block_logits = run_gate(self.block_gate, class_token, ones, 2, sampling, given.get("block_keep"))
        head_keep, head_logits = run_gate(
            self.head_gate, class_token, ones, self.num_heads, sampling, given.get("head_keep")
        )
        normed = self.norm1(inputs) if self.token_gate else None
        # The class token is never gated. In training it draws no noise; else leaving it out later saves a copy.
        first = 1 if training else 0
        patches = normed[:, first:] if first and self.token_gate else normed
        given_tokens = given["token_keep"][:, first:] if "token_keep" in given else None
        if self.token_gate and self.token_gate.context:
            sampling |= {"context": normed[:, :1]}
        patch_keep, token_logits = (
            tensor[:, 1 - first :]
            for tensor in run_gate(self.token_gate, patches, ones, num_tokens - first, sampling, given_tokens)
        )
        return {
            "token_keep": ops.pad(patch_keep, ((0, 0), (1, 0)), constant_values=1.0),  # (B, T)
            "head_keep": head_keep,
            "block_keep": block_keep,
            "token_logits": token_logits,
            "head_logits": head_logits,
            "block_logits": block_logits,
        }, normed

    def decide_without_noise(self, logits):
        """What evaluation decides from these logits, with a gradient.

        Args:
            logits: Dict of `token_logits` (B, T-1), `head_logits` (B, H), `block_logits` (B, 2).

        Returns:
            A dict of `token_keep` (B, T), `head_keep` (B, H), `block_keep` (B, 2), exactly 0 or 1.
        """
        token, head, block = (
            gate.without_noise(logits[key]) if gate else ops.ones_like(logits[key])
            for key, gate in zip(LOGIT_KEYS, (self.token_gate, self.head_gate, self.block_gate), strict=True)
        )
        token = ops.pad(token, ((0, 0), (1, 0)), constant_values=1.0)
        return dict(zip(POLICY_KEYS, (token, head, block), strict=True))

    def execute(self, inputs, decisions=None, normed=None, training=False, details=(), token_size=None):
        """Computes everything and multiplies away what the decisions skip.

        Args:
            inputs, training, details: As of `call`.
            decisions: Dict of `token_keep` (B, T), `head_keep` (B, H), `block_keep` (B, 2); `None`: all is used.
            normed: `inputs` after the first normalisation, if it is known.
            token_size: Tensor (B, T), see `GatedAttention.call`; only where all is used.

        Returns:
            The block's output (B, T, D), and a dict of the details.
        """
        inputs = gradient_barrier(ops.cast(inputs, self.variable_dtype))
        decided = decisions is not None
        token_keep, head_keep, block_keep = (decisions[key] if decided else None for key in POLICY_KEYS)
        attended = self.attention(
            self.norm1(inputs) if normed is None else normed,
            token_keep if self.token_gate else None,
            head_keep if self.head_gate else None,
            training=training,
            details=details,
            token_size=token_size,
        )
        attended, found = attended if details else (attended, {})
        if decided:
            attended = self._keep(attended, token_keep, block_keep[:, 0])
        outputs = gradient_barrier(inputs + ops.cast(self.drop(attended, training=training), inputs.dtype))
        has_full_heads = decided and self.head_gate is not None and self.gates.heads == "full"
        transformed = self.mlp(self.norm2(outputs), head_keep[:, None, :, None] if has_full_heads else None)
        if decided:
            if self.gates is None or not self.gates.gate_mlp_tokens:
                token_keep = 1.0
            elif not self.gates.mlp_token_gradient:
                token_keep = ops.stop_gradient(token_keep)
            transformed = self._keep(transformed, token_keep, block_keep[:, 1])
        return outputs + ops.cast(self.drop(transformed, training=training), inputs.dtype), found

    def _keep(self, branch, token_keep, sublayer_keep):
        """Multiplies the skipped part of a residual branch (B, T, D) away; nothing to do in an ungated block."""
        if not (self.token_gate or self.block_gate):
            return branch
        keep = token_keep * sublayer_keep[:, None]  # (B, T)
        return branch * ops.cast(keep, branch.dtype)[..., None]

    @property
    def gate_weights(self):
        """Trainable weights of the gates, and of the normalisation that only gates read."""
        layers = (self.policy_norm, self.token_gate, self.head_gate, self.block_gate)
        return [weight for layer in layers if layer for weight in layer.trainable_weights]

    def compute_output_shape(self, input_shape):
        batch, num_tokens, _ = input_shape
        shapes = {"token": (batch, num_tokens), "head": (batch, self.num_heads), "block": (batch, 2)}
        decisions = {f"{kind}_keep": shape for kind, shape in shapes.items()}
        return input_shape, decisions | {
            "token_logits": (batch, num_tokens - 1),
            "head_logits": shapes["head"],
            "block_logits": shapes["block"],
        }

    def get_config(self):
        return {
            **super().get_config(),
            "index": self.index,
            "width": self.width,
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "gates": self.gates.get_config() if self.gates else None,
            "qkv_bias": self.qkv_bias,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "drop_path": self.drop_path,
        }


def run_gate(gate, inputs, ones, units, sampling, given=None):
    """A gate's decisions and logits, (B, units) each; ones and zeros without a gate, `given` and zeros with it."""
    if gate is None or given is not None:
        # Keras casts a layer's float inputs to its compute dtype; a decision is float32.
        keep = ops.tile(ones, (1, units)) if gate is None else ops.cast(given, "float32")
        return keep, ops.zeros_like(keep)
    keep, logits = gate(inputs, **sampling)
    return ops.reshape(keep, (-1, units)), ops.reshape(logits, (-1, units))
