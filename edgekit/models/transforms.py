"""The preprocessing that a model was evaluated with, and the options that override it.

It is read from a transform of torchvision or timm, or an image processor of transformers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from timm.data.config import resolve_model_data_config
from torch import nn

from edgekit.config.runtimes import CROP_MODES, INTERPOLATIONS
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


_LIBRARIES = ("torchvision", "timm", "open_clip")
_FIX = (
    "Pass the transform of the evaluation, or leave it out and state the preprocessing as imgsz, mean, std, "
    "interpolation, crop_pct and crop_mode"
)
_CENTER, _SQUASH, _BORDER = CROP_MODES
# Transforms that change neither an RGB image nor how it is resized.
_WITHOUT_EFFECT = ("PILToTensor", "MaybePILToTensor", "ToImage", "ToPureTensor", "RGB", "_convert_to_rgb")
_SCALING = ("ToTensor", "MaybeToTensor", "ConvertImageDtype", "ToDtype")


def read_transform(transform: object) -> InputOptions:
    """The preprocessing that a transform computes.

    A `Compose` of torchvision (either version) or timm may resize, crop at the center, convert to grey and normalize; a
    preset of torchvision's weights and an image processor of transformers do as much. `size` is None if the transform
    neither resizes nor crops. Raises UsageError, with the name of the transform, for anything else.
    """
    if hasattr(transform, "image_mean") and hasattr(transform, "to_dict"):
        return processor_inputs({**transform.to_dict(), "do_normalize": getattr(transform, "do_normalize", True)})
    if type(transform).__name__ == "ImageClassification":
        preset: Any = transform
        size, crop_pct, crop_mode = _geometry(_Resized(_sides(preset.resize_size), preset), preset.crop_size)
        return InputOptions(size, *_normalization(preset), _filter(preset), crop_pct, crop_mode)
    resized: _Resized | None = None
    crop: Any = None
    scales, is_tensor, channels, normalize = False, False, 3, None
    for step in _steps(transform):
        name = _name(step)
        if name in ("Resize", "ResizeKeepRatio") and resized is None and crop is None:
            if is_tensor and not getattr(step, "antialias", True):
                raise _inexpressible(step)
            resized = _resize(step)
        elif name in ("CenterCrop", "CenterCropOrPad") and crop is None:
            crop = step.size
        elif name == "Grayscale" and step.num_output_channels == 1:
            channels = 1
        elif name == "Normalize" and scales:
            normalize = step
        elif name in _SCALING and getattr(step, "scale", True):
            scales = True
        elif name not in _WITHOUT_EFFECT:
            raise _inexpressible(step)
        is_tensor |= name.endswith(("ToTensor", "ToImage"))
    if not scales:
        raise UsageError(
            "the transform leaves pixels at values from 0 to 255",
            valid="a transform that scales them to 0-1",
            fix=f"Add ToTensor(), or ToDtype(torch.float32, scale=True). {_FIX}",
        )
    size, crop_pct, crop_mode = _geometry(resized, crop)
    filter_ = None if resized is None else _filter(resized.step)
    plain = (0.0,) * channels, (1.0,) * channels
    mean, std = plain if normalize is None else _normalization(normalize)
    return InputOptions(size, mean, std, filter_, crop_pct, crop_mode)


class _Resized:
    """A resizing step and the sides that it makes: (height, width), or one for the shorter side."""

    def __init__(self, sides: tuple[int, ...], step: Any, crop_mode: str | None = None) -> None:
        self.sides, self.step = sides, step
        self.crop_mode = crop_mode or (_CENTER if len(sides) == 1 else _SQUASH)


def _steps(transform: Any) -> Iterator[Any]:
    """The transforms in a composition, in order."""
    if type(transform).__name__ in ("Compose", "Sequential"):
        for step in getattr(transform, "transforms", None) or transform:
            yield from _steps(step)
    else:
        yield transform


def _name(step: Any) -> str:
    """The name of a transform's class or function; empty for one of a library that edgekit doesn't know."""
    named = step if hasattr(step, "__name__") else type(step)
    return str(named.__name__) if named.__module__.partition(".")[0] in _LIBRARIES else ""


def _resize(step: Any) -> _Resized:
    sides = _sides(step.size)
    if _name(step) == "Resize":
        if getattr(step, "max_size", None) is not None:
            raise _inexpressible(step)
        return _Resized(sides, step)
    modes = {0.0: _CENTER, 1.0: _BORDER}
    if step.longest not in modes or step.random_scale_prob or step.random_aspect_prob:
        raise _inexpressible(step)
    return _Resized(sides, step, modes[step.longest])


def _geometry(resized: _Resized | None, crop: Any) -> tuple[tuple[int, int] | None, float, str]:
    """The (height, width) of the input, the fraction of the resized image that it is, and the crop mode."""
    if resized is None and crop is None:
        return None, 1.0, _SQUASH
    if resized is None:
        raise UsageError(
            f"the transform crops images to {crop} pixels without resizing them, which edgekit can't express", fix=_FIX
        )
    if crop is None and resized.crop_mode != _SQUASH:
        raise UsageError(
            f"{_shown(resized.step)} of the transform keeps the ratio of an image's sides, and no CenterCrop follows, "
            "so that images have different sizes",
            fix=_FIX,
        )
    shorter = len(resized.sides) == 1
    height, width = _both(resized.sides if crop is None else _sides(crop))
    fraction = crop_fraction((height, width), _both(resized.sides))
    if fraction is None or (shorter and height != width):
        raise UsageError(
            f"{_shown(resized.step)} of the transform, followed by a crop to {height}x{width}, can't be expressed by "
            "a crop_pct",
            fix=_FIX,
        )
    return (height, width), fraction, resized.crop_mode


def crop_fraction(cropped: Sequence[int], resized: Sequence[int]) -> float | None:
    """The fraction of the resized image that the crop is, so that the sides divided by it are the resized ones."""
    exact = min(side / larger for side, larger in zip(cropped, resized, strict=True))
    for fraction in (exact, math.nextafter(exact, 0)):  # the division may round to just below a whole number
        if fraction <= 1 and [math.floor(side / fraction) for side in cropped] == list(resized):
            return fraction
    return None


def _sides(size: Any) -> tuple[int, ...]:
    """One side, or (height, width)."""
    return (int(size),) if isinstance(size, int) else tuple(map(int, size))


def _both(sides: tuple[int, ...]) -> tuple[int, int]:
    return sides[0], sides[-1]


def _filter(step: Any) -> str:
    name = getattr(step.interpolation, "value", step.interpolation)
    if name not in INTERPOLATIONS:
        raise _inexpressible(step)
    return str(name)


def _normalization(step: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and standard deviations, which timm keeps as float32."""
    mean, std = (tuple(round(float(value), 6) for value in np.ravel(values)) for values in (step.mean, step.std))
    return mean, std


