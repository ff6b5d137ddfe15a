"""Writes a folder of images as shards: a few large files, which a training reads faster than many small ones."""

import os
import shutil
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import track

from keras_adavit.commands.arguments import parse
from keras_adavit.data.image_folder import ImageFolder, labelled
from keras_adavit.data.shard_files import INDEX, PLAN, check_place, check_whole, plan_digest, plan_shards, read_index
from keras_adavit.data.shard_files import write_shards as write
from keras_adavit.errors import InputError, printable
from keras_adavit.experiments.folder import locked
from keras_adavit.files import make_folder
from keras_adavit.settings import PositiveInt, Seed, Threshold, settings


@settings(kw_only=True)
class Arguments:
    """Writes a folder of images as shards, TFRecord files with the bytes of the images as they are.

    The same command goes on with what was stopped, and of finished shards reads every byte and says whether all is as
    it was written. Train on them with `data=Shards(path=OUT)` in a recipe.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """A folder with `train` and `val`, in each one folder a class; or of class folders, with `--validation-share`."""
    out: Annotated[Path, tyro.conf.Positional]
    """The folder to write to: new, empty, or of a call that was stopped."""
    validation_share: Threshold | None = None
    """Share of each class's images that is held out, where the folder holds class folders and no `train`."""
    split_seed: Seed = 0
    """Seed of what is held out."""
    skip_bad: bool = False
    """Leave out files that cannot be decoded."""
    megabytes: PositiveInt = 128
    """About the size of a file; there are 16 of each split at least."""
    seed: Seed = 0
    """Seed of the order of the images."""
    workers: PositiveInt = min(os.cpu_count() or 1, 16)
    """Files written at once."""


def main(arguments):
    """Runs the command; raises `InputError`."""
    given = parse(Arguments, prog="keras-adavit shards", args=arguments)
    console = Console(highlight=False, soft_wrap=True)
    root, out = given.folder.expanduser(), given.out
    if out.exists() and not out.is_dir():
        raise InputError(f"The shards must go into a folder. Received: {printable(out)}, a file")
    if out.resolve() == root.resolve() or root.resolve() in out.resolve().parents:
        raise InputError(f"The shards must go outside of the folder of the images. Received: {printable(out)}")
    source = ImageFolder(
        path=str(given.folder),
        validation_share=given.validation_share,
        split_seed=given.split_seed,
        on_bad_image="skip" if given.skip_bad else "error",
    )
    train, validation, skipped, _ = source.find()
    if skipped:
        console.print(f"Left out {len(skipped)} images that cannot be decoded, such as {printable(skipped[0])}")
    names = [printable(name) for name in train]
    size = 1_000_000 * given.megabytes
    shards = [
        *plan_shards("train", labelled(train), size, given.seed),
        *plan_shards("validation", labelled(validation), size, given.seed),
    ]
    make_folder(out)
    with locked(out):
        is_finished = (out / INDEX).is_file() and not (out / PLAN).is_file()
        if is_finished and all((out / shard.name).is_file() for shard in shards):
            check_place(out, shards, plan_digest(root, shards, names))
            check_whole(out, read_index(out))
            console.print(f"All {len(shards)} files in {out} are as they were written", markup=False)
            return 0
        check_room(out, shards)
        writing = write(root, out, shards, names, given.workers)
        written = list(track(writing, "Shards", len(shards), console=console, disable=not console.is_terminal))
    old, images = sum(not is_new for _, is_new in written), sum(found.images for found, _ in written)
    before = f", {old} of which were there" if old else ""
    console.print(f"Wrote {images} images to {len(written)} files in {out}{before}", markup=False)
    return 0


def check_room(out, shards):
    """Raises `InputError` if the disk has no room for the shards that are not there."""
    missing = [path for shard in shards if not (out / shard.name).is_file() for path, _ in shard.images]
    needed, free = sum(map(os.path.getsize, missing)), shutil.disk_usage(out).free
    if needed > free:
        raise InputError(
            f"The disk of the shards must have room for {needed / 1e9:.3g} GB. "
            f"Received: {printable(out)} with {free / 1e9:.3g} GB"
        )
