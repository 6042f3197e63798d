from typing import ClassVar

import pytest
import torch
from torch import nn

from edgekit.models import loading
from edgekit.models.loading import build_meta, find_source, load_network
from edgekit.models.network import LoadedModule, ModelSource
from edgekit.models.options import ModelOptions
from edgekit.models.transforms import size_of_model


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("convnextv2_atto", "timm"),
        ("convnextv2_atto.fcmae_ft_in1k", "timm"),
        ("no such model", "timm"),
        ("open_clip:coca_ViT-B-32", "open_clip"),
        ("torchvision:convnext_tiny", "torchvision"),
        ("my_models:build", "factory"),
        ("runs/My.ONNX", "onnx"),
        ("my.models:Group.build", "factory"),
    ],
)
def test_a_name_belongs_to_one_source(name: str, source: str) -> None:
    assert find_source(ModelOptions(name)).name == source


class ZooSource:
    """A source of linear classifiers, as a contributor would add one."""

    name: ClassVar[str] = "zoo"

    def recognizes(self, options: ModelOptions) -> bool:
        return options.name.startswith("zoo:")

    def input_size(self, options: ModelOptions) -> tuple[int, int] | None:
        return size_of_model(options)

    def load(self, options: ModelOptions, seed: int) -> LoadedModule:
        return LoadedModule(self._build(), f"seed {seed}", "0" * 64, "free to use")

    def build_meta(self, options: ModelOptions) -> nn.Module:
        return self._build()

    def _build(self) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))


def test_a_source_in_the_table_is_loaded_and_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    zoo: ModelSource = ZooSource()
    monkeypatch.setattr(loading, "SOURCES", (zoo, *loading.SOURCES))
    options = ModelOptions("zoo:linear", imgsz=(8, 16))
    network = load_network(options, seed=7)
    assert (network.source, network.name, network.weights) == ("zoo", "zoo:linear", "seed 7")
    assert (network.classes, network.license_note) == (4, "free to use")
    assert (network.preprocessing.height, network.preprocessing.width) == (8, 16)
    module, size = build_meta(options)
    assert size == (8, 16)
    assert all(parameter.device == torch.device("meta") for parameter in module.parameters())
