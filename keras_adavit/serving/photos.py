"""From the bytes of an uploaded photo to an image as a model takes it; what is no photo, or too large, is refused."""

import io
import warnings

from PIL import Image

from keras_adavit.data.photo_files import decode_photo
from keras_adavit.data.pipeline import start_tensorflow
from keras_adavit.serving.refusals import Refusal

FORMATS = ("JPEG", "PNG")


def check_photo(encoded, max_pixels):
    """Raises `Refusal` unless the header is that of a JPEG or PNG file of at most `max_pixels`; decodes nothing."""
    if not encoded:
        raise Refusal(400, "empty", "The file must be a photo. Received: an empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow has a limit of its own, which is not the server's
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as photo:
                width, height = photo.size
    except Image.DecompressionBombError:
        raise too_large("many more", max_pixels) from None
    except Exception:  # Pillow raises many kinds of error on damaged headers
        raise Refusal(415, "format", "The file must be a JPEG or PNG photo. Received: something else") from None
    if width * height > max_pixels:
        raise too_large(f"{width} × {height}", max_pixels)


def too_large(size, max_pixels):
    """The `Refusal` of a photo of too many pixels."""
    return Refusal(413, "pixels", f"The photo must have at most {max_pixels:,} pixels. Received: {size}")


def photo_decoder(image_size, preprocessing):
    """A function from the bytes of a photo to float32 (S, S, C), as evaluation prepares it; raises `Refusal`."""
    start_tensorflow()
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((), "string")], autograph=False)
    def prepare(encoded):
        return decode_photo(encoded, image_size, preprocessing)

    def decode(encoded):
        try:
            return prepare(tf.constant(encoded)).numpy()
        except tf.errors.OpError:
            raise Refusal(
                422, "damaged", "The photo must be a whole file. Received: one that cannot be decoded"
            ) from None

    return decode
