"""What a checkpoint says about its network beside the tensors: architecture, constructor arguments, preprocessing."""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from edgekit.config.interpolations import INTERPOLATIONS
from edgekit.images.preprocess import CROP_MODES
from edgekit.models.options import RESCALING, TORCHVISION, ModelArgs

# Keys under which training scripts and Lightning's hyperparameters name the architecture, the most specific first.
_ARCHITECTURE_KEYS = ("arch", "architecture", "model_name", "timm_model", "model_arch", "backbone", "encoder", "model")
_DEEPEST = 3


@dataclass(frozen=True)
class Inputs:
    """The preprocessing that a checkpoint was trained with; None where it doesn't say."""

    size: tuple[int, int] | None = None
    """(height, width) in pixels."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None


@dataclass(frozen=True)
class Description:
    """What a checkpoint says about its network; None or empty where it doesn't say."""

    architecture: str | None = None
    """Name of the network as the checkpoint writes it, which need not be one that edgekit knows."""
    origin: str = ""
    """Key and file in which the architecture is."""
    model_args: ModelArgs = field(default_factory=dict)
    """Arguments of timm's constructor."""
    inputs: Inputs = Inputs()
    """The preprocessing."""
    inputs_origin: str = ""
    """File, or key of the file, in which the preprocessing is."""


def describe(content: object, file: str) -> Description:
    """What the dicts of a training script's checkpoint say; `file` is the checkpoint's name."""
    if not isinstance(content, Mapping):
        return Description()
    named = sorted(_named(content, "", _DEEPEST), key=lambda entry: _ARCHITECTURE_KEYS.index(_last(entry[0])))
    architecture, origin = (named[0][1], f"'{named[0][0]}' in '{file}'") if named else (None, "")
    settings = content.get("args")
    settings = vars(settings) if isinstance(settings, argparse.Namespace) else settings
    if not isinstance(settings, Mapping):
        return Description(architecture, origin)
    if "val_crop_size" in settings and "val_resize_size" in settings:  # torchvision's script
        name = settings.get("model")
        named_there = f"{TORCHVISION}{name}" if isinstance(name, str) and ":" not in name else architecture
        # What inception_v3 and googlenet do with their input depends on whether they began with published weights.
        from_scratch = name in RESCALING and not (settings.get("weights") or settings.get("pretrained"))
        arguments: ModelArgs = {"transform_input": False} if from_scratch else {}
        return Description(named_there, f"'args.model' in '{file}'", arguments, _torchvision_inputs(settings), "args")
    extra = settings.get("model_kwargs")
    arguments = dict(extra) if isinstance(extra, Mapping) else {}
    inputs = timm_inputs(settings)
    return Description(architecture, origin, arguments, inputs, f"'args' in '{file}'" if inputs != Inputs() else "")


def timm_inputs(config: Mapping[str, Any]) -> Inputs:
    """The preprocessing in a `pretrained_cfg` of timm or in the arguments of its training script."""
    size = config.get("input_size")
    if not (isinstance(size, list | tuple) and len(size) == 3 and all(type(side) is int for side in size)):
        side = config.get("img_size")
        size = (3, side, side) if type(side) is int else None
    return Inputs(
        size=(size[1], size[2]) if size else None,
        mean=_numbers(config.get("mean")),
        std=_numbers(config.get("std")),
        interpolation=_choice(config.get("interpolation"), INTERPOLATIONS),
        crop_pct=_fraction(config.get("crop_pct")),
        crop_mode=_choice(config.get("crop_mode"), CROP_MODES),
    )


def _torchvision_inputs(settings: Mapping[str, Any]) -> Inputs:
    crop, resize = settings["val_crop_size"], settings["val_resize_size"]
    if type(crop) is not int or type(resize) is not int or not 0 < crop <= resize:
        return Inputs()
    filter_ = _choice(settings.get("interpolation"), INTERPOLATIONS)
    return Inputs((crop, crop), interpolation=filter_, crop_pct=crop / resize)


def _named(content: object, path: str, levels: int) -> Iterator[tuple[str, str]]:
    """Path and value of each text that may name an architecture, in dicts that contain no tensors."""
    if isinstance(content, argparse.Namespace):
        content = vars(content)
    if not isinstance(content, Mapping) or not levels:
        return
    for key, value in content.items():
        if isinstance(key, str) and key in _ARCHITECTURE_KEYS and isinstance(value, str) and value:
            yield f"{path}{key}", value
        elif not (isinstance(value, Mapping) and any(isinstance(inner, Tensor) for inner in value.values())):
            yield from _named(value, f"{path}{key}.", levels - 1)


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _numbers(value: object) -> tuple[float, ...] | None:
    if not isinstance(value, list | tuple) or len(value) not in (1, 3):
        return None
    return tuple(map(float, value)) if all(isinstance(number, int | float) for number in value) else None


def _choice(value: object, valid: tuple[str, ...]) -> str | None:
    return value if isinstance(value, str) and value in valid else None


def _fraction(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value <= 1 else None
