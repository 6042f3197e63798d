"""Memory that images take while they run through a graph node by node."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from edgekit.compat.torch import fake_tensors

VALUES_BYTES = 1 << 30
"""Memory for the values of all images that run node by node."""


def subset_that_fits(graph: GraphModule, samples: Sequence[NDArray[np.float32]], memory: int) -> list[Tensor]:
    """An evenly spaced subset of the images that fits into `memory` bytes when run node by node; at least one."""
    images = [torch.from_numpy(sample) for sample in samples]
    most = number_that_fits(graph, images[0], memory)
    if most >= len(images):
        return images
    return [images[index * len(images) // most] for index in range(most)]


def number_that_fits(graph: GraphModule, image: Tensor, memory: int) -> int:
    """Number of images like this one that fit into `memory` bytes when run node by node; at least one."""
    return max(1, memory // live_bytes(graph, image))


def live_bytes(graph: GraphModule, image: Tensor) -> int:
    """The most bytes that the values of one image take at the same time. Weights don't count. Computes no values."""
    counter = _LiveBytes(graph)
    with fake_tensors() as fake:
        counter.run(fake.from_tensor(image))
    return counter.most


class _LiveBytes(Interpreter):
    """Finds the most bytes of values that depend on the image."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.most = 1
        self._per_image: set[Node] = set()

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op == "placeholder" or not self._per_image.isdisjoint(n.all_input_nodes):
            self._per_image.add(n)
            live = (value, *(held for node, held in self.env.items() if node in self._per_image))
            self.most = max(self.most, sum(tensor.nbytes for tensor in live if isinstance(tensor, Tensor)))
        return value
