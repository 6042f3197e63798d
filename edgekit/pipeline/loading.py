"""Loads what a job needs: the network, its images and its settings."""

import numpy as np

from edgekit.config.recipes import Recipe
from edgekit.errors import ModelError
from edgekit.images.crops import crop_samples
from edgekit.images.dataset import Dataset, Datasets
from edgekit.images.selection import Selection
from edgekit.job import Job
from edgekit.models import Network, load_network
from edgekit.models.loading import settle_classes
from edgekit.models.logits import batched_logits
from edgekit.models.options import ModelOptions
from edgekit.pipeline.job_images import (
    JobImages,
    choose_calibration,
    choose_evaluation,
    datasets_of,
    find_lookalikes,
    warn_of_doubts,
    warn_of_overlap,
    warn_of_unreadable,
)
from edgekit.pipeline.job_settings import JobSettings, choose_settings, for_size, report_rounding
from edgekit.pipeline.request import BuildSpec
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter

IMPORT_TOLERANCE = 1e-3
"""Largest allowed difference between an imported network and its original, as a fraction of the largest output."""


def load_job(options: Job, reporter: Reporter) -> tuple[BuildSpec, JobImages]:
    """Load the network, and choose the images for calibration and evaluation.

    This reports every mistake in the input before the long work starts.
    """
    settings = choose_settings(options)
    network, recipe = _load(options, settings, reporter)
    network, datasets = _open(options, network, reporter)
    calibration = choose_calibration(datasets, recipe, options, reporter, settings.listed)
    evaluation = choose_evaluation(datasets.evaluation, calibration, options, reporter)
    warn_of_unreadable(reporter, calibration, evaluation)
    alike = find_lookalikes(evaluation, calibration, datasets)
    warn_of_doubts(calibration, network.classes, reporter, evaluation)
    warn_of_overlap(evaluation, calibration, alike, reporter)
    _check_network(network, datasets.calibration, calibration, reporter)
    spec = BuildSpec(network, recipe, settings.device_class, datasets.calibration, calibration)
    return spec, JobImages(datasets.evaluation, evaluation, calibration, alike)


def load_job_to_build(options: Job, reporter: Reporter) -> BuildSpec:
    """Load the network and choose calibration images, for bundles that are not evaluated. Otherwise as `load_job`."""
    settings = choose_settings(options)
    network, recipe = _load(options, settings, reporter)
    network, datasets = _open(options, network, reporter)
    calibration = choose_calibration(datasets, recipe, options, reporter, settings.listed, leave_half=False)
    warn_of_unreadable(reporter, calibration)
    warn_of_doubts(calibration, network.classes, reporter)
    _check_network(network, datasets.calibration, calibration, reporter)
    return BuildSpec(network, recipe, settings.device_class, datasets.calibration, calibration)


def _load(options: Job, settings: JobSettings, reporter: Reporter) -> tuple[Network, Recipe]:
    """Load the network; return it, and the recipe for its size."""
    with reporter.stage(f"load {options.model_options.name}"), quiet():
        network = load_network(options.identified, seed=options.seed)
    recipe = for_size(settings.recipe, network.params)
    report_rounding(settings.recipe, recipe, network.params, reporter)
    _report_origin(network, options.model_options, reporter)
    return network, recipe


def _report_origin(network: Network, model: ModelOptions, reporter: Reporter) -> None:
    """Say what was inferred from the network's files, and where its weights and normalization come from."""
    for note in network.notes:
        (reporter.warn if note.doubtful else reporter.say)(note.text)
    if network.license_note:
        reporter.say(network.license_note)
    if network.source == "onnx" and None in (model.mean, model.std):
        mean, std = (", ".join(map(str, values)) for values in (network.preprocessing.mean, network.preprocessing.std))
        reporter.warn(
            f"'{network.name}' doesn't say how its images were normalized: --mean is {mean} and --std is {std}, as for "
            "ImageNet. Accuracy suffers if training used other values"
        )
    if network.weights == "random":
        reporter.warn("the weights are random: accuracy is meaningless, but sizes, speed and agreement are valid")


def _open(options: Job, network: Network, reporter: Reporter) -> tuple[Network, Datasets]:
    """Open the data sets, and settle the classes of the network, which is returned with their names."""
    datasets = datasets_of(options, network.labels)
    if datasets.origin:
        reporter.say(datasets.origin)
    return settle_classes(network, options.model_options, datasets.evaluation, reporter), datasets


def _check_network(network: Network, dataset: Dataset, calibration: Selection, reporter: Reporter) -> None:
    """Compare an imported network with its original, and export it: one that can't be traced ends the job here."""
    check_import(network, dataset, calibration, reporter)
    with reporter.stage("export"), quiet():
        _ = network.graph_sha256


def check_import(network: Network, dataset: Dataset, calibration: Selection, reporter: Reporter) -> None:
    """Compare an imported network with its original on the calibration images. Raises ModelError if they differ."""
    if network.reference is None:
        return
    with reporter.stage("compare with ONNX Runtime", len(calibration.samples)) as step, quiet():
        pixels = crop_samples(dataset, calibration.samples, network.preprocessing).pixels
        batches = []
        for batch in batched_logits(network, pixels):
            batches.append(batch)
            step(len(batch))
        logits = np.concatenate(batches)
        difference = network.reference.difference(network.preprocessing.normalize(pixels), logits)
    if not difference <= IMPORT_TOLERANCE:
        raise ModelError(
            f"the import of '{network.name}' differs from ONNX Runtime by {difference:.2e} of the largest output on "
            f"{len(logits)} calibration images",
            valid=f"at most {IMPORT_TOLERANCE:.0e}",
            fix="Deploy the network from its source, for example as module:factory",
        )
    reporter.say(f"the import differs from ONNX Runtime by {difference:.1e} of the largest output")
