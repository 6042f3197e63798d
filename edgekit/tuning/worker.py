"""One worker of a search: a separate process that runs trials of each target's study until none is left."""

import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.config.precisions import PRECISIONS
from edgekit.devices.registry import THIS
from edgekit.errors import DataError, EngineError, UsageError
from edgekit.images.selection import Selection, split
from edgekit.measure import machine
from edgekit.measure.evaluation_images import EvaluationImages
from edgekit.measure.group import measure_group
from edgekit.measure.settings import Gates, Timing
from edgekit.pipeline.build import build_one
from edgekit.pipeline.compile import compile_stage
from edgekit.pipeline.evaluation_images import ReferenceInputs, crop_images, reference_inputs
from edgekit.pipeline.graphs import JobGraphs, request_of
from edgekit.pipeline.job import Job, load_job
from edgekit.pipeline.options import Options
from edgekit.pipeline.request import BundleInputs
from edgekit.report.row import Measurement
from edgekit.runtime.bundle import Bundle
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder
from edgekit.support.sources import code_sha256
from edgekit.support.stored_results import Inputs
from edgekit.tuning.analysis import ROOMS, layer_macs, simulate
from edgekit.tuning.database import TrialTable
from edgekit.tuning.options import Search
from edgekit.tuning.space import Choices, order_of, plan, with_choices
from edgekit.tuning.study import drain, planned
from edgekit.tuning.trial import Figures
from edgekit.tuning.turns import Turns

ORDERING_IMAGES = 16
"""Number of tuning images on which the noise of each layer is measured."""


@dataclass(frozen=True)
class SplitJob:
    """A job whose evaluation images are split between the search and the verdict."""

    job: Job
    """The job of the search, which evaluates on the tuning images."""
    held_out: Selection
    """Images for the verdict, which the search never sees."""

    def study_name(self, target: str, options: Options, search: Search) -> str:
        """Name of the study, with the key of its inputs. Equal searches share it."""
        return f"{self.job.network.name} {target} {self.study_inputs(target, options, search).key[:16]}"

    def study_inputs(self, target: str, options: Options, search: Search) -> "StudyInputs":
        """What the trials for one target depend on."""
        return StudyInputs(
            bundles=tuple(request_of(self.job, target, precision).inputs for precision in PRECISIONS),
            reference=reference_inputs(self.job),
            timing=options.timing,
            gates=trial_gates(options),
            trials=search.trials,
            code_sha256=code_sha256(ROOMS),
        )


@dataclass(frozen=True)
class StudyInputs(Inputs):
    """What the plan and the trials of a study depend on, except for the machines, because several may share a study.

    The verdict on the best trial comes from the machine that reports it.
    """

    bundles: tuple[BundleInputs, ...]
    """What the float bundle and the int8 one of the recipe to improve depend on."""
    reference: ReferenceInputs
    """What torch's predictions for the tuning images depend on."""
    timing: Timing
    """How the trials are timed."""
    gates: Gates
    """Bounds that decide which trials are good enough."""
    trials: int | None
    """Number of trials in the plan; None for all."""
    code_sha256: str
    """Hash of edgekit's code in `ROOMS`."""


