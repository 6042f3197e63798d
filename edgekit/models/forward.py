"""Runs a network whose code may fail."""

from typing import Any

from torch import Tensor, nn

from edgekit.errors import ModelError


def run(module: nn.Module, images: Tensor) -> Any:
    """Return `module(images)`; any exception of its code becomes a ModelError with the images' shape."""
    try:
        return module(images)
    # A network may raise anything on an input size that it doesn't support.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the model can't run on images {list(images.shape)} ({type(error).__name__}: {reason})",
            fix="Correct `--imgsz` or `--model-args`",
        ) from error
