"""A folder of class folders is split in proportion, the same way every time."""

import csv

import pytest
from PIL import Image

from keras_adavit.data.folder_split import split_files
from keras_adavit.data.image_folder import ImageFolder
from keras_adavit.errors import InputError

FILES = {"a": [f"a/{i:02}.jpg" for i in range(40)], "b": [f"b/{i}.jpg" for i in range(7)], "c": ["c/0.jpg", "c/1.jpg"]}


def test_a_share_of_each_class_is_held_out():
    train, validation = split_files(FILES, 0.25, 0)
    assert {name: len(paths) for name, paths in validation.items()} == {"a": 10, "b": 2, "c": 1}
    for name, paths in FILES.items():
        assert sorted(train[name] + validation[name]) == paths
    assert all(split_files(FILES, 0.99, 0)[0].values())
    assert all(split_files(FILES, 0.01, 0)[1].values())


def test_the_seed_decides():
    assert split_files(FILES, 0.25, 0) == split_files(FILES, 0.25, 0)
    assert split_files(FILES, 0.25, 0) != split_files(FILES, 0.25, 1)


def test_classes_too_small_to_split():
    with pytest.raises(InputError, match=r"two images or more.*`validation_share`. Received: one in d$"):
        split_files({**FILES, "d": ["d/0.jpg"]}, 0.25, 0)


@pytest.fixture
def folder(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for number in range(8):
            Image.new("RGB", (10, 9), (number * 9, 7, 5)).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_a_folder_of_class_folders(folder):
    splits = ImageFolder(str(folder), image_size=8, validation_share=0.25).load(4, seed=0)
    assert (splits.class_names, splits.train_examples, splits.validation_examples) == (("cats", "dogs"), 12, 4)
    rows = list(csv.DictReader(splits.split_table.splitlines()))
    assert sorted(row["file"] for row in rows) == sorted(f"{n}/{i}.png" for n in ("cats", "dogs") for i in range(8))
    assert [row["split"] for row in rows].count("val") == 4
    other = ImageFolder(str(folder), image_size=8, validation_share=0.25, split_seed=1).load(4, seed=0)
    assert other.split_table != splits.split_table


def test_what_cannot_be_decoded_is_left_out_before_the_split(folder):
    (folder / "cats" / "3.png").write_bytes(b"no image")
    splits = ImageFolder(str(folder), image_size=8, validation_share=0.5, on_bad_image="skip").load(4, seed=0)
    assert (splits.train_examples, splits.validation_examples, len(splits.skipped)) == (7, 8, 1)
    assert "cats/3.png" not in splits.split_table


def test_files_that_are_added_leave_most_where_they_were():
    more = {name: [*paths, f"{name}/new.jpg"] for name, paths in FILES.items()}
    before, after = split_files(FILES, 0.25, 0)[1], split_files(more, 0.25, 0)[1]
    assert len(set(before["a"]) - set(after["a"])) <= 1


def test_wrong_folders(folder, tmp_path):
    with pytest.raises(InputError, match=r"folder `train`; .*`validation_share=0.1`. Received: path="):
        ImageFolder(str(folder), image_size=8).load(4, seed=0)
    for name in ("train", "val"):
        (folder / name).mkdir()
    with pytest.raises(InputError, match=r"`validation_share` must be None for a folder that is split already"):
        ImageFolder(str(folder), image_size=8, validation_share=0.5).load(4, seed=0)
    with pytest.raises(InputError, match=r"`path` must be a folder with a folder for each class"):
        ImageFolder(str(tmp_path / "none"), image_size=8, validation_share=0.5).load(4, seed=0)
    with pytest.raises(InputError, match=r"`validation_share` must be a number in \(0, 1\) or None"):
        ImageFolder(str(folder), validation_share=1.0)
