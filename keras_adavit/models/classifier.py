"""The classifier: a backbone, a linear head, and training to a budget with `fit`."""

import keras
from keras import ops

from keras_adavit import macs
from keras_adavit.convert import load_torch_checkpoint
from keras_adavit.convert.download import download
from keras_adavit.errors import InputError
from keras_adavit.models.backbone import AdaViTBackbone
from keras_adavit.models.presets import GATES, PRESETS, check_weights, find_preset
from keras_adavit.training import schedules
from keras_adavit.training.budget import BudgetLoss
from keras_adavit.training.metrics import PolicyMetrics
from keras_adavit.training.optimizers import portable_config


@keras.saving.register_keras_serializable("keras_adavit")
class AdaViTClassifier(keras.Model):
    """Image classifier over an `AdaViTBackbone`, trained to a compute budget with `fit`.

    ```python
    model = AdaViTClassifier(AdaViTBackbone(image_size=64, gates=GateConfig()), num_classes=10)
    model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True), budget=BudgetLoss())
    model.fit(images, labels)
    ```

    Args:
        backbone: An `AdaViTBackbone`.
        num_classes: Classes K.

    Raises:
        InputError: If `backbone` or `num_classes` is something else.
    """

    presets = PRESETS

    def __init__(self, backbone, num_classes, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(backbone, AdaViTBackbone):
            raise InputError(f"`backbone` must be an `AdaViTBackbone`. Received: backbone={backbone!r}")
        if num_classes < 1:
            raise InputError(f"`num_classes` must be 1 or more. Received: num_classes={num_classes}")
        self.backbone = backbone
        self.num_classes = num_classes
        # Logits in float32 under mixed precision: the softmax of the loss needs it.
        self.head = keras.layers.Dense(num_classes, dtype="float32", name="head")
        self.policy_metrics = PolicyMetrics()
        self.budget = None
        self.temperature = None
        self.build((None, backbone.image_size, backbone.image_size, backbone.channels))

    @classmethod
    def from_preset(cls, name, num_classes=1000, image_size=224, gates=GATES, weights=None):
        """Builds a published model.

        Args:
            name: One of `AdaViTClassifier.presets`.
            num_classes: Classes K.
            image_size: Side of the square images in pixels, a multiple of 16.
            gates: `GateConfig`; `None` is the plain DeiT or T2T-ViT.
            weights: `"imagenet"` fetches the published weights of the dense model; positions of another image size are
                interpolated, the classifier of another number of classes stays new. `None`: random weights.

        Raises:
            InputError: If there is no such preset, or no published weights of it.
        """
        preset = find_preset(name)
        check_weights(weights, gates is not None)
        arguments = preset.backbone_arguments(gated=gates is not None)
        model = cls(AdaViTBackbone(image_size=image_size, gates=gates, **arguments), num_classes)
        if weights:
            load_torch_checkpoint(model, download(preset.file))
        return model

    def build(self, input_shape):
        if self.built:
            return
        self.head.build((None, self.backbone.width))
        # Counts training steps for the schedules of temperature and budget, so that they go on in a loaded model.
        self.step = self.add_weight(
            shape=(),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
            name="step",
        )
        self.built = True

    def call(self, images, training=False, details=None):
        """Classifies.

        Args:
            images: Float tensor (B, S, S, C), channels last, already normalised.
            training: If the gates draw noise.
            details: If the gates' logits are returned too; by default in training, where the budget loss reads them.

        Returns:
            A dict: `logits` (B, K) float32; the policy `token_keep` (B, L, T), `head_keep` (B, L, H) and `block_keep`
            (B, L, 2), 1 use and 0 skip; `macs` (B,), the multiply-accumulates of each image. With `details` also
            `token_logits` (B, L, T-1), `head_logits` (B, L, H) and `block_logits` (B, L, 2).
        """
        temperature = None
        if training:
            if self.temperature is not None:
                temperature = schedules.value_at(self.temperature, self.step)
            self.step.assign(self.step + 1)
        details = training if details is None else details
        outputs = self.backbone(images, training=training, temperature=temperature, details=details)
        tokens = outputs.pop("tokens")
        return {
            "logits": self.head(tokens[:, 0]),
            **outputs,
            "macs": outputs["macs"] + float(self._classifier_macs),
        }

    def compile(self, optimizer="rmsprop", loss=None, metrics=None, budget=None, temperature=None, **kwargs):
        """Configures training.

        Args:
            optimizer, loss, metrics: As of `keras.Model.compile`; loss and metrics compare labels with the logits.
            budget: A `BudgetLoss` added to the loss; `None` trains the task alone.
            temperature: Number or Keras learning-rate schedule that replaces the gates' τ in training.
            **kwargs: More arguments of `keras.Model.compile`.

        Raises:
            InputError: If the model has no gate that the budget or the temperature speaks of.
        """
        if budget is not None:
            if not isinstance(budget, BudgetLoss):
                raise InputError(f"`budget` must be a `BudgetLoss` or None. Received: budget={budget!r}")
            budget.check_model(self.backbone, self.dense_macs)
        if temperature is not None and self.backbone.gates is None:
            raise InputError(f"`temperature` needs a model with gates. Received: temperature={temperature!r}")
        if isinstance(temperature, (int, float)) and temperature <= 0:
            raise InputError(f"`temperature` must be positive. Received: temperature={temperature}")
        self.budget = budget
        self.temperature = temperature
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Task loss plus weighted budget terms; every backend's train step calls it."""
        task = super().compute_loss(x, y, y_pred["logits"], sample_weight, training)
        terms = {}
        if self.budget is not None:
            terms = self.budget(y_pred, self.backbone.gates, float(self.dense_macs), self.step)
        self.policy_metrics.update_losses(task, terms, ops.shape(y_pred["logits"])[0])
        return task + self.budget.total(terms) if terms else task

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """The user's metrics of the logits, the loss terms, usage and MACs."""
        self.policy_metrics.update_policy(y_pred, self.backbone.gates, self.dense_macs)
        return super().compute_metrics(x, y, y_pred["logits"], sample_weight)

    def get_metrics_result(self):
        unused = self.policy_metrics.unused_names(self.backbone.gates, self.budget)
        return {name: value for name, value in super().get_metrics_result().items() if name not in unused}

    def macs(self, policy):
        """MACs of each image under a policy, classifier included: float32 tensor (B,)."""
        return self.backbone.macs(policy) + float(self._classifier_macs)

    @property
    def _classifier_macs(self):
        return macs.classifier_macs(self.backbone.length, self.backbone.width, self.num_classes)

    @property
    def dense_macs(self):
        """MACs of one image in the dense model of the same size: an int."""
        return self.backbone.dense_macs + self._classifier_macs

    def get_compile_config(self):
        config = super().get_compile_config()
        if config:  # empty for a model that was never compiled
            config = portable_config(config)
            config["budget"] = keras.saving.serialize_keras_object(self.budget)
            config["temperature"] = keras.saving.serialize_keras_object(self.temperature)
        return config

    def compile_from_config(self, config):
        config = keras.saving.deserialize_keras_object(config)
        self.compile(**config)
        if getattr(self, "optimizer", None) and self.built:
            self.optimizer.build(self.trainable_variables)

    def get_config(self):
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "num_classes": self.num_classes,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        backbone = keras.saving.deserialize_keras_object(config["backbone"], custom_objects=custom_objects)
        return cls(**{**config, "backbone": backbone})
