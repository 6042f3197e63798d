"""Memory of this machine and of processes.

psutil reads it wherever edgekit has its `cli` extra. Devices have no psutil: there the probe reads Linux's own files.
"""

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgekit.measure import probe


@dataclass(frozen=True)
class Memory:
    """Memory of a machine in bytes; None for what can't be found out."""

    total: int | None
    available: int | None
    """What a process could take now without anything being swapped out."""


def machine_memory() -> Memory:
    """The memory of this machine."""
    try:
        import psutil
    except ImportError:
        facts = probe.memory(Path("/"))
        return Memory(facts["memory_bytes"], facts["memory_available_bytes"])
    found = psutil.virtual_memory()
    return Memory(found.total, found.available)


def resident_bytes(pid: int) -> int:
    """What a process has in memory now; 0 for one that has ended. Needs psutil."""
    import psutil

    with suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def peak_rss_bytes() -> int:
    """The most that this process has had in memory. Works without psutil, which doesn't know it on Linux."""
    try:
        # The peak that getrusage gives starts at the parent's, because it survives exec.
        status = Path("/proc/self/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    except (OSError, StopIteration):
        pass
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
