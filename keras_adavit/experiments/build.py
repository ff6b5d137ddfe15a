"""The models of a recipe."""

from keras_adavit.errors import InputError
from keras_adavit.memory import check_memory
from keras_adavit.models.backbone import AdaViTBackbone
from keras_adavit.models.classifier import AdaViTClassifier
from keras_adavit.models.start import load_weights
from keras_adavit.models.validation import count_weights


def check_model_memory(recipe, image_shape):
    """Raises `InputError` if the model's weights, and what trains them, cannot fit into memory."""
    sizes = {"token_width": 0, **recipe.model.backbone_arguments()}
    sizes |= {"image_size": image_shape[0], "channels": image_shape[-1]}
    floats = 4 * count_weights(sizes, sizes["mlp_ratio"])  # weights, gradients and the two moments of AdamW
    check_memory(4 * floats, "The weights of `model`, their gradients and the optimizer", recipe.model)


def build_dense(recipe, splits, image_shape):
    """The recipe's model without gates."""
    dropout = {"drop_path": recipe.dense.drop_path, "patch_dropout": recipe.dense.patch_dropout}
    return build_model(recipe, splits, image_shape, gates=None, **dropout)


def build_adaptive(recipe, splits, image_shape):
    """The recipe's model with gates."""
    return build_model(recipe, splits, image_shape, gates=recipe.gates, drop_path=recipe.adaptive.drop_path)


def build_model(recipe, splits, image_shape, **options):
    """A model of the recipe's sizes for the images and the classes of `splits`."""
    sizes = recipe.model.backbone_arguments()
    backbone = AdaViTBackbone(image_size=image_shape[0], channels=image_shape[-1], **sizes, **options)
    return AdaViTClassifier(
        backbone, len(splits.class_names), class_names=splits.class_names, preprocessing=splits.preprocessing
    )


def start_dense(model, recipe, console):
    """Loads the weights that a recipe's dense model starts from, if it has any, and prints what became of them.

    Raises:
        InputError: If they do not fit, or leave a classifier new that no training follows for.
    """
    if recipe.model.weights is None:
        return
    report = load_weights(model, recipe.model.weights, recipe.model.preset)
    console.print(report.summary, highlight=False, soft_wrap=True)
    if report.new_classifier and not recipe.classifier.epochs and not recipe.dense.epochs:
        raise InputError(
            "`classifier.epochs` or `dense.epochs` must be 1 or more where the classes are not those of "
            "`model.weights`: the new classifier is trained before the gates. Received: 0 and 0"
        )


def train_classifier_alone(model):
    """Lets a training change the classifier and nothing else."""
    set_trainable(model, lambda path: path.startswith("head/"))


def train_gates_alone(model):
    """Lets a training change the gates and nothing else."""
    set_trainable(model, lambda path: "_gate/" in path or "policy_norm/" in path)


def set_trainable(model, wanted):
    """Lets a training change the weights whose paths are wanted, of those that it could change, and no others."""
    for variable in model.trainable_variables:
        variable.trainable = wanted(
            variable.path.removeprefix(f"{model.name}/").removeprefix(f"{model.backbone.name}/")
        )
