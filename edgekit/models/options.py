"""Which network to load, and how."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ModelOptions:
    """Which network: the arguments of `load_network`."""

    name: str
    weights: str | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    imgsz: int | tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    labels: Path | None = None
