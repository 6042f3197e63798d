"""Networks with timm names and random weights, and their preprocessing."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from edgekit.errors import ModelError, UsageError, WeightsError
from edgekit.images.preprocess import Preprocessing
from edgekit.models.checkpoint import random_images
from edgekit.models.loading import load_network
from edgekit.models.network import Network
from edgekit.models.options import ModelOptions
from edgekit.models.timm_source import resolve_name
from tests.helpers.refusals import refuses

TINY: dict[str, Any] = {"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1), "num_classes": 10}
V1_SIZES = ["tiny", "small", "base", "large", "xlarge"]
V2_SIZES = ["atto", "femto", "pico", "nano", "tiny", "base", "large", "huge"]


def tiny(**options: Any) -> Network:
    defaults: dict[str, Any] = {"weights": "random", "model_args": TINY, "imgsz": 32}
    return load_network(ModelOptions("convnextv2_atto", **(defaults | options)))


def test_a_network_describes_itself() -> None:
    network = tiny()
    assert (network.name, network.source, network.weights, network.license_note) == (
        "convnextv2_atto",
        "timm",
        "random",
        None,
    )
    assert network.classes == 10
    assert network.labels == tuple(f"class_{index}" for index in range(10))
    assert network.params == sum(parameter.numel() for parameter in network.module.parameters())
    assert not network.module.training
    assert not any(parameter.requires_grad for parameter in network.module.parameters())
    assert network.module(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_imagenet_models_have_imagenet_labels_and_the_published_preprocessing() -> None:
    network = load_network(ModelOptions("convnextv2_atto", weights="random", imgsz=64))
    assert network.params == 3_708_400
    assert len(network.labels) == network.classes == 1000
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert network.preprocessing == Preprocessing(64, 64, "bicubic", 0.875, "center", mean, std)


def test_options_override_the_preprocessing() -> None:
    options = {
        "imgsz": (64, 32),
        "mean": [0.5, 0.4, 0.3],
        "std": (1, 1, 1),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
    }
    expected = Preprocessing(64, 32, "bilinear", 1.0, "center", (0.5, 0.4, 0.3), (1.0, 1.0, 1.0))
    assert tiny(**options).preprocessing == expected


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("imgsz", 0, "--imgsz is 0"),
        ("imgsz", (32, 5000), "from 1 to 4096"),
        ("mean", (0.5,), "--mean is .*three numbers"),
        ("std", (1.0, 0.0, 1.0), "std .* above 0"),
        ("interpolation", "magic", "'magic'.*bicubic"),
        ("crop_pct", 2.0, "crop_pct is 2.0"),
        ("labels", Path("none.txt"), "doesn't exist"),
        ("model_args", {"pretrained": True}, "'pretrained'.*`--weights`"),
        ("model_args", {**TINY, "img_size": 48}, "--imgsz is 32.*img_size.*48"),
    ],
)
def test_wrong_options_are_usage_errors(option: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny(**{option: value})


@pytest.mark.parametrize(
    ("name", "model_args"),
    [
        ("convnextv2_atto", TINY),
        ("convnext_atto", TINY),
        ("vit_tiny_patch16_224", {"depth": 2, "num_classes": 10}),
        ("mobilenetv3_small_050", {"num_classes": 10}),
    ],
)
def test_random_weights_are_seeded_and_distinguish_images(name: str, model_args: dict[str, object]) -> None:
    first, again, other = (
        load_network(ModelOptions(name, weights="random", model_args=model_args, imgsz=64), seed=seed)
        for seed in (1, 1, 2)
    )
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256
    torch.manual_seed(0)
    logits = first.module(random_images(8, (64, 64)))
    assert logits.std(dim=0).mean() > 0.2 * logits.std()
    assert len(set(logits.argmax(dim=1).tolist())) > 1


def test_random_weights_leave_no_part_idle() -> None:
    for name, parameter in tiny().module.named_parameters():
        assert parameter.std() > 0.01, name
    scaled = load_network(ModelOptions("convnext_atto", weights="random", model_args=TINY, imgsz=32)).module
    scales = [parameter for name, parameter in scaled.named_parameters() if name.endswith("gamma")]
    assert len(scales) == 5
    assert all(scale.min() > 0.1 for scale in scales)


def test_torch_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    tiny()
    assert torch.rand(1) == expected


@pytest.mark.parametrize("name", [f"convnextv2_{s}" for s in V2_SIZES] + [f"convnext_{s}" for s in V1_SIZES])
def test_all_convnext_sizes_resolve_to_published_weights(name: str) -> None:
    config = resolve_name(name)
    assert config.has_weights
    assert config.num_classes == 1000
    assert str(config.hf_hub_id).startswith(f"timm/{name}.")


def test_tags_and_defaults() -> None:
    assert resolve_name("convnextv2_atto").tag == "fcmae_ft_in1k"
    assert resolve_name("convnextv2_huge.fcmae_ft_in22k_in1k_512").input_size == (3, 512, 512)


def test_the_largest_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        module = timm.create_model("convnextv2_huge")
    assert sum(parameter.numel() for parameter in module.parameters()) == pytest.approx(660.29e6, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnextv2_ato", "unknown model 'convnextv2_ato'.*convnextv2_atto"),
        ("qqq", "unknown model 'qqq'.*module:factory"),
        ("convnextv2_atto.in1k", "no tag 'in1k'.*convnextv2_atto.fcmae_ft_in1k"),
        ("convnext_tiny_in22k", "former model name.*convnext_tiny.fb_in22k"),
    ],
)
def test_unknown_names_are_model_errors(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_network(ModelOptions(name, weights="random"))


@pytest.mark.parametrize(
    ("model_args", "message"),
    [
        ({"speed": 9}, "can't build 'convnextv2_atto' with .*speed.*`--model-args`"),
        ({**TINY, "in_chans": 4}, r"can't run on images \[1, 3, 32, 32\]"),
        ({**TINY, "features_only": True}, "returns a list"),
        ({**TINY, "num_classes": 1}, r"returns shape \[1, 1\].*torch.cat\(\[0 \* x, x\], 1\)"),
        ({**TINY, "num_classes": 0, "global_pool": ""}, r"returns shape \[1, 32, 1, 1\].*x.mean\(\(2, 3\)\)"),
    ],
)
def test_arguments_that_give_no_classifier_are_model_errors(model_args: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tiny(model_args=model_args)


def test_a_network_without_a_classifier_returns_features(tmp_path: Path) -> None:
    whole, headless = tiny(), {**TINY, "num_classes": 0}
    features = tiny(model_args=headless)
    shape = {name: value for name, value in TINY.items() if name != "num_classes"}
    assert tiny(model_args=shape, headless=True).classes == features.classes
    assert (whole.has_classifier, features.has_classifier) == (True, False)
    assert features.classes == 32
    assert not load_network(ModelOptions("convnextv2_atto.fcmae", weights="random", imgsz=32)).has_classifier
    torch.save({f"module.{name}": value for name, value in whole.module.state_dict().items()}, tmp_path / "own.pth")
    fitted = tiny(weights=str(tmp_path / "own.pth"), model_args=headless)
    assert not fitted.has_classifier
    image = random_images(1, (32, 32))
    module: Any = whole.module
    expected = module.forward_head(module.forward_features(image), pre_logits=True)
    assert torch.equal(fitted.module(image), expected)


def test_a_checkpoint_of_a_network_without_a_classifier(tmp_path: Path) -> None:
    """One with a classifier gives its number of classes; one without stays without."""
    arguments: dict[str, Any] = {"img_size": 28, "depth": 1, "embed_dim": 12, "num_heads": 2}
    for classes in (0, 3):
        model = timm.create_model("vit_small_patch14_dinov2", num_classes=classes, **arguments)
        torch.save(model.state_dict(), tmp_path / "own.pth")
        options = ModelOptions("vit_small_patch14_dinov2", weights=str(tmp_path / "own.pth"), model_args=arguments)
        network = load_network(options)
        assert network.has_classifier == bool(classes)
        assert network.classes == (classes or 12)
        assert load_network(replace(options, headless=True)).classes == 12


def test_an_image_too_small_is_a_model_error() -> None:
    with refuses(ModelError, "[1, 3, 8, 8]", "--imgsz"):
        tiny(imgsz=8)


def test_models_of_a_fixed_size_are_built_for_the_requested_size() -> None:
    network = load_network(
        ModelOptions("vit_tiny_patch16_224", weights="random", imgsz=(32, 64), model_args={"depth": 1})
    )
    assert (network.preprocessing.height, network.preprocessing.width) == (32, 64)
    assert network.module.get_parameter("pos_embed").shape[1] == 2 * 4 + 1
    built = load_network(
        ModelOptions("vit_tiny_patch16_224", weights="random", model_args={"depth": 1, "img_size": 48})
    )
    assert (built.preprocessing.height, built.preprocessing.width) == (48, 48)


def test_no_published_weights_is_a_weights_error() -> None:
    with refuses(WeightsError, "'davit_giant'", "--weights FILE"):
        load_network(ModelOptions("davit_giant"))


def test_published_weights_do_not_get_an_untrained_head() -> None:
    with refuses(WeightsError, "1000", "--model-args", "10"):
        load_network(ModelOptions("convnextv2_atto", model_args={"num_classes": 10}))


def test_a_network_is_portable_if_another_process_can_import_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tiny().is_portable
    (tmp_path / "own_network.py").write_text(
        "from torch import nn\nclass Own(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_network", raising=False)
    network = load_network(ModelOptions("own_network:Own", imgsz=8))
    assert not network.is_portable
    monkeypatch.syspath_prepend(tmp_path)
    assert network.is_portable
    network.module.act = lambda x: x
    assert not network.is_portable
