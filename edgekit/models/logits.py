"""Logits of torch's float network for cropped images."""

from collections.abc import Iterator, Sequence
from queue import SimpleQueue

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekit.compiler.execution.threads import at_once, side_by_side
from edgekit.compiler.graph import copy_sharing
from edgekit.errors import WeightsError
from edgekit.models import Network

BATCH = 16
"""Images whose logits are handed on together."""


def torch_logits(network: Network, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits [N,classes] of the float network for cropped images [N,H,W,C]. WeightsError if a value isn't finite."""
    return np.concatenate([*batched_logits(network, pixels)])


@torch.no_grad()
def batched_logits(network: Network, pixels: NDArray[np.uint8], batch: int = BATCH) -> Iterator[NDArray[np.float32]]:
    """Compute the logits of any number of images, in arrays [batch,classes]; the last one may be smaller.

    The network sees one image at a time, as in a bundle: its code may rely on that. WeightsError if a value isn't
    finite.
    """
    modules = _copies(network.module)
    for start in range(0, len(pixels), batch):
        images = torch.from_numpy(network.preprocessing.normalize(pixels[start : start + batch]))
        logits = one_by_one(modules, images)
        if not np.isfinite(logits).all():
            raise WeightsError(
                f"model '{network.name}' returns NaN or infinity for a real image: its weights are damaged",
                fix="Choose another checkpoint with `--weights FILE`",
            )
        yield logits


def one_by_one(modules: Sequence[nn.Module], images: Tensor) -> NDArray[np.float32]:
    """Logits [N,classes] of images [N,C,H,W] that run alone, as in a graph, but on each of the equal modules at once.

    A network may write into its input.
    """
    free = SimpleQueue[nn.Module]()
    for module in modules:
        free.put(module)

    def run(image: Tensor) -> NDArray[np.float32]:
        module = free.get()
        try:
            return np.asarray(module(image[None].clone()))
        finally:
            free.put(module)

    return np.concatenate([*side_by_side(run, images, len(modules))])


def _copies(module: nn.Module) -> list[nn.Module]:
    """The module, and copies that share its tensors, so that as many images can run side by side.

    Each has its own attributes, which a network's code may change while it runs.
    """
    try:
        return [module, *(copy_sharing(module) for _ in range(at_once(module) - 1))]
    except Exception:
        return [module]  # which has what can't be copied, such as a lock or an open file
