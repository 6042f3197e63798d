"""Classifiers as transformers saves them: their configuration and tensor names in terms of timm's models.

ConvNeXt, ConvNeXt V2, ViT and ResNet become timm's networks, for which there are recipes. The names were checked with
transformers 5.24, which also reads and writes those of version 4.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import LayerNorm  # type: ignore[attr-defined]

from edgekit.errors import ModelError
from edgekit.models.options import TRANSFORMERS, ModelArgs
from edgekit.models.state_dict import State

_EPSILON_OF_TIMM = 1e-6
_BACKBONE = re.compile(r"^(.*?)(?:convnextv2|convnext|vit|resnet)\.(?:embeddings|embedder|encoder|layers|layernorm)\.")
# ConvNeXt in the names of the original repositories, which timm renames.
_CONVNEXT = (
    (r"embeddings\.patch_embeddings\.", "downsample_layers.0.0."),
    (r"embeddings\.layernorm\.", "downsample_layers.0.1."),
    (r"encoder\.stages\.(\d+)\.downsampling_layer\.", r"downsample_layers.\1."),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layernorm\.", r"stages.\1.\2.norm."),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer_scale_parameter", r"stages.\1.\2.gamma"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.grn\.weight", r"stages.\1.\2.grn.gamma"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.grn\.bias", r"stages.\1.\2.grn.beta"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.", r"stages.\1.\2."),
    (r"layernorm\.", "norm."),
    (r"classifier\.", "head."),
)
_VIT = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"(?:encoder\.layer|layers)\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
    (r"(?:encoder\.layer|layers)\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
    (r"(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:output\.dense|o_proj)\.", r"blocks.\1.attn.proj."),
    (r"(?:encoder\.layer|layers)\.(\d+)\.(?:intermediate\.dense|mlp\.fc1)\.", r"blocks.\1.mlp.fc1."),
    (r"(?:encoder\.layer|layers)\.(\d+)\.(?:output\.dense|mlp\.fc2)\.", r"blocks.\1.mlp.fc2."),
    (r"layernorm\.", "norm."),
    (r"classifier\.", "head."),
)
_VIT_ATTENTION = re.compile(
    r"(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:attention\.)?(query|key|value|q_proj|k_proj|v_proj)\.(.+)"
)
_RESNET = (
    (r"embedder\.embedder\.convolution\.", "conv1."),
    (r"embedder\.embedder\.normalization\.", "bn1."),
    (r"classifier\.1\.", "fc."),
)
_RESNET_LAYER = re.compile(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(?:layer\.(\d+)|(shortcut))\.(\w+)\.(.+)")


def with_timm_names(state: State) -> State:
    """Rename a state dict of transformers to the names of timm or of the original repository; another is unchanged.

    Prefixes that a wrapper put before the names stay. Tensors are shared, but for those that ViT's attention joins.
    """
    backbone = next((match for name in state if (match := _BACKBONE.match(name))), None)
    if backbone is None:
        return state
    wrapper = backbone[1]
    family = backbone[0].removeprefix(wrapper).partition(".")[0]
    plain: State = {}
    rest: State = {}
    for name, value in state.items():
        own = name.removeprefix(wrapper)
        if name.startswith(wrapper) and own.startswith((f"{family}.", "classifier.")):
            plain[own.removeprefix(f"{family}.")] = value
        else:
            rest[name] = value
    if family == "vit":
        renamed = _vit(plain)
    elif family == "resnet":
        renamed = {_resnet_name(name): value for name, value in plain.items()}
    else:
        renamed = {_renamed(name, _CONVNEXT): value for name, value in plain.items()}
    return {**{f"{wrapper}{name}": value for name, value in renamed.items()}, **rest}


def _renamed(name: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        new, count = re.subn(rf"^{pattern}", replacement, name)
        if count:
            return new
    return name


def _vit(state: State) -> State:
    """Names of a ViT, with the weights of query, key and value in one tensor. The unused pooler is left out."""
    renamed: State = {}
    joined: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in state.items():
        if match := _VIT_ATTENTION.fullmatch(name):
            joined.setdefault(f"blocks.{match[1]}.attn.qkv.{match[3]}", {})[match[2][0]] = value
        elif not name.startswith("pooler."):
            renamed[_renamed(name, _VIT)] = value
    for name, parts in joined.items():
        renamed[name] = torch.cat([parts[part] for part in "qkv" if part in parts])
    return renamed


def _resnet_name(name: str) -> str:
    match = _RESNET_LAYER.fullmatch(name)
    if match is None:
        return _renamed(name, _RESNET)
    stage, layer, index, shortcut, kind, rest = match.groups()
    if shortcut:
        part = f"downsample.{0 if kind == 'convolution' else 1}"
    else:
        part = f"{'conv' if kind == 'convolution' else 'bn'}{int(index) + 1}"
    return f"layer{int(stage) + 1}.{layer}.{part}.{rest}"


class _NotInTimm(Exception):
    """A variant of a network that timm doesn't have."""


