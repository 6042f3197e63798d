"""The demo job: a small ConvNeXt V2 trained on CIFAR-10, with its calibration and evaluation images."""

from importlib.resources import files
from pathlib import Path

from edgekit.models.options import ModelOptions

OUTPUT = Path("runs/demo")
"""Default run folder of `edgekit demo`."""


def assets() -> Path:
    """Folder with the demo's weights, images and labels."""
    return Path(str(files("edgekit") / "_assets" / "demo"))


def demo_model(weights: str | None = None) -> ModelOptions:
    """The demo's network with its own weights, or with those of a file."""
    return ModelOptions(
        name="convnextv2_atto",
        weights=weights or str(assets() / "convnextv2_cifar10.safetensors"),
        model_args={"depths": (2, 2, 4, 2), "dims": (32, 64, 128, 288), "num_classes": 10, "conv_mlp": False},
        imgsz=96,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        interpolation="bicubic",
        crop_pct=1.0,
        labels=assets() / "labels.txt",
        trained_from_scratch=weights is None,
    )
