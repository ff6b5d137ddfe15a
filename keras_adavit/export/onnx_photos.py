"""Evaluation's crop, resize and normalisation as an ONNX graph, which goes before that of a model."""

import numpy as np

# The square is that of `data/decode.py`; Resize with these attributes is TensorFlow's bicubic without aliasing.
# It takes one axis after the other, in the order of memory: ONNX Runtime knows such a Resize with the channels first
# alone, and mistakes its axes where it stands between two transpositions.
CROP = """
    shape = Shape<start = 1, end = 3>(pixels)
    shorter = ReduceMin<keepdims = 1>(shape)
    shorter_float = Cast<to = 1>(shorter)
    crop_fraction = Constant<value_floats = [{crop_fraction}]>()
    side_float = Mul(shorter_float, crop_fraction)
    side_rounded = Round(side_float)
    side_integer = Cast<to = 7>(side_rounded)
    one = Constant<value_ints = [1]>()
    side = Max(side_integer, one)
    rest = Sub(shape, side)
    two = Constant<value_ints = [2]>()
    begin = Div(rest, two)
    end = Add(begin, side)
    axes = Constant<value_ints = [1, 2]>()
    square = Slice(pixels, begin, end, axes)
    square_float = Cast<to = 1>(square)
    size = Constant<value_ints = [{size}]>()
    high_shape = Constant<value_ints = [0, 1, 0, -1]>()
    high = Reshape(square_float, high_shape)
    low = Resize<mode = "cubic", antialias = 1, cubic_coeff_a = -0.5, exclude_outside = 1, axes = [2]>(
        high, , , size)
    wide_shape_begin = Constant<value_ints = [1, -1]>()
    wide_shape_end = Constant<value_ints = [3]>()
    wide_shape = Concat<axis = 0>(wide_shape_begin, side, wide_shape_end)
    wide = Reshape(low, wide_shape)
    narrow = Resize<mode = "cubic", antialias = 1, cubic_coeff_a = -0.5, exclude_outside = 1, axes = [2]>(
        wide, , , size)
    resized_shape = Constant<value_ints = [-1, {size}, {size}, 3]>()
    resized = Reshape(narrow, resized_shape)
    rounded = Round(resized)
    zero = Constant<value_float = 0.0>()
    most = Constant<value_float = 255.0>()
    cropped = Clip(rounded, zero, most)
"""
# As `tf.image.rgb_to_grayscale`, which goes through 0..1 and rounds down.
GREY = """
    inverse = Constant<value_float = {inverse}>()
    shares = Mul(cropped, inverse)
    red_green_blue = Constant<value_floats = [0.2989, 0.587, 0.114]>()
    column = Constant<value_ints = [3, 1]>()
    weights = Reshape(red_green_blue, column)
    grey_shares = MatMul(shares, weights)
    levels = Constant<value_float = 255.5>()
    grey_float = Mul(grey_shares, levels)
    looks = Floor(grey_float)
"""
COLOUR = """
    looks = Identity(cropped)
"""
NORMALIZE = """
    scale = Constant<value_floats = {scale}>()
    shift = Constant<value_floats = {shift}>()
    scaled = Mul(looks, scale)
    images = Sub(scaled, shift)
"""


def prepend_preprocessing(model, image_size, preprocessing):
    """An ONNX model from `pixels`, uint8 (B, height, width, 3), of one from `images`, float32 (B, S, S, C)."""
    import onnx

    merged = onnx.compose.merge_models(
        preprocessing_model(image_size, preprocessing, model.ir_version, model.opset_import),
        model,
        io_map=[("images", "images")],
        outputs=[output.name for output in model.graph.output],
        producer_name=model.producer_name,
        producer_version=model.producer_version,
    )
    del merged.opset_import[:]  # those of both, and so each twice
    merged.opset_import.extend(model.opset_import)
    return merged


def preprocessing_model(image_size, preprocessing, ir_version, opsets):
    """The ONNX model from pixels to images."""
    from onnx import parser

    std, mean = np.asarray(preprocessing.std, "float32"), np.asarray(preprocessing.mean, "float32")
    channels = len(std)
    imports = ", ".join(f'"{opset.domain}" : {opset.version}' for opset in opsets)
    body = CROP + (GREY if channels == 1 else COLOUR) + NORMALIZE
    nodes = body.format(
        size=image_size,
        crop_fraction=preprocessing.crop_fraction,
        inverse=1 / 255,
        scale=(1 / (255 * std)).tolist(),
        shift=(mean / std).tolist(),
    )
    return parser.parse_model(
        f"<ir_version: {ir_version}, opset_import: [{imports}]>\n"
        f"preprocessing (uint8[batch, height, width, 3] pixels)"
        f" => (float[batch, {image_size}, {image_size}, {channels}] images)\n{{{nodes}}}"
    )
