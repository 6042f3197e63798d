"""Loads what a job needs: the network, its images and its settings."""

import numpy as np

from edgekit.errors import ModelError
from edgekit.images.crops import crop_samples
from edgekit.images.dataset import Dataset
from edgekit.images.selection import Selection
from edgekit.job import Job
from edgekit.models import Network, load_network
from edgekit.models.loading import settle_classes
from edgekit.models.logits import batched_logits
from edgekit.models.options import ModelOptions
from edgekit.pipeline.job_images import (
    ImageChoice,
    JobImages,
    choose_images,
    datasets_of,
    warn_of_images,
)
from edgekit.pipeline.job_settings import JobSettings, choose_class, choose_settings, for_size, report_rounding
from edgekit.pipeline.request import BuildSpec
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter

IMPORT_TOLERANCE = 1e-3
"""Largest allowed difference between an imported network and its original, as a fraction of the largest output."""


def load_job(job: Job, reporter: Reporter, evaluates: bool = True) -> tuple[BuildSpec, JobImages]:
    """The network of a job and its images, as `load` returns them."""
    device_class = choose_class(job.device_class, job.machines[0])
    stated = job.recipe, job.scheme, job.calibration_list
    settings = choose_settings(job.identified, job.targets, device_class, *stated)
    choice = ImageChoice(job.data, job.calibration_data, job.num_calibration_samples, job.num_eval_samples, job.seed)
    return load(job.model_options, settings, choice, reporter, evaluates)


def load(
    model: ModelOptions, settings: JobSettings, choice: ImageChoice, reporter: Reporter, evaluates: bool = True
) -> tuple[BuildSpec, JobImages]:
    """Load the network, and choose the images for calibration and, if the job `evaluates`, for evaluation.

    This reports every mistake in the input before the long work starts.
    """
    with reporter.stage(f"load {model.name}"), quiet():
        network = load_network(settings.model, seed=choice.seed)
    recipe = for_size(settings.recipe, network.params)
    report_rounding(settings.recipe, recipe, network.params, reporter)
    _report_origin(network, model, reporter)
    datasets = datasets_of(choice, network.labels)
    if datasets.origin:
        reporter.say(datasets.origin)
    network = settle_classes(network, model, datasets.evaluation, reporter)
    images = choose_images(datasets, recipe, choice, reporter, settings.listed, model.weights, evaluates)
    warn_of_images(images, network.classes, reporter)
    check_import(network, datasets.calibration, images.calibration, reporter)
    with reporter.stage("export"), quiet():
        _ = network.graph_sha256  # a network that can't be traced ends the job here
    return BuildSpec(network, recipe, settings.device_class, datasets.calibration, images.calibration), images


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
