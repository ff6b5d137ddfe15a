import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_adavit.data.decode import decode, decode_center_crop, decode_random_crop, random_window

COLOR = (200, 100, 50)


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype("uint8")


def smooth(height, width):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256], -1).astype("uint8")


def in_pipeline(function):
    """Runs a function of one encoded image inside `tf.data`."""

    def run(encoded):
        return next(iter(tf.data.Dataset.from_tensors(encoded).map(function)))

    return run


def eagerly(function):
    return function


both_ways = pytest.mark.parametrize("way", [eagerly, in_pipeline])

MODES = {
    "rgb.jpg": (Image.new("RGB", (9, 7), COLOR), "JPEG", COLOR),
    "grey.jpg": (Image.new("L", (9, 7), 90), "JPEG", (90, 90, 90)),
    "cmyk.jpg": (Image.new("RGB", (9, 7), COLOR).convert("CMYK"), "JPEG", COLOR),
    "rgb.png": (Image.new("RGB", (9, 7), COLOR), "PNG", COLOR),
    "grey.png": (Image.new("L", (9, 7), 90), "PNG", (90, 90, 90)),
    "grey_alpha.png": (Image.new("LA", (9, 7), (90, 128)), "PNG", (90, 90, 90)),
    "alpha.png": (Image.new("RGBA", (9, 7), (*COLOR, 128)), "PNG", COLOR),
    "palette.png": (Image.new("RGB", (9, 7), COLOR).quantize(4), "PNG", COLOR),
    "bits16.png": (Image.fromarray(np.full((7, 9), 90 * 256, "uint16")), "PNG", (90, 90, 90)),
    "bits1.png": (Image.new("1", (9, 7), 1), "PNG", (255, 255, 255)),
    "rgb.gif": (Image.new("RGB", (9, 7), COLOR), "GIF", COLOR),
    "rgb.bmp": (Image.new("RGB", (9, 7), COLOR), "BMP", COLOR),
}


@both_ways
@pytest.mark.parametrize("name", MODES)
def test_every_colour_mode_becomes_rgb(name, way):
    image, kind, expected = MODES[name]
    pixels = way(decode)(encode(image, kind)).numpy()
    assert (pixels.shape, pixels.dtype) == ((7, 9, 3), "uint8")
    np.testing.assert_allclose(pixels, np.broadcast_to(np.float32(expected), (7, 9, 3)), atol=4)


