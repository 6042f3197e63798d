"""The options that choose a network and its preprocessing."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

ModelArgs: TypeAlias = dict[str, Any]
"""Keyword arguments of a model's constructor, as parsed from `--model-args`: Python literals."""

ONNX_SUFFIX = ".onnx"


@dataclass(frozen=True)
class ModelOptions:
    """Options that choose a network and its preprocessing; None keeps the model's own value.

    `name` is a timm name (`convnextv2_atto.fcmae_ft_in1k`), `open_clip:NAME`, `module:factory` or the path of a `.onnx`
    file.
    """

    name: str
    weights: str | None = None
    """Path of a checkpoint file, "random" for seeded random weights (not for factories), or None for the source's own
    weights: timm's default tag for a name without one."""
    model_args: ModelArgs = field(default_factory=dict)
    imgsz: int | tuple[int, int] | None = None
    """Input size in pixels: one side of a square, or (height, width)."""
    mean: tuple[float, ...] | None = None
    """Means of red, green and blue, or of grey, in 0-1."""
    std: tuple[float, ...] | None = None
    """Standard deviations of red, green and blue, or of grey, in 0-1."""
    interpolation: str | None = None
    crop_pct: float | None = None
    trained_from_scratch: bool = False
    """Whether the weights of a file are known not to be derived from published ones, whose licence could apply."""
    labels: Path | None = None
    """File with one class name per line, in the order of the logits."""

    @property
    def short_name(self) -> str:
        """The name without the folders of a file: reports are shared, and must not reveal them."""
        return Path(self.name).name if self.name.lower().endswith(ONNX_SUFFIX) else self.name
