"""Trials of a search without a network: a bench that computes figures from the choices."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from edgekit.measure.settings import Gates
from edgekit.tuning.space import Choices
from edgekit.tuning.trial import Figures, Trial

LAYERS = ("d", "b", "a", "c", "e")
"""The layers in the order in which trials leave them in float."""
GATES = Gates(max_drop=1.0, min_speedup=1.0)


def figures(choices: Choices, **changes: Any) -> Figures:
    """Figures of a trial: min-max misses `GATES`, two layers in float meet them, smoothing agrees most."""
    passed = choices.layers_in_float >= 2 and choices.estimator != "minmax"
    measured = Figures(
        drop_top1_points=0.1 if passed else 1.5,
        drop_ci95_points=(0.0, 2.0),
        agreement=0.9 + 0.01 * choices.smooth_quant + 0.001 * (choices.bias_correction == "fast"),
        p50_ms=1.0,
        time_share=1.0 + choices.layers_in_float,
        speedup=1.5,
        speedup_ci95=(1.4, 1.6),
        files={"model.onnx": "0" * 64},
        float_layers=LAYERS[: choices.layers_in_float],
    )
    return replace(measured, **changes)


def trials_of(points: Sequence[Choices], measure: Callable[[Choices], Figures] = figures) -> list[Trial]:
    """Completed trials of these points."""
    return [Trial(number, point, "complete", figures=measure(point)) for number, point in enumerate(points)]


class FakeBench:
    """A bench that records what it measures. `measure` may raise, as for a trial that fails."""

    def __init__(self, measure: Callable[[Choices], Figures] = figures) -> None:
        self.measured: list[Choices] = []
        self.orders = 0
        self._measure = measure

    def layers(self) -> tuple[str, ...]:
        self.orders += 1
        return LAYERS

    def measure(self, choices: Choices, layers: Sequence[str]) -> Figures:
        assert tuple(layers) == LAYERS
        measured = self._measure(choices)
        self.measured.append(choices)
        return measured
