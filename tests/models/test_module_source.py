"""Networks in memory: a copy is loaded, the caller's module stays as it is, and its preprocessing is known."""

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, VisionTransformer, resnet18

from edgekit.config.recipes import Recipe
from edgekit.errors import ModelError, UsageError, WeightsError
from edgekit.models.loading import build_meta, identify, load_network
from edgekit.models.module_source import name_of
from edgekit.models.options import ModelOptions
from tests.helpers.refusals import refuses


def small(classes: int = 3) -> Any:
    """A network with a BatchNorm and dropout, which behave in another way while training."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Dropout(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )


def options_of(module: nn.Module, **options: Any) -> ModelOptions:
    return ModelOptions(**{"name": name_of(module), "module": module, "imgsz": 16, **options})


def test_the_callers_module_stays_as_it_is() -> None:
    module = small().half().train()
    module[1].eval()
    before = copy.deepcopy(module.state_dict())
    network = load_network(options_of(module))
    assert (network.name, network.source, network.weights) == ("Sequential", "module", "in memory")
    assert (network.classes, network.params) == (3, sum(value.numel() for value in module.parameters()))
    assert module.training
    assert [part.training for part in module] == [True, False, True, True, True, True]
    assert all(value.requires_grad and value.dtype is torch.float16 for value in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not network.module.training
    assert {value.dtype for value in network.module.parameters()} == {torch.float32}
    with torch.no_grad():
        module[0].weight.zero_()
    assert next(network.module.parameters()).abs().sum() > 0


def test_logits_are_those_of_the_module() -> None:
    module = small()
    images = torch.rand(2, 3, 16, 16)
    network = load_network(options_of(module))
    assert torch.equal(network.module(images), module.eval()(images))


def test_the_identity_is_that_of_weights_and_graph() -> None:
    first, again = load_network(options_of(small())), load_network(options_of(small()))
    assert first.identity == again.identity
    changed = small()
    changed[5].bias.data += 1
    assert load_network(options_of(changed)).weights_sha256 != first.weights_sha256
    other_graph = small()
    other_graph[2] = nn.ReLU()
    others = load_network(options_of(other_graph))
    assert others.weights_sha256 == first.weights_sha256
    assert others.graph_sha256 != first.graph_sha256


def test_a_file_can_replace_the_weights(tmp_path: Path) -> None:
    file = tmp_path / "tuned.safetensors"
    tuned = small()
    tuned[5].bias.data += 1
    safetensors.torch.save_file(tuned.state_dict(), file)
    network = load_network(options_of(small(), weights=str(file)))
    assert torch.equal([*network.module.parameters()][-1], tuned[5].bias)
    assert network.weights == str(file)
    with refuses(WeightsError, "num_classes=3", str(file)):
        load_network(options_of(small(4), weights=str(file)))


def test_wrappers_are_removed_and_name_the_network_inside() -> None:
    wrapped: Any
    for wrapped in (nn.DataParallel(small()), torch.compile(small(), backend="eager")):
        assert name_of(wrapped) == "Sequential"
        assert type(load_network(options_of(wrapped)).module) is nn.Sequential


def test_timms_networks_state_their_architecture_and_preprocessing() -> None:
    module = timm.create_model("convnextv2_atto", num_classes=5)
    network = load_network(options_of(module, imgsz=32))
    assert network.name == "convnextv2_atto"
    assert (network.preprocessing.interpolation, network.preprocessing.crop_pct) == ("bicubic", 0.875)
    assert network.notes == ()


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("torchvision:resnet18", resnet18),
        ("torchvision:vit_b_16", lambda: VisionTransformer(32, 16, 1, 2, 16, 16)),
        ("vit_tiny_patch16_224", lambda: timm.create_model("vit_tiny_patch16_224", depth=1)),
    ],
)
def test_a_network_has_the_recipe_that_it_has_by_name(name: str, module: Any) -> None:
    assert Recipe.for_model(name_of(module())).name == Recipe.for_model(name).name != "default"


def test_an_assumed_preprocessing_is_a_warning() -> None:
    (note,) = load_network(options_of(small())).notes
    assert note.doubtful
    assert "ImageNet" in note.text
    assert load_network(options_of(small(), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))).notes == ()


def test_a_transform_gives_the_preprocessing_and_options_override_it() -> None:
    options = options_of(resnet18(num_classes=4), imgsz=None, transform=ResNet18_Weights.DEFAULT.transforms())
    network = load_network(options)
    preprocessing = network.preprocessing
    assert (preprocessing.height, preprocessing.width, preprocessing.crop_pct) == (224, 224, 0.875)
    assert (preprocessing.interpolation, preprocessing.mean) == ("bilinear", (0.485, 0.456, 0.406))
    (note,) = network.notes
    assert note.text.startswith("preprocessing: 224x224")
    assert note.text.endswith("from the transform")
    stated = identify(options_of(small(), transform=ResNet18_Weights.DEFAULT.transforms(), mean=(0.1, 0.2, 0.3)))
    assert (stated.imgsz, stated.mean) == (16, (0.1, 0.2, 0.3))
    assert identify(stated) is stated


def test_networks_of_transformers_return_their_logits() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MobileNetV2Config(image_size=32, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    module = transformers.MobileNetV2ForImageClassification(config).eval()
    network = load_network(options_of(module, imgsz=None))
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(network.module(images), module(images).logits)
    assert (network.labels, network.preprocessing.height) == (("cat", "dog"), 32)


def test_what_a_forward_pass_left_behind_is_copied() -> None:
    module = small()
    module.last = module(torch.rand(2, 3, 16, 16))
    assert not module.last.is_leaf
    assert load_network(options_of(module)).classes == 3


def test_planning_needs_no_values() -> None:
    module, size = build_meta(options_of(small()))
    assert size == (16, 16)
    assert all(value.is_meta for value in module.parameters())


class Locked(nn.Module):
    """A network that can't be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def test_refusals() -> None:
    with refuses(ModelError, "Locked", "module:factory"):
        load_network(options_of(Locked()))
    with refuses(UsageError, "random weights", "Sequential"):
        load_network(options_of(small(), weights="random"))
    with refuses(UsageError, "model_args", "Sequential"):
        load_network(options_of(small(), model_args={"num_classes": 3}))


def test_a_module_is_no_checkpoint_whatever_its_name() -> None:
    options = ModelOptions("net.pth", module=small())
    assert not options.is_checkpoint
    assert (options.short_name, options.run_name) == ("net.pth", "net.pth")
