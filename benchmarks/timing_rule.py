"""Simulates the rule by which bundles are timed and compared: how often it finds a difference where there is none.

    python -m benchmarks.timing_rule

edgekit's own code times two simulated bundles from the first warm-up round to the verdict of `--min-speedup`. Only the
clock, the conditions and the inferences are simulated. Each kind of noise is one that a machine has: jitter, stalls,
other processes that come and go, drift of the clock, and caches that a turn finds in another state.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import Row, keep_rows
from edgekit.measure import latency
from edgekit.measure.gates import speed_gate
from edgekit.measure.latency import latency_of, speedup, time_in_turns
from edgekit.measure.settings import Gates, Timing
from edgekit.report.figure import Conditions, DeviceFacts, MachineState
from edgekit.report.row import Measurement
from edgekit.support.progress import Reporter

RESULTS = Path(__file__).parent / "timing_rule.json"
LENGTH = 2048
"""Inferences after which a machine's noise repeats, which is more than three attempts have."""
COLD = (1.8, 1.3, 1.1)
"""How much longer the first inferences of a turn take."""
MS = 8.0
"""Milliseconds of an inference of the second bundle."""
EARLY = Timing(may_end_early=True)
"""Settings of `edgekit deploy` without options."""


@dataclass(frozen=True)
class Noise:
    """How the time of an inference varies. Deviations are those of its logarithm; lengths are in inferences."""

    jitter: float
    """Deviation of each inference."""
    turn: float = 0.0
    """Deviation of each turn."""
    own: float = 0.0
    """Deviation of a part of each bundle's own time that changes slowly."""
    own_length: float = 10.0
    drift: float = 0.0
    """Deviation of the machine's speed, which changes slowly for all bundles."""
    drift_length: float = 200.0
    trend: float = 0.0
    """How much slower the machine becomes in a thousand inferences, as it warms up."""
    stalls: float = 0.0
    """Share of inferences that take longer by half on average."""
    bursts: float = 0.0
    """How much slower the machine is while another process runs, which is half of the time."""
    burst_length: float = 40.0


NOISES: Mapping[str, Noise] = {
    "jitter": Noise(jitter=0.03),
    "stalls": Noise(jitter=0.02, turn=0.005, stalls=0.1),
    "turns": Noise(jitter=0.01, turn=0.02),
    "drift": Noise(jitter=0.02, turn=0.005, drift=0.06, stalls=0.02),
    "warming up": Noise(jitter=0.01, turn=0.005, drift=0.01, trend=0.3),
    "bursts": Noise(jitter=0.02, turn=0.005, bursts=0.4, stalls=0.02),
    "correlated": Noise(jitter=0.02, turn=0.005, own=0.02),
    "all": Noise(jitter=0.03, turn=0.01, own=0.01, drift=0.05, trend=0.1, stalls=0.05, bursts=0.1),
}


class Machine:
    """A simulated machine and its clock: each inference takes the `ms` of its bundle, and noise."""

    def __init__(self, noise: Noise, ms: Mapping[str, float], seed: int) -> None:
        self._random = np.random.default_rng(seed)
        shared = self._slow(noise.drift, noise.drift_length) + noise.trend * np.arange(LENGTH) / 1000
        shared += np.log1p(noise.bursts) * self._on_and_off(noise.burst_length)
        shared += noise.jitter * self._random.normal(size=LENGTH)
        stalled = self._random.random(LENGTH) < noise.stalls
        shared += np.log1p(stalled * self._random.exponential(0.5, LENGTH))
        self._shared = np.exp(shared).tolist()
        self._own = {
            name: (each * np.exp(self._slow(noise.own, noise.own_length))).tolist() for name, each in ms.items()
        }
        self._turns = np.exp(noise.turn * self._random.normal(size=LENGTH)).tolist()
        self._done, self._turn, self._since, self._last = 0, 0, 0, ""
        self.ns = 0

    def run(self, name: str) -> None:
        """An inference of a bundle."""
        if name != self._last:
            self._last, self._since, self._turn = name, 0, self._turn + 1
        place = self._done % LENGTH
        ms = self._own[name][place] * self._shared[place] * self._turns[self._turn % LENGTH]
        if self._since < len(COLD):
            ms *= COLD[self._since]
        self._since += 1
        self._done += 1
        self.ns += int(ms * 1e6)

    @property
    def clock(self) -> SimpleNamespace:
        """What the timed code takes for the module `time`."""
        return SimpleNamespace(
            perf_counter_ns=lambda: self.ns, perf_counter=lambda: self.ns / 1e9, monotonic=lambda: self.ns / 1e9
        )

    def _slow(self, deviation: float, length: float) -> NDArray[np.float64]:
        """Noise of this deviation whose correlation fades over this length."""
        if not deviation:
            return np.zeros(LENGTH)
        keeps = math.exp(-1 / length)
        new = math.sqrt(1 - keeps**2) * self._random.normal(size=LENGTH)
        level, levels = float(self._random.normal()), []
        for each in new.tolist():
            level = keeps * level + each
            levels.append(level)
        return deviation * np.array(levels)

    def _on_and_off(self, length: float) -> NDArray[np.float64]:
        """1 and 0 in turns, each for this length on average."""
        changes = self._random.random(LENGTH) < 1 / length
        return ((np.cumsum(changes) + int(self._random.integers(2))) % 2).astype(float)


