import sys

import datasets
import numpy as np
import pytest

from keras_adavit.data import HuggingFace
from keras_adavit.data.pipeline import denormalize
from keras_adavit.errors import InputError

FEATURES = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])})


def examples(count, labels=None):
    """Images that are their own number everywhere."""
    pixels = [np.full((20 + i, 30, 3), 10 * i, "uint8") for i in range(count)]
    rows = {"picture": pixels, "kind": [i % 2 for i in range(count)] if labels is None else labels}
    return datasets.Dataset.from_dict(rows, features=FEATURES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("hugging_face")
    texts = datasets.Dataset.from_dict({"text": ["a"]})
    splits = {"train": examples(11), "test": examples(7), "unlabelled": examples(2, [0, -1])}
    datasets.DatasetDict(splits).save_to_disk(path / "images")
    datasets.DatasetDict({"train": texts, "validation": texts}).save_to_disk(path / "texts")
    for split, count in (("train", 5), ("test", 3)):
        (path / "files").mkdir(exist_ok=True)
        examples(count).to_parquet(path / "files" / f"{split}-00000-of-00001.parquet")
    return path


def load(folder, name="images", batch_size=4, seed=0, **options):
    options = {"validation_split": "test", "image_size": 8, **options}
    return HuggingFace(name=str(folder / name), **options).load(batch_size, seed)


def numbers(splits, dataset):
    """The number of each image of an epoch, and its label."""
    images, labels = zip(*dataset.unbatch().as_numpy_iterator(), strict=True)
    pixels = denormalize(np.stack(images), splits.mean, splits.std)
    return np.round(25.5 * pixels.mean((1, 2, 3))).astype(int).tolist(), np.array(labels).tolist()


def test_splits_by_type(folder):
    splits = load(folder)
    assert (splits.class_names, splits.train_examples, splits.validation_examples) == (("cat", "dog"), 11, 7)
    for dataset, sizes in ((splits.train, [4, 4]), (splits.validation, [4, 3])):
        batches = list(dataset)
        assert [len(labels) for _, labels in batches] == sizes
        images, labels = batches[0]
        assert (images.shape, images.dtype.name, labels.dtype.name) == ((4, 8, 8, 3), "float32", "int32")


def test_every_image_once_with_its_label(folder):
    splits = load(folder, batch_size=11)
    for dataset, count in ((splits.validation, 7), (splits.train, 11), (splits.calibration, 11)):
        found, labels = numbers(splits, dataset)
        assert sorted(found) == list(range(count))
        assert labels == [number % 2 for number in found]
    assert numbers(splits, splits.validation)[0] != sorted(range(7))  # classes are mixed


def test_an_epoch_follows_from_its_number(folder):
    orders = [tuple(numbers(s, s.train_epoch(n))[0]) for n in (0, 1) for s in (load(folder), load(folder))]
    assert orders[0] == orders[1] != orders[2] == orders[3]


def test_a_folder_of_files(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    splits = load(folder, "files", train_split="train[:4]")
    assert (splits.train_examples, splits.validation_examples) == (4, 3)
    assert sorted(numbers(splits, splits.validation)[0]) == [0, 1, 2]


NO_SPLIT = r"split of `train_split`\. .* train_split='none' \(it has train, test, unlabelled\)$"
NO_LABEL = r"each with a label\. Received: validation_split='unlabelled' with 2 images$"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "texts", "validation_split": "train"}, r"Image and one ClassLabel\. Received: text \(Value\)$"),
        ({"train_split": "none"}, NO_SPLIT),
        ({"name": "images/train"}, r"^`name` must be a data set of Hugging Face `datasets` with the split of "),
        ({"validation_split": "unlabelled"}, NO_LABEL),
    ],
)
def test_what_cannot_be_read(folder, options, message):
    with pytest.raises(InputError, match=message):
        load(folder, **options)


def test_without_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"^`HuggingFace` needs the extra `datasets`"):
        load(folder)
