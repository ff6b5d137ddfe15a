"""The classifier: a backbone, a linear head, and training to a budget with `fit`."""

import functools

import keras
import numpy as np
from keras import ops

from keras_adavit import macs
from keras_adavit.devices.dispatch import replicas, whole_batch
from keras_adavit.gating.external import RandomPolicy
from keras_adavit.gating.policy import LOGIT_KEYS, POLICY_KEYS, detail_keys
from keras_adavit.gating.reduction import TokenReduction
from keras_adavit.models.backbone import AdaViTBackbone
from keras_adavit.models.compile_arguments import (
    check_budget,
    check_distillation,
    check_jit_compile,
    check_temperature,
    check_training_policy,
)
from keras_adavit.models.input_data import check_call, check_images, check_label_form, checked, is_dataset, is_empty
from keras_adavit.models.presets import (
    PRESETS,
    PUBLISHED_GATES,
    PUBLISHED_PREPROCESSING,
    check_weights,
    find_preset,
)
from keras_adavit.models.validation import (
    MAX_WEIGHTS,
    check_class_names,
    check_execution,
    check_integer,
    check_preprocessing,
    refuse,
)
from keras_adavit.training import schedules
from keras_adavit.training.distillation import Teacher
from keras_adavit.training.metrics import PolicyMetrics
from keras_adavit.training.optimizers import portable_config
from keras_adavit.weights.download import download
from keras_adavit.weights.load import load_torch_checkpoint

BUDGET_KEYS = (*POLICY_KEYS, "head_logits", "block_logits", "macs", "budget_offset")  # what a budget reads


def evaluating(method):
    """A method that evaluates, so without the means of the distillation, which are of training alone."""

    @functools.wraps(method)
    def run(self, *args, **kwargs):
        self._evaluates = True
        try:
            return method(self, *args, **kwargs)
        finally:
            self._evaluates = False

    return run


