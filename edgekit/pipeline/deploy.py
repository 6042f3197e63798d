"""The whole job: model and images in; bundles, measurements and a report out."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgekit import __version__
from edgekit.devices.parallel import each_device
from edgekit.devices.registry import THIS, Device
from edgekit.devices.remote import failed_on_device, measure_on
from edgekit.images.calibration_list import doubts, write_list
from edgekit.images.overlap import copies_of, lookalikes
from edgekit.images.selection import unreadable
from edgekit.images.stores import open_store
from edgekit.measure.accuracy import Predictions
from edgekit.measure.bundle_rows import measure_rows
from edgekit.measure.gates import judge, recommend
from edgekit.measure.rows import Row
from edgekit.pipeline.build import build_all
from edgekit.pipeline.evaluation_images import crop_images
from edgekit.pipeline.job import Job, prepare
from edgekit.pipeline.options import Options
from edgekit.pipeline.plan import Refusals, refusals
from edgekit.pipeline.stability import check_stability
from edgekit.pipeline.worker import parked
from edgekit.report import write_report
from edgekit.runtime.backend import load_backend
from edgekit.support.libraries import import_needed
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder, check_output, open_run

REPORT_PACKAGES = ("jsonschema", "jinja2", "matplotlib")


def deploy(options: Options, reporter: Reporter) -> dict[str, Any]:
    """Do the whole job and write the run folder. Returns the report; gates are in its rows' verdicts."""
    check_tools(options)
    refused = Refusals() if options.force else refusals(options)
    job = prepare(options, reporter)
    if refused.unplanned:
        reporter.warn(f"memory and sizes were not checked beforehand: {refused.unplanned}", refused.unplanned)
    with open_run(options.folder) as run, parked(job, run) as job:
        write_list(run.path / "calibration.json", job.calibration, job.recipe, options.seed)
        rows, reference = bundles_and_rows(job, options, run, reporter, refused.reasons)
        report = assemble(job, options, rows, reference)
        if options.check_stability:
            report["calibration"]["stability"] = check_stability(job, options.targets, reporter)
        write_report(report, run.path)
        if not any(failed_on_device(row) for row in rows):  # else the same command measures only what is missing
            run.forget()
    return report


def plan(options: Options, reporter: Reporter) -> dict[str, Any]:
    """What the job would do; its input is checked in full and nothing is written."""
    job = prepare_all(options, reporter)
    return {
        "schema_version": 1,
        "model": job.network.name,
        "weights": job.network.weights,
        "params": job.network.params,
        "output": str(options.folder),
        "targets": list(options.targets),
        "devices": [device.name for device in options.devices],
        "recipe": job.recipe.name,
        "device_class": job.device_class,
        "calibration_images": len(job.calibration.samples),
        "evaluation_images": len(job.evaluation.samples),
        "bundles": [f"{target}-{precision}" for target in options.targets for precision in options.precisions],
    }


def prepare_all(options: Options, reporter: Reporter) -> Job:
    """The job; an output that won't do, data that isn't there and a missing package show first."""
    check_tools(options)
    return prepare(options, reporter)


def check_tools(options: Options) -> None:
    """Raise the InputError of an output that won't do, of data that isn't there, or of a missing package."""
    check_output(options.folder)
    for path in filter(None, (options.data, options.calibration_data)):
        open_store(path)
    for package in REPORT_PACKAGES:
        import_needed(package, "build")
    for target in options.targets:
        load_backend(target)


def bundles_and_rows(
    job: Job, options: Options, run: RunFolder, reporter: Reporter, refused: Mapping[str, str] = MappingProxyType({})
) -> tuple[list[Row], Predictions]:
    """Make or reuse the bundles, evaluate and time them. Rows of the report, and torch's answers.

    A bundle in `refused` isn't begun: its row has the reason.
    """
    built = build_all(job, options.targets, run.path, reporter, refused, options.precisions)
    with run.workspace("images") as workspace:
        images = crop_images(job, workspace, run, reporter)

        def measure(device: Device) -> list[Row]:
            if device == THIS:
                return measure_rows(built, images, options.settings, run, reporter)
            return measure_on(device, built, images, options.settings, run, reporter, options.offline)

        measured = each_device(options.devices, measure)
    return [judge(row, options.settings, job.network.weights == "random") for row in measured], images.reference


def assemble(job: Job, options: Options, rows: Sequence[Row], reference: Predictions) -> dict[str, Any]:
    """The report (schema_version 1)."""
    shared = set(job.calibration.hashes) & set(job.evaluation.hashes)
    return {
        "schema_version": 1,
        "edgekit": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "command": list(options.command),
        "model": describe_model(job) | {"macs": next((row["macs"] for row in rows if row.get("macs")), 0)},
        "calibration": {
            "count": len(job.calibration.samples),
            "sha256": job.calibration.sha256,
            "seed": options.seed,
            "recipe": job.recipe.name,
            "unreadable": unreadable(job.calibration),
            "doubts": doubts(job.calibration, job.network.classes),
        },
        "evaluation": {
            "count": len(job.evaluation.samples),
            "sha256": job.evaluation.sha256,
            "overlap_with_calibration": len(shared),
            "unreadable": unreadable(job.evaluation),
            "copies_left_out": copies_of(job.evaluation, job.calibration),
            "lookalikes": lookalikes(job.evaluation, job.calibration),
        },
        "reference": {"engine": "torch", "top1": float(reference.hit1.mean()), "top5": float(reference.hit5.mean())},
        "results": [{key: value for key, value in row.items() if key != "macs"} for row in rows],
        "recommendation": recommend(rows),
    }


def describe_model(job: Job) -> dict[str, Any]:
    """The `model` object of the report, but for its MACs."""
    network, size = job.network, job.network.preprocessing
    return {
        "name": network.name,
        "source": network.source,
        "weights": Path(network.weights).name,  # a report is passed on: its folders are nobody's business
        "weights_sha256": network.weights_sha256,
        "params": network.params,
        "input_shape": [1, 3, size.height, size.width],
        "classes": network.classes,
        "accuracy_meaningful": network.weights != "random",
        "license": network.license_note,
    }
