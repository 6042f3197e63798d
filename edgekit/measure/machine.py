"""This machine: its facts and memory, the versions of what measures a bundle on it, and its state during timing."""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekit import __version__
from edgekit.config.device_classes import host_class
from edgekit.config.runtimes import find_runtime
from edgekit.report.device import Conditions, DeviceFacts, MachineState, Sample
from edgekit.support import probe
from edgekit.support.distribution import versions_of


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
        cores=probe.available_cores(),
        memory_bytes=machine_memory().total,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        emulated=probe.emulated(Path("/")),
    )


def _cpu(root: Path = Path("/")) -> str | None:
    """Name of the board or of the processor, or of its architecture where Linux's files are missing or have no name."""
    name = probe.board(root) or probe.processor(root)["cpu"] or platform.processor() or platform.machine()
    return str(name) if name else None


ROOMS = ("compat", "config", "devices", "images", "measure", "report", "runtime", "support")
"""Folders of the package whose code runs and measures bundles."""


def measuring_versions(target: str) -> dict[str, str]:
    """Versions of a runtime, numpy, Pillow, Python and edgekit on this machine, and the hash of edgekit's own code."""
    distributions = ("numpy", "pillow", *find_runtime(target).distributions)
    return {"edgekit": __version__, **versions_of(distributions, ROOMS)}


EVERY_S = 1.0
"""Seconds between two samples, at first."""
MOST_SAMPLES = 120
"""Length of a series above which every second sample is dropped, and the interval between samples is doubled."""
SHORTEST_S = 0.5
"""Shortest measurement that tells the load of other processes, because the system counts hundredths of a second."""


class TelemetrySampler:
    """Samples clocks, temperature, throttling and the load of other processes during timing, from its creation on.

    Call it after each turn of the calls, in the thread that times them, so that no sample falls into a timed run, and
    `finish` to get the conditions. Values that the system doesn't report are None.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root, self._every = root, EVERY_S
        self._before = machine_state(root)
        self._cpus = probe.affinity()
        self._series: list[Sample] = []
        self._busy, self._own = probe.busy_seconds(root, self._cpus), _own_seconds()
        self._start = time.monotonic()
        self._next = self._start + self._every

    def __call__(self) -> None:
        """Take a sample if one is due."""
        if time.monotonic() < self._next:
            return
        self._sample(machine_state(self._root))
        if len(self._series) > MOST_SAMPLES:
            self._series, self._every = self._series[::2], 2 * self._every
        self._next = time.monotonic() + self._every

    def seconds(self) -> float:
        """Seconds since sampling began, which is the time base of the samples."""
        return time.monotonic() - self._start

    def finish(self) -> Conditions:
        """Take the last sample, and return the conditions of the whole measurement."""
        seconds = self.seconds()
        busy, own = probe.busy_seconds(self._root, self._cpus), _own_seconds()
        after = machine_state(self._root)
        self._sample(after)
        other = None
        if seconds >= SHORTEST_S and busy is not None and self._busy is not None:
            other = (busy - self._busy - (own - self._own)) / seconds
        return Conditions(
            before=self._before,
            after=after,
            seconds=seconds,
            series=tuple(self._series),
            throttled=throttling(self._before, after, self._series),
            cpus=len(self._cpus),
            cores=probe.physical_cores(self._root),
            # If it is below zero by more than rounding, the counts don't belong to the CPUs that this process runs on.
            other_cpus=None if other is None or other < -0.25 else max(0.0, other),
        )

    def _sample(self, now: MachineState) -> None:
        throttled = now.throttled.now if now.throttled else None
        self._series.append(Sample(round(self.seconds(), 3), now.clock_mhz, now.celsius, throttled))


def machine_state(root: Path) -> MachineState:
    """Read clocks, temperature, throttling and load. `root` is the folder of proc and sys."""
    return msgspec.convert(probe.state(root), MachineState)


def throttling(before: MachineState, after: MachineState, series: Sequence[Sample]) -> tuple[str, ...] | None:
    """Causes of throttling between two states and in the samples between them, or None if the system reports none."""
    causes = [name for sample in series for name in sample.throttled or ()]
    if before.throttled and after.throttled:  # throttling that began and ended between two samples
        causes += [name for name in after.throttled.since_boot if name not in before.throttled.since_boot]
    if before.throttle_events is not None and (after.throttle_events or 0) > before.throttle_events:
        causes.append("throttled by the processor")
    if before.cooling_state or after.cooling_state:
        causes.append("clock capped because of heat")
    if after.throttled is None and after.throttle_events is None and after.cooling_state is None:
        return None
    return tuple(dict.fromkeys(causes))


def _own_seconds() -> float:
    """CPU time of this process and of its children that have ended, in seconds."""
    return sum(os.times()[:4])
