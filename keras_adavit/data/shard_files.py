"""Shards on disk: TFRecord files of images as they were, and `shards.json`, which says what belongs to them.

TensorFlow's records have checksums, which notice any flipped byte of a record. They do not notice what is missing: so
the sizes are in `shards.json`, and, to tell that a file is the one that was written, its SHA-256.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from keras_adavit.data.pipeline import start_tensorflow
from keras_adavit.errors import InputError, printable
from keras_adavit.files import UNFINISHED, write_text, write_whole

INDEX, PLAN = "shards.json", "unfinished.json"
LEAST = 16  # shards of a split, and what their number is a multiple of, so that as many can be read at once
SPLITS = ("train", "validation")


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file to write: its name, and the images in it with their labels."""

    name: str
    images: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class Written:
    """What `shards.json` says of a file."""

    name: str
    images: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Index:
    """What is in `shards.json`."""

    class_names: tuple[str, ...]
    train: tuple[Written, ...]
    validation: tuple[Written, ...]
    plan: str


def plan_shards(split: str, images: Sequence[tuple[str, int]], shard_bytes: int, seed: int) -> list[Shard]:
    """Divides the images of a split among shards that differ by one image at most.

    Args:
        split: `"train"` or `"validation"`.
        images: Their files and labels.
        shard_bytes: About the size of a shard.
        seed: Of a random order, so that shards and the images in them can be read one after the other.
    """
    images = [images[index] for index in np.random.default_rng(seed).permutation(len(images))]
    wanted = sum(os.path.getsize(path) for path, _ in images) / shard_bytes
    count = min(LEAST * max(round(wanted / LEAST), 1), len(images))
    borders = np.linspace(0, len(images), count + 1).astype(int)
    return [
        Shard(f"{split}-{number:05}-of-{count:05}.tfrecord", tuple(images[begin:end]))
        for number, (begin, end) in enumerate(itertools.pairwise(borders))
    ]


def plan_digest(root: Path, shards: Sequence[Shard], class_names: Sequence[str]) -> str:
    """A digest of all that decides what the files will be, so that only the same work goes on."""
    digest = hashlib.sha256(json.dumps(list(class_names)).encode())
    for shard in shards:
        digest.update(shard.name.encode())
        for path, label in shard.images:
            status = os.stat(path)
            own = os.fsencode(os.path.relpath(path, root))
            digest.update(b"%b\0%d %d %d\0" % (own, label, status.st_size, status.st_mtime_ns))
    return digest.hexdigest()


def write_shards(root: Path, out: Path, shards: Sequence[Shard], class_names: Sequence[str], workers: int) -> Iterator:
    """Writes shards into a folder, those that are there from a call that was stopped excepted.

    Args:
        root: The folder of the images.
        out: An existing folder.
        shards: What to write.
        class_names: The name of each label.
        workers: Threads.

    Yields:
        The `Written` of each shard when it is on disk, and whether it was there before.

    Raises:
        InputError: If the folder has something else in it, or the disk is full.
    """
    start_tensorflow()
    digest = plan_digest(root, shards, class_names)
    check_place(out, shards, digest)
    for left in out.glob(f"{UNFINISHED}*"):
        for file in left.iterdir():
            file.unlink()
        left.rmdir()
    write_text(out / PLAN, json.dumps({"plan": digest}) + "\n")
    (out / INDEX).unlink(missing_ok=True)

    written = {}
    with ThreadPoolExecutor(workers) as pool:
        tasks = [pool.submit(write_shard, root, out, shard) for shard in shards]
        try:
            for task in as_completed(tasks):
                found, is_new = task.result()
                written[found.name] = found
                yield found, is_new
        finally:
            for task in tasks:
                task.cancel()
    of_split = {split: [written[s.name] for s in shards if s.name.startswith(f"{split}-")] for split in SPLITS}
    index = Index(tuple(class_names), *(tuple(of_split[split]) for split in SPLITS), digest)
    write_text(out / INDEX, json.dumps(dataclasses.asdict(index), indent=1) + "\n")
    (out / PLAN).unlink()


def check_place(out: Path, shards: Sequence[Shard], digest: str) -> None:
    """Raises `InputError` unless a folder is empty, or has what an earlier call with the same plan left."""
    names = {shard.name for shard in shards} | {INDEX, PLAN, ".lock"}
    found = [entry.name for entry in os.scandir(out)]
    others = sorted(name for name in found if name not in names and not name.startswith(UNFINISHED))
    if others:
        raise InputError(
            f"The folder of the shards must be new, empty or of the same images. "
            f"Received: {printable(out)} with '{printable(others[0])}'"
        )
    plan = None
    for name in (PLAN, INDEX):
        if name in found:
            plan = read_json(out / name).get("plan")
            break
    if plan != digest and set(found) - {".lock"}:
        raise InputError(
            f"The folder of the shards must be new, empty or of the same images. "
            f"Received: {printable(out)}, with shards of other images, or of the same before they were changed"
        )


