"""Builds and measures the bundles of trials for one target."""

from collections.abc import Callable, Sequence
from pathlib import Path

from edgekit.errors import EngineError
from edgekit.images.crops import crop_samples
from edgekit.measure import machine
from edgekit.measure.evaluation_images import EvaluationImages
from edgekit.measure.group import measure_group
from edgekit.measure.settings import Timing
from edgekit.pipeline.build import build_one
from edgekit.pipeline.compile import compile_stage
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job_images import JobImages
from edgekit.report.measurement import Measurement
from edgekit.runtime.bundle import Bundle
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder
from edgekit.tuning.analysis import layer_macs, simulate
from edgekit.tuning.space import Choices, order_of, with_choices
from edgekit.tuning.trial import Figures

ORDERING_IMAGES = 16
"""Number of tuning images on which the noise of each layer is measured."""


class TargetBench:
    """The `Bench` of one target. Trials are built in a temporary workspace and measured on this machine.

    The float bundle is built in the run folder, where a resumed search finds it.
    """

    def __init__(
        self,
        graphs: JobGraphs,
        target: str,
        timing: Timing,
        run: RunFolder,
        workspace: Path,
        images: JobImages,
        evaluated: Callable[[], EvaluationImages],
    ) -> None:
        self._graphs, self._target, self._timing = graphs, target, timing
        self._run, self._workspace, self._quiet = run, workspace, Reporter(quiet=True)
        self._images, self._evaluated = images, evaluated

    def layers(self) -> tuple[str, ...]:
        """The layers, those first that add the most noise per multiply-accumulate."""
        samples = self._images.evaluation.samples[:ORDERING_IMAGES]
        crops = crop_samples(self._images.dataset, samples, self._graphs.spec.network.preprocessing)
        simulated = simulate(self._graphs, self._graphs.graph_to_compile(self._target, "int8"), crops)
        alone = {name: frozenset([name]) for name in simulated.simulation.layers}
        simulated.run(alone.values())
        noise = {name: simulated.noise(mixture) for name, mixture in alone.items()}
        return tuple(order_of(noise, layer_macs(self._graphs)))

    def measure(self, choices: Choices, layers: Sequence[str]) -> Figures:
        """Build the bundle of a trial and, once, the float one; measure both. Raises StageError."""
        float_name, name = f"{self._target}-float", f"{self._target}-int8"
        base = build_one(self._graphs, self._target, "float", self._run.path / float_name, self._quiet)
        recipe = with_choices(self._graphs.spec.recipe, self._target, choices, layers)
        prepared = self._graphs.with_recipe(recipe).graph_to_compile(self._target, "int8")
        with quiet():
            bundle, _ = compile_stage(prepared, self._workspace / name)
        pair = {float_name: base, name: bundle}
        measured = measure_group(pair, self._timing, machine.describe(), self._quiet, self._evaluated())[name]
        return figures(measured, bundle, layers[: choices.layers_in_float])


def figures(measured: Measurement, bundle: Bundle, float_layers: Sequence[str]) -> Figures:
    """The figures of a trial; EngineError if the measurement failed."""
    if measured.failure:
        raise EngineError(str(measured.failure))
    accuracy, speedup, latency = measured.accuracy, measured.speedup, measured.latency_ms
    if accuracy is None or speedup is None or latency is None:
        raise EngineError("its float bundle can't be timed, so its speedup is unknown")
    return Figures(
        drop_top1_points=accuracy.drop_top1_points,
        drop_ci95_points=accuracy.drop_ci95_points,
        agreement=accuracy.agreement,
        p50_ms=latency.p50,
        time_share=1 / speedup.ratio,
        speedup=speedup.ratio,
        speedup_ci95=speedup.ci95,
        files={name: entry["sha256"] for name, entry in bundle.manifest.files.items() if name.startswith("model")},
        float_layers=tuple(float_layers),
    )
