"""Turns options into a job: loads the network and chooses the images."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekit.compiler.quantize.gptq import LARGE
from edgekit.compiler.rewrites import PASSES
from edgekit.config.device_classes import DeviceClass, host_class, list_device_classes, load_device_class
from edgekit.config.recipes import Recipe, load_recipe, recipe_for
from edgekit.devices.check import class_of_remote
from edgekit.devices.registry import THIS
from edgekit.errors import DeviceError, ModelError, UsageError
from edgekit.images.calibration_list import CalibrationList, doubts, read_list
from edgekit.images.crops import crop_samples
from edgekit.images.dataset import Dataset, open_dataset
from edgekit.images.overlap import copies_of, lookalikes
from edgekit.images.selection import Selection, select, select_listed
from edgekit.models import Network, load_network
from edgekit.models.class_order import report_class_order
from edgekit.models.logits import batched_logits
from edgekit.models.soup_record import held_out_of
from edgekit.pipeline.options import Options, check_scheme
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter

PARITY = 1e-3
"""Largest allowed difference between an imported network and its original, as a fraction of the largest output."""


@dataclass(frozen=True)
class Job:
    """Input of every stage."""

    network: Network
    recipe: Recipe
    device_class: DeviceClass
    dataset: Dataset
    calibration_dataset: Dataset
    calibration: Selection
    evaluation: Selection
    lookalikes: tuple[tuple[str, str], ...] = ()
    """(name, name of a calibration image) of the evaluation images that look like calibration images."""
    parked: Path | None = None
    """File from which another process can load the job and map its weights; None if the job is only in memory."""


def load_job(options: Options, reporter: Reporter, evaluate: bool = True) -> Job:
    """Load the network and choose the images. This reports every mistake in the input before the long work starts."""
    listed = read_list(options.calibration_list, PASSES) if options.calibration_list else None
    recipe = choose_recipe(options, listed)
    device_class = choose_class(options)
    recipe = recipe.for_class(device_class.name)
    if options.scheme:
        recipe = replace(recipe, scheme=options.scheme)
    if recipe.scheme == "w8" and options.check_stability:
        raise UsageError(
            "--check-stability compares ranges of activations, which scheme w8 doesn't have",
            fix="Leave out `--check-stability`, or use `--scheme w8a8`",
        )
    check_scheme(recipe.scheme, options.targets)
    with reporter.stage(f"load {options.model.name}"), quiet():
        network = load_network(options.model, seed=options.seed)
    recipe, wanted = for_size(recipe, network.params), recipe
    if recipe is not wanted:
        reporter.warn(
            f"weights are rounded by GPTQ: the model has {network.params / 1e6:,.0f} M parameters, and "
            f'weight_rounding = "fit" needs gigabytes above {LARGE / 1e6:.0f} M'
        )
    if network.license_note:
        reporter.say(network.license_note)
    if network.source == "onnx" and None in (options.model.mean, options.model.std):
        mean, std = (", ".join(map(str, values)) for values in (network.preprocessing.mean, network.preprocessing.std))
        reporter.warn(
            f"'{network.name}' doesn't say how its images were normalized: --mean is {mean} and --std is {std}, as for "
            "ImageNet. Accuracy suffers if training used other values"
        )
    if network.weights == "random":
        reporter.warn("the weights are random: accuracy is meaningless, but sizes, speed and agreement are valid")
    dataset = open_dataset(options.data, network.labels)
    report_class_order(network, options.model, dataset, reporter)
    other = open_dataset(options.calibration_data, network.labels) if options.calibration_data else dataset
    calibration, evaluation = choose(dataset, other, recipe, options, evaluate, reporter, listed)
    alike = tuple(lookalikes(evaluation, dataset, calibration, other)) if evaluate else ()
    warn_of_doubts(calibration, evaluation, alike, network.classes, reporter)
    check_import(network, other, calibration, reporter)
    with reporter.stage("export"), quiet():
        _ = network.graph_sha256  # a network that can't be traced ends the job here
    return Job(network, recipe, device_class, dataset, other, calibration, evaluation, alike)


def for_size(recipe: Recipe, params: int) -> Recipe:
    """The recipe for a network of so many parameters: GPTQ instead of "fit" above `LARGE`."""
    if params > LARGE and recipe.weight_rounding == "fit":
        return replace(recipe, weight_rounding="gptq")
    return recipe


def check_import(network: Network, dataset: Dataset, calibration: Selection, reporter: Reporter) -> None:
    """Compare an imported network with its original on the calibration images. Raises ModelError if they differ."""
    if network.reference is None:
        return
    with reporter.stage("compare with ONNX Runtime", len(calibration.samples)), quiet():
        pixels = crop_samples(dataset, calibration.samples, network.preprocessing).pixels
        logits = np.concatenate(list(batched_logits(network, pixels)))
        difference = network.reference.difference(network.preprocessing.normalize(pixels), logits)
    if not difference <= PARITY:
        raise ModelError(
            f"the import of '{network.name}' differs from ONNX Runtime by {difference:.2e} of the largest output on "
            f"{len(logits)} calibration images",
            valid=f"at most {PARITY:.0e}",
            fix="Deploy the network from its source, for example as module:factory",
        )
    reporter.say(f"the import differs from ONNX Runtime by {difference:.1e} of the largest output")


def choose_class(options: Options) -> DeviceClass:
    """The device class of the bundles: the one in the options, or that of the first device.

    Raises UsageError if no class fits the device, and DeviceError if the device can't be reached.
    """
    first = options.devices[0]
    try:
        name = options.device_class or (host_class() if first == THIS else class_of_remote(first))
    except DeviceError as error:
        fix = "To build bundles without the device, name its class with `--device-class`"
        raise error.with_fix(fix) from error
    if name is None:
        device = f"this {platform.machine()} machine" if first == THIS else f"'{first.name}'"
        raise UsageError(
            f"no device class fits {device}",
            valid=f"{', '.join(list_device_classes())}, or the path of a TOML file",
            fix="Choose a class with `--device-class`",
        )
    return load_device_class(name)


def with_device_class(options: Options) -> Options:
    """The options with the name of the device class that `choose_class` finds, so that a device is asked only once."""
    return options if options.device_class else replace(options, device_class=choose_class(options).name)


def choose_recipe(options: Options, listed: CalibrationList | None) -> Recipe:
    """The recipe of the options, or that of the list of calibration images, or that of the model's family."""
    if options.recipe:
        return load_recipe(options.recipe, PASSES)
    return listed.recipe if listed else recipe_for(options.model.name, PASSES)


