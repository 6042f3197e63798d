"""This machine: its facts and memory, and the versions of what measures a bundle on it."""

import platform
from dataclasses import dataclass
from pathlib import Path

from edgekit import __version__
from edgekit.config.device_classes import host_class
from edgekit.config.runtimes import find_runtime
from edgekit.report.device import DeviceFacts
from edgekit.support import probe
from edgekit.support.distribution import versions_of
from edgekit.support.probe import available_cores, board, emulated, processor


@dataclass(frozen=True)
class Memory:
    """Memory of a machine in bytes; None where unknown."""

    total: int | None
    """Installed memory."""
    available: int | None
    """Memory that a process could allocate now without swapping."""


def machine_memory() -> Memory:
    """Read the memory of this machine, within the limits of this process's control groups."""
    try:
        import psutil
    except ImportError:
        facts = probe.memory(Path("/"))
        return Memory(facts["memory_bytes"], facts["memory_available_bytes"])
    memory = psutil.virtual_memory()
    return Memory(*probe.within_limits(Path("/"), memory.total, memory.available))


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


ROOMS = ("compat", "config", "devices", "images", "measure", "report", "runtime", "support")
"""Folders of the package whose code runs and measures bundles."""


def measuring_versions(target: str) -> dict[str, str]:
    """Versions of a runtime, numpy, Pillow, Python and edgekit on this machine, and the hash of edgekit's own code."""
    distributions = ("numpy", "pillow", *find_runtime(target).distributions)
    return {"edgekit": __version__, **versions_of(distributions, ROOMS)}
