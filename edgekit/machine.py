"""What this machine is: the facts that stand beside a figure."""

import os
import platform
from pathlib import Path
from typing import Any

from edgekit.devices.scripts.probe import emulated
from edgekit.profiles import host_class
from edgekit.runtime.base import default_threads


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


def _cpu() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    for key in ("model name", "Model", "Hardware"):
        for line in lines:
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return platform.machine() or None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
