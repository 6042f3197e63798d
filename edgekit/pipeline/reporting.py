"""Assembles the report of a job from what its stages have returned, and writes it with its thumbnails."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit import __version__
from edgekit.config.recipes import Recipe
from edgekit.errors import ImageError, printable
from edgekit.images.dataset import Dataset
from edgekit.images.preprocess import Preprocessing
from edgekit.job import Job
from edgekit.measure.accuracy import evaluated_classes
from edgekit.measure.recommendation import Finals, recommend
from edgekit.measure.task import Task
from edgekit.models.network import Network
from edgekit.pipeline.job_images import ACTIVATIONS, JobImages
from edgekit.pipeline.request import BuildSpec
from edgekit.report import document, write_report
from edgekit.report.document import Report
from edgekit.report.html import shown_images, write_thumbnails
from edgekit.report.row import Row
from edgekit.runtime.bundle import ManifestLayer, read_bundle, with_manifest
from edgekit.support.files import replace_text, shareable_command, writing
from edgekit.support.libraries import import_needed
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder


def assemble(
    spec: BuildSpec,
    images: JobImages,
    rows: Sequence[Row],
    reference: document.Reference,
    finals: Finals | None,
    job: Job,
) -> Report:
    """Assemble the report of a job."""
    shared = set(images.calibration.hashes) & set(images.evaluation.hashes)
    evaluated = {sample.name for sample in images.evaluation.samples}
    return Report(
        name=printable(job.folder.resolve().name) or None,
        edgekit=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        command=shareable_command(job.command),
        model=describe_model(spec.network, spec.task, next((row.macs for row in rows if row.macs), 0)),
        calibration=document.Calibration(
            count=len(images.calibration.samples),
            sha256=images.calibration.sha256,
            seed=job.seed,
            recipe=spec.recipe.name,
            unreadable=tuple(document.Unreadable(*image) for image in images.calibration.unreadable),
            doubts=tuple(images.calibration.doubts(len(spec.calibration_dataset.class_names), images.evaluation)),
            unlike_evaluation=images.calibration.differs_in_brightness(images.evaluation),
        ),
        evaluation=document.Evaluation(
            count=len(images.evaluation.samples),
            sha256=images.evaluation.sha256,
            overlap_with_calibration=len(shared),
            unreadable=tuple(document.Unreadable(*image) for image in images.evaluation.unreadable),
            copies_left_out=tuple(images.evaluation.copies_of(images.calibration)),
            repeated_left_out=tuple(images.evaluation.copies_of(images.evaluation)),
            lookalikes=tuple(document.Lookalike(*pair) for pair in images.lookalikes if pair[0] in evaluated),
            classes=evaluated_classes(images.evaluation.samples, images.class_names(spec.task, spec.network.labels)),
        ),
        choosing=document.Choosing(
            thresholds=len(images.choosing.images) if images.chosen == "thresholds" else 0,
            temperature=len(spec.fitting.images) if spec.fitting and spec.task.activation in ACTIVATIONS else 0,
            repair=len(images.repair.evaluation.images) if images.repair else 0,
        ),
        reference=reference,
        results=tuple(rows),
        recommendation=recommend(rows, finals),
    )


def describe_model(network: Network, task: Task, macs: int) -> document.Model:
    """Describe the network for the report; `macs` is the number of multiply-accumulates of one inference."""
    return document.Model(
        name=network.name,
        source=network.source,
        weights=printable(Path(network.weights).name),  # reports are shared, and must not reveal local folders
        weights_sha256=network.weights_sha256,
        params=network.params,
        macs=macs,
        input_shape=network.preprocessing.input_shape,
        classes=network.classes,
        accuracy_meaningful=network.weights != "random",
        license=network.license_note,
        preprocessing=document.PreprocessingFacts(**asdict(network.preprocessing)),
        task=task.name,
        class_order=network.class_order,
    )


def write_run(
    report: Report, dataset: Dataset, preprocessing: Preprocessing, run: RunFolder, thumbnails: bool, reporter: Reporter
) -> None:
    """Write the report and, if wanted, thumbnails.

    Thumbnails are of the images whose answer INT8 changed, and of their nearest neighbours. A run that lost a device
    stays incomplete, so that the same command measures only the rows that are missing.
    """
    write_thumbnails(run.path, make_thumbnails(report, dataset, preprocessing, reporter) if thumbnails else {})
    write_report(report, run.path)
    if not any(row.lost_with_device for row in report.results):
        run.complete()


def write_findings(report: Report, folder: Path, threads: int | None) -> None:
    """Write what was measured on the first device into the manifests of its bundles: threads, and layers in float.

    Without a number that the job states, the number of `threads` that was fastest becomes the default, unless the
    bundle is for another class of devices. If that was every core, of which other machines have more, or if it isn't
    certain, there is no default.
    """
    for row in report.rows_on(report.devices[0] if report.devices else None):
        if row.bundle is None or row.latency_ms is None:
            continue
        bundle = read_bundle(folder / row.bundle, check_hashes=False)
        fastest = row.latency_ms.threads
        changes: dict[str, Any] = {"layers": with_reasons(bundle.manifest.layers, row)}
        if threads is None and row.times_are_of(bundle.manifest.device_class):
            is_default = row.latency_ms.by_threads and fastest < (row.device.cores or 0)
            changes["threads"] = fastest if is_default else None
        with_manifest(bundle, **changes)


def with_reasons(layers: Sequence[ManifestLayer], row: Row) -> tuple[ManifestLayer, ...]:
    """The layers of a row's bundle, with the reasons why a placement or a repair keeps some of them in float."""
    repaired = row.repair.result.float_layers if row.repair else ()
    reasons = dict.fromkeys(repaired, "it costs accuracy in INT8")
    reasons |= {layer.name: layer.reason for layer in (row.placement.layers if row.placement else ())}
    return tuple(
        {**layer, "reason": reasons[layer["name"]]} if layer["name"] in reasons and not layer["int8"] else layer
        for layer in layers
    )


