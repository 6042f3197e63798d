"""The architectures that are named for a checkpoint that doesn't say which one it belongs to."""

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor

from edgekit.models import nearest as module
from edgekit.models.nearest import nearest


def state_of(name: str, **arguments: Any) -> dict[str, Tensor]:
    with torch.device("meta"):
        if name.startswith("torchvision:"):
            network: Any = torchvision.models.get_model(name.partition(":")[2], num_classes=4)
        else:
            network = timm.create_model(name, num_classes=4, **arguments)
    return {key: torch.empty(value.shape) for key, value in network.state_dict().items()}


@pytest.mark.parametrize(
    "name",
    ["resnet18", "convnext_atto", "convnextv2_atto", "vit_tiny_patch16_224", "mobilenetv3_small_050",
     "torchvision:mobilenet_v3_small", "torchvision:squeezenet1_1"],
)  # fmt: skip
def test_an_architecture_is_found(name: str) -> None:
    assert nearest(state_of(name))[0].name == name


def test_a_prefix_and_foreign_tensors_do_not_matter() -> None:
    state = {f"model.{name}": value for name, value in state_of("resnet18").items()} | {"loss.weight": torch.ones(4)}
    assert nearest(state)[0].name == "resnet18"


def test_a_variant_is_near_but_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUDGET_S", 0.1)  # the architecture is the first of its family
    best = nearest(state_of("convnext_atto", depths=(2, 2, 5, 2)))[0]
    assert best.name == "convnext_atto"
    assert best.share < 0.95


def test_unknown_tensors_are_near_to_nothing() -> None:
    assert nearest({"odd.weight": torch.zeros(1)}) == []


def test_the_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def share(_: object, name: str) -> float:
        built.append(name)
        return 0.0

    monkeypatch.setattr(module, "_share", share)
    monkeypatch.setattr(module, "BUDGET_S", -1.0)
    nearest(state_of("resnet18"))
    assert len(built) == 1
