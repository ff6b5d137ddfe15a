"""TensorFlow: `MirroredStrategy`, and `MultiWorkerMirroredStrategy` over hosts.

Every device runs a training step by itself, on its part of the batch.
"""

import functools
import json
import os

import tensorflow as tf

from keras_adavit.devices.base import Devices, choose, find_hosts


def find_devices(count):
    addresses, host = find_hosts()
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    if addresses:
        strategy = join_hosts(tuple(addresses), host, kind, count)
        return Devices(
            strategy.num_replicas_in_sync,
            strategy.scope,
            by_itself=True,
            hosts=len(addresses),
            host=host,
            distribute=functools.partial(distribute, strategy),
        )
    found = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices(kind)]
    names = choose(found, count)
    if len(names) == 1:
        return Devices()
    return Devices(len(names), make_strategy(tuple(names)).scope, by_itself=True)


class Hosts(tf.distribute.MultiWorkerMirroredStrategy):
    """As of TensorFlow, but that it can reduce what Keras asks it to."""

    def reduce(self, reduce_op, value, axis):
        if isinstance(value, tuple):  # a batch, of which only the form is wanted
            return tuple(self.experimental_local_results(part)[0] for part in value)
        rank = self.experimental_local_results(value)[0].shape.rank
        return super().reduce(reduce_op, value, axis if rank else None)  # figures of a step have no axis


@functools.cache  # a process joins once
def join_hosts(addresses, host, kind, count):
    """The strategy of several hosts, each with so many devices."""
    found = tf.config.list_physical_devices(kind)
    names = choose([device.name.removeprefix("/physical_device:") for device in found], count)
    tf.config.set_visible_devices(found[: len(names)], kind)
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": host}}
    os.environ["TF_CONFIG"] = json.dumps(cluster)
    return Hosts()


def distribute(strategy, parts, batch_size):
    """The dataset of a strategy, of this host's parts of batches of `batch_size`, which its own devices share."""
    size = batch_size // strategy.num_replicas_in_sync
    return strategy.distribute_datasets_from_function(lambda _: parts.rebatch(size))


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
