"""Folders of transformers: small networks written by its parameter names, and the preprocessing of its processors.

transformers is not installed where the tests run. The names and configurations are those that transformers 5.24 wrote
for networks of these sizes, whose logits edgekit reproduced.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from edgekit.errors import ModelError
from edgekit.models import Network, load_network
from edgekit.models.options import ModelOptions
from edgekit.models.transformers_layout import timm_model
from tests.helpers.refusals import refuses

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
# timm's names and those of transformers. Where timm has one tensor, ViT of transformers has three.
CONVNEXT_NAMES = (
    (r"^stem\.0", "convnext.embeddings.patch_embeddings"),
    (r"^stem\.1", "convnext.embeddings.layernorm"),
    (r"^stages\.(\d)\.downsample\.", r"convnext.encoder.stages.\1.downsampling_layer."),
    (r"^stages\.(\d)\.blocks\.(\d)\.gamma", r"convnext.encoder.stages.\1.layers.\2.layer_scale_parameter"),
    (r"^stages\.(\d)\.blocks\.(\d)\.conv_dw", r"convnext.encoder.stages.\1.layers.\2.dwconv"),
    (r"^stages\.(\d)\.blocks\.(\d)\.norm", r"convnext.encoder.stages.\1.layers.\2.layernorm"),
    (r"^stages\.(\d)\.blocks\.(\d)\.mlp\.fc(\d)", r"convnext.encoder.stages.\1.layers.\2.pwconv\3"),
    (r"^stages\.(\d)\.blocks\.(\d)\.mlp\.grn", r"convnext.encoder.stages.\1.layers.\2.grn"),
    (r"^head\.norm", "convnext.layernorm"),
    (r"^head\.fc", "classifier"),
)
VIT_NAMES = (
    (r"^cls_token", "vit.embeddings.cls_token"),
    (r"^pos_embed", "vit.embeddings.position_embeddings"),
    (r"^patch_embed\.proj", "vit.embeddings.patch_embeddings.projection"),
    (r"^blocks\.(\d)\.norm1", r"vit.encoder.layer.\1.layernorm_before"),
    (r"^blocks\.(\d)\.norm2", r"vit.encoder.layer.\1.layernorm_after"),
    (r"^blocks\.(\d)\.attn\.proj", r"vit.encoder.layer.\1.attention.output.dense"),
    (r"^blocks\.(\d)\.mlp\.fc1", r"vit.encoder.layer.\1.intermediate.dense"),
    (r"^blocks\.(\d)\.mlp\.fc2", r"vit.encoder.layer.\1.output.dense"),
    (r"^norm", "vit.layernorm"),
    (r"^head", "classifier"),
)
# Version 5 has these names in memory.
VIT_5 = (
    (r"encoder\.layer\.", "layers."),
    (r"attention\.attention\.(\w)\w+\.", r"attention.\1_proj."),
    (r"attention\.output\.dense", "attention.o_proj"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"\.output\.dense", ".mlp.fc2"),
)


def renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def resnet_name(name: str) -> str:
    match = re.fullmatch(r"layer(\d)\.(\d)\.(?:(conv|bn)(\d)|downsample\.(\d))\.(.+)", name)
    if match is None:
        rules = ((r"^conv1", "resnet.embedder.embedder.convolution"), (r"^fc", "classifier.1"))
        return renamed(name, (*rules, (r"^bn1", "resnet.embedder.embedder.normalization")))
    stage, layer, kind, index, shortcut, rest = match.groups()
    convolution = kind == "conv" or shortcut == "0"
    part = f"layer.{int(index) - 1}" if kind else "shortcut"
    place = f"resnet.encoder.stages.{int(stage) - 1}.layers.{layer}.{part}"
    return f"{place}.{'convolution' if convolution else 'normalization'}.{rest}"


def as_transformers(state: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """A state dict of timm with the names that transformers gives it."""
    family = config["model_type"]
    if family == "resnet":
        return {resnet_name(name): value for name, value in state.items()}
    if family == "vit":
        written: dict[str, Tensor] = {}
        for name, value in state.items():
            if match := re.fullmatch(r"blocks\.(\d)\.attn\.qkv\.(\w+)", name):
                for part, chunk in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    place = f"vit.encoder.layer.{match[1]}.attention.attention.{part}.{match[2]}"
                    written[place] = chunk.clone()
            else:
                written[renamed(name, VIT_NAMES)] = value
        return written
    rows: dict[str, Tensor] = {}
    for name, value in state.items():
        grown = value[None, None, None] if ".grn." in name else value
        rows[renamed(name, CONVNEXT_NAMES).replace("convnext.", f"{family}.")] = grown
    return rows


def reference(config: dict[str, Any]) -> Network:
    name, arguments = timm_model(config, "config.json")
    size = config.get("image_size", 64)
    options = ModelOptions(name, weights="random", model_args={**arguments, "num_classes": 3}, imgsz=size)
    return load_network(options)


def save(folder: Path, config: dict[str, Any], state: dict[str, Tensor], processor: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    safetensors.torch.save_file(
        {name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors"
    )


PROCESSOR = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "resample": 3}
NEAREST = {"size": {"shortest_edge": 64}, "crop_pct": 0.875, **PROCESSOR}


@pytest.mark.parametrize("family", [*CONFIGS, "vit of version 5"])
def test_the_logits_are_those_of_the_same_network_in_timm(family: str, tmp_path: Path) -> None:
    config = CONFIGS[family.partition(" ")[0]]
    network = reference(config)
    state = as_transformers(dict(network.module.state_dict()), config)
    assert all(name.startswith((f"{config['model_type']}.", "classifier.")) for name in state)
    if "5" in family:
        state = {renamed(name, VIT_5): value for name, value in state.items()}
        assert "vit.layers.0.attention.q_proj.weight" in state
    save(tmp_path, config, state, NEAREST)
    loaded = load_network(ModelOptions(str(tmp_path)))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded.module(images), network.module(images))
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
    config = CONFIGS["convnext"]
    save(tmp_path, config, as_transformers(dict(reference(config).module.state_dict()), config), processor)
    preprocessing = load_network(ModelOptions(str(tmp_path))).preprocessing
    assert (preprocessing.height, preprocessing.width) == (size, size)
    assert (preprocessing.crop_pct, preprocessing.crop_mode) == (crop_pct, crop_mode)
    assert preprocessing.interpolation == interpolation


def test_names_that_transformers_invents_are_no_names(tmp_path: Path) -> None:
    config = CONFIGS["convnext"] | {"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}
    save(tmp_path, config, as_transformers(dict(reference(config).module.state_dict()), config), NEAREST)
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
def test_variants_that_timm_does_not_have_are_refused(family: str, change: dict[str, Any]) -> None:
    (key,) = change
    with refuses(ModelError, "'config.json'", key, "module:factory"):
        timm_model(CONFIGS[family] | change, "config.json")
    timm_model(CONFIGS[family], "config.json")


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
    assert timm_model(config, "config.json")[0] == name
