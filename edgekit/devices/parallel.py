"""Measure several devices: boards and browsers in parallel, then this machine."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

from edgekit.devices.closing import close_all
from edgekit.devices.registry import THIS, Device

T = TypeVar("T")


def each_device(devices: Sequence[Device], measure: Callable[[Device], Sequence[T]]) -> list[T]:
    """Measure every device. Returns the rows in the order of the devices. Each other device has a thread.

    This machine is measured last, because copying and listening for the others would distort its figures. Ctrl-C, or
    an exception in one thread, closes every connection, which ends the work on the devices.
    """
    others = [device for device in devices if device != THIS]
    if len(others) < 2:
        return [row for device in devices for row in measure(device)]
    with ThreadPoolExecutor(len(others), "device") as pool:
        work = {device: pool.submit(measure, device) for device in others}
        try:
            wait(work.values(), return_when=FIRST_EXCEPTION)
            rows = {device: future.result() for device, future in work.items()}
        except BaseException:
            close_all()
            raise
    if THIS in devices:
        rows[THIS] = measure(THIS)
    return [row for device in devices for row in rows[device]]