def _shown(step: Any) -> str:
    return getattr(step, "__name__", None) or " ".join(str(step).split())[:100]


def _inexpressible(step: Any) -> UsageError:
    return UsageError(
        f"edgekit can't repeat {_shown(step)} of the transform",
        valid="Resize, then CenterCrop, Grayscale(1), ToTensor or ToDtype and Normalize of torchvision or timm; a "
        "preset of torchvision's weights; or an image processor of transformers",
        fix=_FIX,
    )


# Pillow's numbers of its filters, which transformers stores.
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
# Processors for which one number is the size of both sides, not of the shorter one.
_SQUARE = ("ViT", "DeiT", "Beit")
# ConvNeXt's doesn't crop images of this size or above.
_SQUASHED_FROM = 384


def processor_inputs(config: Mapping[str, Any]) -> InputOptions:
    """The preprocessing of an image processor; None where its configuration doesn't say."""
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    mean, std = _normalization_of(config, kind)
    filter_ = _FILTERS.get(config.get("resample", -1))
    size, crop_pct, crop_mode = _geometry_of(config, kind)
    return InputOptions(size, mean, std, filter_, crop_pct, crop_mode, config.get("do_flip_channel_order") or None)


def _normalization_of(
    config: Mapping[str, Any], kind: str
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Means and standard deviations for values from 0 to 1, which some processors scale in another way."""
    mean, std = (_three(config.get(key)) for key in ("image_mean", "image_std"))
    if not config.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    elif kind.startswith("EfficientNet") and config.get("include_top", True) and std is not None:
        std = tuple(value * value for value in std)  # it divides twice
    if mean is None or std is None:
        return mean, std
    whole = 255 * config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 255.0
    offset = 1.0 if config.get("rescale_offset") else 0.0
    if abs(whole - 1) < 1e-6 and not offset:
        return mean, std
    return tuple((value + offset) / whole for value in mean), tuple(value / whole for value in std)


def _geometry_of(config: Mapping[str, Any], kind: str) -> tuple[tuple[int, int] | None, float | None, str | None]:
    """The (height, width) of the input, the fraction of the resized image that it is, and the crop mode."""
    center, squash, _ = CROP_MODES
    size, crop_pct = config.get("size"), config.get("crop_pct")
    crop = _sides_of(config.get("crop_size")) if config.get("do_center_crop") else None
    if type(size) is int and (crop_pct is not None or (crop is not None and not kind.startswith(_SQUARE))):
        size = {"shortest_edge": size}
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else None
    if type(shortest) is not int:
        both = _sides_of(size)
        own = crop or both
        return (own, crop_fraction(own, both) or own[0] / both[0], squash) if own and both else (None, None, None)
    if crop is None:  # ConvNeXt's
        cropped = crop_pct is not None and shortest < _SQUASHED_FROM
        return (shortest, shortest), (float(crop_pct or 1) if cropped else 1.0), (center if cropped else squash)
    if kind.startswith("Levit"):
        shortest = int(256 / 224 * shortest)
    elif crop_pct is not None:
        shortest = int(shortest / crop_pct)
    return crop, crop_fraction(crop[:1], (shortest,)) or crop[0] / shortest, center


def _sides_of(value: object) -> tuple[int, int] | None:
    if isinstance(value, Mapping):
        height, width = value.get("height"), value.get("width")
    else:
        height = width = value
    return (height, width) if type(height) is int and type(width) is int else None


def _three(value: object) -> tuple[float, ...] | None:
    values = value if isinstance(value, list | tuple) else [value] * 3
    return tuple(map(float, values)) if all(isinstance(number, int | float) for number in values) else None
