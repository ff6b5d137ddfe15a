"""The command `keras-adavit` and its sub-commands."""

import difflib
import importlib
import sys

from keras_adavit.commands.handler import handle

COMMANDS = {
    "train": "train a dense vision transformer, then an adaptive one from its weights, as a recipe says",
    "evaluate": "print accuracy, MACs and the usage of every block of a model",
    "report": "write a page with pictures of what a model spends and on what",
    "convert": "convert a published PyTorch or safetensors file into a .keras file",
    "export": "write a model as SavedModel, ONNX or LiteRT",
    "shards": "write a folder of images as files that large trainings read faster",
    "serve": "answer photos over HTTP, with a page to drop them on",
}
USAGE = "usage: keras-adavit COMMAND [-h] …\n\n" + "\n".join(f"  {name:10}{what}" for name, what in COMMANDS.items())


def main(arguments=None):
    """Runs a sub-command and returns its exit code.

    Args:
        arguments: List of strings, the name of the sub-command first; those of the process by default.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # a file's name need not be text
        stream.reconfigure(errors="backslashreplace")
    name = arguments[0] if arguments else ""
    if name in COMMANDS:
        return handle(lambda: importlib.import_module(f"keras_adavit.commands.{name}").main(arguments[1:]))
    if name in ("-h", "--help"):
        print(USAGE)
        return 0
    if name:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        print(f"error: The command must be one of {', '.join(COMMANDS)}{hint} Received: {name!r}", file=sys.stderr)
    else:
        print(USAGE, file=sys.stderr)
    return 2