def write_recipe(path: Path, recipe: Recipe, report: Report) -> None:
    """Write the recipe of a run's bundles as TOML, with how they were measured on the first device in a comment."""
    lines = [
        f"Written at {report.created} by edgekit {report.edgekit}: edgekit {shlex.join(report.command)}",
        f"`--recipe {path.name} --no-repair` makes the same INT8 bundles from the same images.",
    ]
    for row in report.rows_on(report.devices[0] if report.devices else None):
        if row.precision == "float" or row.latency_ms is None:
            continue
        where = ", ".join(filter(None, (row.label, row.device.cpu, row.device.device_class, row.engine)))
        speed = f", {row.speedup.ratio:.2f}x {row.speedup.baseline}" if row.speedup else ""
        lines.append(f"{where}: {row.latency_ms.p50:.3g} ms{speed}")
        lines += [row.placement.words()] if row.placement else []
        lines += [row.repair.words] if row.repair else []
    comment = "".join(f"# {line}\n" for line in lines)
    with writing(path, "--write-recipe"):
        replace_text(path.resolve(), comment + import_needed("tomlkit", "cli").dumps(recipe.table()))


SIDE = 64
"""Longest side of a thumbnail, in pixels."""
QUALITY = 80
"""JPEG quality of a thumbnail, on Pillow's scale."""


def make_thumbnails(
    report: Report, dataset: Dataset, preprocessing: Preprocessing, reporter: Reporter
) -> dict[str, bytes]:
    """JPEG files of the images that the page shows, by name: the crops that the network saw, made smaller."""
    names = {*shown_images(report)}
    thumbnails = {}
    for sample in dataset.samples:
        if sample.name not in names:
            continue
        try:
            [pixels] = dataset.crop_each([sample], preprocessing)
            thumbnails[sample.name] = _thumbnail(pixels)
        except ImageError as error:  # which could be read when the bundles were evaluated
            reporter.warn(f"the report shows no thumbnail of '{sample.name}': {error}", error)
    return thumbnails


def _thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """A small JPEG file of a crop [H,W,C]."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((SIDE, SIDE))
    file = BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
