"""Logits of torch's float network for cropped images."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekit.errors import WeightsError
from edgekit.models import Network

BATCH = 16
"""Images whose logits are handed on together."""


@torch.no_grad()
def torch_logits(network: Network, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits [N,classes] of the float network for cropped images [N,H,W,C]. WeightsError if a value isn't finite.

    The network sees one image at a time, as in a bundle: its code may rely on that.
    """
    images = torch.from_numpy(network.preprocessing.normalize(pixels))
    logits = one_by_one(network.module, images)
    if not np.isfinite(logits).all():
        raise WeightsError(
            f"model '{network.name}' returns NaN or infinity for a real image: its weights are damaged",
            fix="Choose another checkpoint with `--weights FILE`",
        )
    return logits


def one_by_one(module: nn.Module, images: Tensor) -> NDArray[np.float32]:
    """Logits [N,classes] of images [N,C,H,W] that run alone, as in a graph. A network may write into its input."""
    return np.concatenate([np.asarray(module(image[None].clone())) for image in images])


def batched_logits(network: Network, pixels: NDArray[np.uint8], batch: int = BATCH) -> Iterator[NDArray[np.float32]]:
    """Compute the logits of any number of images, in arrays [batch,classes]; the last one may be smaller."""
    for start in range(0, len(pixels), batch):
        yield torch_logits(network, pixels[start : start + batch])
