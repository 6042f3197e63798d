"""Find the layers that cost accuracy in INT8, and the time that each saves, by simulating one calibration in torch."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from edgekit.images.crops import LabelledCrops
from edgekit.images.preprocess import Preprocessing
from edgekit.measure.accuracy import Predictions, compare, predict, snr_db
from edgekit.report.sensitivity_document import (
    Culprits,
    FloatAccuracy,
    LayerTime,
    SensitiveBlock,
    SensitiveLayer,
    Simulated,
    Spared,
    TargetSensitivity,
)  # fmt: skip
from edgekit.support.progress import Reporter, Step, no_step
from edgekit.tuning.simulate import Run, Simulation

Mixture = frozenset[str]
"""Names of the layers in INT8."""


@dataclass(eq=False)
class Trials:
    """Runs mixtures of one graph on the same images, each mixture once."""

    simulation: Simulation
    """Simulation of the quantized graph."""
    images: LabelledCrops
    """Images to run the mixtures on."""
    preprocessing: Preprocessing
    """Preprocessing of the network."""
    logits: dict[Mixture, NDArray[np.float32]] = field(default_factory=dict)
    """Logits [N,classes] of each mixture that has run."""

    @property
    def everything(self) -> Mixture:
        return frozenset(self.simulation.layers)

    def run(self, mixtures: Iterable[Mixture], on_image: Step = no_step) -> None:
        """Run the mixtures that have not run yet, and the two that have all layers in float or in INT8.

        Each mixture reuses the values of the more similar of these two, up to the first layer that differs.
        """
        ends = (frozenset[str](), self.everything)
        missing = [mixture for mixture in dict.fromkeys((*ends, *mixtures)) if mixture not in self.logits]
        logits: dict[Mixture, list[NDArray[np.float32]]] = {mixture: [] for mixture in missing}
        for image, _ in self.images.normalized(self.preprocessing):
            end_runs = [self.simulation.run(image, end) for end in ends]
            for mixture in missing:
                near = min(end_runs, key=lambda run: len(run.quantized ^ mixture))
                run: Run = near if near.quantized == mixture else self.simulation.run(image, mixture, near)
                logits[mixture].append(run.logits)
            on_image()
        self.logits |= {mixture: np.stack(rows) for mixture, rows in logits.items() if rows}

    def figures(self, mixture: Mixture) -> Simulated:
        """Signal-to-noise ratio and accuracy of a mixture that has run, against all layers in float."""
        accuracy = compare(self._predictions(mixture), self._predictions(frozenset()))
        snr = self.snr(mixture)
        return Simulated(
            snr_db=snr if isfinite(snr) else None,
            drop_top1_points=accuracy.drop_top1_points,
            drop_ci95_points=accuracy.drop_ci95_points,
            agreement=accuracy.agreement,
        )

    def snr(self, mixture: Mixture) -> float:
        """Signal-to-noise ratio of the mixture's logits in dB against float; infinite if they are equal."""
        return snr_db(self.logits[frozenset()], self.logits[mixture])

    def noise(self, mixture: Mixture) -> float:
        """Power of the difference from the float logits, divided by the power of the float logits."""
        plain = self.logits[frozenset()].astype(np.float64)
        return float(np.square(self.logits[mixture] - plain).sum() / np.square(plain).sum())

    def top1(self) -> float:
        """Top-1 accuracy with all layers in float."""
        return float(self._predictions(frozenset()).hit1.mean())

    def _predictions(self, mixture: Mixture) -> Predictions:
        answers = self.logits[mixture]
        return predict(
            lambda logits: logits, ((row[None], label) for row, label in zip(answers, self.images.labels, strict=True))
        )


def block_of(layer: str) -> str:
    """The block of a layer: its path up to the last number that a name follows."""
    path = re.sub(r"\.\d+$", "", layer)
    numbered = re.match(r"((?:.*\.)?\d+)\.", path)
    return numbered[1] if numbered else path.split(".")[0]


