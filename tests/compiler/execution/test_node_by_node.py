"""Nodes that run on all images at once give what the graph gives for each."""

import torch
from torch import Tensor, nn

from edgekit.compiler.execution.node_by_node import NodeByNode, Values
from edgekit.compiler.export import trace


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
