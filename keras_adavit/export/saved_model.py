"""Writes a SavedModel: a signature from normalised images and, if asked, from pixels and from image files."""

import contextlib

import keras

from keras_adavit.data.decode import center_crop, decode_center_crop
from keras_adavit.data.photo_files import normalize_photos
from keras_adavit.export.wrapper import ExportedModel

LISTED_CLASSES = 5  # of an image, the most probable first


def write_saved_model(model, path, execution, preprocessing):
    """Writes the graph; arguments are those of `export`."""
    import tensorflow as tf

    exported = ExportedModel(model, execution, unroll=False, probabilities=preprocessing)
    archive = keras.export.ExportArchive()
    archive.track(exported)
    images = tf.TensorSpec((None, *model.backbone.image_shape), "float32", name="images")
    archive.add_endpoint("serve", exported.__call__, [images])
    if preprocessing:
        archive.add_endpoint("pixels", *from_pixels(exported))
        archive.add_endpoint("encoded", *from_encoded(exported))
    with files_as_os_error(path):
        archive.write_out(str(path), verbose=False)


def from_pixels(exported):
    """A function from uint8 pixels (B, height, width, 3), and its signature."""
    import tensorflow as tf

    size, preprocessing = exported.model.backbone.image_size, exported.model.preprocessing

    def function(pixels):
        return classify(exported, center_crop(pixels, size, preprocessing.crop_fraction))

    return function, [tf.TensorSpec((None, None, None, 3), "uint8", name="pixels")]


def from_encoded(exported):
    """A function from the bytes of image files, strings (B,), and its signature."""
    import tensorflow as tf

    size, preprocessing = exported.model.backbone.image_size, exported.model.preprocessing

    def function(encoded):
        photo = tf.TensorSpec((size, size, 3), "uint8")
        decode = lambda each: decode_center_crop(each, size, preprocessing.crop_fraction)  # noqa: E731
        return classify(exported, tf.map_fn(decode, encoded, fn_output_signature=photo))

    return function, [tf.TensorSpec((None,), "string", name="encoded")]


def classify(exported, pixels):
    """The model's outputs for cropped pixels, and the most probable classes: `labels` and their names, `classes`."""
    import tensorflow as tf

    outputs = exported(normalize_photos(pixels, exported.model.preprocessing))
    count = exported.model.num_classes
    labels = tf.math.top_k(outputs["probabilities"], min(LISTED_CLASSES, count)).indices
    names = tf.constant(exported.model.class_names or [str(label) for label in range(count)])
    return outputs | {"labels": labels, "classes": tf.gather(names, labels)}


@contextlib.contextmanager
def files_as_os_error(path):
    """Raises what TensorFlow raises about files, such as a full disk, as the `OSError` that it stands for."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        if str(path) not in error.message:
            raise
        raise OSError(error.message.rpartition("; ")[2].partition(" [Op:")[0]) from error
