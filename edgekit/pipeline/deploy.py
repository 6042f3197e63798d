"""Runs the whole job: load, select images, build, measure, improve, judge and report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from math import inf
from pathlib import Path
from typing import Literal

from edgekit.devices.registry import THIS, Device
from edgekit.devices.web.evaluate import check_browsers
from edgekit.devices.web.pages import serving
from edgekit.errors import InputError, UsageError
from edgekit.images.calibration_list import write_list
from edgekit.job import Job
from edgekit.job.saved import kept
from edgekit.measure.measurement_store import MeasurementStore
from edgekit.measure.settings import Timing
from edgekit.measure.tasks.own_metric import OwnMetric
from edgekit.pipeline.builder import builder_of
from edgekit.pipeline.class_order import with_order
from edgekit.pipeline.improvement import Improve, Improvement, restore
from edgekit.pipeline.loading import load_job, settings_of
from edgekit.pipeline.measuring import Bench, fingerprints, judge_all, reference_for
from edgekit.pipeline.plan import Plan, Refusals, plan_model, refusals
from edgekit.pipeline.reporting import assemble, write_findings, write_recipe, write_run
from edgekit.pipeline.thresholds import with_thresholds
from edgekit.pipeline.torch_reference import crop_images
from edgekit.report.document import Report
from edgekit.report.measurement import Measurement
from edgekit.runtime.backend import load_backend
from edgekit.support.libraries import import_needed
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import check_output, open_run


def deploy(job: Job, reporter: Reporter, improve: Improve | None = None) -> Report:
    """Run the whole job and write the run folder. Returns the report; its rows' verdicts tell whether gates passed.

    With `improve`, the bundles that were measured are improved, such as INT8 bundles that miss the accuracy bound.
    """
    check_tools(job.folder, job.targets, job.machines, job.timing)
    if job.metric and (other := next((device for device in job.machines if device != THIS), None)):
        raise UsageError(
            f"metric is a function of this process, and '{other.name}' can't run it",
            fix="Measure on this machine alone",
        )
    with serving(job.machines, reporter) as pages:
        settings = settings_of(job)
        refused = Refusals() if job.force else refusals(settings, job.targets, job.precisions)
        spec, images = load_job(job, reporter, settings=settings, chooses=True)
        if job.metric:
            spec = replace(spec, task=replace(spec.task, metric=OwnMetric(job.metric)))
        refused.warn(reporter)
        with open_run(job.folder) as run, run.workspace("images") as workspace:
            run.keep_job(kept(job))
            spec = with_thresholds(spec, images, run, reporter)
            # Before anything is built, because classes in another order or a wrong metric show here.
            evaluation = crop_images(spec.network, spec.task, images, workspace, run, reporter)
            spec, images, evaluation = with_order(spec, images, evaluation, reporter)
            reference = reference_for(spec.network, evaluation, reporter)
            improvement = Improvement(spec.recipe)
            if improve and "int8" in job.precisions:
                improvement = improve(spec, images, job, run, reporter)
            spec = replace(spec, recipe=improvement.recipe)
            restore(spec, job.targets, run)
            with builder_of(spec, run, reporter, refused.peak_bytes) as builder:
                spec = replace(builder.spec, task=spec.task)  # a large network's, so that the one in memory is freed
                calibration = run.path / "calibration.json"
                write_list(calibration, spec.calibration, spec.recipe, job.seed)
                built = builder.build(job.targets, run.path, job.precisions, refused.reasons)
                store = MeasurementStore(run, evaluation, job.timing, fingerprints(built))
                max_drop = inf if spec.network.weights == "random" else job.gates.max_drop
                choosing = None
                if images.repair:
                    others = spec.network, spec.task, images.repair, workspace, run, reporter, "choosing"
                    choosing = cache(partial(crop_images, *others))
                bench = Bench(job.machines, store, reporter, pages, max_drop, choosing)
                measured: Sequence[Measurement] = bench.measure(built)
                if not reference.near_chance:  # where no accuracy means anything
                    compare = bench.compare_on if choosing else None
                    measured = improvement.improve(built, measured, bench.measure_on, builder.graphs, compare)
                    write_list(calibration, spec.calibration, improvement.recipe, job.seed)
                rows = judge_all(measured, job.gates, spec, images, reference, run.path)
                rows = [improvement.described(row) for row in rows]
                finals = bench.time_finals(rows)
            report = assemble(spec, images, rows, reference, finals, job.seed, job.command, job.folder)
            if job.write_recipe:
                write_recipe(job.write_recipe, improvement.recipe, report)
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
    """Predicted memory, time and sizes; None for a model that can't be planned, such as a factory's."""


def plan(job: Job, reporter: Reporter) -> PlannedRun:
    """Describe what the job would do. Checks the whole input and writes nothing."""
    check_tools(job.folder, job.targets, job.machines, job.timing)
    spec, images = load_job(job, reporter, chooses=True)
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


def check_tools(folder: Path, targets: Sequence[str], devices: Sequence[Device], timing: Timing) -> None:
    """Raise an InputError for an unusable output or a missing package."""
    check_output(folder)
    check_browsers(devices, timing, targets)
    import_needed("jinja2", "build")
    for target in targets:
        load_backend(target)
