"""The notebook runs from start to end, and shows what it gave."""

import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "recipes" / "digits.ipynb"
LONG = "EPOCHS, REPEATS = 8, 4"
MOST_BYTES = 200_000


@pytest.fixture
def notebook():
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient, of the extra `dev`")
    return nbformat.read(NOTEBOOK, as_version=4)


def printed(notebook):
    """What the cells print, as one text."""
    streams = [output for cell in code_cells(notebook) for output in cell.outputs if output.get("name") == "stdout"]
    return "".join(output.text for output in streams)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
@pytest.mark.usefixtures("one_backend")  # what it calls is tested on each
def test_it_runs(notebook, tmp_path, monkeypatch):
    """With one epoch; in the process of a kernel, on the backend of `KERAS_BACKEND`."""
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient, of the extra `dev`")
    for name in ("tf2onnx", "onnxruntime", "starlette"):
        pytest.importorskip(name, reason="needs the extras `export` and `serve`")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    cell, *_ = code_cells(notebook)
    assert cell.source.startswith(LONG)
    cell.source = "EPOCHS, REPEATS = 1, 1"
    for each in code_cells(notebook):
        each.outputs = []
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources={}).execute()
    said = printed(notebook)
    assert "'status': 'ok'" in said
    assert len(re.findall(r"^\d: \d+\.\d%$", said, re.M)) == 5  # what the server answers
    assert "the server has ended: True" in said
    pictures = [
        output for each in code_cells(notebook) for output in each.outputs if "image/png" in output.get("data", ())
    ]
    assert len(pictures) == 3


def test_what_is_committed_was_executed(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"stream", "execute_result"}
    assert {output.get("name") for output in outputs} <= {None, "stdout"}
    accuracy = float(re.search(r"accuracy (\S+)%", printed(notebook))[1])
    assert accuracy > 85  # it has learned, and what is drawn is worth looking at
    assert NOTEBOOK.stat().st_size < MOST_BYTES
