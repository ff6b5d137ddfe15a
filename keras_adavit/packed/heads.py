"""Leaving out the heads that no image of a batch uses.

Other skipped heads are computed and multiplied away: gathering weights for each image costs more than it saves.
"""

from keras import ops

from keras_adavit.kernels.dispatch import gather, linear

GATHER_COST = 128  # copying a weight takes about as long as this many multiply-accumulates with it


def fewer_heads_pay(head_keep, num_tokens):
    """Whether leaving heads out saves more time than gathering the weights of the others takes.

    Not where no head is used: some runtimes have no product of zero channels.

    Args:
        head_keep: Tensor (B, H) of 0 and 1.
        num_tokens: T, tokens of an image.

    Returns:
        Boolean scalar.
    """
    images, heads = ops.shape(head_keep)
    # A sum, not a maximum, which has no value in an empty batch.
    count = ops.sum(ops.minimum(ops.sum(head_keep, axis=0), 1.0))
    saved = ops.cast(images * num_tokens, count.dtype) * (heads - count)
    return ops.logical_and(count > 0, saved > GATHER_COST * count)


def used_heads_mask(head_keep, num_tokens):
    """Which heads to compute, those that an image uses or all: boolean (H,). Arguments are as above."""
    return ops.where(fewer_heads_pay(head_keep, num_tokens), ops.sum(head_keep, axis=0), 1.0) > 0.5


def linear_of_heads(layer, inputs, heads, shape, axis, hide_size):
    """A `Dense` layer with the weights of some heads.

    Args:
        layer: A `Dense`.
        inputs: Tensor (N, inputs of these heads).
        heads: Integers (U,), or `None`: all.
        shape: Shape of the kernel with the heads along `axis`.
        axis: 0 if the inputs are those of the heads, else the outputs are.
        hide_size: Function of a size and `heads`, see `dispatch.py`.

    Returns:
        Tensor (N, outputs of these heads).
    """
    if heads is None:
        return layer(inputs)
    inputs = ops.cast(inputs, layer.compute_dtype)

    def with_some():
        by_head = list(shape)
        by_head[axis] = hide_size(shape[axis], heads)
        kernel = gather(ops.reshape(layer.kernel, by_head), heads, axis=axis)
        kernel = ops.reshape(kernel, (shape[0], -1) if axis else (-1, shape[-1]))
        bias = layer.bias
        if axis and bias is not None:
            bias = ops.reshape(gather(ops.reshape(bias, by_head[1:]), heads, axis=axis - 1), (-1,))
        bias = None if bias is None else ops.cast(bias, inputs.dtype)
        return linear(inputs, ops.cast(kernel, inputs.dtype), bias, layer.activation)

    return ops.cond(ops.shape(heads)[0] == shape[axis], lambda: layer(inputs), with_some)
