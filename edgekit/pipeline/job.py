"""From options to a job: the network is loaded and the images are chosen."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.compiler.rewrites import PASSES
from edgekit.config.device_classes import host_class, list_device_classes, load_device_class
from edgekit.config.precisions import Scheme
from edgekit.config.recipes import Recipe, load_recipe, recipe_for
from edgekit.config.runtimes import RUNTIMES, find_runtime
from edgekit.devices.check import class_of_remote
from edgekit.devices.registry import THIS
from edgekit.errors import DeviceError, UsageError
from edgekit.images.calibration_list import CalibrationList, doubts, read_list
from edgekit.images.dataset import Dataset, open_dataset
from edgekit.images.overlap import copies_of, lookalikes
from edgekit.images.selection import Selection, select, select_listed
from edgekit.models import Network, load_network
from edgekit.models.soup_record import held_out_of
from edgekit.pipeline.options import Options
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter

GPTQ_MOST = 150_000_000
"""Parameters up to which GPTQ rounds weights: its matrices take gigabytes and minutes beyond."""


@dataclass(frozen=True)
class Job:
    """What every stage works on."""

    network: Network
    recipe: Recipe
    device_class: str
    dataset: Dataset
    calibration_dataset: Dataset
    calibration: Selection
    evaluation: Selection
    parked: Path | None = None
    """Where another process finds the job, its weights mapped from there; None while it is in memory alone."""


def prepare(options: Options, reporter: Reporter, evaluate: bool = True) -> Job:
    """Load the network and choose the images; every mistake in the input shows here, before the long work."""
    listed = read_list(options.calibration_list, PASSES) if options.calibration_list else None
    recipe = choose_recipe(options, listed)
    device_class = choose_class(options)
    recipe = recipe.for_class(device_class)
    if options.scheme:
        recipe = replace(recipe, scheme=options.scheme)
    if recipe.scheme == "w8" and options.check_stability:
        raise UsageError("scheme w8 has no ranges that depend on images: leave out --check-stability.")
    check_scheme(recipe.scheme, options.targets)
    with reporter.stage(f"load {options.model.name}"), quiet():
        network = load_network(options.model, seed=options.seed)
    if network.params > GPTQ_MOST and recipe.weight_rounding == "gptq":
        recipe = replace(recipe, weight_rounding="nearest")
        reporter.warn(
            f"{network.params / 1e6:,.0f} M parameters: weights are rounded to nearest, since GPTQ takes gigabytes and "
            f"minutes above {GPTQ_MOST / 1e6:.0f} M"
        )
    if network.license_note and "num_classes" not in options.model.model_args:
        reporter.say(network.license_note)
    if network.weights == "random":
        reporter.warn("the weights are random: accuracy means nothing; sizes, speed and agreement do")
    dataset = open_dataset(options.data, network.labels)
    other = open_dataset(options.calibration_data, network.labels) if options.calibration_data else dataset
    calibration, evaluation = choose(dataset, other, recipe, options, evaluate, reporter, listed)
    warn_of_doubts(calibration, evaluation, network.classes, reporter)
    return Job(network, recipe, device_class, dataset, other, calibration, evaluation)


def check_scheme(scheme: Scheme, targets: Sequence[str]) -> None:
    """UsageError, with the targets to name instead, if one of these cannot compile the INT8 scheme."""
    unable = [find_runtime(name) for name in targets if scheme not in find_runtime(name).schemes]
    if not unable:
        return
    able = [runtime.name for runtime in RUNTIMES.values() if scheme in runtime.schemes]
    asked = [name for name in able if name in targets]
    raise UsageError(
        f"scheme {scheme} is not for {' and '.join(runtime.title for runtime in unable)}, valid there is "
        f"{', '.join(unable[0].schemes)}: choose targets with {' '.join(f'--target {name}' for name in asked or able)}."
    )


def choose_class(options: Options) -> str:
    """The class of devices that bundles are made for: the one asked for, or that of the first device.

    Raises UsageError if no class fits this machine, a DeviceError if the first device can't be asked.
    """
    first = options.devices[0]
    try:
        name = options.device_class or (host_class() if first == THIS else class_of_remote(first))
    except DeviceError as error:
        fix = "Or name the class to make bundles for with --device-class; the device is then not asked"
        raise error.with_fix(fix) from error
    if name is None and first != THIS:
        raise UsageError(
            f"no device class fits '{first.name}': choose one with --device-class, one of "
            f"{', '.join(list_device_classes())}, or give the path of a TOML file."
        )
    if name is None:
        raise UsageError(
            f"no device class fits this {platform.machine()} machine: choose one with --device-class, one of "
            f"{', '.join(list_device_classes())}, or give the path of a TOML file."
        )
    return load_device_class(name).name


def choose_recipe(options: Options, listed: CalibrationList | None) -> Recipe:
    """The recipe asked for, or that of the list of calibration images, or that of the model's family."""
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
    """The calibration images, from `other`, and the evaluation images, from `dataset` without any of them."""
    asked = options.num_calibration_samples
    if listed and asked is not None:
        raise UsageError("--calibration-list names the images: leave out --num-calibration-samples.")
    count = len(listed.images) if listed else recipe.num_calibration_samples if asked is None else asked
    if count < 1:
        raise UsageError(f"--num-calibration-samples is {count}: give a whole number from 1.")
    available = len(other.samples) // (2 if other is dataset and evaluate else 1)
    if not listed and asked is None and available < count:
        count = max(1, available)
        reporter.warn(f"'{other.path}' has {len(other.samples)} images: calibrating on {count} of them")
    with reporter.stage("read calibration images", count) as step:
        if listed:
            calibration = select_listed(other, listed.images, listed.path, step)
        else:
            calibration = select(other, count, options.seed, on_image=step)
    evaluation = calibration
    if evaluate:
        chosen_on = held_out_of(options.model.weights)
        if chosen_on:
            reporter.say(f"the weights are a soup: the {len(chosen_on)} images that chose it are not evaluated on")
        used = replace(calibration, hashes=(*calibration.hashes, *chosen_on))
        with reporter.stage("read evaluation images", options.num_eval_samples or None) as step:
            evaluation = select(dataset, options.num_eval_samples, options.seed, exclude=used, on_image=step)
    for name, reason in dict.fromkeys((*calibration.unreadable, *evaluation.unreadable)):
        reporter.warn(f"passed over {name}: {reason}")
    return calibration, evaluation


def warn_of_doubts(calibration: Selection, evaluation: Selection, classes: int, reporter: Reporter) -> None:
    """Say what is wrong with the choice of images: a poor calibration set, evaluation images that are in it."""
    for doubt in doubts(calibration, classes):
        reporter.warn(doubt)
    if evaluation is calibration:
        return
    if copies := copies_of(evaluation, calibration):
        reporter.warn(
            f"{len(copies)} images have the content of calibration images and were left out of the evaluation: "
            f"{_some(copies)}"
        )
    if alike := [f"{name} (like {like})" for name, like in lookalikes(evaluation, calibration)]:
        reporter.warn(
            f"{len(alike)} evaluation images look like calibration images, as copies do that were encoded again: "
            f"{_some(alike)}. The accuracy may flatter int8"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more (report.json has all)" if len(names) > 3 else "")
