"""Runs the whole job: from a model and images to bundles, measurements and a report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from edgekit import __version__
from edgekit.devices.parallel import each_device
from edgekit.devices.registry import THIS, Device
from edgekit.devices.remote import measure_on_device
from edgekit.devices.web.evaluate import check_browsers
from edgekit.devices.web.pages import Pages, serving
from edgekit.errors import InputError
from edgekit.images.calibration_list import write_list
from edgekit.images.overlap import copies_of
from edgekit.images.selection import differ_in_brightness, doubts
from edgekit.job import Job
from edgekit.job.saved import kept
from edgekit.measure import machine
from edgekit.measure.accuracy import reference_of, with_class_names
from edgekit.measure.by_class import evaluated_classes, right_by_class
from edgekit.measure.gates import judge
from edgekit.measure.measure_bundles import BuiltBundles, measure_here
from edgekit.measure.measurement_store import MeasurementStore, lost_with_device
from edgekit.measure.recommendation import Finals, recommend, time_finals
from edgekit.models import Network
from edgekit.pipeline.builder import Builder, builder_of
from edgekit.pipeline.evaluation_images import crop_images
from edgekit.pipeline.improvement import Improve, Improvement, restore
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.job_settings import with_device_class
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.plan import Refusals, plan_model, refusals
from edgekit.pipeline.plan_document import Plan
from edgekit.pipeline.relabel import keys_without_labels
from edgekit.pipeline.request import BuildSpec
from edgekit.pipeline.stability import check_stability
from edgekit.pipeline.thumbnails import make_thumbnails
from edgekit.report import write_report
from edgekit.report.document import (
    Calibration,
    Evaluation,
    Lookalike,
    Model,
    PreprocessingFacts,
    Reference,
    Report,
    Stability,
    Unreadable,
)
from edgekit.report.measurement import Measurement
from edgekit.report.row import Row
from edgekit.report.sentences import near_chance
from edgekit.report.write import write_thumbnails
from edgekit.runtime.backend import load_backend
from edgekit.runtime.bundle import read_bundle
from edgekit.support.files import shareable_command, without_folders
from edgekit.support.libraries import import_needed
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder, check_output, open_run

REPORT_PACKAGES = ("jinja2", "matplotlib")


def deploy(options: Job, reporter: Reporter, improve: Improve | None = None) -> Report:
    """Run the whole job and write the run folder. Returns the report; its rows' verdicts tell whether gates passed.

    With `improve`, the bundles that were measured are improved, such as INT8 bundles that miss the accuracy bound.
    """
    check_tools(options)
    with serving(options.machines, reporter) as pages:
        return _deploy(with_device_class(options), reporter, improve, pages)


def _deploy(options: Job, reporter: Reporter, improve: Improve | None, pages: Pages | None) -> Report:
    """Run the whole job, with the pages of its browsers."""
    refused = Refusals() if options.force else refusals(options)
    spec, images = load_job(options, reporter)
    if refused.unplanned:
        reporter.warn(f"memory and sizes were not checked in advance: {refused.unplanned.problem}", refused.unplanned)
    with open_run(options.folder) as run:
        run.keep_job(kept(options))
        improvement = None
        if improve and "int8" in options.precisions:
            judging = options.targets, options.machines, options.timing, options.gates
            improvement = improve(spec, images, *judging, run, reporter)
        if improvement:
            spec = replace(spec, recipe=improvement.recipe)
        restore(spec, options.targets, run)
        with builder_of(spec, run, reporter, refused.peak_bytes) as builder:
            spec = builder.spec  # a large network's, so that the one in memory is freed
            write_list(run.path / "calibration.json", spec.calibration, spec.recipe, options.seed)
            rows, reference, finals = bundles_and_rows(
                builder, images, options, run, reporter, refused.reasons, improvement, pages
            )
            if improvement:
                write_list(run.path / "calibration.json", spec.calibration, improvement.recipe, options.seed)
            stability = (
                check_stability(builder.graphs, images, options.targets, reporter) if options.check_stability else ()
            )
            report = assemble(spec, images, options, rows, reference, stability, finals)
            thumbnails = (
                make_thumbnails(report, images.dataset, spec.network.preprocessing, reporter)
                if options.thumbnails
                else {}
            )
            write_thumbnails(run.path, thumbnails)
            write_report(report, run.path)
            if not any(lost_with_device(row) for row in rows):  # otherwise the same command measures only those rows
                run.complete()
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


def plan(options: Job, reporter: Reporter) -> PlannedRun:
    """Describe what the job would do. Checks the whole input and writes nothing."""
    check_tools(options)
    spec, images = load_job(options, reporter)
    try:
        prediction = plan_model(options.model_options, options.targets, spec.device_class, spec.recipe)
    except InputError:
        prediction = None
    return PlannedRun(
        model=spec.network.name,
        weights=spec.network.weights,
        params=spec.network.params,
        output=str(options.folder),
        targets=options.targets,
        devices=tuple(device.name for device in options.machines),
        recipe=spec.recipe.name,
        device_class=spec.device_class.name,
        calibration_images=len(images.calibration.samples),
        evaluation_images=len(images.evaluation.samples),
        bundles=tuple(f"{target}-{precision}" for target in options.targets for precision in options.precisions),
        prediction=prediction,
    )


def check_tools(options: Job) -> None:
    """Raise an InputError for an unusable output, missing data or a missing package."""
    check_output(options.folder)
    check_browsers(options.machines, options.timing, options.targets)
    for package in REPORT_PACKAGES:
        import_needed(package, "build")
    for target in options.targets:
        load_backend(target)


def bundles_and_rows(
    builder: Builder,
    images: JobImages,
    options: Job,
    run: RunFolder,
    reporter: Reporter,
    refused: Mapping[str, str] = MappingProxyType({}),
    improvement: Improvement | None = None,
    pages: Pages | None = None,
) -> tuple[list[Row], Reference, Finals | None]:
    """Build or reuse the bundles, evaluate and time them. Returns the report's rows, torch's accuracy, and the finals.

    A bundle in `refused` is skipped, and its row has the reason. With `improvement`, they are improved
    unless the reference is near chance, where no accuracy means anything. Browsers need `pages`.
    """
    network = builder.spec.network
    random = network.weights == "random"
    with run.workspace("images") as workspace:
        finish_building = builder.start(options.targets, run.path, options.precisions, refused)
        evaluation = crop_images(network, images, workspace, run, reporter)
        built = finish_building()
        reference = reference_of("torch", evaluation.reference, evaluation.crops.labels, network.classes, random)
        reference = replace(reference, right_by_class=right_by_class(evaluation.reference, evaluation.crops.labels))
        for warning in near_chance(reference, len(evaluation.crops)):
            reporter.warn(warning)

        contents = keys_without_labels(built.values(), builder.graphs)
        store = MeasurementStore(run, evaluation, options.timing, contents)

        def measure(device: Device, bundles: BuiltBundles) -> Sequence[Measurement]:
            if device == THIS:
                return measure_here(bundles, machine.describe(), store, reporter)
            return measure_on_device(device, bundles, options.timing, reporter, evaluation, store, pages)

        measured = each_device(options.machines, lambda device: measure(device, built))
        if improvement and not reference.near_chance:
            measured = improvement.improve(built, measured, measure, builder.graphs)
    shareable = (_shareable(_with_class_names(row, network.labels), run.path) for row in measured)
    rows = [judge(row, options.gates, random, reference.near_chance) for row in shareable]
    rows = [improvement.described(row) for row in rows] if improvement else rows
    here = [row for row in rows if row.device.name == THIS.name]
    shipped = {row.bundle: read_bundle(run.path / row.bundle) for row in here if row.bundle}
    return rows, reference, time_finals(here, shipped, store, reporter)


def _with_class_names(measured: Measurement, names: Sequence[str]) -> Measurement:
    """The measurement with the names of the classes whose predictions changed, instead of their indices."""
    accuracy = measured.accuracy
    if accuracy is None or accuracy.changes is None:
        return measured
    return replace(measured, accuracy=replace(accuracy, changes=with_class_names(accuracy.changes, names)))


def _shareable(measured: Measurement, folder: Path) -> Measurement:
    """The measurement without the run's folder in the message of its failure."""
    failure = measured.failure
    if failure is None:
        return measured
    return replace(measured, failure=replace(failure, message=without_folders(failure.message, [folder])))


