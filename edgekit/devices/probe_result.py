"""The result of `edgekit.support.probe` on a machine: a device or this one."""

from dataclasses import dataclass
from typing import Any

import msgspec

from edgekit.config.device_classes import class_of
from edgekit.report.device import MachineState


@dataclass(frozen=True)
class InstalledPython:
    """A Python on the path."""

    path: str
    """Path of the interpreter."""
    version: str
    """Version, such as "3.13.5"."""
    ensurepip: bool
    """Whether it can create virtual environments with pip."""


@dataclass(frozen=True, kw_only=True)
class ProbeResult(MachineState):
    """Result of `edgekit.support.probe` on a machine. None stands for unknown. Sizes are in bytes."""

    board: str | None
    """Model of the board, from the device tree."""
    machine: str
    """Architecture, as uname spells it."""
    kernel: str
    """Release of the Linux kernel."""
    emulated: bool | None
    """Whether QEMU emulates the processor."""
    glibc: str | None
    """Version of glibc, or None for another C library."""
    pythons: tuple[InstalledPython, ...]
    """Pythons on the path, in order of preference."""
    cpu: str | None
    """Name of the processor."""
    features: tuple[str, ...] | None
    """Features of the processor, as /proc/cpuinfo spells them."""
    noted_features: tuple[str, ...] | None
    """Features that decide which kernels a runtime uses."""
    cores: int | None
    """Number of physical cores that a process may use, within the quota of its control groups."""
    memory_bytes: int | None
    """Total memory, within the limit of its control groups."""
    memory_available_bytes: int | None
    """Memory that programs can still use."""
    cache: str
    """Path of edgekit's folder on the machine."""
    disk_free_bytes: int | None
    """Free disk space in that folder."""
    cache_writable: bool
    """Whether that folder can be written."""

    @property
    def matching_class(self) -> str | None:
        """Name of the device class that matches the machine, or None."""
        return class_of(self.board, self.features or ())


def read_probe(probed: Any) -> ProbeResult:
    """Convert the probe's output; msgspec.ValidationError if it has another shape."""
    return msgspec.convert(probed, ProbeResult)
