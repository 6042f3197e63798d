"""What this machine is: the facts that stand beside a figure."""

import os
import platform
from pathlib import Path
from typing import Any

from edgekit.config.device_classes import host_class
from edgekit.measure.probe import emulated
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


def _cpu() -> str | None:
    """The processor's name; on x86 with family and model, as a virtual machine's name hides the generation."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    facts: dict[str, str] = {}  # of the first processor
    for key, _, value in (line.partition(":") for line in lines):
        facts.setdefault(key.strip(), value.strip())
    name = next((facts[key] for key in ("model name", "Model", "Hardware") if facts.get(key)), None)
    if name and "cpu family" in facts:
        return f"{name} (family {facts['cpu family']}, model {facts.get('model')})"
    return name or platform.machine() or None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
