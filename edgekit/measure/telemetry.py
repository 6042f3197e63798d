"""Sample clocks, temperature, throttling and the load of other processes during timing.

Samples are taken between the turns of the calls, in the thread that times them, so that none falls into a timed run.
Values that the system doesn't report are None.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgekit.report.device import Conditions, MachineState, Sample
from edgekit.support.probe import affinity, busy_seconds, physical_cores, state

EVERY_S = 1.0
"""Seconds between two samples, at first."""
MOST_SAMPLES = 120
"""Length of a series above which every second sample is dropped, and the interval between samples is doubled."""
SHORTEST_S = 0.5
"""Shortest measurement that tells the load of other processes, because the system counts hundredths of a second."""


class TelemetrySampler:
    """Sampler that starts when it is created. Call it after each turn, and `finish` to get the conditions."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root, self._every = root, EVERY_S
        self._before = machine_state(root)
        self._cpus = affinity()
        self._series: list[Sample] = []
        self._busy, self._own = busy_seconds(root, self._cpus), _own_seconds()
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
        busy, own = busy_seconds(self._root, self._cpus), _own_seconds()
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
            cores=physical_cores(self._root),
            # If it is below zero by more than rounding, the counts don't belong to the CPUs that this process runs on.
            other_cpus=None if other is None or other < -0.25 else max(0.0, other),
        )

    def _sample(self, now: MachineState) -> None:
        throttled = now.throttled.now if now.throttled else None
        self._series.append(Sample(round(self.seconds(), 3), now.clock_mhz, now.celsius, throttled))


def machine_state(root: Path) -> MachineState:
    """Read clocks, temperature, throttling and load. `root` is the folder of proc and sys."""
    return msgspec.convert(state(root), MachineState)


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
