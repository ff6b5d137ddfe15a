"""What is settled before anything large is imported: no remarks of TensorFlow, no stack trace for an interrupt."""

import contextlib
import os
import re
import sys
import tempfile
from pathlib import Path

REMARK = re.compile(rb"WARNING: All log messages before absl|To enable the following|[IW]\d{4} \d\d:|E\d{4} .*cuInit")


@contextlib.contextmanager
def without_remarks():
    """In here what libraries write to standard error waits, and in the end all of it is written but the remarks."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        terminal = os.dup(2)
    except OSError:  # a process without standard error has nothing to keep quiet
        yield
        return
    flush()
    with tempfile.TemporaryFile() as waiting:
        os.dup2(waiting.fileno(), 2)
        try:
            yield
        finally:
            flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            waiting.seek(0)
            for line in waiting:
                if not REMARK.match(line):
                    os.write(2, line)


def flush():
    """Writes out what Python holds back for standard error, which may be missing."""
    if sys.stderr is not None:
        sys.stderr.flush()


def interrupt_in_one_line():
    """In a process that is one of the commands, ends an interrupt that nobody catches with a line and exit code 130."""
    as_module = sys.argv[:1] == ["-m"] and "keras_adavit" in sys.orig_argv  # what Python says while it looks for it
    if not as_module and Path("".join(sys.argv[:1])).name != "keras-adavit":
        return
    usual = sys.excepthook

    def hook(kind, error, trace):
        if not issubclass(kind, KeyboardInterrupt):
            return usual(kind, error, trace)
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(130)

    sys.excepthook = hook