@both_ways
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_only_the_window_is_decoded(kind, way):
    encoded = encode(Image.fromarray(smooth(40, 60)), kind)
    part = way(lambda data: decode(data, lambda height, width: tf.stack([height // 4, width // 3, 12, 20])))(encoded)
    np.testing.assert_allclose(part, decode(encoded)[10:22, 20:40], atol=4)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_broken_files_raise(kind):
    encoded = encode(Image.fromarray(noise(40, 60)), kind)
    for broken in (encoded[: len(encoded) // 2], b"", b"no image at all", encoded[2:]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(broken)


@both_ways
def test_center_crop_leaves_right_sized_images_alone(way):
    pixels = noise(32, 32)
    out = way(lambda data: decode_center_crop(data, 32, 1.0))(encode(Image.fromarray(pixels)))
    assert out.shape == (32, 32, 3)
    np.testing.assert_array_equal(out, pixels)


@both_ways
@pytest.mark.parametrize("shape", [(100, 140), (161, 90), (20, 30)])
def test_center_crop_matches_pillow(shape, way):
    image = Image.fromarray(smooth(*shape))
    out = way(lambda data: decode_center_crop(data, 28, 0.875))(encode(image)).numpy()
    side = round(0.875 * min(shape))
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    expected = image.crop((left, top, left + side, top + side)).resize((28, 28), Image.Resampling.BICUBIC)
    assert out.dtype == "uint8"
    np.testing.assert_allclose(out.astype(int), np.asarray(expected).astype(int), atol=2)


def random_crop(seed, scale=(0.08, 1.0), ratio=(0.75, 1.33), flip=True, size=24, cubic=None):
    return lambda encoded: decode_random_crop(encoded, seed, size, scale, ratio, flip, cubic)


@both_ways
@pytest.mark.parametrize("shape", [(40, 60), (1, 50), (300, 7)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_random_crop_form(shape, kind, way):
    out = way(random_crop((1, 2)))(encode(Image.fromarray(noise(*shape)), kind))
    assert (out.shape, out.dtype.name) == ((24, 24, 3), "uint8")


def test_random_crop_follows_the_seed():
    encoded = encode(Image.fromarray(smooth(40, 60)))
    crops = [random_crop((seed, 0))(encoded).numpy() for seed in range(10)]
    np.testing.assert_array_equal(random_crop((0, 0))(encoded), crops[0])
    assert len(np.unique(crops, axis=0)) == 10


def test_random_crop_keeps_to_its_scale():
    """The red channel grows with the row: its range tells the share of the rows that a crop holds."""
    encoded = encode(Image.fromarray(smooth(250, 250)))
    for scale in ((0.09, 0.11), (0.6, 0.7)):
        spans = [np.ptp(random_crop((seed, 0), scale, (1.0, 1.0))(encoded)[..., 0]) / 255 for seed in range(20)]
        assert np.sqrt(scale[0]) - 0.05 < np.mean(spans) < np.sqrt(scale[1]) + 0.01


def test_flip_mirrors_half_of_the_images():
    pixels = noise(24, 24)
    encoded = encode(Image.fromarray(pixels))
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    outs = [random_crop((seed, 0), **whole)(encoded).numpy() for seed in range(40)]
    mirrored = [np.array_equal(out, pixels[:, ::-1]) for out in outs]
    assert all(m or np.array_equal(out, pixels) for m, out in zip(mirrored, outs, strict=True))
    assert 8 <= sum(mirrored) <= 32
    assert all(np.array_equal(random_crop((seed, 0), flip=False, **whole)(encoded), pixels) for seed in range(10))


@pytest.mark.parametrize("cubic", [True, False])
@both_ways
def test_random_crop_has_pillows_filters(cubic, way):
    image = Image.fromarray(smooth(70, 70))
    crop = random_crop((1, 2), (1.0, 1.0), (1.0, 1.0), False, 28, cubic)
    filtering = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
    expected = np.asarray(image.resize((28, 28), filtering)).astype(int)
    np.testing.assert_allclose(way(crop)(encode(image)).numpy().astype(int), expected, atol=2)


def test_the_filter_is_one_of_two_by_chance():
    encoded = encode(Image.fromarray(noise(70, 70)))
    both = {
        random_crop((0, 0), (1.0, 1.0), (1.0, 1.0), False, 28, cubic)(encoded).numpy().tobytes() for cubic in (0, 1)
    }
    crops = [random_crop((seed, 0), (1.0, 1.0), (1.0, 1.0), False, 28)(encoded).numpy().tobytes() for seed in range(20)]
    assert set(crops) == both
    assert 4 <= crops.count(crops[0]) <= 16


def windows(height, width, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), count=400):
    seeds = tf.stack([tf.range(count), tf.zeros(count, tf.int32)], 1)
    drawn = tf.function(lambda: tf.map_fn(lambda seed: random_window(height, width, seed, scale, ratio), seeds))
    found = drawn().numpy()
    top, left, high, wide = found.T
    assert (found >= 0).all()
    assert (high >= 1).all()
    assert (wide >= 1).all()
    assert (top + high <= height).all()
    assert (left + wide <= width).all()
    return top, left, high, wide


def test_areas_and_ratios_of_windows():
    """Areas are drawn uniformly, and so are the logarithms of ratios; where windows lie, too."""
    top, left, high, wide = windows(2000, 2000, (0.1, 0.5))
    areas, ratios = high * wide / 2000**2, np.log(wide / high)
    assert 0.09 < areas.min() < 0.12
    assert 0.48 < areas.max() < 0.51
    assert abs(areas.mean() - 0.3) < 0.03
    assert abs(ratios.mean()) < 0.03
    assert abs(np.ptp(ratios) - 2 * np.log(4 / 3)) < 0.02
    assert abs((top / (2000 - high)).mean() - 0.5) < 0.05
    assert abs((left / (2000 - wide)).mean() - 0.5) < 0.05


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(300, 3, (148, 0, 4, 3)), (3, 300, (0, 148, 3, 4)), (50, 55, (0, 0, 50, 55))]
)
def test_where_no_window_fits_the_middle_is_taken(height, width, expected):
    found = windows(height, width, (1.0, 1.0), (0.75, 4 / 3) if height == 50 else (3 / 4, 4 / 3), 10)
    fallback = (found[2] == expected[2]) & (found[3] == expected[3])
    np.testing.assert_array_equal(np.stack(found).T[fallback], np.tile(expected, (fallback.sum(), 1)))
    assert fallback.any()
