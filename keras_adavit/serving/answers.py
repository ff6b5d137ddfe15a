"""What a client is told about a photo, as JSON can hold it."""

import dataclasses
import math

import numpy as np

from keras_adavit.evaluation.predict import describe, softmax


def answer(engine, outputs, policy):
    """The answer for one image.

    Args:
        engine: An engine, which knows names and the dense model's MACs.
        outputs: Its outputs for the image, a dict of arrays without a batch.
        policy: Whether to say what was kept too.

    Returns:
        A dict: `classes`, `labels` and `probabilities` of the most probable classes, `macs`, `macs_share`, and of a
        policy what `kept` says.
    """
    found = describe(engine, softmax(outputs["logits"][None])[0], outputs["macs"])
    told = dataclasses.asdict(found)
    if policy:
        told["policy"] = kept(outputs) | {"crop_fraction": engine.preprocessing.crop_fraction}
    return told


def kept(outputs):
    """What each block used: `grid`, patches a side; `patches`, L lists of grid² of 0 and 1, row by row, none where the
    block is skipped; `heads`, L lists of H; `attention` and `mlp`, L."""
    tokens, sublayers = outputs["token_keep"][:, 1:] > 0.5, outputs["block_keep"] > 0.5
    used = tokens & sublayers.any(axis=1, keepdims=True)
    return {
        "grid": math.isqrt(tokens.shape[1]),
        "patches": used.astype(int).tolist(),
        "heads": np.asarray(outputs["head_keep"] > 0.5).astype(int).tolist(),
        "attention": sublayers[:, 0].astype(int).tolist(),
        "mlp": sublayers[:, 1].astype(int).tolist(),
    }
