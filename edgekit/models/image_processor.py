"""The preprocessing of transformers' image processors, from preprocessor_config.json or a processor's own dict."""

from collections.abc import Mapping
from typing import Any

from edgekit.images.preprocess import CROP_MODES
from edgekit.models.description import Inputs

# Pillow's numbers of its filters, which transformers stores.
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
# Processors for which one number is the size of both sides, not of the shorter one.
_SQUARE = ("ViT", "DeiT", "Beit")
# ConvNeXt's doesn't crop images of this size or above.
_SQUASHED_FROM = 384


def processor_inputs(config: Mapping[str, Any]) -> Inputs:
    """The preprocessing of an image processor; None where its configuration doesn't say."""
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    mean, std = _normalization(config, kind)
    filter_ = _FILTERS.get(config.get("resample", -1))
    size, crop_pct, crop_mode = _geometry(config, kind)
    return Inputs(size, mean, std, filter_, crop_pct, crop_mode)


def _normalization(config: Mapping[str, Any], kind: str) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Means and standard deviations for values from 0 to 1, which some processors scale in another way."""
    mean, std = (_numbers(config.get(key)) for key in ("image_mean", "image_std"))
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


def _geometry(config: Mapping[str, Any], kind: str) -> tuple[tuple[int, int] | None, float | None, str | None]:
    """The (height, width) of the input, the fraction of the resized image that it is, and the crop mode."""
    center, squash, _ = CROP_MODES
    size, crop_pct = config.get("size"), config.get("crop_pct")
    crop = _sides(config.get("crop_size")) if config.get("do_center_crop") else None
    if type(size) is int and (crop_pct is not None or (crop is not None and not kind.startswith(_SQUARE))):
        size = {"shortest_edge": size}
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else None
    if type(shortest) is not int:
        both = _sides(size)
        own = crop or both
        return (own, own[0] / both[0], squash) if own and both else (None, None, None)
    if crop is None:  # ConvNeXt's
        cropped = crop_pct is not None and shortest < _SQUASHED_FROM
        return (shortest, shortest), (float(crop_pct or 1) if cropped else 1.0), (center if cropped else squash)
    if kind.startswith("Levit"):
        shortest = int(256 / 224 * shortest)
    elif crop_pct is not None:
        shortest = int(shortest / crop_pct)
    return crop, crop[0] / shortest, center


def _sides(value: object) -> tuple[int, int] | None:
    if isinstance(value, Mapping):
        height, width = value.get("height"), value.get("width")
    else:
        height = width = value
    return (height, width) if type(height) is int and type(width) is int else None


def _numbers(value: object) -> tuple[float, ...] | None:
    values = value if isinstance(value, list | tuple) else [value] * 3
    return tuple(map(float, values)) if all(isinstance(number, int | float) for number in values) else None
