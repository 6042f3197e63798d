"""What depends on weights alone is computed at export."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekit.compiler.graph import A, constant
from edgekit.compiler.layers import layers
from edgekit.compiler.simplify.constants import fold_constants
from tests.helpers.graphs import export_graph, simplified

SHAPE = (1, 3, 8, 8)


class Standardized(nn.Module):
    """A convolution whose weights are standardized in forward, and a position embedding that is resized there."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.position = nn.Parameter(torch.randn(1, 4, 3, 3))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        position = nn.functional.interpolate(self.position, size=(8, 8), mode="bicubic", antialias=True)
        x = nn.functional.conv2d(x, weight, padding=1) + position
        noise = torch.rand(4) * 0
        logits: Tensor = self.head(x.mean((2, 3)) + noise)
        return logits


class Fixed(nn.Module):
    """A product and a sum of constants, a view of one, and what depends on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.factor, self.shift = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(1, 1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.factor * 2 + 1) + x / (self.shift + 5) + self.factor.reshape(1, 8)


@pytest.fixture(scope="module")
def network() -> Standardized:
    torch.manual_seed(0)
    return Standardized().eval().requires_grad_(False)


def test_the_graph_has_constants_for_them(network: Standardized) -> None:
    graph = export_graph(network, SHAPE)
    targets: set[Any] = {node.target for node in graph.graph.nodes}
    assert not targets & {A._upsample_bicubic2d_aa.default, A.sub.Tensor}
    (conv, _), _ = layers(graph)
    assert constant(graph, conv.args[1]) is not None
    x = torch.randn(SHAPE)
    torch.testing.assert_close(graph(x), network(x))


def test_each_value_that_the_image_meets_is_counted() -> None:
    _, places = simplified(Fixed(), torch.randn(SHAPE), fold_constants)
    assert places == 2


def test_random_numbers_are_drawn_for_each_image(network: Standardized) -> None:
    assert export_graph(network, SHAPE).graph.find_nodes(op="call_function", target=A.rand.default)


def test_the_network_keeps_its_weights(network: Standardized) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    export_graph(network, SHAPE)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
