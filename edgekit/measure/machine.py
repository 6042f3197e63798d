"""What this machine is: the facts that stand beside a figure."""

import platform
from pathlib import Path
from typing import Any

from edgekit.config.device_classes import host_class
from edgekit.measure.memory import machine_memory
from edgekit.measure.probe import emulated, processor
from edgekit.runtime.engine import default_threads


def describe(name: str = "local") -> dict[str, Any]:
    """The `device` object of report.json. What can't be found out is null."""
    return {
        "name": name,
        "class": host_class(),
        "cpu": _cpu(),
        "cores": default_threads(),
        "memory_bytes": _memory(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "emulated": emulated(Path("/")),
    }


def _cpu(root: Path = Path("/")) -> str | None:
    """The processor's name; the best that the system says where Linux's list of processors is missing or has none."""
    name = processor(root)["cpu"] or platform.processor() or platform.machine()
    return str(name) if name else None


def _memory() -> int | None:
    return machine_memory().total
