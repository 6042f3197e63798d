"""Finds the timm architectures whose tensors are most like those of a checkpoint."""

import fnmatch
import re
import time
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor

from edgekit.compat.timm import checkpoint_filter
from edgekit.models.options import TORCHVISION, ModelOptions
from edgekit.models.state_dict import Rename, State, own_tensors
from edgekit.models.torchvision_source import TorchvisionSource, present_names, torchvision_models
from edgekit.support.libraries import quiet

BUDGET_S = 3.0
"""CPU time in seconds after which no further architecture is built."""
_SHOWN = 3
_ENOUGH = 0.5
# Names that tell a family, and patterns of its architectures. Families with the same names are in one row.
_FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"features\.\d+\.\d+\.layer_scale", ("torchvision:convnext_*",)),
    (r"features\.\d+\.\d+\.block\.\d+\.", ("torchvision:efficientnet_*",)),
    (r"features\.\d+\.block\.\d+\.", ("torchvision:mobilenet_v3_*",)),
    (r"features\.\d+\.conv\.\d+\.", ("torchvision:mobilenet_v2",)),
    (r"features\.\d+\.squeeze\.", ("torchvision:squeezenet*",)),
    (r"features\.\d+\.\d+\.attn\.", ("torchvision:swin_*",)),
    (r"encoder\.layers\.encoder_layer_\d+\.", ("torchvision:vit_*",)),
    (r"trunk_output\.", ("torchvision:regnet_*",)),
    (r"stage2\.0\.branch1\.", ("torchvision:shufflenet_*",)),
    (r"stages\.\d+\.(blocks\.)?\d+\.(mlp\.)?grn\.", ("convnextv2*",)),
    (r"(stages\.\d+\.blocks\.\d+\.conv_dw|downsample_layers\.\d+\.\d+|stages\.\d+\.\d+\.dwconv)\.", ("convnext*",)),
    (r"layer1\.0\.(conv1|se)\.", ("resnet*", "resnext*", "wide_resnet*", "ecaresnet*", "seresne*", "legacy_se*")),
    (r"blocks\.\d+\.attn\.qkv\.", ("vit_*", "deit*", "beit*", "eva*", "cait*", "xcit*")),
    (r"layers\.\d+\.blocks\.\d+\.attn\.(qkv|relative_position_bias_table|cpb_mlp)", ("swin*",)),
    (r"conv_head\.bias", ("mobilenetv3*", "tf_mobilenetv3*", "ghostnet*", "lcnet*", "fbnetv3*")),
    (r"conv_stem\.", ("efficientnet*", "mobilenetv*", "tf_efficientnet*", "mnasnet*", "fbnet*", "mixnet*")),
    (r"features\.denseblock1\.", ("densenet*",)),
    (r"features\.\d+\.(weight|bias)$", ("vgg*",)),
    (r"s1\.b1\.conv1\.", ("regnet*",)),
    (r"stages\.\d+\.blocks\.\d+\.(0|1)\.", ("davit*",)),
    (r"stages\.\d+\.blocks\.\d+\.(conv|attn)\.", ("coatnet*", "maxvit*", "coatnext*")),
)
_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}


@dataclass(frozen=True)
class Match:
    """An architecture and how much of a checkpoint fits it."""

    name: str
    share: float
    """Fraction of the tensors, of the checkpoint or of the architecture, that agree in name and shape."""


def nearest(state: State) -> list[Match]:
    """The architectures with the most tensors of the same name and shape, the best first; none if no family is known.

    Builds the architectures of the family on the meta device, those with short names first, and stops at one that fits
    entirely or after `BUDGET_S`.
    """
    best: list[Match] = []
    end = time.process_time() + BUDGET_S
    for name in _candidates(state):
        share = _share(state, name)
        best = sorted([*best, Match(name, share)], key=lambda match: -match.share)[:_SHOWN]
        # Only the classifier may differ: it has a weight and a bias.
        if share * len(state) >= len(state) - 2.5 or time.process_time() > end:
            break
    return [match for match in best if match.share >= _ENOUGH and match.share >= best[0].share - 0.2]


def _candidates(state: State) -> list[str]:
    names = "\n".join(state)
    patterns = next((patterns for key, patterns in _FAMILIES if re.search(key, names, re.MULTILINE)), ())
    found = [name for pattern in patterns for name in sorted(_names(pattern), key=lambda name: (len(name), name))]
    return _like_vit(state, found)


def _names(pattern: str) -> list[str]:
    if pattern.startswith(TORCHVISION):
        return fnmatch.filter([f"{TORCHVISION}{name}" for name in torchvision_models()], pattern)
    return timm.list_models(pattern)


def _like_vit(state: State, names: list[str]) -> list[str]:
    """The names with the width and the patches of a ViT first, of which there are hundreds."""
    kernel = next((value for key, value in state.items() if key.endswith("patch_embed.proj.weight")), None)
    if kernel is None or kernel.ndim != 4:
        return names
    wanted = (_SIZES.get(kernel.shape[0], "giant"), f"patch{kernel.shape[-1]}")
    return sorted(names, key=lambda name: -sum(word in name for word in wanted))


def _share(state: State, name: str) -> float:
    """Fraction of the tensors that agree; 0 for a network that can't be built."""
    try:
        with torch.device("meta"), quiet():
            if name.startswith(TORCHVISION):
                module = TorchvisionSource().build_meta(ModelOptions(name))
                rename: Rename | None = present_names(name.removeprefix(TORCHVISION))
            else:
                module, rename = timm.create_model(name), checkpoint_filter(name)
        own = own_tensors(state, module, Path(name), rename).state
    except Exception:  # the code of any network of timm, on a checkpoint of another
        return 0.0
    wanted: dict[str, Tensor] = module.state_dict()
    same = sum(value.shape == wanted[key].shape for key, value in own.items() if key in wanted)
    return same / max(len(own), len(wanted))
