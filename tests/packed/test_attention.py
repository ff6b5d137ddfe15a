"""Every form of attention among rows gives what attention image by image gives."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_adavit.packed import slots, static
from keras_adavit.packed.dispatch import packed

HEADS, DEPTH, LENGTH = 3, 4, 9
KEEPS = {
    "some": [
        [1, 0, 1, 1, 0, 0, 0, 1, 0],
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
        [0] * 9,
        [1] + [0] * 8,
        [0, 1, 1, 0, 0, 0, 1, 1, 1],
    ],
    "one image": [[1, 1, 0, 0, 1, 1, 1, 0, 1]],
    "one row": [[0] * 9, [0] * 9, [0, 1] + [0] * 7],
    "every row": [[1] * 9] * 4,
}


def forms():
    """Names and functions of qkv (N, 3·H·d) and `Rows`."""
    chosen = {"chosen": lambda qkv, rows: packed.attend(qkv, rows, HEADS, DEPTH)}
    # The form for accelerators runs on the CPU too.
    shared = {"shared": lambda qkv, rows: static.attend_shared(qkv, rows, HEADS, DEPTH)}
    if keras.backend.backend() == "jax":
        return chosen | shared
    grouped = {"grouped": lambda qkv, rows: slots.attend_grouped(qkv, rows, HEADS, DEPTH)}
    return chosen | grouped | (shared if keras.backend.backend() == "tensorflow" else {})


def expected(qkv, counts):
    found, start = [], 0
    for count in counts:
        query, key, value = np.moveaxis(qkv[start : start + count].reshape(count, 3, HEADS, DEPTH), 1, 0)
        for row in range(count):
            scores = np.einsum("hd,nhd->hn", query[row], key) / DEPTH**0.5
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            found.append(np.einsum("hn,nhd->hd", weights, value).ravel())
        start += count
    return np.array(found)


def make(name):
    keep = np.float32(KEEPS[name])
    qkv = np.random.default_rng(0).normal(size=(int(keep.sum()), 3 * HEADS * DEPTH), scale=2.0).astype("float32")
    return keep, qkv


@pytest.mark.parametrize("form", forms())
@pytest.mark.parametrize("name", KEEPS)
def test_forms_agree(name, form):
    keep, qkv = make(name)
    select_rows = static.select_rows if form == "shared" else packed.select_rows
    rows = select_rows(ops.convert_to_tensor(keep), ops.zeros(len(keep), "bool"))
    more = len(rows.indices) - len(qkv)  # where there is room for more rows than there are
    padded = np.pad(qkv, ((0, more), (0, 0)), constant_values=7.0)
    found = ops.convert_to_numpy(forms()[form](ops.convert_to_tensor(padded), rows))[: len(qkv)]
    np.testing.assert_allclose(found, expected(qkv, keep.sum(axis=1).astype(int)), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="compiled by jax.jit")
@pytest.mark.parametrize("form", forms())
@pytest.mark.parametrize("name", KEEPS)
def test_compiled(name, form):
    import jax

    keep, qkv = make(name)

    @jax.jit
    def run(qkv, keep):
        select_rows = static.select_rows if form == "shared" else packed.select_rows
        rows = select_rows(keep, ops.zeros(len(keep), "bool"))
        padded = ops.pad(qkv, ((0, len(rows.indices) - len(qkv)), (0, 0)), constant_values=7.0)
        return forms()[form](padded, rows)

    found = np.asarray(run(qkv, keep))[: len(qkv)]
    np.testing.assert_allclose(found, expected(qkv, keep.sum(axis=1).astype(int)), rtol=1e-5, atol=1e-5)
