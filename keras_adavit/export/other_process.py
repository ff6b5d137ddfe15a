"""Writing on TensorFlow for a process that runs on another backend."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras

from keras_adavit.errors import InputError
from keras_adavit.export.graph import write
from keras_adavit.files import write_whole


def write_in_other_process(model, unfinished, path, **options):
    """Writes a model as `write` does with the same `options`; `path` is where errors say that it was to go."""
    with tempfile.TemporaryDirectory(dir=unfinished.parent) as folder:
        weights = Path(folder) / "model.keras"
        model.save(weights)
        call = f"import sys; from {__name__} import main; sys.exit(main(*sys.argv[1:]))"
        command = [sys.executable, "-c", call, str(weights), str(unfinished), json.dumps(options)]
        environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment, **pipes) as process:
            try:
                _, errors = process.communicate()
            except BaseException:  # such as an interrupt: it must not go on writing
                process.kill()
                process.wait()
                raise
    if process.returncode == 2 and "error: " in errors:
        sentence = errors.rpartition("error: ")[2].strip()
        raise InputError(sentence.replace(str(unfinished), str(path)))
    if process.returncode:
        raise RuntimeError(f"The export on TensorFlow failed:\n{errors[-2000:]}")


def main(weights, path, options):
    """What the other process does, `options` as JSON; returns its exit code."""
    try:
        with write_whole(path) as unfinished:
            write(keras.saving.load_model(weights, compile=False), unfinished, **json.loads(options))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
