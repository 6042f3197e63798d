"""Folders that transformers saves: their logits and preprocessing, compared with those of transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from edgekit.models import load_network
from edgekit.models.options import ModelOptions
from edgekit.models.random_weights import randomize
from edgekit.models.transformers_layout import timm_model

transformers = pytest.importorskip("transformers", reason="needs transformers")

LABELS = {"id2label": {"0": "cat", "1": "dog", "2": "eel"}}
CONVNEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "hidden_act": "gelu", **LABELS}
VIT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 64,
    "patch_size": 16, "layer_norm_eps": 1e-6, **LABELS,
}  # fmt: skip
RESNET = {"embedding_size": 64, "depths": [1, 2, 1, 1], "hidden_act": "relu", **LABELS}
CONFIGS: dict[str, dict[str, Any]] = {
    "convnext": {"model_type": "convnext", **CONVNEXT},
    "convnextv2": {"model_type": "convnextv2", **CONVNEXT},
    "vit": {"model_type": "vit", **VIT},
    "basic": {"model_type": "resnet", "layer_type": "basic", "hidden_sizes": [16, 24, 32, 48], **RESNET},
    "bottleneck": {"model_type": "resnet", "layer_type": "bottleneck", "hidden_sizes": [32, 64, 96, 128], **RESNET},
}


class Logits(nn.Module):
    """A classifier of transformers that returns its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(pixel_values=images).logits
        return logits


def save(folder: Path, config: dict[str, Any], processor: dict[str, Any]) -> nn.Module:
    """Let transformers save a network of this configuration with random weights; return the network."""
    family = config["model_type"]
    own = transformers.AutoConfig.for_model(**config)
    torch.manual_seed(0)
    model = transformers.AutoModelForImageClassification.from_config(own).eval()
    randomize(Logits(model), (64, 64))
    model.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == family
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return Logits(model)


PROCESSOR = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "resample": 3}
NEAREST = {"size": {"shortest_edge": 64}, "crop_pct": 0.875, **PROCESSOR}


@torch.no_grad()
@pytest.mark.parametrize("family", [*CONFIGS, "vit with the names of version 5"])
def test_the_logits_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    model = save(tmp_path, CONFIGS[family.partition(" ")[0]], NEAREST)
    if "5" in family:  # it saves the names of version 4, and has others in memory
        state = {name.removeprefix("model."): value for name, value in model.state_dict().items()}
        assert "vit.layers.0.attention.q_proj.weight" in state
        safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    loaded = load_network(ModelOptions(str(tmp_path)))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded.module(images), model(images), rtol=1e-4, atol=1e-5)
    assert loaded.source == "timm"
    assert loaded.labels == ("cat", "dog", "eel")
    assert loaded.preprocessing.mean == (0.5, 0.5, 0.5)
    assert loaded.preprocessing.std == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("processor", "size", "crop_pct", "crop_mode", "interpolation"),
    [
        ({"size": {"shortest_edge": 64}, "crop_pct": 0.875, "resample": 3}, 64, 0.875, "center", "bicubic"),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875, "resample": 3}, 384, 1.0, "squash", "bicubic"),
        ({"size": {"height": 64, "width": 64}, "resample": 2}, 64, 1.0, "squash", "bilinear"),
        ({"size": 64, "resample": 2}, 64, 1.0, "squash", "bilinear"),
        (
            {
                "size": {"shortest_edge": 80},
                "crop_size": {"height": 64, "width": 64},
                "do_center_crop": True,
                "resample": 3,
            },
            64,
            0.8,
            "center",
            "bicubic",
        ),
    ],
)
def test_the_preprocessing(
    processor: dict[str, Any], size: int, crop_pct: float, crop_mode: str, interpolation: str, tmp_path: Path
) -> None:
    save(tmp_path, CONFIGS["convnext"], processor)
    preprocessing = load_network(ModelOptions(str(tmp_path))).preprocessing
    assert (preprocessing.height, preprocessing.width) == (size, size)
    assert (preprocessing.crop_pct, preprocessing.crop_mode) == (crop_pct, crop_mode)
    assert preprocessing.interpolation == interpolation


def test_names_that_transformers_invents_are_no_names(tmp_path: Path) -> None:
    config = CONFIGS["convnext"] | {"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}
    save(tmp_path, config, NEAREST)
    assert load_network(ModelOptions(str(tmp_path))).labels == ("class_0", "class_1", "class_2")


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("convnext", {"hidden_act": "relu"}),
        ("basic", {"embedding_size": 32}),
        ("basic", {"downsample_in_first_stage": True}),
        ("bottleneck", {"downsample_in_bottleneck": True}),
        ("vit", {"hidden_act": "gelu_new"}),
    ],
)
def test_variants_that_timm_does_not_have(family: str, change: dict[str, Any]) -> None:
    assert timm_model(CONFIGS[family] | change, "config.json") is None
    assert timm_model(CONFIGS[family], "config.json") is not None


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "convnext", "hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 27, 3]}, "convnext_small"),
        ({"model_type": "convnextv2", "hidden_sizes": [40, 80, 160, 320], "depths": [2, 2, 6, 2]}, "convnextv2_atto"),
        ({**VIT, "model_type": "vit", "hidden_size": 192, "intermediate_size": 768}, "vit_tiny_patch16_224"),
        ({"model_type": "resnet", "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 23, 3]}, "resnet101"),
    ],
)
def test_published_sizes_have_their_own_names(config: dict[str, Any], name: str) -> None:
    found = timm_model(config, "config.json")
    assert found is not None
    assert found[0] == name