def write_shard(root: Path, out: Path, shard: Shard) -> tuple[Written, bool]:
    """Writes one shard, whole or not at all, unless it is there and sound; says what it is and whether it is new."""
    import tensorflow as tf

    path = out / shard.name
    if path.is_file() and find_damage(path, len(shard.images)) is None:
        return describe(path, len(shard.images)), False
    with write_whole(path) as unfinished:
        try:
            with tf.io.TFRecordWriter(str(unfinished)) as writer:
                for file, label in shard.images:
                    writer.write(to_record(root, file, label))
        except tf.errors.OpError as error:
            reason = error.message.rpartition("; ")[2]
            raise InputError(f"{printable(path)} cannot be written. Received: {reason}") from error
    return describe(path, len(shard.images)), True


def to_record(root: Path, file: str, label: int) -> bytes:
    """The record of an image: the bytes of its file, its label, and its name below the folder of the images."""
    import tensorflow as tf

    def text(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    try:
        image = Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"Every image must be readable. Received: '{printable(file)}' ({error.strerror})") from error
    features = {
        "image": text(image),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "file": text(os.fsencode(os.path.relpath(file, root))),
    }
    # Otherwise the order of the features differs from process to process, and so would the same images' files.
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def parse_record(record):
    """The image file's bytes, and the label, int32, of a record, as tensors."""
    import tensorflow as tf

    features = {"image": tf.io.FixedLenFeature((), tf.string), "label": tf.io.FixedLenFeature((), tf.int64)}
    found = tf.io.parse_single_example(record, features)
    return found["image"], tf.cast(found["label"], tf.int32)


def describe(path: Path, images: int) -> Written:
    """What `shards.json` is to say of a file."""
    with path.open("rb") as file:
        return Written(path.name, images, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def find_damage(path: Path, images: int) -> str | None:
    """What is wrong with a shard of so many images, in a few words that name the record; `None` if nothing is."""
    import tensorflow as tf

    count = 0
    try:
        for count, _ in enumerate(tf.data.TFRecordDataset(str(path)), 1):  # noqa: B007
            pass
    except tf.errors.OpError as error:
        if isinstance(error, tf.errors.DataLossError):
            return f"record {count} is damaged"
        return f"record {count} cannot be read"
    return None if count == images else f"it has {count} records instead of {images}"


def check_whole(folder: Path, index: Index) -> None:
    """Reads every file and raises `InputError` at the first that is not as it was written; names file and record."""
    for written in (*index.train, *index.validation):
        check_size(folder, written)
        if describe(folder / written.name, written.images) != written:
            reason = find_damage(folder / written.name, written.images) or "its records are whole, but others"
            raise damaged(folder / written.name, reason)


def check_size(folder: Path, written: Written) -> None:
    """Raises `InputError` unless a file is there, of its size."""
    path = folder / written.name
    size = path.stat().st_size if path.is_file() else None
    if size != written.bytes:
        found = "which is missing" if size is None else f"of {size} bytes instead of {written.bytes}"
        raise damaged(path, found)


def damaged(path: Path, reason: str) -> InputError:
    return InputError(
        "Every shard must be as `keras-adavit shards` wrote it, which writes one anew that was deleted. "
        f"Received: '{printable(path)}', {reason}"
    )


def read_index(folder: Path) -> Index:
    """What `shards.json` in a folder says; an `InputError` tells what is wrong with it."""
    if (folder / PLAN).is_file():
        raise InputError(
            "`path` must be a folder of shards; the same `keras-adavit shards` finishes one that was stopped. "
            f"Received: path={printable(folder)!r}, which is not finished"
        )
    if not (folder / INDEX).is_file():
        raise InputError(
            f"`path` must be a folder of shards, with {INDEX}, as `keras-adavit shards` writes it. "
            f"Received: path={printable(folder)!r}"
        )
    try:
        found = read_json(folder / INDEX)
        splits = {split: tuple(Written(**written) for written in found[split]) for split in SPLITS}
        return Index(tuple(map(str, found["class_names"])), **splits, plan=str(found["plan"]))
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{printable(folder / INDEX)} must be as `keras-adavit shards` wrote it. Received: something else"
        ) from error


def read_json(path: Path) -> dict:
    """A JSON object in a file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{printable(path)} must be a JSON file that can be read. Received: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{printable(path)} must hold a JSON object. Received: {type(found).__name__}")
    return found
