"""From options to a job: the network is loaded and the images are chosen."""

import platform
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgekit.data import Dataset, Selection, open_dataset, select, unreadable
from edgekit.devices.check import class_of_remote
from edgekit.devices.registry import THIS
from edgekit.errors import DeviceError, UsageError
from edgekit.libraries import quiet
from edgekit.models import Network, load_network
from edgekit.models.soup import held_out_of
from edgekit.options import Options
from edgekit.profiles import Recipe, host_class, list_device_classes, load_device_class, load_recipe, recipe_for
from edgekit.progress import Reporter
from edgekit.rewrites import PASSES
from edgekit.run_folder import write_json


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


def prepare(options: Options, reporter: Reporter, evaluate: bool = True) -> Job:
    """Load the network and choose the images; every mistake in the input shows here, before the long work."""
    recipe = load_recipe(options.recipe, PASSES) if options.recipe else recipe_for(options.model.name, PASSES)
    device_class = choose_class(options)
    recipe = recipe.for_class(device_class)
    with reporter.stage(f"load {options.model.name}"), quiet():
        network = load_network(**vars(options.model), seed=options.seed)
    if network.license_note and "num_classes" not in options.model.model_args:
        reporter.say(network.license_note)
    if network.weights == "random":
        reporter.warn("the weights are random: accuracy means nothing; sizes, speed and agreement do")
    dataset = open_dataset(options.data, network.labels)
    other = open_dataset(options.calibration_data, network.labels) if options.calibration_data else dataset
    calibration, evaluation = choose(dataset, other, recipe, options, evaluate, reporter)
    return Job(network, recipe, device_class, dataset, other, calibration, evaluation)


def choose_class(options: Options) -> str:
    """The class of devices that bundles are made for: the one asked for, or that of the first device.

    Raises UsageError if no class fits this machine, a DeviceError if the first device can't be asked.
    """
    first = options.devices[0]
    try:
        name = options.device_class or (host_class() if first == THIS else class_of_remote(first))
    except DeviceError as error:
        raise type(error)(f"{error} Or go on without it: --device-class says what to make the bundles for.") from error
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


def choose(
    dataset: Dataset, other: Dataset, recipe: Recipe, options: Options, evaluate: bool, reporter: Reporter
) -> tuple[Selection, Selection]:
    """The calibration images, from `other`, and the evaluation images, from `dataset` without any of them."""
    asked = options.num_calibration_samples
    count = recipe.num_calibration_samples if asked is None else asked
    if count < 1:
        raise UsageError(f"--num-calibration-samples is {count}: give a whole number from 1.")
    available = len(other.samples) // (2 if other is dataset and evaluate else 1)
    if asked is None and available < count:
        count = max(1, available)
        reporter.warn(f"'{other.path}' has {len(other.samples)} images: calibrating on {count} of them")
    with reporter.stage("read calibration images", count) as step:
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


def write_calibration(path: Path, job: Job, seed: int) -> None:
    """calibration.json: every image used, with its sha256, the seed and the recipe."""
    chosen = job.calibration
    write_json(
        path,
        {
            "schema_version": 1,
            "seed": seed,
            "sha256": chosen.sha256,
            "data": job.calibration_dataset.path.name,
            "recipe": asdict(job.recipe),
            "images": [
                {"name": sample.name, "sha256": digest, "label": sample.label}
                for sample, digest in zip(chosen.samples, chosen.hashes, strict=True)
            ],
            "unreadable": unreadable(chosen),
        },
    )
