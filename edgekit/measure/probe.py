"""Prints what this machine is, as one JSON object. Reads only; runs on Python 3.7 and newer.

What can't be found out is null, never guessed. Heat is in degrees Celsius, clocks in MHz, sizes in bytes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

NOTED = (
    "asimd", "asimddp", "asimdhp", "fphp", "i8mm", "bf16", "sve",
    "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8",
)  # fmt: skip
"""Features that decide which kernels a runtime takes."""
PYTHONS = ("python3", "python3.11", "python3.12", "python3.13", "python3.14")


def text(path: Path) -> str | None:
    """The content of a small file without its end, or None."""
    try:
        return path.read_text(errors="replace").strip("\0 \n") or None
    except OSError:
        return None


def number(path: Path, scale: float = 1) -> float | None:
    """The number in a file times `scale`, or None."""
    try:
        return float(text(path) or "") * scale
    except ValueError:
        return None


def said(*command: str) -> str | None:
    """What a command prints, or None where there is none or it fails."""
    try:
        return subprocess.run(command, stdout=-1, stderr=-3, stdin=-3, timeout=10, check=True).stdout.decode().strip()
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def processor(root: Path) -> dict[str, object]:
    """Name, features and cores."""
    lines = (text(root / "proc/cpuinfo") or "").splitlines()
    keys = dict((line.partition(":")[0].strip(), line.partition(":")[2].strip()) for line in reversed(lines))
    flags = (keys.get("flags") or keys.get("Features") or "").split()
    try:
        cores: int | None = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count()
    name = keys.get("model name") or keys.get("Model") or keys.get("Hardware")
    if name and "cpu family" in keys:  # of x86: the name that a virtual machine gives hides the generation
        name += " (family {}, model {})".format(keys["cpu family"], keys.get("model"))
    return {
        "cpu": name,
        "features": flags or None,
        "noted_features": [name for name in NOTED if name in flags] if flags else None,
        "cores": cores,
    }


def clocks(root: Path) -> dict[str, object]:
    """MHz now (the fastest core's) and at most, and the governor."""
    folders = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    now = [mhz for mhz in (number(each / "scaling_cur_freq", 1e-3) for each in folders) if mhz is not None]
    most = [mhz for mhz in (number(each / "cpuinfo_max_freq", 1e-3) for each in folders) if mhz is not None]
    return {
        "clock_mhz": max(now) if now else None,
        "clock_max_mhz": max(most) if most else None,
        "governor": text(folders[0] / "scaling_governor") if folders else None,
    }


def heat(root: Path) -> dict[str, object]:
    """The hottest zone, and what firmware, processor and kernel say of throttling.

    `throttle_events` counts since the start, as x86 processors do; `cooling_state` is how far the kernel's thermal
    governor holds the clock down, 0 for not at all.
    """
    thermal = root / "sys/class/thermal"
    zones = (number(each / "temp", 1e-3) for each in thermal.glob("thermal_zone*"))
    degrees = [each for each in zones if each is not None and -50 < each < 200]
    cpus = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    events = [count for count in map(number, cpus) if count is not None]
    holding = [each for each in thermal.glob("cooling_device*") if "cpufreq" in (text(each / "type") or "")]
    states = [held for held in (number(each / "cur_state") for each in holding) if held is not None]
    return {
        "celsius": max(degrees) if degrees else None,
        "throttled": throttled(said("vcgencmd", "get_throttled")),
        "throttle_events": int(sum(events)) if events else None,
        "cooling_state": int(max(states)) if states else None,
    }


def throttled(answer: str | None) -> dict[str, object] | None:
    """The bits of a Raspberry Pi's get_throttled: what is so now, and what has been since it started."""
    found = re.search("throttled=(0x[0-9a-fA-F]+)", answer or "")
    if not found:
        return None
    bits, names = int(found.group(1), 16), ("under-voltage", "frequency capped", "throttled", "soft limit on heat")
    return {
        "bits": bits,
        "now": [name for place, name in enumerate(names) if bits >> place & 1],
        "since_boot": [name for place, name in enumerate(names) if bits >> (place + 16) & 1],
    }


def state(root: Path = Path("/")) -> dict[str, object]:
    """What changes while it works: clocks, heat, throttling, load."""
    try:
        load = os.getloadavg()[0]
    except (OSError, AttributeError):  # Windows has no load average
        load = None
    return {**clocks(root), **heat(root), "load": load}


def busy_seconds(root: Path, cpus: frozenset[int]) -> float | None:
    """Seconds that these CPUs have worked since the start, all together; what a host takes from a guest included."""
    busy, seen = 0.0, 0
    for line in (text(root / "proc/stat") or "").splitlines():
        name, *counts = line.split()
        if re.fullmatch(r"cpu\d+", name) and int(name[3:]) in cpus and len(counts) >= 8:
            user, nice, system, _, _, irq, softirq, steal = map(int, counts[:8])
            busy += user + nice + system + irq + softirq + steal
            seen += 1
    return busy / os.sysconf("SC_CLK_TCK") if seen == len(cpus) else None


def memory(root: Path) -> dict[str, int | None]:
    """Bytes in all, and free to be taken."""
    sizes = dict(re.findall(r"^(\w+): +(\d+) kB", text(root / "proc/meminfo") or "", re.M))
    total, available = sizes.get("MemTotal"), sizes.get("MemAvailable")
    return {
        "memory_bytes": int(total) * 1024 if total else None,
        "memory_available_bytes": int(available) * 1024 if available else None,
    }


def cache() -> str:
    """Where edgekit keeps what it brings here."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "edgekit")


def disk(folder: str) -> dict[str, object]:
    """The cache folder, and the bytes free where it is or would be."""
    place = folder
    while not os.path.exists(place) and os.path.dirname(place) != place:
        place = os.path.dirname(place)
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        free = None
    return {"cache": folder, "disk_free_bytes": free, "cache_writable": os.access(place, os.W_OK | os.X_OK)}


def pythons() -> list[dict[str, object]]:
    """Each Python on the path: where, its version, and whether it can make environments with pip."""
    code = "import sys, importlib.util as u; print('%d.%d.%d' % sys.version_info[:3], bool(u.find_spec('ensurepip')))"
    found, seen = [], set()
    for name in PYTHONS:
        path = shutil.which(name)
        if not path or os.path.realpath(path) in seen:
            continue
        seen.add(os.path.realpath(path))
        if os.path.realpath(path) == os.path.realpath(sys.executable):
            pip = importlib.util.find_spec("ensurepip") is not None
            answer = f"{platform.python_version()} {pip}"
        else:
            answer = said(path, "-I", "-c", code) or ""
        if len(answer.split()) == 2:
            version, has_pip = answer.split()
            found.append({"path": path, "version": version, "ensurepip": has_pip == "True"})
    return found


def emulated(root: Path) -> bool | None:
    """Whether QEMU stands in for the processor; None where that can't be told."""
    if "QEMU_CPU" in os.environ or (root / "sys/firmware/qemu_fw_cfg").exists():
        return True
    compiled = said("uname", "-v") or ""
    maps = text(root / "proc/self/maps")
    return None if maps is None else "qemu-" in maps or "qemu-" in compiled


def probe(root: Path = Path("/")) -> dict[str, object]:
    """All of it. `root` is where proc and sys are."""
    board = text(root / "sys/firmware/devicetree/base/model") or text(root / "proc/device-tree/model")
    libc, version = platform.libc_ver()
    system = platform.uname()
    return {
        "board": board,
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
