"""What was written is run on a few images before anyone has it."""

import keras
import numpy as np

from keras_adavit.data.decode import center_crop
from keras_adavit.data.photo_files import normalize_photos
from keras_adavit.gating.policy import POLICY_KEYS

IMAGES = 8
PHOTOS = ((2, 37, 61), (1, 90, 50))  # pixels: images, height, width
TOLERANCE = 1e-3  # of float32, over the norm of the logits; runtimes order sums differently
SAME = 0.5  # share of images of which every decision must be the same: one near its threshold may turn
# Of lower precisions and int8, which round activations, and so turn a decision of many images where it is close.
ROUNDED_SAME = 0.9  # share of all decisions that must be the same
ROUNDED_TOLERANCE = 0.5  # over the norm of the logits, of all images
LOW_TOLERANCE = 0.05  # the same of the images whose decisions are all the same, in lower precisions


def check_written(model, path, format, preprocessing, quantize=None):
    """Raises `RuntimeError` unless the file gives what the model gives, of images and of photos if it takes them."""
    read = {"saved_model": read_saved_model, "onnx": read_onnx, "litert": read_litert}[format]
    functions = read(path)
    rng = np.random.default_rng(0)
    expected, found = [], []

    def compare(name, given, images):
        expected.append(run_model(model, images))
        found.append(functions[name](given))

    if "images" in functions:
        images = rng.normal(size=(IMAGES, *model.backbone.image_shape)).astype("float32")
        compare("images", images, images)
    for shape in PHOTOS if preprocessing else ():
        pixels = rng.integers(0, 256, (*shape, 3)).astype("uint8")
        cropped = center_crop(pixels, model.backbone.image_size, model.preprocessing.crop_fraction)
        images = normalize_photos(cropped, model.preprocessing)
        compare("pixels", pixels, images)
        if "encoded" in functions:
            compare("encoded", [encode(each) for each in pixels], images)
    expected, found = join(expected), join(found)
    if quantize is not None:
        check_near(expected, found, ROUNDED_TOLERANCE)
    elif model.backbone.compute_dtype != "float32":
        check_near(expected, found, LOW_TOLERANCE)
    else:
        check_same(expected, found, TOLERANCE)


def check_same(expected, found, tolerance):
    """Raises `RuntimeError` unless outputs are the same, two dicts of arrays."""
    same = find_same(expected, found)
    logits, difference = expected["logits"][same], (found["logits"] - expected["logits"])[same]
    close = np.linalg.norm(difference) <= tolerance * (np.linalg.norm(logits) + 1)  # NaN is not
    if same.mean() < SAME or not close:
        raise RuntimeError(
            f"What was exported does not compute what the model does: of {len(same)} images {same.sum()} got the same "
            f"decisions, and their logits differ by up to {np.abs(difference).max(initial=0):.2g}"
        )


def check_near(expected, found, tolerance):
    """Raises `RuntimeError` unless outputs are those of a model that rounds, two dicts of arrays.

    `tolerance` is for the logits of images whose decisions are all the same, over the norm of these logits.
    """
    share = np.mean([(expected[key] == found[key]).mean() for key in POLICY_KEYS])
    same, everything = find_same(expected, found), slice(None)
    parts = {"of all images": (everything, ROUNDED_TOLERANCE), "of those with the same decisions": (same, tolerance)}
    wrong = [f"{share:.1%} of the decisions are the same"] if share < ROUNDED_SAME else []
    for name, (chosen, limit) in parts.items():
        norm = np.linalg.norm(expected["logits"][chosen])
        difference = np.linalg.norm((found["logits"] - expected["logits"])[chosen])
        if not difference <= limit * norm:  # NaN is not
            wrong.append(f"the logits {name} differ by {difference:.2g}, their norm is {norm:.2g}")
    if wrong:
        raise RuntimeError(f"What was exported is further from the model than rounding explains: {', '.join(wrong)}")


def find_same(expected, found):
    """Which images (B,) got the same decisions, all of them."""
    return np.all([(expected[key] == found[key]).reshape(len(found[key]), -1).all(1) for key in POLICY_KEYS], axis=0)


def run_model(model, images):
    """The model's outputs as arrays."""
    outputs = model(images, execution="masked")
    return {key: keras.ops.convert_to_numpy(outputs[key]) for key in ("logits", *POLICY_KEYS)}


def join(parts):
    """One dict of arrays out of a list of such dicts, of the outputs that are compared."""
    return {key: np.concatenate([part[key] for part in parts]) for key in ("logits", *POLICY_KEYS)}


def encode(pixels):
    """Pixels as the bytes of a PNG file."""
    import tensorflow as tf

    return tf.io.encode_png(pixels).numpy()


def read_saved_model(path):
    """Functions of the signatures of a SavedModel, by the name of their input, from arrays to a dict of arrays."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    names = {"images": "serving_default", "pixels": "pixels", "encoded": "encoded"}

    def run(name):
        def function(given, loaded=loaded):  # keeps the variables
            outputs = loaded.signatures[names[name]](**{name: tf.constant(given)})
            return {key: value.numpy() for key, value in outputs.items()}

        return function

    return {name: run(name) for name in names if names[name] in loaded.signatures}


def read_onnx(path):
    """The function of an ONNX file, by the name of its input, from arrays to a dict of arrays."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    (entry,) = session.get_inputs()
    return {entry.name: lambda given: dict(zip(outputs, session.run(outputs, {entry.name: given}), strict=True))}


def read_litert(path):
    """The function of a LiteRT file, by the name of its input, from arrays to a dict of arrays."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner()
    return {"images": lambda images: runner(images=images)}
