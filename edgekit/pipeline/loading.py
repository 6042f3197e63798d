"""Loads what a job needs: its settings, the network and its images."""

import platform
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from edgekit.compiler.rewrites import REWRITES
from edgekit.config import runtimes
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import DeviceClass, Form
from edgekit.devices.registry import THIS, Device
from edgekit.devices.setup import class_of_remote
from edgekit.errors import BundleError, DeviceError, ModelError, OutputError, UsageError
from edgekit.images.dataset import Dataset
from edgekit.images.selection import CalibrationList, Selection
from edgekit.job import Job, check_scheme
from edgekit.measure.bundles import networks_in
from edgekit.measure.task import Task
from edgekit.models.loading import load_network, settle_classes
from edgekit.models.network import Network, batched_logits
from edgekit.models.options import ModelOptions
from edgekit.pipeline.job_images import (
    FEWEST_IMAGES,
    MOST_IMAGES,
    Chosen,
    ImageChoice,
    JobImages,
    choose_images,
    datasets_of,
    known_task,
    recognized_task,
    say_why,
    warn_of_images,
    without_classes,
)
from edgekit.pipeline.request import BuildSpec
from edgekit.runtime.bundle import MANIFEST
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter


@dataclass(frozen=True)
class JobSettings:
    """Settings with which the bundles of a job are made."""

    model: ModelOptions
    """The network, with what its files state."""
    recipe: Recipe
    """The recipe for the device class, with the scheme that the job states."""
    device_class: DeviceClass
    """Machines that the bundles are for."""
    listed: CalibrationList | None
    """The list of calibration images, if the job has one."""


def settings_of(job: Job) -> JobSettings:
    """The settings of a job. Without a recipe, it is that of its list of images, or that of the model's family.

    Raises UsageError if one of the targets can't compile the scheme, and the errors of `choose_class`.
    """
    device_class = choose_class(job.device_class, job.machines[0])
    listed = CalibrationList.read(job.calibration_list, REWRITES) if job.calibration_list else None
    default = listed.recipe if listed else Recipe.for_model(job.identified.name, REWRITES)
    chosen = (Recipe.load(job.recipe, REWRITES) if job.recipe else default).for_class(device_class)
    if any(device.is_browser for device in job.machines):  # of which no one has measured dynamic layers
        chosen = chosen.static()
    if job.scheme:
        chosen = replace(chosen, scheme=job.scheme)
    check_scheme(chosen.scheme, job.targets)
    return JobSettings(job.identified, chosen, device_class, listed)


def choose_class(device_class: str | None, first: Device) -> DeviceClass:
    """The device class of the bundles: the one of this name or, without a name, that of the first device.

    Raises UsageError if no class fits the device, and DeviceError if the device can't be reached.
    """
    try:
        here = first == THIS or first.is_browser
        name = device_class or (DeviceClass.of_host() if here else class_of_remote(first))
    except DeviceError as error:
        fix = "To build bundles without the device, name its class with `--device-class`"
        raise error.with_fix(fix) from error
    if name is None:
        device = f"this {platform.machine()} machine" if first == THIS else f"'{first.name}'"
        raise UsageError(
            f"no device class fits {device}",
            valid=f"{', '.join(DeviceClass.listed())}, or the path of a TOML file",
            fix="Choose a class with `--device-class`",
        )
    return DeviceClass.load(name)


def for_size(recipe: Recipe, params: int) -> Recipe:
    """The recipe for a network with this number of parameters: GPTQ instead of "fit" in large ones."""
    if params > runtimes.ROUNDED_TOGETHER_UP_TO and recipe.weight_rounding == "fit":
        return replace(recipe, weight_rounding="gptq")
    return recipe


def report_rounding(wanted: Recipe, recipe: Recipe, params: int, reporter: Reporter) -> None:
    """Warn if `for_size` changed the rounding that a recipe wants."""
    if recipe.weight_rounding != wanted.weight_rounding:
        reporter.warn(
            f"weights are rounded by GPTQ: the model has {params / 1e6:,.0f} M parameters, and "
            f'weight_rounding = "fit" needs gigabytes above {runtimes.ROUNDED_TOGETHER_UP_TO / 1e6:.0f} M'
        )


IMPORT_TOLERANCE = 1e-3
"""Largest allowed difference between an imported network and its original, as a fraction of the largest output."""


