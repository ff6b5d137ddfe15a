"""JAX: `keras.distribution.DataParallel`. JAX divides what is computed, over the devices of several hosts too."""

import jax
import keras
from keras.src import tree
from keras.src.backend.jax import trainer

from keras_adavit.devices.base import Devices, choose, find_hosts


class DataParallel(keras.distribution.DataParallel):
    """As of Keras, but that a batch which cannot be divided, such as a last one, is computed whole on every device."""

    def get_data_layout(self, data_shape):
        if data_shape[0] % self.device_mesh.devices.size:
            return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)
        return super().get_data_layout(data_shape)

    def lay(self, array, parts):
        """Lays the rows of an array over the devices; of several hosts each has its part of them, or all have all."""
        shape = (len(array) * parts, *array.shape[1:])
        layout = self.get_data_layout(shape).backend_layout
        return jax.make_array_from_process_local_data(layout, array, shape)


class EpochIterator(trainer.JAXEpochIterator):
    """As of Keras, which lays all batches of an epoch as the first, so that it fails at a last one that is smaller.

    Of several hosts, each reads its parts of the batches of a training, which has a number of steps, and the whole ones
    of an evaluation.
    """

    def _get_distributed_iterator(self, distribution):
        parts = 1 if self.steps_per_epoch is None else jax.process_count()
        for batch in self.data_adapter.get_jax_iterator():
            yield tree.map_structure(lambda array: distribution.lay(array, parts), batch)


def find_devices(count):
    addresses, host = find_hosts()
    if addresses and not jax.distributed.is_initialized():
        keras.distribution.initialize(",".join(addresses), len(addresses), host)
    own = len(choose([name(device) for device in jax.local_devices()], count))
    hosts = jax.process_count()
    chosen = [device for index in range(hosts) for device in jax.local_devices(index)[:own]]
    if len(chosen) == 1:
        return Devices()
    trainer.JAXEpochIterator = EpochIterator
    distribution = DataParallel(devices=[name(device) for device in chosen], auto_shard_dataset=False)
    return Devices(len(chosen), distribution.scope, hosts=hosts, host=jax.process_index())


def name(device):
    return f"{device.platform}:{device.id}"
