"""Runs the whole job: load, select images, build, measure, improve, judge and report.

Improvements, such as layers kept in float, come from rooms above: each tries other bundles after the first were
measured.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from math import inf
from pathlib import Path
from typing import Literal, Protocol

from edgekit.config.recipes import Recipe
from edgekit.devices.registry import THIS, Device, each_device
from edgekit.devices.remote import measure_on_device
from edgekit.devices.web import Pages, check_browsers, serving
from edgekit.errors import InputError, UsageError
from edgekit.images.selection import write_list
from edgekit.job import Job
from edgekit.job.saved import kept
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.bundles import BuiltBundles, MeasureSpec
from edgekit.measure.gates import judge, over_accurate
from edgekit.measure.recommendation import Finals, time_finals
from edgekit.measure.settings import Gates
from edgekit.measure.task import ClassNames, OwnMetric, Task
from edgekit.models.network import Network
from edgekit.pipeline.build import made_from
from edgekit.pipeline.builder import builder_of
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.loading import load_job, settings_of
from edgekit.pipeline.plan import Plan, plan_model, refusals
from edgekit.pipeline.reference import crop_images, with_form, with_order, with_thresholds
from edgekit.pipeline.reporting import assemble, write_findings, write_recipe, write_run
from edgekit.pipeline.request import BuildSpec
from edgekit.report.document import Reference, Report
from edgekit.report.row import Measurement, Row
from edgekit.report.sentences import near_chance
from edgekit.runtime.backend import load_backend
from edgekit.runtime.bundle import read_bundle
from edgekit.support.files import without_folders
from edgekit.support.libraries import import_needed
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder, check_output, open_run

Rows = Mapping[str, Measurement]
"""Measurements of bundles on one device, by the name of the bundle."""


class Improvement(Protocol):
    """The bundles of one job as its recipe makes them, some of which are replaced by better ones after measuring."""

    @property
    def recipe(self) -> Recipe:
        """The recipe of the bundles in the run folder, with what the improvement has changed so far."""
        ...

    def improve(self, built: BuiltBundles, measured: Sequence[Rows], bench: "Bench", graphs: JobGraphs) -> list[Rows]:
        """Improve the bundles. `measured` has the measurements of all bundles for each device.

        Returns them with those of the new bundles in place of the old ones. `graphs` made the bundles.
        """
        ...

    def described(self, row: Row) -> Row:
        """The row with the improvement of its bundle, if there was one."""
        ...


Improve = Callable[[BuildSpec, JobImages, Job, RunFolder, Reporter], Improvement]
"""Makes the improvement of a job, from the network and the images that were loaded for it."""


def restore(spec: BuildSpec, targets: Iterable[str], run: RunFolder) -> None:
    """Put bundles of earlier attempts back into their places where this job would make the same ones."""
    for target in targets:
        name = f"{target}-int8"
        places = run.attempts(name)
        inputs = spec.inputs(target, "int8")
        if places and made_from(inputs, run.path / name) is None:
            made = (made_from(inputs, place) for place in places)
            if source := next(filter(None, made), None):
                source.copied_to(run.path / name)


def reference_for(network: Network, evaluation: EvaluationImages, reporter: Reporter) -> Reference:
    """Torch's accuracy on the evaluation images. Warns if it is near chance."""
    task = evaluation.task
    answers = evaluation.reference
    targets = evaluation.crops.labels
    reference = task.reference("torch", answers, targets, network.classes, network.weights == "random")
    for warning in near_chance(reference, len(evaluation.crops)):
        reporter.warn(warning)
    return replace(
        reference,
        right_by_class=task.right_by_class(answers, targets),
        given_by_class=task.given_by_class(answers, targets),
    )