def load_job(
    job: Job,
    reporter: Reporter,
    evaluates: bool = True,
    settings: JobSettings | None = None,
    chooses: bool = False,
) -> tuple[BuildSpec, JobImages]:
    """Load the network of a job, and choose its images for calibration and, if it `evaluates`, for evaluation.

    If the job `chooses`, others are for that, as far as it needs them. This reports every mistake in the input before
    the long work starts. `settings` are the job's if they are known.
    """
    settings, model = settings or settings_of(job), job.model_options
    with reporter.stage(f"load {model.name}"), quiet():
        network = load_network(settings.model, seed=job.seed)
    form: Form = "fast" if job.preprocessing == "fast" else "exact"
    network = replace(network, preprocessing=network.preprocessing.in_form(form))
    check_folder(job, network, reporter)
    recipe = for_size(settings.recipe, network.params)
    report_rounding(settings.recipe, recipe, network.params, reporter)
    _report_origin(network, model, reporter)
    task = known_task(job.task, network)
    if task and not task.outputs_are_classes:
        network = without_classes(network, model)
    counts = job.num_calibration_samples, job.num_eval_samples
    choice = ImageChoice(job.data, job.calibration_data, *counts, job.seed, settings.listed, model.weights)
    datasets = datasets_of(choice, network.labels, task.labelling if task else None)
    if datasets.origin:
        reporter.say(datasets.origin)
    task = task or recognized_task(datasets)
    say_why(job.task, task, network, datasets.evaluation, reporter)
    if task.outputs_are_classes:
        network = settle_classes(network, model, datasets.evaluation, reporter, is_judged=chooses)
    if chooses:
        choice = replace(choice, chosen=_chosen(job, task, network))
    images = choose_images(datasets, recipe, choice, reporter, evaluates)
    warn_of_images(images, len(datasets.calibration.class_names), reporter)
    check_import(network, datasets.calibration, images.calibration, reporter)
    with reporter.stage("export"), quiet():
        _ = network.graph_sha256  # a network that can't be traced ends the job here
    task = task.at(job.threshold, network.classes)
    spec = BuildSpec(
        network,
        recipe,
        settings.device_class,
        datasets.calibration,
        images.calibration,
        task,
        input_dtype=job.input_dtype,
    )
    if len(images.choosing.images) >= FEWEST_IMAGES and network.params < runtimes.BUILT_APART_FROM:
        spec = replace(spec, fitting=images.choosing.split(MOST_IMAGES)[0], fitting_dataset=images.dataset)
    return spec, images


def _chosen(job: Job, task: Task, network: Network) -> Chosen | None:
    """What a job chooses. Large networks and random weights are not repaired, and have no temperature."""
    if task.labelling == "several" and job.threshold is None:
        return "thresholds"
    is_repaired = network.weights != "random" and network.params < runtimes.BUILT_APART_FROM
    return "layers" if "int8" in job.precisions and is_repaired else None


def check_folder(job: Job, network: Network, reporter: Reporter) -> None:
    """Warn if the run folder has bundles of another network; OutputError if the job doesn't state this folder."""
    others: set[str] = set()
    for manifest in job.folder.glob(f"*/{MANIFEST}"):
        with suppress(BundleError):  # which is made anew
            others |= networks_in([manifest.parent]).keys() - {network.weights_sha256}
    if not others:
        return
    if job.output is None:
        raise OutputError(
            f"'{job.folder}' has bundles of another network than this '{network.name}'",
            valid="a folder of this network, or a new one",
            fix=f"Keep both with `--output {job.folder}-2`, or replace them with `--output {job.folder}`",
        )
    reporter.warn(f"'{job.folder}' has bundles of another network, which this command replaces or leaves as they are")


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
        reporter.warn("the weights are random: accuracy and agreement are meaningless, but sizes and speed are valid")


def check_import(network: Network, dataset: Dataset, calibration: Selection, reporter: Reporter) -> None:
    """Compare an imported network with its original on the calibration images. Raises ModelError if they differ."""
    if network.reference is None:
        return
    with reporter.stage("compare with ONNX Runtime", len(calibration.samples)) as step, quiet():
        pixels = dataset.crop(calibration.samples, network.preprocessing).pixels
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
