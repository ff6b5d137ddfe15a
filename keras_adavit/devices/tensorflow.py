"""TensorFlow: `MirroredStrategy`. Every device runs a training step by itself, on its part of the batch."""

import functools

import tensorflow as tf

from keras_adavit.devices.base import Devices, choose


def find_devices(count):
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    found = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices(kind)]
    names = choose(found, count)
    if len(names) == 1:
        return Devices()
    # Keras accumulates under a condition, in which devices cannot wait for each other.
    return Devices(len(names), make_strategy(tuple(names)).scope, can_accumulate=False)


@functools.cache  # a second one for the same devices takes what the first gathers for its own
def make_strategy(names):
    return tf.distribute.MirroredStrategy(names)


def replicas():
    return tf.distribute.get_strategy().num_replicas_in_sync


def several():
    """The context of this device, where a step runs on several; else `None`."""
    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def whole_batch(values):
    context = several()
    if context is None:
        return values
    return {
        name: tf.ensure_shape(context.all_gather(value, axis=0), (None, *value.shape[1:]))
        for name, value in values.items()
    }


def draw(function, images):
    context = several()
    if context is None:
        return function(images)
    begin = context.replica_id_in_sync_group * images
    return function(context.num_replicas_in_sync * images)[begin : begin + images]


def sum_gradients(gradients):
    context = several()
    return gradients if context is None else context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
