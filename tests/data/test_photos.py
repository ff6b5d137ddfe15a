import numpy as np
import pytest
import tensorflow as tf

from keras_adavit.data.augment import Augment
from keras_adavit.data.photos import Photos
from keras_adavit.data.pipeline import denormalize
from keras_adavit.errors import InputError

COUNT, SIZE = 12, 16
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3)).astype("uint8")
WHOLE = Augment(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False)


def encoded():
    files = [tf.io.encode_png(pixels).numpy() for pixels in PIXELS]
    return tf.data.Dataset.from_tensor_slices((files, np.arange(COUNT, dtype="int32")))


def train_epoch(photos, num_classes, batch_size, seed=0, number=0):
    return epoch(photos.train_batches(lambda _: encoded(), num_classes, batch_size, seed)(tf.constant(number, "int64")))


def epoch(dataset):
    batches = [(images.numpy(), labels.numpy()) for images, labels in dataset]
    return np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])


def test_without_variation_images_are_normalised_only():
    photos = Photos(image_size=SIZE, crop_fraction=1.0, augment=WHOLE)
    images, labels = train_epoch(photos, COUNT, 4)
    assert (images.dtype, labels.dtype) == ("float32", "int32")
    np.testing.assert_array_equal(labels, np.arange(COUNT))
    np.testing.assert_allclose(denormalize(images, photos.mean, photos.std), PIXELS / 255, atol=1e-5)
    np.testing.assert_allclose(images, (PIXELS / 255 - photos.mean) / photos.std, atol=1e-4)


def test_training_leaves_the_odd_images_out_and_validation_does_not():
    photos = Photos(image_size=SIZE)
    assert len(train_epoch(photos, COUNT, 5)[1]) == 10
    images, labels = epoch(photos.validation_batches(encoded(), 5))
    assert (images.shape, images.dtype, labels.dtype) == ((COUNT, SIZE, SIZE, 3), "float32", "int32")
    np.testing.assert_array_equal(labels, np.arange(COUNT))
    np.testing.assert_array_equal(images, epoch(photos.validation_batches(encoded(), 7))[0])


@pytest.mark.parametrize("augment", [Augment(), Augment(mixup=0.8, cutmix=1.0, erasing=0.5)])
def test_epochs_differ_and_the_seed_repeats_them(augment):
    def epochs(seed):
        photos = Photos(image_size=SIZE, augment=augment)
        return [train_epoch(photos, COUNT, 4, seed, number) for number in range(2)]

    first, again = epochs(0), epochs(0)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    assert not np.array_equal(first[0][0], first[1][0])
    assert not np.array_equal(first[0][0], epochs(1)[0][0])


@pytest.mark.parametrize("mixing", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_mixing_gives_soft_labels(mixing):
    photos = Photos(image_size=SIZE, augment=Augment(**mixing))
    images, labels = train_epoch(photos, 20, 4)
    assert (images.shape, images.dtype) == ((COUNT, SIZE, SIZE, 3), "float32")
    assert (labels.shape, labels.dtype) == ((COUNT, 20), "float32")
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)


def test_every_operation_together_on_any_number_of_threads():
    photos = Photos(image_size=SIZE, augment=Augment(randaugment=9.0, mixup=0.8, cutmix=1.0, erasing=0.25))

    def batches(threads):
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        train = photos.train_batches(lambda _: encoded().repeat(4), COUNT, 8, seed=0)
        return epoch(train(tf.constant(0, "int64")).with_options(options))

    images, labels = batches(1)
    assert images.shape == (4 * COUNT, SIZE, SIZE, 3)
    assert np.isfinite(images).all()
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    for one, other in zip((images, labels), batches(8), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", 0),
        ("crop_fraction", 0.0),
        ("crop_fraction", 1.1),
        ("mean", (0.5,)),
        ("mean", (0.5, 0.5, float("nan"))),
        ("std", (0.5, 0.5, 0.0)),
        ("std", (0.5, 0.5)),
    ],
)
def test_option_errors(name, value):
    with pytest.raises(InputError, match=rf"^`{name}` must be .*\. Received: {name}="):
        Photos(**{name: value})
