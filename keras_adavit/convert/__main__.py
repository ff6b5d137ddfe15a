"""Converts a published PyTorch checkpoint into a .keras file.

  python -m keras_adavit.convert deit_small_patch16_224-cd65a155.pth --preset ada_deit_small_patch16_224 small.keras

The model has the gates that the file has; without any, it is the dense model that an adaptive one starts from. What no
name in a file tells is as in the published models: full heads, tokens that gate the MLP too, thresholds.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's remarks on start-up say nothing to a user


def main(arguments=None):
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m keras_adavit.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="the published file (.pth, .pth.tar)")
    parser.add_argument("output", type=Path, metavar="OUT.keras", help="the file to write; must not exist")
    parser.add_argument("--preset", required=True, help="name of the model; an unknown name lists them")
    parser.add_argument("--num-classes", type=int, default=1000, help="of another number: a new classifier")
    parser.add_argument("--image-size", type=int, default=224, help="of another size: interpolated positions")
    parser.add_argument("--names", action="store_true", help="print what became of every name, not the summary alone")
    given = parser.parse_args(arguments)

    from keras_adavit.errors import InputError

    try:
        report = convert(given.checkpoint, given.output, given.preset, given.num_classes, given.image_size)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report if given.names else report.summary)
    return 0


def convert(checkpoint, output, preset, num_classes, image_size):
    """Writes `output` and returns the `Report`; raises `InputError`."""
    from keras_adavit.convert.load import load_torch_checkpoint
    from keras_adavit.convert.names import find_gates
    from keras_adavit.convert.torch_file import read_checkpoint
    from keras_adavit.errors import InputError
    from keras_adavit.gate_config import GateConfig
    from keras_adavit.models.classifier import AdaViTClassifier
    from keras_adavit.models.presets import find_preset

    if output.suffix != ".keras" or output.exists() or not output.parent.is_dir():
        raise InputError(f"The output must be a new .keras file in an existing folder. Received: {output}")
    find_preset(preset)  # a wrong name is told before a large file is read
    gates = find_gates(read_checkpoint(checkpoint).arrays)
    gates = None if gates is None else GateConfig(**gates)
    model = AdaViTClassifier.from_preset(preset, num_classes, image_size, gates=gates)
    report = load_torch_checkpoint(model, checkpoint)
    model.save(output)
    return report


if __name__ == "__main__":
    sys.exit(main())
