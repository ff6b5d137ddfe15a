import os

import numpy as np
import pytest
from PIL import Image

import keras_adavit as ka
from keras_adavit.data.photo_files import find_photos, read_photos
from keras_adavit.data.pipeline import denormalize

GREY = ka.Preprocessing(crop_fraction=0.5, mean=(0.5,), std=(0.25,))


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture
def photo(tmp_path):
    """16 × 12 pixels: red, the central 6 × 6 of them blue."""
    pixels = np.zeros((12, 16, 3), "uint8")
    pixels[..., 0] = 200
    pixels[3:9, 5:11] = (0, 0, 100)
    return write(tmp_path / "photo.png", pixels)


def refuses(*parts):
    return pytest.raises(ka.InputError, match=".*".join(parts))


def test_folders_are_searched_in_order_and_files_taken_as_they_are(photo, tmp_path):
    for name in ("b/2.JPG", "b/1.png", "a/x/3.jpeg", "a/notes.txt", "a/.hidden.png", ".cache/4.png"):
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).touch()
    os.mkfifo(tmp_path / "folder" / "pipe.png")
    (tmp_path / "folder" / "z.png").symlink_to("nowhere")
    folder = str(tmp_path / "folder")
    inside = [os.path.join(folder, name) for name in ("a/x/3.jpeg", "b/1.png", "b/2.JPG", "z.png")]
    assert find_photos([photo, folder, photo]) == [photo, *inside, photo]


def test_what_is_no_photo(tmp_path):
    (tmp_path / "empty").mkdir()
    with refuses("`images` must be files, or folders", "empty', which holds none"):
        find_photos([tmp_path / "empty"])
    for name in ("missing.jpg", "", "\0", "x" * 5000):
        with refuses("`images` must be files, or folders", "which is neither"):
            find_photos([name])


def test_colours_are_cropped_and_normalised(photo):
    (images,) = read_photos([photo], 6, ka.Preprocessing(crop_fraction=0.5), batch_size=4)
    assert (images.shape, images.dtype) == ((1, 6, 6, 3), "float32")
    pixels = denormalize(images, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    np.testing.assert_allclose(pixels, np.broadcast_to(np.float32([0, 0, 100]) / 255, pixels.shape), atol=1e-6)


def test_a_model_of_one_channel_sees_grey(photo, tmp_path):
    grey = write(tmp_path / "grey.png", np.arange(36, dtype="uint8").reshape(6, 6) * 7)
    images = np.concatenate(list(read_photos([photo, grey], 6, GREY, batch_size=1)))
    assert images.shape == (2, 6, 6, 1)
    np.testing.assert_allclose(images[0] * 0.25 + 0.5, 11 / 255, atol=1e-6)  # of a blue of 100, 0.114
    (whole,) = read_photos([grey], 6, ka.Preprocessing(1.0, (0.0,), (1.0,)), batch_size=1)
    np.testing.assert_allclose(whole[0, ..., 0] * 255, np.arange(36).reshape(6, 6) * 7, atol=1e-4)


def test_kinds_sizes_and_batches(tmp_path):
    rng = np.random.default_rng(0)
    names = ("a.png", "b.jpg", "c.gif", "d.bmp", "no-suffix")
    files = [str(tmp_path / name) for name in names]
    for file, size in zip(files, range(20, 25), strict=True):
        kind = os.path.splitext(file)[1][1:].replace("jpg", "jpeg") or "png"
        Image.fromarray(rng.integers(0, 256, (size, 30, 3), "uint8")).save(file, kind)
    batches = list(read_photos(files, 8, ka.Preprocessing(), batch_size=2))
    assert [batch.shape for batch in batches] == [(2, 8, 8, 3), (2, 8, 8, 3), (1, 8, 8, 3)]
    alone = np.concatenate([next(read_photos([file], 8, ka.Preprocessing(), 1)) for file in files])
    np.testing.assert_array_equal(np.concatenate(batches), alone)


def test_the_first_file_that_cannot_be_decoded_is_named(photo, tmp_path):
    for name in ("bad.jpg", "worse.jpg"):
        (tmp_path / name).write_text("<html>")
    with refuses("Every image must be a sound JPEG, PNG, GIF or BMP file", r"bad\.jpg'$"):
        list(read_photos([photo, str(tmp_path / "bad.jpg"), str(tmp_path / "worse.jpg")], 8, ka.Preprocessing(), 8))


def test_a_batch_that_no_memory_holds(photo):
    with refuses("A batch of images must fit into this machine's memory"):
        list(read_photos([photo], 2**30, ka.Preprocessing(), 1))
