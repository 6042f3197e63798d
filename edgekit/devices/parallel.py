"""Work on several devices at once, and the end of their connections when a command ends early."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

from edgekit.devices.registry import THIS, Device

T = TypeVar("T")
_open: set[Callable[[], None]] = set()
_ends = Event()


@contextmanager
def closing(close: Callable[[], None]) -> Iterator[None]:
    """Close a connection to devices when the block ends, or earlier if `close_all` is called.

    Raises KeyboardInterrupt while the threads of a command end, so that none of them connects again.
    """
    _open.add(close)
    try:
        if _ends.is_set():
            raise KeyboardInterrupt
        yield
    finally:
        close()
        _open.discard(close)


def close_all() -> None:
    """Close every connection of this process. Work in progress fails with the error of a lost device."""
    _ends.set()
    for close in list(_open):
        close()


def in_threads(devices: Sequence[Device], work: Callable[[Device], T], at_once: int) -> list[T]:
    """Work on devices in threads. Ctrl-C, or an exception in one, closes every connection, which ends the others."""
    try:
        with ThreadPoolExecutor(at_once, "device") as pool:
            futures = [pool.submit(work, device) for device in devices]
            try:
                for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                close_all()
                raise
    finally:
        _ends.clear()
    return [future.result() for future in futures]


def each_device(devices: Sequence[Device], measure: Callable[[Device], Sequence[T]]) -> list[T]:
    """Measure every device. Returns the rows in the order of the devices.

    This machine is measured last, because copying and listening for the others would distort its figures.
    """
    others = [device for device in devices if device != THIS]
    if len(others) < 2:
        return [row for device in devices for row in measure(device)]
    rows = dict(zip(others, in_threads(others, measure, len(others)), strict=True))
    if THIS in devices:
        rows[THIS] = measure(THIS)
    return [row for device in devices for row in rows[device]]