def transformers_model(config: Mapping[str, Any], where: str) -> tuple[str, ModelArgs]:
    """The name and constructor arguments of transformers' own network. Raises ModelError unless it is a classifier."""
    family, names = config.get("model_type"), config.get("architectures")
    names = names if isinstance(names, list) else []
    if isinstance(family, str) and any("ForImageClassification" in str(name) for name in names):
        return f"{TRANSFORMERS}{family}", {key: value for key, value in config.items() if key != "model_type"}
    described = f"a model of type '{family}'" + (f" ({', '.join(map(str, names))})" if names else "")
    raise ModelError(
        f"'{where}' describes {described}",
        valid="an image classifier of transformers (...ForImageClassification), or a configuration of timm",
        fix="Deploy the model from your own code as module:factory, or export it to ONNX and deploy the .onnx file",
    )


def timm_model(config: Mapping[str, Any], where: str) -> tuple[str, ModelArgs] | None:
    """timm's architecture and constructor arguments for a config.json of transformers; None if timm doesn't have it.

    `where` is its name in errors. Raises ModelError for a malformed one.
    """
    family = config.get("model_type")
    try:
        if family in ("convnext", "convnextv2"):
            return _convnext(config, family)
        if family == "vit":
            return _vit_model(config)
        if family == "resnet":
            return _resnet_model(config)
    except _NotInTimm:
        return None
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(
            f"'{where}' lacks a value of a {family} model, or has a malformed one ({type(error).__name__}: {error})",
            fix="Save the model again with model.save_pretrained(FOLDER)",
        ) from error
    return None


def _convnext(config: Mapping[str, Any], family: str) -> tuple[str, ModelArgs]:
    _require(config, hidden_act="gelu")
    names = {
        "convnext": {(96, 3): "convnext_tiny", (96, 9): "convnext_tiny", (96, 27): "convnext_small",
                     (128, 27): "convnext_base", (192, 27): "convnext_large", (256, 27): "convnext_xlarge"},
        "convnextv2": {(40, 6): "convnextv2_atto", (48, 6): "convnextv2_femto", (64, 6): "convnextv2_pico",
                       (80, 8): "convnextv2_nano", (96, 9): "convnextv2_tiny", (128, 27): "convnextv2_base",
                       (192, 27): "convnextv2_large", (352, 27): "convnextv2_huge"},
    }[family]  # fmt: skip
    dims, depths = tuple(config["hidden_sizes"]), tuple(config["depths"])
    patch = config.get("patch_size", 4)
    name = names.get((dims[0], depths[2]), f"{family}_tiny")
    arguments: ModelArgs = {"dims": dims, "depths": depths, "patch_size": patch, "conv_mlp": False}
    if family == "convnext" and not config.get("layer_scale_init_value", 1e-6) > 0:
        arguments["ls_init_value"] = None
    return name, arguments


def _vit_model(config: Mapping[str, Any]) -> tuple[str, ModelArgs]:
    activation = config.get("hidden_act", "gelu")
    _require(config, hidden_act=activation if activation in ("gelu", "relu", "silu") else "gelu")
    width, patch, size = config["hidden_size"], config.get("patch_size", 16), config.get("image_size", 224)
    word = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}.get(width, "base")
    shape = {"base": (16, 32), "small": (16, 32), "large": (16, 32), "huge": (14,), "tiny": (16,)}[word]
    name = f"vit_{word}_patch{patch if patch in shape else shape[0]}_224"
    arguments: ModelArgs = {
        "img_size": tuple(size) if isinstance(size, list) else size,
        "patch_size": patch,
        "embed_dim": width,
        "depth": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "mlp_ratio": config["intermediate_size"] / width,
        "qkv_bias": config.get("qkv_bias", True),
    }
    if activation != "gelu":
        arguments["act_layer"] = activation
    if (epsilon := config.get("layer_norm_eps", 1e-12)) != _EPSILON_OF_TIMM:
        arguments["norm_layer"] = partial(LayerNorm, eps=epsilon)  # the logits differ in the fourth digit without
    return name, arguments


def _resnet_model(config: Mapping[str, Any]) -> tuple[str, ModelArgs]:
    _require(config, hidden_act="relu", embedding_size=64, downsample_in_first_stage=False)
    basic = config.get("layer_type", "bottleneck") == "basic"
    if not basic:
        _require(config, downsample_in_bottleneck=False)
    depths, sizes = tuple(config["depths"]), tuple(config["hidden_sizes"])
    channels = sizes if basic else tuple(size // 4 for size in sizes)
    names = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet34"} if basic else {
        (3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"}  # fmt: skip
    return names.get(depths, "resnet18" if basic else "resnet50"), {"layers": depths, "channels": channels}


def _require(config: Mapping[str, Any], **values: object) -> None:
    """Raise _NotInTimm unless the configuration has these values, which timm's model is built with, or none."""
    if any(config.get(key, value) != value for key, value in values.items()):
        raise _NotInTimm
