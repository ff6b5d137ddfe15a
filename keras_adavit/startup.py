"""Keeps TensorFlow's remarks on start-up, which say nothing to a user, from the terminal."""

import contextlib
import os
import re
import sys
import tempfile

REMARK = re.compile(rb"WARNING: All log messages before absl|To enable the following|[IW]\d{4} \d\d:|E\d{4} .*cuInit")


@contextlib.contextmanager
def without_remarks():
    """In here what libraries write to standard error waits, and in the end all of it is written but the remarks."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as waiting:
        terminal = os.dup(2)
        os.dup2(waiting.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            waiting.seek(0)
            for line in waiting:
                if not REMARK.match(line):
                    os.write(2, line)