@keras.saving.register_keras_serializable("keras_adavit")
class AdaViTClassifier(keras.Model):
    """Image classifier over an `AdaViTBackbone`, trained to a compute budget with `fit`.

    ```python
    backbone = ka.AdaViTBackbone(image_size=64, patch_size=16, width=96, depth=4, num_heads=3, gates=ka.GateConfig())
    model = ka.AdaViTClassifier(backbone, num_classes=10)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adamw", loss, metrics=["accuracy"], budget=ka.BudgetLoss(macs_target=0.5))
    model.fit(images, labels)
    model.execution = "packed"  # evaluation computes only what is kept
    model.predict(images)["macs"]
    ```

    What `fit`, `evaluate`, `predict` and their kin are given is checked before Keras reads it: shape and dtype of
    images, every label in arrays. Labels in a data set are checked for their form alone, not for their range.

    Args:
        backbone: An `AdaViTBackbone`.
        num_classes: Classes K.
        class_names: The name of each class, K strings that differ; `None` if they are not known.
        preprocessing: The `Preprocessing` of the images that it was trained on; `None` if it is not known.

    Raises:
        InputError: If an argument is something else.
    """

    presets = PRESETS

    def __init__(self, backbone, num_classes, class_names=None, preprocessing=None, **kwargs):
        super().__init__(autocast=False, **kwargs)  # each layer rounds what it has to
        if not isinstance(backbone, AdaViTBackbone):
            refuse("backbone", "an `AdaViTBackbone`", backbone)
        num_classes = check_integer("num_classes", num_classes)
        if num_classes * backbone.width > MAX_WEIGHTS:
            refuse("num_classes", f"of a classifier of at most {MAX_WEIGHTS:.0e} weights", num_classes)
        self.backbone = backbone
        self.num_classes = num_classes
        self.class_names = class_names
        self.preprocessing = preprocessing
        # Logits in float32 under mixed precision: the softmax of the loss needs it.
        self.head = keras.layers.Dense(num_classes, dtype="float32", name="head")
        self.policy_metrics = PolicyMetrics(backbone.depth)
        self._execution = "masked"
        self._functions = {}
        self._evaluates = False
        self.budget = None
        self.temperature = None
        self.teacher = None
        self.distillation = None
        self.training_policy = None
        self.policy_seed = keras.random.SeedGenerator(0)  # of the training policy, and of budgets that are drawn
        self.build((None, backbone.image_size, backbone.image_size, backbone.channels))

    @classmethod
    def from_preset(cls, name, num_classes=1000, image_size=224, gates=PUBLISHED_GATES, weights=None):
        """Builds a published model.

        Args:
            name: One of `AdaViTClassifier.presets`.
            num_classes: Classes K.
            image_size: Side of the square images in pixels, a multiple of 16.
            gates: `GateConfig`; `None` is the plain DeiT or T2T-ViT.
            weights: `"imagenet"` fetches the published weights of the dense model; the path of a `.pth` or
                `.safetensors` file, gated as the model or dense, is read as by `load_torch_checkpoint`; `None`: random
                weights. Positions of another image size are interpolated; the classifier of another number of classes,
                and gates that the file has not, stay new.

        Raises:
            InputError: If there is no such preset, no published weights of it, or the file does not fit it.
        """
        preset = find_preset(name)
        num_classes = check_integer("num_classes", num_classes)
        check_weights(weights, gates is not None)
        arguments = preset.backbone_arguments(gated=gates is not None)
        backbone = AdaViTBackbone(image_size=image_size, gates=gates, **arguments)
        model = cls(backbone, num_classes, preprocessing=PUBLISHED_PREPROCESSING)
        if weights is not None:
            load_torch_checkpoint(model, download(preset.file) if weights == "imagenet" else weights)
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

    def __call__(self, images=None, *args, **kwargs):
        """As of Keras, which converts what it is given: what cannot be converted is refused before."""
        check_call(self.backbone, images, **kwargs)
        return super().__call__(images, *args, **kwargs)

    def call(self, images, training=False, details=None, policy=None, execution=None, unroll=False):
        """Classifies.

        Args:
            images: Float tensor (B, S, S, C), channels last, already normalised.
            training: Whether the gates draw noise.
            details: Whether the details below are returned too: all, none, or a tuple of their names; by default none,
                and in training those that the losses read.
            policy: Decisions that replace those of the gates: a `RandomPolicy`, an `OpenPolicy`, or a dict of
                `token_keep` (B, L, T), `head_keep` (B, L, H) and `block_keep` (B, L, 2), 1 use and 0 skip, or of
                some of them. The class token, and what is not gated, stays used, whatever is given; logits are then
                zeros. Values are checked where they are known: not those of symbolic tensors and in compiled code. A
                model without gates takes, as any other, a `TopKPolicy` or a `MergePolicy`; under these only what is
                kept is computed in either execution. By default, in training, decisions of the `training_policy` of
                `compile`.
            execution: `"masked"` or `"packed"`; by default the model's own `execution`.
            unroll: Whether packed blocks are compiled each by itself, as ONNX needs it; else they share compiled code.

        Returns:
            A dict: `logits` (B, K) float32; the policy `token_keep` (B, L, T), `head_keep` (B, L, H) and `block_keep`
            (B, L, 2), 1 use and 0 skip; `macs` (B,), the multiply-accumulates of each image. Details: `token_logits`
            (B, L, T-1), `head_logits` (B, L, H), `block_logits` (B, L, 2); `class_attention` (B, L, H, T), the class
            token's attention; `class_tokens` (B, L, D), the class token after each block. In training with a
            `macs_spread`, also `budget_offset` (B,), which the step drew from [-1, 1].

        Raises:
            InputError: If `images`, `policy`, `details` or `execution` is something else.
        """
        temperature = None
        if training and self.temperature is not None:
            temperature = schedules.value_at(self.temperature, self.step)
        if training and policy is None and self.training_policy is not None:
            policy = self.training_policy
            if isinstance(policy, RandomPolicy):
                shapes = self.backbone.policy_shapes(ops.shape(images)[0])
                policy = policy.draw(shapes, [self.policy_seed] * len(shapes))
        offset = None
        if training and self.budget is not None and self.budget.macs_spread:
            offset = keras.random.uniform((), -1.0, 1.0, dtype="float32", seed=self.policy_seed)
        execution = self.execution if execution is None else check_execution(execution)
        if details is None:
            details = (*LOGIT_KEYS, *(self.distillation.details if self.distillation else ())) if training else ()
        packed = (
            execution == "packed"
            and not training
            and not isinstance(policy, TokenReduction)  # computes what is kept alone in either execution
            and "class_attention" not in detail_keys(details)
        )
        outputs = self.backbone(
            images,
            training=training,
            temperature=temperature,
            details=details,
            policy=policy,
            packed=packed,
            unroll=unroll,
            budget_offset=offset,
        )
        if offset is not None:
            outputs["budget_offset"] = ops.full_like(outputs["macs"], offset)
        tokens = outputs.pop("tokens")
        return {
            "logits": self.head(tokens[:, 0]),
            **outputs,
            "macs": outputs["macs"] + float(self._classifier_macs),
        }

    @property
    def execution(self):
        """How evaluation computes: `"masked"`, everything, the skipped part multiplied away; or `"packed"`, only what
        is kept, with the same result. Training is masked always. It is not saved with the model.

        Packed, shapes depend on data: under XLA, so on JAX always, they are rounded up to a few sizes. Where
        `class_attention` is asked for, it is masked.

        Raises:
            InputError: When set to something else.
        """
        return self._execution

    @execution.setter
    def execution(self, execution):
        check_execution(execution)
        if execution == self._execution:
            return
        # What was traced for one execution waits until it is chosen again.
        self._functions[self._execution] = self.test_function, self.predict_function
        self._execution = execution
        self.test_function, self.predict_function = self._functions.pop(execution, (None, None))

    @property
    def class_names(self):
        """The name of each class, a tuple of K strings, or `None`; saved with the model.

        Raises:
            InputError: When set to something else.
        """
        return self._class_names

    @class_names.setter
    def class_names(self, class_names):
        self._class_names = check_class_names(class_names, self.num_classes)

    @property
    def preprocessing(self):
        """The `Preprocessing` of the images that it was trained on, or `None`; saved with the model.

        Raises:
            InputError: When set to something else, or to one for another number of channels.
        """
        return self._preprocessing

    @preprocessing.setter
    def preprocessing(self, preprocessing):
        self._preprocessing = check_preprocessing(preprocessing, self.backbone.channels)

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        metrics=None,
        budget=None,
        temperature=None,
        teacher=None,
        distillation=None,
        training_policy=None,
        **kwargs,
    ):
        """Configures training.

        Args:
            optimizer, loss, metrics: As of `keras.Model.compile`; loss and metrics compare labels with the logits.
            budget: A `BudgetLoss` added to the loss; `None` trains the task alone.
            temperature: Number or Keras learning-rate schedule that replaces the gates' τ in training.
            teacher: A trained `AdaViTClassifier`, usually the dense one, that training imitates; it is not changed.
                Evaluation does without. It is no part of this model: it is not saved, and a loaded model has to be
                compiled with it again. On JAX the weights that it has at the first step are those that teach.
            distillation: The `DistillationLoss` added to the loss; by default, with a teacher, `DistillationLoss()`.
            training_policy: A `RandomPolicy`, whose decisions are others at every step, a `TopKPolicy` or a
                `MergePolicy`, which replace the decisions of the gates in training. The gates then learn nothing;
                evaluation is as always.
            **kwargs: More arguments of `keras.Model.compile`. On torch `jit_compile=True` is refused.

        Raises:
            InputError: If an argument of these is something else, the model has no gate that the budget, the
                temperature or the policy speaks of, or the teacher is of other sizes.
        """
        check_jit_compile(kwargs.get("jit_compile"))
        check_budget(self, budget)
        temperature = check_temperature(self, temperature)
        if teacher is not None and (not isinstance(teacher, AdaViTClassifier) or teacher is self):
            refuse("teacher", "another `AdaViTClassifier` or None", teacher)
        distillation = check_distillation(self, teacher, distillation)
        check_training_policy(self, training_policy)
        if training_policy is not None:
            self.policy_seed.state.assign([getattr(training_policy, "seed", 0), 0])
        self.budget = budget
        self.temperature = temperature
        self.teacher = None if teacher is None else Teacher(teacher)
        self.distillation = distillation
        self.training_policy = training_policy
        self._functions = {}  # were traced for what was compiled before
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    # Keras' own, their arguments checked first: see `check_arguments`.
    fit = checked(keras.Model.fit)
    evaluate = evaluating(checked(keras.Model.evaluate))
    train_on_batch = checked(keras.Model.train_on_batch)
    test_on_batch = evaluating(checked(keras.Model.test_on_batch))
    _predict = checked(keras.Model.predict)
    _predict_on_batch = checked(keras.Model.predict_on_batch)

    def predict(self, x=None, *args, **kwargs):
        """As of Keras; of no images, where that fails, it gives outputs of none."""
        if not is_empty(x):
            return self._predict(x, *args, **kwargs)
        if not is_dataset(x):
            check_images("x", x, self.backbone.image_shape)
        shapes = self.compute_output_shape((0, *self.backbone.image_shape))
        return {name: np.zeros(shape, "float32") for name, shape in shapes.items()}

    def predict_on_batch(self, x):
        """As of Keras; where several devices predict each all images, their outputs come once."""
        return {name: value[: x.shape[0]] for name, value in self._predict_on_batch(x).items()}

    def compute_output_shape(self, input_shape):
        shapes = self.backbone.compute_output_shape(input_shape)
        del shapes["tokens"]
        return {"logits": (input_shape[0], self.num_classes), **shapes}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Task loss plus weighted budget and, in training, distillation terms; every backend's train step calls it."""
        check_label_form("labels", y, self.num_classes, partial=True)  # where nothing but a call has seen them
        total = task = super().compute_loss(x, y, y_pred["logits"], sample_weight, training)
        budget_terms, distillation_terms = {}, {}
        if self.budget is not None:
            # Schedules of the budget count this step, that of the temperature those before it.
            used = y_pred
            if training and self.budget.noise_free and self.training_policy is None:
                policy = self.backbone.policy_without_noise(y_pred)
                used = y_pred | policy | {"macs": self.macs(policy)}
            used = whole_batch({key: used[key] for key in BUDGET_KEYS if key in used})
            budget_terms = self.budget(used, self.backbone.gates, float(self.dense_macs), self.step + 1)
            total = total + self.budget.total(budget_terms) / replicas()
        if self.teacher is not None and training:
            distillation_terms = self.distillation(y_pred, self.teacher(x, self.distillation.details))
            total = total + self.distillation.total(distillation_terms) / replicas()
        if self.training_policy is not None and training:
            # The gates decide nothing. Their gradient is zero, not missing, which Keras would warn of.
            weights = [weight for block in self.backbone.blocks for weight in block.gate_weights]
            total = total + 0.0 * sum(ops.sum(weight) for weight in weights)
        batch = ops.shape(y_pred["logits"])[0]
        task = task * replicas()  # of which Keras has taken a share, as its optimizer sums gradients over devices
        self.policy_metrics.update_losses(task, budget_terms, distillation_terms, batch)
        if training:
            self.step.assign(self.step + 1)
        return total

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """The user's metrics of the logits, the loss terms, usage and MACs."""
        found = whole_batch({key: y_pred[key] for key in (*POLICY_KEYS, "macs")})
        self.policy_metrics.update_policy(found, self.backbone.gates, self.dense_macs)
        return super().compute_metrics(x, y, y_pred["logits"], sample_weight)

    def get_metrics_result(self):
        distillation = None if self._evaluates else self.distillation
        unused = self.policy_metrics.unused_names(self.backbone.gates, self.budget, distillation)
        return {name: value for name, value in super().get_metrics_result().items() if name not in unused}

    def macs(self, policy):
        """MACs of each image under a policy, classifier included: as of `AdaViTBackbone.macs`."""
        found = self.backbone.macs(policy)
        return found + (self._classifier_macs if isinstance(found, int) else float(self._classifier_macs))

    @property
    def _classifier_macs(self):
        return macs.classifier_macs(self.backbone.num_tokens, self.backbone.width, self.num_classes)

    @property
    def dense_macs(self):
        """MACs of one image in the dense model of the same size: an int."""
        return self.backbone.dense_macs + self._classifier_macs

    def get_compile_config(self):
        config = super().get_compile_config()
        if config:  # empty for a model that was never compiled
            config = portable_config(config)
            # Keras records what "auto" came to here: XLA on JAX would be torch.compile in a process on torch.
            config.pop("jit_compile", None)
            config["budget"] = keras.saving.serialize_keras_object(self.budget)
            config["temperature"] = keras.saving.serialize_keras_object(self.temperature)
            config["training_policy"] = keras.saving.serialize_keras_object(self.training_policy)
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
            "class_names": None if self.class_names is None else list(self.class_names),
            "preprocessing": None if self.preprocessing is None else self.preprocessing.get_config(),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        backbone = keras.saving.deserialize_keras_object(config["backbone"], custom_objects=custom_objects)
        return cls(**{**config, "backbone": backbone})
