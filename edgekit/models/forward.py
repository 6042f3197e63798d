"""Runs a network whose code may fail."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.images.preprocess import CHANNELS


def run(module: nn.Module, images: Tensor) -> Any:
    """Return `module(images)`; any exception of its code becomes a ModelError with the images' shape."""
    try:
        return module(images)
    # A network may raise anything on an input size that it doesn't support.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the model can't run on images {list(images.shape)} ({type(error).__name__}: {reason})",
            fix="Correct `--imgsz`, `--model-args` or its forward, which gets float32 on the CPU",
        ) from error


def run_on_rgb_or_grey(module: nn.Module, images: Callable[[int], Tensor]) -> tuple[int, Any]:
    """Run on `images(3)` or, if that fails, on `images(1)`; return the number of channels and the output.

    Raises the ModelError of the RGB images if both fail.
    """
    failure: ModelError | None = None
    for channels in CHANNELS:
        try:
            return channels, run(module, images(channels))
        except ModelError as error:
            failure = failure or error
    assert failure is not None
    raise failure
