"""timm's convention for checkpoints of the original repositories."""

import sys
from collections.abc import Callable
from typing import Any, cast

import timm

CheckpointFilter = Callable[[dict[str, Any], Any], dict[str, Any]]


def checkpoint_filter(architecture: str) -> CheckpointFilter | None:
    """The function that renames the tensors of an original checkpoint for this architecture, or None without one.

    Checked with timm 1.0.31. timm documents no way to get it. By convention, it is a global function named
    `checkpoint_filter_fn` in the module that defines the model. edgekit needs it because the published checkpoints of
    ConvNeXt V2 and other models don't use the names of timm's modules.
    """
    module = sys.modules[timm.model_entrypoint(architecture).__module__]
    return cast("CheckpointFilter | None", getattr(module, "checkpoint_filter_fn", None))
