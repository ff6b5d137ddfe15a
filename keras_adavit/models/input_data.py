"""Checks of images and labels, in whatever form they come to a model.

Of images only shape and dtype are looked at, of labels in arrays every value once. Of a data set, whose values are not
known before training reads them, shapes and dtypes are checked: those of tf.data at once, others at the first batch.
"""

import functools
import inspect
import types

import keras
from keras import ops

from keras_adavit.errors import InputError
from keras_adavit.gating.external import check_policy
from keras_adavit.gating.policy import detail_keys
from keras_adavit.models.restore import restored_on_error
from keras_adavit.models.validation import check_integer, check_share, describe

FLOATS = ("float16", "bfloat16", "float32", "float64")
# Of the classes that Keras takes data sets of: tf.data, PyDataset, torch, grain, and its own adapters.
DATASETS = {"DatasetV2", "DistributedDataset", "DistributedDatasetsFromFunction", "PyDataset", "DataLoader"}
DATASETS |= {"MapDataset", "IterDataset", "DataAdapter"}
# Among the arguments of `fit`, `evaluate` and `predict`: what counts from 1, if it is given, and what counts from 0.
COUNTS = ("batch_size", "steps", "steps_per_epoch", "validation_steps", "validation_batch_size")
EPOCHS = ("epochs", "initial_epoch")


def check_images(name, images, image_shape, partial=False):
    """Raises `InputError` unless they are float images.

    Args:
        name: What the message calls them.
        images: Array, tensor, symbolic tensor, or what describes one.
        image_shape: Shape (S, S, C) of an image.
        partial: Whether sizes may be unknown as yet.
    """
    shape, dtype = shape_and_dtype(images)
    if dtype in FLOATS and fits(shape, (None, *image_shape), partial):
        return
    expected = ", ".join(str(size) for size in image_shape)
    raise InputError(
        f"`{name}` must be float images (B, {expected}), channels last, already normalised. "
        f"Received: {describe(images)}"
    )


def check_call(backbone, images, details=None, policy=None, **_):
    """Checks what an `AdaViTBackbone`, or its classifier, is called with."""
    check_images("images", images, backbone.image_shape)
    if details is not None:
        detail_keys(details)
    if policy is not None:
        check_policy(policy, backbone)


def check_label_form(name, labels, num_classes, partial=False):
    """Raises `InputError` unless shape and dtype are those of labels (B,), (B, 1), or one-hot or mixed (B, K)."""
    shape, dtype = shape_and_dtype(labels)
    numeric = dtype is not None and (dtype in FLOATS or dtype.startswith(("int", "uint", "bool")))
    if not numeric or not any(fits(shape, (None, *more), partial) for more in ((), (1,), (num_classes,))):
        raise InputError(
            f"`{name}` must be whole numbers (B,) in [0, {num_classes}), or one-hot or mixed ones (B, {num_classes}). "
            f"Received: {describe(labels)}"
        )