@dataclass(frozen=True)
class Bench:
    """The devices of a job, and the images and the timing with which they measure bundles. Browsers need `pages`."""

    devices: Sequence[Device]
    spec: MeasureSpec
    reporter: Reporter
    pages: Pages | None = None
    max_drop: float = inf
    """Largest drop of a float bundle in bf16 or f16, in points, with which others are compared with it."""
    choosing: Callable[[], EvaluationImages] | None = None
    """Makes the images on which a repair chooses, once; None if the evaluation images have to choose."""

    def measure(self, bundles: BuiltBundles) -> list[Rows]:
        """Measure all bundles on each device in turn."""
        return each_device(self.devices, lambda device: [self.measure_on(device, bundles)])

    def measure_on(
        self, device: Device, bundles: BuiltBundles, threads: int | None = None, others: EvaluationImages | None = None
    ) -> Rows:
        """Measure bundles on one device; with a number of threads, only their times with it.

        Measurements with other images than those of the evaluation are not stored.
        """
        spec = self.spec
        if threads is not None:
            spec = MeasureSpec(replace(spec.timing, threads=threads, sustain_s=None, streams=None), others)
        elif others is not None:
            spec = MeasureSpec(spec.timing, others)
        rows = measure_on_device(device, bundles, spec, self.reporter, self.pages)
        return dict(zip(bundles, over_accurate(rows, self.max_drop), strict=True))

    def compare_on(self, device: Device, bundles: BuiltBundles, threads: int | None = None) -> Rows:
        """The same with the images on which a repair chooses, without times from their files."""
        others = replace(self.choosing(), files=()) if self.choosing else None
        return self.measure_on(device, bundles, threads, others)

    def time_finals(self, rows: Sequence[Row]) -> Finals | None:
        """Time the finalists of this machine in turns; None if there is no final."""
        here = [row for row in rows if row.device.name == THIS.name]
        run = self.spec.run
        shipped = {row.bundle: read_bundle(run.path / row.bundle) for row in here if row.bundle and run is not None}
        return time_finals(here, shipped, self.spec, self.reporter)


def judge_all(
    measured: Sequence[Rows],
    gates: Gates,
    spec: BuildSpec,
    images: JobImages,
    reference: Reference,
    folder: Path,
) -> list[Row]:
    """The rows of the report, which doesn't reveal where the run's folder is."""
    random = spec.network.weights == "random"
    names = images.class_names(spec.task, spec.network.labels)
    rows = chain.from_iterable(each.values() for each in measured)
    shareable = (_shareable(_with_class_names(row, spec.task, names), folder) for row in rows)
    return [judge(each, gates, random, reference.near_chance) for each in shareable]


def _with_class_names(measured: Measurement, task: Task, names: ClassNames) -> Measurement:
    """The measurement with the names of the classes whose predictions changed, instead of their indices."""
    accuracy = measured.accuracy
    if accuracy is None or accuracy.changes is None:
        return measured
    return replace(measured, accuracy=replace(accuracy, changes=task.with_class_names(accuracy.changes, names)))


def _shareable(measured: Measurement, folder: Path) -> Measurement:
    """The measurement without the run's folder in the message of its failure."""
    failure = measured.failure
    if failure is None:
        return measured
    return replace(measured, failure=replace(failure, message=without_folders(failure.message, [folder])))


