"""A file that computes something else than the model is not kept."""

import numpy as np
import pytest
from gated import make_model

from keras_adavit.export import check, graph

KEEPS = {"token_keep": np.ones((4, 2, 5)), "head_keep": np.ones((4, 2, 3)), "block_keep": np.ones((4, 2, 2))}


def outputs(logits, closed=0):
    """Outputs of four images, with one decision other than 1 in so many of them."""
    keeps = {key: keep.copy() for key, keep in KEEPS.items()}
    keeps["head_keep"][:closed, 1, 2] = 0
    return {"logits": np.full((4, 3), logits, "float32"), **keeps}


@pytest.mark.parametrize(("logits", "closed"), [(1.0, 0), (1.0001, 0), (1.0, 2)])
def test_rounding_passes(logits, closed):
    check.check_same(outputs(1.0), outputs(logits, closed), 1e-3)


@pytest.mark.parametrize(("logits", "closed"), [(1.01, 0), (np.nan, 0), (1.0, 3)])
def test_other_numbers_do_not(logits, closed):
    with pytest.raises(RuntimeError, match="What was exported does not compute what the model does: of 4 images"):
        check.check_same(outputs(1.0), outputs(logits, closed), 1e-3)


@pytest.mark.parametrize(("logits", "closed"), [(1.0, 0), (1.04, 0), (0.96, 4)])
def test_more_rounding_passes_where_there_is_more(logits, closed):
    """Even if it turned a close decision of every image."""
    check.check_near(outputs(1.0), outputs(logits, closed), 0.05)


@pytest.mark.parametrize(
    ("logits", "keeps", "message"),
    [
        (1.06, {}, "the logits of those with the same decisions differ by 0.21, their norm is 3.5"),
        (2.0, {}, "the logits of all images differ by 3.5, their norm is 3.5"),
        (np.nan, {}, "differ by nan"),
        (1.0, {"token_keep": np.zeros((4, 2, 5))}, "66.7% of the decisions are the same"),
    ],
)
def test_what_rounding_does_not_explain_fails(logits, keeps, message):
    with pytest.raises(RuntimeError, match=f"further from the model than rounding explains: .*{message}"):
        check.check_near(outputs(1.0), outputs(logits) | keeps, 0.05)


def test_nothing_is_left_of_a_wrong_file(tmp_path, monkeypatch):
    """On JAX and torch another process writes, and so this is about what it calls."""
    from keras_adavit.files import write_whole

    model = make_model(depth=2)
    monkeypatch.setattr(check, "run_model", lambda *given: outputs(1.0))
    monkeypatch.setattr(graph, "write_saved_model", lambda model, path, *options: path.mkdir())
    monkeypatch.setattr(check, "read_saved_model", lambda path: {"images": lambda images: outputs(2.0)})
    with pytest.raises(RuntimeError, match="does not compute"), write_whole(tmp_path / "model") as unfinished:
        graph.write(model, unfinished, "saved_model", "packed")
    assert list(tmp_path.iterdir()) == []
