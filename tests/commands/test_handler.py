"""What goes wrong in a command is one line and an exit code, from the first import on."""

import errno
import os
import signal
import subprocess
import sys
import types

import pytest

from keras_adavit.commands import handler
from keras_adavit.commands.main import COMMANDS, main
from keras_adavit.errors import InputError
from keras_adavit.training.callbacks import NonFiniteLossError


def raiser(error):
    def command():
        raise error

    return command


def interrupt(*arguments):
    os.kill(os.getpid(), signal.SIGINT)


class ResourceExhaustedError(Exception):
    """Of the name that TensorFlow's has."""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("`a` must be b. Received: c"), 2, "error: `a` must be b. Received: c"),
        (InputError("two\nlines"), 2, r"error: two\nlines"),
        (NonFiniteLossError("`loss` is nan"), 1, "error: training stopped: `loss` is nan"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "a.json"), 2, "a.json: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "b"), 2, "b: Permission denied"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "c"), 2, "c: File name too long"),
        (MemoryError(), 2, "must fit into memory"),
        (ResourceExhaustedError("OOM when allocating tensor"), 2, "must fit into memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory: you tried"), 2, "must fit into memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), 2, "must fit into memory"),
    ],
    ids=repr,
)
def test_one_line_and_a_code(error, code, message, capsys):
    assert handler.handle(raiser(error)) == code
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [ZeroDivisionError(), OverflowError(), RuntimeError("a bug"), OSError("no number")])
def test_a_bug_is_no_sentence(error):
    with pytest.raises(type(error)):
        handler.handle(raiser(error))


@pytest.mark.parametrize("name", COMMANDS)
def test_an_interrupt_of_any_command(name, capsys, monkeypatch):
    module = types.SimpleNamespace(main=interrupt)
    monkeypatch.setattr("importlib.import_module", lambda _: module)
    assert main([name]) == 130
    assert capsys.readouterr().err == "interrupted\n"


# How each command is started, from the folder of the checkout.
STARTS = [
    ["train.py", "x.py"],
    ["evaluate.py", "x.keras"],
    ["-m", "keras_adavit", "export", "a", "b"],
    ["keras-adavit"],
]


@pytest.mark.parametrize("start", STARTS, ids=" ".join)
def test_an_interrupt_while_libraries_are_imported(start, request, tmp_path):
    (tmp_path / "keras.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    (tmp_path / "keras-adavit").write_text("from keras_adavit.commands.main import main\nmain()\n")  # as pip writes it
    start = [str(tmp_path / part) if part == "keras-adavit" else part for part in start]
    root = request.config.rootpath
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)])}
    done = subprocess.run([sys.executable, *start], cwd=root, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_another_program_keeps_its_stack_trace(request, tmp_path):
    (tmp_path / "keras.py").write_text("raise KeyboardInterrupt")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(request.config.rootpath)])}
    done = subprocess.run(
        [sys.executable, "-c", "import keras_adavit"], env=environment, capture_output=True, text=True
    )
    assert "Traceback" in done.stderr


@pytest.mark.slow
def test_output_that_nobody_reads(tmp_path):
    code = "import sys\nfrom keras_adavit.commands.handler import handle\nsys.exit(handle(lambda: print('a' * 10**6)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
