"""Describe this machine as one JSON object, without changing anything. Runs on Python 3.7 and newer.

`edgekit.devices.setup` documents its keys. `edgekit.devices.scripts` sends this file to devices as text, so it
imports nothing but the standard library. Unknown values are null, never guessed. Temperatures are in degrees Celsius,
clocks in MHz, sizes in bytes.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

NOTED = (
    "asimd",
    "asimddp",
    "asimdhp",
    "fphp",
    "i8mm",
    "bf16",
    "sve",
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
)
"""Features of a processor that decide which kernels a runtime chooses."""
PYTHONS = ("python3", "python3.11", "python3.12", "python3.13", "python3.14")


def text(path: Path) -> str | None:
    """Content of a small file without trailing zeros and whitespace, or None."""
    try:
        return path.read_text(errors="replace").strip("\0 \n") or None
    except OSError:
        return None


def number(path: Path, scale: float = 1) -> float | None:
    """Number in a file, multiplied by `scale`, or None."""
    try:
        return float(text(path) or "") * scale
    except ValueError:
        return None


def output_of(*command: str) -> str | None:
    """Output of a command, or None if it doesn't exist or fails."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=True)
        return done.stdout.decode().strip()
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def processor(root: Path) -> dict[str, object]:
    """Name, features and physical cores of the processor."""
    lines = (text(root / "proc/cpuinfo") or "").splitlines()
    keys = dict((line.partition(":")[0].strip(), line.partition(":")[2].strip()) for line in reversed(lines))
    flags = (keys.get("flags") or keys.get("Features") or "").split()
    name = keys.get("model name") or keys.get("Model") or keys.get("Hardware")
    if name and "cpu family" in keys:  # x86, where the name in a virtual machine hides the generation
        name += " (family {}, model {})".format(keys["cpu family"], keys.get("model"))
    return {
        "cpu": name,
        "features": flags or None,
        "noted_features": [name for name in NOTED if name in flags] if flags else None,
        "cores": available_cores(root),
    }


def available_cores(root: Path = Path("/")) -> int:
    """Number of physical cores that this process may use, which is the default of --threads; `root` has sys and proc.

    They are those in its affinity mask, and no more than the whole CPUs of its control groups' quotas: threads beyond
    a quota are all stopped for the rest of each period.
    """
    return max(1, min([physical_cores(root), *map(int, quotas(root))]))


