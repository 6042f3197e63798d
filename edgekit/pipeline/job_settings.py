"""The settings of a job, which its options determine: the recipe and the device class."""

import platform
from dataclasses import dataclass, replace

from edgekit.compiler.rewrites import REWRITES
from edgekit.config import sizes
from edgekit.config.device_classes import DeviceClass, host_class, list_device_classes, load_device_class
from edgekit.config.recipes import Recipe, load_recipe, recipe_for
from edgekit.devices.probe_result import class_of_remote
from edgekit.devices.registry import THIS
from edgekit.errors import DeviceError, UsageError
from edgekit.images.calibration_list import CalibrationList, read_list
from edgekit.job import Job
from edgekit.job.job import check_scheme
from edgekit.support.progress import Reporter


@dataclass(frozen=True)
class JobSettings:
    """Settings with which the bundles of a job are made."""

    recipe: Recipe
    """The recipe for the device class, with the scheme of the options."""
    device_class: DeviceClass
    """Machines that the bundles are for."""
    listed: CalibrationList | None
    """The list of calibration images in the options, if there is one."""


def choose_settings(options: Job) -> JobSettings:
    """The settings of a job. Raises UsageError for options that contradict each other."""
    listed = read_list(options.calibration_list, REWRITES) if options.calibration_list else None
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
    return JobSettings(recipe, device_class, listed)


def choose_recipe(options: Job, listed: CalibrationList | None) -> Recipe:
    """The recipe of the options, or that of the list of calibration images, or that of the model's family."""
    if options.recipe:
        return load_recipe(options.recipe, REWRITES)
    return listed.recipe if listed else recipe_for(options.identified.name, REWRITES)


def choose_class(options: Job) -> DeviceClass:
    """The device class of the bundles: the one in the options, or that of the first device.

    Raises UsageError if no class fits the device, and DeviceError if the device can't be reached.
    """
    first = options.machines[0]
    try:
        here = first == THIS or first.is_browser
        name = options.device_class or (host_class() if here else class_of_remote(first))
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


def with_device_class(options: Job) -> Job:
    """The options with the name of the device class that `choose_class` finds, so that a device is asked only once."""
    return options if options.device_class else replace(options, device_class=choose_class(options).name)


def for_size(recipe: Recipe, params: int) -> Recipe:
    """The recipe for a network with this number of parameters: GPTQ instead of "fit" in large ones."""
    if params > sizes.ROUNDED_TOGETHER_UP_TO and recipe.weight_rounding == "fit":
        return replace(recipe, weight_rounding="gptq")
    return recipe


def report_rounding(wanted: Recipe, recipe: Recipe, params: int, reporter: Reporter) -> None:
    """Warn if `for_size` changed the rounding that a recipe wants."""
    if recipe.weight_rounding != wanted.weight_rounding:
        reporter.warn(
            f"weights are rounded by GPTQ: the model has {params / 1e6:,.0f} M parameters, and "
            f'weight_rounding = "fit" needs gigabytes above {sizes.ROUNDED_TOGETHER_UP_TO / 1e6:.0f} M'
        )
