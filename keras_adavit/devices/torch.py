"""torch: Keras trains on one device there."""

from keras_adavit.devices.base import Devices
from keras_adavit.errors import InputError


def find_devices(count):
    if count not in (1, "all"):
        raise InputError(f"`devices` must be 1 on torch, where Keras trains on no more. Received: devices={count}")
    return Devices()
