"""The machine that measures: its facts, memory and versions, its state during timing, and its energy.

The energy of one inference is power under load minus idle power, times its seconds. Idle power is sampled before the
timing, until it no longer falls, because what ran before has heated the machine and raised its clocks. The timed rounds
alternate between bundles, so their power belongs to no single bundle; each bundle therefore runs alone for two seconds
afterwards. A thread reads the sensor meanwhile, because between two inferences the processor is idle. Reading the
sensor costs as much when the machine is idle, so the difference hardly contains it.

The sensors are the power chip of a Raspberry Pi 5 and the energy counters (RAPL) of x86 processors. Both see the whole
processor, so energy that other processes use counts too.
"""

import os
import platform
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec

from edgekit import __version__
from edgekit.config.runtimes import DeviceClass, Runtime
from edgekit.errors import StageError
from edgekit.report.figure import Conditions, DeviceFacts, MachineState, Sample
from edgekit.report.row import Energy
from edgekit.support import probe
from edgekit.support.libraries import versions_of
from edgekit.support.probe import output_of, text
from edgekit.support.progress import Reporter


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
        device_class=device_class or DeviceClass.of_host(),
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
    distributions = ("numpy", "pillow", *Runtime.find(target).distributions)
    return {"edgekit": __version__, **versions_of(distributions, ROOMS)}


STATE_EVERY_S = 1.0
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
        self._root, self._every = root, STATE_EVERY_S
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


IDLE_SAMPLES = 10
"""Samples of which each figure of the idle power is a mean."""
MOST_FIGURES = 20
"""Most figures of the idle power, which take half a minute."""
SETTLED = 0.02
"""Share by which the idle power may still fall from one figure to the next."""
ENERGY_EVERY_S = 0.15
"""Seconds between two samples."""
LOAD_S = 2.0
"""Seconds that a bundle runs alone. A slow one runs on until there are enough samples."""
FEWEST_SAMPLES = 2
NO_RAILS = (
    "`vcgencmd pmic_read_adc` reports no rails: a Raspberry Pi 4 has no such sensor, and on a Raspberry Pi 5 the user "
    "must be in the group `video`"
)
Reading = tuple[float, ...]


class Pmic:
    """The power chip of a Raspberry Pi 5. A sample is the watts of all rails whose current it measures.

    It sees neither the losses before those rails nor what the board's USB ports supply.
    """

    source = "vcgencmd pmic_read_adc"
    """Name of the sensor for the report."""

    def read(self) -> Reading | None:
        """Take a sample; None if that fails."""
        answer = output_of("vcgencmd", "pmic_read_adc") or ""
        amperes, volts = (
            {rail: float(value) for rail, value in re.findall(rf"(\w+)_{unit} {kind}\(\d+\)=([\d.]+){unit}", answer)}
            for unit, kind in (("A", "current"), ("V", "volt"))
        )
        rails = amperes.keys() & volts.keys()
        return (sum(amperes[rail] * volts[rail] for rail in sorted(rails)),) if rails else None

    def watts(self, samples: Sequence[Reading]) -> float:
        """Mean power over the samples, of which there are at least two."""
        return sum(watts for (watts,) in samples) / len(samples)


class Rapl:
    """The energy counters of an x86 processor. A sample is the time in seconds and the microjoules of each package."""

    source = "RAPL"

    def __init__(self, packages: Sequence[Path]) -> None:
        self._packages = packages
        self._ranges = [int(text(package / "max_energy_range_uj") or 0) for package in packages]

    def read(self) -> Reading | None:
        try:
            return (time.monotonic(), *(int((package / "energy_uj").read_text()) for package in self._packages))
        except (OSError, ValueError):
            return None

    def watts(self, samples: Sequence[Reading]) -> float:
        counts = [counts for _, *counts in samples]
        microjoules = 0.0
        for before, after in pairwise(counts):
            for first, second, most in zip(before, after, self._ranges, strict=True):
                microjoules += second - first + (most if second < first else 0)  # the counter starts again at `most`
        return microjoules / 1e6 / (samples[-1][0] - samples[0][0])


Sensor = Pmic | Rapl


def find_sensor(root: Path = Path("/")) -> Sensor | str:
    """The sensor of this machine, or the reason why there is none. `root` is the folder of sys."""
    if shutil.which("vcgencmd"):
        return Pmic() if Pmic().read() else NO_RAILS
    zones = sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
    packages = [zone for zone in zones if (text(zone / "name") or "").startswith("package")]
    if not packages:
        return "neither a Raspberry Pi 5's `vcgencmd` nor RAPL in /sys/class/powercap was found"
    try:
        for package in packages:
            (package / "energy_uj").read_text()
    except OSError as error:
        return f"RAPL can't be read, which usually takes root: {error}"
    return Rapl(packages)


class EnergyMeter:
    """Waits for the idle power when it is created, if there is a sensor. `measure` then measures one bundle."""

    def __init__(self, reporter: Reporter, root: Path = Path("/")) -> None:
        self._sensor = find_sensor(root)
        self._idle = None if isinstance(self._sensor, str) else _idle_watts(self._sensor, reporter)

    def measure(self, call: Callable[[], object]) -> Energy:
        """Run an inference again and again for two seconds, and return its energy."""
        sensor = self._sensor
        if isinstance(sensor, str):
            return unknown(sensor)
        try:
            samples, seconds, inferences = _load(call, sensor)
        except StageError as error:
            return unknown(str(error))
        load = sensor.watts(samples) if len(samples) >= FEWEST_SAMPLES else None
        if self._idle is None or load is None:
            return unknown(f"{sensor.source} stopped answering")
        if load <= 0:
            return unknown(f"{sensor.source} reports 0 W under load")
        return Energy(
            inference_mj=(load - self._idle) * seconds / inferences * 1e3,
            source=sensor.source,
            idle_w=self._idle,
            load_w=load,
            seconds=seconds,
            inferences=inferences,
        )


def unknown(reason: str) -> Energy:
    """The energy where it could not be measured."""
    return Energy(inference_mj=None, source=f"unknown: {reason}")


def _idle_watts(sensor: Sensor, reporter: Reporter) -> float | None:
    """The power of the idle machine, once it has settled; None if the sensor doesn't answer."""
    lowest: float | None = None
    with reporter.stage("sample the idle power", MOST_FIGURES) as step:
        for _ in range(MOST_FIGURES):
            samples: list[Reading] = []
            for _ in range(IDLE_SAMPLES):
                time.sleep(ENERGY_EVERY_S)
                if sample := sensor.read():
                    samples.append(sample)
            step()
            if len(samples) < FEWEST_SAMPLES:
                return lowest
            before, watts = lowest, sensor.watts(samples)
            lowest = watts if before is None else min(before, watts)
            if before is not None and watts >= before * (1 - SETTLED):
                break
    return lowest


def _load(call: Callable[[], object], sensor: Sensor) -> tuple[list[Reading], float, int]:
    """Run the call for `LOAD_S`; returns the samples during that time, its seconds, and the number of calls."""
    samples: list[Reading] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(ENERGY_EVERY_S):
            sample = sensor.read()
            if sample is None:
                return
            if not stop.is_set():
                samples.append(sample)

    call()  # the processor raises its clock
    watcher = threading.Thread(target=watch, daemon=True)
    start, count = time.monotonic(), 0
    watcher.start()
    try:
        while count == 0 or (
            watcher.is_alive() and (time.monotonic() - start < LOAD_S or len(samples) < FEWEST_SAMPLES)
        ):
            call()
            count += 1
        seconds = time.monotonic() - start
    finally:
        stop.set()
        watcher.join()
    return samples, seconds, count
