"""Compares a job's graph with torch before anything is made of it."""

import copy
from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekit.compiler.execution.threads import is_small
from edgekit.compiler.first_difference import first_differing_layer
from edgekit.errors import ModelError, ParityError
from edgekit.models import Network
from edgekit.models.logits import one_by_one
from edgekit.pipeline.graph_to_compile import ParitySamples

PARITY = 1e-3
"""Largest allowed difference of a float model's logits from torch's, as a fraction of the largest logit."""
ROUNDINGS = 10
"""Largest difference of a graph, which computes in another order, as a multiple of that between float32 and double."""


def difference(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference of logits from torch's, as a fraction of torch's largest; infinite unless all are finite.

    If torch's are all 0, as of a head that was never trained, it is the difference itself.
    """
    if not np.isfinite(logits).all():
        return float("inf")
    return float(np.abs(logits - expected).max() / (np.abs(expected).max() or 1))


@torch.no_grad()
def check_graph(network: Network, graph: GraphModule, samples: ParitySamples) -> None:
    """Raise ParityError if the graph's logits differ from the network's, or ModelError if the network is the reason."""
    images = torch.from_numpy(network.preprocessing.normalize(samples.pixels))
    off = difference(one_by_one([graph], images), samples.logits)
    off_together = difference(_together(network.module, images, samples.logits), samples.logits)
    if max(off, off_together) <= PARITY:
        return
    if difference(one_by_one([network.module], images), samples.logits) > PARITY:
        raise ModelError(
            f"model '{network.name}' returns other logits when it runs again on the same image",
            valid="a network that draws no random numbers and keeps nothing from one image for the next",
            fix="Give F.dropout the argument training=self.training, and remove other sources of random numbers",
        )
    tolerance = max(PARITY, ROUNDINGS * _rounding(network.module, images, samples.logits))
    if off_together > tolerance:
        raise ModelError(
            f"model '{network.name}' returns other logits for an image alone than for the same image in a batch",
            valid="a network whose logits depend on one image only",
            fix="Train with running statistics (track_running_stats=True) if a BatchNorm has none",
        )
    if off <= tolerance:
        return
    layer = first_differing_layer(network.module, graph, images[:1], PARITY)
    place = f", first in the output of layer '{layer}'" if layer else ""
    raise ParityError(
        f"edgekit can't convert '{network.name}' correctly: its graph differs from torch by {off:.2e} of the largest "
        f"logit on {len(images)} real images{place}",
        valid=f"at most {PARITY:.0e}",
        fix="Write what the model's forward does there in other operations, and report this as a defect of edgekit",
    )


def _rounding(module: nn.Module, images: Tensor, alone: NDArray[np.float32]) -> float:
    """The difference that float32 itself makes; 0 if it isn't known, in large networks and those without double.

    Some networks with random weights amplify rounding more than a thousandfold.
    """
    if not is_small(module):
        return 0.0
    with suppress(RuntimeError):
        return difference(alone, one_by_one([copy.deepcopy(module).double()], images.double()))
    return 0.0


def _together(module: nn.Module, images: Tensor, alone: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits [N,classes] of images that run in one batch; those of the images `alone` if the network takes no batch."""
    with suppress(Exception):  # code for one image may raise anything, or return logits of another shape
        together = np.asarray(module(images.clone()))
        if together.shape == alone.shape:
            return together
    return alone
