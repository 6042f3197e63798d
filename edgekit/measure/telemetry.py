"""What the machine was like while it was timed: clocks, heat, throttling, and what other processes took.

Read between timed rounds, in the thread that times them, so that no reading falls into a round. What the system doesn't
tell is null.
"""

import os
import time
from pathlib import Path
from typing import Any

from edgekit.measure.probe import busy_seconds, state

EVERY_S = 1.0
MOST_SAMPLES = 120
"""A series that grows longer loses every second sample, and is sampled half as often from then on."""
SHORTEST_S = 0.5
"""The system counts in hundredths of a second: what is shorter doesn't tell what others took."""


class Watch:
    """Watches from when it is made. Call it after each round; `finish` gives the `thermal` object of report.json."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root, self._every = root, EVERY_S
        self._before = state(root)
        self._cpus = _cpus()
        self._series: list[dict[str, Any]] = []
        self._busy, self._own = busy_seconds(root, self._cpus), _own_seconds()
        self._start = time.monotonic()
        self._next = self._start + self._every

    def __call__(self) -> None:
        """Take a sample if it is time for one."""
        if time.monotonic() < self._next:
            return
        self._sample(state(self._root))
        if len(self._series) > MOST_SAMPLES:
            self._series, self._every = self._series[::2], 2 * self._every
        self._next = time.monotonic() + self._every

    def seconds(self) -> float:
        """Since the watch began: the time of its samples' `s`."""
        return time.monotonic() - self._start

    def finish(self) -> dict[str, Any]:
        """Clocks in MHz, heat in degrees Celsius, `s` and `seconds` since the watch began.

        `throttled` names what slowed the processor down meanwhile: empty if nothing did, null if nothing here could
        tell. `other_cpus` is how many of the `cpus` that this process may use were busy with others, on average.
        """
        seconds = self.seconds()
        busy, own = busy_seconds(self._root, self._cpus), _own_seconds()
        after = state(self._root)
        self._sample(after)
        other = None
        if seconds >= SHORTEST_S and busy is not None and self._busy is not None:
            other = (busy - self._busy - (own - self._own)) / seconds
        return {
            "before": self._before,
            "after": after,
            "seconds": seconds,
            "series": self._series,
            "throttled": throttling([self._before, after], self._series),
            "cpus": len(self._cpus),
            # Below zero by more than rounding: the counts are not of the CPUs that this process runs on.
            "other_cpus": None if other is None or other < -0.25 else max(0.0, other),
        }

    def _sample(self, found: dict[str, Any]) -> None:
        throttled = found["throttled"]
        self._series.append({
            "s": round(self.seconds(), 3),
            "clock_mhz": found["clock_mhz"],
            "celsius": found["celsius"],
            "throttled": throttled["now"] if throttled else None,
        })  # fmt: skip


def throttling(ends: list[dict[str, Any]], series: list[dict[str, Any]]) -> list[str] | None:
    """What slowed the processor down between two states, with the samples in between; None if nothing could tell."""
    found: list[str] = []
    for sample in series:
        found += sample["throttled"] or ()
    firmware = [state["throttled"] for state in ends]
    if all(firmware):  # what came and went between two samples, unless it had been so before
        found += [name for name in firmware[1]["since_boot"] if name not in firmware[0]["since_boot"]]
    events = [state["throttle_events"] for state in ends]
    if None not in events and events[1] > events[0]:
        found.append("throttled by the processor")
    cooling = [state["cooling_state"] for state in ends if state["cooling_state"] is not None]
    if any(cooling):
        found.append("clock capped against heat")
    if not any(ends[1][key] is not None for key in ("throttled", "throttle_events", "cooling_state")):
        return None
    return list(dict.fromkeys(found))


def _own_seconds() -> float:
    """Processor time of this process and of children that have ended."""
    return sum(os.times()[:4])


def _cpus() -> frozenset[int]:
    """The CPUs that this process may use."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return frozenset(range(os.cpu_count() or 1))
