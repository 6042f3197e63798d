"""The settings with which the bundles of a job are made: the recipe and the device class."""

import platform
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.compiler.rewrites import REWRITES
from edgekit.config import sizes
from edgekit.config.device_classes import DeviceClass, host_class, list_device_classes, load_device_class
from edgekit.config.precisions import Scheme
from edgekit.config.recipes import Recipe, load_recipe, recipe_for
from edgekit.devices.probe_result import class_of_remote
from edgekit.devices.registry import THIS, Device
from edgekit.errors import DeviceError, UsageError
from edgekit.images.calibration_list import CalibrationList, read_list
from edgekit.job.job import check_scheme
from edgekit.models.options import ModelOptions
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


def choose_settings(
    model: ModelOptions,
    targets: tuple[str, ...],
    device_class: DeviceClass,
    recipe: str | None = None,
    scheme: Scheme | None = None,
    calibration_list: Path | None = None,
) -> JobSettings:
    """The settings of a job, for the `model` with what its files state.

    Without a `recipe`, it is that of the list, or that of the model's family. Raises UsageError if one of
    the targets can't compile the scheme.
    """
    listed = read_list(calibration_list, REWRITES) if calibration_list else None
    default = listed.recipe if listed else recipe_for(model.name, REWRITES)
    chosen = (load_recipe(recipe, REWRITES) if recipe else default).for_class(device_class.name)
    if scheme:
        chosen = replace(chosen, scheme=scheme)
    check_scheme(chosen.scheme, targets)
    return JobSettings(model, chosen, device_class, listed)


def choose_class(device_class: str | None, first: Device) -> DeviceClass:
    """The device class of the bundles: the one of this name or, without a name, that of the first device.

    Raises UsageError if no class fits the device, and DeviceError if the device can't be reached.
    """
    try:
        here = first == THIS or first.is_browser
        name = device_class or (host_class() if here else class_of_remote(first))
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
