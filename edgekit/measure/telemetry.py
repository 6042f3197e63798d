"""What the machine was like while it was timed: clocks, heat, throttling, and what other processes took.

Read between timed rounds, in the thread that times them, so that no reading falls into a round. What the system doesn't
tell is null.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgekit.measure.probe import busy_seconds, state
from edgekit.report.conditions import Conditions, MachineState, Sample

EVERY_S = 1.0
MOST_SAMPLES = 120
"""A series that grows longer loses every second sample, and is sampled half as often from then on."""
SHORTEST_S = 0.5
"""The system counts in hundredths of a second: what is shorter doesn't tell what others took."""


class TelemetrySampler:
    """Samples from when it is made. Call it after each round; `finish` gives the conditions."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root, self._every = root, EVERY_S
        self._before = machine_state(root)
        self._cpus = _cpus()
        self._series: list[Sample] = []
        self._busy, self._own = busy_seconds(root, self._cpus), _own_seconds()
        self._start = time.monotonic()
        self._next = self._start + self._every

    def __call__(self) -> None:
        """Take a sample if it is time for one."""
        if time.monotonic() < self._next:
            return
        self._sample(machine_state(self._root))
        if len(self._series) > MOST_SAMPLES:
            self._series, self._every = self._series[::2], 2 * self._every
        self._next = time.monotonic() + self._every

    def seconds(self) -> float:
        """Seconds since sampling began, as the samples count them."""
        return time.monotonic() - self._start

    def finish(self) -> Conditions:
        """What the machine was like from the first to the last moment."""
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
            # Below zero by more than rounding: the counts are not of the CPUs that this process runs on.
            other_cpus=None if other is None or other < -0.25 else max(0.0, other),
        )

    def _sample(self, now: MachineState) -> None:
        throttled = now.throttled.now if now.throttled else None
        self._series.append(Sample(round(self.seconds(), 3), now.clock_mhz, now.celsius, throttled))


def machine_state(root: Path) -> MachineState:
    """Clocks, heat, throttling and load now. `root` is where proc and sys are."""
    return msgspec.convert(state(root), MachineState)


def throttling(before: MachineState, after: MachineState, series: Sequence[Sample]) -> tuple[str, ...] | None:
    """What slowed the processor down between two states, with the samples in between; None if nothing could tell."""
    found = [name for sample in series for name in sample.throttled or ()]
    if before.throttled and after.throttled:  # what came and went between two samples, unless it had been so before
        found += [name for name in after.throttled.since_boot if name not in before.throttled.since_boot]
    if before.throttle_events is not None and (after.throttle_events or 0) > before.throttle_events:
        found.append("throttled by the processor")
    if before.cooling_state or after.cooling_state:
        found.append("clock capped against heat")
    if after.throttled is None and after.throttle_events is None and after.cooling_state is None:
        return None
    return tuple(dict.fromkeys(found))


def _own_seconds() -> float:
    """Processor time of this process and of children that have ended."""
    return sum(os.times()[:4])


def _cpus() -> frozenset[int]:
    """The CPUs that this process may use."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return frozenset(range(os.cpu_count() or 1))
