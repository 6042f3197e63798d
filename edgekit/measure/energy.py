"""Measure the energy of one inference: power under load minus idle power, times the seconds of one inference.

Idle power is sampled before the timing, until it no longer falls, because what ran before has heated the machine and
raised its clocks. The timed rounds alternate between bundles, so their power belongs to no single
bundle; each bundle therefore runs alone for two seconds afterwards. A thread reads the sensor meanwhile, because
between two inferences the processor is idle. Reading the sensor costs as much when the machine is idle, so the
difference hardly contains it.

The sensors are the power chip of a Raspberry Pi 5 and the energy counters (RAPL) of x86 processors. Both see the whole
processor, so energy that other processes use counts too.
"""

import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from edgekit.errors import StageError
from edgekit.report.times import Energy
from edgekit.support.probe import output_of, text
from edgekit.support.progress import Reporter

IDLE_SAMPLES = 10
"""Samples of which each figure of the idle power is a mean."""
MOST_FIGURES = 20
"""Most figures of the idle power, which take half a minute."""
SETTLED = 0.02
"""Share by which the idle power may still fall from one figure to the next."""
EVERY_S = 0.15
"""Seconds between two samples."""
LOAD_S = 2.0
"""Seconds that a bundle runs alone. A slow one runs on until there are enough samples."""
FEWEST_SAMPLES = 2
NO_RAILS = (
    "`vcgencmd pmic_read_adc` reports no rails: a Raspberry Pi 4 has no such sensor, and on a Raspberry Pi 5 the user "
    "must be in the group `video`"
)
Reading = tuple[float, ...]


class Sensor(Protocol):
    """A source of power figures."""

    source: str
    """Name for the report."""

    def read(self) -> Reading | None:
        """Take a sample; None if that fails."""
        ...

    def watts(self, samples: Sequence[Reading]) -> float:
        """Mean power over the samples, of which there are at least two."""
        ...


class Pmic:
    """The power chip of a Raspberry Pi 5. A sample is the watts of all rails whose current it measures.

    It sees neither the losses before those rails nor what the board's USB ports supply.
    """

    source = "vcgencmd pmic_read_adc"

    def read(self) -> Reading | None:
        answer = output_of("vcgencmd", "pmic_read_adc") or ""
        amperes, volts = (
            {rail: float(value) for rail, value in re.findall(rf"(\w+)_{unit} {kind}\(\d+\)=([\d.]+){unit}", answer)}
            for unit, kind in (("A", "current"), ("V", "volt"))
        )
        rails = amperes.keys() & volts.keys()
        return (sum(amperes[rail] * volts[rail] for rail in sorted(rails)),) if rails else None

    def watts(self, samples: Sequence[Reading]) -> float:
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
                time.sleep(EVERY_S)
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
        while not stop.wait(EVERY_S):
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
