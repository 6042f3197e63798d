"""Nodes on all images, one after another, and the memory that this takes."""

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.compiler.execution import NodeByNode, Values, live_bytes, number_that_fits, subset_that_fits
from edgekit.compiler.graph import trace


class Branches(nn.Module):
    """Two branches of an image, and a value that doesn't depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.arange(1.0, 4).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = x.chunk(3, 1)
        return (first - second * third).mean((2, 3)) + (x * self.factor.square()).sum((1, 2, 3))


def test_values_are_those_of_the_graph_and_are_freed() -> None:
    graph = trace(Branches(), (1, 3, 4, 4))
    images = list(torch.randn(5, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    nodes, values = NodeByNode(graph, images), Values()
    most = 0
    for node in graph.graph.nodes:
        if node.op == "output":
            break
        values[node] = nodes.run(node, values)
        most = max(most, len(values))
        if node.op == "get_attr" or "square" in str(node.target):
            assert isinstance(values[node], Tensor)
        nodes.forget(node.all_input_nodes, values)
    (result,) = values
    assert result is graph.graph.output_node().all_input_nodes[0]
    with torch.no_grad():
        for image, value in zip(images, values[result], strict=True):
            assert torch.equal(value, graph(image))
    assert most < len(graph.graph.nodes) - 1


class Wide(nn.Module):
    """Doubles the number of values twice, and adds up all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(1000))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, x], 1)
        x = torch.cat([x, x], 1)
        return x.sum((1, 2, 3)) + self.table.sum()


SAMPLES = [np.full((1, 3, 4, 4), index, np.float32) for index in range(10)]
ONE = 4 * 3 * 4 * 4
"""Bytes of an image."""


def test_bytes_of_an_image_count_the_values_that_later_nodes_need() -> None:
    graph = trace(Wide(), (1, 3, 4, 4))
    assert live_bytes(graph) == 2 * ONE + 4 * ONE


def test_the_images_that_fit_are_evenly_spaced() -> None:
    graph = trace(Wide(), (1, 3, 4, 4))
    one = live_bytes(graph)
    for memory, chosen in ((5 * one, [0, 2, 4, 6, 8]), (3 * one + 1, [0, 3, 6]), (1, [0]), (99 * one, [*range(10)])):
        assert [int(image.max()) for image in subset_that_fits(graph, SAMPLES, memory, 99)] == chosen
    assert number_that_fits(graph, 4 * one) == 4
