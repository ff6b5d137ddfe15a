"""Packed execution of the backend that Keras runs on; a new backend is one more module and one more branch.

- `packing(images)`: the module with these functions for a model called with `images`; `None` if it cannot compute
  packed. On TensorFlow it is another one in what is compiled for XLA.
- `packs_single(inputs)`: whether inputs (B, T, D) are known to be one image, and `packed_single` computes it faster.
- `run_blocks(blocks, step, tokens, given)`: as `unroll_blocks`, with compiled code that the blocks share.
- `select_rows(keep, broken)`: the `Rows` of a keep (B, T) but for broken images (B,).
- `update_rows(update, table, rows)`: `update(table, rows)`, or the table itself if it is known that nothing is added.
- `map_rows(function, rows, table=None)`: `function(rows, table)`, which computes each row by itself and returns (N, D);
  it may be called for one chunk of the rows after the other. `slice_chunk(values, rows)`: the values of such a chunk.
- `defer_norm(norm, table, normed=None)`: a table to gather rows from, and a function that normalises these rows.
- `add_rows(table, rows, values)`: the table with values (N, D) added in their rows and NaN in broken images. It may
  write into the table. `replace_rows(table, rows, values)`: with other values, only for `packed_single`.
- `attend(qkv, rows, heads, head_dim, head_keep=None, partial=False)`: attention of each image's rows to each other, of
  a table (N, 3·U·d) that holds of every row the queries of U heads, the keys, the values; (N, U·d). A head that
  `head_keep` (B, U) skips gives zeros or, if `partial`, its values.
- `select_heads(head_keep, num_tokens)`: heads (U,) to compute, or `None` for all. `hide_size(size, heads)`: the size,
  in a form that the backend does not fold into constants.
"""

import keras

from keras_adavit.errors import InputError

backend = keras.backend.backend()
if backend == "tensorflow":
    from keras_adavit.packed import tensorflow as packed
elif backend == "jax":
    from keras_adavit.packed import jax as packed
elif backend == "torch":
    from keras_adavit.packed import torch as packed
else:
    raise InputError(f"`KERAS_BACKEND` must be 'tensorflow', 'jax' or 'torch'. Received: {backend!r}")

__all__ = ["packed"]
