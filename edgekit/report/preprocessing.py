"""How an image becomes the input of a network."""

from dataclasses import dataclass
from math import floor
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class PreprocessingFacts:
    """Conversion of an image to the network's input: resize, crop, and (pixel / 255 - mean) / std for each channel."""

    height: int
    """Height of the input, in pixels."""
    width: int
    """Width of the input, in pixels."""
    interpolation: str
    """Filter that resizes images, such as "bicubic"."""
    crop_pct: float
    """Side of the input as a fraction of the resized image's side."""
    crop_mode: Literal["center", "squash", "border"]
    """Way to fit other aspect ratios: "center" crops, "squash" distorts and "border" pads."""
    mean: tuple[float, ...]
    """Mean of each channel, on a scale of 0 to 1."""
    std: tuple[float, ...]
    """Standard deviation of each channel, on a scale of 0 to 1."""


SCALE = {
    "center": "scale to cover {size} ({filter}), then crop the centre",
    "squash": "scale to {size} ({filter}) whatever the aspect ratio, then crop the centre",
    "border": "scale to fit into {size} ({filter}), then pad or crop",
}


def preprocessing_words(facts: PreprocessingFacts) -> str:
    """The conversion in one line, with sizes as HEIGHTxWIDTH in pixels."""
    height, width = (floor(side / facts.crop_pct) for side in (facts.height, facts.width))
    scale = SCALE[facts.crop_mode].format(size=f"{height}x{width}", filter=facts.interpolation)
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (facts.mean, facts.std))
    return f"{scale} to {facts.height}x{facts.width}; mean {mean}; standard deviation {std}"
