"""Describe this machine, for the figures that were measured on it."""

import platform
from pathlib import Path

from edgekit.config.device_classes import host_class
from edgekit.measure.memory import machine_memory
from edgekit.report.device import DeviceFacts
from edgekit.support.probe import available_cores, board, emulated, processor


def describe(name: str = "local", device_class: str | None = None) -> DeviceFacts:
    """Facts about this machine, None where unknown. Without `device_class`, the class that fits is used."""
    return DeviceFacts(
        name=name,
        device_class=device_class or host_class(),
        cpu=_cpu(),
        cores=available_cores(),
        memory_bytes=machine_memory().total,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        emulated=emulated(Path("/")),
    )


def _cpu(root: Path = Path("/")) -> str | None:
    """Name of the board or of the processor, or of its architecture where Linux's files are missing or have no name."""
    name = board(root) or processor(root)["cpu"] or platform.processor() or platform.machine()
    return str(name) if name else None
