"""What depends on weights alone is computed at export."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekit.compiler.graph import A, constant, operand, weight_of
from edgekit.compiler.layers import dense_layers, layers
from edgekit.compiler.quantizers import int8_weight, quantizer_of
from edgekit.compiler.simplify.constants import fold_constants, separate_weights
from edgekit.config.recipes import load_recipe
from edgekit.config.runtimes import RUNTIMES
from tests.helpers.calibration import quantize
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
    assert constant(graph, operand(conv, 1)) is not None
    x = torch.randn(SHAPE)
    torch.testing.assert_close(graph(x), network(x))


def test_each_value_that_the_image_meets_is_counted() -> None:
    _, places = simplified(Fixed(), torch.randn(SHAPE), fold_constants)
    assert places == 2


class Shared(nn.Module):
    """Two layers that are called twice, one also with a view of its weight, and a layer with a transposed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 3), nn.Linear(3, 5)
        self.transposed = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.conv(x).relu())
        x = nn.functional.conv2d(x, self.linear.weight[:, :, None, None], self.linear.bias).relu()
        x = nn.functional.linear(x.mean((2, 3)), self.transposed.T)
        logits: Tensor = self.head(self.linear(self.linear(x)))
        return logits


def test_each_call_of_a_layer_has_its_own_weights() -> None:
    graph, nodes = simplified(Shared(), torch.randn(SHAPE), fold_constants, separate_weights)
    weights = [layer.weight for layer in dense_layers(graph)]
    assert nodes == 5, "for weight and bias of a conv and a linear layer, and once for the bias of a linear layer"
    assert {node.op for node in weights} == {"get_attr"}
    assert [len(node.users) for node in weights] == [1] * 7
    values = [weight_of(graph, node) for node in weights]
    assert values[0].data_ptr() == values[1].data_ptr(), "there is one copy of the weights"


@pytest.mark.parametrize("target", RUNTIMES)
def test_each_call_of_a_layer_is_quantized(target: str) -> None:
    torch.manual_seed(0)
    graph, images = export_graph(Shared().eval(), SHAPE), [torch.randn(SHAPE).numpy() for _ in range(4)]
    quantized = quantize(graph, images, load_recipe("default"), target)
    found = list(dense_layers(quantized))
    assert len(found) == 7
    for layer in found:
        assert int8_weight(layer.node) is not None, layer.name
        assert quantizer_of(layer.source) is not None, layer.name


def test_random_numbers_are_drawn_for_each_image(network: Standardized) -> None:
    assert export_graph(network, SHAPE).graph.find_nodes(op="call_function", target=A.rand.default)


def test_the_network_keeps_its_weights(network: Standardized) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    export_graph(network, SHAPE)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