def assemble(
    spec: BuildSpec,
    images: JobImages,
    options: Job,
    rows: Sequence[Row],
    reference: Reference,
    stability: Sequence[Stability] = (),
    finals: Finals | None = None,
) -> Report:
    """Assemble the report of a job."""
    shared = set(images.calibration.hashes) & set(images.evaluation.hashes)
    evaluated = {sample.name for sample in images.evaluation.samples}
    return Report(
        name=options.folder.resolve().name or None,
        edgekit=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        command=shareable_command(options.command),
        model=describe_model(spec.network, next((row.macs for row in rows if row.macs), 0)),
        calibration=Calibration(
            count=len(images.calibration.samples),
            sha256=images.calibration.sha256,
            seed=options.seed,
            recipe=spec.recipe.name,
            unreadable=tuple(Unreadable(*image) for image in images.calibration.unreadable),
            doubts=tuple(doubts(images.calibration, spec.network.classes, images.evaluation)),
            unlike_evaluation=differ_in_brightness(images.calibration, images.evaluation),
            stability=tuple(stability),
        ),
        evaluation=Evaluation(
            count=len(images.evaluation.samples),
            sha256=images.evaluation.sha256,
            overlap_with_calibration=len(shared),
            unreadable=tuple(Unreadable(*image) for image in images.evaluation.unreadable),
            copies_left_out=tuple(copies_of(images.evaluation, images.calibration)),
            lookalikes=tuple(Lookalike(*pair) for pair in images.lookalikes if pair[0] in evaluated),
            classes=evaluated_classes((sample.label for sample in images.evaluation.samples), spec.network.labels),
        ),
        reference=reference,
        results=tuple(rows),
        recommendation=recommend(rows, finals),
    )


def describe_model(network: Network, macs: int) -> Model:
    """Describe the network for the report; `macs` is the number of multiply-accumulates of one inference."""
    return Model(
        name=network.name,
        source=network.source,
        weights=Path(network.weights).name,  # reports are shared, and must not reveal local folders
        weights_sha256=network.weights_sha256,
        params=network.params,
        macs=macs,
        input_shape=network.preprocessing.input_shape,
        classes=network.classes,
        accuracy_meaningful=network.weights != "random",
        license=network.license_note,
        preprocessing=PreprocessingFacts(**asdict(network.preprocessing)),
    )
