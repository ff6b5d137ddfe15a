"""Images a second of what prepares training images: decoding, cropping, RandAugment, mixing, alone and together.

    python benchmarks/input_pipeline.py DIR

DIR holds JPEG files, in one folder a class; without it, some are made up. Beside this package's pipelines run loops
over Pillow, as many threads as there are cores, with timm's RandAugment if timm is installed; timm's own loader with
two workers, if torchvision is too; `keras.utils.image_dataset_from_directory`, which decodes and resizes alone; and
keras-cv's RandAugment if keras-cv is installed. All take turns on the same files, and the medians are printed: their
ratios are what can be compared, and on a machine that has other work to do the processor's time more than the
clock's. The files of the first two kinds are in memory before; the time to start is left out.
"""

import argparse
import importlib.util
import io
import json
import os
import random
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from keras_adavit.data.augment import Augment
from keras_adavit.data.decode import decode
from keras_adavit.data.photos import Photos, single_threaded
from keras_adavit.data.pipeline import with_seeds
from keras_adavit.data.rand_augment import rand_augment

FILL = (124, 116, 104)
AUTO = tf.data.AUTOTUNE
RANDAUGMENT = {"randaugment": 9.0}
MIXING = {"mixup": 0.8, "cutmix": 1.0, "erasing": 0.25}


def pipelines(files, size, batch):
    """This package's pipelines: datasets of batches, by name."""
    encoded = [path.read_bytes() for path in files]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB").resize((size, size))) for path in files])
    labels = np.arange(len(files), dtype="int32") % 10

    def training(**options):
        photos = Photos(image_size=size, augment=Augment(**options))
        examples = tf.data.Dataset.from_tensor_slices((encoded, labels))
        return photos.train_batches(lambda _: examples, 10, batch, seed=0)(tf.constant(0, tf.int64))

    def alone(function):
        images = with_seeds(tf.data.Dataset.from_tensor_slices(pixels), [0, 0])
        return single_threaded(images.map(function, AUTO).batch(batch))

    found = {
        "decode whole": single_threaded(
            tf.data.Dataset.from_tensor_slices(encoded).map(lambda image: decode(image)[0, 0], AUTO).batch(batch)
        ),
        "decode, crop, flip": training(),
        "… RandAugment": training(**RANDAUGMENT),
        "… mixing, erasing": training(**MIXING),
        "… all": training(**RANDAUGMENT, **MIXING),
        "RandAugment alone": alone(lambda image, seed: rand_augment(image, seed, 9.0, 0.5, FILL)),
    }
    if importlib.util.find_spec("keras_cv"):
        import keras_cv

        layer = keras_cv.layers.RandAugment((0, 255), augmentations_per_image=2, magnitude=0.9)
        found["RandAugment alone, keras-cv"] = alone(lambda image, _: tf.saturate_cast(layer(image), tf.uint8))
    return found


