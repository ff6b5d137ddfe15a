import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_adavit.data.pipeline import denormalize
from keras_adavit.data.tfds import Tfds
from keras_adavit.errors import InputError

NAMES = ["cat", "dog"]


def examples(count):
    """Images that are their own number everywhere."""
    return [(i, {"image": np.full((20 + i, 30, 3), 10 * i, "uint8"), "label": i % 2}) for i in range(count)]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Two data sets in the files of TensorFlow Datasets: one of images, one of texts."""
    root = str(tmp_path_factory.mktemp("tfds"))
    image, text = tfds.features.Image(encoding_format="jpeg"), tfds.features.Text()
    store = tfds.dataset_builders.store_as_tfds_dataset
    features = tfds.features.FeaturesDict({"image": image, "label": tfds.features.ClassLabel(names=NAMES)})
    store("tiny_images", "1.0.0", features, {"train": examples(11), "test": examples(7)}, data_dir=root)
    store("tiny_texts", "1.0.0", tfds.features.FeaturesDict({"text": text}), {"train": [(0, {"text": "a"})]},
          data_dir=root)  # fmt: skip
    return root


def load(data_dir, name="tiny_images", batch_size=4, seed=0, validation_split="test", **options):
    source = Tfds(name=name, data_dir=data_dir, validation_split=validation_split, image_size=8, **options)
    return source.load(batch_size, seed)


def numbers(splits, dataset):
    """The number of each image of an epoch, and its label."""
    images, labels = zip(*dataset.unbatch().as_numpy_iterator(), strict=True)
    pixels = denormalize(np.stack(images), splits.mean, splits.std)
    return np.round(25.5 * pixels.mean((1, 2, 3))).astype(int).tolist(), np.array(labels).tolist()


def test_splits(data_dir):
    splits = load(data_dir)
    assert (splits.class_names, splits.train_examples, splits.validation_examples) == (("cat", "dog"), 11, 7)
    assert load(data_dir, crop_fraction=0.5).preprocessing.crop_fraction == 0.5
    for dataset, sizes in ((splits.train, [4, 4]), (splits.validation, [4, 3])):
        batches = list(dataset)
        assert [len(labels) for _, labels in batches] == sizes
        images, labels = batches[0]
        assert (images.shape, images.dtype.name, labels.dtype.name) == ((4, 8, 8, 3), "float32", "int32")


def test_every_validation_image_once(data_dir):
    splits = load(data_dir)
    found, labels = numbers(splits, splits.validation)
    assert sorted(found) == list(range(7))
    assert labels == [number % 2 for number in found]
    assert numbers(splits, splits.validation) == (found, labels)


def test_epochs_are_shuffled_and_the_seed_repeats_them(data_dir):
    def orders(seed):
        splits = load(data_dir, batch_size=11, seed=seed)
        return [tuple(numbers(splits, splits.train)[0]) for _ in range(2)]

    first = orders(0)
    assert first == orders(0)
    assert len({*first, *orders(1)}) == 4
    assert all(sorted(order) == list(range(11)) for order in first)


def test_part_of_a_split(data_dir):
    splits = load(data_dir, train_split="train[:6]", validation_split="train[6:]")
    assert (splits.train_examples, splits.validation_examples) == (6, 5)
    assert len(numbers(splits, splits.validation)[0]) == 5


@pytest.mark.parametrize("name", ["no_such_data", "", "no name", "tiny_images:9.9.9", "imagenet2012/none"])
def test_unknown_name(data_dir, name):
    with pytest.raises(InputError, match=rf"^`name` must be a data set .*\. Received: name='{name}', data_dir="):
        load(data_dir, name)


def test_data_without_images(data_dir):
    with pytest.raises(
        InputError, match=r"`image` and `label`, or `real_label`\. Received: name='tiny_texts' with text$"
    ):
        load(data_dir, "tiny_texts")


@pytest.mark.parametrize("split", ["none", "train[:x%]"])
def test_unknown_split(data_dir, split):
    message = r"^`{}` must be one of train, test, or a part of it\. Received: {}='"
    with pytest.raises(InputError, match=message.format("train_split", "train_split")):
        load(data_dir, train_split=split)
    with pytest.raises(InputError, match=message.format("validation_split", "validation_split")):
        load(data_dir, validation_split=split)


def test_imagenet_must_be_placed_by_hand(tmp_path):
    with pytest.raises(InputError) as raised:
        Tfds(data_dir=str(tmp_path)).load(4, 0)
    message = str(raised.value)
    assert f"`imagenet2012` must be placed by hand in `{tmp_path / 'downloads' / 'manual'}`" in message
    assert "ILSVRC2012_img_train.tar" in message
    assert "ILSVRC2012_img_val.tar" in message


def test_one_of_the_files_is_missing(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "ILSVRC2012_img_val.tar").write_bytes(b"")
    with pytest.raises(InputError, match=r"^The data set `imagenet2012` must be prepared in .*\. Received: "):
        Tfds(data_dir=str(tmp_path)).load(4, 0)
