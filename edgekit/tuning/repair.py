"""Rank the layers of an INT8 bundle that lost too much accuracy, on calibration images, for `edgekit deploy`."""

from collections.abc import Iterator, Sequence

from edgekit.images.crops import LabelledCrops, crop_samples
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.repair_store import Ranking
from edgekit.support.progress import Step, no_step
from edgekit.tuning.analysis import simulate
from edgekit.tuning.sensitivity import Trials

RANKING_IMAGES = 32
"""Largest number of calibration images on which each layer is simulated alone."""
NOISE_IMAGES = 64
"""Largest number of calibration images on which sets of layers are. On few, the noise depends on their choice."""
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Numbers of layers in float that are simulated."""
NOISE_LEFT = (1 / 4, 1 / 16, 1 / 64)
"""Share of the INT8 noise that each attempt may leave: its amplitude, and about the drop with it, halves each time."""


def rank_layers(graphs: JobGraphs, target: str) -> Ranking:
    """The noisiest layers of the job's INT8 bundle for a target, for each attempt as many as cut the noise enough.

    Simulates the bundle in torch. No attempt leaves all layers in float. Raises StageError.
    """
    spec = graphs.spec
    samples = spec.calibration.samples[:NOISE_IMAGES]
    crops = crop_samples(spec.calibration_dataset, samples, spec.network.preprocessing)
    trials = simulate(graphs, graphs.graph_to_compile(target, "int8"), crops)
    first = LabelledCrops(crops.pixels[:RANKING_IMAGES], crops.labels[:RANKING_IMAGES])
    title, layers = f"{target}-int8", trials.simulation.layers
    with graphs.reporter.stage(f"{title}: rank {len(layers)} layers", len(first)) as step:
        alone = Trials(trials.simulation, first, trials.preprocessing)
        alone.run([frozenset([name]) for name in layers], step)
    order = sorted(layers, key=lambda name: (-alone.noise(frozenset([name])), name))
    with graphs.reporter.stage(f"{title}: simulate layers in float", len(samples)) as step:
        return Ranking(len(samples), tuple(_attempts(trials, order, step)))


def _attempts(trials: Trials, order: Sequence[str], on_image: Step = no_step) -> Iterator[tuple[str, ...]]:
    """The layers of each attempt: the fewest from the front of the order that leave no more noise than allowed."""
    counts = [count for count in COUNTS if count < len(order)]
    mixtures = {count: trials.everything - frozenset(order[:count]) for count in counts}
    trials.run(mixtures.values(), on_image)
    whole, tried = trials.noise(trials.everything), 0
    for share in NOISE_LEFT:
        enough = (n for n in counts if n > tried and trials.noise(mixtures[n]) <= share * whole)
        if (count := next(enough, None)) is not None:
            tried = count
            yield tuple(order[:count])
