"""The conventions of timm and torchvision for published checkpoints, whose tensors have other names than their code."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import timm
import torchvision

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
