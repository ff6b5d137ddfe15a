"""JAX: `keras.distribution.DataParallel`. JAX divides what is computed."""

import jax
import keras
from keras.src.backend.jax import trainer

from keras_adavit.devices.base import Devices, choose


class DataParallel(keras.distribution.DataParallel):
    """As of Keras, but that a batch which cannot be divided, such as a last one, is computed whole on every device."""

    def get_data_layout(self, data_shape):
        if data_shape[0] % self.device_mesh.devices.size:
            return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)
        return super().get_data_layout(data_shape)


class EpochIterator(trainer.JAXEpochIterator):
    """As of Keras, which lays all batches of an epoch as the first, so that it fails at a last one that is smaller."""

    def _get_distributed_iterator(self, distribution):
        return map(trainer._distribute_data, self.data_adapter.get_jax_iterator())


def find_devices(count):
    names = choose([f"{device.platform}:{device.id}" for device in jax.local_devices()], count)
    if len(names) == 1:
        return Devices()
    trainer.JAXEpochIterator = EpochIterator
    return Devices(len(names), DataParallel(devices=names).scope)