def choose(
    dataset: Dataset,
    other: Dataset,
    recipe: Recipe,
    options: Options,
    evaluate: bool,
    reporter: Reporter,
    listed: CalibrationList | None = None,
) -> tuple[Selection, Selection]:
    """Choose calibration images from `other`, and evaluation images from `dataset` that are not among them."""
    requested = options.num_calibration_samples
    if listed and requested is not None:
        raise UsageError(
            "--calibration-list already determines the images, so --num-calibration-samples has no effect",
            fix="Leave out `--num-calibration-samples`",
        )
    count = len(listed.images) if listed else recipe.num_calibration_samples if requested is None else requested
    if count < 1:
        raise UsageError(f"--num-calibration-samples is {count}", valid="a whole number from 1")
    available = len(other.samples) // (2 if other is dataset and evaluate else 1)
    if not listed and requested is None and available < count:
        count = max(1, available)
        reporter.warn(f"'{other.path}' has only {len(other.samples)} images: calibrating on {count} of them")
    with reporter.stage("read calibration images", count) as step:
        if listed:
            calibration = select_listed(other, listed.images, listed.path, step)
        else:
            calibration = select(other, count, options.seed, on_image=step)
    evaluation = calibration
    if evaluate:
        chosen_on = held_out_of(options.model.weights)
        if chosen_on:
            reporter.say(
                f"the weights are a soup: the {len(chosen_on)} images that chose its members are excluded from the "
                "evaluation"
            )
        used = replace(calibration, hashes=(*calibration.hashes, *chosen_on))
        with reporter.stage("read evaluation images", options.num_eval_samples or None) as step:
            evaluation = select(dataset, options.num_eval_samples, options.seed, exclude=used, on_image=step)
    for name, reason in dict.fromkeys((*calibration.unreadable, *evaluation.unreadable)):
        reporter.warn(f"skipped {name}: {reason}")
    return calibration, evaluation


def warn_of_doubts(
    calibration: Selection,
    evaluation: Selection,
    alike: Sequence[tuple[str, str]],
    classes: int,
    reporter: Reporter,
) -> None:
    """Warn of a poor calibration set, and of evaluation images that are copies or lookalikes of calibration images."""
    for doubt in doubts(calibration, classes):
        reporter.warn(doubt)
    if evaluation is calibration:
        return
    if copies := copies_of(evaluation, calibration):
        reporter.warn(
            f"{len(copies)} images are copies of calibration images and were left out of the evaluation: "
            f"{_some(copies)}"
        )
    if alike:
        reporter.warn(
            f"{len(alike)} evaluation images look like calibration images, and may be re-encoded copies: "
            f"{_some([f'{name} (like {like})' for name, like in alike])}. INT8 may seem more accurate than it is"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more (report.json has all)" if len(names) > 3 else "")
