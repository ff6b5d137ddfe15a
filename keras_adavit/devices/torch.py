"""torch: Keras trains on one device there."""

from keras_adavit.devices.base import ADDRESSES, Devices, find_hosts
from keras_adavit.errors import InputError


def find_devices(count):
    if count not in (1, "all"):
        raise InputError(f"`devices` must be 1 on torch, where Keras trains on no more. Received: devices={count}")
    if find_hosts()[0]:
        raise InputError(
            f"`{ADDRESSES}` must be empty on torch, where Keras trains on one device. Received: several hosts"
        )
    return Devices()
