"""Several devices by the backend's own engine; a new one is a module with these functions and a branch here.

- `find_devices(count)`: the `Devices` that train; `count` is a number or `"all"`.
- `replicas()`: how many devices run a training step, each by itself and on its part of the batch.
- `whole_batch(values)`: a dict of tensors (B, ...) of the whole batch, from those of this device's part.
- `draw(function, images)`: the part of this device, of `images` images, of what `function` draws for as many as the
  whole batch has: each image has its noise, however many devices there are.
- `sum_gradients(gradients)`: their sums over the devices.

On JAX a step sees the whole batch, wherever it lies, and torch has one device: there, all but the first do nothing.
"""

import keras

backend = keras.backend.backend()
if backend == "tensorflow":
    from keras_adavit.devices.tensorflow import draw, find_devices, replicas, sum_gradients, whole_batch
else:
    if backend == "jax":
        from keras_adavit.devices.jax import find_devices
    else:
        from keras_adavit.devices.torch import find_devices

    def replicas():
        return 1

    def whole_batch(values):
        return values

    def draw(function, images):
        return function(images)

    def sum_gradients(gradients):
        return gradients


__all__ = ["draw", "find_devices", "replicas", "sum_gradients", "whole_batch"]
