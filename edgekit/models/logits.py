"""What torch's float network answers for cropped images."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from edgekit.errors import WeightsError
from edgekit.models import Network

BATCH = 16


@torch.no_grad()
def torch_logits(network: Network, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits [N,classes] of the float network for cropped images [N,H,W,3]; WeightsError if one isn't finite."""
    images = torch.from_numpy(network.preprocessing.normalize(pixels))
    logits: NDArray[np.float32] = network.module(images).numpy()
    if not np.isfinite(logits).all():
        raise WeightsError(f"model '{network.name}' gives NaN or infinity for a real image: its weights are damaged.")
    return logits


def batched_logits(network: Network, pixels: NDArray[np.uint8], batch: int = BATCH) -> Iterator[NDArray[np.float32]]:
    """The same for any number of images, `batch` of them at a time: logits [batch,classes], fewer at the end."""
    for start in range(0, len(pixels), batch):
        yield torch_logits(network, pixels[start : start + batch])
