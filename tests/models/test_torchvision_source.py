"""torchvision's classifiers: names, checkpoints of its training script, preprocessing and downloads that fail."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from edgekit.config.recipes import Recipe
from edgekit.errors import HubError, ModelError, UsageError, WeightsError
from edgekit.models.loading import build_meta, load_network
from edgekit.models.options import ModelOptions
from tests.helpers.refusals import refuses

NAME = "torchvision:squeezenet1_1"
IMAGES = torch.linspace(-2, 2, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64).sin()


def test_a_checkpoint_of_its_training_script(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = torchvision.models.squeezenet1_1(num_classes=3).eval()
    averaged = {"n_averaged": torch.tensor(2), **{f"module.{k}": v for k, v in trained.state_dict().items()}}
    raw = {name: 0 * value for name, value in trained.state_dict().items()}
    settings = argparse.Namespace(
        model="squeezenet1_1", val_crop_size=64, val_resize_size=80, interpolation="bilinear", device="cuda"
    )
    torch.save({"model": raw, "model_ema": averaged, "epoch": 1, "args": settings}, tmp_path / "best.pth")
    for options in (
        ModelOptions(NAME, weights=str(tmp_path / "best.pth")),
        ModelOptions(str(tmp_path / "best.pth")),
    ):
        network = load_network(options)
        assert (network.name, network.source, network.classes) == (NAME, "torchvision", 3)
        assert torch.equal(network.module(IMAGES), trained(IMAGES))
        preprocessing = network.preprocessing
        assert (preprocessing.width, preprocessing.crop_pct, preprocessing.interpolation) == (64, 0.8, "bilinear")
        assert preprocessing.mean == (0.485, 0.456, 0.406)


@torch.no_grad()
def test_a_network_without_its_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = torchvision.models.mobilenet_v3_small(num_classes=3).eval()
    torch.save(trained.state_dict(), tmp_path / "best.pth")
    name = "torchvision:mobilenet_v3_small"
    network = load_network(ModelOptions(name, weights=str(tmp_path / "best.pth"), imgsz=64, headless=True))
    assert (network.classes, network.has_classifier) == (1024, False)
    assert torch.equal(trained.classifier[-1](network.module(IMAGES)), trained(IMAGES))
    assert build_meta(ModelOptions(name, headless=True))[0](torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 1024)
    with refuses(ModelError, NAME, "module:factory"):
        load_network(ModelOptions(NAME, weights="random", headless=True))


def test_random_weights_have_the_published_preprocessing() -> None:
    network = load_network(ModelOptions(NAME, weights="random"))
    assert network.classes == 1000
    assert (network.preprocessing.width, network.preprocessing.crop_pct) == (224, 224 / 256)
    assert build_meta(ModelOptions(NAME, imgsz=96))[1] == (96, 96)


def test_the_recipe_is_that_of_the_family() -> None:
    assert Recipe.for_model("torchvision:convnext_tiny").name == Recipe.for_model("convnext_tiny").name == "convnextv2"
    assert Recipe.for_model("torchvision:vit_b_16").name == "vit"


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"name": "torchvision:convnxt_tiny"}, ModelError, "unknown model 'torchvision:convnxt_tiny'.*convnext_tiny"),
        ({"name": f"{NAME}.OLD"}, WeightsError, f"no weights 'OLD'.*{NAME}.IMAGENET1K_V1"),
        ({"model_args": {"num_classes": 7}}, WeightsError, "have 1000 classes, but --model-args sets 7"),
        ({"model_args": {"depth": 7}}, ModelError, "can't build 'squeezenet1_1' with {'depth': 7}"),
        ({"model_args": {"weights": None}}, UsageError, "can't set 'weights'"),
    ],
)
def test_mistakes(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        load_network(ModelOptions(**{"name": NAME, **options}))


def test_weights_that_can_not_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    with refuses(HubError, "torchvision:squeezenet1_1") as caught:
        load_network(ModelOptions(NAME))
    assert "squeezenet1_1-" in caught.value.fix
    assert "`--weights FILE`" in caught.value.fix