def deploy(job: Job, reporter: Reporter, improve: Improve | None = None) -> Report:
    """Run the whole job and write the run folder. Returns the report; its rows' verdicts tell whether gates passed.

    With `improve`, the bundles that were measured are improved, such as INT8 bundles that miss the accuracy bound.
    """
    check_tools(job)
    if job.metric and (other := next((device for device in job.machines if device != THIS), None)):
        raise UsageError(
            f"metric is a function of this process, and '{other.name}' can't run it",
            fix="Measure on this machine alone",
        )
    with serving(job.machines, reporter) as pages:
        settings = settings_of(job)
        refused = {} if job.force else refusals(settings, job.targets, job.precisions)
        spec, images = load_job(job, reporter, settings=settings, chooses=True)
        if job.metric:
            spec = replace(spec, task=replace(spec.task, metric=OwnMetric(job.metric)))
        gates = job.gates_on(images.dataset.is_labelled)
        if isinstance(refused, InputError):
            reporter.warn(f"memory and sizes were not checked in advance: {refused.problem}", refused)
            refused = {}
        with open_run(job.folder) as run, run.workspace("images") as workspace:
            if job.preprocessing == "auto":
                spec = with_form(spec, images, job.gates.max_drop, run, reporter)
                job = replace(job, stated={**job.stated, "preprocessing": spec.network.preprocessing.form})
            run.keep_job(kept(job))
            spec = with_thresholds(spec, images, run, reporter)
            # Before anything is built, because classes in another order or a wrong metric show here.
            evaluation = crop_images(spec.network, spec.task, images, workspace, run, reporter)
            spec, images, evaluation = with_order(spec, images, evaluation, reporter)
            reference = reference_for(spec.network, evaluation, reporter)
            improvement = improve(spec, images, job, run, reporter) if improve and "int8" in job.precisions else None
            spec = replace(spec, recipe=improvement.recipe if improvement else spec.recipe)
            restore(spec, job.targets, run)
            with builder_of(spec, run, reporter) as builder:
                spec = replace(builder.spec, task=spec.task)  # a large network's, so that the one in memory is freed
                calibration = run.path / "calibration.json"
                write_list(calibration, spec.calibration, spec.recipe, job.seed)
                built = builder.build(job.targets, run.path, job.precisions, refused)
                wanted = MeasureSpec(job.timing, evaluation, run)
                max_drop = inf if spec.network.weights == "random" else gates.max_drop
                choosing = None
                if images.repair:
                    others = spec.network, spec.task, images.repair, workspace, run, reporter, "choosing"
                    choosing = cache(partial(crop_images, *others))
                bench = Bench(job.machines, wanted, reporter, pages, max_drop, choosing)
                measured = bench.measure(built)
                if improvement and not reference.near_chance:  # where no accuracy means anything
                    measured = improvement.improve(built, measured, bench, builder.graphs)
                    write_list(calibration, spec.calibration, improvement.recipe, job.seed)
                rows = judge_all(measured, gates, spec, images, reference, run.path)
                rows = [improvement.described(row) for row in rows] if improvement else rows
                finals = bench.time_finals(rows)
            report = assemble(spec, images, rows, reference, finals, job)
            if job.write_recipe:
                write_recipe(job.write_recipe, improvement.recipe if improvement else spec.recipe, report)
            write_findings(report, run.path, job.threads)
            write_run(report, images.dataset, spec.network.preprocessing, run, job.thumbnails, reporter)
    return report


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """The document of `--dry-run`, which describes what the job would do."""

    schema_version: Literal[1] = 1
    model: str
    weights: str
    params: int
    output: str
    targets: tuple[str, ...]
    devices: tuple[str, ...]
    recipe: str
    device_class: str
    calibration_images: int
    evaluation_images: int
    bundles: tuple[str, ...]
    prediction: Plan | None = None
    """Predicted memory and sizes; None for a model that can't be planned, such as a factory's."""

    def page(self) -> list[str]:
        """The facts, then the prediction."""
        facts = [f"{key}: {value}" for key, value in vars(self).items() if key != "prediction"]
        return [*facts, *(self.prediction.page() if self.prediction else ())]


def plan(job: Job, reporter: Reporter) -> PlannedRun:
    """Describe what the job would do. Checks the whole input and writes nothing."""
    check_tools(job)
    spec, images = load_job(job, reporter, chooses=True)
    job.gates_on(images.dataset.is_labelled)  # a bound that such images can't show is an error
    try:
        prediction = plan_model(job.identified, job.targets, spec.device_class, spec.recipe)
    except InputError:
        prediction = None
    return PlannedRun(
        model=spec.network.name,
        weights=spec.network.weights,
        params=spec.network.params,
        output=str(job.folder),
        targets=job.targets,
        devices=tuple(device.name for device in job.machines),
        recipe=spec.recipe.name,
        device_class=spec.device_class.name,
        calibration_images=len(images.calibration.samples),
        evaluation_images=len(images.evaluation.samples),
        bundles=tuple(f"{target}-{precision}" for target in job.targets for precision in job.precisions),
        prediction=prediction,
    )


def check_tools(job: Job) -> None:
    """Raise an InputError for an unusable output or a missing package."""
    check_output(job.folder)
    check_browsers(job.machines, job.timing, job.targets)
    import_needed("jinja2", "build")
    for target in job.targets:
        load_backend(target)
