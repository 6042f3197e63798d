"""Conventions and private functions of the libraries that networks come from, which the other modules need.

timm and torchvision publish checkpoints whose tensors have other names than their code. open_clip builds image towers
without the rest of the model; callers pass it, because it is an optional extra. onnx2pytorch makes a module of an ONNX
graph, which runs the graph's nodes one after another in torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial, reduce
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.support.libraries import import_needed

if TYPE_CHECKING:
    import onnx

CheckpointFilter = Callable[[dict[str, Any], Any], dict[str, Any]]


def checkpoint_filter(architecture: str) -> CheckpointFilter | None:
    """The function that renames the tensors of an original checkpoint for this architecture, or None without one.

    Checked with timm 1.0.31. timm documents no way to get it. By convention, it is a global function named
    `checkpoint_filter_fn` in the module that defines the model. edgekit needs it because the published checkpoints of
    ConvNeXt V2 and other models don't use the names of timm's modules.
    """
    module = sys.modules[timm.model_entrypoint(architecture).__module__]
    return cast("CheckpointFilter | None", getattr(module, "checkpoint_filter_fn", None))


def renamed_as_published(model: str, state: dict[str, Any]) -> dict[str, Any]:
    """The tensors of a published file under the names of torchvision's present code, which renames those of DenseNets.

    Checked with torchvision 0.28. It documents no way to rename without a download. By convention, the module that
    defines such a model has a global function `_load_state_dict` for it.
    """
    load = getattr(sys.modules[torchvision.models.get_model_builder(model).__module__], "_load_state_dict", None)
    if load is None:
        return state
    renamed: dict[str, Any] = {}
    file = SimpleNamespace(get_state_dict=lambda **_: dict(state))
    load(SimpleNamespace(load_state_dict=renamed.update), file, progress=False)
    return renamed


def build_vision_tower(library: Any, config: Mapping[str, Any]) -> nn.Module:
    """Build the untrained image tower of a model's configuration on torch's default device.

    Checked with open_clip_torch 3.3. `_build_vision_tower` is private. The public `create_model` builds all towers,
    which for a CoCa need twice the memory of the image tower.
    """
    tower: nn.Module = library.model._build_vision_tower(
        config["embed_dim"], dict(config["vision_cfg"]), bool(config.get("quick_gelu"))
    )
    return tower


def present_layout(library: Any, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint's tensors as open_clip gives them to a model of both towers, or to one with the image tower `visual`
    alone: renamed, and resized to its image size.

    Checked with open_clip_torch 3.3, whose `load_checkpoint` reads a file and converts its tensors in one step.
    """
    converted: dict[str, Tensor] = {}

    is_alone = {name for name, _ in model.named_children()} <= {"visual", "head"}  # without what belongs to both towers

    class Receiver:
        def __getattr__(self, name: str) -> Any:
            return getattr(model, name, None) if is_alone else getattr(model, name)

        def load_state_dict(self, state: dict[str, Tensor], strict: bool) -> None:
            converted.update(state)

    with patch.object(library.factory, "load_state_dict", lambda *_, **__: state):
        library.load_checkpoint(Receiver(), "")
    return converted


@torch.no_grad()
def keep_first_query(visual: nn.Module) -> None:
    """Drop all pooling queries but the first, in place, if the others don't influence the logits.

    Checked with open_clip_torch 3.3. Its VisionTransformer has the attributes `attn_pool`, `attn_pool_contrastive`,
    `pool_type` and `query`. A CoCa pools with 256 queries, and a classifier uses only the first.
    """
    pool: Any = getattr(visual, "attn_pool", None)
    if pool is not None and visual.attn_pool_contrastive is None and visual.pool_type == "tok":
        pool.query = nn.Parameter(pool.query[:1].clone())


def convert(model: onnx.ModelProto) -> nn.Module:
    """Turn a model into a module with the same inputs and outputs. The model is changed.

    Checked with onnx2pytorch 0.6.0. `ConvertModel` is public. Its LayerNormalization, Max and Min are not.
    Their three to nine operations become one of torch here, which edgekit's passes know. An unsupported operator may
    raise any exception.
    """
    library, operations = (import_needed(name, "onnx-models") for name in ("onnx2pytorch", "onnx2pytorch.operations"))
    module: nn.Module = library.ConvertModel(model).eval().requires_grad_(False)
    for child in module.modules():
        if isinstance(child, operations.LayerNorm):
            child.forward = partial(_layer_norm, child.axis, child.eps)
        elif isinstance(child, operations.Max | operations.Min):
            child.forward = partial(_reduce, torch.maximum if isinstance(child, operations.Max) else torch.minimum)
    return module


def _layer_norm(axis: int, eps: float, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor]:
    """LayerNormalization without its optional outputs, the mean and the inverse of the standard deviation."""
    return (F.layer_norm(x, x.shape[axis:], scale, bias, eps),)


def _reduce(operation: Callable[[Tensor, Tensor], Tensor], *inputs: Tensor) -> Tensor:
    return reduce(operation, inputs)
