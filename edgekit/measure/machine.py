"""What this machine is: the facts that stand beside a figure."""

import platform
from pathlib import Path

from edgekit.config.device_classes import host_class
from edgekit.measure.memory import machine_memory
from edgekit.measure.probe import emulated, processor
from edgekit.report.device_facts import DeviceFacts
from edgekit.runtime.engine import default_threads


def describe(name: str = "local", device_class: str | None = None) -> DeviceFacts:
    """The facts of this machine; without `device_class` it is the one that fits. What can't be found out is None."""
    return DeviceFacts(
        name=name,
        device_class=device_class or host_class(),
        cpu=_cpu(),
        cores=default_threads(),
        memory_bytes=machine_memory().total,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        emulated=emulated(Path("/")),
    )


def _cpu(root: Path = Path("/")) -> str | None:
    """The processor's name; the best that the system says where Linux's list of processors is missing or has none."""
    name = processor(root)["cpu"] or platform.processor() or platform.machine()
    return str(name) if name else None
