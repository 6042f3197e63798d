"""Several devices at once: those over SSH beside each other, this machine after them."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

from edgekit.devices.registry import THIS, Device
from edgekit.devices.transport import close_all

T = TypeVar("T")


def each_device(devices: Sequence[Device], measure: Callable[[Device], Sequence[T]]) -> list[T]:
    """The rows of every device, in the order of the devices; `measure` runs in a thread for each one over SSH.

    This machine is measured when the others are done: what copies and listens for them would be in its figures.
    Ctrl-C ends every connection, and with it what runs there.
    """
    others = [device for device in devices if device != THIS]
    if len(others) < 2:
        return [row for device in devices for row in measure(device)]
    with ThreadPoolExecutor(len(others), "device") as pool:
        work = {device: pool.submit(measure, device) for device in others}
        try:
            wait(work.values(), return_when=FIRST_EXCEPTION)
            found = {device: future.result() for device, future in work.items()}
        except KeyboardInterrupt:
            close_all()
            raise
    if THIS in devices:
        found[THIS] = measure(THIS)
    return [row for device in devices for row in found[device]]
