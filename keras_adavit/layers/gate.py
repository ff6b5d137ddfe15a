"""The gate: one linear layer that decides."""

import keras
from keras import ops

from keras_adavit.gating import sampling
from keras_adavit.gating.config import GateConfig
from keras_adavit.kernels.dispatch import linear

INITIAL_RATE = 0.5413  # softplus of it is 1: from one end of its range to the other the budget moves logits by 2


@keras.saving.register_keras_serializable("keras_adavit")
class Gate(keras.layers.Layer):
    """Decides with one linear layer: keep = 1[σ(logit) > threshold] (paper, section 3.1).

    In training the logit is disturbed by Gumbel noise and divided by the temperature, and the gradient passes straight
    through the sigmoid. It always computes in float32: a decision must not depend on rounding.

    Args:
        units: Decisions an input row: 1 a token, H heads, 2 sub-layers.
        temperature: τ > 0 in training.
        threshold: Initial value, in (0, 1), of the weight `threshold`, which is saved but not trained.
        initial_bias: Bias of a new gate.
        context: Whether a second linear layer reads what all rows of an image share, and is added.
        follow_budget: Whether the gate learns how fast it opens as the budget grows.
    """

    def __init__(
        self,
        units,
        temperature=5.0,
        threshold=0.5,
        initial_bias=GateConfig.initial_bias,
        context=False,
        follow_budget=False,
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.units = units
        self.temperature = temperature
        self.initial_threshold = threshold
        self.initial_bias = initial_bias
        self.context = context
        self.follow_budget = follow_budget
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, input_shape):
        self.kernel = self.add_weight(
            shape=(input_shape[-1], self.units),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            name="kernel",
        )
        self.bias = self.add_weight(
            shape=(self.units,), initializer=keras.initializers.Constant(self.initial_bias), name="bias"
        )
        if self.context:
            # Zero, not random: a new gate begins as one without.
            shape = (input_shape[-1], self.units)
            self.context_kernel = self.add_weight(shape=shape, initializer="zeros", name="context_kernel")
        if self.follow_budget:
            self.budget_rate = self.add_weight(
                shape=(), initializer=keras.initializers.Constant(INITIAL_RATE), name="budget_rate"
            )
        self.threshold = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self.initial_threshold),
            trainable=False,
            name="threshold",
        )

    def call(self, inputs, training=False, temperature=None, context=None, budget_offset=None):
        """Decides.

        Args:
            inputs: Float tensor (..., D).
            training: Whether noise is drawn.
            temperature: Scalar that replaces the layer's own; read in training only.
            context: What the rows of an image share, (..., D), broadcast to them; of a gate that reads it.
            budget_offset: Scalar in [-1, 1], where in its range the budget is; of a gate that follows it.

        Returns:
            Two float32 tensors (..., units): the decisions, exactly 0 or 1, and the logits.
        """
        logits = linear(inputs, self.kernel, self.bias)
        if self.context:
            logits = logits + ops.matmul(context, self.context_kernel)
        if self.follow_budget and budget_offset is not None:
            logits = logits + ops.softplus(self.budget_rate) * budget_offset
        if training:
            noise = sampling.gumbel_noise(ops.shape(logits), self.seed_generator)
            temperature = self.temperature if temperature is None else temperature
            return sampling.gumbel_sigmoid(logits, noise, temperature, self.threshold), logits
        return ops.cast(ops.sigmoid(logits) > self.threshold, logits.dtype), logits

    def without_noise(self, logits):
        """What evaluation decides from these logits, exactly 0 or 1, with the gradient of their sigmoid."""
        return sampling.straight_through(ops.sigmoid(logits), self.threshold)

    def compute_output_shape(self, input_shape):
        shape = (*input_shape[:-1], self.units)
        return shape, shape

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "temperature": self.temperature,
            "threshold": self.initial_threshold,
            "initial_bias": self.initial_bias,
            "context": self.context,
            "follow_budget": self.follow_budget,
        }