class Calm:
    """A sampler that finds a calm machine."""

    def __call__(self) -> None: ...

    def finish(self) -> Conditions:
        """The conditions: nothing to say."""
        state = MachineState(**dict.fromkeys(MachineState.__dataclass_fields__))
        return Conditions(before=state, after=state, seconds=1, series=(), throttled=None, cpus=2, other_cpus=None)


@contextmanager
def simulated(machine: Machine) -> Iterator[None]:
    """Let edgekit time with the machine's clock."""
    with mock.patch.object(latency, "time", machine.clock), mock.patch.object(latency, "TelemetrySampler", Calm):
        yield


@dataclass(frozen=True)
class Outcome:
    """Result of one simulated comparison."""

    faster: bool
    """Whether the bundle passed `--min-speedup`."""
    differs: bool
    """Whether the interval of the speedup excludes 1."""
    covers: bool
    """Whether the interval contains the true ratio."""
    rounds: int
    """Timed inferences of each bundle."""


def compare(noise: Noise, ratio: float, seed: int, timing: Timing, reporter: Reporter) -> Outcome:
    """Time a float bundle and one that is `ratio` times as fast, and judge the second."""
    machine = Machine(noise, {"float": MS * ratio, "int8": MS}, seed)
    calls: dict[str, Callable[[], object]] = {name: partial(machine.run, name) for name in ("float", "int8")}
    with simulated(machine):
        timed = time_in_turns(calls, 1, timing, "time", reporter)
    times = timed.times
    row = Measurement(
        target="onnx",
        precision="int8",
        bundle="int8",
        size_bytes=1,
        device=DeviceFacts(name="simulated", device_class=None, cpu=None, cores=1, memory_bytes=None),
        latency_ms=latency_of(times["int8"], threads=1, load=1.0, first=1.0),
        speedup=speedup("float", times["float"], times["int8"]),
        thermal=timed.conditions,
    )
    assert row.speedup is not None
    assert row.speedup.ci95 is not None
    low, high = row.speedup.ci95
    faster = speed_gate(row, Gates(), baselines=("float",)).verdict == "pass"
    return Outcome(faster, not low <= 1 <= high, low <= ratio <= high, len(times["int8"]))


def simulate(noise: Noise, ratio: float, runs: int, timing: Timing = EARLY) -> Row:
    """Shares of runs that find a difference, find the second bundle faster, and cover the ratio; mean of the rounds."""
    reporter = Reporter(quiet=True)
    outcomes = [compare(noise, ratio, run, timing, reporter) for run in range(runs)]
    means = {key: float(np.mean([asdict(each)[key] for each in outcomes])) for key in asdict(outcomes[0])}
    return {"ratio": ratio, "runs": runs, **{key: round(value, 4) for key, value in means.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20_000, help="runs of equal bundles; a tenth for each other ratio")
    parser.add_argument("--iterations", type=int, help="exactly this number of timed rounds")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    timing = Timing(iterations=args.iterations) if args.iterations else EARLY
    for ratio, runs in ((1.0, args.runs), (1.05, args.runs // 10), (1.1, args.runs // 10)):
        for name, noise in NOISES.items():
            row = {"noise": name, **simulate(noise, ratio, runs // len(NOISES), timing)}
            keep_rows(args.output, [row], ("noise", "ratio"))
            print(row, flush=True)


if __name__ == "__main__":
    main()
