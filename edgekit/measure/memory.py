"""Memory of this machine and of processes.

psutil reads it wherever edgekit has its `cli` extra. Devices don't have psutil, so there the probe reads Linux's files.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from edgekit.support import probe


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


def peak_rss_bytes() -> int:
    """Peak resident memory of this process. Works without psutil, which doesn't report it on Linux."""
    try:
        # The peak from getrusage includes the parent's, because it survives exec.
        status = Path("/proc/self/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    except (OSError, StopIteration):
        pass
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