def pillow_loops(files, size, batch):
    """Loops over Pillow: functions that give iterators over batches, by name."""
    encoded = [path.read_bytes() for path in files]
    filters = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)

    def crop(encoded):
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
        area, ratio = image.width * image.height * random.uniform(0.08, 1), random.uniform(3 / 4, 4 / 3)
        width, height = min((area * ratio) ** 0.5, image.width), min((area / ratio) ** 0.5, image.height)
        left, top = random.uniform(0, image.width - width), random.uniform(0, image.height - height)
        image = image.resize((size, size), random.choice(filters), (left, top, left + width, top + height))
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image

    def loop(function):
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for start in range(0, len(encoded), batch):
                part = encoded[start : start + batch]
                yield np.stack(list(pool.map(lambda image: np.asarray(function(image)), part)))

    found = {"Pillow: decode, crop, flip": lambda: loop(crop)}
    timm = importlib.util.find_spec("timm")
    if timm:
        # The module alone: the package around it needs torchvision.
        path = Path(timm.origin).parent / "data" / "auto_augment.py"
        spec = importlib.util.spec_from_file_location("auto_augment", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        # At 10 it posterizes to no bits, which newer versions of Pillow refuse.
        vary = module.rand_augment_transform("rand-m9-mstd0.5-inc1", {"img_mean": FILL, "magnitude_max": 9.9})
        found["Pillow: … RandAugment of timm"] = lambda: loop(lambda image: vary(crop(image)))
    return found


def other_loaders(folder, count, size, batch):
    """Loaders of Keras and timm that read the folder's files themselves: functions that give iterators over batches."""
    plain = keras.utils.image_dataset_from_directory(
        folder, labels=None, image_size=(size, size), batch_size=batch, shuffle=False, verbose=False
    )
    found = {"Keras: decode, resize": lambda: plain.repeat().take(count // batch)}
    if not (importlib.util.find_spec("timm") and importlib.util.find_spec("torchvision")):
        return found
    from timm.data import ImageDataset, Mixup, create_loader

    mixing = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=len(list(folder.iterdir())))

    def loader(mix=None, **options):
        dataset = ImageDataset(str(folder))
        dataset.reader.samples = (dataset.reader.samples * count)[:count]
        batches = create_loader(
            dataset,
            (3, size, size),
            batch,
            is_training=True,
            use_prefetcher=False,
            num_workers=2,
            persistent_workers=False,
            interpolation="random",
            color_jitter=None,
            pin_memory=False,
            **options,
        )
        return (mix(*each) if mix else each for each in batches)

    # Up to 9: at 10 it posterizes to no bits, which newer versions of Pillow refuse.
    vary = {"auto_augment": "rand-m9-mmax9-mstd0.5-inc1"}
    found["timm: decode, crop, flip"] = loader
    found["timm: … all"] = lambda: loader(mixing, **vary, re_prob=0.25, re_mode="pixel")
    return found


def processor_seconds():
    """Time of this process, and of those that it has waited for."""
    return sum(os.times()[:4])


def rates(batches, batch):
    """Images a second by the clock, and milliseconds of the processor an image, after the first batch."""
    iterator = iter(batches)
    next(iterator)
    clock, processor = time.perf_counter(), processor_seconds()
    images = batch * sum(1 for _ in iterator)
    return images / (time.perf_counter() - clock), 1000 * (processor_seconds() - processor) / images


def made_up_photos(folder, count=64):
    """JPEG files of smooth noise, 500 by 375 pixels, at about two bits a pixel, as photos of the web have them."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype="uint8")).resize((500, 375))
        fine = np.asarray(coarse) + rng.normal(scale=8, size=(375, 500, 3))
        Image.fromarray(fine.clip(0, 255).astype("uint8")).save(folder / f"{number}.jpg", quality=90)


def medians(found):
    """Images a second and milliseconds of a core of each, from lists of both."""
    return {
        name: {
            "images_per_second": statistics.median(speed for speed, _ in each),
            "milliseconds": statistics.median(milliseconds for _, milliseconds in each),
        }
        for name, each in found.items()
        if each
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument(
        "--count", type=int, default=512, help="files that are read, again and again if there are fewer"
    )
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5, help="turns")
    parser.add_argument("--json", type=Path, help="file to write the medians to, at any time those so far")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made_up:
        if arguments.folder is None:
            made_up_photos(Path(made_up))
        measure(arguments, parser, arguments.folder or Path(made_up))


def measure(arguments, parser, folder):
    """Times all in turns, prints the medians, and writes them."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        parser.error(f"`folder` must hold JPEG files. Received: {folder}")
    files = (files * -(-arguments.count // len(files)))[: arguments.count // arguments.batch * arguments.batch]
    datasets = pipelines(files, arguments.size, arguments.batch)
    loops = pillow_loops(files, arguments.size, arguments.batch)
    if arguments.folder is not None:
        loops |= other_loaders(folder, len(files), arguments.size, arguments.batch)
    found = {name: [] for name in (*datasets, *loops)}
    cores = len(os.sched_getaffinity(0))
    for _ in range(arguments.rounds):
        for name, each in found.items():
            batches = datasets[name] if name in datasets else loops[name]()
            each.append(rates(batches, arguments.batch))
            if arguments.json:
                head = {"cores": cores, "photos": "made up" if arguments.folder is None else "given"}
                arguments.json.write_text(json.dumps(head | {"medians": medians(found)}))
    print(f"{len(files)} images of {arguments.size} pixels, {cores} cores; ratios to the crop")
    figures = medians(found)
    base = figures["decode, crop, flip"]["milliseconds"]
    for name, each in figures.items():
        speed, milliseconds = each.values()
        print(
            f"{name:32s} {speed:7.0f} images/s {milliseconds:7.2f} ms of a core, {milliseconds / base:.2f} of the crop"
        )


if __name__ == "__main__":
    main()