def measure(
    trials: Trials,
    target: str,
    macs: Mapping[str, int],
    max_drop: float,
    reporter: Reporter,
    time_layers: Callable[[], Mapping[str, LayerTime]] = dict,
) -> TargetSensitivity:
    """One target's part of the document: INT8 as a whole, each layer and block, and the culprits.

    `time_layers` returns the times of the layers that the runtime reports. It is called after the simulation.
    """
    everything, layers = trials.everything, trials.simulation.layers
    blocks: dict[str, list[str]] = {}
    for name in layers:
        blocks.setdefault(block_of(name), []).append(name)
    groups = [frozenset([name]) for name in layers] + [frozenset(names) for names in blocks.values()]
    with reporter.stage(f"{target}: simulate {len(layers)} layers", len(trials.images)) as step:
        trials.run([mixture for group in groups for mixture in (group, everything - group)], step)
    harmful = culprits(trials, max_drop, reporter, target)
    noise = sum(trials.noise(frozenset([name])) for name in layers)
    costs = _Costs(trials, noise, macs, time_layers())
    return TargetSensitivity(
        target=target,
        float=FloatAccuracy(trials.top1()),
        int8=trials.figures(everything),
        layers=tuple(costs.of_layer(name) for name in layers),
        blocks=tuple(costs.of_block(name, names) for name, names in blocks.items()),
        culprits=harmful,
        verdict="fail" if harmful.layers else "pass",
    )


@dataclass(frozen=True, eq=False)
class _Costs:
    """Costs of the layers and blocks of a simulated graph."""

    trials: Trials
    """The mixtures that have run."""
    noise: float
    """Sum of the noise of each layer alone."""
    macs: Mapping[str, int]
    """Multiply-accumulates of each layer."""
    times: Mapping[str, LayerTime]
    """Times of the layers that the runtime reports."""

    def of_layer(self, name: str) -> SensitiveLayer:
        return SensitiveLayer(
            name=name,
            block=block_of(name),
            macs=self.macs.get(name, 0),
            only_int8=self.trials.figures(frozenset([name])),
            only_float=_spared(self.trials, [name]),
            noise_share=self._share([name]),
            time=self.times.get(name),
        )

    def of_block(self, name: str, layers: Sequence[str]) -> SensitiveBlock:
        return SensitiveBlock(
            name=name,
            layers=tuple(layers),
            macs=sum(self.macs.get(layer, 0) for layer in layers),
            only_int8=self.trials.figures(frozenset(layers)),
            only_float=_spared(self.trials, layers),
            noise_share=self._share(layers),
            time=_total([self.times[layer] for layer in layers]) if self.times.keys() >= set(layers) else None,
        )

    def _share(self, layers: Collection[str]) -> float:
        return self.trials.noise(frozenset(layers)) / self.noise if self.noise else 0.0


def _spared(trials: Trials, layers: Collection[str]) -> Spared:
    """All layers in INT8 except these, and the gain from that."""
    whole, without = trials.figures(trials.everything), trials.figures(trials.everything - frozenset(layers))
    return Spared(
        snr_db=without.snr_db,
        drop_top1_points=without.drop_top1_points,
        drop_ci95_points=without.drop_ci95_points,
        agreement=without.agreement,
        snr_gain_db=_difference(without.snr_db, whole.snr_db),
        gain_top1_points=whole.drop_top1_points - without.drop_top1_points,
    )


def _total(times: Sequence[LayerTime]) -> LayerTime:
    return LayerTime(
        float_ms=sum(time.float_ms for time in times),
        int8_ms=sum(time.int8_ms for time in times),
        saved_ms=sum(time.saved_ms for time in times),
    )


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def culprits(trials: Trials, max_drop: float, reporter: Reporter, title: str) -> Culprits:
    """The noisiest layers: as many as must stay in float to keep the drop within `max_drop` points."""
    everything = trials.everything
    order = sorted(trials.simulation.layers, key=lambda name: -trials.noise(frozenset([name])))

    def suffices(count: int) -> bool:
        mixture = everything - frozenset(order[:count])
        if mixture not in trials.logits:
            with reporter.stage(f"{title}: simulate {count} layers in float", len(trials.images)) as step:
                trials.run([mixture], step)
        return bool(trials.figures(mixture).drop_top1_points <= max_drop)

    low, high = 0, 0
    while not suffices(high):  # terminates, because all layers in float lose nothing
        low, high = high, min(max(1, 2 * high), len(order))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return Culprits(tuple(order[:high]), trials.figures(everything - frozenset(order[:high])))
