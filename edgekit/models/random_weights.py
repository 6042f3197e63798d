"""Seeded random weights that behave like trained ones, to measure speed and parity without a checkpoint."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.config import sizes
from edgekit.errors import ModelError
from edgekit.images.preprocess import CHANNELS

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Layers whose running statistics are measured on random images."""


@torch.no_grad()
def randomize(module: nn.Module, size: tuple[int, int]) -> None:
    """Fill a module with random weights from torch's current seed, in place; `size` is (height, width) in pixels.

    The constructor's own initialization is meant for training and degenerate otherwise: GRN starts at zero, so it and
    its rewrites do nothing; a LayerNorm's affine is the identity; layer-scale starts at 1e-6, so that a block adds
    nothing; a BatchNorm's statistics come from no data. Such a network hides errors, because a compiler that drops a
    GRN gives the same numbers, and it is too easy to quantize. Where activations fade, all images give the same output,
    and comparing predictions shows nothing. We therefore make norms, GRN, layer-scale and biases random, scale dense
    weights so that the variance stays the same from layer to layer, and measure BatchNorm's statistics on random
    images, so that outputs vary between images. Accuracy remains meaningless. Raises ModelError if the network can't
    run at `size`.
    """
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            if name.endswith("weight"):
                nn.init.kaiming_normal_(parameter, nonlinearity="linear")
        elif name.endswith("bias"):
            nn.init.normal_(parameter, 0, 0.05)
        elif "grn" in name:
            nn.init.normal_(parameter, 0, 0.5)
        else:
            nn.init.uniform_(parameter, 0.5, 1.5)
    _measure_batch_norms(module, size)


def _measure_batch_norms(module: nn.Module, size: tuple[int, int]) -> None:
    """Set each BatchNorm's mean and variance to those of its inputs for random images."""
    norms = [norm for norm in module.modules() if isinstance(norm, BATCH_NORMS) and norm.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # for torch, None means a plain average over the batches
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # fixes the order of sums, so that every machine gets the same statistics
    module.train()
    params = sum(parameter.numel() for parameter in module.parameters())
    count = 8 if params <= sizes.EIGHT_RANDOM_IMAGES_UP_TO else 2
    try:
        run_on_rgb_or_grey(module, lambda channels: random_images(count, size, channels))
    finally:
        torch.set_num_threads(threads)
    module.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def random_images(count: int, size: tuple[int, int], channels: int = 3) -> Tensor:
    """Normalized float32 images [count,C,H,W] of soft blotches, a tint and some noise, from torch's current seed."""
    blotches = nn.functional.interpolate(torch.randn(count, channels, 6, 6), size=size, mode="bicubic")
    return blotches + 0.5 * torch.randn(count, channels, 1, 1) + 0.3 * torch.randn(count, channels, *size)


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
