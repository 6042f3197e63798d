"""Which network to load, and how."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

ModelArgs: TypeAlias = dict[str, Any]
"""Keyword arguments of a model's constructor, as `--model-args` gives them: Python literals."""


@dataclass(frozen=True)
class ModelOptions:
    """Which network, and how it takes images.

    `name` is a timm name (`convnextv2_atto.fcmae_ft_in1k`), `open_clip:NAME` or `module:factory`.
    """

    name: str
    weights: str | None = None
    """None for the source's own weights (timm's default tag for a bare name), "random" for seeded random ones unless a
    factory brings its own, or a checkpoint file."""
    model_args: ModelArgs = field(default_factory=dict)
    imgsz: int | tuple[int, int] | None = None
    """Pixels of the input, one side or (height, width); this and what follows is None for the model's own value."""
    mean: tuple[float, ...] | None = None
    """Of red, green and blue in 0-1, as is `std`."""
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    labels: Path | None = None
    """File with one class name a line, in the order of the logits."""
