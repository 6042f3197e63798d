"""The preprocessing that a model was evaluated with, and the options that override it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from timm.data.config import resolve_model_data_config
from torch import nn

from edgekit.errors import UsageError
from edgekit.images.preprocess import MAX_SIDE, Preprocessing
from edgekit.models.options import ModelOptions

_RGB = "three numbers, for red, green and blue"


@dataclass(frozen=True)
class InputOptions:
    """The preprocessing of a network, as options, a checkpoint or a transform state it; None where they don't."""

    size: tuple[int, int] | None = None
    """(height, width) in pixels."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None
    takes_bgr: bool | None = None
    """Whether a network of transformers takes blue before green and red."""

    @property
    def stated(self) -> dict[str, Any]:
        """The values that aren't None, by the names of the fields."""
        return {name: value for name, value in vars(self).items() if value is not None}


NOT_STATED = InputOptions()
"""Of a checkpoint that says nothing about its preprocessing."""


def parse_size(imgsz: object) -> tuple[int, int] | None:
    """Convert `imgsz` to (height, width) in pixels. Raises UsageError unless both are from 1 to MAX_SIDE."""
    if imgsz is None:
        return None
    size = tuple(imgsz) if isinstance(imgsz, tuple | list) else (imgsz, imgsz)
    if len(size) != 2 or any(type(side) is not int or not 1 <= side <= MAX_SIDE for side in size):
        raise UsageError(
            f"--imgsz is {imgsz!r}", valid=f"a whole number of pixels from 1 to {MAX_SIDE}, or two as HEIGHTxWIDTH"
        )
    return size


def size_of_model(options: ModelOptions) -> tuple[int, int] | None:
    """The requested (height, width): `imgsz`, or img_size in `model_args`; UsageError if both are set and differ."""
    size = parse_size(options.imgsz)
    built_for = parse_size(options.model_args.get("img_size"))
    if size is not None and built_for is not None and size != built_for:
        raise UsageError(
            f"--imgsz is {options.imgsz}, but --model-args sets img_size={built_for}",
            fix="Remove img_size from `--model-args`",
        )
    return size or built_for


def resolve_size(module: nn.Module, size: tuple[int, int] | None) -> tuple[int, int]:
    """The requested (height, width) in pixels, or else the model's own."""
    height, width = size or _timm_config(module)["input_size"][-2:]
    return height, width


def resolve_preprocessing(module: nn.Module, options: InputOptions, channels: int) -> Preprocessing:
    """The model's evaluation preprocessing, with its values overridden by the options.

    It is timm's plain evaluation configuration (`use_test_size=False`): the size and crop of the top-1 published for a
    model's own resolution, such as 76.64 % for convnextv2_atto.fcmae_ft_in1k at 224 with crop 0.875. The higher
    figure published for timm's larger test size (77.79 % at 288) also uses another crop: set both with
    `--imgsz 288 --crop-pct 0.95`. A module without a timm configuration gets 224, ImageNet's mean and standard
    deviation, bicubic interpolation and crop 0.875. A network of one channel gets the average over the colours of
    the means and standard deviations. Raises UsageError for an invalid value.
    """
    config = _timm_config(module)
    height, width = resolve_size(module, options.size)
    return Preprocessing(
        height=height,
        width=width,
        interpolation=config["interpolation"] if options.interpolation is None else options.interpolation,
        crop_pct=config["crop_pct"] if options.crop_pct is None else options.crop_pct,
        crop_mode=config["crop_mode"] if options.crop_mode is None else options.crop_mode,
        mean=_per_channel("mean", options.mean, config["mean"], channels),
        std=_per_channel("std", options.std, config["std"], channels),
    )


def _timm_config(module: nn.Module) -> dict[str, Any]:
    # in_chans only makes args non-empty: timm asserts that model or args is true, and an empty nn.Sequential is false.
    config: dict[str, Any] = resolve_model_data_config(  # type: ignore[no-untyped-call]
        module, args={"in_chans": 3}, use_test_size=False
    )
    return config


def _per_channel(
    name: str, requested: Sequence[float] | None, default: Sequence[float], channels: int
) -> tuple[float, ...]:
    """The requested values, or else the model's own, whose average is the value of a single channel."""
    if requested is None:
        values = default if len(default) == channels else [round(fmean(default), 6)]
    elif len(requested) != channels:
        valid = "one number, because the model takes grey images" if channels == 1 else _RGB
        raise UsageError(f"--{name} is {list(requested)}", valid=valid)
    else:
        values = requested
    return tuple(map(float, values))
