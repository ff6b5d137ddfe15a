"""What every command does about what goes wrong: one sentence and an exit code, no stack trace but for a bug."""

import os
import sys

from keras_adavit.data.pipeline import start_tensorflow
from keras_adavit.errors import InputError, printable
from keras_adavit.training.callbacks import NonFiniteLossError

OUT_OF_MEMORY = ("MemoryError", "ResourceExhaustedError", "OutOfMemoryError", "XlaRuntimeError", "JaxRuntimeError")
MARKS = ("out of memory", "RESOURCE_EXHAUSTED", "can't allocate memory", "OOM when allocating")


def handle(command):
    """Calls a command without arguments and returns an exit code.

    0: it is done. 1: the training stopped, what was saved before is kept. 2: the input was wrong, or a file cannot be
    read or written. 130: it was interrupted. 141: whoever read the output has gone, as in `… | head`.
    """
    try:
        if "tensorflow" in sys.modules:  # where it is the backend; else a source starts it, if one is needed
            start_tensorflow()
        code = command() or 0
        sys.stdout.flush()
        return code
    except InputError as error:
        return say(f"error: {error}", 2)
    except NonFiniteLossError as error:
        return say(f"error: training stopped: {error}; the models of the epochs before it are kept", 1)
    except KeyboardInterrupt as stop:
        return say(str(stop) or "interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains on its way out
        return 141
    except OSError as error:
        if error.errno is None:  # raised by a library in its own words: a bug, until we know it
            raise
        name = f"{error.filename}: " if error.filename else ""
        return say(f"error: A file must be readable, or writable. Received: {name}{error.strerror}", 2)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return say(f"error: The model and its batches must fit into memory. Received: {type(error).__name__}", 2)


def is_out_of_memory(error):
    """Whether an error of any backend says that memory is full."""
    if isinstance(error, MemoryError):
        return True
    named = type(error).__name__ in OUT_OF_MEMORY or isinstance(error, RuntimeError)
    return named and any(mark in str(error) for mark in MARKS)


def say(sentence, code):
    """Prints a sentence on standard error, in one line whatever is in it, and returns the code."""
    print(printable(sentence), file=sys.stderr)
    return code
