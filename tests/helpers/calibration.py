"""Calibrate a graph for a runtime as the pipeline does, and networks for such graphs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx import GraphModule

from edgekit.compiler import calibrate
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import DeviceClass
from edgekit.images.preprocess import Preprocessing
from edgekit.images.selection import Selection
from edgekit.models.network import Network, torch_logits
from edgekit.pipeline.request import BuildSpec, ParitySamples
from edgekit.runtime.backend import load_lowering


def quantize(
    graph: GraphModule, samples: Sequence[NDArray[np.float32]], recipe: Recipe, target: str, **options: Any
) -> GraphModule:
    """`edgekit.compiler.calibrate.quantize` with the lowering in the runtime's folder."""
    return calibrate.quantize(graph, samples, recipe, target, load_lowering(target), **options)


class SideBySide(nn.Module):
    """Networks that read the same image, and whose logits follow each other, so that one conversion tests them all.

    The logits are scaled to one range, because a concatenation has one scale. Each network has its own seed: with equal
    seeds they would have equal layers, which the converter merges.
    """

    @torch.no_grad()
    def __init__(self, networks: Sequence[Callable[[], nn.Module]], images: Sequence[NDArray[np.float32]]) -> None:
        super().__init__()
        self.networks = nn.ModuleList()
        for seed, make in enumerate(networks):
            torch.manual_seed(seed)
            network: Any = make().eval()
            largest = max(float(network(torch.from_numpy(image)).abs().max()) for image in images)
            for parameter in network.head.parameters():
                parameter /= largest
            self.networks.append(network)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([network(x) for network in self.networks], 1)


def network_of(module: nn.Module, side: int, classes: int = 5) -> Network:
    """A module as a job's network for images of this size."""
    size = Preprocessing(side, side, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    labels = tuple(f"class {index}" for index in range(classes))
    module = module.eval().requires_grad_(False)
    return Network(module, type(module).__name__, "timm", "random", "0" * 64, 1000, classes, size, labels, None)


def spec_of(network: Network, recipe: Recipe, device_class: DeviceClass, **more: Any) -> BuildSpec:
    """What the bundles of a network are built from, without images."""
    values: dict[str, Any] = {"calibration_dataset": None, "calibration": Selection((), Path("photos")), **more}
    return BuildSpec(network, recipe, device_class, **values)


def noise_for(network: Network, count: int = 2) -> ParitySamples:
    """Images of noise, with the network's logits for them."""
    shape = (count, *network.preprocessing.input_shape[2:], 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return ParitySamples(pixels, torch_logits(network, pixels))
