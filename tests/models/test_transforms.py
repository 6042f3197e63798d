"""Transforms in memory: edgekit's preprocessing gives the values of the transform itself."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision import transforms as v1
from torchvision.models import EfficientNet_B1_Weights, ResNet50_Weights
from torchvision.transforms import InterpolationMode, v2

from edgekit.errors import UsageError
from edgekit.models.description import describe
from edgekit.models.loading import identify, load_network
from edgekit.models.options import ModelOptions
from edgekit.models.transforms import processor_inputs, read_transform
from tests.helpers.refusals import refuses

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
END_V1 = (v1.ToTensor(), v1.Normalize(MEAN, STD))
END_V2 = (v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD))


def photos() -> list[Image.Image]:
    """A smooth wide, a tall and a small image, whose resized pixels hardly depend on rounding."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    sizes = ((400, 300), (210, 330), (90, 70))
    return [Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC) for size in sizes]


@pytest.mark.parametrize(
    "transform",
    [
        v1.Compose([v1.Resize(256), v1.CenterCrop(224), *END_V1]),
        v1.Compose([v1.Resize(232, InterpolationMode.BICUBIC), v1.CenterCrop((224, 224)), *END_V1]),
        v1.Compose([v1.Resize((96, 128)), *END_V1]),
        v1.Compose([v1.Resize((110, 110)), v1.CenterCrop(96), v1.ToTensor()]),
        torch.nn.Sequential(v2.PILToTensor(), v2.Resize([64]), v2.CenterCrop(64), *END_V2),
        v2.Compose(
            [v2.RGB(), v2.Resize(72), v2.Compose([v2.CenterCrop(64), v2.ToImage()]), *END_V2, v2.ToPureTensor()]
        ),
        ResNet50_Weights.IMAGENET1K_V1.transforms(),
        EfficientNet_B1_Weights.IMAGENET1K_V2.transforms(),
        *(
            create_transform(
                (3, 96, 96), crop_pct=0.95, crop_mode=mode, mean=MEAN, std=STD, interpolation=interpolation
            )
            for mode in ("center", "squash", "border")
            for interpolation in ("bilinear", "bicubic")
        ),
        create_transform((3, 96, 80), crop_pct=0.9, mean=MEAN, std=STD),
    ],
    ids=lambda transform: " ".join(str(transform).split())[:60],
)
def test_images_become_what_the_transform_makes_of_them(transform: Any) -> None:
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    preprocessing = load_network(ModelOptions("net", module=network, transform=transform)).preprocessing
    for photo in photos():
        wanted = transform(photo)[None].numpy()
        actual = preprocessing(photo)
        assert actual.shape == wanted.shape
        levels = np.abs(actual - wanted) * np.reshape(preprocessing.std, (1, 3, 1, 1)) * 255
        assert np.percentile(levels, 99) <= 2  # torch resizes tensors with another rounding than Pillow


def test_grey_images() -> None:
    inputs = read_transform(v1.Compose([v1.Grayscale(), v1.Resize((28, 28)), v1.ToTensor(), v1.Normalize(0.1, 0.3)]))
    assert (inputs.size, inputs.mean, inputs.std) == ((28, 28), (0.1,), (0.3,))
    assert read_transform(v1.Compose([v1.Grayscale(), v1.Resize((8, 8)), v1.ToTensor()])).mean == (0.0,)


def test_a_processor_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    inputs = read_transform(transformers.ViTImageProcessor(size={"height": 48, "width": 48}))
    assert (inputs.size, inputs.mean, inputs.crop_mode) == ((48, 48), (0.5, 0.5, 0.5), "squash")


def test_every_crop_of_every_size_is_exact() -> None:
    for size in range(100, 300, 7):
        for crop in range(90, size + 1, 3):
            inputs = read_transform(v1.Compose([v1.Resize(size), v1.CenterCrop(crop), v1.ToTensor()]))
            assert inputs.crop_pct is not None
            assert int(crop / inputs.crop_pct) == size
            sides = {"height": crop, "width": crop}
            config = {"size": {"shortest_edge": size}, "crop_size": sides, "do_center_crop": True}
            squash = {**config, "size": {"height": size, "width": size}}
            script = describe({"args": {"model": "resnet18", "val_crop_size": crop, "val_resize_size": size}}, "x.pth")
            for other in (processor_inputs(config), processor_inputs(squash), script.inputs):
                assert other.crop_pct == inputs.crop_pct


def test_a_transform_without_a_size_needs_one() -> None:
    transform = v1.Compose(END_V1)
    with refuses(UsageError, "imgsz"):
        identify(ModelOptions("net", module=torch.nn.Identity(), transform=transform))
    options = identify(ModelOptions("net", module=torch.nn.Identity(), transform=transform, imgsz=32))
    assert (options.imgsz, options.crop_pct, options.crop_mode, options.mean) == (32, 1.0, "squash", MEAN)


class Sharpen:
    """A transform of the user's."""


@pytest.mark.parametrize(
    ("steps", "fact"),
    [
        ([v1.RandomResizedCrop(224), *END_V1], "RandomResizedCrop"),
        ([v1.Resize(256), v1.RandomHorizontalFlip(), *END_V1], "RandomHorizontalFlip"),
        ([v1.Resize(256), Sharpen(), v1.CenterCrop(224), *END_V1], "Sharpen"),
        ([v1.Resize(256), v1.CenterCrop(224), v1.ToTensor(), v1.Lambda(abs)], "Lambda"),
        ([v1.CenterCrop(224), v1.Resize(256), *END_V1], "Resize"),
        ([v1.CenterCrop(224), *END_V1], "224"),
        ([v1.Resize(256), *END_V1], "Resize(size=256"),
        ([v1.Resize(200), v1.CenterCrop(224), *END_V1], "224x224"),
        ([v1.Resize(256), v1.CenterCrop((224, 200)), *END_V1], "224x200"),
        ([v1.Resize((300, 230)), v1.CenterCrop(224), *END_V1], "224x224"),
        ([v1.Resize(64, max_size=100), v1.CenterCrop(64), *END_V1], "max_size=100"),
        ([v1.Resize(64, InterpolationMode.NEAREST_EXACT), v1.CenterCrop(64), *END_V1], "nearest-exact"),
        ([v1.Grayscale(3), v1.Resize(64), v1.CenterCrop(64), *END_V1], "Grayscale"),
        ([v2.PILToTensor(), v2.Resize(64), v2.CenterCrop(64)], "255"),
        ([v1.Normalize(MEAN, STD), v1.ToTensor()], "Normalize"),
        ([v2.ToImage(), v2.Resize(64, antialias=False), v2.CenterCrop(64), *END_V2], "antialias=False"),
        ([v1.PILToTensor(), v1.Resize(64, antialias=False), v1.CenterCrop(64), *END_V2], "antialias=False"),
    ],
)
def test_what_cannot_be_repeated_is_refused_by_name(steps: list[Any], fact: str) -> None:
    with refuses(UsageError, fact, "imgsz", "crop_pct"):
        read_transform(v1.Compose(steps))