def load_split_job(options: Options, search: Search, reporter: Reporter) -> SplitJob:
    """Load the network, then choose and split the images. DataError if one part would be empty."""
    tuning, held_out = search.num_tuning_samples, options.num_eval_samples
    for name, count in (("--num-tuning-samples", tuning), ("--num-eval-samples", held_out)):
        if count is not None and count < 1:
            raise UsageError(f"{name} is {count}", valid="a whole number from 1")
    both = tuning + held_out if tuning and held_out else None
    job = load_job(replace(options, num_eval_samples=both), reporter)
    total = len(job.evaluation.samples)
    count = tuning or (total - held_out if held_out else total // 2)
    first, rest = split(job.evaluation, max(0, count))
    if held_out:
        rest, _ = split(rest, held_out)
    if not first.samples or not rest.samples or len(rest.samples) < (held_out or 0):
        raise DataError(
            f"'{options.data}' has {total} images besides those for calibration; {max(0, count)} of them for tuning "
            f"leave {len(rest.samples)} for the verdict",
            fix="Add images, or reduce --num-tuning-samples",
        )
    return SplitJob(replace(job, evaluation=first), rest)


class Bench:
    """Builds and measures the bundles of trials for one target in a temporary workspace."""

    def __init__(
        self,
        graphs: JobGraphs,
        target: str,
        options: Options,
        folder: Path,
        images: EvaluationImages,
        turns: Turns,
    ) -> None:
        self._graphs, self._target, self._options = graphs, target, options
        self._folder, self._images, self._quiet = folder, images, Reporter(quiet=True)
        self._recipe, self._turns = graphs.job.recipe, turns
        self.order: list[str] = []

    def plan(self, trials: int | None) -> tuple[list[str], list[Choices]]:
        """The layers in the order of leaving them in float, and the points to try, at most `trials` of them."""
        job = self._graphs.job
        samples = job.evaluation.samples[:ORDERING_IMAGES]
        with self._turns.computing():
            simulated = simulate(self._graphs, self._graphs.graph_to_compile(self._target, "int8"), samples)
            alone = {name: frozenset([name]) for name in simulated.simulation.layers}
            simulated.run(alone.values())
        noise = {name: simulated.noise(mixture) for name, mixture in alone.items()}
        order = order_of(noise, layer_macs(self._graphs))
        return order, plan(self._recipe.for_target(self._target), len(order))[:trials]

    def measure(self, choices: Choices) -> Figures:
        """Build the bundle of a trial and the float one, and measure both as `deploy` does. Raises StageError.

        They are measured on this machine, whatever the devices of the options are, while no other worker computes.
        """
        recipe = with_choices(self._recipe, self._target, choices, self.order)
        names = [f"{self._target}-{precision}" for precision in ("float", "int8")]
        with self._turns.computing():
            base = build_one(self._graphs, self._target, "float", self._folder / names[0], self._quiet)
            to_compile = self._graphs.with_recipe(recipe).graph_to_compile(self._target, "int8")
            with quiet():
                bundle, _ = compile_stage(to_compile, self._folder / names[1])
        pair, timing = dict(zip(names, (base, bundle), strict=True)), self._options.timing
        with self._turns.timing():
            measured = measure_group(pair, timing, machine.describe(), self._quiet, self._images)[names[1]]
        return figures(measured, bundle, trial_gates(self._options), self.order[: choices.layers_in_float])


def figures(measured: Measurement, bundle: Bundle, gates: Gates, float_layers: Sequence[str]) -> Figures:
    """The figures of a trial, and whether they meet the bounds; EngineError if the measurement failed.

    The bound on the drop applies to the measured drop, because its interval is checked for the rows on held-out images.
    The bound on the speedup applies to its whole interval, as it does there.
    """
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
        drop_kept=accuracy.drop_top1_points <= gates.max_drop,
        fast_enough=gates.min_speedup <= 0 or speedup.ci95[0] > gates.min_speedup,
        float_layers=tuple(float_layers),
    )


def trial_gates(options: Options) -> Gates:
    """The gates of trials. They run on this machine, whose speed says nothing about another device's: see `verdict`."""
    return options.gates if options.devices[0] == THIS else replace(options.gates, min_speedup=0)


def worker_name(pid: int | None) -> str:
    """The worker name of a process on this machine."""
    return f"{socket.gethostname()}:{pid}"


def work(options: Options, search: Search, file: Path, until: float) -> None:
    """Run trials of each target from the database `file`, in a worker process.

    It prints only warnings, because the parent process reads the trials from the database.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    reporter, turns = Reporter(quiet=True), Turns(file)
    with turns.computing():
        ready = load_split_job(options, search, reporter)
    graphs = JobGraphs(ready.job, reporter)
    run = RunFolder(options.folder)
    name = worker_name(os.getpid())
    with run.workspace("tune") as workspace:
        with turns.computing():
            images = crop_images(ready.job, workspace, run, reporter)
        for target, end in shares(options.targets, until):
            bench = Bench(graphs, target, options, workspace, images, turns)
            table = TrialTable(file, ready.study_name(target, options, search), search.silence_s)
            bench.order = planned(table, name, lambda bench=bench: bench.plan(search.trials))  # type: ignore[misc]
            drain(table, name, bench.measure, end)


def shares(targets: Sequence[str], until: float) -> Iterator[tuple[str, float]]:
    """Yields each target with the end of its time, as of time.time(). The targets still to come share what remains."""
    for index, target in enumerate(targets):
        now = time.time()
        if now < until:
            yield target, now + (until - now) / (len(targets) - index)
