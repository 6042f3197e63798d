"""timm's convention for checkpoints of the original repositories."""

import sys
from collections.abc import Callable
from typing import Any, cast

import timm

CheckpointFilter = Callable[[dict[str, Any], Any], dict[str, Any]]


def checkpoint_filter(architecture: str) -> CheckpointFilter | None:
    """The function that renames a checkpoint of the original repository for this architecture; None without one.

    Checked with timm 1.0.31. timm documents no way to get it: by convention it is a global function named
    `checkpoint_filter_fn` in the module that defines the model. edgekit needs it because published checkpoints of
    ConvNeXt V2 and others have other names than timm's modules.
    """
    module = sys.modules[timm.model_entrypoint(architecture).__module__]
    return cast("CheckpointFilter | None", getattr(module, "checkpoint_filter_fn", None))
