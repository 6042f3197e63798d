"""Layers get constant weights and biases."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.compiler.arithmetic import (
    fold_biases,
    fold_constants,
    products_to_linear,
    separate_biases,
    separate_weights,
)
from edgekit.compiler.graph import A, constant, operand, weight_of
from edgekit.compiler.layers import dense_layers, int8_weight, layers, quantizer_of
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import RUNTIMES
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph, simplified, targets_of

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
    quantized = quantize(graph, images, Recipe.load("default"), target)
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


Compute = Callable[[Tensor, Tensor], Tensor]
LINEAR: dict[str, Compute] = {
    "product": lambda x, w: x @ w,
    "product with a transposed matrix": lambda x, w: x @ torch.cat([w.mT, w.mT]).mT,
    "product of a matrix": lambda x, w: torch.mm(x[0, 0], w),
    "sum with a product": lambda x, w: torch.addmm(w[0], x[0, 0], w),
    "sum of a value with a product": lambda x, w: torch.addmm(x[0, 0, :, :5], x[0, 1], w),
    "einsum": lambda x, w: torch.einsum("bchw,wd->bchd", x, w),
    "einsum with the matrix first in order": lambda x, w: torch.einsum("bchw,dw->bdch", x, w.mT),
    "einsum over the channels": lambda x, w: torch.einsum("bchw, cd -> bdhw", x, w[:3]),
}
OTHERS: dict[str, Compute] = {
    "product of two values": lambda x, _: x @ x.mT,
    "product from the left": lambda x, w: w.mT @ x.mT,
    "product with several matrices": lambda x, w: x @ w.expand(3, -1, -1),
    "sum with a multiple of a product": lambda x, w: torch.addmm(w[0], x[0, 0], w, alpha=2),
    "sum with a product of two values": lambda x, w: torch.addmm(w[0], x[0, 0], x[0, 1, :, :5]),
    "einsum of two values": lambda x, _: torch.einsum("bchw,bdhw->bcd", x, x),
    "einsum that keeps all axes": lambda x, w: torch.einsum("bchw,wd->bchwd", x, w),
    "einsum that sums an axis of the matrix": lambda x, w: torch.einsum("bchw,wd->bch", x, w),
    "einsum that also sums an axis of the image": lambda x, w: torch.einsum("bchw,wd->bcd", x, w),
    "einsum of a diagonal": lambda x, w: torch.einsum("bchh,hd->bcd", x, w),
    "einsum with a vector": lambda x, w: torch.einsum("bchw,w->bch", x, w[:, 0]),
    "einsum with dots": lambda x, w: torch.einsum("...w,wd->...d", x, w),
}


class Product(nn.Module):
    def __init__(self, compute: Compute) -> None:
        super().__init__()
        self.compute, self.weight = compute, nn.Parameter(torch.randn(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x, self.weight)


@pytest.mark.parametrize("name", LINEAR)
def test_products_with_a_matrix_are_linear(name: str) -> None:
    torch.manual_seed(0)
    graph, places = simplified(Product(LINEAR[name]), torch.randn(1, 3, 8, 8), fold_constants, products_to_linear)
    assert places == 1
    targets = targets_of(graph)
    assert targets.count(A.linear.default) == 1
    assert not {A.matmul.default, A.mm.default, A.addmm.default, A.einsum.default}.intersection(targets)


@pytest.mark.parametrize("name", OTHERS)
def test_other_products_stay(name: str) -> None:
    torch.manual_seed(0)
    graph, places = simplified(Product(OTHERS[name]), torch.randn(1, 3, 8, 8), fold_constants, products_to_linear)
    assert places == 0
    assert A.linear.default not in targets_of(graph)


class Biases(nn.Module):
    """Layers whose biases are added after them, as in files of Paddle, and sums that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 5, bias=False)
        self.biases = nn.ParameterList([torch.randn(4, 1, 1), torch.randn(1, 4, 1, 1), torch.randn(5)])
        self.place = nn.Parameter(torch.randn(1, 4, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) + self.biases[0]
        y = self.biases[1] + self.second(x)
        z = self.second(y)
        logits: Tensor = self.biases[2] + self.head((z + self.place + z * y).mean((2, 3)))
        return logits


def test_biases_behind_layers_are_folded() -> None:
    torch.manual_seed(0)
    graph, places = simplified(Biases(), torch.randn(1, 3, 8, 8), fold_biases)
    assert places == 3
    assert targets_of(graph).count(A.add.Tensor) == 2


def test_biases_of_the_image_are_added_after_their_layers() -> None:
    class OfTheImage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 3, 3, stride=2), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            bias = self.fc(x.mean((0, 2, 3)))
            x = F.conv2d(x, self.conv.weight, bias, 2) + self.conv(x)
            return F.linear(x.mean((2, 3)), self.fc.weight, bias)

    torch.manual_seed(0)
    graph, places = simplified(OfTheImage(), torch.randn(1, 3, 8, 8), separate_biases)
    assert places == 2
    assert [layer.bias is None for layer in dense_layers(graph)] == [False, True, False, True]
