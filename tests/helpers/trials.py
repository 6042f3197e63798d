"""Trials of a search without a network: a bench that computes measurements from the candidates."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from edgekit.measure.settings import Gates
from edgekit.report.measurement import Measurement
from edgekit.tuning.study import Candidate, Trial
from tests.helpers.measurements import accuracy, latency, measurement, speedup

LAYERS = ("d", "b", "a", "c", "e")
"""The layers in the order in which trials leave them in float."""
GATES = Gates(max_drop=1.0, min_speedup=1.0)
BUNDLE: Any = SimpleNamespace(manifest=SimpleNamespace(files={"model.onnx": {"sha256": "0" * 64}, "labels.txt": {}}))
"""Stands for the bundle of each trial."""


def measured(candidate: Candidate, drop: float | None = None, **changes: Any) -> Measurement:
    """Measurement of a trial: min-max misses `GATES`, two layers in float meet them, smoothing agrees most."""
    passed = len(candidate.float_layers) >= 2 and candidate.estimator != "minmax"
    agreement = 0.9 + 0.01 * bool(candidate.smooth_quant) + 0.001 * (candidate.bias_correction == "fast")
    figures = accuracy((0.1 if passed else 1.5) if drop is None else drop, agreement=agreement)
    return replace(measurement(accuracy=figures, latency_ms=latency(1.0), speedup=speedup(1.5, 1.4, 1.6)), **changes)


def trials_of(points: Sequence[Candidate], measure: Callable[[Candidate], Measurement] = measured) -> list[Trial]:
    """Completed trials of these candidates."""
    return [Trial.of(number, point, measure(point), BUNDLE) for number, point in enumerate(points)]


class FakeBench:
    """A bench that records what it measures. `measure` may raise, as for a trial that fails."""

    def __init__(self, measure: Callable[[Candidate], Measurement] = measured) -> None:
        self.measured: list[Candidate] = []
        self.orders = 0
        self._measure = measure

    def layers(self) -> tuple[str, ...]:
        """The order of the layers."""
        self.orders += 1
        return LAYERS

    def __call__(self, candidate: Candidate) -> tuple[Any, Measurement]:
        result = self._measure(candidate)
        self.measured.append(candidate)
        return BUNDLE, result
