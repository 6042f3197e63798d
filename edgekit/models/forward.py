"""Running a network that may not run."""

from typing import Any

from torch import Tensor, nn

from edgekit.errors import ModelError


def run(module: nn.Module, images: Tensor) -> Any:
    """`module(images)`, with whatever it raises as a ModelError that names the shape."""
    try:
        return module(images)
    # A network may raise anything on a size that it wasn't made for.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the model can't run on images {list(images.shape)} ({type(error).__name__}: {reason}): check --imgsz and "
            "--model-args"
        ) from error