def check_labels(name, labels, num_classes, ignored=None):
    """Raises `InputError` unless they are labels of a model: see `check_label_form`, and every value in its range.

    Args:
        name: What the message calls them.
        labels: Array or tensor.
        num_classes: Classes K.
        ignored: A label that the loss leaves out, which may come too.
    """
    check_label_form(name, labels, num_classes)
    values = ops.convert_to_numpy(labels)
    if values.ndim == 2 and values.shape[1] == num_classes:
        expected, good = "one-hot or mixed labels must be in [0, 1]", (values >= 0) & (values <= 1)
    else:
        expected = f"labels must be whole numbers in [0, {num_classes})"
        good = (values >= 0) & (values < num_classes) & (values == values // 1)
        good |= values == ignored if ignored is not None else False
    if not good.all():
        raise InputError(f"`{name}` must fit the model: {expected}. Received: {values[~good][0]} among them")


def checked(method):
    """A method of `keras.Model` that reads images, which checks its arguments first, and does a model no harm."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def check_and_call(self, *args, **kwargs):
        arguments = signature.bind(self, *args, **kwargs).arguments
        if "kwargs" not in arguments:  # `fit` evaluates data that it has checked
            del arguments["self"]
            check_arguments(self, method.__name__, **arguments)
        with restored_on_error(self, trains=method.__name__ in ("fit", "train_on_batch")):
            return method(self, *args, **kwargs)

    return check_and_call


def check_arguments(model, method, x=None, y=None, sample_weight=None, validation_data=None, **settings):
    """Checks the arguments of a method that reads images, before Keras reads them.

    Args:
        model: An `AdaViTClassifier`.
        method: Name of the method: all but those that predict need labels.
        x, y, sample_weight, validation_data: As of Keras.
        **settings: The other arguments; the numbers among them are checked.

    Raises:
        InputError: If one is something else.
    """
    train = not method.startswith("predict")
    if method.endswith("on_batch"):
        check_images("x", x, model.backbone.image_shape)
    check_data(model, ("x", "y", "sample_weight"), (x, y, sample_weight), train)
    if isinstance(validation_data, (tuple, list)):
        names = ("validation_data[0]", "validation_data[1]", "validation_data[2]")
        data = (*validation_data, None, None, None)[:3]
        check_data(model, names, data, train)
    elif validation_data is not None:
        check_data(model, ("validation_data", "", ""), (validation_data, None, None), train)
    for name in COUNTS:
        if settings.get(name) is not None:
            check_integer(name, settings[name])
    for name in EPOCHS:
        if name in settings:
            check_integer(name, settings[name], minimum=0)
    if settings.get("validation_split") is not None:
        check_share("validation_split", settings["validation_split"])


def check_data(model, names, data, train):
    """Checks images, labels and weights, or a data set of them, with the names that messages call them."""
    images, labels, weights = data
    if is_dataset(images):
        if labels is not None:
            raise InputError(
                f"`{names[1]}` must be None where `{names[0]}` is a data set. Received: {names[1]}={describe(labels)}"
            )
        check_dataset(model, names[0], images, train)
        return
    image_shape = model.backbone.image_shape
    check_images(names[0], images, image_shape)
    if not train:
        return
    if not len(images):
        raise InputError(f"`{names[0]}` must have at least one image. Received: {describe(images)}")
    check_labels(names[1], labels, model.num_classes, getattr(model.loss, "ignore_class", None))
    for name, values in zip(names[1:], (labels, weights), strict=True):
        if values is not None and (not hasattr(values, "shape") or tuple(values.shape[:1]) != (len(images),)):
            raise InputError(f"`{name}` must be one for each of {len(images)} images. Received: {describe(values)}")


def check_dataset(model, name, dataset, train):
    """Checks what is known of a data set without reading it."""
    if train and is_empty(dataset):
        raise InputError(f"`{name}` must have at least one batch. Received: none")
    spec = getattr(dataset, "element_spec", None)
    if spec is None:
        return
    parts = spec if isinstance(spec, tuple) else (spec,)
    parts = [getattr(part, "_value_specs", (part,))[0] for part in parts]  # those of several devices are alike
    if train and len(parts) < 2:
        raise InputError(f"`{name}` must give pairs of images and labels. Received: elements of {describe(spec)}")
    check_images(name, parts[0], model.backbone.image_shape, partial=True)
    if train:
        check_label_form(name, parts[1], model.num_classes, partial=True)


def iterate(dataset):
    """An iterator over a data set; raises `InputError` if it cannot be iterated."""
    try:
        return iter(dataset)
    except TypeError as error:
        raise InputError(f"`dataset` must give batches. Received: dataset={describe(dataset)}") from error


def is_dataset(data):
    """Whether Keras reads it batch by batch."""
    names = {base.__name__ for base in type(data).__mro__}
    return isinstance(data, types.GeneratorType) or (not isinstance(data, type) and bool(names & DATASETS))


def is_empty(data):
    """Whether an array or a data set is known to have nothing in it."""
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches == 0
    try:
        return len(data) == 0
    except TypeError:  # a generator, or a data set of unknown length
        return False


def shape_and_dtype(value):
    """Its shape, `None` if the rank is unknown, and the name of its dtype; `None` twice of what has neither."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        return None, None
    dtype = getattr(value.dtype, "name", None) or str(value.dtype).removeprefix("torch.")
    return None if getattr(value.shape, "rank", 0) is None else tuple(value.shape), dtype


def fits(shape, expected, partial):
    """Whether a shape is the expected one, where `None` is any size; with `partial`, it may have unknown sizes."""
    if shape is None:
        return partial
    return len(shape) == len(expected) and all(
        wanted is None or size == wanted or (partial and size is None)
        for size, wanted in zip(shape, expected, strict=True)
    )
