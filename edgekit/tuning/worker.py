"""One worker of a search: a process of its own, which does trials of each target's study until none is left."""

import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.errors import DataError, EngineError, UsageError
from edgekit.images.selection import Selection, split
from edgekit.measure import machine
from edgekit.measure.measure_bundles import EvaluationImages, measure_group
from edgekit.measure.settings import Settings
from edgekit.pipeline.build import build_one
from edgekit.pipeline.compile import compile_stage
from edgekit.pipeline.evaluation_images import crop_images
from edgekit.pipeline.graphs import PreparedGraphs
from edgekit.pipeline.job import Job, prepare
from edgekit.pipeline.options import Options
from edgekit.pipeline.request import versions
from edgekit.report.row import Measurement
from edgekit.runtime.bundle import Bundle
from edgekit.support.hashes import digest
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder
from edgekit.tuning.analysis import layer_macs, simulate
from edgekit.tuning.database import TrialTable
from edgekit.tuning.options import Search
from edgekit.tuning.space import Choices, order_of, plan, with_choices
from edgekit.tuning.study import drain, planned
from edgekit.tuning.trial import Figures

ORDERING_IMAGES = 16
"""So many of the tuning images tell which layers make the noise."""


@dataclass(frozen=True)
class SplitJob:
    """A job whose evaluation images are split: those that the search sees, and those that only the verdict sees."""

    job: Job
    """Evaluates on the tuning images."""
    held_out: Selection

    def study_name(self, target: str, options: Options, search: Search) -> str:
        """Names what the trials depend on, but for the machine: the same search joins the same study."""
        job, settings = self.job, options.settings
        parts: list[Any] = [
            job.network.name,
            job.network.weights_sha256,
            str(job.network.module),
            versions(),
            search.trials,
        ]
        parts += [job.calibration.sha256, job.evaluation.sha256, job.network.preprocessing.to_dict()]
        parts += [asdict(job.recipe.for_target(target)), job.device_class, settings.max_drop, settings.min_speedup]
        return f"{job.network.name} {target} {digest(*parts)[:16]}"


def prepare_search(options: Options, search: Search, reporter: Reporter) -> SplitJob:
    """Load the network, choose and split the images. DataError where one part would be empty."""
    tuning, held = search.num_tuning_samples, options.num_eval_samples
    for name, count in (("--num-tuning-samples", tuning), ("--num-eval-samples", held)):
        if count is not None and count < 1:
            raise UsageError(f"{name} is {count}: give a whole number from 1.")
    both = tuning + held if tuning and held else None
    job = prepare(replace(options, num_eval_samples=both), reporter)
    found = len(job.evaluation.samples)
    count = tuning or (found - held if held else found // 2)
    first, rest = split(job.evaluation, max(0, count))
    if held:
        rest, _ = split(rest, held)
    if not first.samples or not rest.samples or len(rest.samples) < (held or 0):
        raise DataError(
            f"'{options.data}' leaves {found} images beside calibration: {max(0, count)} to tune on leave "
            f"{len(rest.samples)} for the verdict. Give more images, or fewer to --num-tuning-samples"
        )
    return SplitJob(replace(job, evaluation=first), rest)


class Bench:
    """Makes and measures the bundles of trials for one target, in a workspace that is gone afterwards."""

    def __init__(
        self, graphs: PreparedGraphs, target: str, options: Options, folder: Path, images: EvaluationImages
    ) -> None:
        self._graphs, self._target, self._options = graphs, target, options
        self._folder, self._images, self._quiet = folder, images, Reporter(quiet=True)
        self._recipe = graphs.job.recipe
        self.order: list[str] = []

    def plan(self, trials: int | None) -> tuple[list[str], list[Choices]]:
        """Layers in the order in which they are left in float, and the points to try, at most `trials` of them."""
        job = self._graphs.job
        samples = job.evaluation.samples[:ORDERING_IMAGES]
        found = simulate(self._graphs, self._graphs.prepare(self._target, "int8"), samples)
        alone = {name: frozenset([name]) for name in found.simulation.layers}
        found.run(alone.values())
        order = order_of({name: found.noise(each) for name, each in alone.items()}, layer_macs(self._graphs))
        return order, plan(self._recipe.for_target(self._target), len(order))[:trials]

    def measure(self, choices: Choices) -> Figures:
        """Build the bundle of a trial beside the float one and measure both, as `deploy` does; StageError."""
        recipe = with_choices(self._recipe, self._target, choices, self.order)
        names = [f"{self._target}-{precision}" for precision in ("float", "int8")]
        base = build_one(self._graphs, self._target, "float", self._folder / names[0], self._quiet)
        prepared = self._graphs.with_recipe(recipe).prepare(self._target, "int8")
        with quiet():
            bundle, _ = compile_stage(prepared, self._folder / names[1])
        pair = dict(zip(names, (base, bundle), strict=True))
        measured = measure_group(pair, self._options.settings, machine.describe(), self._quiet, self._images)[names[1]]
        return figures(measured, bundle, self._options.settings, self.order[: choices.layers_in_float])


def figures(measured: Measurement, bundle: Bundle, settings: Settings, float_layers: Sequence[str]) -> Figures:
    """What a trial records of its measurement, and whether it kept each bound as measured; EngineError if it failed.

    That the drop's interval keeps it, and that times are steady enough to quote, is for the held-out rows to show.
    """
    if measured.failure:
        raise EngineError(str(measured.failure))
    accuracy, faster, latency = measured.accuracy, measured.speedup, measured.latency_ms
    if accuracy is None or faster is None or latency is None:
        raise EngineError("its float bundle can't be timed: there is nothing to compare with")
    return Figures(
        drop_top1_points=accuracy.drop_top1_points,
        drop_ci95_points=accuracy.drop_ci95_points,
        agreement=accuracy.agreement,
        p50_ms=latency.p50,
        time_share=1 / faster.ratio,
        speedup=faster.ratio,
        speedup_ci95=faster.ci95,
        files={name: entry["sha256"] for name, entry in bundle.manifest.files.items() if name.startswith("model")},
        drop_kept=accuracy.drop_top1_points <= settings.max_drop,
        fast_enough=settings.min_speedup <= 0 or faster.ci95[0] > settings.min_speedup,
        float_layers=tuple(float_layers),
    )


def worker_name(pid: int | None) -> str:
    """The name under which a process of this machine runs trials."""
    return f"{socket.gethostname()}:{pid}"


def work(options: Options, search: Search, file: Path, until: float) -> None:
    """What a worker process runs: trials of each target from the database `file`.

    It prints nothing but warnings: the process that started it reads the trials.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    reporter = Reporter(quiet=True)
    ready = prepare_search(options, search, reporter)
    graphs = PreparedGraphs(ready.job, reporter)
    run = RunFolder(options.folder)
    name = worker_name(os.getpid())
    with run.workspace("tune") as workspace:
        images = crop_images(ready.job, workspace, run, reporter)
        for target, end in shares(options.targets, until):
            bench = Bench(graphs, target, options, workspace, images)
            table = TrialTable(file, ready.study_name(target, options, search), search.silence_s)
            bench.order = planned(table, name, lambda bench=bench: bench.plan(search.trials))  # type: ignore[misc]
            drain(table, name, bench.measure, end)


def shares(targets: Sequence[str], until: float) -> Iterator[tuple[str, float]]:
    """Each target with the end of its time (time.time()): what is left is shared evenly by those still to come."""
    for index, target in enumerate(targets):
        now = time.time()
        if now < until:
            yield target, now + (until - now) / (len(targets) - index)
