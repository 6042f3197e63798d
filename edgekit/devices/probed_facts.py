"""What the probe says of a machine, on a device or here."""

from dataclasses import dataclass
from typing import Any

import msgspec

from edgekit.config.device_classes import class_of
from edgekit.report.conditions import MachineState


@dataclass(frozen=True)
class PythonFacts:
    """A Python on the path, and whether it can make environments with pip."""

    path: str
    version: str
    ensurepip: bool


@dataclass(frozen=True, kw_only=True)
class ProbedFacts(MachineState):
    """A machine as `edgekit.measure.probe` found it. What could not be found out is None. Sizes are in bytes."""

    board: str | None
    """The device tree's model."""
    machine: str
    """The architecture, as uname spells it."""
    kernel: str
    emulated: bool | None
    """QEMU stands in for the processor."""
    glibc: str | None
    """The version of glibc, or None for another C library."""
    pythons: tuple[PythonFacts, ...]
    """In the order in which they are preferred."""
    cpu: str | None
    features: tuple[str, ...] | None
    """Features of the processor, as /proc/cpuinfo spells them."""
    noted_features: tuple[str, ...] | None
    """Those of them that decide which kernels a runtime takes."""
    cores: int | None
    memory_bytes: int | None
    memory_available_bytes: int | None
    cache: str
    """The folder in which edgekit keeps what it brings there."""
    disk_free_bytes: int | None
    """Free where that folder is."""
    cache_writable: bool

    @property
    def matching_class(self) -> str | None:
        """The device class that fits the machine, or None."""
        return class_of(self.board, self.features or ())


def facts_of(probed: Any) -> ProbedFacts:
    """The facts in what the probe returns or prints; msgspec.ValidationError if they have another shape."""
    return msgspec.convert(probed, ProbedFacts)
