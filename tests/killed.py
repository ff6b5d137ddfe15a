"""Starts runs again and again, and kills them at random moments and during saves; in a process of its own.

    python tests/killed.py train FOLDER KILLS SEED [the arguments of `keras-adavit train`, without --output]
    python tests/killed.py save FOLDER KILLS SEED

The first kills trainings; the second a loop of the callbacks that save, which makes many more saves in the same time.
It imports once and forks for each run, since most of a short run is imports. Prints a line of JSON a run: its folder,
what it had printed when it was killed, whether the kill was aimed at a save, whether it came before the end, and
whether it hit a save.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

UNFINISHED = ".unfinished-*"
SAVES = 30  # of a run: of a recipe, of each epoch eight or so, of the results; the last aims may find it ended
EPOCHS = 5


def start(main, arguments, out):
    """Forks, runs `main` in the child with what it prints in the file `out`, and returns the child's id."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    code = 70
    try:
        code = main(arguments)
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(child):
    return os.waitpid(child, os.WNOHANG)[0] != 0


def wait_for(child, condition, seconds=240):
    """Waits until the condition holds and returns true, or false if the child ends before."""
    limit = time.monotonic() + seconds
    while not condition():
        if ended(child):
            return False
        if time.monotonic() > limit:
            os.killpg(child, signal.SIGKILL)
            raise TimeoutError("the run neither ended nor came to where it was to be killed")
        time.sleep(0.0005)
    return True


def at_save(folder, number):
    """A condition: that as many different saves have begun."""
    seen = set()
    places = (folder, folder / "dense", folder / "adaptive")

    def condition():
        seen.update(found for place in places for found in place.glob(UNFINISHED))
        return len(seen) >= number

    return condition


def after_epoch(out, number):
    """A condition: that as many epochs have been reported as ended."""
    return lambda: number == 0 or count_epochs(out.read_text()) >= number


def count_epochs(text):
    return sum(line.startswith(("dense ", "adaptive ")) for line in text.splitlines())


def kill_one(main, arguments, folder, aimed, rng):
    out = folder.with_suffix(".out")
    out.touch()
    child = start(main, [*arguments, "--output", str(folder)], out)
    if aimed:
        condition = at_save(folder, rng.randint(1, SAVES))
        pause = rng.choice((0, rng.uniform(0, 0.02)))
    else:
        condition = after_epoch(out, rng.randint(0, EPOCHS))
        pause = rng.uniform(0, 1.0)
    killed = wait_for(child, condition)
    if killed:
        time.sleep(pause)
        printed = out.read_text()
        os.killpg(child, signal.SIGKILL)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    else:
        printed = out.read_text()
    hit = bool(list(folder.rglob(UNFINISHED)))
    print(json.dumps({"folder": str(folder), "printed": printed, "aimed": aimed, "killed": killed, "hit": hit}))
    sys.stdout.flush()


def save_only(arguments):
    """Saves what a training saves, again and again, and reports each time as an epoch; it has one step."""
    import keras_adavit as ka
    from keras_adavit.training import callbacks

    folder = Path(arguments[-1]) / "dense"
    folder.mkdir(parents=True)
    backbone = ka.AdaViTBackbone(image_size=8, patch_size=4, width=8, depth=2, num_heads=2, gates=ka.GateConfig())
    model = ka.AdaViTClassifier(backbone, num_classes=3)
    saving = [
        callbacks.SaveLast(folder / "last.keras"),
        callbacks.SaveBest(folder / "best.keras"),
        callbacks.SaveHistory(folder / "history.csv"),
    ]
    for callback in saving:
        callback.set_model(model)
        callback.on_train_begin()
    for epoch in range(100):
        model.step.assign(epoch + 1)
        for callback in saving:
            callback.on_epoch_end(epoch, {"loss": 1 / (epoch + 1), "val_macs_share": 1.0, "val_accuracy": epoch / 100})
        print(f"dense {epoch + 1}/100", flush=True)
    return 0


def main(what, folder, kills, seed, *arguments):
    from keras_adavit.commands import main as commands
    from keras_adavit.commands import train  # noqa: F401  so that no child imports it

    command = (lambda given: commands.main(["train", *given])) if what == "train" else save_only
    rng = random.Random(int(seed))
    for number in range(int(kills)):
        kill_one(command, arguments, Path(folder) / f"run-{number}", number % 2 == 1, rng)


if __name__ == "__main__":
    main(*sys.argv[1:])
