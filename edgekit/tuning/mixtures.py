"""Mixtures of INT8 and float layers, simulated in torch, and the layers that should stay in float by their noise."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from edgekit.compiler.layers import layers
from edgekit.images.dataset import LabelledCrops, crop_samples
from edgekit.images.preprocess import Preprocessing
from edgekit.measure.accuracy import Predictions, compare, predict, snr_db
from edgekit.pipeline.graph_to_compile import GraphToCompile
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job_images import JobImages
from edgekit.report.sensitivity_document import Simulated
from edgekit.support.progress import Step, no_step
from edgekit.tuning.simulate import Run, Simulation

ORDERING_IMAGES = 16
"""Number of tuning images on which a search measures the noise of each layer."""
RANKING_IMAGES = 32
"""Largest number of calibration images on which a repair simulates each layer alone."""
NOISE_IMAGES = 64
"""Largest number of calibration images on which it simulates sets of layers. On few, the noise depends on their
choice."""
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Numbers of layers in float that a repair simulates."""
NOISE_LEFT = (1 / 4, 1 / 16, 1 / 64)
"""Share of the INT8 noise that each attempt of a repair may leave: its amplitude, and about the drop with it, halves
each time."""

Mixture = frozenset[str]
"""Names of the layers in INT8."""


@dataclass(eq=False)
class Mixtures:
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
        if not missing:
            return
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

    def alone(self, on_image: Step = no_step) -> dict[str, float]:
        """The noise of each layer with only this layer in INT8."""
        mixtures = {name: frozenset([name]) for name in self.simulation.layers}
        self.run(mixtures.values(), on_image)
        return {name: self.noise(mixture) for name, mixture in mixtures.items()}

    def top1(self) -> float:
        """Top-1 accuracy with all layers in float."""
        return float(self._predictions(frozenset()).hit1.mean())

    def _predictions(self, mixture: Mixture) -> Predictions:
        answers = self.logits[mixture]
        return predict(
            lambda logits: logits, ((row[None], label) for row, label in zip(answers, self.images.labels, strict=True))
        )


def simulate(graphs: JobGraphs, to_compile: GraphToCompile, images: LabelledCrops) -> Mixtures:
    """Mixtures of a graph that was calibrated for one target, on these images."""
    spec = graphs.spec
    rounded = spec.recipe.weight_rounding != "nearest"
    simulation = Simulation(to_compile.graph, graphs.unrounded(to_compile.facts.target) if rounded else None)
    return Mixtures(simulation, images, spec.network.preprocessing)


def layer_macs(graphs: JobGraphs) -> dict[str, int]:
    """Multiply-accumulates of each layer."""
    macs: Counter[str] = Counter()
    for _, layer in layers(graphs.simplified):
        macs[layer.name] += layer.macs
    return macs


def order_layers(graphs: JobGraphs, target: str, images: JobImages) -> list[str]:
    """The layers of the job's INT8 bundle for a target, those first that add the most noise per multiply-accumulate."""
    samples, preprocessing = images.evaluation.samples[:ORDERING_IMAGES], graphs.spec.network.preprocessing
    crops = crop_samples(images.dataset, samples, preprocessing)
    noise = simulate(graphs, graphs.graph_to_compile(target, "int8"), crops).alone()
    return order_of(noise, layer_macs(graphs))


def order_of(noise: Mapping[str, float], macs: Mapping[str, int]) -> list[str]:
    """Layers sorted by the noise removed per multiply-accumulate that stays in float, largest first."""
    return sorted(noise, key=lambda name: (-noise[name] / max(1, macs.get(name, 0)), name))


def rank_layers(graphs: JobGraphs, target: str) -> tuple[tuple[str, ...], ...]:
    """The noisiest layers of the job's INT8 bundle for a target, for each attempt as many as cut the noise enough.

    Simulates the bundle in torch. No attempt leaves all layers in float. Raises StageError.
    """
    spec = graphs.spec
    samples = spec.calibration.samples[:NOISE_IMAGES]
    crops = crop_samples(spec.calibration_dataset, samples, spec.network.preprocessing)
    mixtures = simulate(graphs, graphs.graph_to_compile(target, "int8"), crops)
    title, layers = f"{target}-int8", mixtures.simulation.layers
    first = LabelledCrops(crops.pixels[:RANKING_IMAGES], crops.labels[:RANKING_IMAGES])
    with graphs.reporter.stage(f"{title}: rank {len(layers)} layers", len(first)) as step:
        noise = Mixtures(mixtures.simulation, first, mixtures.preprocessing).alone(step)
    order = sorted(layers, key=lambda name: (-noise[name], name))
    with graphs.reporter.stage(f"{title}: simulate layers in float", len(samples)) as step:
        return tuple(attempts_of(mixtures, order, step))


def attempts_of(mixtures: Mixtures, order: Sequence[str], on_image: Step = no_step) -> Iterator[tuple[str, ...]]:
    """The layers of each attempt: the fewest from the front of the order that leave no more noise than allowed."""
    counts = [count for count in COUNTS if count < len(order)]
    left = {count: mixtures.everything - frozenset(order[:count]) for count in counts}
    mixtures.run(left.values(), on_image)
    whole, tried = mixtures.noise(mixtures.everything), 0
    for share in NOISE_LEFT:
        enough = (n for n in counts if n > tried and mixtures.noise(left[n]) <= share * whole)
        if (count := next(enough, None)) is not None:
            tried = count
            yield tuple(order[:count])