def physical_cores(root: Path) -> int:
    """Number of physical cores that the CPUs in this process's affinity mask belong to."""
    folder = root / "sys/devices/system/cpu"
    return len({text(folder / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in affinity()})


def affinity() -> frozenset[int]:
    """The CPUs in this process's affinity mask."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return frozenset(range(os.cpu_count() or 1))


def quotas(root: Path) -> list[float]:
    """CPUs that each of this process's control groups with a quota may use."""
    found = []
    for group in control_groups(root, "cpu"):
        quota, _, period = (text(group / "cpu.max") or "").partition(" ")  # version 2
        quota = quota or text(group / "cpu.cfs_quota_us") or ""
        period = period or text(group / "cpu.cfs_period_us") or ""
        if quota.isdecimal() and period.isdecimal() and int(period):  # without a quota it is "max", or -1
            found.append(int(quota) / int(period))
    return found


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups that this process is in, of versions 1 and 2, from the innermost to the outermost.

    In a container without a namespace for them, the path of its group is that on the host, which is mounted at the top.
    """
    mounts = root / "sys/fs/cgroup"
    for line in (text(root / "proc/self/cgroup") or "").splitlines():
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        candidates = (mounts / names, mounts / controller) if names else (mounts / "unified", mounts)
        top = next((folder for folder in candidates if folder.is_dir()), mounts)
        parts = [part for part in path.split("/") if part not in ("", "..")]
        yield from (top.joinpath(*parts[:count]) for count in range(len(parts), -1, -1))


def board(root: Path) -> str | None:
    """Model of the board, from the device tree."""
    return text(root / "sys/firmware/devicetree/base/model") or text(root / "proc/device-tree/model")


def clocks(root: Path) -> dict[str, object]:
    """Current clock of the fastest core, highest clock, and governor."""
    folders = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    now = [mhz for mhz in (number(folder / "scaling_cur_freq", 1e-3) for folder in folders) if mhz is not None]
    most = [mhz for mhz in (number(folder / "cpuinfo_max_freq", 1e-3) for folder in folders) if mhz is not None]
    return {
        "clock_mhz": max(now) if now else None,
        "clock_max_mhz": max(most) if most else None,
        "governor": text(folders[0] / "scaling_governor") if folders else None,
    }


def heat(root: Path) -> dict[str, object]:
    """Temperature of the hottest zone, and throttling as firmware, processor and kernel report it.

    `throttle_events` is the counter of x86 processors since boot. `cooling_state` is the level by which the kernel's
    thermal governor limits the clock; 0 means no limit.
    """
    thermal = root / "sys/class/thermal"
    zones = (number(zone / "temp", 1e-3) for zone in thermal.glob("thermal_zone*"))
    degrees = [celsius for celsius in zones if celsius is not None and -50 < celsius < 200]
    cpus = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    events = [count for count in map(number, cpus) if count is not None]
    devices = [device for device in thermal.glob("cooling_device*") if "cpufreq" in (text(device / "type") or "")]
    states = [level for level in (number(device / "cur_state") for device in devices) if level is not None]
    return {
        "celsius": max(degrees) if degrees else None,
        "throttled": throttled(output_of("vcgencmd", "get_throttled")),
        "throttle_events": int(sum(events)) if events else None,
        "cooling_state": int(max(states)) if states else None,
    }


def throttled(answer: str | None) -> dict[str, object] | None:
    """Decode the bits of a Raspberry Pi's get_throttled: conditions now, and conditions since boot."""
    match = re.search("throttled=(0x[0-9a-fA-F]+)", answer or "")
    if not match:
        return None
    bits, names = int(match.group(1), 16), ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
    return {
        "bits": bits,
        "now": [name for place, name in enumerate(names) if bits >> place & 1],
        "since_boot": [name for place, name in enumerate(names) if bits >> (place + 16) & 1],
    }


def state(root: Path = Path("/")) -> dict[str, object]:
    """Values that change during a measurement: clocks, temperature, throttling and load."""
    try:
        load = os.getloadavg()[0]
    except (OSError, AttributeError):  # Windows has no load average
        load = None
    return {**clocks(root), **heat(root), "load": load}


def busy_seconds(root: Path, cpus: frozenset[int]) -> float | None:
    """Total busy seconds of these CPUs since boot, including the time that a host takes from a guest."""
    busy, counted = 0.0, 0
    for line in (text(root / "proc/stat") or "").splitlines():
        name, *counts = line.split()
        if re.fullmatch(r"cpu\d+", name) and int(name[3:]) in cpus and len(counts) >= 8:
            user, nice, system, _, _, irq, softirq, steal = map(int, counts[:8])
            busy += user + nice + system + irq + softirq + steal
            counted += 1
    return busy / os.sysconf("SC_CLK_TCK") if counted == len(cpus) else None


def memory(root: Path) -> dict[str, int | None]:
    """Installed and available memory in bytes, within the limits of this process's control groups."""
    sizes = dict(re.findall(r"^(\w+): +(\d+) kB", text(root / "proc/meminfo") or "", re.M))
    total, available = (int(sizes[name]) * 1024 if name in sizes else None for name in ("MemTotal", "MemAvailable"))
    total, available = within_limits(root, total, available)
    return {"memory_bytes": total, "memory_available_bytes": available}


def within_limits(root: Path, total: int | None, available: int | None) -> tuple[int | None, int | None]:
    """A machine's total and available memory in bytes, within the limits of this process's control groups.

    What a group caches of files that were not read lately counts as available, as on a machine.
    """
    for group in control_groups(root, "memory"):
        limit = number(group / "memory.max") or number(group / "memory.limit_in_bytes")  # without a limit it is "max"
        used = number(group / "memory.current") or number(group / "memory.usage_in_bytes") or 0
        counts = dict(re.findall(r"^(\w+) (\d+)$", text(group / "memory.stat") or "", re.M))
        cached = int(counts.get("total_inactive_file") or counts.get("inactive_file") or 0)
        if limit is not None:
            total = min(int(limit), total or int(limit))
            room = max(0, int(limit - used) + cached)
            available = room if available is None else min(available, room)
    return total, available


def cache() -> str:
    """Folder in which edgekit keeps its files on this machine."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "edgekit")


def disk(folder: str) -> dict[str, object]:
    """The cache folder, and the free bytes on its disk; the folder need not exist."""
    place = folder
    while not os.path.exists(place) and os.path.dirname(place) != place:
        place = os.path.dirname(place)
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        free = None
    return {"cache": folder, "disk_free_bytes": free, "cache_writable": os.access(place, os.W_OK | os.X_OK)}


def pythons() -> list[dict[str, str]]:
    """Path and version of each Python on PATH."""
    code = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
    interpreters, seen = [], set()
    for name in PYTHONS:
        path = shutil.which(name)
        if not path or os.path.realpath(path) in seen:
            continue
        seen.add(os.path.realpath(path))
        if version := (output_of(path, "-I", "-c", code) or "").strip():
            interpreters.append({"path": path, "version": version})
    return interpreters


def emulated(root: Path) -> bool | None:
    """Whether QEMU emulates the processor; None if unknown."""
    if "QEMU_CPU" in os.environ or (root / "sys/firmware/qemu_fw_cfg").exists():
        return True
    kernel = output_of("uname", "-v") or ""
    maps = text(root / "proc/self/maps")
    return None if maps is None else "qemu-" in maps or "qemu-" in kernel


def probe(root: Path = Path("/")) -> dict[str, object]:
    """Everything that is known about this machine. `root` is the folder of proc and sys."""
    libc, version = platform.libc_ver()
    system = platform.uname()
    return {
        "board": board(root),
        "machine": system.machine,
        "kernel": system.release,
        "emulated": emulated(root),
        "glibc": version if libc == "glibc" else None,
        "pythons": pythons(),
        **processor(root),
        **memory(root),
        **disk(cache()),
        **state(root),
    }


if __name__ == "__main__":
    print(json.dumps(probe()))
